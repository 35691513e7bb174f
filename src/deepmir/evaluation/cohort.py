"""Many persons together: every figure of a finding, its interval, and its strata."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from statistics import fmean, median

import numpy as np
import numpy.typing as npt

from deepmir.evaluation import bootstrap
from deepmir.evaluation.agreement import Agreement, Interval, agreement_of, weighted_kappa
from deepmir.evaluation.bootstrap import Comparison, Runs
from deepmir.evaluation.curves import (
    Curve,
    Reliability,
    candidate_reliability,
    curve_of,
    reliability_of,
)
from deepmir.evaluation.detection import (
    Detection,
    PersonMean,
    Ratios,
    Score,
    mean_over_persons,
    ratios_of,
)
from deepmir.evaluation.detection import pool as pool_scores
from deepmir.evaluation.person import PersonAssessment, Role, ScoredLesion, Status
from deepmir.evaluation.rules import Average, Rule
from deepmir.labels import Compartment, Finding, region_label
from deepmir.lesions import SizeClass


class StratumKind(StrEnum):
    """What lesions or persons are told apart by."""

    SIZE = "size"
    COMPARTMENT = "compartment"
    REGION = "region"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Stratum:
    """Detection of one finding among part of the lesions, or of the persons.

    By size and place a lesion belongs to the part that it lies in itself: sensitivity goes by the
    reference's size and place, precision by the prediction's.
    """

    kind: StratumKind
    name: str
    finding: Finding
    detection: Detection


@dataclass(frozen=True, slots=True)
class OverlapSummary:
    """Dice and volume of one finding over all persons."""

    n_persons: int
    """Persons with any volume on either side; only they have a Dice."""
    dice_mean: Interval | None
    """Over those persons."""
    dice_pooled: float | None
    """Of the volumes of all persons together."""
    volume_error_mm3: Interval | None
    """Mean over all persons of predicted less reference volume."""
    n_matched: int
    """Detected reference lesions."""
    matched_dice: float | None
    """Mean over them; misses and false findings are not in it."""
    matched_volume_error_mm3: float | None


@dataclass(frozen=True, slots=True, eq=False)
class FindingSummary:
    """Every figure of one finding."""

    finding: Finding
    detection: Detection
    """Pooled: every lesion weighs the same."""
    intervals: dict[str, Interval | None]
    """Of the pooled figures, by name (:data:`~deepmir.evaluation.bootstrap.STATISTICS`)."""
    as_rule: Ratios
    """As the rule's source averages persons and treats what is undefined."""
    n_in_rule: int
    """Persons whose F1 enters `as_rule`."""
    carriers: PersonMean
    """Means over the persons who have the finding."""
    agreement: Agreement
    overlap: OverlapSummary
    curve: Curve | None
    candidates: Reliability | None
    voxels: Reliability | None


@dataclass(frozen=True, slots=True, eq=False)
class CohortAssessment:
    """All persons of one method against the reference."""

    rule: Rule
    persons: tuple[PersonAssessment, ...]
    score: Score
    summaries: tuple[FindingSummary, ...]
    strata: tuple[Stratum, ...]

    def of(self, finding: Finding) -> FindingSummary:
        """Return the summary of one finding; KeyError where it was not asked for."""
        return {summary.finding: summary for summary in self.summaries}[finding]


@dataclass(frozen=True, slots=True)
class MethodComparison:
    """One figure of the first method against another's, corrected for all comparisons."""

    other: str
    finding: Finding
    comparison: Comparison
    p_bootstrap_holm: float | None
    p_wilcoxon_holm: float | None


@dataclass(frozen=True, slots=True)
class RaterAgreement:
    """Two raters of the same persons; the figures do not depend on who is first."""

    first: str
    second: str
    finding: Finding
    f1: Interval | None
    dice: Interval | None
    """Mean over persons with any volume."""
    kappa: float | None
    """Of the classes of burden, quadratically weighted."""
    presence_kappa: float | None
    """Of having the finding at all."""
    intraclass: Interval | None
    """Of the counts."""


