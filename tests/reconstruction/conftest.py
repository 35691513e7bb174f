"""The raw phantom, made once."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _load():
    name = "raw_phantom"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def raw():
    """Give the module of the phantom."""
    return _load()


@pytest.fixture(scope="session")
def phantom(raw):
    """Echoes and the truth; never to be changed."""
    return raw.raw_phantom()
