"""Paths through a mask: exact to whole turns, whatever the order of the voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmir.reconstruction.unwrap import largest_tear, path_field, plan_paths, unwrap_along, wrap

SHAPE = (14, 11, 9)


def smooth_phase(seed, turns=6.0):
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    a, b, c, d = rng.uniform(-1, 1, 4) * turns
    return (a * i + b * j + c * k + d * i * j).astype(np.float32)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_smooth_phase_comes_back_up_to_whole_turns(seed):
    true = smooth_phase(seed)
    mask = np.random.default_rng(seed).random(SHAPE) > 0.1
    tree = plan_paths([wrap(true)], np.ones(SHAPE, np.float32), mask, times_s=[0.01])
    error = (unwrap_along(tree, wrap(true)) - true)[mask] / (2 * np.pi)
    assert error == pytest.approx(np.round(error), abs=1e-3)
    largest = tree.piece == np.bincount(tree.piece).argmax()
    assert np.ptp(np.round(error[largest])) == 0


def test_the_path_goes_round_what_cannot_be_trusted():
    true = np.zeros(SHAPE, np.float32)
    true[7:] = 2.5  # a step that noise in one plane turns into a false wrap
    wrapped = wrap(true)
    wrapped[6, 1:] = np.random.default_rng(1).uniform(-np.pi, np.pi, wrapped[6, 1:].shape)
    magnitude = np.ones(SHAPE, np.float32)
    magnitude[6, 1:] = 0.01
    tree = plan_paths([wrapped], magnitude, np.ones(SHAPE, bool), times_s=[0.01])
    difference = (unwrap_along(tree, wrapped) - true)[[0, 1, 2, 3, 9, 10, 11]]
    assert np.ptp(difference) == pytest.approx(0, abs=1e-4)


def test_outside_the_mask_is_zero_and_pieces_are_near_the_map_given():
    mask = np.ones(SHAPE, bool)
    mask[7] = False
    phase = np.full(SHAPE, 1.0, np.float32)
    tree = plan_paths([phase], np.ones(SHAPE, np.float32), mask, times_s=[0.01])
    assert np.unique(tree.piece).size == 2
    near = np.where(np.arange(SHAPE[0]) > 7, 7.0, 1.5)[:, None, None] * np.ones(SHAPE)
    unwrapped = unwrap_along(tree, phase, near_rad=near.astype(np.float32))
    assert not unwrapped[7].any()
    assert unwrapped[:7] == pytest.approx(1.0)
    assert unwrapped[8:] == pytest.approx(1.0 + 2 * np.pi)


@pytest.mark.parametrize("n_echoes", [1, 2, 3])
def test_field_of_echoes_is_exact_in_noiseless_phase(n_echoes):
    field = smooth_phase(3, turns=0.4)
    times = (0.004, 0.012, 0.027)[:n_echoes]
    scale = 2 * np.pi * 42.577478518 * 3.0
    phases = [wrap((scale * time * field).astype(np.float32)) for time in times]
    ones = [np.ones(SHAPE, np.float32)] * n_echoes
    found = path_field(phases, ones, np.ones(SHAPE, bool), echo_times_s=times, b0_t=3.0)
    offset = found.field_ppm - field
    assert np.ptp(offset) < 1e-3
    assert (found.weight > 0).all()


@pytest.mark.parametrize("offset_rad", [0.5, -2.0, 3.0])
def test_a_constant_between_steps_is_no_field(offset_rad):
    field = smooth_phase(3, turns=0.4)
    times = (0.004, 0.012, 0.027)
    scale = 2 * np.pi * 42.577478518 * 3.0
    phases = [scale * time * field for time in times]
    phases[1] = phases[1] + offset_rad
    wrapped = [wrap(phase.astype(np.float32)) for phase in phases]
    magnitudes = [np.full(SHAPE, 1.0, np.float32) for _ in times]
    magnitudes[2][:7] = 0.3  # weights that differ from place to place let it through
    mask = np.ones(SHAPE, bool)
    mask[0] = False
    found = path_field(wrapped, magnitudes, mask, echo_times_s=times, b0_t=3.0)
    assert np.ptp((found.field_ppm - field)[mask]) < 1e-3
    assert not found.field_ppm[~mask].any()


def test_a_tear_is_a_sheet_not_scattered_voxels_and_not_outside():
    field = np.zeros(SHAPE, np.float32)
    field[3, 4, 5] = 1.0  # torn from its six neighbours
    mask = np.ones(SHAPE, bool)
    assert largest_tear(field, mask, half_turn_ppm=0.5) == pytest.approx(7 / mask.sum())
    assert largest_tear(field, mask, half_turn_ppm=1.5) == 0
    field[9:] += 1.0
    assert largest_tear(field, mask, half_turn_ppm=0.5) == pytest.approx(2 / SHAPE[0])
    mask[8] = False
    assert largest_tear(field, mask, half_turn_ppm=0.5) == pytest.approx(7 / mask.sum())
