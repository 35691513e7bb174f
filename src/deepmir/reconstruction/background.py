"""Background field removal: what lies outside the brain is taken out of the field map."""

from collections.abc import Sequence

import numpy as np

from deepmir.errors import GeometryError
from deepmir.physics.fourier import irfft3, rfft3
from deepmir.volume import BoolMap, FloatMap


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
