"""Task of the findings part: patches of simulated scans in, voxels of each finding out."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from deepmir.errors import InputError, TrainingError
from deepmir.model.losses import FindingsLoss, findings_loss
from deepmir.model.unet import UNet, build_findings_network
from deepmir.training.fit import Batch
from deepmir.training.lesion_scores import patch_scores
from deepmir.training.patches import Patch, draw_patch, list_cases
from deepmir.training.prefetch import Prefetch
from deepmir.training.recipes import Recipe

_VALIDATION_SEED = 20_000_001
_VALIDATION_BATCHES = 12
BLOCKS_NAME = "case_blocks.json"


class FindingsTask:
    """Batches of patches from a folder of cases that may grow, made by one thread."""

    def __init__(self, recipe: Recipe, folder: Path, out: Path) -> None:
        self._recipe = recipe
        self._folder = folder
        self._blocks = CaseBlocks(folder, recipe.train_heads, out / BLOCKS_NAME)
        self._blocks.cases_of("0")  # refuse an empty folder before anything starts
        self._ahead = Prefetch(ThreadPoolExecutor(1), self._make, depth=recipe.schedule.prefetch)
        loss = recipe.loss
        self._loss = FindingsLoss(loss.focal_gamma, loss.class_weights, loss.dice_weight)

    def build(self) -> UNet:
        """Fresh findings network."""
        return build_findings_network(self._recipe.network)

    def batch(self, step: int) -> Batch:
        """Batch of patches."""
        return self._ahead.get(step)

    def loss(self, logits: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Cross-entropy and Dice of the findings."""
        return findings_loss(logits[0], batch.targets[0], self._loss)

    def validate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Dice and lesion-wise F1 over fixed patches of the validation heads; empty without any."""
        return patch_scores(network, self.validation_batches, device)

    @cached_property
    def validation_batches(self) -> tuple[Batch, ...]:
        """Fixed patches without augmentation, all subsets of contrasts in their shares."""
        names = list_cases(self._folder, self._recipe.validation_heads)
        if not names:
            return ()
        sampling = replace(self._recipe.findings, augment=False)
        made = []
        for number in range(_VALIDATION_BATCHES):
            rng = np.random.default_rng([_VALIDATION_SEED, number])
            patches = [draw_patch(self._folder, names, rng, sampling=sampling) for _ in range(4)]
            made.append(as_batch(patches))
        return tuple(made)

    def close(self) -> None:
        """End the background thread."""
        self._ahead.close()

    def _make(self, step: int) -> Batch:
        recipe = self._recipe
        names = self._blocks.cases_of(str(step // recipe.findings.block_steps))
        rng = np.random.default_rng([recipe.optimisation.seed, step])
        patches = [
            draw_patch(self._folder, names, rng, sampling=recipe.findings)
            for _ in range(recipe.optimisation.batch_size)
        ]
        return as_batch(patches)


class CaseBlocks:
    """Which cases each block of steps drew from: written down, so that a run can be repeated."""

    def __init__(self, folder: Path, heads: tuple[int, ...], record: Path) -> None:
        self._folder, self._heads, self._record = folder, heads, record
        self._lock = Lock()
        self._blocks = _read_blocks(record)

    def cases_of(self, block: str) -> tuple[str, ...]:
        """Cases of a block: as recorded, else those that are there now.

        Raises
        ------
        InputError
            If the folder has no case of the training heads.
        """
        with self._lock:
            if block not in self._blocks:
                names = list_cases(self._folder, self._heads)
                if not names:
                    raise InputError(
                        f"{self._folder} has no finished case of heads {list(self._heads)}; "
                        "simulate training cases first"
                    )
                self._blocks[block] = names
                _write_blocks(self._record, self._blocks)
            return self._blocks[block]


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


def as_batch(patches: list[Patch]) -> Batch:
    """Stack patches into one batch."""
    inputs = torch.from_numpy(np.stack([patch.inputs for patch in patches]))
    return Batch(inputs, (torch.from_numpy(np.stack([patch.target for patch in patches])),))
