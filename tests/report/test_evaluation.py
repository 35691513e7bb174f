"""The page of an evaluation: plots, pictures, well-formed, at home everywhere."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from deepmir.evaluation.cohort import (
    compare_methods,
    compare_raters,
    summarise_cohort,
    summarise_runs,
)
from deepmir.evaluation.person import PersonMaps, Status, assess_person
from deepmir.evaluation.rules import RULES
from deepmir.labels import Finding
from deepmir.report.evaluation import EvaluationView, render_evaluation, rule_rows
from deepmir.report.gallery import Scene, error_card
from deepmir.report.plots import plots_of
from deepmir.volume import Modality, Volume

AFFINE = np.diag([-0.5, 0.75, 2.0, 1.0])
SHAPE = (40, 42, 16)
VOID = {"meta", "br", "input", "image", "img", "path", "circle"}


class Balance(HTMLParser):
    """Follows open tags; fails on a close tag that does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        """Open a tag."""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Close the tag that was opened last."""
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):  # noqa: ARG002
        """Allow only what has no content to close itself."""
        assert tag in VOID


def maps(number):
    reference, prediction = np.zeros(SHAPE, dtype=int), np.zeros(SHAPE, dtype=int)
    for at in range(number):
        reference[5 + 6 * at, 20, 8] = 1
        prediction[5 + 6 * at, 20, 8] = at % 2
    prediction[20, 5, 3] = 3
    return prediction, reference


def person(number, *, swapped=False):
    prediction, reference = maps(number)
    sides = (reference, prediction) if swapped else (prediction, reference)
    probability = np.where(sides[0] == 1, 0.9, 0.1).astype(np.float32)
    return assess_person(
        PersonMaps(
            prediction=sides[0],
            reference=sides[1],
            affine=AFFINE,
            person=f"sub-{number}",
            group="3T",
            probabilities={Finding.CMB: probability},
        ),
        rule=RULES["deepmir"],
    )


@pytest.fixture
def persons():
    return [person(number) for number in range(5)]


@pytest.fixture
def cards(persons):
    random = np.random.default_rng(0)
    image = Volume(random.normal(200, 20, SHAPE).astype(np.float32), AFFINE, Modality.SWI)
    missed = [one for one in persons[4].lesions if one.status is Status.MISSED]
    return tuple(error_card("sub-4", one, Scene(image, *maps(4))) for one in missed)


@pytest.fixture
def view(persons, cards):
    others = [person(number, swapped=True) for number in range(5)]
    return EvaluationView(
        title="ours against <rater>",
        cohort=summarise_cohort(persons, seed=0),
        comparisons=compare_methods(persons, {"other": others}, seed=0),
        runs=summarise_runs([persons, others], seed=0),
        raters=compare_raters({("A", "B"): persons}, seed=0),
        notices=("1 person has no prediction and is not scored: sub-9",),
        cards=cards,
        n_errors=11,
        settings=(("prediction", "here"),),
        version="1.2.3",
        started="2026-11-25T10:00:00+00:00",
    )


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(view):
    page = render_evaluation(view)
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "ours against &lt;rater&gt;" in page
    for anchor in re.findall(r'href="#([a-z-]+)"', page):
        assert f'id="{anchor}"' in page


def test_every_part_is_there_and_says_its_rule(view):
    page = render_evaluation(view)
    for part in ("confusion", "curves", "agreement", "strata", "methods", "runs", "raters"):
        section = page.partition(f'<section id="{part}">')[2].partition("</section>")[0]
        assert "any-overlap, 26-connectivity" in section, part
    assert page.count("<article") == len(view.cards) == 2
    assert "2 of 11 missed and false" in page
    assert view.notices[0] in page


def test_the_same_view_gives_the_same_page(view):
    assert render_evaluation(view) == render_evaluation(view)


def test_plots_are_pictures_with_a_description(view):
    plots = plots_of(view.cohort)
    assert [len(plots[name]) for name in ("curves", "agreement", "persons")] == [3, 3, 3]
    for group in plots.values():
        for plot in group:
            svg = base64.b64decode(plot.uri.partition("base64,")[2]).decode()
            assert "<svg" in svg
            assert plot.description


def test_a_cohort_without_anything_has_plots_too():
    nothing = assess_person(
        PersonMaps(
            prediction=np.zeros(SHAPE, dtype=int),
            reference=np.zeros(SHAPE, dtype=int),
            affine=AFFINE,
            probabilities={Finding.CMB: np.zeros(SHAPE, dtype=np.float32)},
        ),
        rule=RULES["deepmir"],
    )
    plots = plots_of(summarise_cohort([nothing], seed=0))
    assert len(plots["curves"]) == 3


def test_the_picture_shows_the_lesion_in_its_middle():
    prediction, reference = np.zeros(SHAPE, dtype=int), np.zeros(SHAPE, dtype=int)
    reference[30, 10, 4:6] = 1
    person = assess_person(
        PersonMaps(prediction=prediction, reference=reference, affine=AFFINE), rule=RULES["deepmir"]
    )
    image = Volume(np.full(SHAPE, 200, dtype=np.float32), AFFINE, Modality.SWI)
    card = error_card("sub-1", person.lesions[0], Scene(image, prediction, reference))
    for placed in card.picture.panels:
        (outline,) = placed.panel.outlines
        assert outline.kind == "reference"
        places = [float(part) for part in re.findall(r"M([\d.]+)", outline.path)]
        assert abs(np.mean(places) - placed.panel.width / 2) < 8


def test_all_of_a_rule_is_listed():
    names = [name for name, _ in rule_rows(RULES["valdo"])]
    assert {"criterion", "limit", "connectivity", "empties", "average", "source"} <= set(names)
