"""Matching: the known traps, refusals, laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepmir.errors import ConfigError, GeometryError
from deepmir.evaluation.match import match_lesions

connectivities = st.sampled_from([6, 18, 26])
pairs_of_masks = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def row(text: str) -> np.ndarray:
    """Mask of (1, 1, n): ``#`` is True."""
    return np.array([[[character == "#" for character in text]]])


def match(prediction, reference, *, connectivity=26, **zones):
    return match_lesions(
        prediction, reference, connectivity=connectivity, rule="any-overlap", **zones
    )


def test_one_shared_voxel_is_a_hit():
    found = match(row("..###"), row("###.."))
    assert (found.tp_reference, found.tp_prediction, found.fn, found.fp) == (1, 1, 0, 0)
    assert found.pairs == ((1, 1),)


def test_touching_without_sharing_a_voxel_is_a_miss():
    found = match(row("...##"), row("###.."))
    assert (found.tp_reference, found.tp_prediction, found.fn, found.fp) == (0, 0, 1, 1)
    assert found.pairs == ()


def test_one_prediction_over_two_references_detects_both_and_is_correct_once():
    found = match(row("#####"), row("#...#"))
    assert (found.tp_reference, found.tp_prediction, found.fn, found.fp) == (2, 1, 0, 0)
    assert found.pairs == ((1, 1), (2, 1))


def test_two_predictions_on_one_reference_are_both_correct_and_detect_it_once():
    found = match(row("#...#"), row("#####"))
    assert (found.tp_reference, found.tp_prediction, found.fn, found.fp) == (1, 2, 0, 0)


@pytest.mark.parametrize(("connectivity", "count"), [(6, 2), (18, 2), (26, 1)])
def test_corner_touching_voxels_are_one_lesion_with_26_only(connectivity, count):
    corners = np.zeros((2, 2, 2), dtype=bool)
    corners[0, 0, 0] = corners[1, 1, 1] = True
    found = match(corners, corners, connectivity=connectivity)
    assert (found.n_reference, found.n_prediction, found.tp_reference) == (count,) * 3


@pytest.mark.parametrize(
    ("prediction", "reference", "fn", "fp"), [("...", "#.#", 2, 0), ("#.#", "...", 0, 2)]
)
def test_an_empty_side_leaves_misses_or_false_positives(prediction, reference, fn, fp):
    found = match(row(prediction), row(reference))
    assert (found.fn, found.fp, found.tp_reference) == (fn, fp, 0)


def test_two_empty_masks_have_nothing():
    found = match(row("..."), row("..."))
    assert (found.n_reference, found.n_prediction, found.fn, found.fp) == (0, 0, 0, 0)


def test_lesions_at_opposite_borders_are_not_joined():
    ends = np.zeros((4, 5, 6), dtype=bool)
    ends[0, 0, 0] = ends[-1, -1, -1] = ends[0, -1, 0] = True
    assert match(ends, ends).tp_reference == 3


def test_a_prediction_on_the_ignore_zone_is_neither_true_nor_false():
    found = match(row("##.#.#"), row("#....."), ignore=row("...#.."))
    assert (found.n_prediction, found.tp_prediction, found.fp, found.n_ignored) == (2, 1, 1, 1)


def test_a_prediction_that_hits_a_reference_is_scored_even_on_the_ignore_zone():
    found = match(row("##"), row("#."), ignore=row(".#"))
    assert (found.tp_prediction, found.n_ignored) == (1, 0)


def test_a_prediction_on_something_else_is_false_even_on_the_ignore_zone():
    found = match(row("##"), row(".."), ignore=row(".#"), never_ignored=row("#."))
    assert (found.fp, found.n_ignored) == (1, 0)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="any-overlap"):
        match_lesions(row("#"), row("#"), connectivity=26, rule="centroid")


@pytest.mark.parametrize("zones", [{}, {"ignore": row("##")}, {"never_ignored": row("##")}])
def test_masks_of_two_shapes_are_refused(zones):
    reference = row("#") if zones else row("##")
    with pytest.raises(GeometryError, match="one grid"):
        match(row("#"), reference, **zones)


@given(pairs_of_masks, connectivities)
@settings(deadline=None)
def test_swapping_the_roles_swaps_the_counts(masks, connectivity):
    here = match(*masks, connectivity=connectivity)
    there = match(*masks[::-1], connectivity=connectivity)
    assert (here.tp_reference, here.fn) == (there.tp_prediction, there.fp)
    assert (here.tp_prediction, here.fp) == (there.tp_reference, there.fn)
    assert {pair[::-1] for pair in here.pairs} == set(there.pairs)


@given(pairs_of_masks, connectivities, st.permutations([0, 1, 2]), st.integers(0, 2))
@settings(deadline=None)
def test_permuted_and_flipped_axes_change_no_count(masks, connectivity, axes, flipped):
    turned = [np.flip(mask.transpose(axes), flipped) for mask in masks]
    here = match(*masks, connectivity=connectivity)
    there = match(*turned, connectivity=connectivity)
    assert (here.fn, here.fp, here.tp_reference) == (there.fn, there.fp, there.tp_reference)
    assert len(here.pairs) == len(there.pairs)


@given(pairs_of_masks, connectivities)
@settings(deadline=None)
def test_a_mask_matches_itself_and_inputs_are_left_alone(masks, connectivity):
    before = [mask.copy() for mask in masks]
    match(*masks, connectivity=connectivity, ignore=masks[0])
    same = match(masks[0], masks[0], connectivity=connectivity)
    assert (same.fn, same.fp) == (0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(before, masks, strict=True))
