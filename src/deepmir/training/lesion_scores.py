"""Scores as a training run reports them: lesion-wise by 26 neighbours and any overlap, and Dice."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from deepmir.evaluation.detection import Score, evaluate_person, pool
from deepmir.labels import Finding
from deepmir.model.losses import IGNORE
from deepmir.training.fit import Batch
from deepmir.volume import IntMap


def score_labels(found: IntMap, reference: IntMap) -> Score:
    """Score one label map by the rule of all training figures.

    Raises
    ------
    GeometryError, InputError
        If the maps differ in shape or hold a value without a meaning.
    """
    return evaluate_person(
        found.astype(np.int32), reference.astype(np.int32), connectivity=26, rule="any-overlap"
    )


def f1_scores(scores: Sequence[Score], findings: Sequence[Finding]) -> Mapping[str, float]:
    """F1 of each finding over many label maps, by name; without those that are not defined."""
    if not scores:
        return {}
    pooled = pool(scores)
    f1 = {f"{finding.name} F1": pooled.of(finding).f1 for finding in findings}
    return {name: value for name, value in f1.items() if value is not None}


def patch_scores(
    network: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    findings: Sequence[Finding] = tuple(Finding),
) -> Mapping[str, float]:
    """Dice (``CMB``) and lesion-wise F1 (``CMB F1``) of each finding over fixed patches.

    Most patches lie round a finding or a mimic, so these figures compare steps of a run; those of
    whole scans have another prevalence, and more places for false findings.
    """
    overlap, size = np.zeros(4), np.zeros(4)
    scores: list[Score] = []
    for batch in batches:
        target = batch.targets[0].long()
        predicted = network(batch.inputs.to(device)).argmax(dim=1).cpu()
        counts = target != IGNORE
        for finding in findings:
            truth, found = (target == finding)[counts], (predicted == finding)[counts]
            overlap[finding] += 2 * float((truth & found).sum())
            size[finding] += float(truth.sum() + found.sum())
        scores += map(score_labels, predicted.numpy(), target.numpy())
    dice = {f.name: float(overlap[f] / max(size[f], 1)) for f in findings if size[f] > 0}
    return {**dice, **f1_scores(scores, findings)}
