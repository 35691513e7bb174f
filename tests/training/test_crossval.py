"""Cross-validation of a study of phantoms, whole: folds, predictions, scores, endings."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmir.errors import ConfigError, InputError, TrainingError, WeightsError
from deepmir.io.tables import read_table
from deepmir.labels import Finding
from deepmir.model.weights import load_weights
from deepmir.training.crossval import (
    cross_validate,
    drop_checkpoints,
    settle_scores,
)
from deepmir.training.experiment import Experiment, prediction_path, train_fold
from deepmir.training.fit import BEST_NAME, CHECKPOINT_NAME, RunOptions, read_checkpoint
from deepmir.training.folds import plan_folds, plan_split
from deepmir.training.recipes import parse_recipe

BOTH = (Finding.CMB, Finding.IRON)


@pytest.fixture
def experiment(prepared_study, paper_text):
    recipe = parse_recipe(paper_text, origin="test")
    return Experiment(recipe=recipe, cases=prepared_study, labelled=BOTH)


@pytest.fixture
def plan(prepared_study):
    return plan_folds([case.summary for case in prepared_study.values()], n_folds=3, seed=1)


def go(experiment, plan, out, runs, **options):
    return cross_validate(
        experiment, plan, out, runs=runs, options=RunOptions(**options), progress=lambda _: None
    )


def test_every_person_is_predicted_and_scored_by_a_network_that_never_saw_them(
    experiment, plan, tmp_path, prepared_study
):
    seeds = [(seed, fold) for seed in (1, 2) for fold in (1, 2, 3)]
    result = go(experiment, plan, tmp_path, seeds)
    assert result.finished
    for name, case in prepared_study.items():
        path = prediction_path(tmp_path / "seed-2" / "predictions", case.person)
        image, scan = nib.load(path), nib.load(case.person.swi)
        assert image.shape == scan.shape
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
        assert set(np.unique(image.dataobj)) <= {0, 1, 2}
        tests = [fold for fold in plan.folds if name in fold.test]
        assert len(tests) == 1
        assert name not in (*tests[0].train, *tests[0].validation)
    table = read_table(tmp_path / "scores.tsv")
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert len(rows) == 2 * (2 * 3 + 2 + 1)
    pooled = {row["finding"]: row for row in rows if (row["seed"], row["fold"]) == ("all", "all")}
    assert (pooled["CMB"]["persons"], pooled["CMB"]["reference"]) == ("12", "10")
    assert (tmp_path / "seed-1/predictions/dataset_description.json").exists()


def test_folds_run_alone_and_side_by_side_give_the_same(experiment, plan, tmp_path):
    go(experiment, plan, tmp_path / "all", [(1, 1), (1, 2)])
    for fold in (2, 1):
        assert go(experiment, plan, tmp_path / "apart", [(1, fold)]).finished
    for fold in ("fold-01", "fold-02"):
        one, other = (
            read_checkpoint(tmp_path / where / "seed-1" / fold / BEST_NAME)
            for where in ("all", "apart")
        )
        assert all(torch.equal(one.ema[name], other.ema[name]) for name in one.ema)


def test_the_time_is_shared_and_the_next_call_goes_on(experiment, plan, tmp_path):
    runs = [(1, 1), (1, 2)]
    first = go(experiment, plan, tmp_path, runs, minutes=0)
    assert (first.finished, first.last.step, first.done) == (False, 1, ())
    assert go(experiment, plan, tmp_path, runs).finished
    again = go(experiment, plan, tmp_path, runs)
    assert (again.finished, again.last) == (True, None)


def test_a_fold_that_another_process_ends_meanwhile_is_in_the_table(
    experiment, plan, tmp_path, monkeypatch
):
    runs = [(1, 1), (1, 2)]
    assert go(experiment, plan, tmp_path, runs).finished
    record = tmp_path / "seed-1/fold-02/fold.json"
    text = record.read_text()
    for at_work in ("score_prediction", "write_table"):
        record.unlink()
        inner = settle_scores.__globals__[at_work]

        def ends_meanwhile(*arguments, inner=inner):
            record.write_text(text)
            return inner(*arguments)

        with monkeypatch.context() as patch:
            patch.setitem(settle_scores.__globals__, at_work, ends_meanwhile)
            assert settle_scores(experiment, plan, tmp_path) == tuple(runs)
        table = read_table(tmp_path / "scores.tsv")
        assert {row[1] for row in table.rows} == {"1", "2", "all"}


def test_checkpoints_of_a_done_fold_can_go_and_it_stays_done(experiment, plan, tmp_path):
    go(experiment, plan, tmp_path, [(1, 1)])
    drop_checkpoints(tmp_path, 1, 1)
    drop_checkpoints(tmp_path, 1, 2)
    assert not list((tmp_path / "seed-1/fold-01").glob("*.pt"))
    assert go(experiment, plan, tmp_path, [(1, 1)]).last is None


def test_the_best_checkpoint_is_the_one_of_the_lowest_loss(experiment, plan, tmp_path):
    recipe = replace(
        experiment.recipe, optimisation=replace(experiment.recipe.optimisation, epochs=3)
    )
    experiment = replace(experiment, recipe=recipe)
    train_fold(experiment, plan.fold(1), tmp_path, options=RunOptions(), progress=lambda _: None)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["validation/loss"] for line in lines if "validation/loss" in line}
    best = read_checkpoint(tmp_path / BEST_NAME)
    assert len(losses) == 3
    assert best.step == min(losses, key=losses.get)
    assert best.scores["loss"] == pytest.approx(losses[best.step], abs=1e-5)
    assert best.optimizer == {}


def test_the_findings_part_chooses_thresholds_and_predicts(
    prepared_study, patch_text, plan, tmp_path
):
    recipe = parse_recipe(patch_text, origin="test")
    experiment = Experiment(recipe=recipe, cases=prepared_study, labelled=BOTH)
    assert go(experiment, plan, tmp_path, [(1, 1)]).finished
    record = json.loads((tmp_path / "seed-1/fold-01/fold.json").read_text())
    assert set(record["thresholds"]) == {"CMB", "IRON", "CALCIFICATION"}
    for name in plan.fold(1).test:
        path = prediction_path(tmp_path / "seed-1/predictions", prepared_study[name].person)
        assert set(np.unique(nib.load(path).dataobj)) <= {0, 1, 2}


# ---- refusals ------------------------------------------------------------------------------


def test_a_run_on_other_persons_is_not_resumed(experiment, plan, tmp_path):
    quick = RunOptions(minutes=0)
    train_fold(experiment, plan.fold(1), tmp_path, options=quick, progress=lambda _: None)
    with pytest.raises(TrainingError, match="began with other persons, scans or labels"):
        train_fold(experiment, plan.fold(2), tmp_path, options=quick, progress=lambda _: None)
    anew = replace(quick, resume=False)
    result = train_fold(experiment, plan.fold(2), tmp_path, options=anew, progress=lambda _: None)
    assert result.step == 1


def test_a_person_without_a_contrast_of_the_recipe_is_refused(experiment, plan, tmp_path):
    case = experiment.cases["sub-03"]
    bare = replace(case, summary=replace(case.summary, contrasts=("T2w", "swi")))
    cases = {**experiment.cases, "sub-03": bare}
    with pytest.raises(InputError, match="sub-03 has no Chimap, which recipe tiny-paper takes"):
        go(replace(experiment, cases=cases), plan, tmp_path, [(1, 1)])


def test_no_such_fold_is_refused(experiment, plan, tmp_path):
    with pytest.raises(ConfigError, match="no fold 9; wanted 1 to 3"):
        go(experiment, plan, tmp_path, [(1, 9)])


def test_the_slices_part_has_no_released_weights(experiment, plan, tmp_path, tiny_weights):
    with pytest.raises(WeightsError, match="without --init"):
        go(replace(experiment, init=load_weights(tiny_weights).folder), plan, tmp_path, [(1, 1)])


# ---- endings -------------------------------------------------------------------------------

PROGRAM = """
import sys
import time
from pathlib import Path
from deepmir.config import Config, PreprocessConfig
from deepmir.model.weights import load_weights
from deepmir.training.experiment import DataChoice, Experiment, prepare_data, train_fold
from deepmir.training.fit import RunOptions
from deepmir.training.folds import plan_split
from deepmir.training.recipes import read_recipe

