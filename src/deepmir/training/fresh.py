"""Cases that are simulated while a run trains, so that the network never runs out of new heads.

    step ──numbers_at──▶ cases in use ◀── folder ◀── background processes, one a case

Which cases a step draws from is a pure function of the step: training waits for a case that is
not there yet, and never takes another one instead. A case is a pure function of seed and number,
so a run that was stopped and goes on, on any number of processors, ends with the same weights.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Lock
from typing import Protocol

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from deepmir.errors import DeepmirError, TrainingError
from deepmir.io.atomic import write_text
from deepmir.memory import keep_freed_memory
from deepmir.simulation.cases import CaseJob, case_job, simulate_case
from deepmir.training.patches import forget_case
from deepmir.training.team import Share

FRESH_NAME = "fresh"
WAIT_S = 0.2
SOURCE_NAME = "source.json"
FIRST_VALIDATION_NUMBER = 90_000
SEEDS_APART = 1_000_000
"""Distance of the seeds of case 0 of two runs: their cases never meet."""


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FreshConfig:
    """How many simulated cases are in use, and how often one is replaced by a new one."""

    cases: int = Field(default=96, gt=0)
    """In use at the same time, once so many have been made; a case takes about 80 MB."""
    first_cases: int = Field(default=24, gt=0)
    """In use at the first step, which waits for them."""
    steps_per_case: int = Field(default=50, gt=0)
    """After so many steps a new case comes in, and the oldest goes when there are `cases`."""
    validation_cases: int = Field(default=8, ge=0)
    """Of the validation heads; always the same, and never retired."""


def numbers_at(step: int, config: FreshConfig) -> range:
    """Numbers of the cases that are in use at a step.

    Examples
    --------
    >>> config = FreshConfig(cases=4, first_cases=2, steps_per_case=10)
    >>> [numbers_at(step, config) for step in (0, 9, 10, 30, 500)]
    [range(0, 2), range(0, 2), range(0, 3), range(1, 5), range(48, 52)]
    """
    newest = config.first_cases + step // config.steps_per_case
    return range(max(0, newest - config.cases), newest)


class Makers(Protocol):
    """Who makes cases in the background: the seam between the schedule and the processes."""

    @property
    def at_once(self) -> int:
        """How many cases are made at the same time."""

    def ask(self, job: CaseJob) -> Future[None]:
        """Have a case made; done at once where it is there."""

    def close(self) -> None:
        """Make no more; what is half made is dropped."""


class Simulators:
    """Background processes that simulate cases, each in a process of its own.

    A process that ends gives all its memory back, and one that is killed takes nobody along.
    """

    def __init__(
        self, workers: int = 0, *, simulate: Callable[[CaseJob], None] = simulate_case
    ) -> None:
        self._simulate = simulate
        self._workers = workers or max(1, (os.cpu_count() or 2) // 2)
        self._threads = ThreadPoolExecutor(self._workers)
        self._lock = Lock()
        self._running: set[SpawnProcess] = set()
        self._closed = False

    @property
    def at_once(self) -> int:
        """How many cases are made at the same time."""
        return self._workers

    def ask(self, job: CaseJob) -> Future[None]:
        """Have a case made; done at once where it is there."""
        return _done() if job.is_done else self._threads.submit(self._make, job)

    def close(self) -> None:
        """End all processes; what is half made is dropped."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.terminate()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _make(self, job: CaseJob) -> None:
        context = get_context("spawn")
        complaint, told = context.Pipe(duplex=False)
        process = context.Process(
            target=_simulate_in_process, args=(self._simulate, job, told), daemon=True
        )
        with self._lock:
            if self._closed:
                return
            process.start()
            self._running.add(process)
        told.close()
        try:
            process.join()
            _check_made(job, process.exitcode, complaint)
        finally:
            complaint.close()
            with self._lock:
                self._running.discard(process)


class Onlookers:
    """Wait for the cases that another process of the same run simulates."""

    at_once = 0

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1)
        self._closed = False

    def ask(self, job: CaseJob) -> Future[None]:
        """Wait in the background until a case is there."""
        return _done() if job.is_done else self._threads.submit(self._await, job)

    def close(self) -> None:
        """Wait no longer."""
        self._closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _await(self, job: CaseJob) -> None:
        while not (self._closed or job.is_done):
            time.sleep(WAIT_S)


class FreshCases:
    """The cases in use at each step, in a folder whose oldest are retired.

    Parameters
    ----------
    anatomies : sequence of Path
        Finished anatomies (.npz) of the training heads.
    keep_steps : int
        A case stays for so long after its last step: a run that goes on from its checkpoint
        asks for it again.
    """

    def __init__(
        self, anatomies: Sequence[Path], folder: Path, config: FreshConfig,
        *, seed: int, keep_steps: int, makers: Makers,
    ) -> None:  # fmt: skip
        self.folder = folder
        self._anatomies = tuple(anatomies)
        self._config = config
        self._seed = seed * SEEDS_APART
        self._keep_steps = keep_steps
        self._makers = makers
        self._asked: dict[int, Future[None]] = {}
        self._retired = 0
        self._lock = Lock()  # the loop asks, and the thread that makes batches

    def names_at(self, step: int) -> tuple[str, ...]:
        """Names of the cases of a step; waits for those that are being simulated.

        Raises
        ------
        TrainingError
            If one cannot be simulated.
        """
        numbers = numbers_at(step, self._config)
        for asked in self._ask(step):
            asked.result()
        self._retire(step)
        return tuple(self._job(number).folder.name for number in numbers)

    def missing(self, step: int) -> str | None:
        """Say how many cases of a step are there yet; None when all are."""
        return missing_text(self._ask(step), "simulated cases")

    def _ask(self, step: int) -> list[Future[None]]:
        """Ask for all cases of a step, and for those that come next."""
        numbers = numbers_at(step, self._config)
        with self._lock:
            for number in range(numbers.start, numbers.stop + self._makers.at_once):
                if number not in self._asked:
                    self._asked[number] = self._makers.ask(self._job(number))
            return [self._asked[number] for number in numbers]

    def _retire(self, step: int) -> None:
        """Remove the cases that no step asks for any more, not even after going back."""
        first = numbers_at(max(0, step - self._keep_steps), self._config).start
        with self._lock:
            gone = range(self._retired, first)
            self._retired = max(self._retired, first)
        for number in gone:
            folder = self._job(number).folder
            self._asked.pop(number, None)
            forget_case(folder)  # an open file would keep its place on the disk
            shutil.rmtree(folder, ignore_errors=True)

    def _job(self, number: int) -> CaseJob:
        return case_job(self._anatomies, self.folder, seed=self._seed, number=number)


