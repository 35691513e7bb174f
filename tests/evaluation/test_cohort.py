"""One person's rows, and the figures of many."""

import json

import numpy as np
import pytest

from deepmir.errors import GeometryError
from deepmir.evaluation.cohort import (
    StratumKind,
    compare_methods,
    compare_raters,
    pairs_of,
    summarise_cohort,
    summarise_runs,
)
from deepmir.evaluation.person import PersonMaps, Role, Status, assess_person
from deepmir.evaluation.records import (
    cohort_sheets,
    comparisons_sheet,
    figures_of,
    plain,
    raters_sheet,
    runs_sheet,
)
from deepmir.evaluation.rules import RULES
from deepmir.evaluation.tables import latex_table, markdown_table, paper_rows
from deepmir.io.tables import table_text
from deepmir.labels import Compartment, Finding
from deepmir.lesions import SizeClass

AFFINE = np.diag([-0.5, 0.75, 2.0, 1.0])
AFFINE[:3, 3] = [10, -20, 30]
MARKS = {".": 0, "C": 1, "I": 2, "K": 3, "x": 255}


def row(text):
    return np.array([[[MARKS[mark]]] for mark in text])


def assess(prediction, reference, *, rule="deepmir", person="sub-01", **more):
    maps = PersonMaps(
        prediction=row(prediction), reference=row(reference), affine=AFFINE, person=person, **more
    )
    return assess_person(maps, rule=RULES[rule])


def rows_of(person, role, finding=Finding.CMB):
    return [one for one in person.lesions if one.role is role and one.finding is finding]


# ---- one person ------------------------------------------------------------


def test_every_lesion_has_its_row():
    person = assess("CC..C.C.x"[:8], "C...K.x.")
    (reference,) = rows_of(person, Role.REFERENCE)
    assert (reference.status, reference.n_partners, reference.lies_on) == (Status.HIT, 1, "CMB")
    assert reference.dice == pytest.approx(2 / 3)
    assert reference.volume_error_mm3 == pytest.approx(0.75)
    predicted = rows_of(person, Role.PREDICTION)
    assert [one.status for one in predicted] == [Status.HIT, Status.FALSE, Status.IGNORED]
    assert [one.lies_on for one in predicted] == ["CMB", "CALCIFICATION", "ignored"]
    (missed,) = rows_of(person, Role.REFERENCE, Finding.CALCIFICATION)
    assert (missed.status, missed.lies_on, missed.dice) == (Status.MISSED, "CMB", None)


def test_size_and_place_are_measured_in_mm():
    person = assess(".........", "..CCC....")
    (lesion,) = rows_of(person, Role.REFERENCE)
    assert (lesion.n_voxels, lesion.volume_mm3) == (3, 2.25)
    assert lesion.centroid_mm == pytest.approx((10 - 0.5 * 3, -20, 30))
    assert lesion.diameter_mm == pytest.approx((6 * 2.25 / np.pi) ** (1 / 3))
    assert lesion.size_class is SizeClass.SMALL


def test_the_region_is_that_of_most_voxels():
    regions = np.array([109, 109, 222, 222, 222, 0, 0, 1, 1]).reshape(9, 1, 1)
    person = assess(".........", "CCC..C.CC", regions=regions)
    lesions = rows_of(person, Role.REFERENCE)
    assert [one.region for one in lesions] == [109, 0, 1]
    assert [one.compartment for one in lesions] == [
        Compartment.LOBAR,
        None,
        Compartment.INFRATENTORIAL,
    ]


def test_volumes_leave_out_what_is_not_scored():
    overlap = assess("CCC..", "CC.xx"[:2] + "x..").overlaps[Finding.CMB]
    assert (overlap.reference_mm3, overlap.prediction_mm3) == (1.5, 1.5)
    assert (overlap.dice, overlap.volume_error_mm3) == (1.0, 0.0)
    assert assess("...", "...").overlaps[Finding.CMB].dice is None


