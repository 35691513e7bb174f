"""An evaluation as tables with data dictionaries, and as plain values for JSON.

Every table bears the rule in its last column, so that no figure travels without it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from deepmir.evaluation.agreement import Interval
from deepmir.evaluation.bootstrap import Runs
from deepmir.evaluation.cohort import (
    CohortAssessment,
    FindingSummary,
    MethodComparison,
    RaterAgreement,
    Stratum,
)
from deepmir.evaluation.curves import FALSE_RATES, Reliability
from deepmir.evaluation.detection import Detection, ratios_of
from deepmir.evaluation.person import PersonAssessment, ScoredLesion
from deepmir.io.tables import Cell, Column
from deepmir.labels import Finding

Row = tuple[Cell, ...]

_FINDING = Column(
    "finding",
    "What was looked for",
    levels={"CMB": "microbleed", "IRON": "iron deposit", "CALCIFICATION": "calcification"},
)
_RULE = Column("rule", "What a hit is; no figure means anything without it")
_PERSON = Column("person", "Person, by the entities of the file name, or the file name itself")
_GROUP = Column("group", "Group of the person, such as the protocol; n/a where none is given")
_COUNTS = (
    Column("n_reference", "Reference lesions"),
    Column("n_detected", "Reference lesions that were detected (true positives by reference)"),
    Column("n_missed", "Reference lesions that were missed (false negatives)"),
    Column("n_predicted", "Predicted lesions that are scored"),
    Column("n_correct", "Predicted lesions that are correct (true positives by prediction)"),
    Column("n_false", "Predicted lesions that are wrong (false positives)"),
    Column("n_ignored", "Predicted lesions on what the reference marks as not to be scored"),
)
_RATIOS = (
    Column("sensitivity", "Detected of the reference lesions", decimals=4),
    Column("precision", "Correct of the predicted lesions", decimals=4),
    Column("f1", "Harmonic mean of the two", decimals=4),
)
_INTERVAL = (
    Column("low", "Lower end of the 95 % interval", decimals=4),
    Column("high", "Upper end of the 95 % interval", decimals=4),
)


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table, ready to be written as ``name.tsv`` and ``name.json``."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one finding over all persons."""

    name: str
    description: str
    value: float | None
    low: float | None = None
    high: float | None = None


def figures_of(summary: FindingSummary) -> tuple[Figure, ...]:
    """List every figure of one finding, with its interval where it has one."""
    return (
        *_detection_figures(summary),
        *_agreement_figures(summary),
        *_overlap_figures(summary),
        *_curve_figures(summary),
    )


def cohort_sheets(cohort: CohortAssessment) -> tuple[Sheet, ...]:
    """Tables of one method: summary, persons, lesions, strata, confusion, curves, reliability."""
    rule = cohort.rule.text
    sheets = [
        _summary_sheet(cohort),
        _persons_sheet(cohort),
        _lesions_sheet(cohort.persons, rule),
        _strata_sheet(cohort.strata, rule),
        _confusion_sheet(cohort),
    ]
    if any(summary.curve for summary in cohort.summaries):
        sheets += [_curves_sheet(cohort), _reliability_sheet(cohort)]
    return tuple(sheets)


def comparisons_sheet(comparisons: Sequence[MethodComparison], rule: str) -> Sheet:
    """Table of the first method against others."""
    columns = (
        Column("other", "The method that is compared with the first"),
        _FINDING,
        Column("figure", "Pooled figure that is compared"),
        Column("first", "The first method's figure", decimals=4),
        Column("second", "The other's figure", decimals=4),
        Column("difference", "First less second", decimals=4),
        *_INTERVAL,
        Column("p_bootstrap", "Two-sided, from persons drawn with replacement"),
        Column("p_bootstrap_holm", "The same, corrected for all rows (Holm)"),
        Column("n_pairs", "Persons with a figure under both methods"),
        Column("p_wilcoxon", "Signed ranks of the persons' own figures"),
        Column("p_wilcoxon_holm", "The same, corrected for all rows (Holm)"),
        _RULE,
    )
    rows = [
        (
            one.other,
            one.finding.name,
            one.comparison.statistic,
            one.comparison.first,
            one.comparison.second,
            *_interval_cells(one.comparison.difference),
            one.comparison.p_bootstrap,
            one.p_bootstrap_holm,
            one.comparison.n_pairs,
            one.comparison.p_wilcoxon,
            one.p_wilcoxon_holm,
            rule,
        )
        for one in comparisons
    ]
    return Sheet("comparisons", columns, tuple(rows))


