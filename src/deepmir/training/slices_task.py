"""Task of the paper's recipe: axial slices in, classes of each pixel out, epoch by epoch."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deepmir.errors import InputError
from deepmir.evaluation.detection import Score
from deepmir.model.losses import multi_class_loss, single_class_loss
from deepmir.model.unet import UNet, build_network
from deepmir.training.fit import Batch
from deepmir.training.lesion_scores import f1_scores, score_labels
from deepmir.training.patches import open_case
from deepmir.training.predict import SliceLogits, labels_of_slices, predict_slices
from deepmir.training.prefetch import Prefetch
from deepmir.training.recipes import Recipe
from deepmir.training.slices import (
    PlannedSlice,
    SliceCase,
    apply_move,
    cut_slice,
    epoch_plan,
    open_slices,
    place_of,
    sample_move,
)
from deepmir.training.team import ALONE, Share

_MOVE_SEED = 40_000_003


class SlicesTask:
    """Batches of slices of some cases; validation on all slices of others."""

    def __init__(
        self,
        recipe: Recipe,
        train: Sequence[Path],
        validation: Sequence[Path],
        *,
        share: Share = ALONE,
    ) -> None:
        self._recipe = recipe
        self._share = share
        self._persons = [open_slices(open_case(folder), recipe.slices) for folder in train]
        self._validation = tuple(validation)
        if not any(len(person.with_brain) for person in self._persons):
            raise InputError("no training person has a slice with brain; check the data")
        self._plan_of = lru_cache(maxsize=3)(self._make_plan)
        self._ahead = Prefetch(ThreadPoolExecutor(1), self._make, depth=recipe.schedule.prefetch)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold every slice of an epoch; the last is filled up from its start."""
        return -(-len(self._plan_of(0)) // self._recipe.optimisation.batch_size)

    def build(self) -> UNet:
        """Fresh network."""
        return build_network(self._recipe.network)

    def batch(self, step: int) -> Batch:
        """Batch of slices."""
        return self._ahead.get(step)

    def missing(self, step: int) -> str | None:  # noqa: ARG002 - everything is there
        """Say that nothing is missing."""
        return None

    def no_validation(self) -> str | None:
        """Say that no person validates; None where some do."""
        return None if self._validation else "no person validates"

    def loss(self, logits: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Loss of the paper, by the number of findings that are asked for."""
        single = self._recipe.slices.n_outputs == 1
        return (single_class_loss if single else multi_class_loss)(logits[0], batch.targets[0])

    def validate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Loss and lesion-wise F1 over all slices, as they are, of the validation persons."""
        sampling = self._recipe.slices
        losses: list[float] = []
        scores: list[Score] = []
        for folder in self._validation:
            person = open_slices(open_case(folder), sampling)
            found = predict_slices(network, person, sampling, device=device)
            losses += self._slice_losses(found, person)
            labels = labels_of_slices(found, person, sampling)
            scores.append(score_labels(labels, np.asarray(person.case.labels)))
        if not losses:
            return {}
        return {"loss": float(np.mean(losses)), **f1_scores(scores, sampling.classes)}

    def close(self) -> None:
        """End the background thread."""
        self._ahead.close()

    def _slice_losses(self, found: SliceLogits, person: SliceCase) -> list[float]:
        losses = []
        at = place_of(person, self._recipe.slices)
        for n, k in enumerate(found.slices):
            _, target = cut_slice(person, int(k), self._recipe.slices)
            logits = torch.from_numpy(np.ascontiguousarray(found.logits[..., n]))[None]
            batch = Batch(logits, (torch.from_numpy(target[at].copy())[None],))
            losses.append(float(self.loss((logits,), batch)))
        return losses

    def _make_plan(self, epoch: int) -> tuple[PlannedSlice, ...]:
        seed = self._recipe.optimisation.seed
        return epoch_plan(self._persons, self._recipe.slices, seed=seed, epoch=epoch)

    def _make(self, step: int) -> Batch:
        size, per_epoch = self._recipe.optimisation.batch_size, self.steps_per_epoch
        plan = self._plan_of(step // per_epoch)
        first = (step % per_epoch) * size
        rng = np.random.default_rng([_MOVE_SEED, self._recipe.optimisation.seed, step])
        planned = [plan[(first + n) % len(plan)] for n in range(size)]
        moves = [sample_move(one.kind, rng, self._recipe.slices) for one in planned]
        inputs, targets = [], []
        for n in self._share.of(size):
            person = self._persons[planned[n].case]
            cut = cut_slice(person, planned[n].k, self._recipe.slices)
            channels, target = apply_move(*cut, moves[n])
            inputs.append(channels)
            targets.append(target)
        return Batch(torch.from_numpy(np.stack(inputs)), (torch.from_numpy(np.stack(targets)),))
