"""The study as one HTML page and one table: our cells beside the paper's, with plots."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from deepmir.io.atomic import write_text
from deepmir.io.tables import Cell as TableCell
from deepmir.io.tables import Column, write_table
from deepmir.labels import Finding
from deepmir.study.paper import MEAN_DIFFERENCE_CMB_MULTI, paper_result
from deepmir.study.run import Cell, StudyState
from deepmir.study.statistics import Mean

PAGE_NAME = "study.html"
TABLE_NAME = "tables.tsv"

COLUMNS: tuple[Column, ...] = (
    Column("finding", "What was looked for"),
    Column(
        "recipe",
        "single: one network a finding; multi: one for all (both the paper's recipe); release: "
        "the recipe of the released network",
    ),
    Column("inputs", "Contrasts that the network was given"),
    Column("folds", "Folds that are done"),
    Column("persons", "Persons who were tested"),
    Column("persons_with", "Persons who have the finding, over whom the means are"),
    Column("sensitivity", "Mean over persons", decimals=3),
    Column("sensitivity_sem", "Standard error of the mean", decimals=3),
    Column("sensitivity_low", "Lower end of its 95 % interval (Student's t)", decimals=3),
    Column("sensitivity_high", "Upper end", decimals=3),
    Column("paper_sensitivity", "The paper's", decimals=2),
    Column("precision", "Mean over persons with a prediction", decimals=3),
    Column("precision_sem", "Standard error of the mean", decimals=3),
    Column("precision_low", "Lower end of its 95 % interval (Student's t)", decimals=3),
    Column("precision_high", "Upper end", decimals=3),
    Column("paper_precision", "The paper's", decimals=2),
    Column("pearson_r", "Of the counts, over all persons", decimals=3),
    Column("paper_pearson_r", "The paper's", decimals=2),
    Column("mean_difference", "Predicted - reference count (Bland-Altman)", decimals=2),
    Column("limit_low", "Lower limit of agreement", decimals=2),
    Column("limit_high", "Upper limit of agreement", decimals=2),
    Column("paper_mean_difference", "The paper's", decimals=2),
)

_COLOURS = {"single": "#8490a6", "multi": "#2451c4", "release": "#14683a"}
_TITLES = {Finding.CMB: "Table 1: microbleeds", Finding.IRON: "Table 2: iron deposits"}


def write_study(state: StudyState, version: str, out: Path) -> Path:
    """Write the table and the page; return the page's path.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    write_table(out / TABLE_NAME, COLUMNS, [table_row(cell) for cell in state.cells])
    write_text(out / PAGE_NAME, page_text(state, version))
    return out / PAGE_NAME


def table_row(cell: Cell) -> tuple[TableCell, ...]:
    """One cell as a row of the table, in the order of :data:`COLUMNS`."""
    result, paper = cell.result, paper_result(cell.inputs, cell.finding, cell.kind)
    agreement = result.agreement
    return (
        cell.finding.name,
        cell.kind,
        cell.inputs,
        cell.n_folds_done,
        len(result.persons),
        sum(person.n_reference > 0 for person in result.persons),
        *_mean_values(result.sensitivity),
        None if paper is None else paper.sensitivity,
        *_mean_values(result.precision),
        None if paper is None else paper.precision,
        agreement.pearson_r,
        None if paper is None else paper.pearson_r,
        agreement.mean_difference,
        agreement.low,
        agreement.high,
        _paper_difference(cell),
    )