def runs_sheet(runs: Mapping[Finding, Sequence[Runs]], rule: str) -> Sheet:
    """Table of several runs of one method."""
    columns = (
        _FINDING,
        Column("figure", "Pooled figure"),
        Column("n_runs", "Runs"),
        Column("mean", "Mean over the runs", decimals=4),
        *_INTERVAL,
        Column("between_runs_sd", "Standard deviation between runs", decimals=4),
        Column("values", "Figure of each run, in the order given"),
        _RULE,
    )
    rows = [
        (
            finding.name,
            one.statistic,
            len(one.values),
            *_interval_cells(one.mean),
            one.between_runs_sd,
            " ".join("n/a" if value is None else f"{value:.4f}" for value in one.values),
            rule,
        )
        for finding, figures in runs.items()
        for one in figures
    ]
    return Sheet("runs", columns, tuple(rows))


def raters_sheet(raters: Sequence[RaterAgreement], rule: str) -> Sheet:
    """Table of raters, pair by pair."""
    columns = (
        Column("first", "One rater"),
        Column("second", "The other rater"),
        _FINDING,
        Column("f1", "F1 of the lesions, pooled", decimals=4),
        Column("f1_low", "Lower end of its 95 % interval", decimals=4),
        Column("f1_high", "Upper end of its 95 % interval", decimals=4),
        Column("dice", "Mean Dice over persons with any volume", decimals=4),
        Column("kappa", "κ of the classes of burden, quadratic weights", decimals=4),
        Column("presence_kappa", "κ of having the finding at all", decimals=4),
        Column("icc", "Intraclass correlation ICC(A,1) of the counts", decimals=4),
        _RULE,
    )
    rows = [
        (
            one.first,
            one.second,
            one.finding.name,
            *_interval_cells(one.f1),
            one.dice.value if one.dice else None,
            one.kappa,
            one.presence_kappa,
            one.intraclass.value if one.intraclass else None,
            rule,
        )
        for one in raters
    ]
    return Sheet("raters", columns, tuple(rows))


def plain(value: object) -> object:
    """Turn dataclasses, arrays, enumerations and paths into what JSON can hold.

    What is not a number becomes None; a finding becomes its name.

    Examples
    --------
    >>> plain({Finding.CMB: (float("nan"), np.arange(2))})
    {'CMB': [None, [0, 1]]}
    """
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return _plain_leaf(value)


def _plain_leaf(value: object) -> object:
    if isinstance(value, Enum):
        return value.name if isinstance(value, Finding) else value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


# ---- figures ---------------------------------------------------------------


