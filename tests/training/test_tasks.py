"""Both tasks: batches by step alone, cases by recorded blocks, scores by known answers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from deepmir.errors import ConfigError, InputError, TrainingError
from deepmir.model.anatomy_input import N_CLASSES
from deepmir.model.losses import FindingsLoss, coarser_findings, findings_loss
from deepmir.model.unet import UNetSpec, anatomy_spec
from deepmir.training.anatomy_task import (
    AnatomyCases,
    AnatomyTask,
    _as_batch,
    _Maker,
    head_paths,
    score_anatomy,
)
from deepmir.training.findings_task import FindingsTask
from deepmir.training.fit import CHECKPOINT_NAME, Batch, RunOptions, read_checkpoint
from deepmir.training.fresh import Simulators
from deepmir.training.patches import PatchSampling
from deepmir.training.recipes import OptimisationConfig, Recipe, ScheduleConfig
from deepmir.training.run import train
from deepmir.training.sources import CaseBlocks, Mix, Mixture, Opener

BLOCKS_NAME = "case_blocks.json"
FINDINGS = Recipe(
    name="tiny-findings",
    part="findings",
    network=UNetSpec(
        in_channels=8,
        out_channels=4,
        filters=(2, 2),
        strides=((1, 1, 1), (2, 2, 1)),
        kernels=((3, 3, 3), (3, 3, 3)),
        norm="batch",
    ),
    optimisation=OptimisationConfig(steps=6, batch_size=2, learning_rate=0.01, warmup_steps=1),
    schedule=ScheduleConfig(log_every=2, validate_every=3),
    findings=PatchSampling(shape=(8, 8, 4), block_steps=2),
)
ANATOMY = Recipe(
    name="tiny-anatomy",
    part="anatomy",
    network=anatomy_spec((2, 2, 2)),
    optimisation=OptimisationConfig(steps=2, batch_size=1, learning_rate=0.01),
)


def open_task(cases, out, *, makers=1):
    opener = Opener(FINDINGS, out, Simulators())
    sources = Mixture(opener.training(cases, name="case"))
    return FindingsTask(FINDINGS, sources, opener.validation(cases), makers=makers)


@pytest.fixture
def findings_task(cases, tmp_path):
    task = open_task(cases, tmp_path / "out")
    yield task
    task.close()


def test_a_step_always_gives_the_same_batch(findings_task, cases, tmp_path):
    other = open_task(cases, tmp_path / "other")
    first = [findings_task.batch(step) for step in range(4)]
    assert torch.equal(other.batch(3).inputs, first[3].inputs)
    assert torch.equal(findings_task.batch(1).targets[0], first[1].targets[0])
    assert not torch.equal(first[0].inputs, first[1].inputs)
    other.close()


def test_several_processes_make_the_batches_of_one(findings_task, cases, tmp_path):
    other = open_task(cases, tmp_path / "other", makers=2)
    for step in range(3):
        one, two = findings_task.batch(step), other.batch(step)
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.targets[0], two.targets[0])
    other.close()


def test_validation_patches_are_those_of_the_validation_heads(findings_task):
    assert len(findings_task.validation_batches) > 0
    scores = findings_task.validate(findings_task.build().eval(), torch.device("cpu"))
    names = {"CMB", "IRON", "CALCIFICATION"}
    assert set(scores) <= names | {f"{name} F1" for name in names}
    assert all(0 <= value <= 1 for value in scores.values())


def test_without_cases_of_the_validation_heads_a_run_says_so_once(cases, tmp_path):
    said = []
    blind = replace(FINDINGS, validation_heads=(7, 9))
    assert train(blind, cases, tmp_path / "out", progress=said.append).finished
    told = "no validation: there are no cases of heads 7, 9"
    assert [line for line in said if "loss" not in line][1:] == [told]
    said.clear()
    train(FINDINGS, cases, tmp_path / "other", progress=said.append)
    assert told not in said


def test_a_growing_folder_changes_later_blocks_only(cases, tmp_path):
    blocks = CaseBlocks(cases, (1, 2), tmp_path / BLOCKS_NAME)
    assert blocks.cases_of("0") == ("case-00000", "case-00001")
    (cases / "case-00000").rename(cases / "case-99999")
    assert blocks.cases_of("0") == ("case-00000", "case-00001")
    assert blocks.cases_of("1") == ("case-00001", "case-99999")
    again = CaseBlocks(cases, (1, 2), tmp_path / BLOCKS_NAME)
    assert again.cases_of("0") == ("case-00000", "case-00001")


def test_a_damaged_record_is_refused(cases, tmp_path):
    (tmp_path / BLOCKS_NAME).write_text("{")
    with pytest.raises(TrainingError, match=BLOCKS_NAME):
        CaseBlocks(cases, (1,), tmp_path / BLOCKS_NAME)


def test_findings_train_stop_and_resume_to_the_same_weights(cases, tmp_path):
    train(FINDINGS, cases, tmp_path / "whole")
    train(FINDINGS, cases, tmp_path / "parts", options=RunOptions(minutes=0))
    train(FINDINGS, cases, tmp_path / "parts")
    one, other = (read_checkpoint(tmp_path / name / CHECKPOINT_NAME) for name in ("whole", "parts"))
    assert (one.step, other.step) == (6, 6)
    assert all(torch.equal(one.ema[name], other.ema[name]) for name in one.ema)
    recorded = json.loads((tmp_path / "parts" / BLOCKS_NAME).read_text())
    assert recorded["0"] == ["case-00000", "case-00001"]


def test_a_supervised_coarser_level_counts_half(cases, tmp_path):
    task = open_task(cases, tmp_path)
    try:
        batch = task.batch(0)
        logits = torch.zeros(len(batch.inputs), 4, *batch.inputs.shape[2:])
        coarser = logits[:, :, ::2, ::2].clone()
        coarser[:, 0] = 3.0
        one, both = task.loss((logits,), batch), task.loss((logits, coarser), batch)
        alone = findings_loss(
            coarser, coarser_findings(batch.targets[0], (2, 2, 1)), FindingsLoss()
        )
    finally:
        task.close()
    assert both == pytest.approx((float(one) + float(alone) / 2) / 1.5, rel=1e-6)


def test_no_case_of_the_heads_is_refused_before_training(cases, tmp_path):
    with pytest.raises(InputError, match=r"heads \[7\]"):
        train(replace(FINDINGS, train_heads=(7,)), cases, tmp_path / "out")


# ---- anatomy -------------------------------------------------------------------------------


def test_heads_are_found_by_number(anatomies):
    assert [path.name for path in head_paths(anatomies, (1, 2, 3))] == ["head_01.npz"]
    with pytest.raises(InputError, match=r"head_07\.npz"):
        head_paths(anatomies, (7,))


def test_several_processes_make_the_heads_of_one(anatomies):
    one, two = (AnatomyTask(ANATOMY, anatomies, workers=count) for count in (1, 2))
    for step in range(3):
        assert torch.equal(one.batch(step).inputs, two.batch(step).inputs)
    one.close()
    two.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
def test_a_gpu_draws_the_same_head_with_other_noise(anatomies):
    here, there = (AnatomyTask(ANATOMY, anatomies, device=device) for device in ("cpu", "cuda"))
    for one, two in zip(here.batch(3).targets, there.batch(3).targets, strict=True):
        assert (one == two).double().mean() > 0.999
    here.close()
    there.close()


def test_an_anatomy_step_gives_its_batch_in_any_process(anatomies):
    task = AnatomyTask(ANATOMY, anatomies)
    one, other = (_as_batch(_Maker(task.source)(step=3)) for _ in "ab")
    assert torch.equal(one.inputs, other.inputs)
    network = task.build()
    loss = task.loss(network.forward_levels(one.inputs), one)
    assert torch.isfinite(loss)
    task.close()


def test_a_share_of_the_anatomy_samples_is_made_of_cases(anatomies, cases, tmp_path):
    mixes = (Mix(cases, 0.5),)
    options = RunOptions(steps=2)
    train(ANATOMY, anatomies, tmp_path / "out", mixes=mixes, options=options)
    recorded = json.loads((tmp_path / "out" / "mix_1_blocks.json").read_text())
    assert recorded == {"0": ["case-00000", "case-00001"]}
    paths = tuple(cases / name for name in recorded["0"])
    source = AnatomyTask(ANATOMY, anatomies).source
    mixed = replace(source, cases=AnatomyCases(paths, (), 0.5))
    alone = replace(source, cases=AnatomyCases(paths, (), 1.0))
    made = [[_Maker(s)(step)[1].sum() for step in range(12)] for s in (source, mixed, alone)]
    assert sum(a == b for a, b in zip(made[1], made[2], strict=True)) > 0
    assert made[1] != made[2]
    logged = (tmp_path / "out" / "log.jsonl").read_text()
    assert "nuclei Chimap of cases" in logged


def test_the_anatomy_part_takes_one_mix_of_cases(anatomies, cases, tmp_path):
    for mixes in ((Mix(anatomies, 0.5),), (Mix(cases, 0.3), Mix(cases, 0.3))):
        with pytest.raises(ConfigError, match="one --mix, a folder of simulated cases"):
            train(ANATOMY, anatomies, tmp_path / "out", mixes=mixes)


def test_without_validation_heads_the_anatomy_part_trains_and_says_so(anatomies, tmp_path):
    said = []
    blind = replace(ANATOMY, validation_heads=(7, 9))
    assert train(blind, anatomies, tmp_path / "out", progress=said.append).finished
    assert "no validation: there are none of heads 7, 9" in said


def test_anatomy_batches_hold_one_head(anatomies):
    pair = replace(ANATOMY, optimisation=replace(ANATOMY.optimisation, batch_size=2))
    with pytest.raises(InputError, match="batch size is 1"):
        AnatomyTask(pair, anatomies)


def test_perfect_anatomy_scores_1_and_mirrored_sides_0():
    classes = torch.from_numpy(np.random.default_rng(0).integers(0, N_CLASSES, (1, 8, 9, 10)))
    right, paired = classes % 2 == 0, (classes > 0) & (classes < 17)
    batch = Batch(torch.zeros(1), (classes.to(torch.uint8), right, paired))
    logits = functional.one_hot(classes, N_CLASSES).movedim(-1, 1).float()
    side = right[:, None].float() * 2 - 1
    perfect = score_anatomy(torch.cat([logits, side], 1), batch)
    assert perfect == {"brain": 1.0, "regions": 1.0, "nuclei": 1.0, "side": 1.0}
    mirrored = score_anatomy(torch.cat([logits, -side], 1), batch)
    assert (mirrored["regions"], mirrored["side"]) == (1.0, 0.0)


def test_all_outside_scores_0():
    classes = torch.ones((1, 4, 4, 4), dtype=torch.uint8)
    logits = torch.zeros((1, N_CLASSES + 1, 4, 4, 4))
    logits[:, 0] = 1
    scores = score_anatomy(logits, Batch(torch.zeros(1), (classes, classes > 9, classes > 9)))
    assert (scores["brain"], scores["regions"], scores["side"]) == (0, 0, 1)
