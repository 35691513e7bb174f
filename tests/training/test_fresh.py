"""Cases that are simulated while a run trains: a schedule of the step alone, bounded, resumable."""

import os
import signal
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepmir.errors import ConfigError, InputError, TrainingError
from deepmir.simulation.cases import CaseJob
from deepmir.training.fit import CHECKPOINT_NAME, RunOptions, read_checkpoint
from deepmir.training.fresh import (
    FreshCases,
    FreshConfig,
    Simulators,
    drop_fresh,
    missing_text,
    numbers_at,
    settle_folder,
)
from deepmir.training.patches import cached_case
from deepmir.training.recipes import parse_recipe
from deepmir.training.run import train
from deepmir.training.sources import FixedCases, Mix, Mixture, Opener

TEXT = """
name = "tiny-fresh"
part = "findings"
[network]
in_channels = 8
out_channels = 4
filters = [2, 2]
strides = [[1, 1, 1], [2, 2, 1]]
kernels = [[3, 3, 3], [3, 3, 3]]
norm = "batch"
[optimisation]
steps = 8
batch_size = 2
learning_rate = 0.01
warmup_steps = 1
[schedule]
log_every = 2
validate_every = 4
checkpoint_every = 2
prefetch = 1
[findings]
shape = [8, 8, 4]
[fresh]
cases = 2
first_cases = 1
steps_per_case = 2
validation_cases = 1
"""
CONFIG = FreshConfig(cases=3, first_cases=2, steps_per_case=2)


class InstantMakers:
    """Makes a case at once, in this process; remembers what it was asked for."""

    at_once = 1

    def __init__(self, write):
        self.write, self.asked = write, []

    def ask(self, job):
        """Write the tiny case of a job."""
        self.asked.append(job)
        done = Future()
        if not job.is_done:
            self.write(job.folder, head=1, seed=job.seed)
        done.set_result(None)
        return done

    def close(self):
        """Nothing goes on in the background."""


def fresh_cases(folder, makers, *, keep_steps=2, seed=1):
    heads = [Path("head_01.npz"), Path("head_02.npz")]
    return FreshCases(heads, folder, CONFIG, seed=seed, keep_steps=keep_steps, makers=makers)


def names_of(numbers):
    return tuple(f"case-{number:05d}" for number in numbers)


def test_each_step_asks_for_the_cases_of_the_schedule(tmp_path, write_tiny_case):
    made = fresh_cases(tmp_path, InstantMakers(write_tiny_case))
    assert made.missing(0) is None
    for step in range(12):
        assert made.names_at(step) == names_of(numbers_at(step, CONFIG))


@pytest.mark.parametrize("step", [0, 1, 7, 40, 999])
def test_no_case_comes_back_and_none_is_left_out(step):
    before, after = numbers_at(step, CONFIG), numbers_at(step + 1, CONFIG)
    assert before.start <= after.start <= before.start + 1
    assert before.stop <= after.stop <= before.stop + 1
    assert len(after) <= CONFIG.cases


def test_the_folder_stays_small_and_keeps_what_a_resumed_run_asks_for(tmp_path, write_tiny_case):
    made = fresh_cases(tmp_path, InstantMakers(write_tiny_case), keep_steps=4)
    for step in range(40):
        made.names_at(step)
        there = {path.name for path in tmp_path.glob("case-*")}
        assert set(names_of(numbers_at(max(0, step - 4), CONFIG))) <= there
        assert len(there) <= CONFIG.cases + 4 // CONFIG.steps_per_case + 1
    assert not (tmp_path / "case-00000").exists()


def test_a_retired_case_is_closed(tmp_path, write_tiny_case):
    made = fresh_cases(tmp_path, InstantMakers(write_tiny_case), keep_steps=0)
    made.names_at(0)
    first = cached_case(tmp_path, "case-00000")
    assert cached_case(tmp_path, "case-00000") is first
    made.names_at(20)
    with pytest.raises(InputError, match="case-00000"):
        cached_case(tmp_path, "case-00000")


def test_jobs_depend_on_seed_and_number_alone(tmp_path, write_tiny_case):
    one, other = InstantMakers(write_tiny_case), InstantMakers(write_tiny_case)
    fresh_cases(tmp_path, one).names_at(6)
    fresh_cases(tmp_path, other).names_at(0)
    jobs = {job.folder.name: job for job in (*one.asked, *other.asked)}
    assert all(jobs[job.folder.name] == job for job in (*one.asked, *other.asked))
    assert {job.seed for job in other.asked} == {1_000_000, 1_000_001, 1_000_002}
    assert [job.anatomy.name for job in other.asked][:2] == ["head_01.npz", "head_02.npz"]


def test_missing_says_how_many_are_there():
    done, open_one = Future(), Future()
    done.set_result(None)
    assert missing_text([done, open_one], "cases") == "1 of 2 cases"
    assert missing_text([done], "cases") is None


# ---- the folder ----------------------------------------------------------------------------


