"""What a verb shows while it works: a moving bar on a terminal, plain lines in a pipe."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Progress = Callable[[str, float], None]
"""Told the name of the stage at work and how much of it is done, 0 to 1."""


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Progress]:
    """Give a function that shows progress on standard error.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    """
    if quiet:
        yield _ignore
    elif sys.stderr.isatty():
        with _bars() as progress:
            yield progress
    else:
        yield _PlainLines()


def _ignore(stage: str, fraction: float) -> None:
    """Show nothing."""


class _PlainLines:
    """One line when a stage begins, with the seconds since the start."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._stage = ""

    def __call__(self, stage: str, fraction: float) -> None:  # noqa: ARG002 - lines name stages only
        if stage != self._stage:
            self._stage = stage
            seconds = time.perf_counter() - self._begin
            print(f"[{seconds:6.1f} s] {stage}", file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, fraction: float) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=1.0)
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=fraction)

        yield progress
        for task in tasks.values():
            bars.update(task, completed=1.0)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a short table on standard output; aligned plain text when piped."""
    if sys.stdout.isatty():
        _show_rich_table(title, columns, rows)
    else:
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        for row in ((title,), columns, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            print("  ".join(cells).rstrip())


def _show_rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: brackets in a file name are no markup
    Console().print(table)


def count_text(count: int | None) -> str:
    """Return a count as text; ``n/a`` where nothing could be counted.

    Examples
    --------
    >>> count_text(0), count_text(None)
    ('0', 'n/a')
    """
    return "n/a" if count is None else str(count)


def share_text(share: float | None) -> str:
    """Return a share as text; ``n/a`` where it is undefined.

    Examples
    --------
    >>> share_text(0.756), share_text(None)
    ('0.76', 'n/a')
    """
    return "n/a" if share is None else f"{share:.2f}"
