"""Field to susceptibility: the ill-posed step of QSM."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from deepmir.errors import ConfigError
from deepmir.physics.dipole import dipole_kernel
from deepmir.physics.fourier import irfft3, rfft3
from deepmir.volume import BoolMap, FloatMap

InversionMethod = Literal["tkd", "closed-form"]


def invert_tkd(
    local_ppm: FloatMap, spacing_mm: Sequence[float], b0: Sequence[float], *, threshold: float
) -> FloatMap:
    """Divide in k-space, truncated (Shmueli 2009, doi:10.1002/mrm.22135).

    With the correction of its systematic underestimation (Schweser 2013,
    doi:10.1002/mrm.24405).
    """
    shape = _shape(local_ppm)
    kernel = dipole_kernel(shape, spacing_mm, b0)
    inverse = np.sign(kernel) / np.maximum(np.abs(kernel), threshold)
    shrinkage = float(np.mean(kernel * inverse))
    chi = irfft3(rfft3(local_ppm) * (inverse / shrinkage).astype(np.float32), shape)
    return np.asarray(chi, dtype=np.float32)


def invert_closed_form(
    local_ppm: FloatMap, spacing_mm: Sequence[float], b0: Sequence[float], *, strength: float
) -> FloatMap:
    """Gradient-regularised least squares in closed form (Bilgic 2014, doi:10.1002/jmri.24365)."""
    shape = _shape(local_ppm)
    kernel = dipole_kernel(shape, spacing_mm, b0)
    gradient = np.zeros((1, 1, 1), dtype=np.float32)
    frequencies = [np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])]
    for axis, (frequency, step) in enumerate(zip(frequencies, spacing_mm, strict=True)):
        form = [1, 1, 1]
        form[axis] = len(frequency)
        eigenvalue = 4 * np.sin(np.pi * frequency) ** 2 / step**2
        gradient = gradient + eigenvalue.reshape(form).astype(np.float32)
    inverse = kernel / (kernel**2 + np.float32(strength) * gradient + 1e-6)
    return np.asarray(irfft3(rfft3(local_ppm) * inverse, shape), dtype=np.float32)


def invert(
    local_ppm: FloatMap,
    mask: BoolMap,
    spacing_mm: Sequence[float],
    b0: Sequence[float],
    *,
    method: InversionMethod,
    strength: float,
) -> FloatMap:
    """Susceptibility in ppm inside `mask`, by the named method.

    Raises
    ------
    ConfigError
        If the method is unknown.
    """
    margin = [(0, int(np.ceil(16 / step))) for step in spacing_mm]
    padded = np.pad(local_ppm * mask, margin).astype(np.float32)
    if method == "tkd":
        chi = invert_tkd(padded, spacing_mm, b0, threshold=strength)
    elif method == "closed-form":
        chi = invert_closed_form(padded, spacing_mm, b0, strength=strength)
    else:
        raise ConfigError(f"unknown inversion {method!r}; known are 'tkd' and 'closed-form'")
    i, j, k = local_ppm.shape
    return np.where(mask, chi[:i, :j, :k], 0).astype(np.float32)


def _shape(image: FloatMap) -> tuple[int, int, int]:
    i, j, k = image.shape
    return i, j, k
