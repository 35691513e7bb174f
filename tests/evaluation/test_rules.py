"""Every trap under every named rule, with answers made by hand from the rules' sources."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmir.errors import ConfigError, GeometryError
from deepmir.evaluation.detection import evaluate_person, ratios_of
from deepmir.evaluation.rules import RULES, Assignment, Criterion, Empties, Rule, rule_named

AFFINE = np.diag([-0.5, 0.75, 2.0, 1.0])
ONE_TO_ONE = ("valdo", "microbleednet", "panoptica")


def row(text: str) -> np.ndarray:
    """Map of (n, 1, 1): ``#`` is a microbleed."""
    return np.array([[[int(character == "#")]] for character in text])


def counts(prediction, reference, rule, **options):
    """Give detected, missed, correct, false."""
    found = evaluate_person(prediction, reference, rule=rule, affine=AFFINE, **options).cmb
    return found.n_detected, found.n_missed, found.n_correct, found.n_false


# ---- traps -----------------------------------------------------------------

CORNERS = np.zeros((3, 3, 3), dtype=int)
CORNERS[0, 0, 0] = CORNERS[1, 1, 1] = 1


@pytest.mark.parametrize(("name", "lesions"), [(name, 1) for name in RULES if name != "shivai"])
def test_corner_touching_voxels_are_one_lesion(name, lesions):
    assert counts(CORNERS, CORNERS, name) == (lesions, 0, lesions, 0)
    assert counts(CORNERS, CORNERS, name, connectivity=6) == (2, 0, 2, 0)


def test_corner_touching_voxels_are_two_lesions_for_shivai():
    assert counts(CORNERS, CORNERS, "shivai") == (2, 0, 2, 0)
    edges = np.zeros((2, 2, 2), dtype=int)
    edges[0, 0, 0] = edges[1, 1, 0] = 1
    assert counts(edges, edges, "shivai") == (1, 0, 1, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepmir", (2, 0, 1, 0)),
        ("paper", (2, 0, 1, 0)),
        ("shivai", (2, 0, 1, 0)),
        ("valdo", (1, 1, 1, 0)),
        ("microbleednet", (1, 1, 1, 0)),
        ("panoptica", (0, 2, 0, 1)),  # 2 of 7 voxels shared, below a half
        ("valdo-as-published", (0, 2, 0, 1)),  # no centroid within 0.1 voxel
    ],
)
def test_one_prediction_over_two_references(name, expected):
    assert counts(row("#######"), row("##...##"), name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepmir", (1, 0, 2, 0)),
        ("paper", (1, 0, 2, 0)),
        ("shivai", (1, 0, 2, 0)),
        ("valdo", (1, 0, 1, 1)),
        ("microbleednet", (1, 0, 1, 1)),
        ("panoptica", (1, 0, 1, 1)),
        ("valdo-as-published", (0, 1, 0, 2)),
    ],
)
def test_two_predictions_on_one_reference(name, expected):
    assert counts(row("#.#####"), row("#######"), name) == expected


def test_covering_and_splitting_are_counted_beside():
    over = evaluate_person(row("#####"), row("#...#"), rule="deepmir").cmb
    assert (over.n_covering, over.n_split) == (1, 0)
    split = evaluate_person(row("#...#"), row("#####"), rule="deepmir").cmb
    assert (split.n_covering, split.n_split) == (0, 1)


@pytest.mark.parametrize("name", RULES)
def test_an_empty_side(name):
    assert counts(row("...."), row("#..#"), name) == (0, 2, 0, 0)
    assert counts(row("#..#"), row("...."), name) == (0, 0, 0, 2)
    assert counts(row("...."), row("...."), name) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", RULES)
def test_lesions_at_opposite_borders_are_not_joined(name):
    ends = np.zeros((4, 5, 6), dtype=int)
    ends[0, 0, 0] = ends[-1, -1, -1] = ends[0, -1, 0] = ends[-1, 0, 0] = 1
    assert counts(ends, ends, name) == (4, 0, 4, 0)


