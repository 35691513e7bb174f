"""The public list, and that loading it is light."""

import resource
import subprocess
import sys
from importlib import metadata

import pytest

import deepmir
from deepmir import errors

HEAVY = ("torch", "monai", "matplotlib", "SimpleITK", "openvino", "scipy", "nilearn", "jinja2")
MAX_SECONDS = 0.3


def test_public_names_are_exactly_these():
    assert sorted(deepmir.__all__) == deepmir.__all__
    assert set(deepmir.__all__) == {
        "Config",
        "ConfigError",
        "DeepmirError",
        "EvaluationSettings",
        "EvaluationSources",
        "Finding",
        "GeometryError",
        "InputError",
        "Lesion",
        "MissingPartError",
        "Modality",
        "OutputError",
        "RawScan",
        "Reconstruction",
        "Scans",
        "SubjectResult",
        "TrainingError",
        "UnitError",
        "Volume",
        "WeightsError",
        "evaluate",
        "measure",
        "read_config",
        "read_volume",
        "reconstruct",
        "segment",
        "simulate",
        "write_reconstruction",
        "write_result",
    }


@pytest.mark.parametrize("name", deepmir.__all__)
def test_every_name_leads_to_a_documented_thing(name):
    assert getattr(deepmir, name).__doc__
    assert name in dir(deepmir)


def test_all_errors_are_public_and_have_one_root():
    tree = [value for value in vars(errors).values() if isinstance(value, type)]
    assert {error.__name__ for error in tree} <= set(deepmir.__all__)
    assert all(issubclass(error, deepmir.DeepmirError) for error in tree)


def test_version_is_that_of_the_installed_package():
    assert deepmir.__version__ == metadata.version("deepmir")


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        _ = deepmir.segmnt


@pytest.mark.parametrize("words", [["-c", "import deepmir"], ["-m", "deepmir.cli", "--help"]])
def test_import_and_help_are_light(words):
    code = (
        "import sys, runpy\n"
        "import deepmir\n"
        "if len(sys.argv) > 1:\n"
        "    try: runpy.run_module('deepmir.cli', run_name='__main__')\n"
        "    except SystemExit: pass\n"
        f"sys.exit(','.join(set({HEAVY!r}) & set(sys.modules)) or 0)\n"
    )
    arguments = [] if words[0] == "-c" else ["--help"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def cpu_seconds(*words):
    """CPU time of a start, so that a busy machine does not fail a test; the best of several."""

    def once():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(4))


@pytest.mark.parametrize("words", [["-c", "import deepmir"], ["-m", "deepmir.cli", "--help"]])
def test_import_and_help_are_quick(words):
    # what prints the help takes most of its time; a slow machine is allowed in proportion
    allowed = max(MAX_SECONDS, 1.7 * cpu_seconds("-c", "import typer.rich_utils"))
    assert cpu_seconds(*words) < allowed
