"""3-D Fourier transforms for NumPy arrays (all cores) and torch tensors (their device).

Precision is kept: single in, single out.
"""

import array_api_compat
from scipy import fft as scipy_fft

from deepmir.physics.arrays import Array, namespace

AXES = (-3, -2, -1)


def rfft3(array: Array) -> Array:
    """Half-complex transform over the last three axes: (…, I, J, K) → (…, I, J, K//2 + 1)."""
    if array_api_compat.is_numpy_array(array):
        return scipy_fft.rfftn(array, axes=AXES, workers=-1)
    return namespace(array).fft.rfftn(array, axes=AXES)


def irfft3(spectrum: Array, shape: tuple[int, int, int]) -> Array:
    """Inverse of :func:`rfft3`; `shape` is that of the real image (I, J, K)."""
    if array_api_compat.is_numpy_array(spectrum):
        return scipy_fft.irfftn(spectrum, s=shape, axes=AXES, workers=-1)
    return namespace(spectrum).fft.irfftn(spectrum, s=shape, axes=AXES)


def fft3(array: Array, axes: tuple[int, ...] = AXES) -> Array:
    """Complex transform, over the last three axes (I, J, K) or over those given."""
    if array_api_compat.is_numpy_array(array):
        return scipy_fft.fftn(array, axes=axes, workers=-1)
    return namespace(array).fft.fftn(array, axes=axes)


def ifft3(spectrum: Array, axes: tuple[int, ...] = AXES) -> Array:
    """Inverse of :func:`fft3`."""
    if array_api_compat.is_numpy_array(spectrum):
        return scipy_fft.ifftn(spectrum, axes=axes, workers=-1)
    return namespace(spectrum).fft.ifftn(spectrum, axes=axes)


def fast_length(n: int) -> int:
    """Next length that transforms quickly (factors 2, 3, 5), at least `n` and even.

    Examples
    --------
    >>> fast_length(251)
    256
    """
    length = scipy_fft.next_fast_len(n, real=True)
    while length % 2:
        length = scipy_fft.next_fast_len(length + 1, real=True)
    return int(length)
