"""Field to susceptibility: the ill-posed step of QSM."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from deepmir.errors import ConfigError
from deepmir.physics.dipole import dipole_kernel
from deepmir.physics.fourier import fast_length, irfft3, rfft3
from deepmir.reconstruction.unwrap import relative_weight
from deepmir.volume import BoolMap, FloatMap

InversionMethod = Literal["tkd", "closed-form", "medi"]

MAX_ITERATIONS = 60
"""Where the iterative inversion has not converged by then, more does not change it visibly."""
_FIELD_PENALTY = np.float32(1.0)  # ADMM's weight of the split field, in units of the data term
_GRADIENT_PENALTY = np.float32(100.0)  # that of the split gradient, as a multiple of `strength`
_SIZE_PENALTY = np.float32(5e-4)  # of χ itself, in units of the data term
_OUTLIER = np.float32(6.0)  # residuals of so many standard deviations are no noise
_DOUBT_EVERY = 5  # iterations between two looks at the residuals
_MARGIN_MM = 16.0  # zeros at the far end: the convolution is circular
_EDGE_SHARE = 0.3  # of the gradients in the brain are taken as edges, which cost nothing


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
    gradient = _gradient_eigenvalues(shape, spacing_mm)
    inverse = kernel / (kernel**2 + np.float32(strength) * gradient + 1e-6)
    return np.asarray(irfft3(rfft3(local_ppm) * inverse, shape), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Morphology:
    """What an iterative inversion knows besides the field."""

    weight: FloatMap  # (I, J, K) trust in the field: inverse standard deviation, any unit
    magnitude: FloatMap  # (I, J, K) image whose edges those of χ may follow


@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    """Susceptibility, and whether iteration came to its end."""

    chi_ppm: FloatMap  # (I, J, K)
    unsettled: float | None  # share of its norm by which χ still changed; None: it converged


def invert_medi(  # noqa: PLR0913 - as the others, and its own stopping rule
    local_ppm: FloatMap,
    mask: BoolMap,
    morphology: Morphology,
    spacing_mm: Sequence[float],
    b0: Sequence[float],
    *,
    strength: float,
    tolerance: float,
) -> Inversion:
    """Invert with total variation that spares the edges of the magnitude, iteratively.

    Minimises ½‖W (D χ − f)‖² + strength · ‖M ∇χ‖₁ + ½ · 0.0005 · ‖χ‖² with W the trust in the
    field, and M = 0 on the edges of the magnitude (MEDI: Liu 2011, doi:10.1002/mrm.22816). The last
    term keeps broad shades out of the directions that the dipole is blind for. Solved by splitting
    field and gradient (ADMM), each step in closed form (Milovic 2018, doi:10.1002/mrm.27073). Where
    signal and trust are lost, as inside a microbleed, χ follows from the field around. Where the
    field misses the model by far more than noise can, trust is taken back as it iterates
    (MERIT: Liu 2013, doi:10.1002/mrm.24272).

    It stops when an iteration changes χ by less than `tolerance` of its norm, or after
    `MAX_ITERATIONS`, which the result tells.

    Parameters
    ----------
    local_ppm, mask : (I, J, K) arrays
    strength : float
        Weight of the total variation, ppm · mm.
    """
    shape = _shape(local_ppm)
    kernel = dipole_kernel(shape, spacing_mm, b0)
    splitting = _GRADIENT_PENALTY * np.float32(strength)
    inverse = 1 / (
        _FIELD_PENALTY * kernel**2
        + splitting * _gradient_eigenvalues(shape, spacing_mm)
        + _SIZE_PENALTY
    )
    trust = given = relative_weight(morphology.weight, mask) ** 2
    costs = edge_costs(morphology.magnitude, mask, spacing_mm)
    threshold = [np.float32(strength) / splitting * cost for cost in costs]
    field, field_gap = local_ppm * mask, np.zeros(shape, dtype=np.float32)
    chi, change = np.zeros(shape, dtype=np.float32), np.inf
    slope = [np.zeros(shape, dtype=np.float32) for _ in spacing_mm]
    slope_gap = [np.zeros(shape, dtype=np.float32) for _ in spacing_mm]
    for iteration in range(1, MAX_ITERATIONS + 1):
        before = chi
        spectrum = kernel * rfft3(_FIELD_PENALTY * (field - field_gap))
        split = [part - gap for part, gap in zip(slope, slope_gap, strict=True)]
        spectrum += splitting * rfft3(_adjoint_gradient(split, spacing_mm))
        spectrum *= inverse
        chi = irfft3(spectrum, shape)
        spectrum *= kernel
        explained = irfft3(spectrum, shape)
        if iteration % _DOUBT_EVERY == 0:
            trust = given * doubt(np.sqrt(given) * (explained - local_ppm), mask)
        field_gap += explained
        field = (trust * local_ppm + _FIELD_PENALTY * field_gap) / (trust + _FIELD_PENALTY)
        field_gap -= field
        for axis, steps in enumerate(_gradient(chi, spacing_mm)):
            slope_gap[axis] += steps
            slope[axis] = _shrunk(slope_gap[axis], threshold[axis])
            slope_gap[axis] -= slope[axis]
        change = float(np.linalg.norm(chi - before)) / max(float(np.linalg.norm(chi)), 1e-20)
        if change < tolerance:
            return Inversion(chi, unsettled=None)
    return Inversion(chi, unsettled=change)


def doubt(residual: FloatMap, mask: BoolMap) -> FloatMap:
    """Factor of the trust: 1, and (6 σ / residual)² beyond 6 robust standard deviations."""
    size = np.abs(residual)
    limit = _OUTLIER * np.float32(1.4826 * np.median(size[mask]))
    if limit == 0:  # no noise to compare with
        return np.ones_like(size)
    return np.asarray((limit / np.maximum(size, limit)) ** 2, dtype=np.float32)


def edge_costs(magnitude: FloatMap, mask: BoolMap, spacing_mm: Sequence[float]) -> list[FloatMap]:
    """Say what a step of χ costs along each axis: 0 on edges of the magnitude, else 1."""
    steps = [np.abs(part) for part in _gradient(np.where(mask, magnitude, 0), spacing_mm)]
    limit = np.percentile(np.concatenate([step[mask] for step in steps]), 100 * (1 - _EDGE_SHARE))
    return [(step < limit).astype(np.float32) for step in steps]


def _gradient(image: FloatMap, spacing_mm: Sequence[float]) -> list[FloatMap]:
    """Periodic forward difference along each axis, a mm."""
    return [
        np.asarray((np.roll(image, -1, axis) - image) / np.float32(step), dtype=np.float32)
        for axis, step in enumerate(spacing_mm)
    ]


def _adjoint_gradient(parts: Sequence[FloatMap], spacing_mm: Sequence[float]) -> FloatMap:
    """Adjoint of the periodic forward difference, which is minus a divergence."""
    total = np.zeros(parts[0].shape, dtype=np.float32)
    for axis, (part, step) in enumerate(zip(parts, spacing_mm, strict=True)):
        total += (np.roll(part, 1, axis) - part) / np.float32(step)
    return total


def _shrunk(values: FloatMap, by: FloatMap) -> FloatMap:
    """Soft threshold: nearer to zero by `by`, and never across."""
    return np.asarray(values - np.clip(values, -by, by), dtype=np.float32)


def _gradient_eigenvalues(shape: tuple[int, int, int], spacing_mm: Sequence[float]) -> FloatMap:
    """Eigenvalues of minus the Laplacian on the half spectrum (I, J, K//2 + 1)."""
    gradient = np.zeros((1, 1, 1), dtype=np.float32)
    frequencies = [np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])]
    for axis, (frequency, step) in enumerate(zip(frequencies, spacing_mm, strict=True)):
        form = [1, 1, 1]
        form[axis] = len(frequency)
        eigenvalue = 4 * np.sin(np.pi * frequency) ** 2 / step**2
        gradient = gradient + eigenvalue.reshape(form).astype(np.float32)
    return gradient


