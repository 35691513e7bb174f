"""Scores as rows of text, for a terminal, a report or a Markdown page."""

from collections.abc import Sequence

from deepmir.evaluation.agreement import Interval
from deepmir.evaluation.cohort import CohortAssessment, FindingSummary
from deepmir.evaluation.detection import Detection, Score
from deepmir.evaluation.rules import EMPTIES_TEXT
from deepmir.labels import Finding

DETECTION_HEAD: tuple[str, ...] = (
    "finding",
    "reference",
    "detected",
    "predicted",
    "correct",
    "sensitivity",
    "precision",
    "F1",
    "FP/person",
    "FP/person without",
)
CONFUSION_HEAD: tuple[str, ...] = (
    "predicted as",
    *(f"on {finding.name}" for finding in Finding),
    "on ignored",
    "on nothing",
)


PAPER_HEAD: tuple[str, ...] = (
    "finding",
    "persons with / without",
    "TP",
    "FP",
    "FN",
    "sensitivity",
    "precision",
    "F1",
    "FP/person",
    "FP/person without",
    "Dice",
)


def detection_rows(score: Score) -> tuple[tuple[str, ...], ...]:
    """One row of text per finding, in the order of :data:`DETECTION_HEAD`."""
    return tuple(_detection_row(finding.name, score.of(finding)) for finding in Finding)


def confusion_rows(score: Score) -> tuple[tuple[str, ...], ...]:
    """Predicted lesions by what they lie on, then the reference lesions nothing touches."""
    rows = [
        (finding.name, *map(str, score.confusion.predicted[row]))
        for row, finding in enumerate(Finding)
    ]
    return (*rows, ("not predicted", *map(str, score.confusion.missed), "", ""))


def rule_text(score: Score) -> str:
    """Return the sentence that must stand beside every number.

    Examples
    --------
    >>> from deepmir.evaluation.detection import evaluate_person
    >>> import numpy as np
    >>> nothing = np.zeros((1, 1, 1), dtype=np.uint8)
    >>> rule_text(evaluate_person(nothing, nothing, connectivity=26, rule="any-overlap"))
    'matching any-overlap, 26-connectivity, 1 person'
    """
    n = score.cmb.n_persons
    persons = "1 person" if n == 1 else f"{n} persons"
    return f"matching {score.rule.text}, {persons}"


def format_score(score: Score) -> str:
    """Return both tables and the rule as aligned plain text."""
    return "\n".join(
        [
            f"Detection ({rule_text(score)})",
            format_table(DETECTION_HEAD, detection_rows(score)),
            "",
            "Predicted lesions by what they lie on in the reference",
            format_table(CONFUSION_HEAD, confusion_rows(score)),
        ]
    )


def paper_rows(cohort: CohortAssessment) -> tuple[tuple[str, ...], ...]:
    """One row per finding with 95 % intervals, in the order of :data:`PAPER_HEAD`."""
    return tuple(_paper_row(summary) for summary in cohort.summaries)


def paper_note(cohort: CohortAssessment) -> str:
    """Return what must stand below the table: rule, empties, intervals."""
    return (
        f"Pooled over all lesions; {rule_text(cohort.score)}; TP and FP count predictions, FN "
        f"references; {EMPTIES_TEXT[cohort.rule.empties]}; 95 % intervals by bootstrap over "
        "persons; Dice: mean over persons with any volume."
    )


def markdown_table(cohort: CohortAssessment) -> str:
    """Return the table of a paper as Markdown, with its note."""
    rows = [PAPER_HEAD, tuple("---" for _ in PAPER_HEAD), *paper_rows(cohort)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", paper_note(cohort), ""])


def latex_table(cohort: CohortAssessment) -> str:
    """Return the table of a paper as LaTeX (package booktabs), with its note as caption."""
    rows = [" & ".join(map(_latex, row)) + r" \\" for row in (PAPER_HEAD, *paper_rows(cohort))]
    return "\n".join(
        [
            r"\begin{table}",
            r"\caption{" + _latex(paper_note(cohort)) + "}",
            r"\begin{tabular}{l" + "r" * (len(PAPER_HEAD) - 1) + "}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def interval_text(interval: Interval | None, digits: int = 2) -> str:
    """Write a figure with its interval.

    Examples
    --------
    >>> interval_text(Interval(0.5, 0.25, 0.75)), interval_text(None)
    ('0.50 (0.25 to 0.75)', 'n/a')
    """
    if interval is None:
        return "n/a"
    low, high = (number_text(value, digits) for value in (interval.low, interval.high))
    return f"{number_text(interval.value, digits)} ({low} to {high})"


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align rows of text under their head; the first column to the left, others to the right.

    Examples
    --------
    >>> print(format_table(("finding", "n"), [("CMB", "12")]))
    finding   n
    CMB      12
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in (head, *rows)
    )


def number_text(value: float | None, digits: int = 2) -> str:
    """Format a score; ``n/a`` where it is not defined."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def _detection_row(name: str, detection: Detection) -> tuple[str, ...]:
    return (
        name,
        str(detection.n_reference),
        str(detection.n_detected),
        str(detection.n_predicted),
        str(detection.n_correct),
        number_text(detection.sensitivity),
        number_text(detection.precision),
        number_text(detection.f1),
        number_text(detection.false_per_person),
        number_text(detection.false_per_person_without),
    )


def _paper_row(summary: FindingSummary) -> tuple[str, ...]:
    one = summary.detection
    return (
        summary.finding.name,
        f"{one.n_persons - one.n_persons_without} / {one.n_persons_without}",
        str(one.n_correct),
        str(one.n_false),
        str(one.n_missed),
        *(
            interval_text(summary.intervals[name])
            for name in ("sensitivity", "precision", "f1", "false_per_person")
        ),
        number_text(one.false_per_person_without),
        interval_text(summary.overlap.dice_mean),
    )


def _latex(text: str) -> str:
    escaped = text.replace("%", r"\%").replace("_", r"\_").replace("&", r"\&")
    return (
        escaped.replace("≥", r"$\geq$")
        .replace("<", "$<$")
        .replace("CALCIFICATION", "Calcification")
    )
