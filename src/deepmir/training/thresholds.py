"""Thresholds of a trained findings part: the least probability that gives the best F1.

A finding's probability is its peak's, calibrated as that of the weights that training began with.
Extents are where a finding is likelier than not, as in :func:`deepmir.segmentation.findings_of`;
what is chosen is how certain the most certain voxel must be. It is chosen on whole scans of
validation persons, never on patches, where findings are far too frequent.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepmir.labels import Finding
from deepmir.lesions import label_instances
from deepmir.model.losses import IGNORE
from deepmir.model.weights import Calibration
from deepmir.segmentation import EXTENT_PROBABILITY, label_findings, one_finding_per_component
from deepmir.volume import FloatMap, IntMap

CANDIDATES: tuple[float, ...] = (
    0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99,
)  # fmt: skip
_FEW = 5
"""With fewer reference lesions of a finding a threshold chosen on them would be chance."""


@dataclass(frozen=True, slots=True, eq=False)
class PeakScores:
    """Peaks of one finding's predicted components in one scan, and what they hit."""

    correct: npt.NDArray[np.float64]  # peak of each component that touches a reference lesion
    false: npt.NDArray[np.float64]  # peak of each that touches none
    best: npt.NDArray[np.float64]  # highest peak that touches each reference lesion; 0 if none


def peak_scores(
    probabilities: FloatMap, reference: IntMap, finding: Finding, calibration: Calibration
) -> PeakScores:
    """Find the components of one finding, and what each of them hits.

    Parameters
    ----------
    probabilities : (3, I, J, K) array
        As the network gives them.
    reference : (I, J, K) integer array
        Findings, 255 where nothing can be told.
    finding : Finding
    calibration : Calibration
    """
    extents = dict.fromkeys(Finding, EXTENT_PROBABILITY)
    labels = one_finding_per_component(label_findings(probabilities, extents), probabilities)
    found = label_instances(labels == finding, connectivity=26)
    true = label_instances(np.asarray(reference == finding), connectivity=26)
    n_found, n_true = int(found.max(initial=0)), int(true.max(initial=0))
    peaks = np.zeros(n_found + 1)
    np.maximum.at(peaks, found.ravel(), probabilities[finding - 1].ravel())
    peaks = calibration.apply(peaks).astype(np.float64)
    hits, ignored = np.zeros(n_found + 1, bool), np.zeros(n_found + 1, bool)
    hits[found[true > 0]] = True
    ignored[found[reference == IGNORE]] = True
    best = np.zeros(n_true + 1)
    np.maximum.at(best, true[found > 0], peaks[found[found > 0]])
    numbers = np.arange(1, n_found + 1)
    return PeakScores(
        correct=peaks[numbers[hits[1:]]],
        false=peaks[numbers[~hits[1:] & ~ignored[1:]]],
        best=best[1:],
    )


def best_threshold(scores: Sequence[PeakScores], *, otherwise: float) -> float:
    """Threshold of the best F1 over many scans; `otherwise` where there are few lesions."""
    if not scores or sum(len(score.best) for score in scores) < _FEW:
        return otherwise
    correct, false, best = (
        np.concatenate([getattr(score, name) for score in scores])
        for name in ("correct", "false", "best")
    )
    f1 = [_f1(correct, false, best, threshold=threshold) for threshold in CANDIDATES]
    return CANDIDATES[int(np.argmax(f1))]


def choose_thresholds(
    scans: Iterable[tuple[FloatMap, IntMap, Mapping[Finding, Calibration]]],
    otherwise: Mapping[Finding, float],
) -> dict[Finding, float]:
    """Threshold of each finding from the validation persons.

    Parameters
    ----------
    scans : iterable of (probabilities, reference, calibrations)
        Of each person, as :func:`peak_scores` takes them.
    otherwise : mapping
        Threshold of a finding of which there are too few.
    """
    scores: dict[Finding, list[PeakScores]] = {finding: [] for finding in Finding}
    for probabilities, reference, calibrations in scans:
        for finding in Finding:
            one = peak_scores(probabilities, reference, finding, calibrations[finding])
            scores[finding].append(one)
    return {
        finding: best_threshold(scores[finding], otherwise=otherwise[finding])
        for finding in Finding
    }


def _f1(
    correct: npt.NDArray[np.float64],
    false: npt.NDArray[np.float64],
    best: npt.NDArray[np.float64],
    *,
    threshold: float,
) -> float:
    sensitivity = float((best >= threshold).mean())
    n_correct, n_false = int((correct >= threshold).sum()), int((false >= threshold).sum())
    precision = n_correct / max(n_correct + n_false, 1)
    return 2 * sensitivity * precision / max(sensitivity + precision, 1e-9)
