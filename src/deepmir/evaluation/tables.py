"""Scores as rows of text, for a terminal, a report or a Markdown page."""

from collections.abc import Sequence

from deepmir.evaluation.detection import Detection, Score
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
