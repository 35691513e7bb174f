"""Task of the findings part on a study's own scans: patches of prepared cases.

As :mod:`deepmir.training.findings_task`, but the cases are named by a fold, may lack contrasts,
may hold labels of some findings only, and may be mixed with simulated ones.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deepmir.errors import InputError
from deepmir.labels import Finding
from deepmir.model.losses import FindingsLoss, findings_loss
from deepmir.model.unet import UNet, build_findings_network
from deepmir.training.findings_task import as_batch
from deepmir.training.fit import Batch
from deepmir.training.lesion_scores import patch_scores
from deepmir.training.patches import (
    Patch,
    PatchSampling,
    draw_place,
    make_patch,
)
from deepmir.training.prefetch import Prefetch
from deepmir.training.recipes import Recipe
from deepmir.training.sources import FixedCases, Mixture, Source
from deepmir.training.team import ALONE, Share
from deepmir.volume import CHANNELS, Present

_VALIDATION_SEED = 20_000_001
_VALIDATION_BATCHES = 12
_VALIDATION_BATCH_SIZE = 4
_IMPOSSIBLE = -30.0
ALL_PRESENT: Present = (True, True, True)


class LabelledTask:
    """Batches of patches of the training persons; fixed patches of the validation persons."""

    def __init__(
        self,
        recipe: Recipe,
        train: Sequence[Path],
        validation: Sequence[Path],
        *,
        labelled: Sequence[Finding] = tuple(Finding),
        mixed: Sequence[tuple[Source, float]] = (),
        share: Share = ALONE,
    ) -> None:
        if not train:
            raise InputError("no person trains; the fold needs at least one")
        self._recipe = recipe
        self._share = share
        self._folder = train[0].parent
        self._validation = tuple(folder.name for folder in validation)
        self._labelled = tuple(labelled)
        own = FixedCases(self._folder, tuple(folder.name for folder in train))
        self._sources = Mixture(own, tuple(mixed))
        loss = recipe.loss
        self._loss = FindingsLoss(loss.focal_gamma, loss.class_weights, loss.dice_weight)
        self._ahead = Prefetch(ThreadPoolExecutor(1), self._make, depth=recipe.schedule.prefetch)

    def build(self) -> UNet:
        """Fresh findings network."""
        return build_findings_network(self._recipe.network)

    def batch(self, step: int) -> Batch:
        """Batch of patches."""
        return self._ahead.get(step)

    def missing(self, step: int) -> str | None:
        """Say which cases are still being simulated; None when a step can be made."""
        return self._sources.missing(step)

    def no_validation(self) -> str | None:
        """Say that no person validates; None where some do."""
        return None if self._validation else "no person validates"

    def loss(self, logits: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Cross-entropy and Dice of the findings that the study has labelled."""
        merged = merge_unlabelled(logits[0], self._labelled)
        return findings_loss(merged, batch.targets[0], self._loss)

    def validate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Dice and lesion-wise F1 over fixed patches of the validation persons."""
        return patch_scores(network, self.validation_batches, device, self._labelled)

    @cached_property
    def validation_batches(self) -> tuple[Batch, ...]:
        """Fixed patches without augmentation."""
        if not self._validation:
            return ()
        sampling = replace(self._recipe.findings, augment=False)
        made = []
        for number in range(_VALIDATION_BATCHES):
            rng = np.random.default_rng([_VALIDATION_SEED, number])
            patches = [
                draw_labelled_patch(self._folder, self._validation, rng, sampling=sampling)
                for _ in range(_VALIDATION_BATCH_SIZE)
            ]
            made.append(as_batch(patches))
        return tuple(made)

    def close(self) -> None:
        """End the background thread."""
        self._ahead.close()

    def _make(self, step: int) -> Batch:
        optimisation = self._recipe.optimisation
        return as_batch(
            [
                self._draw(np.random.default_rng([optimisation.seed, step, n]), step)
                for n in self._share.of(optimisation.batch_size)
            ]
        )

    def _draw(self, rng: np.random.Generator, step: int) -> Patch:
        folder, names = self._sources.draw(rng, step)
        return draw_labelled_patch(folder, names, rng, sampling=self._recipe.findings)


def draw_labelled_patch(
    folder: Path, names: tuple[str, ...], rng: np.random.Generator, *, sampling: PatchSampling
) -> Patch:
    """Draw one patch; it shows only contrasts that the person has.

    Raises
    ------
    InputError
        If a case cannot be read.
    """
    case, centre = draw_place(folder, names, rng, sampling=sampling)
    here = replace(sampling, subsets=subsets_of(sampling.subsets, contrasts_of(folder / case.name)))
    return make_patch(case, centre, rng, sampling=here)


@lru_cache(maxsize=4096)
def contrasts_of(folder: Path) -> tuple[str, ...]:
    """Contrasts that a case has; simulated cases have all."""
    described = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return tuple(described.get("contrasts", CHANNELS))


def subsets_of(
    subsets: tuple[tuple[str, float], ...], there: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    """Restrict subsets of contrasts to those that are there; without SWI and QSM nothing is left.

    Examples
    --------
    >>> subsets_of((("T2w+swi+Chimap", 0.5), ("swi", 0.2), ("T2w+Chimap", 0.3)), ("T2w", "swi"))
    (('T2w+swi', 0.5), ('swi', 0.2))
    """
    left: dict[str, float] = {}
    for names, share in subsets:
        kept = [name for name in names.split("+") if name in there]
        if set(kept) - {"T2w"}:
            left["+".join(kept)] = left.get("+".join(kept), 0.0) + share
    return tuple(left.items()) or (("+".join(there), 1.0),)


def merge_unlabelled(logits: Tensor, labelled: Sequence[Finding]) -> Tensor:
    """Count findings that a study has not labelled as background, whatever they are.

    Where nobody marked calcifications, a voxel without a label may be one: the network is asked
    only that it be background *or* calcification, and keeps what it knew of the difference
    (marginal loss, Shi 2021, doi:10.1016/j.media.2021.101979).
    """
    others = [int(finding) for finding in Finding if finding not in labelled]
    if not others:
        return logits
    logits = logits.float()
    background = logits[:, [0, *others]].logsumexp(dim=1, keepdim=True)
    parts = [background]
    for finding in Finding:
        own = logits[:, finding : finding + 1]
        # the background's sum holds what is known of it: as a class of its own it is impossible
        parts.append(torch.full_like(own, _IMPOSSIBLE) if finding in others else own)
    return torch.cat(parts, dim=1)
