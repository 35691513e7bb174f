"""The training loop, on a network so small that a step takes milliseconds."""

import json
import resource
import signal
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
import torch
from torch import nn

from deepmir.errors import ConfigError, TrainingError
from deepmir.model.losses import FindingsLoss, findings_loss
from deepmir.model.unet import UNetSpec, build_network, findings_spec
from deepmir.training.fit import (
    BEST_NAME,
    CHECKPOINT_NAME,
    LOG_NAME,
    UNUSABLE_STEPS_ALLOWED,
    Batch,
    Job,
    RunOptions,
    choose_device,
    ema_decay,
    fit,
    learning_rate,
    read_checkpoint,
    result_checkpoint,
    update_ema,
)
from deepmir.training.recipes import OptimisationConfig, Recipe, ScheduleConfig

TINY = UNetSpec(
    in_channels=2,
    out_channels=4,
    filters=(2, 3),
    strides=((1, 1, 1), (2, 2, 2)),
    kernels=((3, 3, 3), (3, 3, 3)),
    norm="batch",
)
SHAPE = (4, 6, 8)


class TinyTask:
    """Random volumes whose label is the sign of a channel; a step's batch is its own seed."""

    def __init__(self, after_batch=lambda _step: None, value_at=lambda _step: 1.0):
        self.after_batch = after_batch
        self.value_at = value_at

    def build(self):
        """Fresh network."""
        return build_network(TINY)

    def batch(self, step):
        """Batch that depends on the step alone."""
        self.after_batch(step)
        noise = torch.randn((2, 2, *SHAPE), generator=torch.Generator().manual_seed(step))
        return Batch(noise * self.value_at(step), ((noise[:, 0] > 0).to(torch.uint8),))

    def missing(self, step):
        """Everything is there."""

    def no_validation(self):
        """There is something to validate on."""

    def loss(self, logits, batch):
        """Return the findings loss."""
        return findings_loss(logits[0], batch.targets[0], FindingsLoss())

    def validate(self, network, device):
        """Share of right voxels, and whether the network was in training mode."""
        batch = self.batch(10_000).to(device)
        hit = network(batch.inputs).argmax(1) == batch.targets[0]
        return {"hit": float(hit.float().mean()), "training": float(network.training)}


def recipe(steps=8, *, rate=0.01, **schedule):
    return Recipe(
        name="tiny",
        part="findings",
        network=TINY,
        optimisation=OptimisationConfig(
            steps=steps, batch_size=2, learning_rate=rate, warmup_steps=2, seed=3
        ),
        schedule=ScheduleConfig(**{"log_every": 2, "validate_every": 4, **schedule}),
    )


def run(out, task=None, plan=None, **options):
    return fit(Job(task or TinyTask(), plan or recipe()), out, options=RunOptions(**options))


def weights(out):
    stored = read_checkpoint(out / CHECKPOINT_NAME)
    return torch.cat(
        [v.flatten().double() for v in (*stored.network.values(), *stored.ema.values())]
    )


def ask_to_stop():
    """Send this thread the signal of a machine that shuts down, if a handler waits for it."""
    assert callable(signal.getsignal(signal.SIGTERM)), "the run did not take over SIGTERM"
    signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def stop_at_3():
    """Return a task that asks its own run to stop."""
    return TinyTask(after_batch=lambda n: ask_to_stop() if n == 3 else None)


def test_a_run_ends_with_its_schedule_and_learns(tmp_path):
    result = run(tmp_path, plan=recipe(60, rate=0.03))
    assert (result.step, result.finished) == (60, True)
    losses = [
        line["loss"]
        for line in map(json.loads, (tmp_path / LOG_NAME).read_text().splitlines())
        if "loss" in line
    ]
    assert losses[-1] < 0.7 * losses[0]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, stop_at_3):
    run(tmp_path / "whole")
    stopped = run(tmp_path / "parts", stop_at_3)
    assert (stopped.step, stopped.finished) == (4, False)
    assert run(tmp_path / "parts").finished
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


class LateTask(TinyTask):
    """A task whose data are there after some time only."""

    def __init__(self, asks):
        super().__init__()
        self.asks = asks

    def missing(self, step):
        """Nothing is there for so many questions, from step 1 on."""
        self.asks -= step > 0
        return "3 of 4 cases" if step > 0 and self.asks > 0 else None


def test_a_run_waits_for_its_data_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(fit.__globals__, "WAIT_S", 0.001)
    told = []
    fit(Job(LateTask(5), recipe(2)), tmp_path, options=RunOptions(), progress=told.append)
    assert told.count("step 1 waits: 3 of 4 cases are there") == 1
    assert read_checkpoint(tmp_path / CHECKPOINT_NAME).step == 2


