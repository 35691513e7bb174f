"""Patches of the findings part: where they lie, how they vary, what must never change."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmir.errors import InputError
from deepmir.labels import Finding
from deepmir.model.losses import IGNORE
from deepmir.training.patches import (
    PatchSampling,
    _component_centres,
    _window,
    draw_patch,
    list_cases,
    make_patch,
    open_case,
    target_for,
    vary_intensities,
)

SMALL = PatchSampling(shape=(8, 8, 4))
PLAIN = replace(SMALL, augment=False, subsets=(("T2w+swi+Chimap", 1.0),))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_cases_are_listed_by_head(cases):
    assert list_cases(cases, (1, 2)) == ("case-00000", "case-00001")
    assert list_cases(cases, (13,)) == ("case-00002",)


def test_a_case_being_written_is_not_listed(cases):
    (cases / "case-00000" / "case.json").unlink()
    assert list_cases(cases, (1, 2)) == ("case-00001",)


def test_lesions_and_mimics_are_found(cases):
    case = open_case(cases / "case-00000")
    assert [len(centres) for centres in case.findings] == [1, 1, 1]
    assert case.findings[1].tolist()[0][0] == 13
    assert case.findings[2].tolist() == [[8, 18, 3]]
    assert [kind.tolist() for kind in case.mimics] == [[[14, 18, 6]]]


def test_a_plain_patch_is_what_lies_on_disk(cases):
    case = open_case(cases / "case-00000")
    patch = make_patch(case, (10, 12, 5), rng(), sampling=PLAIN)
    box = (slice(6, 14), slice(8, 16), slice(3, 7))
    np.testing.assert_array_equal(patch.inputs[:3], case.channels[(slice(None), *box)])
    np.testing.assert_array_equal(patch.target, case.labels[box])
    assert (patch.inputs[3:6] == 1).all()


def test_context_is_0_outside_the_brain_and_1_deep_inside(cases):
    case = open_case(cases / "case-00000")
    for seed in range(10):
        far = make_patch(case, (-30, 12, 5), rng(seed), sampling=SMALL)
        assert (far.inputs[6:] == 0).all()
    sampling = replace(PLAIN, shape=(20, 24, 10))
    brain = make_patch(case, (10, 12, 5), rng(), sampling=sampling).inputs[6]
    assert brain[10, 12, 5] == 1
    assert brain[0, 0, 0] == 0


@given(st.integers(0, 2**32 - 1))
def test_the_same_seed_draws_the_same_patch(phantom, seed):
    one, other = (make_patch(phantom, (9, 9, 5), rng(seed), sampling=SMALL) for _ in range(2))
    np.testing.assert_array_equal(one.inputs, other.inputs)
    np.testing.assert_array_equal(one.target, other.target)
    assert one.inputs.shape == (8, 8, 8, 4)


@given(st.integers(0, 2**32 - 1))
def test_an_absent_contrast_is_zeros_and_says_so(phantom, seed):
    inputs = make_patch(phantom, (9, 9, 5), rng(seed), sampling=SMALL).inputs
    for channel in range(3):
        assert inputs[3 + channel].min() == inputs[3 + channel].max() in (0, 1)
        if inputs[3 + channel].max() == 0:
            assert (inputs[channel] == 0).all()


@given(st.integers(0, 2**32 - 1))
def test_variation_leaves_zeros_and_the_sign_of_strong_chi(seed):
    channels = np.zeros((3, 2, 2, 2), np.float32)
    channels[:, 0] = [[[0.5]], [[-0.5]], [[1.0]]]
    channels[2, 0, 0] = -1.0
    varied = vary_intensities(channels, rng(seed), replace(SMALL, noise=0.0))
    assert (varied[:, 1] == 0).all()
    assert (np.sign(varied[2, 0]) == np.sign(channels[2, 0])).all()


@given(st.integers(0, 2**32 - 1))
def test_no_voxel_of_a_label_is_lost_by_turning(phantom, seed):
    sampling = replace(SMALL, shape=(20, 20, 10), subsets=(("Chimap", 1.0),))
    patch = make_patch(phantom, (10, 12, 5), rng(seed), sampling=sampling)
    straight = make_patch(
        phantom, (10, 12, 5), rng(seed), sampling=replace(sampling, augment=False)
    )
    np.testing.assert_array_equal(
        np.bincount(patch.target.ravel()), np.bincount(straight.target.ravel())
    )


@pytest.mark.parametrize(
    ("present", "told"), [((1, 1, 1), 3), ((0, 0, 1), 3), ((1, 1, 0), IGNORE), ((0, 1, 0), IGNORE)]
)
def test_without_chi_a_calcification_is_ignored(present, told):
    labels = np.array([[[0, Finding.CMB, Finding.IRON, Finding.CALCIFICATION, IGNORE]]], np.uint8)
    assert target_for(labels, present).ravel().tolist() == [0, 1, 2, told, IGNORE]
    assert labels.ravel().tolist() == [0, 1, 2, 3, IGNORE]


def test_half_of_the_patches_hold_a_finding(cases):
    sampling = replace(SMALL, shape=(4, 4, 2), finding_share=1.0, class_shares=(0.0, 0.0, 1.0))
    names, seen = list_cases(cases, (1, 2)), set()
    for seed in range(40):
        seen |= set(np.unique(draw_patch(cases, names, rng(seed), sampling=sampling).target))
    assert {0, Finding.CALCIFICATION} <= seen | {0}
    assert Finding.CMB not in seen


def test_the_middle_of_each_component():
    mask = np.zeros((9, 7, 5), bool)
    mask[1:4, 2, 2] = mask[6:9, 4:7, 1:4] = True
    assert sorted(_component_centres(mask).tolist()) == [[2, 2, 2], [7, 5, 2]]
    assert _component_centres(np.zeros((2, 2, 2), bool)).shape == (0, 3)


@given(st.tuples(*[st.integers(-8, 12)] * 3), st.tuples(*[st.integers(1, 6)] * 3))
def test_a_window_is_the_padded_volume(low, size):
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    padded = np.pad(volume, 20)
    box = tuple(slice(20 + a, 20 + a + n) for a, n in zip(low, size, strict=True))
    np.testing.assert_array_equal(_window(volume, list(low), list(size)), padded[box])


def test_a_damaged_case_is_refused(cases):
    (cases / "case-00000" / "labels.npy").write_bytes(b"")
    with pytest.raises(InputError, match="case-00000"):
        open_case(cases / "case-00000")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished case"):
        draw_patch(tmp_path, (), rng(), sampling=SMALL)


def test_basal_ganglia_are_uncertain_in_a_share_of_the_patches(cases):
    case = open_case(cases / "case-00000")
    always, never = (replace(SMALL, context_loss_share=share) for share in (1.0, 0.0))
    surest = [
        [make_patch(case, (13, 9, 5), rng(seed), sampling=s).inputs[7].max() for seed in range(8)]
        for s in (always, never)
    ]
    assert min(surest[0]) < 0.3
    assert all(drawn <= full for drawn, full in zip(*surest, strict=True))
