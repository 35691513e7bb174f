"""Task of the findings part: patches of simulated scans in, voxels of each finding out."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from deepmir.model.losses import FindingsLoss, coarser_findings, findings_loss
from deepmir.model.unet import UNet, build_findings_network
from deepmir.training.fit import Batch
from deepmir.training.lesion_scores import patch_scores
from deepmir.training.patch_makers import PatchMakers, PatchPlace
from deepmir.training.patches import Patch, draw_patch
from deepmir.training.prefetch import Prefetch
from deepmir.training.recipes import Recipe
from deepmir.training.sources import Mixture, ValidationCases
from deepmir.training.team import ALONE, Share

_VALIDATION_SEED = 20_000_001
_VALIDATION_BATCHES = 12
_BATCHES_AT_ONCE = 2
"""Where processes make the patches: while one batch is put together the next is being made."""


class FindingsTask:
    """Batches of patches of simulated cases, made by one thread or by `makers` processes."""

    def __init__(
        self,
        recipe: Recipe,
        sources: Mixture,
        validation: ValidationCases,
        *,
        share: Share = ALONE,
        makers: int = 1,
    ) -> None:
        self._recipe = recipe
        self._share = share
        self._sources = sources
        self._validation = validation
        self._makers = PatchMakers(recipe.findings, makers)
        threads = ThreadPoolExecutor(1 if makers == 1 else _BATCHES_AT_ONCE)
        self._ahead = Prefetch(threads, self._make, depth=recipe.schedule.prefetch)
        loss = recipe.loss
        self._loss = FindingsLoss(loss.focal_gamma, loss.class_weights, loss.dice_weight)

    def build(self) -> UNet:
        """Fresh findings network."""
        return build_findings_network(self._recipe.network)

    def batch(self, step: int) -> Batch:
        """Batch of patches."""
        return self._ahead.get(step)

    def missing(self, step: int) -> str | None:
        """Say which cases are still being simulated; None when a step can be made."""
        texts = (self._sources.missing(step), self._validation.missing())
        return " and ".join(text for text in texts if text) or None

    def no_validation(self) -> str | None:
        """Say that there are no cases of the validation heads; None where there are."""
        heads = ", ".join(map(str, self._recipe.validation_heads))
        return None if self._validation.count else f"there are no cases of heads {heads}"

    def loss(self, logits: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Cross-entropy and Dice of the findings; a supervised coarser level counts half."""
        steps = np.cumprod(self._recipe.network.strides, axis=0)
        shares = [1 / 2**level for level in range(len(logits))]
        total = torch.zeros((), device=logits[0].device)
        for here, (i, j, k), share in zip(logits, steps.tolist(), shares, strict=False):
            target = coarser_findings(batch.targets[0], (i, j, k))
            total = total + share * findings_loss(here, target, self._loss)
        return cast(Tensor, total / sum(shares))

    def validate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Dice and lesion-wise F1 over fixed patches of the validation heads; empty without any."""
        return patch_scores(network, self.validation_batches, device)

    @cached_property
    def validation_batches(self) -> tuple[Batch, ...]:
        """Fixed patches without augmentation, all subsets of contrasts in their shares."""
        folder, names = self._validation.folder, self._validation.names()
        if not names:
            return ()
        sampling = replace(self._recipe.findings, augment=False)
        made = []
        for number in range(_VALIDATION_BATCHES):
            rng = np.random.default_rng([_VALIDATION_SEED, number])
            patches = [draw_patch(folder, names, rng, sampling=sampling) for _ in range(4)]
            made.append(as_batch(patches))
        return tuple(made)

    def close(self) -> None:
        """End what goes on in the background."""
        self._ahead.close()
        self._makers.close()

    def _make(self, step: int) -> Batch:
        optimisation = self._recipe.optimisation
        places = [
            self._place(np.random.default_rng([optimisation.seed, step, n]), step)
            for n in self._share.of(optimisation.batch_size)
        ]
        return as_batch(self._makers.make(places))

    def _place(self, rng: np.random.Generator, step: int) -> PatchPlace:
        return PatchPlace(rng, *self._sources.draw(rng, step))


def as_batch(patches: list[Patch]) -> Batch:
    """Stack patches into one batch."""
    inputs = torch.from_numpy(np.stack([patch.inputs for patch in patches])).float()
    return Batch(inputs, (torch.from_numpy(np.stack([patch.target for patch in patches])),))