def page_text(state: StudyState, version: str) -> str:
    """Return the page as HTML that needs no other file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepmir.study"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("study.html.j2").render(
        version=version,
        state=state,
        tables=[
            (title, _html_rows(state.cells, finding), _plots(state.cells, finding))
            for finding, title in _TITLES.items()
            if any(cell.finding is finding for cell in state.cells)
        ],
    )


def mean_text(mean: Mean | None) -> str:
    """Return a mean as the tables show it.

    Examples
    --------
    >>> mean_text(Mean(12, 0.8412, 0.05, 0.73, 0.95)), mean_text(None)
    ('0.84 ± 0.05 (0.73 to 0.95)', 'n/a')
    """
    if mean is None:
        return "n/a"
    if mean.error is None:
        return f"{mean.value:.2f} (one person)"
    return f"{mean.value:.2f} ± {mean.error:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def _mean_values(mean: Mean | None) -> tuple[TableCell, ...]:
    if mean is None:
        return (None, None, None, None)
    return mean.value, mean.error, mean.low, mean.high


def _paper_difference(cell: Cell) -> float | None:
    if (cell.finding, cell.kind) != (Finding.CMB, "multi"):
        return None
    return MEAN_DIFFERENCE_CMB_MULTI[cell.inputs]


def _html_rows(cells: Sequence[Cell], finding: Finding) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for cell in cells:
        if cell.finding is not finding:
            continue
        paper, agreement = paper_result(cell.inputs, finding, cell.kind), cell.result.agreement
        r = "n/a" if agreement.pearson_r is None else f"{agreement.pearson_r:.2f}"
        difference = _paper_difference(cell)
        rows.append(
            (
                cell.inputs,
                cell.kind,
                mean_text(cell.result.sensitivity),
                "" if paper is None else f"{paper.sensitivity:.2f}",
                mean_text(cell.result.precision),
                "" if paper is None else f"{paper.precision:.2f}",
                r,
                "" if paper is None else f"{paper.pearson_r:.2f}",
                f"{agreement.mean_difference:+.2f} ({agreement.low:.1f} to {agreement.high:.1f})",
                "" if difference is None else f"{difference:+.2f}",
                f"{len(cell.result.persons)}",
            )
        )
    return rows


# ---- plots ---------------------------------------------------------------------------------


def _plots(cells: Sequence[Cell], finding: Finding) -> list[tuple[str, str]]:
    """Caption and SVG of each plot of a finding."""
    shown = [cell for cell in cells if cell.finding is finding]
    return [
        (
            "Sensitivity and precision with 95 % intervals; rings: the paper's means.",
            _svg(shares_figure(shown)),
        ),
        (
            "Bland-Altman: predicted minus reference count against their mean, one point a person; "
            "lines: mean difference and limits of agreement.",
            _svg(agreement_figure(shown)),
        ),
    ]


def shares_figure(cells: Sequence[Cell]) -> Figure:
    """Sensitivity and precision of each cell, with the paper's beside them."""
    figure = Figure(figsize=(9.6, 0.6 + 0.42 * len(cells)), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    labels = [f"{cell.inputs}, {cell.kind}" for cell in cells]
    for axes, name in zip(both, ("sensitivity", "precision"), strict=True):
        for row, cell in enumerate(cells):
            paper = paper_result(cell.inputs, cell.finding, cell.kind)
            theirs = None if paper is None else getattr(paper, name)
            _draw_mean(axes, row, getattr(cell.result, name), theirs, colour=_COLOURS[cell.kind])
        axes.set(xlim=(0, 1), title=name, yticks=range(len(cells)), ylim=(len(cells) - 0.5, -0.5))
        axes.set_yticklabels(labels)
        axes.grid(axis="x", alpha=0.3)
    return figure


def agreement_figure(cells: Sequence[Cell]) -> Figure:
    """Bland-Altman plot of each cell."""
    columns = min(4, len(cells))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.3 * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes, cell in zip(grid, cells, strict=False):
        agreement = cell.result.agreement
        true = np.array([person.n_reference for person in cell.result.persons])
        found = np.array([person.n_predicted for person in cell.result.persons])
        axes.plot((true + found) / 2, found - true, "o", ms=3, color=_COLOURS[cell.kind], alpha=0.7)
        for height, style in (
            (agreement.mean_difference, "-"), (agreement.low, ":"), (agreement.high, ":")
        ):  # fmt: skip
            axes.axhline(height, ls=style, lw=1, color="#55617a")
        axes.set_title(f"{cell.inputs}, {cell.kind}", fontsize=9)
        axes.tick_params(labelsize=8)
    for axes in grid[len(cells) :]:
        axes.set_axis_off()
    figure.supxlabel("mean of both counts", fontsize=9)
    figure.supylabel("predicted - reference", fontsize=9)
    return figure


def _draw_mean(
    axes: Axes, row: int, mean: Mean | None, theirs: float | None, *, colour: str
) -> None:
    if theirs is not None:
        axes.plot([theirs], [row], "o", ms=8, mfc="none", mec="#c8321f")
    if mean is None:
        return
    if mean.low is not None and mean.high is not None:
        axes.plot([mean.low, mean.high], [row, row], "-", lw=2, color=colour)
    axes.plot([mean.value], [row], "o", ms=5, color=colour)


def _svg(figure: Figure) -> str:
    """Return a figure as SVG that can stand inside a page."""
    FigureCanvasSVG(figure)
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "deepmir"}):  # the same figure, the same bytes
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
