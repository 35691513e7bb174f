"""Several processes share every batch and end with the weights of one."""

import json
import queue
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepmir.errors import ConfigError, InputError, TrainingError
from deepmir.training.findings_task import FindingsTask
from deepmir.training.fit import CHECKPOINT_NAME, LOG_NAME, FitResult, RunOptions, read_checkpoint
from deepmir.training.fresh import Onlookers, Simulators, makers_for
from deepmir.training.parallel import (
    _Failure,
    _own_options,
    _watch,
    check_shareable,
    device_count,
)
from deepmir.training.recipes import parse_recipe, read_recipe
from deepmir.training.run import train
from deepmir.training.sources import CaseBlocks, Mixture, Opener
from deepmir.training.team import ALONE, Share, Team

TEXT = """
name = "tiny-shared"
part = "findings"
[network]
in_channels = 8
out_channels = 4
filters = [2, 3]
strides = [[1, 1, 1], [2, 2, 1]]
kernels = [[3, 3, 3], [3, 3, 3]]
norm = "instance"
[optimisation]
steps = 4
batch_size = 4
learning_rate = 0.01
warmup_steps = 1
bf16 = false
[schedule]
log_every = 2
validate_every = 4
[findings]
shape = [8, 8, 4]
"""
RECIPE = parse_recipe(TEXT, origin="test")
TOGETHER = RunOptions(device="cpu", devices=2, threads=1)


def test_parts_put_together_are_the_batch_of_one_process(cases, tmp_path):
    tasks = []
    for share in (ALONE, Share(0, 2), Share(1, 2)):
        opener = Opener(RECIPE, tmp_path / "out", makers_for(share, 1), share=share)
        sources = Mixture(opener.training(cases, name="case"))
        tasks.append(FindingsTask(RECIPE, sources, opener.validation(cases), share=share))
    for step in (0, 3):
        whole, *parts = [task.batch(step) for task in tasks]
        assert torch.equal(whole.inputs, torch.cat([part.inputs for part in parts]))
        assert torch.equal(whole.targets[0], torch.cat([part.targets[0] for part in parts]))
    for task in tasks:
        task.close()


def moments(out):
    """Mean gradients that the optimizer remembers."""
    stored = read_checkpoint(out / CHECKPOINT_NAME).optimizer["state"]
    return torch.cat([stored[key]["exp_avg"].flatten() for key in sorted(stored)])