def test_a_run_that_waits_can_be_stopped(tmp_path):
    assert run(tmp_path, LateTask(10**9), recipe(2), minutes=0).step == 1
    assert run(tmp_path, LateTask(10**9), recipe(2), minutes=0).step == 1


def test_signals_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path, plan=recipe(1))
    assert signal.getsignal(signal.SIGTERM) is before


def test_time_over_stops_after_a_step_and_leaves_a_checkpoint(tmp_path):
    assert run(tmp_path, minutes=0).step == 1
    assert run(tmp_path, minutes=0).step == 2


def test_no_resume_starts_anew(tmp_path):
    run(tmp_path)
    assert run(tmp_path, minutes=0, resume=False).step == 1


def test_steps_replace_the_length_of_the_schedule(tmp_path):
    assert run(tmp_path, steps=3).step == 3
    assert run(tmp_path, steps=5).step == 5


def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(tmp_path):
    task = TinyTask(value_at=lambda step: float("nan") if step == 5 else 1.0)
    with pytest.raises(TrainingError, match=r"step 5 is nan.*lower optimisation.learning_rate"):
        run(tmp_path, task, recipe(checkpoint_every=1))
    assert read_checkpoint(tmp_path / CHECKPOINT_NAME).step == 5
    assert torch.isfinite(weights(tmp_path)).all()


class OverflowingTask(TinyTask):
    """A finite loss whose gradient is not, at some steps."""

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def loss(self, logits, batch):
        """Loss whose gradient overflows at a bad step."""
        loss = super().loss(logits, batch)
        if self.bad(self.step):
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    def batch(self, step):
        """Batch of a step, which is remembered."""
        self.step = step
        return super().batch(step)


def test_a_step_whose_gradient_overflows_is_left_out(tmp_path):
    assert run(tmp_path, OverflowingTask(lambda step: step in (2, 3))).finished
    assert torch.isfinite(weights(tmp_path)).all()


def test_too_many_of_them_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(TrainingError, match="times in a row"):
        run(tmp_path, OverflowingTask(lambda _: True), recipe(UNUSABLE_STEPS_ALLOWED + 5))


def test_validation_sees_the_averaged_weights_in_evaluation_mode(tmp_path):
    result = run(tmp_path)
    assert result.scores["training"] == 0
    stored = read_checkpoint(tmp_path / CHECKPOINT_NAME)
    network = build_network(TINY)
    network.load_state_dict(stored.ema)
    assert TinyTask().validate(network.eval(), torch.device("cpu")) == dict(stored.scores)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run(tmp_path, plan=recipe(1))
    other = replace(recipe(), network=findings_spec((2, 2)))
    with pytest.raises(TrainingError, match="another network"):
        run(tmp_path, plan=other)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    run(tmp_path, minutes=0)
    plan = recipe()
    other = replace(plan, optimisation=replace(plan.optimisation, seed=4))
    with pytest.raises(TrainingError, match=r"another recipe: optimisation.seed = 4 \(was 3\)"):
        run(tmp_path, plan=other)
    assert run(tmp_path, plan=other, minutes=0, resume=False).step == 1


