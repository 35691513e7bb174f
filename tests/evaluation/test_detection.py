"""Scores: known answers, undefined values, confusion, pooling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmir.errors import GeometryError, InputError
from deepmir.evaluation.detection import (
    IGNORE,
    Detection,
    evaluate_person,
    mean_over_persons,
    pool,
)
from deepmir.labels import Finding

LETTERS = {".": 0, "C": 1, "I": 2, "K": 3, "x": IGNORE}


def row(text: str) -> np.ndarray:
    """Label map of (1, 1, n): C microbleed, I iron, K calcification, x ignored."""
    return np.array([[[LETTERS[character] for character in text]]], dtype=np.uint8)


def evaluate(prediction: str, reference: str):
    return evaluate_person(row(prediction), row(reference), connectivity=26, rule="any-overlap")


def detection(**counts) -> Detection:
    zero = dict.fromkeys(Detection.__dataclass_fields__, 0)
    return Detection(**{**zero, "n_persons": 1, **counts})


def test_known_answer_per_finding():
    score = evaluate("CC.C.II.K.", "C..C.....K")
    cmb = score.cmb
    assert (cmb.n_reference, cmb.n_detected, cmb.n_predicted, cmb.n_correct) == (2, 2, 2, 2)
    assert (cmb.sensitivity, cmb.precision, cmb.f1) == (1.0, 1.0, 1.0)
    assert (score.iron.sensitivity, score.iron.precision, score.iron.f1) == (None, 0.0, 0.0)
    assert (score.iron.n_persons_without, score.iron.n_false_without) == (1, 1)
    assert (score.calcification.n_missed, score.calcification.n_false) == (1, 1)
    assert score.calcification.n_false_without == 0


def test_f1_is_the_harmonic_mean():
    found = detection(n_reference=4, n_detected=2, n_predicted=3, n_correct=3)
    assert (found.sensitivity, found.precision) == (0.5, 1.0)
    assert found.f1 == pytest.approx(2 / 3)


def test_what_is_not_defined_is_none():
    nothing = evaluate("...", "...").cmb
    assert (nothing.sensitivity, nothing.precision, nothing.f1) == (None, None, None)
    assert (nothing.false_per_person, nothing.false_per_person_without) == (0.0, 0.0)
    missed = evaluate("...", "C..").cmb
    assert (missed.sensitivity, missed.precision, missed.f1) == (0.0, None, 0.0)
    assert missed.false_per_person_without is None


def test_a_finding_of_another_kind_is_no_hit_and_shows_in_the_confusion():
    score = evaluate("C.I.C.K.C", "K.I.C...x")
    assert (score.cmb.n_correct, score.cmb.n_false, score.cmb.n_ignored) == (1, 1, 1)
    assert score.confusion.predicted == ((1, 0, 1, 1, 0), (0, 1, 0, 0, 0), (0, 0, 0, 0, 1))
    assert score.confusion.missed == (0, 0, 0)
    assert evaluate("...", "CIK").confusion.missed == (1, 1, 1)


def test_confusion_prefers_the_own_finding_then_the_largest_share():
    assert evaluate("CCCC", "CIII").confusion.predicted[0] == (1, 0, 0, 0, 0)
    assert evaluate("CCCC", "KIIx").confusion.predicted[0] == (0, 1, 0, 0, 0)
    assert evaluate("CCCC", ".x..").confusion.predicted[0] == (0, 0, 0, 1, 0)


def test_an_ignored_deposit_is_no_reference_lesion():
    score = evaluate("..", "xx").cmb
    assert (score.n_reference, score.n_persons_without) == (0, 1)


def test_a_prediction_on_an_ignored_and_a_foreign_deposit_is_false():
    score = evaluate("CC", "xI").cmb
    assert (score.n_false, score.n_ignored) == (1, 0)


def test_of_gives_each_finding():
    score = evaluate("C", "C")
    expected = [score.cmb, score.iron, score.calcification]
    assert [score.of(finding) for finding in Finding] == expected


def test_pooling_adds_counts_and_keeps_clean_persons_apart():
    both = pool([evaluate("C.C", "C.."), evaluate("C.C", "...")])
    assert (both.cmb.n_persons, both.cmb.n_persons_without) == (2, 1)
    assert (both.cmb.sensitivity, both.cmb.precision) == (1.0, 0.25)
    assert both.cmb.false_per_person == 1.5
    assert both.cmb.false_per_person_without == 2.0
    assert both.confusion.predicted[0] == (1, 0, 0, 0, 3)


def test_only_scores_of_one_rule_are_pooled():
    other = evaluate_person(row("C"), row("C"), connectivity=6, rule="any-overlap")
    with pytest.raises(ValueError, match="one rule"):
        pool([evaluate("C", "C"), other])
    with pytest.raises(ValueError, match="one rule"):
        pool([])


def test_mean_over_persons_leaves_out_persons_without_the_finding():
    persons = [evaluate("C", "C").cmb, evaluate(".", "C").cmb, evaluate("C", ".").cmb]
    mean = mean_over_persons(persons)
    assert (mean.n_persons, mean.sensitivity, mean.precision, mean.f1) == (2, 0.5, 1.0, 0.5)
    nobody = mean_over_persons(persons[2:])
    assert (nobody.n_persons, nobody.sensitivity, nobody.precision) == (0, None, None)


def test_grids_and_values_are_checked():
    with pytest.raises(GeometryError, match="one grid"):
        evaluate("C", "CC")
    with pytest.raises(InputError, match=r"prediction holds the values \[255\]"):
        evaluate("x", "C")
    with pytest.raises(InputError, match=r"reference holds the values \[9\]"):
        evaluate_person(row("C"), row("C") * 9, connectivity=26, rule="any-overlap")


maps = st.integers(0, 100_000).map(
    lambda seed: np.random.default_rng(seed).choice(
        [0, 1, 2, 3], size=(2, 4, 5, 6), p=[0.85, 0.05, 0.05, 0.05]
    )
)


@given(maps)
@settings(deadline=None, max_examples=40)
def test_swapping_the_roles_swaps_sensitivity_and_precision(pair):
    here = evaluate_person(pair[0], pair[1], connectivity=26, rule="any-overlap")
    there = evaluate_person(pair[1], pair[0], connectivity=26, rule="any-overlap")
    for finding in Finding:
        assert here.of(finding).sensitivity == there.of(finding).precision
        assert here.of(finding).f1 == there.of(finding).f1


@given(maps, st.permutations([0, 1, 2]), st.integers(0, 2))
@settings(deadline=None, max_examples=40)
def test_turning_both_maps_changes_nothing(pair, axes, flipped):
    turned = np.flip(pair.transpose([0, *(axis + 1 for axis in axes)]), flipped + 1)
    here = evaluate_person(pair[0], pair[1], connectivity=26, rule="any-overlap")
    there = evaluate_person(turned[0], turned[1], connectivity=26, rule="any-overlap")
    assert here == there


@given(maps, maps)
@settings(deadline=None, max_examples=30)
def test_the_confusion_holds_every_prediction_once_and_pooling_is_a_sum(first, second):
    scores = [
        evaluate_person(pair[0], pair[1], connectivity=6, rule="any-overlap")
        for pair in (first, second)
    ]
    pooled = pool(scores)
    assert pooled == pool(scores[::-1])
    for index, finding in enumerate(Finding):
        found = pooled.of(finding)
        counted = pooled.confusion.predicted[index]
        assert sum(counted) == found.n_predicted + found.n_ignored
        assert counted[index] == found.n_correct
