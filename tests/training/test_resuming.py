"""Going on with another recipe: what a failure asks for may change, what is learnt may not."""

import json
from dataclasses import replace

import pytest

from deepmir.errors import TrainingError
from deepmir.model.weights import load_weights
from deepmir.training.fit import CHECKPOINT_NAME, read_checkpoint
from deepmir.training.recipes import (
    parse_recipe,
    read_recipe,
    recipe_as_dict,
    recipe_from_json,
    recipe_names,
    with_seed,
)
from deepmir.training.resuming import changed_settings
from deepmir.training.run import DataChoice, RunOptions, StudyOptions, train, train_on_study

THEN = read_recipe("release-findings")
WILD = "learning_rate = 1e30"
"""A rate at which the second step has no loss."""


def with_setting(recipe, name, value):
    """Return a recipe with another value of a setting such as ``optimisation.steps``."""
    table = recipe_as_dict(recipe)
    part, _, key = name.rpartition(".")
    (table[part] if part else table)[key] = value
    return recipe_from_json(json.dumps(table))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimisation.steps", 9),
        ("optimisation.learning_rate", 1e-4),
        ("optimisation.clip_norm", 0.5),
        ("optimisation.bf16", False),
        ("optimisation.checkpointing", True),
        ("optimisation.batch_size", 2),
        ("findings.shape", [32, 32, 8]),
    ],
)
def test_what_a_failure_asks_for_may_change_and_is_said(name, value):
    (said,) = changed_settings(THEN, with_setting(THEN, name, value), began="")
    assert said.startswith(f"{name} = {value} (was ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "mine"),
        ("schedule.log_every", 1),
        ("schedule.checkpoint_every", 1),
        ("schedule.checkpoint_minutes", 1.0),
        ("schedule.prefetch", 1),
        ("schedule.tensorboard", True),
    ],
)
def test_what_nothing_learnt_depends_on_may_change_in_silence(name, value):
    assert changed_settings(THEN, with_setting(THEN, name, value), began="") == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("part", "anatomy"),
        ("train_heads", [1, 2]),
        ("network.norm", "instance"),
        ("optimisation.seed", 2),
        ("optimisation.warmup_steps", 7),
        ("optimisation.decay", "constant"),
        ("optimisation.weight_decay", 0.5),
        ("optimisation.ema_decay", 0.5),
        ("schedule.validate_every", 7),
        ("schedule.best_by", "CMB F1"),
        ("loss.focal_gamma", 2.0),
        ("findings.noise", 0.5),
        ("fresh.cases", 99),
    ],
)
def test_what_makes_it_another_run_is_refused(name, value):
    with pytest.raises(TrainingError, match=rf"it began so: {name} = .* \(was .*--no-resume"):
        changed_settings(THEN, with_setting(THEN, name, value), began="it began so")


@pytest.mark.parametrize("name", ["optimisation.batch_size", "slices.size", "optimisation.epochs"])
def test_epochs_keep_their_batches(name):
    then = read_recipe("paper-multi")
    with pytest.raises(TrainingError, match=name):
        changed_settings(then, with_setting(then, name, 32), began="")


def test_many_differences_are_counted():
    with pytest.raises(TrainingError, match=r"name|part = .* and \d+ more; take that recipe again"):
        changed_settings(THEN, read_recipe("release-anatomy"), began="")


@pytest.mark.parametrize("name", recipe_names())
def test_the_same_recipe_has_no_changes(name):
    assert changed_settings(read_recipe(name), read_recipe(name), began="") == ()


# ---- whole runs ----------------------------------------------------------------------------


@pytest.fixture
def go(whole_study, prepared_study, tiny_weights, fast_config, tmp_path):
    """Train on the study by the text of a recipe; give the result and what was said."""

    def call(text, n_folds=None, **options):
        said = []
        study = StudyOptions(
            n_folds=n_folds,
            cases=prepared_study["sub-01"].folder.parent,
            weights=load_weights(tiny_weights).folder,
            config=fast_config,
        )
        result = train_on_study(
            parse_recipe(text, origin="test"),
            DataChoice(data=whole_study),
            tmp_path / "out",
            study=study,
            options=RunOptions(**options),
            progress=said.append,
        )
        return result, said

    return call


@pytest.mark.parametrize("n_folds", [None, 3])
def test_a_lower_rate_ends_a_study_whose_loss_was_no_number(go, paper_text, n_folds):
    rate = "learning_rate = 0.01"
    for _ in "ab":  # the same command reaches the same loss
        with pytest.raises(TrainingError, match=r"is nan.*lower optimisation.learning_rate"):
            go(paper_text.replace(rate, WILD), n_folds)
    result, said = go(paper_text.replace(rate, f"{rate}\nbf16 = false\nclip_norm = 2.0"), n_folds)
    assert result.finished
    (line,) = [line for line in said if line.startswith("goes on with ")]
    for change in ("learning_rate = 0.01 (was 1e+30)", "bf16 = False (was True)", "clip_norm = 2"):
        assert f"optimisation.{change}" in line
    told = [line for line in said if line.startswith("folds that are not done go on with ")]
    assert len(told) == (n_folds is not None)


def test_another_recipe_of_a_study_is_refused(go, paper_text):
    go(paper_text, minutes=0)
    for old, new in (
        ("slices_per_epoch = 24", "slices_per_epoch = 16"),
        ("h_size = 8", "h_size = 4"),
    ):
        with pytest.raises(
            TrainingError, match=rf"another recipe \(see recipe.json there\): .*{new} \(was"
        ):
            go(paper_text.replace(old, new), minutes=0)
    assert go(paper_text.replace(old, new), minutes=0, resume=False)[0].step == 1


def test_a_damaged_record_of_the_recipe_is_told(go, paper_text, tmp_path):
    go(paper_text, minutes=0)
    (tmp_path / "out" / "recipe.json").write_text("{")
    with pytest.raises(TrainingError, match=r"recipe.json there\): stored recipe: .*--no-resume"):
        go(paper_text, minutes=0)


def test_simulated_data_take_the_same_changes_and_refuse_the_same(cases, patch_text, tmp_path):
    recipe, said = parse_recipe(patch_text, origin="test"), []
    stop = RunOptions(minutes=0)
    train(recipe, cases, tmp_path, options=stop)
    for other in (with_seed(recipe, 7), with_setting(recipe, "findings.noise", 0.5)):
        with pytest.raises(TrainingError, match=rf"run in {tmp_path} began with another recipe: "):
            train(other, cases, tmp_path, options=stop)
    assert read_checkpoint(tmp_path / CHECKPOINT_NAME).step == 1
    smaller = with_setting(recipe, "findings.shape", [8, 8, 4])
    optimisation = replace(recipe.optimisation, steps=2, batch_size=1, checkpointing=True)
    smaller = replace(smaller, optimisation=optimisation)
    assert train(smaller, cases, tmp_path, progress=said.append).step == 2
    assert said[0] == (
        "goes on with optimisation.steps = 2 (was 4), optimisation.batch_size = 1 (was 2), "
        "optimisation.checkpointing = True (was False), "
        "findings.shape = [8, 8, 4] (was [16, 16, 4])"
    )
