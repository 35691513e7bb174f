"""The paper's statistics: means over persons with their error, and how well counts agree.

Rule `paper` (our reading of it): 26 neighbours make a lesion, any overlap is a hit, sensitivity
and precision are averaged over the persons who have the finding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
_WITHIN_LIMITS_SD = 1.96  # Bland 1986, doi:10.1016/S0140-6736(86)90837-8


@dataclass(frozen=True, slots=True)
class PersonCounts:
    """Lesions of one finding in one person."""

    name: str
    n_reference: int
    n_detected: int  # of the reference
    n_predicted: int
    n_correct: int  # of the predicted

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference lesions that were detected; None without any."""
        return self.n_detected / self.n_reference if self.n_reference else None

    @property
    def precision(self) -> float | None:
        """Share of the predicted lesions that are correct; None without any."""
        return self.n_correct / self.n_predicted if self.n_predicted else None


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over persons, its standard error, and its 95 % interval by Student's t."""

    n: int
    value: float
    error: float | None  # None for one person
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well predicted counts agree with those of the reference, over all persons."""

    n: int
    pearson_r: float | None  # None where a count does not vary
    mean_difference: float  # predicted - reference
    low: float  # limits of agreement
    high: float


@dataclass(frozen=True, slots=True)
class CellResult:
    """One finding of one arm: what stands in a cell of the tables."""

    persons: tuple[PersonCounts, ...]
    sensitivity: Mean | None
    precision: Mean | None
    agreement: Agreement


def summarise_cell(persons: Sequence[PersonCounts]) -> CellResult:
    """Summarise one finding over persons.

    Raises
    ------
    ValueError
        If there is no person.
    """
    having = [person for person in persons if person.n_reference]
    return CellResult(
        persons=tuple(persons),
        sensitivity=mean_of([person.sensitivity for person in having]),
        precision=mean_of([person.precision for person in having]),
        agreement=agreement_of(
            [person.n_reference for person in persons], [person.n_predicted for person in persons]
        ),
    )


def mean_of(values: Sequence[float | None]) -> Mean | None:
    """Mean of shares that are known, with error and interval; None where none is.

    Examples
    --------
    >>> mean_of([0.0, 1.0, None])
    Mean(n=2, value=0.5, error=0.5, low=0.0, high=1.0)
    """
    known = np.array([value for value in values if value is not None])
    if known.size == 0:
        return None
    value = float(known.mean())
    if known.size == 1:
        return Mean(1, value, None, None, None)
    error = float(known.std(ddof=1) / math.sqrt(known.size))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, known.size - 1)) * error
    return Mean(known.size, value, error, max(0.0, value - reach), min(1.0, value + reach))


def agreement_of(reference: Sequence[int], predicted: Sequence[int]) -> Agreement:
    """Pearson's r and Bland-Altman limits of two lists of counts.

    Raises
    ------
    ValueError
        If the lists are empty or differ in length.

    Examples
    --------
    >>> agreement_of([1, 2, 3], [2, 3, 4])
    Agreement(n=3, pearson_r=1.0, mean_difference=1.0, low=1.0, high=1.0)
    """
    if not reference or len(reference) != len(predicted):
        raise ValueError(f"wanted two lists of one length, got {len(reference)}, {len(predicted)}")
    x, y = np.array(reference, dtype=float), np.array(predicted, dtype=float)
    difference = y - x
    spread = float(difference.std(ddof=1)) if x.size > 1 else 0.0
    varies = x.size > 1 and x.std() > 0 and y.std() > 0
    mean = float(difference.mean())
    return Agreement(
        n=x.size,
        pearson_r=round(float(np.corrcoef(x, y)[0, 1]), 12) if varies else None,
        mean_difference=mean,
        low=mean - _WITHIN_LIMITS_SD * spread,
        high=mean + _WITHIN_LIMITS_SD * spread,
    )
