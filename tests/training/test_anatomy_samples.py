"""Synthetic heads: geometry by known answers, contrasts by physics, repeatability."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmir.errors import InputError
from deepmir.model.anatomy_input import N_CLASSES, OUTSIDE_CLASS
from deepmir.simulation.tissue import sample_tissue_values
from deepmir.training.anatomy_samples import (
    AnatomySampling,
    View,
    blur,
    codes_in_view,
    fold_head,
    gre_signal,
    load_head,
    make_sample,
    spread,
    t2w_signal,
)

CALM = AnatomySampling(rotation_deg=0.0, scale=0.0, elastic_mm=0.0, slab_share=0.0)
PALLIDUM_CLASS = 16


def straight_view(head, shape=(18, 20, 16), *, mirrored=False):
    sign = -1.0 if mirrored else 1.0
    return View(
        shape=shape,
        matrix=np.diag([sign, 1.0, 1.0]),
        centre=(np.array(head.codes.shape) - 1) / 2,
        mirrored=mirrored,
        displacement_mm=np.zeros((3, 5, 5, 5), np.float32),
    )


def test_folding_keeps_every_label(head):
    codes = head.codes.int()
    labels = head.labels[codes.numpy()]
    assert np.unique(labels).tolist() == [0, 2, 41, 52, 511]
    assert (head.classes[codes].numpy()[labels == 52] == PALLIDUM_CLASS).all()
    assert (head.right[codes].numpy() == np.isin(labels, (41, 52))).all()
    assert (head.brain[codes].numpy() == np.isin(labels, (2, 41, 52))).all()


def test_a_straight_view_takes_every_second_voxel(head):
    codes = codes_in_view(head, straight_view(head))
    steps = [
        np.rint((np.arange(n) - (n - 1) / 2) * 2 + (2 * n - 1) / 2).astype(int) for n in codes.shape
    ]
    np.testing.assert_array_equal(codes, head.codes[np.ix_(*steps)])


def test_a_view_beyond_the_head_is_air(head):
    codes = codes_in_view(head, straight_view(head, (40, 20, 16)))
    assert (head.labels[codes[:6].numpy()] == 0).all()


def test_a_mirrored_head_has_its_right_on_the_right(head):
    here, there = (codes_in_view(head, straight_view(head, mirrored=m)) for m in (False, True))
    for codes, mirrored in ((here, False), (there, True)):
        right = (head.right[codes] != mirrored) & head.paired[codes]
        sides = [torch.argwhere(side & head.paired[codes]) for side in (right, ~right)]
        middles = [side[:, 0].double().mean() for side in sides]
        assert middles[0] > middles[1]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_sample_is_repeatable_and_within_its_ranges(head, seed):
    one, other = (make_sample(head, np.random.default_rng(seed), AnatomySampling()) for _ in "ab")
    np.testing.assert_array_equal(one.inputs, other.inputs)
    np.testing.assert_array_equal(one.classes, other.classes)
    assert all(n % 32 == 0 for n in one.classes.shape)
    assert one.inputs.shape == (6, *one.classes.shape)
    assert one.inputs.isfinite().all()
    assert 0 <= one.inputs[:2].min() <= one.inputs[:2].max() <= 1.5
    assert one.inputs[2].abs().max() <= 2
    assert one.classes.max() < N_CLASSES
    assert not (one.paired & (one.classes == OUTSIDE_CLASS)).any()


@pytest.mark.parametrize("name", ["T2w", "swi", "Chimap", "T2w+Chimap"])
def test_only_the_contrasts_of_the_subset_are_there(head, name):
    sampling = replace(CALM, subsets=((name, 1.0),))
    inputs = make_sample(head, np.random.default_rng(5), sampling).inputs
    wanted = [contrast in name.split("+") for contrast in ("T2w", "swi", "Chimap")]
    assert inputs[3:].amin(dim=(1, 2, 3)).tolist() == wanted
    assert [bool(channel.abs().max() > 0) for channel in inputs[:3]] == wanted


def test_the_pallidum_is_bright_on_chi(head):
    sampling = replace(CALM, subsets=(("Chimap", 1.0),))
    differences = []
    for seed in range(6):
        sample = make_sample(head, np.random.default_rng(seed), sampling)
        chi, brain = sample.inputs[2], sample.classes > 0
        differences.append(chi[sample.classes == PALLIDUM_CLASS].mean() - chi[brain].mean())
    assert np.median(differences) > 0.1


def test_csf_is_brightest_on_t2w_and_pallidum_dark_on_late_echoes():
    values = sample_tissue_values(np.random.default_rng(0), b0_t=3.0, age_years=60.0)
    t2w = t2w_signal(values, tr_s=5.0, te_s=0.1)
    assert t2w[4] > t2w[3] > t2w[2] > t2w[13]
    swi = gre_signal(values, tr_s=0.04, te_s=0.03, flip_deg=15.0)
    assert swi[13] < swi[2]


def test_blur_keeps_the_mean_of_a_point_inside():
    point = torch.zeros(5, 6, 7)
    point[2, 3, 3] = 8
    blurred = blur(point, 0.25)
    assert blurred.sum() == pytest.approx(8)
    assert blurred[2, 3, 3] == pytest.approx(1)
    assert blurred[2, 3, 4] == pytest.approx(0.5)
    assert point[2, 3, 3] == 8


def test_a_constant_grid_of_control_points_spreads_to_a_constant():
    np.testing.assert_allclose(spread(torch.full((5, 5, 5), 3.0), (7, 8, 9)), 3, rtol=1e-5)


def test_spreading_keeps_the_order_of_the_axes():
    ramp = torch.arange(6.0)[:, None, None].expand(6, 6, 6)
    wide = spread(ramp, (7, 8, 9))
    assert wide.shape == (7, 8, 9)
    assert (wide.diff(dim=0) > 0).all()
    np.testing.assert_allclose(wide.diff(dim=2), 0, atol=1e-5)


def test_a_file_that_is_no_anatomy_is_refused(tmp_path):
    path = tmp_path / "head_01.npz"
    with pytest.raises(InputError, match=r"head_01\.npz"):
        load_head(path)
    np.savez(path, labels=np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="regions"):
        load_head(path)


def test_a_head_without_a_brain_is_refused():
    empty = np.zeros((3, 3, 3), np.uint16)
    with pytest.raises(InputError, match="no brain"):
        fold_head("empty", empty, regions=empty, brain=empty > 0)


def test_a_deep_sample_is_small_and_holds_the_basal_ganglia(head):
    sampling = replace(CALM, deep_share=1.0)
    sample = make_sample(head, np.random.default_rng(3), sampling)
    assert sample.classes.shape == (64, 64, 64)
    assert sample.inputs.shape == (6, 64, 64, 64)
