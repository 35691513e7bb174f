"""Traces of the readout in the phase: alternating slices, bipolar echoes, and the sign.

All of it is found in the data, because files do not tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.errors import InputError
from deepmir.reconstruction.run import GradientEchoes, depth_mm
from deepmir.reconstruction.swi import ComplexMap
from deepmir.volume import BoolMap, FloatMap

_ALTERNATING = -0.3  # mean cosine between neighbouring slices: near 1 in plain scans
_COHERENT = 0.5  # of the echoes' disagreement, once its ramp is taken off
_NOTICEABLE_RAD = 0.3  # ramp over the field of view, or offset; eddy currents leave less
_EVEN_SPACING = 0.02
_NUCLEUS_PPM = 0.015
_VEIN_PPM = 0.01


def correct_alternating_slices(
    signals: Sequence[ComplexMap],
) -> tuple[tuple[ComplexMap, ...], int | None]:
    """Undo the sign that changes from slice to slice in some GE exports.

    Returns
    -------
    signals
        With every second slice multiplied by −1 where needed.
    axis : int or None
        Along which axis the slices alternated; None: they did not.
    """
    first = signals[0]
    for axis in range(3):
        early, late = _pairs(first, axis)
        product = late * np.conj(early)
        total = float(np.sum(np.abs(product)))
        if total > 0 and float(np.sum(product.real)) / total < _ALTERNATING:
            form = [1, 1, 1]
            form[axis] = first.shape[axis]
            sign = (1 - 2 * (np.arange(first.shape[axis]) % 2)).astype(np.float32).reshape(form)
            return tuple(signal * sign for signal in signals), axis
    return tuple(signals), None


@dataclass(frozen=True, slots=True)
class OddEvenDifference:
    """Phase by which odd echoes are ahead of even ones, as a bipolar readout makes it."""

    slopes_rad: tuple[float, float, float]  # a voxel, along each axis
    offset_rad: float | None  # in the middle of the field of view; None: it cannot be told
    shape: tuple[int, int, int]

    @property
    def ramp_rad(self) -> float:
        """Across the field of view, along the axis where it is largest."""
        return max(abs(slope) * n for slope, n in zip(self.slopes_rad, self.shape, strict=True))

    @property
    def is_noticeable(self) -> bool:
        """Whether it is more than eddy currents leave in a monopolar readout."""
        return max(self.ramp_rad, abs(self.offset_rad or 0.0)) >= _NOTICEABLE_RAD

    def __str__(self) -> str:
        ramp = f"a ramp of {self.ramp_rad:.1f} rad across the field of view"
        if self.offset_rad is None:
            return ramp
        return f"{ramp} and an offset of {abs(self.offset_rad):.1f} rad"


def correct_bipolar(
    signals: Sequence[ComplexMap], echo_times_s: Sequence[float], *, name: str
) -> tuple[tuple[ComplexMap, ...], OddEvenDifference | None]:
    """Undo the difference between odd and even echoes of a bipolar readout.

    Needs three echoes: where phase evolves linearly, φ₁ − 2 φ₂ + φ₃ of evenly spaced ones is 0,
    and twice the odd-even difference in a bipolar readout (Lu 2008, doi:10.1002/mrm.21583). That
    difference is a constant and a ramp, which are taken off the even echoes. Of unevenly spaced
    echoes only the ramp can be told, as their phase is known up to whole turns alone; the
    constant is taken off where the echoes are unwrapped (:func:`.unwrap.path_field`).

    Returns
    -------
    signals
        Corrected where needed.
    difference : OddEvenDifference or None
        What was taken off; None where there was nothing, or nothing can be told.

    Raises
    ------
    InputError
        If evenly spaced echoes contradict each other in another way.
    """
    if len(signals) < 3:
        return tuple(signals), None
    difference = _ramp_difference(signals, echo_times_s)
    if _evenly_spaced(echo_times_s[:3]):
        difference = _with_offset(difference, signals, name=name)
    if not difference.is_noticeable:
        return tuple(signals), None
    offset = np.exp(1j * (difference.offset_rad or 0.0))
    turn = (_ramp(difference.shape, difference.slopes_rad) * offset).astype(np.complex64)
    corrected = (signal * turn if number % 2 else signal for number, signal in enumerate(signals))
    return tuple(corrected), difference


@dataclass(frozen=True, slots=True)
class SignEvidence:
    """Which way phase turns where the field is stronger, and how that was told."""

    positive: bool
    reason: str
    certain: bool


def tell_sign(
    chi_ppm: FloatMap,
    mask: BoolMap,
    *,
    nucleus_contrast_ppm: float | None,
    echoes: GradientEchoes,
) -> SignEvidence:
    """Tell the sign of phase from a map made as if it were positive.

    The basal ganglia and veins are paramagnetic in everyone: if they come out diamagnetic, the
    sign is negative.

    Parameters
    ----------
    chi_ppm : (I, J, K) array
        Made with positive sign.
    mask : (I, J, K) bool array
        Where it holds.
    nucleus_contrast_ppm : float or None
        Contrast of caudate, putamen and pallidum to what surrounds them; None: not seen.
    """
    nuclei = nucleus_contrast_ppm
    if nuclei is not None and abs(nuclei) > _NUCLEUS_PPM:
        text = f"the basal ganglia lie {abs(nuclei):.3f} ppm above what surrounds them"
        return SignEvidence(nuclei > 0, text, certain=True)
    veins = dark_contrast_ppm(chi_ppm, mask, echoes)
    if abs(veins) > _VEIN_PPM:
        text = f"small dark structures, most of them veins, lie {abs(veins):.3f} ppm above the rest"
        return SignEvidence(veins > 0, text, certain=True)
    return SignEvidence(
        positive=True, reason="neither basal ganglia nor veins tell it: assumed", certain=False
    )


def dark_contrast_ppm(chi_ppm: FloatMap, mask: BoolMap, echoes: GradientEchoes) -> float:
    """Mean χ of the hundredth of a mask that is darkest against its surroundings, over the rest.

    The rim, where signal falls for other reasons, is left out.
    """
    magnitude = np.abs(echoes.signals[-1]).astype(np.float32)
    sigma = [3.0 / step for step in echoes.spacing_mm]
    around = ndimage.gaussian_filter(magnitude, sigma)
    ratio = magnitude / np.maximum(around, 1e-20)
    depth = depth_mm(mask, echoes.spacing_mm)
    inner = depth > min(5.0, 0.5 * float(depth.max()))
    dark = inner & (ratio < np.percentile(ratio[inner], 1))
    return float(np.mean(chi_ppm[dark]) - np.median(chi_ppm[inner]))


def _pairs(signal: ComplexMap, axis: int) -> tuple[ComplexMap, ComplexMap]:
    moved = np.moveaxis(signal, axis, 0)
    return moved[:-1], moved[1:]


def _evenly_spaced(times_s: Sequence[float]) -> bool:
    first, second = times_s[1] - times_s[0], times_s[2] - times_s[1]
    return abs(first - second) < _EVEN_SPACING * first


def _ramp_difference(signals: Sequence[ComplexMap], times_s: Sequence[float]) -> OddEvenDifference:
    """Odd-even ramp of the first three echoes: what their steps in time do not share.

    In a field ω the steps are s₁ = ω D₁ − d and s₂ = ω D₂ + d, so that s₂ / D₂ − s₁ / D₁ is
    d · (1 / D₁ + 1 / D₂). Only their own steps between neighbours are looked at, which hardly
    wrap: nothing is unwrapped.
    """
    first, second = times_s[1] - times_s[0], times_s[2] - times_s[1]
    steps = [late * np.conj(early) for early, late in pairwise(signals[:3])]
    slopes = []
    for axis in range(3):
        one, other = (_between_neighbours(step, axis) for step in steps)
        weight = np.abs(other)
        bright = weight > np.mean(weight)
        apart = np.angle(other[bright]) / second - np.angle(one[bright]) / first
        slopes.append(float(np.median(apart)) / (1 / first + 1 / second) if apart.size else 0.0)
    i, j, k = signals[0].shape
    return OddEvenDifference((slopes[0], slopes[1], slopes[2]), None, (i, j, k))


def _with_offset(
    difference: OddEvenDifference, signals: Sequence[ComplexMap], *, name: str
) -> OddEvenDifference:
    """Add the offset of evenly spaced echoes; refuse them where they differ in another way."""
    twice = signals[0] * np.conj(signals[1]) ** 2 * signals[2]
    scale = float(np.max(np.abs(twice)))
    flat = twice / max(scale, 1e-30)
    flat = flat * _ramp(difference.shape, [-2 * slope for slope in difference.slopes_rad])
    constant = np.sum(flat)
    coherence = float(np.abs(constant) / max(float(np.sum(np.abs(flat))), 1e-30))
    if coherence < _COHERENT:
        raise InputError(
            f"the echoes of {name} do not follow one field (agreement {coherence:.2f}, wanted "
            f"{_COHERENT} or more, with any bipolar ramp taken off); are echo times and files in "
            "the same order, and is the phase neither filtered nor unwrapped?"
        )
    return replace(difference, offset_rad=float(np.angle(constant)) / 2)


def _between_neighbours(image: ComplexMap, axis: int) -> ComplexMap:
    early, late = _pairs(image, axis)
    return np.asarray(late * np.conj(early))


def _ramp(shape: Sequence[int], slopes_rad: Sequence[float]) -> npt.NDArray[np.complexfloating]:
    """Pure phase (I, J, K) that rises by a slope a voxel, 0 in the middle."""
    total = np.ones((1, 1, 1), dtype=np.complex64)
    for axis, (n, slope) in enumerate(zip(shape, slopes_rad, strict=True)):
        form = [1, 1, 1]
        form[axis] = n
        along = np.exp(1j * slope * (np.arange(n) - (n - 1) / 2)).astype(np.complex64)
        total = total * along.reshape(form)
    return total
