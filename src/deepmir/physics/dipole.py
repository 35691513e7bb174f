"""Susceptibility to field: convolution with the unit dipole in the frequency domain.

ΔB/B0 (ppm) = F⁻¹[(1/3 − (k·b)²/k²) F χ] with b the direction of B0 in voxel axes
(Salomir 2003, doi:10.1002/cmr.b.10083; Marques 2005, doi:10.1002/cmr.b.20034).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deepmir.errors import GeometryError
from deepmir.geometry import Affine, Shape, spacing_mm
from deepmir.physics.fourier import Array, fast_length, irfft3, namespace, rfft3
from deepmir.volume import FloatMap


def b0_direction(affine: Affine) -> tuple[float, float, float]:
    """Return the unit vector of B0 (scanner z, superior) along the voxel axes I, J, K.

    Raises
    ------
    GeometryError
        If the affine is not an invertible (4, 4) matrix.

    Examples
    --------
    >>> b0_direction(np.diag([0.5, 0.5, 2.0, 1.0]))
    (0.0, 0.0, 1.0)
    """
    axes = affine[:3, :3] / np.array(spacing_mm(affine))
    i, j, k = np.linalg.solve(axes, np.array([0.0, 0.0, 1.0]))
    return float(i), float(j), float(k)


def dipole_kernel(
    shape: Shape, spacing_mm: Sequence[float], b0: Sequence[float], *, half: bool = True
) -> FloatMap:
    """Make the unit dipole in the frequency domain, 0 at k = 0.

    Parameters
    ----------
    shape : (I, J, K)
        Shape of the image.
    spacing_mm : 3 floats
        Voxel size along I, J, K.
    b0 : 3 floats
        Direction of B0 along the voxel axes; need not have length 1.
    half : bool
        Layout of :func:`~deepmir.physics.fourier.rfft3` (I, J, K//2 + 1), or the full one.

    Raises
    ------
    GeometryError
        If the direction has no length.
    """
    length = float(np.linalg.norm(b0))
    if not np.isfinite(length) or length == 0:
        raise GeometryError(f"the direction of B0 must have a length, got {tuple(b0)}")
    ki, kj, kk = _frequencies(shape, spacing_mm, half=half)
    along = ki * (b0[0] / length) + kj * (b0[1] / length) + kk * (b0[2] / length)
    square = ki**2 + kj**2 + kk**2
    square[0, 0, 0] = 1.0
    kernel = np.float32(1 / 3) - along**2 / square
    kernel[0, 0, 0] = 0.0
    return np.asarray(kernel, dtype=np.float32)


def field_ppm(
    chi_ppm: Array, spacing_mm: Sequence[float], b0: Sequence[float], *, margin_mm: float
) -> Array:
    """Relative field shift ΔB/B0 in ppm caused by a susceptibility map.

    Parameters
    ----------
    chi_ppm : (I, J, K) array
        Susceptibility relative to what surrounds the map: outside it is taken as 0 (so where
        the map is surrounded by air, subtract the susceptibility of air first).
    spacing_mm, b0 : 3 floats
        Voxel size and direction of B0 along I, J, K.
    margin_mm : float
        Zeros added at the far end of each axis. The convolution is circular: what leaks from
        the other side falls with the third power of this distance.

    Returns
    -------
    (I, J, K) array of the same kind
    """
    xp = namespace(chi_ppm)
    i, j, k = chi_ppm.shape
    margin = [int(np.ceil(margin_mm / step)) for step in spacing_mm]
    padded = (fast_length(i + margin[0]), fast_length(j + margin[1]), fast_length(k + margin[2]))
    box = xp.zeros(padded, dtype=xp.float32)
    if hasattr(chi_ppm, "device") and str(chi_ppm.device) != "cpu":
        box = box.to(chi_ppm.device)
    box[:i, :j, :k] = chi_ppm
    spectrum = rfft3(box)
    kernel = dipole_kernel(padded, spacing_mm, b0)
    spectrum *= kernel if xp.__name__.endswith("numpy") else xp.asarray(kernel).to(spectrum.device)
    return irfft3(spectrum, padded)[:i, :j, :k]


def sphere_field_ppm(
    offsets_mm: npt.NDArray[np.floating], radius_mm: float, chi_ppm: float, b0: Sequence[float]
) -> npt.NDArray[np.floating]:
    """Analytic field of a sphere at points (n, 3) from its centre: 0 inside, a dipole outside.

    The demagnetised field with Lorentz' sphere removed, as the kernel above has it.
    """
    r = np.linalg.norm(offsets_mm, axis=-1)
    safe = np.maximum(r, 1e-9)
    cosine = offsets_mm @ (np.asarray(b0) / np.linalg.norm(b0)) / safe
    outside = chi_ppm / 3 * (radius_mm / safe) ** 3 * (3 * cosine**2 - 1)
    return np.where(r <= radius_mm, 0.0, outside)


def _frequencies(
    shape: Shape, spacing_mm: Sequence[float], *, half: bool
) -> tuple[FloatMap, FloatMap, FloatMap]:
    last = np.fft.rfftfreq if half else np.fft.fftfreq
    ki = np.fft.fftfreq(shape[0], spacing_mm[0]).astype(np.float32)[:, None, None]
    kj = np.fft.fftfreq(shape[1], spacing_mm[1]).astype(np.float32)[None, :, None]
    kk = last(shape[2], spacing_mm[2]).astype(np.float32)[None, None, :]
    return ki, kj, kk