@pytest.fixture
def two_heads(tmp_path):
    paths = [tmp_path / f"head_0{n}.npz" for n in (1, 2)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


def test_cases_of_other_anatomies_are_not_gone_on_with(tmp_path, two_heads):
    folder = tmp_path / "fresh"
    settle_folder(folder, two_heads, seed=1, resume=True)
    (folder / ".case-00003-77").mkdir()
    (folder / "case-00000").mkdir()
    settle_folder(folder, two_heads, seed=1, resume=True)
    assert not list(folder.glob(".case-*"))
    for changed in ({"seed": 2}, {"anatomies": two_heads[:1]}):
        given = {"anatomies": two_heads, "seed": 1} | changed
        with pytest.raises(TrainingError, match="other anatomies or with another seed"):
            settle_folder(folder, **given, resume=True)
    assert (folder / "case-00000").exists()
    settle_folder(folder, two_heads, seed=2, resume=False)
    assert not (folder / "case-00000").exists()


def test_what_was_simulated_goes_when_the_run_is_finished(tmp_path, write_tiny_case):
    write_tiny_case(tmp_path / "fresh" / "case" / "case-00000", head=1)
    drop_fresh(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- mixtures ------------------------------------------------------------------------------


def test_sources_are_drawn_by_their_shares():
    own, one, other = (FixedCases(Path(name), (name,)) for name in ("own", "one", "other"))
    mixture = Mixture(own, ((one, 0.2), (other, 0.5)))
    rng = np.random.default_rng(0)
    drawn = [mixture.draw(rng, 0)[0].name for _ in range(2000)]
    for name, share in (("own", 0.3), ("one", 0.2), ("other", 0.5)):
        assert abs(drawn.count(name) / 2000 - share) < 0.04


def test_a_mixture_is_opened_from_cases_and_anatomies(cases, two_heads, tmp_path, write_tiny_case):
    makers = InstantMakers(write_tiny_case)
    opener = Opener(parse_recipe(TEXT, origin="test"), tmp_path / "out", makers)
    (disk, _), (fresh, share) = opener.mixed((Mix(cases, 0.25), Mix(two_heads[0].parent, 0.5)))
    assert disk.names_at(0) == ("case-00000", "case-00001")
    assert (fresh.names_at(0), share) == (("case-00000",), 0.5)
    assert fresh.folder == tmp_path / "out" / "fresh" / "mix_2"
    with pytest.raises(ConfigError, match=r"add up to 1\.2"):
        opener.mixed((Mix(cases, 0.6), Mix(cases, 0.6)))


def test_anatomies_of_other_heads_are_refused(two_heads, tmp_path, write_tiny_case):
    recipe = replace(parse_recipe(TEXT, origin="test"), train_heads=(7,))
    opener = Opener(recipe, tmp_path / "out", InstantMakers(write_tiny_case))
    with pytest.raises(InputError, match=r"no anatomy \(head_XX.npz\) of heads \[7\]"):
        opener.training(two_heads[0].parent, name="case")


def test_first_cases_are_at_most_all_cases():
    with pytest.raises(ConfigError, match=r"fresh.first_cases is 9, more than fresh.cases \(2\)"):
        parse_recipe(TEXT.replace("first_cases = 1", "first_cases = 9"), origin="test")
    with pytest.raises(ConfigError, match=r"unknown setting fresh\.workers"):
        parse_recipe(TEXT + "workers = 2\n", origin="test")


# ---- processes -----------------------------------------------------------------------------


def test_a_case_that_cannot_be_simulated_ends_in_one_message(tmp_path):
    makers = Simulators(1)
    job = CaseJob(tmp_path / "head_01.npz", tmp_path / "fresh" / "case-00000", 1)
    with pytest.raises(TrainingError, match=r"case-00000 of head_01.npz .*is not a stored anatomy"):
        makers.ask(job).result()
    makers.close()


def test_closing_ends_what_is_half_made(tmp_path):
    makers = Simulators(1, simulate=time.sleep)  # a job is no number of seconds: it fails late
    asked = [makers.ask(CaseJob(tmp_path / "a", tmp_path / f"case-{n}", n)) for n in range(3)]
    makers.close()
    assert all(one.done() or one.cancelled() for one in asked)
    assert not list(tmp_path.glob("case-*"))


@pytest.mark.slow
def test_a_run_on_fresh_cases_stops_and_goes_on_to_the_same_weights(tiny_anatomies, tmp_path):
    text = TEXT.replace("steps = 8", "steps = 4").replace(
        "validate_every = 4", "validate_every = 2"
    )
    recipe = parse_recipe(text, origin="test")
    train(recipe, tiny_anatomies, tmp_path / "whole", options=RunOptions(workers=1))
    parts = tmp_path / "parts"
    assert train(recipe, tiny_anatomies, parts, options=RunOptions(minutes=0)).step == 0

    def stop_in_the_middle(line):
        if line.startswith("step 2 of 4"):
            os.kill(os.getpid(), signal.SIGTERM)

    options = RunOptions(workers=1)
    stopped = train(recipe, tiny_anatomies, parts, options=options, progress=stop_in_the_middle)
    assert 2 <= stopped.step < 4
    assert train(recipe, tiny_anatomies, parts, options=options).finished
    one, other = (read_checkpoint(tmp_path / name / CHECKPOINT_NAME) for name in ("whole", "parts"))
    assert (one.step, other.step) == (4, 4)
    assert all(torch.equal(one.ema[name], other.ema[name]) for name in one.ema)
    assert one.scores == other.scores
    assert not (tmp_path / "whole" / "fresh").exists()