def summarise_cohort(
    persons: Sequence[PersonAssessment], *, findings: Sequence[Finding] = tuple(Finding), seed: int
) -> CohortAssessment:
    """Summarise the persons of one method.

    Parameters
    ----------
    persons : sequence of PersonAssessment
        All under one rule.
    findings : sequence of Finding
        Those that the reference tells; others get no figures.
    seed : int
        Of the bootstrap: the same seed gives the same intervals.

    Raises
    ------
    ValueError
        If there is no person, or they follow different rules.
    """
    score = pool_scores([person.score for person in persons])
    draws = bootstrap.draw_persons(len(persons), seed=seed)
    return CohortAssessment(
        rule=score.rule,
        persons=tuple(persons),
        score=score,
        summaries=tuple(_summary(persons, finding, score, draws=draws) for finding in findings),
        strata=tuple(_strata(persons, findings)),
    )


def compare_methods(
    first: Sequence[PersonAssessment],
    others: dict[str, Sequence[PersonAssessment]],
    *,
    findings: Sequence[Finding] = tuple(Finding),
    seed: int,
) -> tuple[MethodComparison, ...]:
    """Compare methods on the same persons, by paired bootstrap and Wilcoxon's test.

    p-values are corrected for all figures, findings and methods together (Holm).

    Raises
    ------
    ValueError
        If a method's persons are not those of the first.
    """
    draws = bootstrap.draw_persons(len(first), seed=seed)
    found: list[tuple[str, Finding, Comparison]] = []
    for name, persons in others.items():
        _check_same_persons(first, persons, name)
        for finding in findings:
            one, other = _counts(first, finding), _counts(persons, finding)
            found += [
                (name, finding, bootstrap.compare(one, other, statistic, draws))
                for statistic in bootstrap.STATISTICS
            ]
    drawn = bootstrap.holm([comparison.p_bootstrap for *_, comparison in found])
    ranked = bootstrap.holm([comparison.p_wilcoxon for *_, comparison in found])
    return tuple(
        MethodComparison(*one, *corrected)
        for one, corrected in zip(found, zip(drawn, ranked, strict=True), strict=True)
    )


def summarise_runs(
    runs: Sequence[Sequence[PersonAssessment]],
    *,
    findings: Sequence[Finding] = tuple(Finding),
    seed: int,
) -> dict[Finding, tuple[Runs, ...]]:
    """Summarise several runs of one method, the seed as a random effect.

    Raises
    ------
    ValueError
        If the runs have different persons.
    """
    for run in runs[1:]:
        _check_same_persons(runs[0], run, "a further run")
    return {
        finding: tuple(
            bootstrap.over_runs([_counts(run, finding) for run in runs], name, seed=seed)
            for name in bootstrap.STATISTICS
        )
        for finding in findings
    }


def compare_raters(
    pairs: dict[tuple[str, str], Sequence[PersonAssessment]],
    *,
    findings: Sequence[Finding] = tuple(Finding),
    seed: int,
) -> tuple[RaterAgreement, ...]:
    """Compare raters pair by pair.

    Parameters
    ----------
    pairs : dict
        For (first, second): the second's persons assessed with the first as reference.
    findings, seed
        As for :func:`summarise_cohort`.
    """
    found: list[RaterAgreement] = []
    for (first, second), persons in pairs.items():
        cohort = summarise_cohort(persons, findings=findings, seed=seed)
        found += [_rater_agreement(first, second, persons, one) for one in cohort.summaries]
    return tuple(found)


