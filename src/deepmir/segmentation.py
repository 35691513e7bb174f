"""Findings: the fine part of the network over the brain, and labels on the native grid.

Slices are never resampled. In plane the grid is resampled only where its voxel lies outside
0.6 to 1.0 mm; what comes back onto the native grid are probabilities, never labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage, special

from deepmir.config import Config, SegmentConfig
from deepmir.errors import ConfigError
from deepmir.geometry import Grid
from deepmir.labels import Finding
from deepmir.model.predict import (
    SOFTENING,
    WINDOW_MULTIPLE,
    bounding_box,
    log_odds,
    open_network,
    predict_windows,
)
from deepmir.model.weights import Calibration, Weights
from deepmir.preprocessing.resample import along_axis, interpolate_axis
from deepmir.preprocessing.run import Prepared, Progress, ignore_progress
from deepmir.volume import BoolMap, FloatMap, Present

IN_PLANE_MM = (0.6, 1.0)
"""Voxel sizes in plane that the findings part takes as they are."""
CalibrationsOf = Callable[[Present], Mapping[Finding, Calibration]]
_Number = TypeVar("_Number", bound=np.generic)
_THICKEST_BY = 1.05  # an axis is the slice axis only where its voxels are clearly longer


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Findings of one person on the reference scan's RAS+ grid."""

    findings: npt.NDArray[np.uint8]  # (I, J, K), values of labels.Finding, 0 elsewhere
    probabilities: npt.NDArray[np.float16]  # (3, I, J, K): CMB, IRON, CALCIFICATION; calibrated
    thresholds: dict[Finding, float]  # that made labels of probabilities


@dataclass(frozen=True, slots=True)
class FindingsGrid:
    """How a native grid becomes that of the findings part."""

    order: tuple[int, int, int]  # native axes in the order of the network's (I, J, K)
    spacing_mm: tuple[float, float, float]  # of the permuted native grid
    target_mm: tuple[float, float, float]  # of the findings part's grid; K as it was


def segment_findings(
    prepared: Prepared,
    weights: Weights,
    config: Config,
    *,
    progress: Progress = ignore_progress,
) -> Segmentation | None:
    """Find microbleeds, iron deposits and calcifications inside the brain mask.

    Without a Chimap the sign of χ is not known, so that a calcification cannot be told from a
    microbleed: what the network gave to it is added to CMB.

    Returns
    -------
    Segmentation, or None where there is neither SWI nor Chimap: nothing can be told then.

    Raises
    ------
    WeightsError
        If the network cannot be run.
    ConfigError
        If a threshold is for an unknown finding or out of range.
    """
    if not any(prepared.present[1:]):
        return None
    thresholds = resolve_thresholds(weights, config.segment)
    odds, box = finding_log_odds(prepared, weights, config, progress=progress)
    chi = prepared.channels[2][box]
    certainty = certainty_of(odds, weights.calibrations, prepared.present, chi=chi)
    labels = findings_of(odds, certainty, thresholds)
    shape = prepared.grid.shape
    return Segmentation(
        _in_full(labels, box, shape),
        _in_full(certainty.astype(np.float16), box, shape),
        thresholds,
    )


def finding_log_odds(
    prepared: Prepared,
    weights: Weights,
    config: Config,
    *,
    progress: Progress = ignore_progress,
) -> tuple[FloatMap, tuple[slice, slice, slice]]:
    """Log odds (3, I, J, K) of each finding as the network gives them, and their native box.

    Minus infinity outside the brain.

    Parameters
    ----------
    prepared : Prepared
        With SWI, Chimap or both; without Chimap what goes to CALCIFICATION is added to CMB.

    Raises
    ------
    WeightsError
        If the network cannot be run.
    """
    plan = plan_grid(prepared.grid)
    box = bounding_box(prepared.brain_mask, margin=_margin(plan))
    mask = prepared.brain_mask[box]
    softened = predict_windows(
        open_network(weights, "findings", config.segment),
        findings_input(prepared, box, plan),
        window=weights.manifest.inputs.findings_window,
        overlap=config.segment.overlap,
        where=to_findings_grid(mask.astype(np.float32), plan) > 0,
        progress=lambda share: progress("segment", share),
    )
    found = to_native_grid(softened, plan, mask.shape)
    if not prepared.present[2]:
        found = without_calcification(found)
    found *= mask
    return log_odds(found), box


