"""Signal of a gradient echo and of a spin echo, and the sum of sub-voxels.

Blooming and signal voids are intravoxel dephasing: they arise when complex signals of a grid
finer than the scan's are added up, and cannot be painted on.
"""

import math

from deepmir.errors import GeometryError
from deepmir.physics.arrays import Array, complex_of, namespace

GYROMAGNETIC_HZ_PER_T = 42.577478518e6
"""Proton, γ / 2π (CODATA 2018)."""


def phase_per_ppm_rad(b0_t: float, echo_time_s: float) -> float:
    """Phase in radians that 1 ppm of field shift makes until the echo.

    Examples
    --------
    >>> round(phase_per_ppm_rad(3.0, 0.020), 2)
    16.05
    """
    return 2 * math.pi * GYROMAGNETIC_HZ_PER_T * b0_t * 1e-6 * echo_time_s


def spoiled_echo_amplitude(
    proton_density: Array, t1_s: Array, *, repetition_time_s: float, flip_deg: float
) -> Array:
    """Steady-state amplitude of a spoiled gradient echo at TE = 0 (Ernst formula).

    Ernst 1966, doi:10.1063/1.1719961.
    """
    xp = namespace(t1_s)
    recovery = xp.exp(-repetition_time_s / t1_s)
    angle = math.radians(flip_deg)
    return proton_density * math.sin(angle) * (1 - recovery) / (1 - math.cos(angle) * recovery)


def spin_echo_amplitude(
    proton_density: Array,
    t1_s: Array,
    t2_s: Array,
    *,
    repetition_time_s: float,
    echo_time_s: float,
) -> Array:
    """Amplitude of a spin echo; for 3-D turbo spin echo pass the contrast-equivalent TE."""
    xp = namespace(t1_s)
    recovery = 1 - xp.exp(-repetition_time_s / t1_s)
    return proton_density * recovery * xp.exp(-echo_time_s / t2_s)


def gradient_echo(
    amplitude: Array,
    r2star_hz: Array,
    field_ppm: Array,
    *,
    b0_t: float,
    echo_time_s: float,
) -> Array:
    """Complex signal of one echo; a positive field shift makes a positive phase."""
    xp = namespace(amplitude)
    magnitude = amplitude * xp.exp(-echo_time_s * r2star_hz)
    phase = phase_per_ppm_rad(b0_t, echo_time_s) * field_ppm
    return complex_of(magnitude * xp.cos(phase), magnitude * xp.sin(phase))


def sum_subvoxels(fine: Array, factors: tuple[int, int, int]) -> Array:
    """Mean over the sub-voxels of each voxel: (I·a, J·b, K·c) → (I, J, K).

    Raises
    ------
    GeometryError
        If an axis is no multiple of its factor.
    """
    xp = namespace(fine)
    if any(n % factor for n, factor in zip(fine.shape, factors, strict=True)):
        raise GeometryError(
            f"a fine grid of {tuple(fine.shape)} has no whole voxels of {factors} sub-voxels; "
            "every axis must be a multiple of its factor"
        )
    a, b, c = factors
    i, j, k = fine.shape[0] // a, fine.shape[1] // b, fine.shape[2] // c
    # A sum and a division, since means of complex numbers are not part of the array API.
    return xp.sum(xp.reshape(fine, (i, a, j, b, k, c)), axis=(1, 3, 5)) / (a * b * c)
