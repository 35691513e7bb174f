"""Modules of ``benchmarks/``, which is no package: its scripts import each other by name."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def benchmark_module():
    """Import a script of the benchmarks folder by its name."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield importlib.import_module
    patch.undo()
