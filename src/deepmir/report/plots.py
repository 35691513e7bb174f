"""Plots of an evaluation as images in the page: SVG inside, sharp in print."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deepmir.evaluation.cohort import CohortAssessment, FindingSummary
from deepmir.evaluation.curves import FALSE_RATES
from deepmir.evaluation.person import PersonAssessment
from deepmir.labels import Finding

COLOURS = {Finding.CMB: "#c8321f", Finding.IRON: "#b37a0c", Finding.CALCIFICATION: "#0b7f9f"}
_INK, _SOFT, _LINE = "#172033", "#55617a", "#e2e7ef"
_STYLE = {
    "svg.hashsalt": "deepmir",  # the same data give the same bytes
    "font.size": 9.5,
    "axes.edgecolor": "#b9c3d3",
    "axes.labelcolor": _SOFT,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_MOST_NAMED = 45  # persons whose names fit below the bars


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot, and what is to be seen for those who cannot see it."""

    uri: str
    description: str


def plots_of(cohort: CohortAssessment) -> dict[str, tuple[Plot, ...]]:
    """Draw all plots of one method: ``curves``, ``agreement`` and ``persons``."""
    drawn = [summary for summary in cohort.summaries if summary.curve is not None]
    curves = (froc(drawn), precision_recall(drawn), reliability(drawn)) if drawn else ()
    return {
        "curves": curves,
        "agreement": tuple(bland_altman(cohort.persons, summary) for summary in cohort.summaries),
        "persons": tuple(person_bars(cohort.persons, one.finding) for one in cohort.summaries),
    }


def froc(summaries: Sequence[FindingSummary]) -> Plot:
    """Sensitivity over false positives a person."""

    def draw(axes: Axes) -> None:
        for summary in summaries:
            if summary.curve is not None and summary.curve.n_reference:
                axes.step(
                    np.concatenate([[0.0], summary.curve.false_per_person]),
                    np.concatenate([[0.0], summary.curve.sensitivity]),
                    where="post",
                    color=COLOURS[summary.finding],
                    label=summary.finding.name,
                )
        axes.set_xscale("symlog", linthresh=0.125, linscale=0.5)
        axes.set_xlim(0, 16)
        axes.set_xticks([0, *FALSE_RATES], ["0", "⅛", "¼", "½", "1", "2", "4", "8"])
        axes.minorticks_off()
        axes.set_ylim(0, 1.02)
        axes.set(title="FROC", xlabel="false positives a person", ylabel="sensitivity")
        _legend(axes, "lower right")

    return _plot(draw, (4.1, 3.5), "FROC: sensitivity over false positives a person")


def precision_recall(summaries: Sequence[FindingSummary]) -> Plot:
    """Precision over sensitivity."""

    def draw(axes: Axes) -> None:
        for summary in summaries:
            if summary.curve is not None and summary.curve.n_reference:
                area = summary.curve.average_precision
                axes.plot(
                    summary.curve.sensitivity,
                    summary.curve.precision,
                    color=COLOURS[summary.finding],
                    label=f"{summary.finding.name} (area {area:.2f})",
                )
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set(title="Precision and recall", xlabel="sensitivity", ylabel="precision")
        _legend(axes, "lower left")

    return _plot(draw, (4.1, 3.5), "Precision over sensitivity")


def reliability(summaries: Sequence[FindingSummary]) -> Plot:
    """Share that is true over the probability that was said, of the candidates' peaks."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#8490a6", linewidth=1, linestyle=(0, (4, 3)))
        for summary in summaries:
            if summary.candidates is not None:
                error = summary.candidates.expected_calibration_error
                shown = "n/a" if error is None else f"{error:.2f}"
                largest = max(int(summary.candidates.n.max()), 1)
                axes.plot(
                    summary.candidates.mean_probability,
                    summary.candidates.share_true,
                    color=COLOURS[summary.finding],
                    linewidth=1,
                )
                axes.scatter(
                    summary.candidates.mean_probability,
                    summary.candidates.share_true,
                    s=12 + 70 * summary.candidates.n / largest,
                    color=COLOURS[summary.finding],
                    alpha=0.75,
                    linewidths=0,
                    label=f"{summary.finding.name} (ECE {shown})",
                )
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.02, 1.04)
        axes.set(title="Reliability", xlabel="peak probability", ylabel="share that is true")
        _legend(axes, "upper left")

    return _plot(draw, (4.1, 3.5), "Reliability of the candidates' peak probabilities")


def bland_altman(persons: Sequence[PersonAssessment], summary: FindingSummary) -> Plot:
    """Difference of the counts over their mean, with bias and limits of agreement."""
    counts = [person.score.of(summary.finding) for person in persons]
    predicted = np.array([one.n_predicted for one in counts], dtype=float)
    referred = np.array([one.n_reference for one in counts], dtype=float)
    limits = summary.agreement.bland_altman

    def draw(axes: Axes) -> None:
        places, weights = np.unique(
            np.stack([(predicted + referred) / 2, predicted - referred]), axis=1, return_counts=True
        )
        axes.scatter(
            places[0],
            places[1],
            s=16 + 14 * (weights - 1),
            color=COLOURS[summary.finding],
            alpha=0.7,
            linewidths=0,
        )
        if limits is not None:
            axes.axhline(limits.bias, color=_INK, linewidth=1)
            for value in (limits.lower_limit, limits.upper_limit):
                axes.axhline(value, color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(
            title=f"{summary.finding.name}: counts a person",
            xlabel="mean of both counts",
            ylabel="predicted less reference",
        )

    return _plot(draw, (4.1, 3.2), f"Bland-Altman plot of the counts of {summary.finding.name}")


def person_bars(persons: Sequence[PersonAssessment], finding: Finding) -> Plot:
    """Draw detected, missed and false lesions of each person, the most lesions first."""
    counts = {person.person: person.score.of(finding) for person in persons}
    order = sorted(counts, key=lambda name: (-counts[name].n_reference, -counts[name].n_false))
    detected = np.array([counts[name].n_detected for name in order])
    missed = np.array([counts[name].n_missed for name in order])
    false = np.array([counts[name].n_false for name in order])

    def draw(axes: Axes) -> None:
        at = np.arange(len(order))
        axes.bar(at, detected, color=COLOURS[finding], label="detected")
        axes.bar(
            at, missed, bottom=detected, color="#fff", edgecolor=COLOURS[finding], linewidth=0.9,
            label="missed",
        )  # fmt: skip
        axes.bar(at, -false, color="#8490a6", label="false")
        axes.axhline(0, color=_INK, linewidth=0.8)
        named = order if len(order) <= _MOST_NAMED else [""] * len(order)
        axes.set_xticks(at, named, rotation=90, fontsize=7.5)
        axes.set_xlim(-0.7, len(order) - 0.3)
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="x", length=0)
        top = float((detected + missed).max(initial=1)) + 0.5
        axes.set_ylim(-float(false.max(initial=0)) - 0.5, top)
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=f"{finding.name}: every person", ylabel="false    |    reference")
        axes.legend(loc="upper right", ncols=3)

    return _plot(draw, (12.6, 3.1), f"Detected, missed and false {finding.name} of each person")


def _legend(axes: Axes, loc: Literal["lower right", "lower left", "upper left"]) -> None:
    """Add a legend where there is anything to name: a finding without references has no curve."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=loc)


def _plot(draw: Callable[[Axes], None], size: tuple[float, float], description: str) -> Plot:
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type] # the stubs want literal keys
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Plot(f"data:image/svg+xml;base64,{encoded}", description)
