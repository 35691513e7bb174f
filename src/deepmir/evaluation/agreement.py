"""Agreement of two counts per person: correlation, bias, limits, classes of burden.

Figures of the same persons counted twice, by a method and a reference or by two raters. What is
not defined (one person, counts that never vary) is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

BURDEN_LIMITS = (1, 5, 11)
"""First count of each class of burden above the lowest: none, 1 to 4, 5 to 10, 11 and more."""
BURDEN_NAMES = ("0", "1-4", "5-10", ">=11")
_LEVEL = 0.95
_Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the 95 % interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BlandAltman:
    """Bias and 95 % limits of agreement (Bland 1986, doi:10.1016/S0140-6736(86)90837-8)."""

    bias: float
    lower_limit: float
    upper_limit: float


@dataclass(frozen=True, slots=True)
class Burden:
    """Persons by class of burden, and how far the classes agree."""

    table: tuple[tuple[int, ...], ...]
    """Rows: classes of the reference; columns: classes of the prediction."""
    kappa: float | None
    """Quadratically weighted, over 0, 1 to 4, 5 to 10, 11 and more."""
    kappa_three: float | None
    """The same over 0, 1 to 4, 5 and more."""
    same_class: float
    """Share of the persons in the same of the four classes."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Counts of one finding in the same persons, twice."""

    n_persons: int
    mean_error: float
    """Predicted less reference count."""
    mean_absolute_error: float
    pearson: Interval | None
    intraclass: Interval | None
    """ICC(A,1): two-way, absolute agreement, single counts."""
    bland_altman: BlandAltman | None
    burden: Burden


def agreement_of(prediction: Sequence[int], reference: Sequence[int]) -> Agreement:
    """Compare two counts of each person.

    Raises
    ------
    ValueError
        If there is no person, or the two have different lengths.
    """
    predicted = np.asarray(prediction, dtype=np.float64)
    referred = np.asarray(reference, dtype=np.float64)
    if predicted.shape != referred.shape or not len(predicted):
        raise ValueError(
            f"wanted two counts for each of one or more persons, got {len(predicted)} and "
            f"{len(referred)}"
        )
    error = predicted - referred
    return Agreement(
        n_persons=len(error),
        mean_error=float(error.mean()),
        mean_absolute_error=float(np.abs(error).mean()),
        pearson=pearson(predicted, referred),
        intraclass=intraclass(np.stack([predicted, referred], axis=1)),
        bland_altman=bland_altman(predicted, referred),
        burden=burden_of(predicted, referred),
    )


def pearson(first: _Values, second: _Values) -> Interval | None:
    """Pearson's correlation with Fisher's interval; None where a side never varies."""
    if len(first) < 4 or not np.ptp(first) or not np.ptp(second):
        return None
    found = stats.pearsonr(first, second)
    interval = found.confidence_interval(_LEVEL)
    return Interval(float(found.statistic), float(interval.low), float(interval.high))


def bland_altman(first: _Values, second: _Values) -> BlandAltman | None:
    """Mean difference (first less second) ± 1.96 standard deviations; None for one person."""
    if len(first) < 2:
        return None
    difference = first - second
    bias, spread = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    return BlandAltman(bias, bias - spread, bias + spread)


def intraclass(values: _Values) -> Interval | None:
    """ICC(A,1) with its interval (McGraw 1996, doi:10.1037/1082-989X.1.1.30).

    Parameters
    ----------
    values : (persons, raters) array

    Returns
    -------
    Interval or None
        None with less than three persons, or where nothing varies.
    """
    n, k = values.shape
    if n < 3 or not np.ptp(values):
        return None
    rows, columns, rest = _mean_squares(values)
    scale = rows + (k - 1) * rest + k * (columns - rest) / n
    if scale <= 0:
        return None
    value = (rows - rest) / scale
    if rest <= 0:  # raters differ by a constant at most: no error to build an interval from
        return Interval(value, value, value)
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * columns + b * rest) ** 2 / (
        (a * columns) ** 2 / (k - 1) + (b * rest) ** 2 / ((n - 1) * (k - 1))
    )
    tail = 1 - (1 - _LEVEL) / 2
    upper, lower = stats.f.ppf(tail, n - 1, freedom), stats.f.ppf(tail, freedom, n - 1)
    shared = k * columns + (k * n - k - n) * rest
    low = n * (rows - upper * rest) / (upper * shared + n * rows)
    high = n * (lower * rows - rest) / (shared + n * lower * rows)
    return Interval(value, float(low), float(high))


def burden_of(prediction: _Values, reference: _Values) -> Burden:
    """Put both counts of each person into classes of burden and compare the classes."""
    classes = [
        np.searchsorted(BURDEN_LIMITS, side, side="right") for side in (reference, prediction)
    ]
    table = np.zeros((len(BURDEN_NAMES), len(BURDEN_NAMES)), dtype=np.intp)
    np.add.at(table, tuple(classes), 1)
    three = [np.minimum(side, 2) for side in classes]
    return Burden(
        table=tuple(tuple(row) for row in table.tolist()),
        kappa=weighted_kappa(*classes, n_classes=len(BURDEN_NAMES)),
        kappa_three=weighted_kappa(*three, n_classes=3),
        same_class=float(np.mean(classes[0] == classes[1])),
    )


def weighted_kappa(
    first: npt.NDArray[np.integer], second: npt.NDArray[np.integer], *, n_classes: int
) -> float | None:
    """Cohen's κ with quadratic weights (doi:10.1037/h0026256); None where all are one class."""
    table = np.zeros((n_classes, n_classes))
    np.add.at(table, (first, second), 1.0)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(first)
    steps = np.arange(n_classes)
    weights = (steps[:, None] - steps[None]) ** 2
    chance = float((weights * expected).sum())
    return None if math.isclose(chance, 0.0) else 1 - float((weights * table).sum()) / chance


def _mean_squares(values: _Values) -> tuple[float, float, float]:
    """Mean squares of persons, of raters, and of what is left."""
    n, k = values.shape
    grand = values.mean()
    persons = k * ((values.mean(axis=1) - grand) ** 2).sum()
    raters = n * ((values.mean(axis=0) - grand) ** 2).sum()
    rest = ((values - grand) ** 2).sum() - persons - raters
    return persons / (n - 1), raters / (k - 1), max(rest, 0.0) / ((n - 1) * (k - 1))
