"""Write the parts of the documentation that the code knows: options, settings, labels, columns.

Run by ``make docs``; ``tests/test_docs.py`` fails where the pages differ from the code.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import typer.main

from deepmir import config
from deepmir.cli import app
from deepmir.io.tables import Column
from deepmir.labels import LEFT_OFFSET, REGIONS, RIGHT_OFFSET
from deepmir.result import LESION_FIELDS, MARS_FIELDS

DOCS = Path(__file__).parent


def pages() -> dict[Path, str]:
    """Return what each page that has generated parts should hold."""
    parts = {
        "options": options_text(),
        "settings": settings_text(),
        "labels": labels_text(),
        "lesion columns": columns_text([column for column, _ in LESION_FIELDS]),
        "mars columns": columns_text([column for column, _ in MARS_FIELDS]),
    }
    texts = {
        path: path.read_text(encoding="utf-8")
        for path in (DOCS / "reference.md", DOCS / "concepts.md", DOCS / "outputs.md")
    }
    return {path: _filled(text, parts) for path, text in texts.items()}


def options_text() -> str:
    """Return one section a verb, with a table of its arguments and options."""
    group = typer.main.get_command(app)
    lines = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        lines += [f"### deepmir {name}", "", _plain(command.help), ""]
        lines += ["| option | meaning |", "|---|---|"]
        lines += [_option_row(parameter) for parameter in command.params]
        lines += ["", *_examples(command.epilog or ""), ""]
    return "\n".join(lines)


def settings_text() -> str:
    """Return one table a stage, with every setting, its default and its meaning."""
    meanings = dict(_attribute_docstrings())
    lines = []
    for stage in fields(config.Config):
        defaults = getattr(config.Config(), stage.name)
        lines += [f"### `[{stage.name}]`", "", "| setting | default | meaning |", "|---|---|---|"]
        for field in fields(defaults):
            value = getattr(defaults, field.name)
            default = "none" if value is None else f"`{json.dumps(value)}`"
            meaning = meanings[type(defaults).__name__, field.name]
            lines.append(f"| `{field.name}` | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def labels_text() -> str:
    """Return the table of the regions."""
    lines = ["| number (left / right) | region | compartment |", "|---|---|---|"]
    for region in REGIONS:
        left_right = f"{region.base + LEFT_OFFSET} / {region.base + RIGHT_OFFSET}"
        number = left_right if region.paired else str(region.base)
        lines.append(f"| {number} | {region.name} | {region.compartment} |")
    return "\n".join(lines) + "\n"


def columns_text(columns: Sequence[Column]) -> str:
    """Return the columns of a table, as its data dictionary has them."""
    lines = ["| column | unit | meaning |", "|---|---|---|"]
    for column in columns:
        levels = "; ".join(f"`{level}`: {meaning}" for level, meaning in column.levels.items())
        meaning = f"{column.description}. {levels}" if levels else column.description
        lines.append(f"| `{column.name}` | {column.units or ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def _option_row(parameter: typer.CallbackParam) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    is_argument = not names[0].startswith("-")
    name = names[0].upper() if is_argument else "`, `".join(names)
    needed = " **Needed.**" if parameter.required else ""
    shown = "" if parameter.required else _default_text(parameter)
    return f"| `{name}` | {_plain(getattr(parameter, 'help', ''))}{needed}{shown} |"


def _default_text(parameter: typer.CallbackParam) -> str:
    if parameter.default is True:
        return f" [{parameter.opts[0]}]"
    no_default = parameter.default is None or parameter.default is False
    return "" if no_default else f" [{parameter.default}]"


def _plain(text: str | None) -> str:
    """Return a help text as Markdown in one line."""
    return " ".join(re.sub(r"\[/?bold\]|\\(?=\[)", "", text or "").split()).replace("|", "\\|")


def _examples(epilog: str) -> list[str]:
    commands = [line for line in epilog.split("\n\n") if line.startswith("deepmir ")]
    return ["```", *commands, "```"] if commands else []


def _attribute_docstrings() -> Iterator[tuple[tuple[str, str], str]]:
    for node in ast.parse(inspect.getsource(config)).body:
        if isinstance(node, ast.ClassDef):
            for statement, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(statement, ast.AnnAssign) and isinstance(text, ast.Expr):
                    name = ast.unparse(statement.target)
                    yield (node.name, name), " ".join(ast.literal_eval(text.value).split())


def _filled(page: str, parts: dict[str, str]) -> str:
    for name, text in parts.items():
        begin, end = f"<!-- begin {name}", f"<!-- end {name} -->"
        if begin in page:
            head, _, rest = page.partition(begin)
            comment_end = rest.index("-->") + len("-->\n")
            _, _, tail = rest.partition(end)
            page = f"{head}{begin}{rest[:comment_end]}{text}{end}{tail}"
    return page


if __name__ == "__main__":
    for changed, content in pages().items():
        changed.write_text(content, encoding="utf-8")
