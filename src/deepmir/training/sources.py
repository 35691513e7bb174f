"""Where patches come from: cases on disk, cases simulated meanwhile, or both by weight.

Every source says which cases a step draws from, whenever it is asked: a run that was stopped and
goes on draws the same patches.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from deepmir.errors import ConfigError, InputError, TrainingError
from deepmir.training.fresh import (
    FRESH_NAME,
    WAIT_S,
    FreshCases,
    FreshValidation,
    Makers,
    anatomy_paths,
    has_anatomies,
    settle_folder,
)
from deepmir.training.patches import list_cases
from deepmir.training.recipes import Recipe
from deepmir.training.team import ALONE, Share

Drawn = tuple[Path, tuple[str, ...]]
"""A folder and the names of those of its cases that one is drawn from."""


class Source(Protocol):
    """Cases that a step draws from: the same for the same step, whenever it is asked for."""

    @property
    def folder(self) -> Path:
        """Folder of the cases."""

    def names_at(self, step: int) -> tuple[str, ...]:
        """Names of the cases of a step; may wait until they are there."""

    def missing(self, step: int) -> str | None:
        """Say what a step still waits for; None when everything is there."""


class ValidationCases(Protocol):
    """Cases that a run validates on."""

    @property
    def folder(self) -> Path:
        """Folder of the cases."""

    @property
    def count(self) -> int:
        """How many cases there are or will be."""

    def names(self) -> tuple[str, ...]:
        """Names of the cases; may wait until they are there."""

    def missing(self) -> str | None:
        """Say what is still to come; None when everything is there."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Simulated cases that are drawn from beside the others, or anatomies to simulate them from."""

    folder: Path
    share: float  # of all patches, 0 to 1


@dataclass(frozen=True, slots=True)
class FixedCases:
    """Cases that are all there from the beginning."""

    folder: Path
    names: tuple[str, ...]

    def names_at(self, step: int) -> tuple[str, ...]:  # noqa: ARG002 - the same at every step
        """Names of all cases."""
        return self.names

    def missing(self, step: int) -> str | None:  # noqa: ARG002 - the same at every step
        """Say that nothing is missing."""
        return None


