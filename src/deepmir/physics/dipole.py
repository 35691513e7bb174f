"""Susceptibility to field: convolution with the unit dipole in the frequency domain.

ΔB/B0 (ppm) = F⁻¹[(1/3 − (k·b)²/k²) F χ] with b the direction of B0 in voxel axes
(Salomir 2003, doi:10.1002/cmr.b.10083; Marques 2005, doi:10.1002/cmr.b.20034).
"""

from collections.abc import Sequence

import array_api_compat
import numpy as np

from deepmir.errors import GeometryError
from deepmir.geometry import Affine, Shape, spacing_mm
from deepmir.physics.arrays import Array, along_axis, as_like, namespace, real_dtype
from deepmir.physics.fourier import fast_length, irfft3, rfft3


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
    shape: Shape,
    spacing_mm: Sequence[float],
    b0: Sequence[float],
    *,
    half: bool = True,
    like: Array | None = None,
) -> Array:
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
    like : array, optional
        The kernel is made with its library, on its device and in its precision; without it, in
        single precision by NumPy.

    Raises
    ------
    GeometryError
        If the direction has no length.
    """
    b = _unit(b0)
    like = np.zeros((), dtype=np.float32) if like is None else like
    last = np.fft.rfftfreq if half else np.fft.fftfreq
    frequencies = (
        np.fft.fftfreq(shape[0], spacing_mm[0]),
        np.fft.fftfreq(shape[1], spacing_mm[1]),
        last(shape[2], spacing_mm[2]),
    )
    ki, kj, kk = (along_axis(as_like(k, like), axis) for axis, k in enumerate(frequencies))
    square = ki**2 + kj**2 + kk**2
    square[0, 0, 0] = 1.0
    along = ki * b[0] + kj * b[1] + kk * b[2]
    along *= along
    along /= square
    kernel = 1 / 3 - along
    kernel[0, 0, 0] = 0.0
    return kernel


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
    (I, J, K) array of the same library, device and precision

    Raises
    ------
    GeometryError
        If the direction has no length.
    """
    xp = namespace(chi_ppm)
    i, j, k = chi_ppm.shape
    margin = [int(np.ceil(margin_mm / step)) for step in spacing_mm]
    padded = (fast_length(i + margin[0]), fast_length(j + margin[1]), fast_length(k + margin[2]))
    dtype, device = real_dtype(chi_ppm), array_api_compat.device(chi_ppm)
    box = xp.zeros(padded, dtype=dtype, device=device)
    box[:i, :j, :k] = xp.astype(chi_ppm, dtype, copy=False)
    spectrum = rfft3(box)
    spectrum *= dipole_kernel(padded, spacing_mm, b0, like=box)
    return irfft3(spectrum, padded)[:i, :j, :k]


def sphere_field_ppm(
    offsets_mm: Array, radius_mm: float, chi_ppm: float, b0: Sequence[float]
) -> Array:
    """Analytic field of a sphere at points (…, 3) from its centre: 0 inside, a dipole outside.

    The demagnetised field with Lorentz' sphere removed, as the kernel above has it.

    Raises
    ------
    GeometryError
        If the direction has no length.
    """
    xp = namespace(offsets_mm)
    square = xp.sum(offsets_mm**2, axis=-1)
    outside = square > radius_mm**2
    square = xp.where(outside, square, xp.ones_like(square))
    along_square = xp.sum(offsets_mm * as_like(_unit(b0), offsets_mm), axis=-1) ** 2 / square
    dipole = chi_ppm / 3 * radius_mm**3 / (square * xp.sqrt(square)) * (3 * along_square - 1)
    return xp.where(outside, dipole, xp.zeros_like(dipole))


def cylinder_field_ppm(
    offsets_mm: Array,
    radius_mm: float,
    chi_ppm: float,
    b0: Sequence[float],
    *,
    axis: Sequence[float],
) -> Array:
    """Analytic field of an endless cylinder at points (…, 3) from a point of its axis.

    Inside χ/6 · (3 cos²θ − 1), which is 0 at the magic angle of 54.7°; outside
    χ/2 · sin²θ · (a/ρ)² · cos 2φ, with θ the angle of the axis to B0, ρ the distance from the axis
    and φ the angle around it from the plane of B0 (Haacke 1999; Lorentz' sphere removed).

    Raises
    ------
    GeometryError
        If B0 or the axis has no length.
    """
    xp = namespace(offsets_mm)
    direction, field = np.array(_unit(axis)), np.array(_unit(b0))
    cosine = float(direction @ field)
    across = field - cosine * direction  # length sin θ
    axial = xp.sum(offsets_mm * as_like(direction, offsets_mm), axis=-1)
    square = xp.sum(offsets_mm**2, axis=-1) - axial**2
    outside = square > radius_mm**2
    square = xp.where(outside, square, xp.ones_like(square))
    toward = xp.sum(offsets_mm * as_like(across, offsets_mm), axis=-1)
    # sin²θ · cos 2φ = 2 · (ρ·b)² / ρ² − sin²θ, with b the part of B0 across the axis
    swing = 2 * toward**2 / square - float(across @ across)
    around = chi_ppm / 2 * radius_mm**2 / square * swing
    within = xp.full_like(around, chi_ppm / 6 * (3 * cosine**2 - 1))
    return xp.where(outside, around, within)


def _unit(direction: Sequence[float]) -> tuple[float, float, float]:
    length = float(np.linalg.norm(direction))
    if not np.isfinite(length) or length == 0:
        raise GeometryError(f"the direction of B0 must have a length, got {tuple(direction)}")
    x, y, z = (float(part) / length for part in direction)
    return x, y, z