def _detection_figures(summary: FindingSummary) -> Iterable[Figure]:
    one = summary.detection
    yield from _counted("n_persons", "Persons", one.n_persons)
    yield from _counted(
        "n_persons_without", "Persons without a reference lesion", one.n_persons_without
    )
    for column, value in zip(_COUNTS, _counts(one), strict=True):
        yield Figure(column.name, column.description, float(value))
    yield from _counted("n_covering", "Predictions over several references", one.n_covering)
    yield from _counted("n_split", "References hit by several predictions", one.n_split)
    pooled = {
        "sensitivity": "Detected of the reference lesions, pooled",
        "precision": "Correct of the predicted lesions, pooled",
        "f1": "Harmonic mean of the two, pooled",
        "false_per_person": "False positives a person",
    }
    for name, description in pooled.items():
        yield _with_interval(name, description, summary.intervals[name])
    yield Figure(
        "false_per_person_without",
        "False positives a person, over persons without a reference lesion",
        one.false_per_person_without,
    )
    carriers, as_rule = summary.carriers, summary.as_rule
    for name in ("sensitivity", "precision", "f1"):
        yield Figure(
            f"{name}_mean_of_carriers",
            f"{name}, mean over persons who have the finding",
            getattr(carriers, name),
        )
        yield Figure(
            f"{name}_as_rule",
            f"{name}, averaged over persons as the rule's source does",
            getattr(as_rule, name),
        )


def _agreement_figures(summary: FindingSummary) -> Iterable[Figure]:
    one = summary.agreement
    yield Figure("count_error_mean", "Predicted less reference count, mean", one.mean_error)
    yield Figure("count_error_absolute", "The same without sign, mean", one.mean_absolute_error)
    yield _with_interval("count_pearson", "Pearson's correlation of the counts", one.pearson)
    yield _with_interval(
        "count_icc", "Intraclass correlation ICC(A,1) of the counts", one.intraclass
    )
    limits = one.bland_altman
    yield Figure(
        "count_bland_altman_bias",
        "Mean difference of the counts; the interval holds the limits of agreement",
        limits.bias if limits else None,
        limits.lower_limit if limits else None,
        limits.upper_limit if limits else None,
    )
    yield Figure(
        "burden_kappa",
        "Quadratically weighted κ of the classes 0, 1-4, 5-10, 11 and more",
        one.burden.kappa,
    )
    yield Figure(
        "burden_kappa_three",
        "Quadratically weighted κ of the classes 0, 1-4, 5 and more",
        one.burden.kappa_three,
    )
    yield Figure(
        "burden_same_class", "Share of the persons in the same class", one.burden.same_class
    )


def _overlap_figures(summary: FindingSummary) -> Iterable[Figure]:
    one = summary.overlap
    yield _with_interval(
        "dice", "Dice of the whole, mean over persons with any volume", one.dice_mean
    )
    yield Figure("dice_pooled", "Dice of the volumes of all persons together", one.dice_pooled)
    yield _with_interval(
        "volume_error_mm3", "Predicted less reference volume a person", one.volume_error_mm3
    )
    yield Figure(
        "matched_dice", "Dice of the detected lesions; misses are not in it", one.matched_dice
    )
    yield Figure(
        "matched_volume_error_mm3",
        "Predicted less reference volume of the detected lesions, mean",
        one.matched_volume_error_mm3,
    )


def _curve_figures(summary: FindingSummary) -> Iterable[Figure]:
    if summary.curve is None:
        return
    for rate in FALSE_RATES:
        yield Figure(
            f"sensitivity_at_{rate:g}_false_per_person",
            f"Highest sensitivity with at most {rate:g} false positives a person",
            summary.curve.sensitivity_at(rate),
        )
    yield Figure(
        "froc_score",
        "Mean of the sensitivities at 1/8 to 8 false positives a person",
        summary.curve.mean_sensitivity,
    )
    yield Figure(
        "average_precision", "Area under precision over recall", summary.curve.average_precision
    )
    parts = {"candidate": summary.candidates, "voxel": summary.voxels}
    for name, reliability in parts.items():
        if reliability is not None:
            yield Figure(
                f"{name}_calibration_error",
                f"Expected calibration error of the {name}s' probabilities, 10 bins",
                reliability.expected_calibration_error,
            )
            yield Figure(f"{name}_brier", f"Brier score of the {name}s", reliability.brier)


def _counted(name: str, description: str, value: int) -> Iterable[Figure]:
    yield Figure(name, description, float(value))


def _with_interval(name: str, description: str, interval: Interval | None) -> Figure:
    if interval is None:
        return Figure(name, description, None)
    return Figure(name, description, interval.value, interval.low, interval.high)