@pytest.mark.slow
def test_two_processes_have_the_gradient_and_the_weights_of_one(cases, tmp_path):
    alone, lines = replace(TOGETHER, devices=1), []
    for name, options in (("one", alone), ("two", TOGETHER)):
        stopped = train(RECIPE, cases, tmp_path / name, options=replace(options, minutes=0))
        assert (stopped.step, stopped.finished) == (1, False)
    first = [moments(tmp_path / name) for name in ("one", "two")]
    assert torch.allclose(*first, rtol=1e-4, atol=1e-7)
    train(RECIPE, cases, tmp_path / "one", options=alone)
    ended = train(RECIPE, cases, tmp_path / "two", options=TOGETHER, progress=lines.append)
    assert ended.finished
    assert lines[0] == "tiny-shared: step 1 of 4 on cpu, 2 processes"
    one, two = (read_checkpoint(tmp_path / name / CHECKPOINT_NAME) for name in ("one", "two"))
    # Adam takes steps of one size where a gradient is almost nothing: rounding shows there
    for name, weight in one.network.items():
        assert torch.allclose(weight, two.network[name], atol=2e-3), name
    assert ended.scores.keys() == one.scores.keys()
    log, other = (
        [json.loads(line) for line in (tmp_path / name / LOG_NAME).read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [line["step"] for line in other] == [line["step"] for line in log] == [2, 4, 4]
    assert other[1]["loss"] == pytest.approx(log[1]["loss"], rel=1e-3)


@pytest.mark.slow
def test_a_process_that_fails_ends_all(cases, tmp_path):
    (cases / "case-00001" / "labels.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"process [12] of 2 failed: case .*case-00001.* read"):
        train(RECIPE, cases, tmp_path / "out", options=TOGETHER)


# ---- what can be shared --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "count", "message"),
    [
        (RECIPE, 3, "3 devices cannot share batches of 4"),
        (read_recipe("release-anatomy"), 2, "whose batches are not shared"),
        (read_recipe("release-nuclei"), 2, "whose batches are not shared"),
        (
            replace(RECIPE, network=replace(RECIPE.network, supervised_levels=1)),
            2,
            "supervised_levels",
        ),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(recipe, count, message):
    with pytest.raises(ConfigError, match=message):
        check_shareable(recipe, count)


def test_devices_are_counted(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert device_count(RunOptions()) == 1
    assert device_count(RunOptions(devices=0)) == 3
    assert device_count(RunOptions(devices=0, device="cpu")) == 1
    assert device_count(RunOptions(devices=8, device="cpu")) == 8
    with pytest.raises(TrainingError, match="--devices is 4, but torch finds 3 GPUs"):
        device_count(RunOptions(devices=4))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert device_count(RunOptions(devices=0)) == 1


def test_the_first_process_simulates_and_the_others_look_on(tmp_path, write_tiny_case):
    first, other = makers_for(Share(0, 2), 1), makers_for(Share(1, 2), 1)
    assert isinstance(first, Simulators)
    assert isinstance(other, Onlookers)
    first.close()
    opener = Opener(RECIPE, tmp_path, other, share=Share(1, 2))
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "head_01.npz").write_bytes(b"")
    fresh = opener.training(tmp_path / "heads", name="case")
    assert fresh.missing(0) == "0 of 24 simulated cases"
    for number in range(24):
        write_tiny_case(fresh.folder / f"case-{number:05d}", head=1)
    assert len(fresh.names_at(0)) == 24
    other.close()


def test_the_others_take_the_cases_that_the_first_has_written_down(cases, tmp_path):
    record = tmp_path / "blocks.json"
    CaseBlocks(cases, (1, 2), record).cases_of("0")
    (cases / "case-00000").rename(cases / "case-99999")
    other = CaseBlocks(cases, (1, 2), record, leads=False)
    assert other.cases_of("0") == ("case-00000", "case-00001")


def test_one_process_asks_nobody():
    team = Team()
    assert (team.any(asked=True), team.any(asked=False)) == (True, False)
    part = torch.ones(2, 3)
    assert team.whole(part) is part
    own = _own_options(RunOptions(threads=3), Share(1, 2))
    assert own.threads == 3
    assert _own_options(RunOptions(), Share(0, 10**6)).threads == 1


# ---- watching ------------------------------------------------------------------------------


class Ended:
    """A process that has ended, or has not."""

    pid = None

    def __init__(self, exitcode):
        self.exitcode = exitcode


class Stop:
    """Nobody asked to stop."""

    requested = False


def watched(messages, codes):
    said = queue.Queue()
    for message in messages:
        said.put(message)
    return _watch([Ended(code) for code in codes], said, Stop(), lambda _: None)


def test_a_process_that_was_killed_is_named():
    failed = _Failure(0, TrainingError("connection closed by peer"))
    for messages in ([], ["step 1"], [failed]):
        with pytest.raises(TrainingError, match="process 2 of 2 was ended by signal 9"):
            watched(messages, [None, -9])


def test_a_request_to_stop_is_handed_on_once_the_loop_has_begun(monkeypatch):
    class Asked:
        requested = True

    class Running(Ended):
        pid = 4242

        def is_alive(self):
            return True

    sent, said = [], queue.Queue()
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append((pid, number)))
    told, result = [], FitResult(3, 8, Path("last.pt"), {})

    def tell(line):
        told.append((line, len(sent)))

    for message in ("step 0 of 8", "step 2 of 8", result):
        said.put(message)
    assert _watch([Running(None), Running(None)], said, Asked(), tell) is result
    assert told == [("step 0 of 8", 0), ("step 2 of 8", 2)]
    assert sent == [(4242, signal.SIGTERM)] * 2


def test_the_failure_that_came_first_is_told():
    failures = [_Failure(1, InputError("no case")), _Failure(0, TrainingError("lost"))]
    with pytest.raises(InputError, match="process 2 of 2 failed: no case"):
        watched(failures, [1, 1])
    with pytest.raises(TrainingError, match="process 1 of 2 ended with 3"):
        watched([], [3, None])
