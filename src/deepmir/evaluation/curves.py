"""Curves over the threshold: FROC, precision and recall, reliability.

FROC after Bunch 1977 (doi:10.1117/12.955926): sensitivity over false positives a person, as the
threshold on a candidate's peak falls. Expected calibration error after Naeini 2015
(doi:10.1609/aaai.v29i1.9602).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepmir.evaluation.candidates import Candidates, ReliabilityCounts, reliability_counts

FALSE_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a person at which sensitivity is read, as usual since LUNA16."""
_Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One row a threshold, the strictest first; what is below the extent cannot be seen."""

    thresholds: _Values
    sensitivity: _Values
    precision: _Values
    false_per_person: _Values
    n_persons: int
    n_reference: int

    def sensitivity_at(self, false_per_person: float) -> float | None:
        """Highest sensitivity with at most so many false positives a person; 0 if none."""
        if not self.n_reference:
            return None
        allowed = self.sensitivity[self.false_per_person <= false_per_person]
        return float(allowed.max(initial=0.0))

    @property
    def mean_sensitivity(self) -> float | None:
        """Mean of the sensitivities at :data:`FALSE_RATES`."""
        read = [self.sensitivity_at(rate) for rate in FALSE_RATES]
        known = [value for value in read if value is not None]
        return float(np.mean(known)) if known else None

    @property
    def average_precision(self) -> float | None:
        """Area under precision over recall, as a sum of steps, without interpolation."""
        if not self.n_reference:
            return None
        steps = np.diff(self.sensitivity, prepend=0.0)
        return float((steps * self.precision).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Per bin: how many, mean probability, share that is true; and two figures of all."""

    n: npt.NDArray[np.int64]
    mean_probability: _Values  # nan where a bin is empty
    share_true: _Values  # nan where a bin is empty
    expected_calibration_error: float | None
    brier: float | None


def curve_of(persons: Sequence[Candidates]) -> Curve:
    """Make the curves of many persons' candidates of one finding.

    A candidate's hits are those it has when all candidates are kept; with one-to-one rules a
    stricter threshold could free a reference for another candidate, which is not followed.
    """
    peaks = np.concatenate([person.peaks for person in persons])
    correct = np.concatenate([person.correct for person in persons])
    n_reference = sum(person.n_reference for person in persons)
    thresholds = np.unique(peaks)[::-1]
    found = np.sort(np.concatenate([_found_at(person) for person in persons]))
    detected = len(found) - np.searchsorted(found, thresholds, side="left")
    n_correct = _count_from(peaks[correct], thresholds)
    n_false = _count_from(peaks[~correct], thresholds)
    kept = np.maximum(n_correct + n_false, 1)
    return Curve(
        thresholds=thresholds,
        sensitivity=detected / max(n_reference, 1),
        precision=n_correct / kept,
        false_per_person=n_false / len(persons),
        n_persons=len(persons),
        n_reference=n_reference,
    )


def reliability_of(calibration: ReliabilityCounts) -> Reliability:
    """Derive the reliability diagram, the expected calibration error and the Brier score."""
    n = calibration.n
    total = int(n.sum())
    filled = np.where(n > 0, n, np.nan).astype(np.float64)
    mean, share = calibration.sum_probability / filled, calibration.n_true / filled
    error = float(np.nansum(np.abs(mean - share) * n) / total) if total else None
    brier = calibration.sum_squared_error / total if total else None
    return Reliability(n, mean, share, error, brier)


def candidate_reliability(persons: Sequence[Candidates]) -> Reliability:
    """Tell whether a peak of 0.9 is right nine times of ten: the candidates' reliability."""
    peaks = np.concatenate([person.peaks for person in persons])
    return reliability_of(
        reliability_counts(peaks, np.concatenate([person.correct for person in persons]))
    )


def _found_at(person: Candidates) -> _Values:
    """Highest threshold at which each reference lesion is detected; undetected ones are absent."""
    best: dict[int, float] = {}
    for reference, candidate in person.pairs:
        best[reference] = max(best.get(reference, 0.0), float(person.peaks[candidate]))
    return np.array(list(best.values()), dtype=np.float64)


def _count_from(values: _Values, thresholds: _Values) -> npt.NDArray[np.intp]:
    """Count the values that reach each threshold."""
    ordered = np.sort(values)
    return len(ordered) - np.searchsorted(ordered, thresholds, side="left")
