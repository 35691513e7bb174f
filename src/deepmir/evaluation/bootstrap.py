"""How sure a figure is: resampling persons, comparing two methods, several runs of one.

Persons are drawn, not lesions: lesions of one person resemble one another, and an interval from
lesions would be too narrow. All figures and methods share the same draws, so that differences
are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from deepmir.evaluation.agreement import Interval
from deepmir.evaluation.detection import Detection

N_RESAMPLES = 2000
_LEVEL = 0.95
_Values = npt.NDArray[np.float64]
Statistic = Callable[[_Values], _Values]
"""From sums of counts (…, 6) to a figure (…), nan where it is not defined."""

_COUNTS = ("n_persons", "n_reference", "n_detected", "n_predicted", "n_correct", "n_recounted")


def counts_of(detections: Sequence[Detection]) -> _Values:
    """Return the counts (persons, 6) that every figure of detection follows from."""
    rows = [[getattr(one, name) for name in _COUNTS] for one in detections]
    return np.array(rows, dtype=np.float64).reshape(-1, len(_COUNTS))


def sensitivity(sums: _Values) -> _Values:
    """Share of the reference lesions that were detected."""
    return _divided(sums[..., 2], sums[..., 1])


def precision(sums: _Values) -> _Values:
    """Share of the predicted lesions that are correct."""
    return _divided(sums[..., 4] + sums[..., 5], sums[..., 3] + sums[..., 5])


def f1(sums: _Values) -> _Values:
    """Harmonic mean of the two; 0 where nothing hits though there is something."""
    one, other = np.nan_to_num(sensitivity(sums)), np.nan_to_num(precision(sums))
    value = np.nan_to_num(_divided(2 * one * other, one + other))
    return np.where((sums[..., 1] == 0) & (sums[..., 3] == 0), np.nan, value)


def false_per_person(sums: _Values) -> _Values:
    """Count false positives a person."""
    return _divided(sums[..., 3] - sums[..., 4], sums[..., 0])


STATISTICS: dict[str, Statistic] = {
    "sensitivity": sensitivity,
    "precision": precision,
    "f1": f1,
    "false_per_person": false_per_person,
}
"""The pooled figures that get intervals."""


def draw_persons(
    n_persons: int, *, seed: int, n_resamples: int = N_RESAMPLES
) -> npt.NDArray[np.int64]:
    """Draw persons with replacement: how often each is drawn, (n_resamples, n_persons)."""
    random = np.random.default_rng(seed)
    return random.multinomial(n_persons, np.full(n_persons, 1 / n_persons), size=n_resamples)


def pooled_interval(
    counts: _Values, statistic: Statistic, draws: npt.NDArray[np.int64]
) -> Interval | None:
    """Figure of all persons together with its percentile interval; None if not defined.

    Draws in which the figure is not defined (no lesion drawn) are left out; with one person
    there is nothing to draw from, and the interval is the figure itself.
    """
    value = float(statistic(counts.sum(axis=0)))
    return None if np.isnan(value) else _interval(value, statistic(draws @ counts))


def mean_interval(values: Sequence[float | None], draws: npt.NDArray[np.int64]) -> Interval | None:
    """Mean over the persons who have a value, with its interval; None if nobody has."""
    known = np.array([value is not None for value in values])
    if not known.any():
        return None
    filled = np.array([0.0 if value is None else value for value in values], dtype=np.float64)
    resampled = _divided((draws @ filled), (draws @ known).astype(np.float64))
    return _interval(float(filled[known].mean()), resampled)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of two methods on the same persons; differences are first less second."""

    statistic: str
    first: float | None
    second: float | None
    difference: Interval | None
    """With the paired bootstrap interval."""
    p_bootstrap: float | None
    """Two-sided: how often a drawn difference reaches beyond 0, doubled."""
    n_pairs: int
    """Persons with a value under both methods, for Wilcoxon's test."""
    p_wilcoxon: float | None
    """Signed ranks of the persons' own values; None with less than two that differ."""


def compare(first: _Values, second: _Values, name: str, draws: npt.NDArray[np.int64]) -> Comparison:
    """Compare two methods by the counts (persons, 6) of the same persons.

    Raises
    ------
    ValueError
        If the two have different numbers of persons.
    """
    if len(first) != len(second):
        raise ValueError(
            f"methods are compared on the same persons, got {len(first)} and {len(second)}"
        )
    statistic = STATISTICS[name]
    one, other = float(statistic(first.sum(axis=0))), float(statistic(second.sum(axis=0)))
    drawn = statistic(draws @ first) - statistic(draws @ second)
    drawn = drawn[~np.isnan(drawn)]
    own = statistic(first) - statistic(second)
    own = own[~np.isnan(own)]
    defined = not np.isnan(one - other)
    return Comparison(
        statistic=name,
        first=None if np.isnan(one) else one,
        second=None if np.isnan(other) else other,
        difference=_interval(one - other, drawn) if defined else None,
        p_bootstrap=_two_sided(drawn) if defined and len(drawn) else None,
        n_pairs=len(own),
        p_wilcoxon=_wilcoxon(own),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values of many comparisons (Holm 1979); None stays None and is not counted.

    Examples
    --------
    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    known = [(p, at) for at, p in enumerate(p_values) if p is not None]
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, at) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[at] = largest
    return corrected


@dataclass(frozen=True, slots=True)
class Runs:
    """One figure over several runs (seeds) of one method on the same persons."""

    statistic: str
    values: tuple[float | None, ...]
    """Of each run."""
    mean: Interval | None
    """Over the runs; the interval resamples persons and runs, as both are drawn at random."""
    between_runs_sd: float | None
    """Standard deviation between runs: what another seed changes."""


def over_runs(counts: Sequence[_Values], name: str, *, seed: int) -> Runs:
    """Summarise a figure over runs, each given by its counts (persons, 6)."""
    statistic, n_runs, n_persons = STATISTICS[name], len(counts), len(counts[0])
    values = np.array([statistic(run.sum(axis=0)) for run in counts])
    draws = draw_persons(n_persons, seed=seed)
    drawn = np.stack([statistic(draws @ run) for run in counts], axis=1)
    runs = np.random.default_rng([seed, 1]).integers(n_runs, size=(len(draws), n_runs))
    resampled = np.take_along_axis(drawn, runs, axis=1).mean(axis=1)
    defined = not np.isnan(values).any()
    return Runs(
        statistic=name,
        values=tuple(None if np.isnan(value) else float(value) for value in values),
        mean=_interval(float(values.mean()), resampled) if defined else None,
        between_runs_sd=float(values.std(ddof=1)) if defined and n_runs > 1 else None,
    )


def _interval(value: float, resampled: _Values) -> Interval:
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return Interval(value, value, value)
    low, high = np.quantile(known, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _two_sided(differences: _Values) -> float:
    # one is added to each count: a p-value of 0 cannot come from a finite number of draws
    n = len(differences)
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (n + 1))


def _wilcoxon(differences: _Values) -> float | None:
    if np.count_nonzero(differences) < 2:
        return None
    return float(stats.wilcoxon(differences).pvalue)


def _divided(part: _Values, whole: _Values) -> _Values:
    whole = np.asarray(whole, dtype=np.float64)
    quotient = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole != 0)
    return quotient