def plan_grid(grid: Grid) -> FindingsGrid:
    """Choose the findings part's grid for a native grid: the thickest axis becomes K.

    Examples
    --------
    >>> sagittal = Grid((40, 256, 256), np.diag([3.0, 0.5, 0.9, 1.0]))
    >>> plan_grid(sagittal)
    FindingsGrid(order=(2, 1, 0), spacing_mm=(0.9, 0.5, 3.0), target_mm=(0.9, 0.6, 3.0))
    """
    spacing = grid.spacing_mm
    thickest = int(np.argmax(spacing))
    order = [0, 1, 2]
    if spacing[thickest] > _THICKEST_BY * spacing[2]:
        order[thickest], order[2] = 2, thickest
    i, j, k = (spacing[axis] for axis in order)
    low, high = IN_PLANE_MM
    target = (min(max(i, low), high), min(max(j, low), high), k)
    return FindingsGrid((order[0], order[1], order[2]), (i, j, k), target)


def findings_input(
    prepared: Prepared, box: tuple[slice, slice, slice], plan: FindingsGrid
) -> FloatMap:
    """Input of the findings part for a box of the native grid: (8, I, J, K) on its own grid.

    T2w, swi, Chimap; one plane each that says whether it is there; probability of brain, and
    of basal ganglia.
    """
    maps = [
        *(prepared.channels[index][box] for index in range(3)),
        prepared.brain_probability[box],
        prepared.basal_ganglia_probability[box],
    ]
    first = to_findings_grid(maps[0], plan)
    stack = np.empty((8, *first.shape), dtype=np.float32)
    stack[0] = first
    for index, image in zip((1, 2, 6, 7), maps[1:], strict=True):
        stack[index] = to_findings_grid(image, plan)
    for index, present in enumerate(prepared.present):
        stack[3 + index] = present
    return stack


def to_findings_grid(image: FloatMap, plan: FindingsGrid) -> FloatMap:
    """Bring an image (I, J, K) of the native grid onto the findings part's grid, linearly."""
    result = image.transpose(plan.order)
    for axis in (0, 1):
        ratio = plan.target_mm[axis] / plan.spacing_mm[axis]
        if ratio != 1:
            n = max(round(result.shape[axis] / ratio), 1)
            result = interpolate_axis(result, along_axis(n, ratio), axis=axis)
    return result


def to_native_grid(probabilities: FloatMap, plan: FindingsGrid, shape: tuple[int, ...]) -> FloatMap:
    """Bring probabilities (C, I, J, K) back onto a native grid of `shape`, linearly."""
    result = probabilities
    for axis in (0, 1):
        ratio = plan.spacing_mm[axis] / plan.target_mm[axis]
        if ratio != 1:
            places = along_axis(shape[plan.order[axis]], ratio)
            result = interpolate_axis(result, places, axis=axis + 1)
    i, j, k = np.argsort(plan.order) + 1
    return np.ascontiguousarray(result.transpose(0, int(i), int(j), int(k)))


def without_calcification(softened: FloatMap) -> FloatMap:
    """Add the probability of CALCIFICATION to that of CMB, of softened (4, I, J, K), in a copy."""
    merged = softened.copy()
    sharp = softened[[Finding.CMB, Finding.CALCIFICATION]] ** SOFTENING
    merged[Finding.CMB] = sharp.sum(axis=0) ** (1 / SOFTENING)
    merged[Finding.CALCIFICATION] = 0
    return merged


def certainty_of(
    odds: FloatMap, calibrations: CalibrationsOf, present: Present, *, chi: FloatMap
) -> FloatMap:
    """Calibrated probability (3, I, J, K) of each finding.

    What SWI says beyond a Chimap is worth no more than without a Chimap.

    Parameters
    ----------
    odds : (3, I, J, K) array
        Log odds of each finding, as the network gives them.
    calibrations : callable
        Calibration of each finding, given which contrasts are there:
        :meth:`deepmir.model.weights.Weights.calibrations`.
    present : tuple of bool
        Whether the network saw T2w, swi and Chimap.
    chi : (I, J, K) array
        The Chimap, in any unit.
    """
    certainty = _calibrated(odds, calibrations(present))
    beyond = beyond_chimap(chi, present)
    alone = _calibrated(odds[:, beyond], calibrations((present[0], True, False)))
    for finding in (Finding.CMB, Finding.IRON):  # calcifications are not told without χ
        certainty[finding - 1, beyond] = alone[finding - 1]
    return certainty


