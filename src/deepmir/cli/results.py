"""What a verb says at its end: notices on standard error, counts and the report's place."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from deepmir.cli.console import count_text, show_table

if TYPE_CHECKING:  # the stages are loaded when a verb runs, not for --help
    from deepmir.result import SubjectResult
    from deepmir.volume import Notice


def show_notices(notices: "Iterable[Notice]") -> None:
    """Print the warnings among `notices` on standard error, one line each."""
    for notice in notices:
        if notice.level == "warning":
            print(f"warning: {notice.message}", file=sys.stderr)


def show_information(notices: "Iterable[Notice]") -> None:
    """Print what among `notices` is no warning: what was decided, such as the sign of the phase."""
    for notice in notices:
        if notice.level == "info":
            print(notice.message)


def show_summary(result: "SubjectResult", report: Path) -> None:
    """Print the counts of one person and where the report lies."""
    summary = result.summary
    rows = [
        ("microbleeds", count_text(summary.cmb)),
        ("  definite", count_text(summary.cmb_definite)),
        ("  possible", count_text(summary.cmb_possible)),
        ("iron deposits, basal ganglia", count_text(summary.iron)),
        ("calcifications", count_text(summary.calcification)),
    ]
    show_table(f"sub-{result.subject}", ("finding", "count"), rows)
    print(f"report: {report}")