class CaseBlocks:
    """Which cases each block of steps drew from: written down, so that a run can be repeated."""

    def __init__(
        self, folder: Path, heads: tuple[int, ...], record: Path, *, steps: int = 1,
        leads: bool = True,
    ) -> None:  # fmt: skip
        self.folder = folder
        self._leads = leads
        self._heads, self._record, self._steps = heads, record, steps
        self._lock = Lock()
        self._blocks = _read_blocks(record)

    def names_at(self, step: int) -> tuple[str, ...]:
        """Cases of the block that a step lies in.

        Raises
        ------
        InputError
            If the folder has no case of the training heads.
        """
        return self.cases_of(str(step // self._steps))

    def missing(self, step: int) -> str | None:  # noqa: ARG002 - the same at every step
        """Say that nothing is missing."""
        return None

    def cases_of(self, block: str) -> tuple[str, ...]:
        """Cases of a block: as recorded, else those that are there now.

        Raises
        ------
        InputError
            If the folder has no case of the training heads.
        """
        with self._lock:
            while block not in self._blocks and not self._leads:
                time.sleep(WAIT_S)  # the first process of the run writes it down
                self._blocks = _read_blocks(self._record)
            if block not in self._blocks:
                names = list_cases(self.folder, self._heads)
                if not names:
                    raise InputError(
                        f"{self.folder} has no finished case of heads {list(self._heads)}; "
                        "simulate training cases first, or give a folder of anatomies "
                        "(head_XX.npz) to simulate them while training"
                    )
                self._blocks[block] = names
                _write_blocks(self._record, self._blocks)
            return self._blocks[block]


@dataclass(frozen=True, slots=True)
class Mixture:
    """A source, and others that take a share of the patches from it."""

    own: Source
    others: tuple[tuple[Source, float], ...] = ()

    def draw(self, rng: np.random.Generator, step: int) -> Drawn:
        """Draw a source by the shares; return its cases of a step."""
        chosen = self.own
        if self.others:
            at = rng.random()
            for source, share in self.others:
                if at < share:
                    chosen = source
                    break
                at -= share
        return chosen.folder, chosen.names_at(step)

    def missing(self, step: int) -> str | None:
        """Say what a step still waits for; None when everything is there."""
        every = (self.own, *(other for other, _ in self.others))
        texts = [source.missing(step) for source in every]
        return " and ".join(text for text in texts if text) or None


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens the folders that a run draws from; what is simulated lies below its output folder."""

    recipe: Recipe
    out: Path
    makers: Makers
    resume: bool = True
    share: Share = ALONE

    def training(self, folder: Path, *, name: str) -> Source:
        """Cases of the training heads in a folder, or simulated from its anatomies.

        Parameters
        ----------
        name : str
            Of this source among those of the run.

        Raises
        ------
        InputError
            If there is neither a case nor an anatomy of the training heads.
        """
        recipe = self.recipe
        if not has_anatomies(folder):
            record = self.out / f"{name}_blocks.json"
            steps = recipe.findings.block_steps
            source = CaseBlocks(
                folder, recipe.train_heads, record, steps=steps, leads=self.share.leads
            )
            source.cases_of("0")  # refuse an empty folder before anything starts
            return source
        anatomies = anatomy_paths(folder, recipe.train_heads)
        if not anatomies:
            raise InputError(
                f"{folder} has no anatomy (head_XX.npz) of heads {list(recipe.train_heads)} to "
                "simulate cases from; change train_heads in the recipe"
            )
        return FreshCases(
            anatomies,
            self._fresh_folder(name, anatomies, seed=recipe.optimisation.seed),
            recipe.fresh,
            seed=recipe.optimisation.seed,
            keep_steps=recipe.schedule.checkpoint_every + recipe.schedule.prefetch,
            makers=self.makers,
        )

    def validation(self, folder: Path) -> ValidationCases:
        """Cases of the validation heads in a folder, or simulated from its anatomies."""
        heads = self.recipe.validation_heads
        if not has_anatomies(folder):
            return FixedValidation(folder, list_cases(folder, heads))
        anatomies = anatomy_paths(folder, heads)
        count = self.recipe.fresh.validation_cases if anatomies else 0
        fresh = self._fresh_folder("validation", anatomies, seed=0)
        return FreshValidation(anatomies, fresh, count, makers=self.makers)

    def mixed(self, mixes: Sequence[Mix]) -> tuple[tuple[Source, float], ...]:
        """Open the sources that are mixed in.

        Raises
        ------
        InputError
            As :meth:`training`.
        ConfigError
            If their shares are more than all.
        """
        total = sum(mix.share for mix in mixes)
        if total > 1 + 1e-9:
            raise ConfigError(f"the shares of --mix add up to {total:g}; wanted 1 at most")
        return tuple(
            (self.training(mix.folder, name=f"mix_{number}"), mix.share)
            for number, mix in enumerate(mixes, start=1)
        )

    def _fresh_folder(self, name: str, anatomies: Sequence[Path], *, seed: int) -> Path:
        folder = self.out / FRESH_NAME / name
        if self.share.leads:
            settle_folder(folder, anatomies, seed=seed, resume=self.resume)
        return folder


@dataclass(frozen=True, slots=True)
class FixedValidation:
    """Validation cases that are there."""

    folder: Path
    found: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many cases there are."""
        return len(self.found)

    def names(self) -> tuple[str, ...]:
        """Names of all cases."""
        return self.found

    def missing(self) -> str | None:
        """Say that nothing is missing."""
        return None


def _read_blocks(record: Path) -> dict[str, tuple[str, ...]]:
    if not record.exists():
        return {}
    try:
        stored = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{record} is damaged: {error}; remove it to start anew") from error
    return {block: tuple(names) for block, names in stored.items()}


def _write_blocks(record: Path, blocks: Mapping[str, tuple[str, ...]]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_suffix(f".{os.getpid()}.partial")
    temporary.write_text(json.dumps(blocks), encoding="utf-8")
    temporary.replace(record)
