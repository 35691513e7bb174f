"""Tables as BIDS wants them: tab-separated values and a JSON data dictionary of one name.

Every column is declared once (:class:`Column`); a missing value is ``n/a``; numbers are
written so that the same values give the same bytes on every machine.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepmir.errors import InputError
from deepmir.io.atomic import write_text

Cell = str | int | float | bool | np.integer | np.floating | None
"""One value of a table; None is written as ``n/a``."""

NOT_AVAILABLE = "n/a"


@dataclass(frozen=True, slots=True)
class Column:
    """One column and what the data dictionary says about it."""

    name: str
    description: str
    units: str | None = None
    levels: Mapping[str, str] = field(default_factory=dict)
    """Meaning of every value, where there are few."""
    decimals: int | None = None
    """Digits after the point; None: six significant digits."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text: what was ``n/a`` is None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]

    def column(self, name: str) -> tuple[str | None, ...]:
        """Return the values of one column from top to bottom.

        Raises
        ------
        InputError
            If there is no such column.
        """
        if name not in self.columns:
            raise InputError(
                f"the table has no column {name!r}; its columns are {', '.join(self.columns)}"
            )
        at = self.columns.index(name)
        return tuple(row[at] for row in self.rows)


def cell_text(value: Cell, decimals: int | None = None) -> str:
    """Return the text of one value.

    Raises
    ------
    ValueError
        If a number is infinite.

    Examples
    --------
    >>> [cell_text(value) for value in (None, True, 3, 0.1 + 0.2, float("nan"))]
    ['n/a', 'true', '3', '0.3', 'n/a']
    >>> cell_text(-0.0001, decimals=2)
    '0.00'
    """
    match value:
        case None:
            return NOT_AVAILABLE
        case bool():
            return "true" if value else "false"
        case str():
            return " ".join(value.split()) or NOT_AVAILABLE
        case int() | np.integer() if decimals is None:
            return str(int(value))
    return _number_text(float(value), decimals)


def table_text(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a whole table as tab-separated text, header line first.

    Raises
    ------
    ValueError
        If a row has another length than `columns`, or a number is infinite.
    """
    lines = ["\t".join(column.name for column in columns)]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} values, wanted {len(columns)}: {row}")
        cells = zip(row, columns, strict=True)
        lines.append("\t".join(cell_text(value, column.decimals) for value, column in cells))
    return "\n".join(lines) + "\n"


def dictionary_text(columns: Sequence[Column]) -> str:
    """Return the BIDS data dictionary of a table as JSON text."""
    entries = {column.name: _dictionary_entry(column) for column in columns}
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def write_table(path: Path, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
    """Write `path` (.tsv) and beside it the data dictionary of the same name (.json).

    Raises
    ------
    ValueError
        If a row has another length than `columns`, or a number is infinite.
    OutputError
        If a file cannot be written.
    """
    write_text(path, table_text(columns, rows))
    write_text(path.with_suffix(".json"), dictionary_text(columns))


def read_table(path: Path) -> Table:
    """Read a tab-separated table.

    Raises
    ------
    InputError
        If the file is missing or unreadable, or its rows have different lengths.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"cannot read the table {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8; wanted tab-separated values") from error
    if not lines:
        raise InputError(f"the table {path} is empty; wanted a line of column names")
    columns, *rows = (tuple(line.split("\t")) for line in lines)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise InputError(
                f"line {number} of {path} has {len(row)} values, wanted {len(columns)}; "
                "separate them by tabs"
            )
    cells = (tuple(None if cell == NOT_AVAILABLE else cell for cell in row) for row in rows)
    return Table(columns, tuple(cells))


def _number_text(value: float, decimals: int | None) -> str:
    if math.isnan(value):
        return NOT_AVAILABLE
    if math.isinf(value):
        raise ValueError("a table cannot hold an infinite number; wanted a finite one or None")
    text = f"{value:.6g}" if decimals is None else f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _dictionary_entry(column: Column) -> dict[str, str | dict[str, str]]:
    entry: dict[str, str | dict[str, str]] = {"Description": column.description}
    if column.units is not None:
        entry["Units"] = column.units
    if column.levels:
        entry["Levels"] = dict(column.levels)
    return entry
