"""What is lost or disturbed between k-space and image: resolution, partial Fourier, motion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepmir.errors import GeometryError
from deepmir.physics.arrays import Array, along_axis, as_like, complex_of, namespace, real_dtype
from deepmir.physics.fourier import fft3, ifft3


@dataclass(frozen=True, slots=True)
class AxisFilter:
    """How k-space falls off along one axis; frequency 1 is the highest that the voxels resolve.

    Scanners acquire less than the voxels could hold, soften the edge, and fill up with zeros.
    """

    half_at: float  # frequency at which half of the amplitude is left; beyond 1 little is lost
    width: float  # of the fall from all to nothing, a raised cosine


def filter_k_space(
    signal: Array, filters: Sequence[AxisFilter | None], *, elliptical: bool = False
) -> Array:
    """Take off the outer part of k-space along each axis that has a filter.

    Parameters
    ----------
    signal : (I, J, K) complex array
    filters : one for each axis, None where all is kept
    elliptical : bool
        The corners of the plane of the two phase-encoded axes, J and K, are left out too, as 3-D
        sequences do to save time.

    Raises
    ------
    GeometryError
        If `elliptical` lacks the filter of J or K.
    """
    for axis, one in enumerate(filters):
        if one is not None and not (elliptical and axis > 0):
            signal = _times(signal, _kept(_frequency(signal, axis), one), (axis,))
    if not elliptical:
        return signal
    _, phase, slices = filters
    if phase is None or slices is None:
        raise GeometryError("an elliptical k-space needs the filters of both axes J and K")
    radius = np.hypot(_frequency(signal, 1) / phase.half_at, _frequency(signal, 2) / slices.half_at)
    return _times(signal, _kept(radius, AxisFilter(1.0, phase.width / phase.half_at)), (1, 2))


def _frequency(signal: Array, axis: int) -> npt.NDArray[np.float64]:
    """Frequency along an axis as a share of the highest, to be broadcast over an image."""
    return np.asarray(along_axis(2 * np.abs(np.fft.fftfreq(signal.shape[axis])), axis))


def _kept(frequency: npt.NDArray[np.float64], one: AxisFilter) -> npt.NDArray[np.float64]:
    ramp = np.clip((one.half_at + one.width / 2 - frequency) / one.width, 0, 1)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * ramp))


def _times(signal: Array, kept: npt.NDArray[np.float64], axes: tuple[int, ...]) -> Array:
    return ifft3(fft3(signal, axes) * as_like(kept, signal), axes)


def crop_k_space(fine: Array, factors: tuple[int, int, int]) -> Array:
    """Resolve a finer image as a scanner does, by its inner k-space: (I·a, J·b, K·c) → (I, J, K).

    Unlike the mean of sub-voxels it rings at edges (Gibbs). Voxel centres are those of
    :func:`~deepmir.physics.signal.sum_subvoxels`.

    Raises
    ------
    GeometryError
        If an axis is no multiple of its factor.
    """
    out = fine
    for axis, factor in enumerate(factors):
        if factor > 1:
            out = _crop_axis(out, factor, axis)
    return out


def partial_fourier(signal: Array, *, share: float, axis: int) -> Array:
    """Leave out one end of k-space along an axis and fill it with zeros.

    Parameters
    ----------
    signal : (I, J, K) complex array
    share : float
        Part of k-space that is acquired, above 0.5 and at most 1: 6/8 is usual.

    Raises
    ------
    GeometryError
        If the share is not above 0.5 and at most 1.
    """
    if not 0.5 < share <= 1:
        raise GeometryError(f"partial Fourier needs a share above 0.5 and at most 1, got {share}")
    n = signal.shape[axis]
    frequency = np.rint(np.fft.fftfreq(n) * n)
    acquired = as_like(frequency >= n / 2 - share * n, signal)
    return ifft3(fft3(signal, (axis,)) * along_axis(acquired, axis), (axis,))


def moved_between_lines(
    signal: Array,
    shifts_mm: npt.NDArray[np.floating],
    spacing_mm: Sequence[float],
    *,
    axis: int,
) -> Array:
    """Ghosts and blur of a head that moves while the lines of k-space are acquired.

    Parameters
    ----------
    signal : (I, J, K) complex array
    shifts_mm : (n, 3) array
        Where the head was, along I, J, K, when each line along `axis` was acquired, from the
        most negative frequency to the greatest.
    spacing_mm : 3 floats
        Voxel size.

    Raises
    ------
    GeometryError
        If there is not one shift for each line.
    """
    xp = namespace(signal)
    if np.shape(shifts_mm) != (signal.shape[axis], 3):
        raise GeometryError(
            f"wanted one shift along three axes for each of {signal.shape[axis]} lines, "
            f"got an array of {np.shape(shifts_mm)}"
        )
    by_frequency = np.fft.ifftshift(np.asarray(shifts_mm), axes=0)
    turns = xp.zeros((1, 1, 1), dtype=real_dtype(signal), device=signal.device)
    for direction, (n, step) in enumerate(zip(signal.shape, spacing_mm, strict=True)):
        frequency = along_axis(as_like(np.fft.fftfreq(n, step), signal), direction)
        turns = turns + frequency * along_axis(as_like(by_frequency[:, direction], signal), axis)
    angle = -2 * np.pi * turns
    return ifft3(fft3(signal) * complex_of(xp.cos(angle), xp.sin(angle)))


def _crop_axis(fine: Array, factor: int, axis: int) -> Array:
    n = fine.shape[axis]
    if n % factor:
        raise GeometryError(
            f"an axis of {n} sub-voxels has no whole voxels of {factor}; "
            "every axis must be a multiple of its factor"
        )
    xp, kept = namespace(fine), n // factor
    # n · fftfreq(n) is whole but for rounding, and 2.9999 would be cut down to line 2.
    frequency = np.rint(np.fft.fftfreq(kept) * kept)
    index = xp.asarray(np.mod(frequency, n).astype(np.int64), device=fine.device)
    spectrum = xp.take(fft3(fine, (axis,)), index, axis=axis)
    # Voxel 0 has its centre between its sub-voxels, not on the first of them.
    angle = np.pi * frequency * (factor - 1) / n
    turn = complex_of(as_like(np.cos(angle), fine), as_like(np.sin(angle), fine))
    return ifft3(spectrum * along_axis(turn, axis), (axis,)) / factor