def pairs_of(raters: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Every two raters once.

    Examples
    --------
    >>> pairs_of(["A", "B", "C"])
    (('A', 'B'), ('A', 'C'), ('B', 'C'))
    """
    return tuple(combinations(raters, 2))


# ---- one finding -----------------------------------------------------------


def _summary(
    persons: Sequence[PersonAssessment],
    finding: Finding,
    score: Score,
    *,
    draws: npt.NDArray[np.int64],
) -> FindingSummary:
    detections = [person.score.of(finding) for person in persons]
    counts = bootstrap.counts_of(detections)
    as_rule, n_in_rule = _as_rule(detections, score.of(finding), score.rule)
    drawn = [person.candidates[finding] for person in persons if finding in person.candidates]
    voxels = [person.calibration[finding] for person in persons if finding in person.calibration]
    return FindingSummary(
        finding=finding,
        detection=score.of(finding),
        intervals={
            name: bootstrap.pooled_interval(counts, statistic, draws)
            for name, statistic in bootstrap.STATISTICS.items()
        },
        as_rule=as_rule,
        n_in_rule=n_in_rule,
        carriers=mean_over_persons(detections),
        agreement=agreement_of(
            [one.n_predicted for one in detections], [one.n_reference for one in detections]
        ),
        overlap=_overlap_summary(persons, finding, draws=draws),
        curve=curve_of(drawn) if drawn else None,
        candidates=candidate_reliability(drawn) if drawn else None,
        voxels=reliability_of(sum(voxels[1:], voxels[0])) if voxels else None,
    )


def _as_rule(detections: Sequence[Detection], pooled: Detection, rule: Rule) -> tuple[Ratios, int]:
    """Average persons as the rule's source does; also how many persons give an F1."""
    if rule.average is Average.POOLED:
        return ratios_of(pooled, rule.empties), len(detections)
    taken = [one for one in detections if one.n_reference or _takes_all(rule)]
    ratios = [ratios_of(one, rule.empties) for one in taken]
    middle: Callable[[list[float]], float] = fmean
    if rule.average is Average.MEDIAN:
        middle = median
    known = [
        [value for value in values if value is not None]
        for values in (
            [one.sensitivity for one in ratios],
            [one.precision for one in ratios],
            [one.f1 for one in ratios],
        )
    ]
    return Ratios(*(middle(values) if values else None for values in known)), len(known[2])


def _takes_all(rule: Rule) -> bool:
    return rule.average is not Average.MEAN_OF_CARRIERS


def _overlap_summary(
    persons: Sequence[PersonAssessment],
    finding: Finding,
    *,
    draws: npt.NDArray[np.int64],
) -> OverlapSummary:
    overlaps = [person.overlaps[finding] for person in persons]
    dice = [overlap.dice for overlap in overlaps]
    volume = sum(overlap.reference_mm3 + overlap.prediction_mm3 for overlap in overlaps)
    shared = sum(overlap.shared_mm3 for overlap in overlaps)
    matched = [
        lesion
        for person in persons
        for lesion in person.lesions
        if lesion.finding is finding and lesion.dice is not None
    ]
    errors = [lesion.volume_error_mm3 or 0.0 for lesion in matched]
    return OverlapSummary(
        n_persons=sum(value is not None for value in dice),
        dice_mean=bootstrap.mean_interval(dice, draws),
        dice_pooled=2 * shared / volume if volume else None,
        volume_error_mm3=bootstrap.mean_interval(
            [overlap.volume_error_mm3 for overlap in overlaps], draws
        ),
        n_matched=len(matched),
        matched_dice=fmean(lesion.dice or 0.0 for lesion in matched) if matched else None,
        matched_volume_error_mm3=fmean(errors) if errors else None,
    )


# ---- strata ----------------------------------------------------------------


def _strata(persons: Sequence[PersonAssessment], findings: Sequence[Finding]) -> Iterable[Stratum]:
    has_regions = any(person.has_regions for person in persons)
    for finding in findings:
        yield from _by(persons, finding, StratumKind.SIZE, lambda lesion: str(lesion.size_class))
        if has_regions:
            yield from _by(persons, finding, StratumKind.COMPARTMENT, _compartment_name)
            yield from _by(persons, finding, StratumKind.REGION, _region_name)
        for group in sorted({person.group for person in persons} - {""}):
            members = [person.score for person in persons if person.group == group]
            pooled = pool_scores(members).of(finding)
            yield Stratum(StratumKind.GROUP, group, finding, pooled)


_ORDER = {
    name: rank
    for rank, name in enumerate([*map(str, SizeClass), *map(str, Compartment), "no region"])
}


def _by(
    persons: Sequence[PersonAssessment],
    finding: Finding,
    kind: StratumKind,
    name_of: Callable[[ScoredLesion], str],
) -> Iterable[Stratum]:
    """Count the lesions of one finding by what `name_of` says of them."""
    lesions = [
        (name_of(lesion), person.person, lesion)
        for person in persons
        for lesion in person.lesions
        if lesion.finding is finding
    ]
    for name in sorted(
        {name for name, *_ in lesions}, key=lambda name: (_ORDER.get(name, 99), name)
    ):
        inside = [(person, lesion) for other, person, lesion in lesions if other == name]
        yield Stratum(kind, name, finding, _count(inside, n_persons=len(persons)))


def _count(inside: Sequence[tuple[str, ScoredLesion]], *, n_persons: int) -> Detection:
    """Count the lesions of a stratum, each given with its person."""
    status = [(lesion.role, lesion.status) for _, lesion in inside]
    having = {person for person, lesion in inside if lesion.role is Role.REFERENCE}
    n_hit = status.count((Role.REFERENCE, Status.HIT))
    n_correct = status.count((Role.PREDICTION, Status.HIT))
    n_false = status.count((Role.PREDICTION, Status.FALSE))
    return Detection(
        n_persons=n_persons,
        n_persons_without=n_persons - len(having),
        n_reference=n_hit + status.count((Role.REFERENCE, Status.MISSED)),
        n_detected=n_hit,
        n_predicted=n_correct + n_false,
        n_correct=n_correct,
        n_ignored=status.count((Role.PREDICTION, Status.IGNORED)),
        n_false_without=sum(
            lesion.status is Status.FALSE and person not in having for person, lesion in inside
        ),
    )


def _region_name(lesion: ScoredLesion) -> str:
    return region_label(lesion.region) if lesion.region else "no region"


def _compartment_name(lesion: ScoredLesion) -> str:
    return str(lesion.compartment or "no region")


# ---- pairs of methods and of raters ----------------------------------------


def _counts(persons: Sequence[PersonAssessment], finding: Finding) -> npt.NDArray[np.float64]:
    return bootstrap.counts_of([person.score.of(finding) for person in persons])


def _check_same_persons(
    first: Sequence[PersonAssessment], other: Sequence[PersonAssessment], name: str
) -> None:
    wanted, found = ([person.person for person in persons] for persons in (first, other))
    if wanted != found:
        different = sorted(set(wanted) ^ set(found))[:5]
        raise ValueError(f"{name} has other persons than the first method: {different}")


def _rater_agreement(
    first: str, second: str, persons: Sequence[PersonAssessment], summary: FindingSummary
) -> RaterAgreement:
    return RaterAgreement(
        first=first,
        second=second,
        finding=summary.finding,
        f1=summary.intervals["f1"],
        dice=summary.overlap.dice_mean,
        kappa=summary.agreement.burden.kappa,
        presence_kappa=_presence_kappa(persons, summary.finding),
        intraclass=summary.agreement.intraclass,
    )


def _presence_kappa(persons: Sequence[PersonAssessment], finding: Finding) -> float | None:
    counts = [person.score.of(finding) for person in persons]
    both = [
        np.array([bool(value) for value in side], dtype=np.intp)
        for side in ([one.n_reference for one in counts], [one.n_predicted for one in counts])
    ]
    return weighted_kappa(*both, n_classes=2)
