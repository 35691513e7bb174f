"""Slices as the paper trains on them, and none of the defects of its code."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepmir.errors import ConfigError
from deepmir.labels import Finding
from deepmir.training.patches import open_case
from deepmir.training.predict import SliceLogits, labels_of_slices
from deepmir.training.recipes import parse_recipe, resolve_epochs
from deepmir.training.slices import (
    MOVES,
    STILL,
    Move,
    SliceSampling,
    apply_move,
    class_numbers,
    cut_slice,
    epoch_plan,
    open_slices,
    sample_move,
)
from deepmir.training.slices_task import SlicesTask
from deepmir.training.team import Share

TWO = SliceSampling(inputs=("swi", "Chimap"), size=48)


@pytest.fixture
def person(prepared_study):
    return open_slices(open_case(prepared_study["sub-01"].folder), TWO)


def test_scores_are_over_the_brain_and_zero_outside(person):
    cut = [cut_slice(person, int(k), TWO)[0] for k in person.with_brain]
    stack = np.stack(cut, axis=-1)
    brain = np.asarray(person.case.brain)[:, :, person.with_brain] > 0
    low = [(48 - n) // 2 for n in brain.shape[:2]]
    inside = np.zeros(stack.shape[1:], bool)
    inside[low[0] : low[0] + brain.shape[0], low[1] : low[1] + brain.shape[1]] = brain
    assert not stack[:, ~inside].any()
    assert stack[:, inside].mean(axis=1) == pytest.approx([0, 0], abs=1e-3)
    assert stack[:, inside].std(axis=1) == pytest.approx([1, 1], abs=1e-3)


def test_chi_is_clipped(person):
    weak = replace(TWO, chi_limit_ppm=0.01)
    clipped = open_slices(person.case, weak)
    assert clipped.spread[1] < person.spread[1]
    assert clipped.spread[0] == person.spread[0]


def test_a_slice_is_a_lesion_slice_only_when_it_holds_one(person):
    labels = np.asarray(person.case.labels)
    with_lesion = {k for k in range(labels.shape[2]) if np.isin(labels[:, :, k], (1, 2)).any()}
    assert set(person.with_lesion.tolist()) == with_lesion
    only_cmb = open_slices(person.case, replace(TWO, findings=("CMB",)))
    assert set(only_cmb.with_lesion.tolist()) < with_lesion


def test_an_epoch_has_every_slice_and_as_many_background_copies_as_lesion_copies(person):
    plan = epoch_plan([person, person], TWO, seed=1, epoch=0)
    still = [(p.case, p.k) for p in plan if p.kind == "none"]
    assert sorted(still) == [(n, int(k)) for n in (0, 1) for k in person.with_brain]
    moved = [p for p in plan if p.kind != "none"]
    lesions = set(person.with_lesion.tolist())
    copies = [p for p in moved if p.k in lesions]
    assert sorted((p.case, p.k, p.kind) for p in copies) == sorted(
        (n, k, kind) for n in (0, 1) for k in lesions for kind in MOVES
    )
    assert len(moved) == 2 * len(copies)


def test_epochs_repeat_by_seed_and_differ_from_each_other(person):
    first = epoch_plan([person], TWO, seed=1, epoch=0)
    assert epoch_plan([person], TWO, seed=1, epoch=0) == first
    assert epoch_plan([person], TWO, seed=1, epoch=1) != first
    assert epoch_plan([person], TWO, seed=2, epoch=0) != first
    assert len(epoch_plan([person], replace(TWO, slices_per_epoch=5), seed=1, epoch=0)) == 5
    plain = epoch_plan([person], replace(TWO, augment=False), seed=1, epoch=0)
    assert all(p.kind == "none" for p in plain)


@given(st.sampled_from(MOVES), st.integers(0, 2**32 - 1))
def test_moves_stay_in_their_ranges(kind, seed):
    move = sample_move(kind, np.random.default_rng(seed), SliceSampling())
    assert any(move.flip) == (kind == "flip")
    assert (move.turn_deg != 0) == (kind in ("turn", "turn back"))
    assert 1 <= abs(move.turn_deg) <= 178 or move.turn_deg == 0
    assert (move.turn_deg < 0) == (kind == "turn back")
    assert max(map(abs, move.shift)) <= 45


@given(st.sampled_from(MOVES), st.integers(0, 2**32 - 1))
def test_masks_hold_no_new_values_and_move_with_the_image(kind, seed):
    rng = np.random.default_rng(seed)
    target = np.zeros((32, 32), np.uint8)
    target[12:18, 14:19], target[20:23, 10:14], target[15, 10] = 1, 2, 255
    image = (target == 1).astype(np.float32)[None]
    sampling = SliceSampling(size=32, largest_shift=6)
    moved, label = apply_move(image, target, sample_move(kind, rng, sampling))
    assert set(np.unique(label)) <= {0, 1, 2, 255}
    assert np.abs(moved[0] - (label == 1)).max() < 1
    assert (moved[0][label == 1] >= 0.2).all()


def test_known_moves():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    target = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert apply_move(image, target, STILL)[0] is image
    _, flipped = apply_move(image, target, Move(flip=(True, False)))
    assert np.array_equal(flipped, target[::-1])
    moved, shifted = apply_move(image, target, Move(shift=(1, 2)))
    assert np.array_equal(shifted[1:, 2:], target[:-1, :-2])
    assert not shifted[0].any()
    assert np.array_equal(moved[0], shifted)
    _, turned = apply_move(image, target, Move(turn_deg=90.0))
    assert np.array_equal(turned, np.rot90(target)) or np.array_equal(turned, np.rot90(target, -1))
    _, back = apply_move(image, turned, Move(turn_deg=-90.0))
    assert np.array_equal(back, target)


def test_classes_count_in_the_order_of_the_findings():
    labels = np.array([0, 1, 2, 3, 255], np.uint8)
    assert class_numbers(labels, TWO).tolist() == [0, 1, 2, 0, 255]
    iron = SliceSampling(findings=("IRON",))
    assert (iron.n_outputs, class_numbers(labels, iron).tolist()) == (1, [0, 0, 1, 0, 255])
    assert SliceSampling(findings=("IRON", "CMB")).classes == (Finding.IRON, Finding.CMB)


def test_slices_that_do_not_fit_are_refused(prepared_study):
    case = open_case(prepared_study["sub-01"].folder)
    with pytest.raises(ConfigError, match=r"more than the 16 .* set slices.size to 64 or more"):
        open_slices(case, replace(TWO, size=16))


@pytest.mark.parametrize("findings", [("CMB",), ("IRON",), ("CMB", "IRON")])
def test_certain_logits_give_the_labels_back(person, findings):
    sampling = replace(TWO, findings=findings)
    truth = class_numbers(np.asarray(person.case.labels)[:, :, person.with_brain], sampling)
    logits = np.stack([np.where(truth == n, 9.0, -9.0) for n in range(len(findings) + 1)])
    logits = logits[1:] if len(findings) == 1 else logits
    found = labels_of_slices(SliceLogits(person.with_brain, logits), person, sampling)
    reference = np.asarray(person.case.labels)
    asked = np.isin(reference, sampling.classes)
    assert np.array_equal(found, np.where(asked, reference, 0))


# ---- the task ------------------------------------------------------------------------------


@pytest.fixture
def task(prepared_study, paper_text):
    recipe = parse_recipe(paper_text, origin="test")
    folders = [prepared_study[f"sub-0{n}"].folder for n in (1, 2, 6)]
    made = SlicesTask(recipe, folders[:2], folders[1:])
    yield made
    made.close()


def test_a_step_gives_its_batch_whenever_it_is_asked_for(task):
    first = [task.batch(step) for step in range(5)]
    assert torch.equal(task.batch(3).inputs, first[3].inputs)
    assert first[0].inputs.shape == (8, 2, 48, 48)
    assert not torch.equal(first[0].inputs, first[3].inputs)


def test_two_processes_make_the_halves_of_a_batch(task, prepared_study, paper_text):
    recipe = parse_recipe(paper_text, origin="test")
    folders = [prepared_study[f"sub-0{n}"].folder for n in (1, 2)]
    halves = [SlicesTask(recipe, folders, folders, share=Share(rank, 2)) for rank in (0, 1)]
    for step in (0, 2):  # the last batch of an epoch is filled up from its start
        both = torch.cat([half.batch(step).inputs for half in halves])
        assert torch.equal(task.batch(step).inputs, both)
    for half in halves:
        half.close()


def test_epochs_become_steps(task, paper_text):
    recipe = resolve_epochs(parse_recipe(paper_text, origin="test"), task.steps_per_epoch)
    assert (task.steps_per_epoch, recipe.optimisation.steps) == (3, 3)
    assert recipe.schedule.validate_every == 3


def test_validation_gives_loss_and_lesion_scores(task):
    with torch.inference_mode():
        scores = task.validate(task.build().eval(), torch.device("cpu"))
    assert set(scores) == {"loss", "CMB F1", "IRON F1"}
    assert 0 < scores["loss"] < 5
