"""Array libraries that every function of the physics is tested with."""

import importlib
import importlib.util
from types import ModuleType

import numpy as np
import pytest

NAMES = ("numpy", "torch", "array_api_strict")
"""`array_api_strict` refuses whatever is not in the standard: nothing of NumPy's own slips in."""


def library(name: str) -> ModuleType:
    """Namespace of a library; the test is skipped where it is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return importlib.import_module(name)


def to_numpy(array) -> np.ndarray:
    """Any library's array as NumPy's."""
    return np.asarray(array.numpy() if hasattr(array, "numpy") else np.from_dlpack(array))