def test_maps_of_other_shapes_are_refused():
    with pytest.raises(GeometryError, match="regions"):
        assess("C..", "C..", regions=np.zeros((4, 1, 1), dtype=int))
    with pytest.raises(GeometryError, match="probabilities of CMB"):
        assess("C..", "C..", probabilities={Finding.CMB: np.zeros((4, 1, 1), dtype=np.float32)})


# ---- many ------------------------------------------------------------------

TEXTS = [
    ("C.C.I...", "C...I..."),
    ("........", "C.....K."),
    ("C.......", "........"),
    ("........", "........"),
    ("C.C.C.K.", "C.C.C.K."),
    ("..C...I.", "..K...I."),
]


def cohort_of(texts=TEXTS, *, rule="deepmir", groups="aabb", **more):
    return [
        assess(
            prediction,
            reference,
            rule=rule,
            person=f"sub-{number}",
            group=groups[number % len(groups)],
            **more,
        )
        for number, (prediction, reference) in enumerate(texts)
    ]


@pytest.fixture
def cohort():
    return summarise_cohort(cohort_of(), seed=1)


def test_pooled_figures_and_persons_without(cohort):
    cmb = cohort.of(Finding.CMB)
    assert (cmb.detection.n_persons, cmb.detection.n_persons_without) == (6, 3)
    assert (cmb.detection.n_reference, cmb.detection.n_detected) == (5, 4)
    assert cmb.intervals["sensitivity"].value == pytest.approx(0.8)
    assert cmb.detection.false_per_person_without == pytest.approx(2 / 3)
    assert cmb.agreement.mean_error == pytest.approx(2 / 6)
    assert cmb.overlap.n_matched == 4
    assert cmb.overlap.matched_dice == 1.0
    assert cmb.overlap.dice_pooled == pytest.approx(8 / 12)


@pytest.mark.parametrize(
    ("rule", "f1", "n"),
    [
        ("deepmir", 2 * 0.8 * (4 / 7) / (0.8 + 4 / 7), 6),
        ("paper", (2 / 3 + 0 + 1) / 3, 3),
        ("valdo", np.median([2 / 3, 0, 0, 1, 0]), 5),
        ("valdo-as-published", np.median([2 / 3, 0, 1]), 3),
        ("panoptica", np.mean([2 / 3, 0, 0, 1, 0]), 5),
    ],
)
def test_persons_are_averaged_as_the_rules_source_does(rule, f1, n):
    found = summarise_cohort(cohort_of(rule=rule), seed=1).of(Finding.CMB)
    assert found.as_rule.f1 == pytest.approx(f1)
    assert found.n_in_rule == n


def test_strata_hold_every_lesion_once(cohort):
    sizes = [one for one in cohort.strata if one.kind is StratumKind.SIZE]
    for finding in Finding:
        parts = [one.detection for one in sizes if one.finding is finding]
        assert sum(one.n_reference for one in parts) == cohort.of(finding).detection.n_reference
        assert sum(one.n_predicted for one in parts) == cohort.of(finding).detection.n_predicted
    groups = [one for one in cohort.strata if one.kind is StratumKind.GROUP]
    assert {one.name for one in groups} == {"a", "b"}
    assert sum(one.detection.n_persons for one in groups if one.finding is Finding.CMB) == 6
    assert not [one for one in cohort.strata if one.kind is StratumKind.REGION]


def test_places_are_strata_where_regions_are_known():
    regions = np.array([109] * 4 + [222] * 4).reshape(8, 1, 1)
    found = summarise_cohort(cohort_of(regions=regions), seed=1)
    names = [
        one.name
        for one in found.strata
        if one.kind is StratumKind.COMPARTMENT and one.finding is Finding.CMB
    ]
    assert names == ["lobar", "deep"]
    regions_named = {one.name for one in found.strata if one.kind is StratumKind.REGION}
    assert {"left frontal", "right putamen"} <= regions_named


