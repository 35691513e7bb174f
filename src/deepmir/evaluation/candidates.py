"""Candidates from maps of probability: what a threshold would keep, and how honest it is.

A candidate is a connected component of the voxels of at least one probability, the extent; its
score is its peak. A threshold keeps the candidates whose peak reaches it, so one labelling serves
a whole curve.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepmir.errors import InputError
from deepmir.evaluation.detection import IGNORE
from deepmir.evaluation.match import Components, components_of, match_components
from deepmir.evaluation.rules import Rule
from deepmir.geometry import Affine
from deepmir.labels import Finding
from deepmir.lesions.instances import bounding_box
from deepmir.volume import BoolMap, FloatMap, IntMap

N_BINS = 10
"""Bins of equal width of a reliability diagram."""
LEAST_VOXEL_PROBABILITY = 0.01
"""Voxels below it are left out of the voxels' reliability: nearly all of a head is near 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Candidates of one finding of one person."""

    n_reference: int
    peaks: npt.NDArray[np.float64]  # (n,), of the candidates that are scored
    correct: npt.NDArray[np.bool_]  # (n,), whether a candidate hits a reference lesion
    pairs: tuple[tuple[int, int], ...]
    """(reference from 1, candidate from 0) that hit one another when all candidates are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityCounts:
    """Counts in bins of probability; adding two adds what they were made from."""

    n: npt.NDArray[np.int64]  # (bins,)
    sum_probability: npt.NDArray[np.float64]
    n_true: npt.NDArray[np.int64]
    sum_squared_error: float

    def __add__(self, other: "ReliabilityCounts") -> "ReliabilityCounts":
        return ReliabilityCounts(
            self.n + other.n,
            self.sum_probability + other.sum_probability,
            self.n_true + other.n_true,
            self.sum_squared_error + other.sum_squared_error,
        )


def candidates_of(
    probability: FloatMap,
    reference: IntMap,
    finding: Finding,
    *,
    rule: Rule,
    extent: float,
    affine: Affine | None = None,
) -> Candidates:
    """Find the candidates of one finding and what they hit.

    Parameters
    ----------
    probability : (I, J, K) array
        0 to 1.
    reference : (I, J, K) integer array
        Findings; 255 is not scored.
    finding : Finding
    rule : Rule
        What a hit is.
    extent : float
        Voxels of at least this probability belong to a candidate.
    affine : (4, 4) array, optional
        Of the grid; rules with limits in mm need it.

    Raises
    ------
    InputError
        If a probability is not within 0 to 1.
    """
    check_probabilities(probability, name=f"probabilities of {finding.name}")
    mask: BoolMap = probability >= extent
    box = bounding_box(mask | (reference != 0))
    inside, probability = reference[box], probability[box]
    ignore: BoolMap = inside == IGNORE
    components = components_of(mask[box], inside == finding, rule=rule, affine=affine)
    match = match_components(
        components,
        rule=rule,
        ignore=ignore,
        never_ignored=(inside != 0) & ~ignore,
        affine=affine,
    )
    peaks = _peaks(components, probability)
    scored = np.array([n + 1 not in match.ignored for n in range(len(peaks))], dtype=bool)
    renumber = np.cumsum(scored) - 1
    pairs = tuple((a, int(renumber[b - 1])) for a, b in match.pairs)
    correct = np.zeros(int(scored.sum()), dtype=bool)
    correct[[b for _, b in pairs]] = True
    return Candidates(match.n_reference, peaks[scored], correct, pairs)


def check_probabilities(probability: FloatMap, *, name: str) -> None:
    """Check that a map holds probabilities.

    Raises
    ------
    InputError
        If a value is not a number from 0 to 1.
    """
    low, high = float(probability.min(initial=0.0)), float(probability.max(initial=0.0))
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise InputError(
            f"the {name} reach from {low:g} to {high:g}; wanted numbers from 0 to 1: "
            "scale them, or give the right maps"
        )


def voxel_reliability_counts(
    probability: FloatMap, reference: IntMap, finding: Finding
) -> ReliabilityCounts:
    """Count the voxels of at least 1 % in bins of probability, outside the ignore zone."""
    counted = (probability >= LEAST_VOXEL_PROBABILITY) & (reference != IGNORE)
    return reliability_counts(probability[counted], reference[counted] == finding)


def reliability_counts(
    probability: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_]
) -> ReliabilityCounts:
    """Count events in bins of probability of equal width."""
    value = np.asarray(probability, dtype=np.float64)
    bins = np.minimum((value * N_BINS).astype(np.intp), N_BINS - 1)
    return ReliabilityCounts(
        n=np.bincount(bins, minlength=N_BINS).astype(np.int64),
        sum_probability=np.bincount(bins, weights=value, minlength=N_BINS).astype(np.float64),
        n_true=np.bincount(bins, weights=truth, minlength=N_BINS).astype(np.int64),
        sum_squared_error=float(((value - truth) ** 2).sum()),
    )


def _peaks(components: Components, probability: FloatMap) -> npt.NDArray[np.float64]:
    n = int(components.predicted.max(initial=0))
    peaks = np.zeros(n + 1)
    inside = components.predicted > 0
    np.maximum.at(peaks, components.predicted[inside], probability[inside])
    return peaks[1:]