# ---- sheets of one method --------------------------------------------------


def _summary_sheet(cohort: CohortAssessment) -> Sheet:
    figures = [(summary.finding, figures_of(summary)) for summary in cohort.summaries]
    levels = {figure.name: figure.description for _, named in figures for figure in named}
    columns = (
        _FINDING,
        Column("figure", "What the value is", levels=levels),
        Column("value", "The figure; n/a where it is not defined"),
        Column("low", "Lower end of the 95 % interval"),
        Column("high", "Upper end of the 95 % interval"),
        _RULE,
    )
    rows = [
        (finding.name, figure.name, figure.value, figure.low, figure.high, cohort.rule.text)
        for finding, named in figures
        for figure in named
    ]
    return Sheet("summary", columns, tuple(rows))


def _persons_sheet(cohort: CohortAssessment) -> Sheet:
    columns = (
        _PERSON,
        _GROUP,
        _FINDING,
        *_COUNTS,
        *_RATIOS,
        Column("dice", "Dice of the whole; n/a where both are empty", decimals=4),
        Column("reference_mm3", "Volume of the reference", units="mm^3"),
        Column("prediction_mm3", "Volume of the prediction", units="mm^3"),
        _RULE,
    )
    rows = [
        (
            person.person,
            person.group,
            summary.finding.name,
            *_counts(person.score.of(summary.finding)),
            *dataclasses.astuple(ratios_of(person.score.of(summary.finding), cohort.rule.empties)),
            person.overlaps[summary.finding].dice,
            person.overlaps[summary.finding].reference_mm3,
            person.overlaps[summary.finding].prediction_mm3,
            cohort.rule.text,
        )
        for person in cohort.persons
        for summary in cohort.summaries
    ]
    return Sheet("persons", columns, tuple(rows))


def _lesions_sheet(persons: Sequence[PersonAssessment], rule: str) -> Sheet:
    columns = (
        _PERSON,
        _FINDING,
        Column("role", "Whose lesion", levels={"reference": "", "prediction": ""}),
        Column("number", "1, 2, … within person, finding and role"),
        Column(
            "status",
            "What became of it",
            levels={
                "hit": "detected, or correct",
                "missed": "in the reference only",
                "false": "in the prediction only",
                "ignored": "on what is not scored",
            },
        ),
        Column("n_partners", "Lesions of the other side that it hits"),
        Column("n_voxels", "Voxels"),
        Column("volume_mm3", "Volume", units="mm^3"),
        Column("diameter_mm", "Of the sphere of equal volume", units="mm"),
        Column("size_class", "BOMBS class of size"),
        Column("x_mm", "Centroid, scanner coordinates, to the right", units="mm", decimals=2),
        Column("y_mm", "Centroid, to the front", units="mm", decimals=2),
        Column("z_mm", "Centroid, upwards", units="mm", decimals=2),
        Column("region", "Region number; 0 where none is known"),
        Column("lies_on", "What the other side has there: a finding, ignored or nothing"),
        Column("dice", "Of a detected lesion with all that hit it", decimals=4),
        Column("volume_error_mm3", "Predicted less reference volume of these", units="mm^3"),
        _RULE,
    )
    rows = [
        _lesion_row(person.person, lesion, rule) for person in persons for lesion in person.lesions
    ]
    return Sheet("lesions", columns, tuple(rows))


def _lesion_row(person: str, lesion: ScoredLesion, rule: str) -> Row:
    return (
        person,
        lesion.finding.name,
        str(lesion.role),
        lesion.number,
        str(lesion.status),
        lesion.n_partners,
        lesion.n_voxels,
        lesion.volume_mm3,
        lesion.diameter_mm,
        str(lesion.size_class),
        *lesion.centroid_mm,
        lesion.region,
        lesion.lies_on,
        lesion.dice,
        lesion.volume_error_mm3,
        rule,
    )


