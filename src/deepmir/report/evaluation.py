"""The page of an evaluation: one HTML file that needs no network and prints well."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from deepmir.evaluation import tables
from deepmir.evaluation.agreement import BURDEN_NAMES
from deepmir.evaluation.bootstrap import Runs
from deepmir.evaluation.cohort import CohortAssessment, MethodComparison, RaterAgreement, Stratum
from deepmir.evaluation.records import Figure, figures_of
from deepmir.evaluation.rules import EMPTIES_TEXT, Rule
from deepmir.labels import Finding
from deepmir.report.gallery import FIELD_MM, ErrorCard
from deepmir.report.pages import template
from deepmir.report.plots import plots_of


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EvaluationView:
    """Everything on the page of an evaluation."""

    title: str
    cohort: CohortAssessment
    comparisons: tuple[MethodComparison, ...]
    runs: Mapping[Finding, tuple[Runs, ...]]
    raters: tuple[RaterAgreement, ...]
    notices: tuple[str, ...]
    """What a reader must know first, such as persons with one side only."""
    cards: tuple[ErrorCard, ...]
    n_errors: int
    """Missed and false lesions in all, pictured or not."""
    settings: tuple[tuple[str, str], ...]
    """(name, value): sources, options, versions."""
    version: str
    started: str


def render_evaluation(view: EvaluationView) -> str:
    """Render the page; the same view gives the same text."""
    cohort = view.cohort
    return template("evaluation.html.j2").render(
        view=view,
        cohort=cohort,
        plots=plots_of(cohort),
        paper_head=tables.PAPER_HEAD,
        paper_rows=tables.paper_rows(cohort),
        paper_note=tables.paper_note(cohort),
        figures={summary.finding: _shown(figures_of(summary)) for summary in cohort.summaries},
        strata=_by_kind(cohort.strata),
        burden_names=BURDEN_NAMES,
        rule_rows=rule_rows(cohort.rule),
        empties_text=EMPTIES_TEXT[cohort.rule.empties],
        field_mm=FIELD_MM,
    )


def rule_rows(rule: Rule) -> tuple[tuple[str, str], ...]:
    """Everything that a rule says, name by name."""
    return tuple(
        (field.name.replace("_", " "), "none" if value is None else str(value))
        for field in fields(rule)
        for value in (getattr(rule, field.name),)
    )


def _shown(figures: tuple[Figure, ...]) -> tuple[Figure, ...]:
    """Figures that the first table does not hold already."""
    first = {"sensitivity", "precision", "f1", "false_per_person", "false_per_person_without"}
    return tuple(
        figure
        for figure in figures
        if figure.name not in first
        and (not figure.name.startswith("n_") or figure.name in ("n_covering", "n_split"))
    )


def _by_kind(strata: tuple[Stratum, ...]) -> dict[str, tuple[Stratum, ...]]:
    kinds = dict.fromkeys(str(one.kind) for one in strata)
    return {kind: tuple(one for one in strata if one.kind == kind) for kind in kinds}