def invert(  # noqa: PLR0913 - one door to all methods
    local_ppm: FloatMap,
    mask: BoolMap,
    spacing_mm: Sequence[float],
    b0: Sequence[float],
    *,
    method: InversionMethod,
    strength: float,
    morphology: Morphology | None = None,
    tolerance: float = 0.01,
) -> FloatMap:
    """Susceptibility in ppm inside `mask`, by the named method.

    Parameters
    ----------
    morphology : Morphology, optional
        Needed by ``medi``.
    tolerance : float
        Where ``medi`` stops.

    Raises
    ------
    ConfigError
        If the method is unknown, or lacks what it needs.
    """
    if method == "medi":
        if morphology is None:
            raise ConfigError("the inversion 'medi' needs weight and magnitude (morphology)")
        return invert_medi_in_mask(
            local_ppm, mask, morphology, spacing_mm, b0, strength=strength, tolerance=tolerance
        ).chi_ppm
    margin = [(0, int(np.ceil(_MARGIN_MM / step))) for step in spacing_mm]
    padded = np.pad(local_ppm * mask, margin).astype(np.float32)
    if method == "tkd":
        chi = invert_tkd(padded, spacing_mm, b0, threshold=strength)
    elif method == "closed-form":
        chi = invert_closed_form(padded, spacing_mm, b0, strength=strength)
    else:
        raise ConfigError(
            f"unknown inversion {method!r}; known are 'tkd', 'closed-form' and 'medi'"
        )
    i, j, k = local_ppm.shape
    return np.where(mask, chi[:i, :j, :k], 0).astype(np.float32)


def invert_medi_in_mask(  # noqa: PLR0913 - as `invert_medi`
    local_ppm: FloatMap,
    mask: BoolMap,
    morphology: Morphology,
    spacing_mm: Sequence[float],
    b0: Sequence[float],
    *,
    strength: float,
    tolerance: float,
) -> Inversion:
    """Run :func:`invert_medi` in the box around the mask and a margin; χ is 0 outside the mask.

    The box has lengths that transform quickly.
    """
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    size = [part.stop - part.start for part in box]
    margin = [
        (0, fast_length(n + int(np.ceil(_MARGIN_MM / step))) - n)
        for n, step in zip(size, spacing_mm, strict=True)
    ]
    inversion = invert_medi(
        np.pad(local_ppm[box], margin),
        np.pad(mask[box], margin),
        Morphology(
            np.pad(morphology.weight[box], margin),
            np.pad(morphology.magnitude[box], margin),
        ),
        spacing_mm,
        b0,
        strength=strength,
        tolerance=tolerance,
    )
    result = np.zeros(mask.shape, dtype=np.float32)
    result[box] = inversion.chi_ppm[tuple(slice(n) for n in size)]
    return replace(inversion, chi_ppm=np.where(mask, result, 0).astype(np.float32))


def _shape(image: FloatMap) -> tuple[int, int, int]:
    i, j, k = image.shape
    return i, j, k
