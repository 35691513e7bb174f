"""Background field removal: what lies outside the brain is taken out of the field map."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from deepmir.errors import GeometryError
from deepmir.physics.dipole import dipole_kernel
from deepmir.physics.fourier import fast_length, irfft3, rfft3
from deepmir.reconstruction.unwrap import FieldMap, relative_weight
from deepmir.volume import BoolMap, FloatMap

BackgroundMethod = Literal["vsharp", "pdf"]

_SOURCES_BEYOND_MM = 30.0  # the field of view is continued by this much for sources to lie in
_MOST_PROJECTIONS = 60


def remove_background_vsharp(
    field_ppm: FloatMap,
    mask: BoolMap,
    spacing_mm: Sequence[float],
    *,
    radii_mm: Sequence[float],
    threshold: float,
) -> tuple[FloatMap, BoolMap]:
    """Local field by V-SHARP (Schweser 2011, doi:10.1016/j.neuroimage.2010.10.070; Wu 2012).

    Harmonic fields equal their mean over a sphere, so subtracting that mean removes them. The
    largest sphere that fits is used at each voxel; the outermost rim, where not even the
    smallest fits, is lost.

    Parameters
    ----------
    field_ppm : (I, J, K) float array
    mask : (I, J, K) bool array
        Brain.
    radii_mm : sequence of floats
        Radii of the spheres; the smallest decides how much of the rim is lost.
    threshold : float
        Truncation of the deconvolution of the largest sphere.

    Returns
    -------
    local_ppm : (I, J, K) float array, 0 outside the eroded mask
    eroded : (I, J, K) bool array

    Raises
    ------
    GeometryError
        If no voxel of the mask holds the smallest sphere.
    """
    margin = _missing_margin(mask, spacing_mm, max(radii_mm))
    if any(margin):
        far = [(0, n) for n in margin]
        local, done = remove_background_vsharp(
            np.pad(field_ppm, far),
            np.pad(mask, far),
            spacing_mm,
            radii_mm=radii_mm,
            threshold=threshold,
        )
        i, j, k = mask.shape
        return local[:i, :j, :k], done[:i, :j, :k]
    shape = (mask.shape[0], mask.shape[1], mask.shape[2])
    field_spectrum = rfft3((field_ppm * mask).astype(np.float32))
    mask_spectrum = rfft3(mask.astype(np.float32))
    result = np.zeros(shape, dtype=np.float32)
    done = np.zeros(shape, dtype=bool)
    deconvolution = None
    for radius in sorted(radii_mm, reverse=True):
        sphere = _sphere_spectrum(shape, spacing_mm, radius)
        fits = (irfft3(mask_spectrum * sphere, shape) > 1 - 1e-3) & mask & ~done
        result[fits] = irfft3(field_spectrum * (1 - sphere), shape)[fits]
        done |= fits
        if deconvolution is None:
            deconvolution = 1 - sphere
    if deconvolution is None or not done.any():
        raise GeometryError(
            f"no voxel of the brain mask holds a sphere of {min(radii_mm):.1f} mm; "
            "pass a larger mask or smaller radii"
        )
    small = np.abs(deconvolution) < threshold
    inverse = np.where(small, 0, 1 / np.where(small, 1, deconvolution))
    local = irfft3(rfft3(result) * inverse, shape)
    return np.where(done, local, 0).astype(np.float32), done


def _missing_margin(mask: BoolMap, spacing_mm: Sequence[float], radius_mm: float) -> list[int]:
    """Voxels to add at the far ends, so that no sphere reaches the mask's other side.

    Convolution is circular: a brain cut by both ends of the field of view would meet itself.
    """
    margin = []
    for axis, step in enumerate(spacing_mm):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(mask.any(axis=others))
        free = mask.shape[axis] - (int(used[-1] - used[0]) + 1 if used.size else 0)
        margin.append(max(int(np.ceil(radius_mm / step)) - free, 0))
    return margin


def _sphere_spectrum(
    shape: tuple[int, int, int], spacing_mm: Sequence[float], radius_mm: float
) -> FloatMap:
    """Transform of a normalised ball with soft edges, centred on voxel 0; real by symmetry."""
    square = np.zeros((1, 1, 1))
    for axis, (n, step) in enumerate(zip(shape, spacing_mm, strict=True)):
        form = [1, 1, 1]
        form[axis] = n
        square = square + ((np.fft.fftfreq(n) * n * step) ** 2).reshape(form)
    ball = (np.sqrt(square) <= radius_mm).astype(np.float32)
    spectrum = rfft3(ball / ball.sum())
    return np.asarray(spectrum.real, dtype=np.float32)


def remove_background_pdf(
    total_field: FieldMap,
    mask: BoolMap,
    spacing_mm: Sequence[float],
    b0: Sequence[float],
    *,
    tolerance: float,
) -> tuple[FloatMap, BoolMap]:
    """Local field by projection onto dipole fields (Liu 2011, doi:10.1002/nbm.1670).

    Finds the sources outside the mask whose field explains most of that inside, weighted by
    trust, and takes it off. Nothing of the rim is lost. Solved by conjugate gradients on the
    normal equations, which stop when the residual has fallen to `tolerance` of its start.

    Parameters
    ----------
    total_field : FieldMap
        Field and trust in it.
    mask : (I, J, K) bool array
        Brain.

    Returns
    -------
    local_ppm : (I, J, K) float array, 0 outside the mask
    mask : (I, J, K) bool array
        As given.

    Raises
    ------
    GeometryError
        If the mask is empty.
    """
    if not mask.any():
        raise GeometryError("the brain mask is empty; pass one that covers the brain")
    i, j, k = mask.shape
    margin = [int(np.ceil(_SOURCES_BEYOND_MM / step)) for step in spacing_mm]
    shape = (fast_length(i + margin[0]), fast_length(j + margin[1]), fast_length(k + margin[2]))
    kernel = dipole_kernel(shape, spacing_mm, b0)
    inside = np.zeros(shape, dtype=bool)
    inside[:i, :j, :k] = mask
    trust = np.zeros(shape, dtype=np.float32)
    trust[:i, :j, :k] = relative_weight(total_field.weight, mask) ** 2

    def field_of(sources: FloatMap) -> FloatMap:
        return np.asarray(irfft3(rfft3(sources) * kernel, shape), dtype=np.float32)

    def projected(residual: FloatMap) -> FloatMap:
        return np.where(inside, 0, field_of(trust * residual)).astype(np.float32)

    total = np.zeros(shape, dtype=np.float32)
    field_ppm = total_field.field_ppm
    total[:i, :j, :k] = np.where(mask, field_ppm - np.mean(field_ppm[mask]), 0)
    sources = _conjugate_gradients(
        lambda x: projected(field_of(x)), projected(total), tolerance=tolerance
    )
    local = total - field_of(sources)
    return np.where(mask, local[:i, :j, :k], 0).astype(np.float32), mask.copy()


def _conjugate_gradients(
    apply: Callable[[FloatMap], FloatMap], right: FloatMap, *, tolerance: float
) -> FloatMap:
    """Solve a symmetric positive system; stops at `tolerance` of the first residual."""
    solution = np.zeros_like(right)
    residual, direction = right.copy(), right.copy()
    square = first = float(np.vdot(residual, residual))
    for _ in range(_MOST_PROJECTIONS):
        if square <= tolerance**2 * first:
            break
        image = apply(direction)
        step = np.float32(square / max(float(np.vdot(direction, image)), 1e-30))
        solution += step * direction
        residual -= step * image
        new = float(np.vdot(residual, residual))
        direction = residual + np.float32(new / square) * direction
        square = new
    return solution