data, cases, weights, recipe, out = map(Path, sys.argv[1:])
fast = Config(preprocess=PreprocessConfig(bias_correction=False, register_t2w=False))
found, labelled = prepare_data(
    DataChoice(data=data), cases, weights=load_weights(weights), config=fast, progress=print
)
experiment = Experiment(recipe=read_recipe(recipe), cases=found, labelled=labelled)
fold = plan_split([case.summary for case in found.values()], seed=1)
def say(line):
    print(line, flush=True)
    time.sleep(0.2)  # so that the signal comes before the end on a busy machine
result = train_fold(experiment, fold, out, options=RunOptions(), progress=say)
print("finished" if result.finished else "stopped")
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_resumes_to_the_same_weights(
    number, experiment, prepared_study, whole_study, tiny_weights, paper_text, tmp_path
):
    text = paper_text.replace("epochs = 1", "epochs = 4").replace(
        "[schedule]", "[schedule]\nlog_every = 1\ncheckpoint_minutes = 1e-9"
    )
    (tmp_path / "recipe.toml").write_text(text)
    (tmp_path / "program.py").write_text(PROGRAM)
    cases = prepared_study["sub-01"].folder.parent
    words = [
        sys.executable, tmp_path / "program.py", whole_study, cases, tiny_weights,
        tmp_path / "recipe.toml", tmp_path / "killed",
    ]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("step 4 "):
                process.send_signal(number)
                break
        process.stdout.read()
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
    there = read_checkpoint(tmp_path / "killed" / CHECKPOINT_NAME)
    assert 3 <= there.step < 12
    plan = replace(experiment, recipe=parse_recipe(text, origin="test"), labelled=tuple(Finding))
    fold = plan_split([case.summary for case in prepared_study.values()], seed=1)
    for out in ("killed", "whole"):
        train_fold(plan, fold, tmp_path / out, options=RunOptions(), progress=lambda _: None)
    one, other = (read_checkpoint(tmp_path / out / CHECKPOINT_NAME) for out in ("killed", "whole"))
    assert (one.step, other.step) == (12, 12)
    assert all(torch.equal(one.ema[name], other.ema[name]) for name in one.ema)
    assert one.scores == other.scores
