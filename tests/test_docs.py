"""The pages agree with the code where the code knows better."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date(generate):
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run: .venv/bin/python docs/generate.py"


def test_every_part_has_its_place(generate):
    pages = "".join(generate.pages().values())
    for begin in ("deepmir segment", "`connectivity`", "| 109 / 209 | frontal | lobar |"):
        assert begin in pages


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_worked_example_of_evaluation_prints_what_the_page_says(capsys):
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL).groups()
    exec(compile(code, "docs/evaluation.md", "exec"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out == printed