def _strata_sheet(strata: Sequence[Stratum], rule: str) -> Sheet:
    columns = (
        Column(
            "kind",
            "What lesions or persons are told apart by",
            levels={
                "size": "BOMBS class of size, each lesion by its own",
                "compartment": "lobar, deep or infratentorial, each lesion by its own",
                "region": "MARS region, each lesion by its own",
                "group": "group of the person, such as the protocol",
            },
        ),
        Column("stratum", "The part"),
        _FINDING,
        Column("n_persons", "Persons that false positives are divided by"),
        *_COUNTS,
        *_RATIOS,
        Column("false_per_person", "False positives a person", decimals=4),
        _RULE,
    )
    rows = [
        (
            str(one.kind),
            one.name,
            one.finding.name,
            one.detection.n_persons,
            *_counts(one.detection),
            one.detection.sensitivity,
            one.detection.precision,
            one.detection.f1,
            one.detection.false_per_person,
            rule,
        )
        for one in strata
    ]
    return Sheet("strata", columns, tuple(rows))


def _confusion_sheet(cohort: CohortAssessment) -> Sheet:
    columns = (
        Column(
            "predicted", "Finding that was predicted; none: reference lesions that nothing hits"
        ),
        *(
            Column(f"on_{finding.name}", f"Lesions that lie on {finding.name}")
            for finding in Finding
        ),
        Column("on_ignored", "Lesions on what is not scored"),
        Column("on_nothing", "Lesions on nothing"),
        _RULE,
    )
    rows: list[Row] = [
        (finding.name, *cohort.score.confusion.predicted[row], cohort.rule.text)
        for row, finding in enumerate(Finding)
    ]
    rows.append(("none", *cohort.score.confusion.missed, None, None, cohort.rule.text))
    return Sheet("confusion", columns, tuple(rows))


def _curves_sheet(cohort: CohortAssessment) -> Sheet:
    columns = (
        _FINDING,
        Column("threshold", "Least peak probability of a candidate that is kept"),
        *_RATIOS[:2],
        Column("false_per_person", "False positives a person", decimals=4),
        _RULE,
    )
    rows: list[Row] = [
        (summary.finding.name, *map(float, row), cohort.rule.text)
        for summary in cohort.summaries
        if summary.curve is not None
        for row in zip(
            summary.curve.thresholds,
            summary.curve.sensitivity,
            summary.curve.precision,
            summary.curve.false_per_person,
            strict=True,
        )
    ]
    return Sheet("curves", columns, tuple(rows))


def _reliability_sheet(cohort: CohortAssessment) -> Sheet:
    columns = (
        _FINDING,
        Column(
            "of", "What is counted", levels={"candidate": "by its peak", "voxel": "from 1 % on"}
        ),
        Column("bin", "Bins of equal width from 0 to 1, the lowest is 1"),
        Column("n", "How many"),
        Column("mean_probability", "Mean probability", decimals=4),
        Column("share_true", "Share that is true", decimals=4),
        _RULE,
    )
    rows: list[Row] = [
        (summary.finding.name, name, *cells, cohort.rule.text)
        for summary in cohort.summaries
        for name, one in (("candidate", summary.candidates), ("voxel", summary.voxels))
        if one is not None
        for cells in _bins(one)
    ]
    return Sheet("reliability", columns, tuple(rows))


def _bins(one: Reliability) -> Iterable[Row]:
    for number, row in enumerate(zip(one.n, one.mean_probability, one.share_true, strict=True), 1):
        yield number, int(row[0]), float(row[1]), float(row[2])


def _counts(one: Detection) -> tuple[int, ...]:
    return (
        one.n_reference,
        one.n_detected,
        one.n_missed,
        one.n_predicted,
        one.n_correct,
        one.n_false,
        one.n_ignored,
    )


def _interval_cells(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (interval.value, interval.low, interval.high) if interval else (None, None, None)