# ---- what is undefined -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "both", "no_reference", "no_prediction"),
    [
        ("deepmir", (None, None, None), (None, 0.0, 0.0), (0.0, None, 0.0)),
        ("shivai", (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ("microbleednet", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ("valdo", (None, None, None), (None, 0.0, 0.0), (0.0, None, 0.0)),
        ("valdo-as-published", (None, None, None), (None, 0.0, None), (0.0, None, 0.0)),
    ],
)
def test_what_a_rule_puts_where_nothing_can_be_divided(name, both, no_reference, no_prediction):
    for prediction, reference, expected in (
        ("....", "....", both),
        ("#...", "....", no_reference),
        ("....", "#...", no_prediction),
    ):
        found = evaluate_person(row(prediction), row(reference), rule=name, affine=AFFINE).cmb
        ratios = ratios_of(found, RULES[name].empties)
        assert (ratios.sensitivity, ratios.precision, ratios.f1) == expected


def test_precision_of_shivai_counts_references():
    over = evaluate_person(row("#####..#"), row("#...#..."), rule="shivai").cmb
    assert over.precision == pytest.approx(2 / 3)  # two hit references, one false prediction
    assert (over.n_predicted, over.n_correct, over.n_false) == (2, 1, 1)
    assert evaluate_person(row("#####..#"), row("#...#..."), rule="deepmir").cmb.precision == 0.5


# ---- distance, intersection over union, assignment -------------------------


def points(shape, *places):
    data = np.zeros(shape, dtype=int)
    for place in places:
        data[place] = 1
    return data


def test_distance_is_in_mm_and_less_than_the_limit():
    shape = (30, 30, 30)
    reference = points(shape, (3, 3, 3))
    near, far = points(shape, (12, 3, 3)), points(shape, (13, 3, 3))  # 4.5 and 5.0 mm
    assert counts(near, reference, "valdo") == (1, 0, 1, 0)
    assert counts(far, reference, "valdo") == (0, 1, 0, 1)
    thick = points(shape, (3, 3, 6))  # 3 voxels, 6 mm
    assert counts(thick, reference, "valdo") == (0, 1, 0, 1)
    five_voxels = replace(RULES["valdo-as-published"], limit=5.0)
    assert counts(thick, reference, five_voxels) == (1, 0, 1, 0)


def test_the_published_script_of_valdo_counts_ties_twice_and_tries_the_nearest_only():
    published = replace(RULES["valdo-as-published"], limit=5.0)
    shape = (20, 1, 1)
    tie = evaluate_person(
        points(shape, (4, 0, 0), (8, 0, 0)), points(shape, (6, 0, 0)), rule=published
    ).cmb
    assert (tie.n_detected, tie.n_reference, tie.n_false) == (2, 1, 0)
    assert tie.f1 == pytest.approx(4 / 3)  # 2 * TP / (2 * TP + FP + FN) with FN = -1
    # both predictions are nearest to the second reference: the first stays missed
    prediction, reference = (
        points(shape, (7, 0, 0), (10, 0, 0)),
        points(shape, (3, 0, 0), (9, 0, 0)),
    )
    assert counts(prediction, reference, published) == (1, 1, 1, 1)
    mended = replace(RULES["valdo"], criterion=Criterion.VOXEL_DISTANCE)
    assert counts(prediction, reference, mended) == (2, 0, 2, 0)


def test_the_best_sum_can_have_fewer_pairs_than_the_most():
    # first reference: 10 voxels and a bridge; second: 1 voxel. The first prediction shares 9 with
    # the first and 1 with the second, the second prediction 1 with the first
    reference, prediction = np.zeros((16, 1, 3), dtype=int), np.zeros((16, 1, 3), dtype=int)
    reference[0:10, 0, 0] = reference[0, 0, 1] = reference[0, 0, 2] = reference[12, 0, 0] = 1
    prediction[2:13, 0, 0] = prediction[0, 0, 2] = 1
    best = rule_named("microbleednet")
    most = replace(best, assignment=Assignment.OPTIMAL)
    assert counts(prediction, reference, best) == (1, 1, 1, 1)
    assert counts(prediction, reference, most) == (2, 0, 2, 0)


def test_intersection_over_union_reaches_its_limit():
    assert counts(row("##.."), row(".##."), "panoptica") == (0, 1, 0, 1)  # 1 of 3
    assert counts(row("##.."), row("#..."), "panoptica") == (1, 0, 1, 0)  # 1 of 2
    lower = replace(RULES["panoptica"], limit=0.3)
    assert counts(row("##.."), row(".##."), lower) == (1, 0, 1, 0)


def test_size_limits_drop_lesions_on_both_sides():
    several = replace(RULES["deepmir"], min_voxels=2)
    assert counts(row("##..#"), row("##.#."), several) == (1, 0, 1, 0)
    # a voxel has 0.75 mm³: two of them are a sphere of 1.42 mm
    small = replace(RULES["deepmir"], max_diameter_mm=1.4)
    assert counts(row("##..#"), row("##.#."), small) == (0, 1, 0, 1)


# ---- declaring a rule ------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_every_rule_names_its_source_and_says_itself(name):
    rule = RULES[name]
    assert rule.name == name
    assert len(rule.source) > 40
    assert rule.text.startswith(f"{name}: ")
    assert f"{rule.connectivity}-connectivity" in rule.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"connectivity": 8}, "6, 18 or 26"),
        ({"limit": 3.0}, "needs no limit"),
        ({"criterion": Criterion.DISTANCE}, "needs a limit"),
        ({"criterion": Criterion.DISTANCE, "limit": -1.0}, "above 0"),
        ({"criterion": Criterion.IOU, "limit": 1.5}, "at most 1"),
        ({"min_voxels": 0}, "least number"),
        ({"max_diameter_mm": 0.0}, "above 0"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        replace(RULES["deepmir"], **changes)


def test_an_unknown_name_and_a_contradiction_are_refused():
    with pytest.raises(ConfigError, match="microbleednet"):
        rule_named("best")
    with pytest.raises(ConfigError, match="needs a connectivity"):
        rule_named("any-overlap")
    with pytest.raises(ConfigError, match="26-connectivity, but 6"):
        evaluate_person(row("#"), row("#"), rule=RULES["deepmir"], connectivity=6)


def test_a_rule_in_mm_wants_a_grid():
    with pytest.raises(GeometryError, match="affine"):
        evaluate_person(row("#"), row("#"), rule="valdo")


def test_a_confused_finding_is_named_whatever_the_rule():
    for name in RULES:
        found = evaluate_person(row("##."), 3 * row("##."), rule=name, affine=AFFINE)
        assert found.confusion.predicted[0] == (0, 0, 1, 0, 0)
        assert (found.cmb.n_false, found.calcification.n_missed) == (1, 1)


# ---- laws ------------------------------------------------------------------

maps = st.integers(0, 100_000).map(
    lambda seed: np.random.default_rng(seed).choice([0, 1], size=(2, 6, 5, 4), p=[0.8, 0.2])
)
symmetric = st.sampled_from(["deepmir", "valdo", "microbleednet", "panoptica"])


@given(maps, symmetric)
@settings(deadline=None, max_examples=60)
def test_swapping_the_roles_swaps_sensitivity_and_precision(pair, name):
    here = evaluate_person(*pair, rule=name, affine=AFFINE).cmb
    there = evaluate_person(*pair[::-1], rule=name, affine=AFFINE).cmb
    assert here.f1 == pytest.approx(there.f1)
    assert here.sensitivity == there.precision


@given(maps, st.sampled_from(ONE_TO_ONE))
@settings(deadline=None, max_examples=60)
def test_one_to_one_counts_every_lesion_once(pair, name):
    found = evaluate_person(*pair, rule=name, affine=AFFINE).cmb
    assert found.n_detected == found.n_correct <= min(found.n_reference, found.n_predicted)
    assert (found.n_covering, found.n_split) == (0, 0)


@given(maps, st.permutations([0, 1, 2]), st.integers(0, 2), symmetric)
@settings(deadline=None, max_examples=40)
def test_turning_both_maps_changes_no_count(pair, axes, flipped, name):
    turned = [np.flip(side.transpose(axes), flipped) for side in pair]
    steps = np.diag(AFFINE)[list(axes)]
    here = evaluate_person(*pair, rule=name, affine=AFFINE).cmb
    there = evaluate_person(*turned, rule=name, affine=np.diag([*steps, 1.0])).cmb
    assert (here.n_detected, here.n_false) == (there.n_detected, there.n_false)


def test_of_equal_sums_the_one_with_more_pairs_is_taken_however_the_head_lies():
    pair = np.random.default_rng(57).choice([0, 1], size=(2, 6, 5, 4), p=[0.8, 0.2])
    here = evaluate_person(*pair, rule="microbleednet", affine=AFFINE).cmb
    there = evaluate_person(
        *(np.flip(side, 0) for side in pair), rule="microbleednet", affine=AFFINE
    ).cmb
    assert (here.n_detected, here.n_false) == (there.n_detected, there.n_false)


@given(maps)
@settings(deadline=None, max_examples=40)
def test_the_most_pairs_are_never_fewer_than_greedy_ones(pair):
    greedy = Rule(
        name="g", criterion=Criterion.OVERLAP, assignment=Assignment.GREEDY, connectivity=6
    )
    found = [
        evaluate_person(*pair, rule=replace(greedy, assignment=assignment)).cmb.n_detected
        for assignment in (Assignment.OPTIMAL, Assignment.GREEDY, Assignment.ALL)
    ]
    assert found[1] <= found[0] <= found[2]


def test_empties_are_all_in_use():
    assert {rule.empties for rule in RULES.values()} == set(Empties)
