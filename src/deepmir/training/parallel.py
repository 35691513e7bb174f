"""A run in one process, or in several on one machine that share every batch (``--devices``).

The command that a user gives starts the processes, hands signals on, prints what the first one
says, and ends all when one fails.
"""

import os
import queue
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import Queue, get_context, parent_process
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import NoReturn

import torch
from torch import distributed

from deepmir.errors import ConfigError, DeepmirError, TrainingError
from deepmir.training.fit import FitResult, Job, Progress, RunOptions, StopRequest, fit
from deepmir.training.fresh import drop_fresh
from deepmir.training.recipes import Recipe
from deepmir.training.team import ALONE, Share, Team

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: the first one validates alone."""
GRACE_S = 10.0
"""How long processes have to end by themselves when the first one is done."""
JobMaker = Callable[[Share], Job]
"""Opens the data of a run for one of its processes; it must be possible to pickle it."""


@dataclass(frozen=True, slots=True)
class _Failure:
    rank: int
    error: DeepmirError


_Message = str | FitResult | _Failure


def run_job(
    make: JobMaker, recipe: Recipe, out: Path, *, options: RunOptions, progress: Progress
) -> FitResult:
    """Train on as many devices as the options say, until the schedule ends or it is stopped.

    Raises
    ------
    TrainingError
        As :func:`~deepmir.training.fit.fit`; if there are fewer GPUs than wanted; or if one of
        several processes fails, which ends all.
    ConfigError
        If several devices cannot share the batches of the recipe.
    """
    count = device_count(options)
    if count == 1:
        with make(ALONE) as job:
            result = fit(job, out, options=options, progress=progress)
    else:
        check_shareable(recipe, count)
        result = _side_by_side(make, out, count, options=options, progress=progress)
    if result.finished:
        drop_fresh(out)
    return result


def device_count(options: RunOptions) -> int:
    """How many processes a run has.

    Raises
    ------
    TrainingError
        If there are fewer GPUs than wanted.
    """
    gpus = 0 if options.device == "cpu" else torch.cuda.device_count()
    if options.devices == 0:
        return max(1, gpus)
    if gpus and options.devices > gpus:
        raise TrainingError(
            f"--devices is {options.devices}, but torch finds {gpus} GPUs; ask for as many, or 0 "
            "for all there are"
        )
    return options.devices


def check_shareable(recipe: Recipe, count: int) -> None:
    """Check that the batches of a recipe can be shared.

    Raises
    ------
    ConfigError
        If they cannot.
    """
    size = recipe.optimisation.batch_size
    if recipe.part in ("anatomy", "nuclei"):
        raise ConfigError(
            f"recipe {recipe.name} is of the {recipe.part} part, whose batches are not shared; "
            "take --devices 1"
        )
    if size % count:
        raise ConfigError(
            f"{count} devices cannot share batches of {size}; wanted a multiple of {count} as "
            "optimisation.batch_size, or other --devices"
        )
    if recipe.network.supervised_levels:
        raise ConfigError(
            "the outputs of coarser levels are not shared between devices; set "
            "network.supervised_levels to 0, or take --devices 1"
        )


def _side_by_side(
    make: JobMaker, out: Path, count: int, *, options: RunOptions, progress: Progress
) -> FitResult:
    context = get_context("spawn")
    said: Queue[_Message] = context.Queue()
    with tempfile.TemporaryDirectory() as meeting, StopRequest() as stop:
        at = Path(meeting, "store")
        processes = [
            context.Process(
                target=_one_of_several, args=(Share(rank, count), at, make, out, options, said)
            )
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        try:
            return _watch(processes, said, stop, progress)
        finally:
            _end(processes)


def _watch(
    processes: Sequence[SpawnProcess], said: "Queue[_Message]", stop: StopRequest,
    progress: Progress,
) -> FitResult:  # fmt: skip
    """Pass on what the first process says until it is done or one has failed."""
    started = asked = False
    while True:
        if stop.requested and started and not asked:
            asked = True
            for process in processes:
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGTERM)
        try:
            message = said.get(timeout=0.2)
        except queue.Empty:
            _refuse_dead(processes)
            continue
        if isinstance(message, str):
            started = True
            progress(message)
        elif isinstance(message, FitResult):
            return message
        else:
            time.sleep(0.2)  # a process that was killed makes the others fail: name that one
            _refuse_dead(processes, only_killed=True)
            _refuse(message, len(processes))


def _refuse_dead(processes: Sequence[SpawnProcess], *, only_killed: bool = False) -> None:
    for rank, process in enumerate(processes):
        code = process.exitcode
        if code is None or (code >= 0 and only_killed) or code == 0:
            continue
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        raise TrainingError(
            f"process {rank + 1} of {len(processes)} {ended} (perhaps too little memory), which "
            "ended the others; the same command goes on from the last checkpoint"
        )


def _refuse(failure: _Failure, count: int) -> NoReturn:
    error = failure.error
    raise type(error)(f"process {failure.rank + 1} of {count} failed: {error}") from error


def _end(processes: Sequence[SpawnProcess]) -> None:
    until = time.monotonic() + GRACE_S
    failed = any(process.exitcode for process in processes)
    for process in processes:
        if not failed:
            process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
        process.join()


def _one_of_several(
    share: Share, at: Path, make: JobMaker, out: Path, options: RunOptions,
    said: "Queue[_Message]",
) -> None:  # fmt: skip
    # Until the loop takes them over: the parent keeps what it is sent until the loop has begun.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        _meet(share, at, gpu=options.device != "cpu" and torch.cuda.is_available())
        with make(share) as job:
            result = fit(
                job,
                out,
                options=_own_options(options, share),
                progress=said.put if share.leads else _ignore,
                team=Team(share),
            )
    except DeepmirError as error:
        _fail(share, error, said)
    except Exception as error:  # noqa: BLE001 - told by the parent, which has no traceback
        traceback.print_exc(file=sys.stderr)
        _fail(share, TrainingError(f"{type(error).__name__}: {error}"), said)
    if share.leads:
        said.put(result)
    said.close()
    said.join_thread()
    distributed.destroy_process_group()


def _end_with_parent() -> None:
    """End this process when the one that started it is killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fail(share: Share, error: DeepmirError, said: "Queue[_Message]") -> NoReturn:
    said.put(_Failure(share.rank, error))
    said.close()
    said.join_thread()
    os._exit(1)  # without waiting for threads or for the others


def _meet(share: Share, at: Path, *, gpu: bool) -> None:
    if sys.platform.startswith("linux"):  # one machine: no need of a network, or of its name
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    if gpu:
        torch.cuda.set_device(share.rank)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        init_method=at.as_uri(),
        rank=share.rank,
        world_size=share.count,
        timeout=PATIENCE,
    )


def _own_options(options: RunOptions, share: Share) -> RunOptions:
    """Options of one process: its part of the CPU threads."""
    threads = options.threads or max(1, torch.get_num_threads() // share.count)
    return replace(options, threads=threads)


def _ignore(_line: str) -> None:
    """Say nothing: the first process does."""
