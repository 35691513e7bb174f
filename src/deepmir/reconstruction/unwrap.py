"""Phase unwrapping and the combination of echoes into one field map."""

from collections.abc import Sequence

import numpy as np
from scipy import fft

from deepmir.physics.signal import phase_per_ppm_rad
from deepmir.volume import FloatMap


def unwrap_laplacian(phase_rad: FloatMap, spacing_mm: Sequence[float]) -> FloatMap:
    """Unwrap phase by its Laplacian (Schofield 2003, doi:10.1364/OL.28.001194).

    Neumann boundaries (cosine transform), so that opposite faces do not meet. The result keeps
    a smooth offset, which background removal takes away.

    Parameters
    ----------
    phase_rad : (I, J, K) float array
        Wrapped phase in radians.
    spacing_mm : 3 floats
        Voxel size.
    """
    laplacian = np.zeros(phase_rad.shape, dtype=np.float32)
    for axis, step in enumerate(spacing_mm):
        difference = np.diff(phase_rad, axis=axis).astype(np.float32)
        wrapped = difference - 2 * np.pi * np.round(difference / (2 * np.pi))
        wrapped /= step**2
        inner = [slice(None)] * 3
        inner[axis] = slice(None, -1)
        laplacian[tuple(inner)] += wrapped
        inner[axis] = slice(1, None)
        laplacian[tuple(inner)] -= wrapped
    spectrum = fft.dctn(laplacian, type=2, workers=-1)
    spectrum /= _laplacian_eigenvalues(phase_rad.shape, spacing_mm)
    spectrum[0, 0, 0] = 0
    return np.asarray(fft.idctn(spectrum, type=2, workers=-1), dtype=np.float32)


def combine_echoes(
    phases_rad: Sequence[FloatMap],
    magnitudes: Sequence[FloatMap],
    *,
    echo_times_s: Sequence[float],
    b0_t: float,
    spacing_mm: Sequence[float],
) -> FloatMap:
    """Field map in ppm from the unwrapped echoes, weighted by TE² · magnitude².

    The weights are the inverse variances of the echoes' fields (Robinson 2017,
    doi:10.1002/nbm.3601). Each echo is unwrapped against the one before it and the differences
    are added up: steps between echoes wrap less than echoes do, and the receive coil's phase
    drops out. A single echo keeps that phase, smooth enough for background removal.
    """
    if len(phases_rad) == 1:
        scale = phase_per_ppm_rad(b0_t, echo_times_s[0])
        return unwrap_laplacian(phases_rad[0], spacing_mm) / np.float32(scale)
    total = np.zeros(phases_rad[0].shape, dtype=np.float32)
    weights = np.full(phases_rad[0].shape, 1e-12, dtype=np.float32)
    phase = np.zeros(phases_rad[0].shape, dtype=np.float32)
    for n in range(1, len(phases_rad)):
        phase = phase + unwrap_laplacian(phases_rad[n] - phases_rad[n - 1], spacing_mm)
        elapsed = echo_times_s[n] - echo_times_s[0]
        weight = np.float32(elapsed**2) * magnitudes[n] ** 2
        total += weight * phase / np.float32(phase_per_ppm_rad(b0_t, elapsed))
        weights += weight
    return total / weights


def _laplacian_eigenvalues(shape: Sequence[int], spacing_mm: Sequence[float]) -> FloatMap:
    total = np.zeros((1, 1, 1), dtype=np.float32)
    for axis, (n, step) in enumerate(zip(shape, spacing_mm, strict=True)):
        eigenvalues = (2 * np.cos(np.pi * np.arange(n) / n) - 2) / step**2
        form = [1, 1, 1]
        form[axis] = n
        total = total + eigenvalues.reshape(form).astype(np.float32)
    total[0, 0, 0] = 1
    return total