class FreshValidation:
    """The few simulated cases that a run validates on: the same for every run and seed."""

    def __init__(
        self, anatomies: Sequence[Path], folder: Path, count: int, *, makers: Makers
    ) -> None:
        numbers = range(FIRST_VALIDATION_NUMBER, FIRST_VALIDATION_NUMBER + count)
        jobs = [case_job(anatomies, folder, seed=0, number=number) for number in numbers]
        self.folder = folder
        self._names = tuple(job.folder.name for job in jobs)
        self._jobs, self._makers = jobs, makers
        self._asked: list[Future[None]] = []

    @property
    def count(self) -> int:
        """How many cases there will be."""
        return len(self._names)

    def names(self) -> tuple[str, ...]:
        """Names of the cases; waits for them.

        Raises
        ------
        TrainingError
            If one cannot be simulated.
        """
        for asked in self._ask():
            asked.result()
        return self._names

    def missing(self) -> str | None:
        """Say how many are there yet; None when all are."""
        return missing_text(self._ask(), "validation cases")

    def _ask(self) -> list[Future[None]]:
        if not self._asked:
            self._asked = [self._makers.ask(job) for job in self._jobs]
        return self._asked


def missing_text(asked: Sequence[Future[None]], what: str) -> str | None:
    """Say how many of some cases are there; None when all are."""
    there = sum(one.done() for one in asked)
    return None if there == len(asked) else f"{there} of {len(asked)} {what}"


def settle_folder(folder: Path, anatomies: Sequence[Path], *, seed: int, resume: bool) -> None:
    """Write down what the cases of a folder are made of, and remove what was left half made.

    Parameters
    ----------
    resume : bool
        Without, cases that were made of something else are removed.

    Raises
    ------
    TrainingError
        If a run goes on with other anatomies or another seed than it began with.
    """
    record = folder / SOURCE_NAME
    described = {
        "seed": seed,
        "anatomies": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in anatomies
        },
    }
    text = json.dumps(described, indent=1) + "\n"
    if record.exists() and record.read_text(encoding="utf-8") != text:
        if resume:
            raise TrainingError(
                f"the cases in {folder} were simulated of other anatomies or with another seed; "
                "give a fresh --out, or --no-resume to start anew"
            )
        shutil.rmtree(folder)
    for path in folder.glob(".case-*"):
        shutil.rmtree(path, ignore_errors=True)
    write_text(record, text)


def _simulate_in_process(
    simulate: Callable[[CaseJob], None], job: CaseJob, told: Connection
) -> None:
    # Ctrl-C reaches the whole group; the run decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    try:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        simulate(job)
    except (DeepmirError, OSError, MemoryError) as error:
        told.send(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def _check_made(job: CaseJob, exit_code: int | None, complaint: Connection) -> None:
    if exit_code == 0:
        return
    try:
        reason = complaint.recv() if complaint.poll() else f"its process ended with {exit_code}"
    except EOFError:
        reason = f"its process ended with {exit_code}: perhaps too little memory for --workers"
    raise TrainingError(
        f"cannot simulate {job.folder.name} of {job.anatomy.name} in {job.folder.parent}: "
        f"{reason}; mend it, and the same command goes on"
    )


def _done() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


def drop_fresh(out: Path) -> None:
    """Remove what a run that is finished has simulated: it can be made again."""
    for path in (out / FRESH_NAME).glob("*/case-*"):
        forget_case(path)
    shutil.rmtree(out / FRESH_NAME, ignore_errors=True)


def makers_for(share: Share, workers: int) -> Makers:
    """Who makes cases for one process of a run: the first simulates, the others look on."""
    return Simulators(workers) if share.leads else Onlookers()


class Closable(Protocol):
    """Whatever has something to end in the background."""

    def close(self) -> None:
        """End it."""


def closing_in_turn(*those: Closable) -> Callable[[], None]:
    """Give a function that closes all in this order: who waits for a case after who makes it."""

    def close() -> None:
        with ExitStack() as stack:
            for one in reversed(those):
                stack.callback(one.close)

    return close


def anatomy_paths(folder: Path, heads: Iterable[int]) -> tuple[Path, ...]:
    """Files ``head_XX.npz`` of some heads that are there."""
    paths = (folder / f"head_{number:02d}.npz" for number in heads)
    return tuple(path for path in paths if path.is_file())


def has_anatomies(folder: Path) -> bool:
    """Tell a folder of anatomies from one of cases."""
    return any(folder.glob("head_*.npz"))
