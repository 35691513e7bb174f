"""Who makes the patches of a batch: the thread that asks, or processes beside a fast device.

A patch is a pure function of its generator, so who makes it changes nothing.
"""

import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from deepmir.memory import keep_freed_memory
from deepmir.training.patches import Patch, PatchSampling, draw_patch, keep_only


@dataclass(frozen=True, slots=True, eq=False)
class PatchPlace:
    """What one patch is drawn from."""

    rng: np.random.Generator
    folder: Path
    names: tuple[str, ...]


class PatchMakers:
    """Makes patches in `count` processes, or with one in the thread that asks."""

    def __init__(self, sampling: PatchSampling, count: int) -> None:
        self._sampling = sampling
        self._pool = None
        if count > 1:
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, initializer=_start_worker)

    def make(self, places: Sequence[PatchPlace]) -> list[Patch]:
        """Make one patch of each place, in their order.

        Raises
        ------
        InputError
            If no case is named, or one cannot be read.
        """
        if self._pool is None:
            return [_make_patch(place, self._sampling) for place in places]
        asked = [self._pool.submit(_make_in_process, place, self._sampling) for place in places]
        return [one.result() for one in asked]

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches the whole group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()


def _make_in_process(place: PatchPlace, sampling: PatchSampling) -> Patch:
    keep_only(place.folder, place.names)
    return _make_patch(place, sampling)


def _make_patch(place: PatchPlace, sampling: PatchSampling) -> Patch:
    patch = draw_patch(place.folder, place.names, place.rng, sampling=sampling)
    return Patch(patch.inputs.astype(np.float16), patch.target)  # half as much to send
