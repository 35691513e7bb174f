"""Susceptibility-weighted image: magnitude times a mask of the high-pass filtered phase."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.reconstruction.unwrap import unwrap_laplacian
from deepmir.volume import FloatMap

ComplexMap = npt.NDArray[np.complexfloating]


def homodyne_phase(
    signal: ComplexMap, spacing_mm: Sequence[float], *, filter_size: float
) -> FloatMap:
    """Phase left after division by the k-space low-pass (Haacke 2004, doi:10.1002/mrm.20198).

    In plane, slice by slice. `filter_size` counts k-space samples of a 240 mm field of view, so
    that the filter is defined in millimetres and not by the matrix.
    """
    low = np.ones((1, 1, 1))
    for axis in (0, 1):
        frequency = np.fft.fftfreq(signal.shape[axis], spacing_mm[axis])
        edge = filter_size / 2 / 240.0
        form = [1, 1, 1]
        form[axis] = signal.shape[axis]
        window = np.where(
            np.abs(frequency) < edge, 0.5 + 0.5 * np.cos(np.pi * frequency / edge), 0.0
        )
        low = low * window.reshape(form)
    smooth = np.fft.ifft2(np.fft.fft2(signal, axes=(0, 1)) * low, axes=(0, 1))
    return np.asarray(np.angle(signal * np.conj(smooth)), dtype=np.float32)


def unwrapped_phase(
    signal: ComplexMap, spacing_mm: Sequence[float], *, width_mm: float
) -> FloatMap:
    """High-pass filtered phase without wraps: unwrapped, then minus its Gaussian mean in plane.

    Fewer errors than homodyne filtering leaves (Li 2014, PMC4059792).
    """
    phase = unwrap_laplacian(np.angle(signal).astype(np.float32), spacing_mm)
    sigma = (width_mm / spacing_mm[0], width_mm / spacing_mm[1], 0)
    weight = np.abs(signal).astype(np.float32)
    weight = np.minimum(weight / max(float(np.percentile(weight, 90)), 1e-12), 1) + 1e-3
    mean = ndimage.gaussian_filter(phase * weight, sigma) / ndimage.gaussian_filter(weight, sigma)
    return np.asarray(phase - mean, dtype=np.float32)


def susceptibility_weighted(
    magnitude: FloatMap, filtered_phase_rad: FloatMap, *, power: int = 4
) -> FloatMap:
    """Multiply magnitude by the phase mask (1 − φ/π)ⁿ of paramagnetic phase (φ > 0).

    The phase follows this package's convention: a positive field shift is a positive phase.
    """
    mask = 1 - np.clip(filtered_phase_rad, 0, np.pi) / np.pi
    return np.asarray(magnitude * mask**power, dtype=np.float32)


def minimum_intensity_projection(
    swi: FloatMap, spacing_mm: Sequence[float], *, slab_mm: float = 8.0
) -> FloatMap:
    """Project the least intensity of a moving slab of slices."""
    size = max(1, round(slab_mm / spacing_mm[2]))
    return np.asarray(ndimage.minimum_filter1d(swi, size, axis=2), dtype=np.float32)
