"""One code for NumPy arrays on a CPU and torch tensors on a GPU: what the array API leaves open.

The functions of this package take arrays of any library that ``array_api_compat`` knows and
give back arrays of the same library, device and precision. torch is never imported here.
"""

from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

Array = Any
"""An array or tensor of any library that ``array_api_compat`` knows."""


def namespace(array: Array) -> ModuleType:
    """Array-API namespace (NumPy, torch, …) of an array."""
    found: ModuleType = array_api_compat.array_namespace(array)
    return found


def real_dtype(array: Array) -> Any:  # noqa: ANN401 - each library has its own dtype class
    """Precision to compute with: that of a floating array, single for integers and truth values."""
    xp = namespace(array)
    return xp.float64 if array.dtype in (xp.float64, xp.complex128) else xp.float32


def complex_dtype(array: Array) -> Any:  # noqa: ANN401 - each library has its own dtype class
    """Complex type of the same precision as :func:`real_dtype`."""
    xp = namespace(array)
    return xp.complex128 if real_dtype(array) == xp.float64 else xp.complex64


def as_like(values: npt.ArrayLike, like: Array) -> Array:
    """Bring numbers to the library, device and (real) precision of another array."""
    xp = namespace(like)
    contiguous = np.ascontiguousarray(values)
    return xp.asarray(contiguous, dtype=real_dtype(like), device=array_api_compat.device(like))


def complex_of(real: Array, imaginary: Array) -> Array:
    """Complex array of a real and an imaginary part."""
    xp = namespace(real)
    if array_api_compat.is_numpy_array(real):
        out = np.empty(real.shape, dtype=complex_dtype(real))
        out.real, out.imag = real, imaginary
        return out
    whole = complex_dtype(real)
    return xp.astype(real, whole) + xp.astype(imaginary, whole) * 1j


def along_axis(values: Array, axis: int) -> Array:
    """Shape (n,) as (n, 1, 1), (1, n, 1) or (1, 1, n), to be broadcast over an image."""
    form = [1, 1, 1]
    form[axis] = values.shape[0]
    return namespace(values).reshape(values, tuple(form))