def beyond_chimap(chi: FloatMap, present: Present) -> BoolMap:
    """Where SWI speaks for itself (I, J, K): outside the mask that the Chimap was made in, 0 there.

    Nowhere without SWI, which leaves nothing to say, nor without a Chimap.
    """
    if present[1] and present[2]:
        return np.asarray(chi == 0)
    return np.zeros(chi.shape, dtype=bool)


def findings_of(
    odds: FloatMap, certainty: FloatMap, thresholds: Mapping[Finding, float]
) -> npt.NDArray[np.uint8]:
    """Label map of the findings: extents where the network says so, peaks likely enough.

    A network trained on many rare things is sure of most of what it marks; a threshold on voxels
    that keeps false findings rare would shrink true ones to their core. So the extent is where
    the network finds it likelier than not, and the threshold is asked of the component's
    greatest certainty.

    Parameters
    ----------
    odds : (3, I, J, K) array
        Log odds of each finding, as the network gives them.
    certainty : (3, I, J, K) array
        Calibrated probabilities, as :func:`certainty_of` gives them.
    thresholds : mapping
        Least certainty of each finding.
    """
    labels = likely_findings(odds)
    for finding, threshold in thresholds.items():
        components, count = ndimage.label(labels == finding, structure=np.ones((3, 3, 3)))
        if count:
            numbers = np.arange(1, count + 1)
            peaks = np.asarray(ndimage.maximum(certainty[finding - 1], components, numbers))
            labels[np.isin(components, numbers[peaks < threshold])] = 0
    return labels


def likely_findings(odds: FloatMap) -> npt.NDArray[np.uint8]:
    """Label each voxel with the finding that is likelier than not, else 0; one for what touches.

    Examples
    --------
    >>> odds = np.log([[3.0, 0.5], [0.2, 0.4], [0.1, 0.1]]).reshape(3, 2, 1, 1)
    >>> likely_findings(odds).ravel().tolist()
    [1, 0]
    """
    labels = np.where(odds.max(axis=0) >= 0, odds.argmax(axis=0) + 1, 0).astype(np.uint8)
    return one_finding_per_component(labels, special.expit(odds))


def one_finding_per_component(
    labels: npt.NDArray[np.uint8], probabilities: FloatMap
) -> npt.NDArray[np.uint8]:
    """Give all voxels that touch each other (26 neighbours) the finding likeliest for them all.

    A deposit is one thing: without this the rim of an iron deposit would count as microbleeds.

    Parameters
    ----------
    labels : (I, J, K) uint8 array
        Values of :class:`~deepmir.labels.Finding`, 0 elsewhere.
    probabilities : (3, I, J, K) array
    """
    inside = labels > 0
    components, count = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    if count == 0:
        return labels
    numbers = components[inside]
    sums = [np.bincount(numbers, each[inside], minlength=count + 1) for each in probabilities]
    winner = (np.argmax(sums, axis=0) + 1).astype(np.uint8)
    winner[0] = 0
    return np.asarray(winner[components], dtype=np.uint8)


def resolve_thresholds(weights: Weights, config: SegmentConfig) -> dict[Finding, float]:
    """Threshold of each finding: the config's where it has one, else the weights' own.

    Raises
    ------
    ConfigError
        If the config names an unknown finding, or a threshold is not above 0 and up to 1.
    """
    thresholds = weights.thresholds
    for name, value in (config.thresholds or {}).items():
        if name not in Finding.__members__:
            raise ConfigError(
                f"unknown finding {name!r} in segment.thresholds; known are "
                f"{', '.join(Finding.__members__)}"
            )
        if not 0 < value <= 1:
            raise ConfigError(f"segment.thresholds.{name} is {value}, wanted above 0 and up to 1")
        thresholds[Finding[name]] = value
    return thresholds


def _calibrated(odds: FloatMap, calibrations: Mapping[Finding, Calibration]) -> FloatMap:
    return np.stack([calibrations[each].apply(odds[each - 1]) for each in Finding])


def _margin(plan: FindingsGrid) -> tuple[int, int, int]:
    """Return the margin of a window's smallest step, in native voxels along the native axes."""
    margin = [0, 0, 0]
    for axis, step in zip(plan.order, WINDOW_MULTIPLE, strict=True):
        margin[axis] = step
    return margin[0], margin[1], margin[2]


def _in_full(
    part: npt.NDArray[_Number], box: tuple[slice, slice, slice], shape: tuple[int, int, int]
) -> npt.NDArray[_Number]:
    """Put (..., box) into zeros of (..., I, J, K)."""
    full = np.zeros((*part.shape[:-3], *shape), dtype=part.dtype)
    full[(..., *box)] = part
    return full