def test_a_lower_rate_and_a_shorter_schedule_go_on_and_are_said(tmp_path):
    task = TinyTask(value_at=lambda step: float("nan") if step == 5 else 1.0)
    with pytest.raises(TrainingError, match="is nan"):
        run(tmp_path, task, recipe(checkpoint_every=1))
    lines = []
    job = Job(TinyTask(), recipe(7, rate=0.001))
    assert fit(job, tmp_path, options=RunOptions(), progress=lines.append).step == 7
    changes = "optimisation.steps = 7 (was 8), optimisation.learning_rate = 0.001 (was 0.01)"
    assert lines[:2] == [f"goes on with {changes}", lines[1]]
    assert lines[1].startswith("tiny: step 5 of 7 on ")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / CHECKPOINT_NAME).write_bytes(content)
    with pytest.raises(TrainingError, match=CHECKPOINT_NAME):
        run(tmp_path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    torch.save({"format": 1, "step": 3}, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(TrainingError, match="of this version"):
        run(tmp_path)


def test_nothing_half_written_is_left(tmp_path):
    run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT_NAME, LOG_NAME]


def failing(error, at=3):
    """Return a task whose batch of one step cannot be made."""

    def fail(step):
        if step == at:
            raise error

    return TinyTask(after_batch=fail)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_is_one_message_and_the_next_call_goes_on(tmp_path, error):
    with pytest.raises(TrainingError, match=r"out of memory: take a smaller.*last.pt holds"):
        run(tmp_path / "parts", failing(error), recipe(checkpoint_every=1))
    assert read_checkpoint(tmp_path / "parts" / CHECKPOINT_NAME).step == 3
    assert run(tmp_path / "parts").finished
    run(tmp_path / "whole")
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_out_of_memory_in_the_first_step_leaves_a_checkpoint_too(tmp_path):
    with pytest.raises(TrainingError, match="out of memory"):
        run(tmp_path, failing(MemoryError(), at=0))
    assert read_checkpoint(tmp_path / CHECKPOINT_NAME).step == 0


def test_a_killed_helper_is_one_message_and_the_next_call_goes_on(tmp_path):
    with pytest.raises(TrainingError, match=r"fewer --makers; .*last\.pt holds"):
        run(tmp_path, failing(BrokenProcessPool("ended")), recipe(checkpoint_every=1))
    assert run(tmp_path).finished


@pytest.mark.parametrize(
    ("part", "advice"),
    [
        ("findings", "optimisation.batch_size or findings.shape, or set optim"),
        ("slices", "memory: set optimisation.checkpointing = true"),
    ],
)
def test_out_of_memory_names_settings_that_may_change(tmp_path, part, advice):
    with pytest.raises(TrainingError, match=advice):
        run(tmp_path, failing(MemoryError()), replace(recipe(), part=part))


def test_other_runtime_errors_are_not_called_out_of_memory(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        run(tmp_path, failing(RuntimeError("a bug")))


@pytest.fixture
def small_files():
    """Set a limit to the size of files, so that writing ends as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_message_and_keeps_the_last_checkpoint(tmp_path, small_files):
    run(tmp_path, minutes=0)
    task = TinyTask(after_batch=lambda step: small_files(4000) if step == 3 else None)
    with pytest.raises(
        TrainingError, match=r"cannot write .*last.pt at step 8.*free space"
    ) as told:
        run(tmp_path, task)
    small_files(resource.RLIM_INFINITY)
    assert "holds the last good weights" in str(told.value)
    assert read_checkpoint(tmp_path / CHECKPOINT_NAME).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT_NAME, LOG_NAME]
    assert run(tmp_path).finished


def test_a_disk_that_is_full_from_the_start_is_found_before_the_first_step(tmp_path, small_files):
    small_files(4000)
    with pytest.raises(TrainingError, match=r"at step 0: .*nothing was trained yet"):
        run(tmp_path)


def test_a_log_that_cannot_be_written_is_told(tmp_path, small_files):
    run(tmp_path, minutes=0)
    (tmp_path / LOG_NAME).write_text(" " * 5000)
    task = TinyTask(after_batch=lambda step: small_files(4000) if step == 1 else None)
    with pytest.raises(TrainingError, match="cannot go on in"):
        run(tmp_path, task)


# ---- the best weights ----------------------------------------------------------------------


def rising(*scores, name="F1"):
    """Return a task whose validation scores are given beforehand."""
    left, task = list(scores), TinyTask()
    task.validate = lambda _network, _device: {name: left.pop(0)}
    return task


@pytest.mark.parametrize(
    ("name", "scores", "best"),
    [("F1", [0.2, 0.7, 0.7, 0.3], 4), ("a loss", [0.9, 0.4, 0.3, 0.5], 6)],
)
def test_the_best_weights_are_kept_beside_the_last(tmp_path, name, scores, best):
    task = rising(*scores, name=name)
    plan = recipe(validate_every=2, best_by=name)
    run(tmp_path, task, plan)
    assert result_checkpoint(tmp_path, plan) == tmp_path / BEST_NAME
    assert read_checkpoint(tmp_path / BEST_NAME).step == best
    assert read_checkpoint(tmp_path / CHECKPOINT_NAME).step == 8


def test_a_resumed_run_remembers_its_best(tmp_path):
    plan = recipe(validate_every=2, best_by="F1")
    task = rising(0.9)
    task.after_batch = lambda n: ask_to_stop() if n == 2 else None
    assert run(tmp_path, task, plan).step == 3
    run(tmp_path, rising(0.5, 0.6, 0.7), plan)
    assert read_checkpoint(tmp_path / BEST_NAME).step == 2
    run(tmp_path, rising(0.1, 0.2, 0.3, 0.1), plan, resume=False)
    assert read_checkpoint(tmp_path / BEST_NAME).step == 6


def test_a_score_that_no_validation_gives_is_refused(tmp_path):
    plan = recipe(best_by="luck")
    run(tmp_path, plan=plan)
    with pytest.raises(TrainingError, match=r"gave the score 'luck'"):
        result_checkpoint(tmp_path, plan)
    assert result_checkpoint(tmp_path, recipe()) == tmp_path / CHECKPOINT_NAME


def test_progress_says_loss_scores_and_the_time_left(tmp_path):
    lines = []
    fit(Job(TinyTask(), recipe()), tmp_path, options=RunOptions(), progress=lines.append)
    assert lines[0].startswith("tiny: step 0 of 8 on cpu")
    assert lines[1].startswith("step 2 of 8: loss ")
    assert lines[1].endswith(" s left")
    assert lines[3].startswith("step 4: hit ")


def test_no_validation_is_said_once_and_not_tried(tmp_path):
    task, lines = TinyTask(), []
    task.no_validation = lambda: "there are no cases of heads 13"
    task.validate = lambda *_: pytest.fail("nothing to validate on")
    result = fit(Job(task, recipe()), tmp_path, options=RunOptions(), progress=lines.append)
    assert lines[1] == "no validation: there are no cases of heads 13"
    assert not [line for line in lines[2:] if "loss" not in line]
    assert (result.step, result.scores) == (8, {})


def test_a_validation_without_a_defined_score_says_so(tmp_path):
    task, lines = TinyTask(), []
    task.validate = lambda *_: {}
    fit(Job(task, recipe()), tmp_path, options=RunOptions(), progress=lines.append)
    assert "step 4: no finding in the validation samples, so no score is defined" in lines
    logged = map(json.loads, (tmp_path / LOG_NAME).read_text().splitlines())
    assert all("loss" in line for line in logged)


class TypedTask(TinyTask):
    """Remembers the numbers that the network's logits are made of."""

    def loss(self, logits, batch):
        """Return the findings loss."""
        self.seen = logits[0].dtype
        return super().loss(logits, batch)


def test_checkpointing_takes_a_recipes_word_and_ends_with_the_same_weights(tmp_path):
    built = []

    class Remembering(TinyTask):
        def build(self):
            built.append(super().build())
            return built[-1]

    plan = recipe()
    saving = replace(plan, optimisation=replace(plan.optimisation, checkpointing=True))
    run(tmp_path / "without", Remembering(), plan)
    run(tmp_path / "with", Remembering(), saving)
    assert [network.checkpointing for network in built] == [False, True]
    assert torch.equal(weights(tmp_path / "without"), weights(tmp_path / "with"))


@pytest.mark.parametrize(
    ("there", "dtype", "said"),
    [(True, torch.bfloat16, False), (False, torch.float32, True)],
)
def test_without_bfloat16_training_is_in_float32_and_says_so(
    tmp_path, monkeypatch, there, dtype, said
):
    """A processor that emulates it takes minutes a step."""
    monkeypatch.setitem(fit.__globals__, "has_bf16", lambda _: there)
    task, lines = TypedTask(), []
    fit(Job(task, recipe(1)), tmp_path, options=RunOptions(), progress=lines.append)
    assert task.seen == dtype
    assert ("float32 (no bfloat16 here)" in lines[0]) == said


def test_tensorboard_files_are_written_where_asked(tmp_path):
    run(tmp_path, plan=recipe(tensorboard=True))
    files = list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert len(files) == 1
    assert files[0].stat().st_size > 200


def test_a_recipe_without_a_length_is_refused(tmp_path):
    plan = recipe()
    endless = replace(plan, optimisation=replace(plan.optimisation, steps=None))
    with pytest.raises(ConfigError, match=r"has no optimisation.steps; pass --steps"):
        run(tmp_path, plan=endless)


def test_a_constant_rate_stays():
    config = OptimisationConfig(
        steps=50, batch_size=1, learning_rate=0.5, warmup_steps=2, decay="constant"
    )
    rates = [learning_rate(step, config, steps=50) for step in (0, 1, 2, 30, 60)]
    assert rates == [0.25, 0.5, 0.5, 0.5, 0.5]


def test_the_learning_rate_never_leaves_its_range():
    config = OptimisationConfig(steps=50, batch_size=1, learning_rate=0.5, warmup_steps=5)
    rates = [learning_rate(step, config, steps=50) for step in range(60)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0.005)


def test_the_moving_average_moves_by_its_decay():
    network, ema = nn.Linear(1, 1, bias=False), {"weight": torch.zeros((1, 1))}
    nn.init.ones_(network.weight)
    update_ema(ema, network, decay=0.75)
    assert ema["weight"].item() == pytest.approx(0.25)
    assert ema_decay(1, 0.9) < ema_decay(50, 0.9) < ema_decay(500, 0.9) == 0.9


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(TrainingError, match="finds none"):
        choose_device("gpu")
