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
from deepmir.segmentation import likely_findings
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
    best: npt.NDArray[np.float64]  # highest peak that touches each reference lesion; -inf if none


def peak_scores(
    odds: FloatMap, certainty: FloatMap, reference: IntMap, finding: Finding
) -> PeakScores:
    """Find the components of one finding, and what each of them hits.

    Parameters
    ----------
    odds : (3, I, J, K) array
        Log odds of each finding, as the network gives them.
    certainty : (I, J, K) array
        What peaks are peaks of: the calibrated probability of the finding, or its log odds.
    reference : (I, J, K) integer array
        Findings, 255 where nothing can be told.
    finding : Finding
    """
    labels = likely_findings(odds)
    found = label_instances(labels == finding, connectivity=26)
    true = label_instances(np.asarray(reference == finding), connectivity=26)
    n_found, n_true = int(found.max(initial=0)), int(true.max(initial=0))
    peaks = np.full(n_found + 1, -np.inf)
    np.maximum.at(peaks, found.ravel(), certainty.ravel())
    hits, ignored = np.zeros(n_found + 1, bool), np.zeros(n_found + 1, bool)
    hits[found[true > 0]] = True
    ignored[found[reference == IGNORE]] = True
    best = np.full(n_true + 1, -np.inf)
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
    scans: Iterable[tuple[FloatMap, FloatMap, IntMap]],
    otherwise: Mapping[Finding, float],
) -> dict[Finding, float]:
    """Threshold of each finding from the validation persons.

    Parameters
    ----------
    scans : iterable of (log odds, certainty, reference)
        Of each person, (3, I, J, K) twice and (I, J, K), as :func:`peak_scores` takes them.
    otherwise : mapping
        Threshold of a finding of which there are too few.
    """
    scores: dict[Finding, list[PeakScores]] = {finding: [] for finding in Finding}
    for odds, certainty, reference in scans:
        for finding in Finding:
            one = peak_scores(odds, certainty[finding - 1], reference, finding)
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