def test_only_the_findings_that_are_told_get_figures():
    found = summarise_cohort(cohort_of(), findings=(Finding.CMB,), seed=1)
    assert [one.finding for one in found.summaries] == [Finding.CMB]
    assert {one.finding for one in found.strata} == {Finding.CMB}


def test_the_order_of_persons_changes_no_figure(cohort):
    turned = summarise_cohort(cohort_of()[::-1], seed=1)
    for finding in Finding:
        assert turned.of(finding).detection == cohort.of(finding).detection
        assert turned.of(finding).agreement.burden == cohort.of(finding).agreement.burden


# ---- methods, runs, raters -------------------------------------------------


def test_methods_are_compared_on_the_same_persons():
    perfect = cohort_of([(reference, reference) for _, reference in TEXTS])
    found = compare_methods(cohort_of(), {"perfect": perfect}, seed=1)
    assert len(found) == len(Finding) * 4
    f1 = next(
        one for one in found if one.finding is Finding.CMB and one.comparison.statistic == "f1"
    )
    assert f1.comparison.second == 1.0
    assert f1.comparison.difference.value < 0
    assert f1.p_bootstrap_holm >= f1.comparison.p_bootstrap
    with pytest.raises(ValueError, match="other persons"):
        compare_methods(cohort_of(), {"fewer": perfect[:3]}, seed=1)


def test_runs_are_summarised():
    runs = summarise_runs([cohort_of(), cohort_of()], seed=1)
    assert runs[Finding.CMB][0].between_runs_sd == 0
    with pytest.raises(ValueError, match="other persons"):
        summarise_runs([cohort_of(), cohort_of()[:2]], seed=1)


def test_raters_do_not_depend_on_who_is_first():
    swapped = cohort_of([(reference, prediction) for prediction, reference in TEXTS])
    here = compare_raters({("A", "B"): cohort_of()}, seed=1)
    there = compare_raters({("B", "A"): swapped}, seed=1)
    for one, other in zip(here, there, strict=True):
        assert one.f1.value == pytest.approx(other.f1.value)
        assert one.dice.value == pytest.approx(other.dice.value)
        assert one.presence_kappa == pytest.approx(other.presence_kappa)
        assert one.intraclass.value == pytest.approx(other.intraclass.value)
    assert len(pairs_of("ABCD")) == 6


# ---- tables ----------------------------------------------------------------


def test_every_table_fits_its_columns_and_names_the_rule(cohort):
    perfect = cohort_of([(reference, reference) for _, reference in TEXTS])
    rule = cohort.rule.text
    sheets = [
        *cohort_sheets(cohort),
        comparisons_sheet(compare_methods(cohort_of(), {"p": perfect}, seed=1), rule),
        runs_sheet(summarise_runs([cohort_of(), perfect], seed=1), rule),
        raters_sheet(compare_raters({("A", "B"): cohort_of()}, seed=1), rule),
    ]
    for sheet in sheets:
        text = table_text(sheet.columns, sheet.rows)
        assert len({column.name for column in sheet.columns}) == len(sheet.columns)
        assert all(line.endswith(f"\t{rule}") for line in text.splitlines()[1:]), sheet.name


def test_figures_are_named_once_and_described(cohort):
    figures = figures_of(cohort.of(Finding.CMB))
    assert len({figure.name for figure in figures}) == len(figures)
    assert all(figure.description for figure in figures)


def test_tables_for_a_paper_state_rule_and_intervals(cohort):
    markdown, latex = markdown_table(cohort), latex_table(cohort)
    for text in (markdown, latex):
        assert "any-overlap, 26-connectivity, 6 persons" in text
        assert "bootstrap over persons" in text
    assert paper_rows(cohort)[0][:5] == ("CMB", "3 / 3", "4", "3", "1")
    assert latex.count(r"\\") == 4
    assert "%" not in latex.replace(r"\%", "")


def test_everything_becomes_plain_json(cohort):
    text = json.dumps(plain(cohort))
    assert json.loads(text)["summaries"][0]["finding"] == "CMB"
    assert "NaN" not in text
