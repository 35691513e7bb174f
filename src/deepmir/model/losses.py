"""Losses: cross-entropy and soft Dice in one pass over the class probabilities.

Dice (Milletari 2016, doi:10.1109/3DV.2016.79) is summed over the whole batch: most patches
hold no lesion, and the Dice of an empty patch is noise. No one-hot copy of the target is
made, which halves the time of the 18-class loss on a CPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

IGNORE = 255
"""Voxels of this label neither reward nor punish."""


@dataclass(frozen=True, slots=True)
class FindingsLoss:
    """Weights of the parts of :func:`findings_loss`."""

    focal_gamma: float = 0.0
    class_weights: tuple[float, float, float, float] | None = None
    dice_weight: float = 1.0


def findings_loss(logits: Tensor, target: Tensor, parts: FindingsLoss) -> Tensor:
    """Cross-entropy plus soft Dice of the findings that are present.

    Parameters
    ----------
    logits : (B, 4, I, J, K) tensor
    target : (B, I, J, K) integer tensor
        0 background, 1 to 3 findings, 255 ignored.
    parts : FindingsLoss
        With `focal_gamma` above 0 easy voxels count less (Lin 2017, doi:10.1109/ICCV.2017.324).
    """
    log_p, classes = _flat(logits, target)
    ce = _cross_entropy(log_p, classes, gamma=parts.focal_gamma, weights=parts.class_weights)
    if parts.dice_weight == 0:
        return ce
    return ce + parts.dice_weight * _dice_loss(log_p.exp(), classes, first=1)


def coarser_findings(target: Tensor, step: tuple[int, int, int]) -> Tensor:
    """Target of a coarser level: what blocks of `step` voxels hold of findings.

    A finding of a single voxel fills its block, and an ignored voxel comes before background: with
    the most frequent label of a block, microbleeds would be gone from the second level on.

    Parameters
    ----------
    target : (B, I, J, K) integer tensor
        0 background, 1 to 3 findings, 255 ignored; I, J, K multiples of `step`.
    """
    ranks = torch.where(target == IGNORE, 0.5, target.float())
    greatest = functional.max_pool3d(ranks[:, None], kernel_size=step, stride=step)[:, 0]
    return torch.where(greatest == 0.5, IGNORE, greatest).to(target.dtype)


def anatomy_loss(logits: Tensor, target: Tensor, *, right: Tensor, paired: Tensor) -> Tensor:
    """Cross-entropy and Dice of the anatomical classes plus the side of the body.

    Parameters
    ----------
    logits : (B, C + 1, I, J, K) tensor
        C class channels, then the logit of "right side".
    target : (B, I, J, K) integer tensor
        Class 0 to C - 1; 255 ignored.
    right, paired : (B, I, J, K) bool tensors
        True on the right; True where a side exists. Elsewhere the side costs nothing.
    """
    loss = classes_loss(logits[:, :-1], target)
    side = logits[:, -1][paired].float()
    if side.numel() == 0:
        return loss
    return loss + functional.binary_cross_entropy_with_logits(side, right[paired].float())


def classes_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy and Dice of anatomical classes, all alike.

    Parameters
    ----------
    logits : (B, C, I, J, K) tensor
    target : (B, I, J, K) integer tensor
        Class 0 to C - 1; 255 ignored.
    """
    log_p, classes = _flat(logits, target)
    loss = _cross_entropy(log_p, classes, gamma=0.0, weights=None)
    return loss + _dice_loss(log_p.exp(), classes, first=0)


def _flat(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (C, N) in float32 and classes (N,) of the voxels that count."""
    log_p = functional.log_softmax(logits.float(), dim=1)
    log_p = log_p.movedim(1, 0).flatten(1)
    classes = target.flatten().long()
    counts = classes != IGNORE
    if bool(counts.all()):
        return log_p, classes
    return log_p[:, counts], classes[counts]


def _cross_entropy(
    log_p: Tensor, classes: Tensor, *, gamma: float, weights: tuple[float, ...] | None
) -> Tensor:
    log_true = log_p.gather(0, classes[None])[0]
    voxel_weight = torch.ones((), device=log_p.device)
    if gamma > 0:
        voxel_weight = (1 - log_true.exp()).clamp(min=1e-6) ** gamma
    if weights is not None:
        voxel_weight = voxel_weight * log_p.new_tensor(weights)[classes]
    return -(voxel_weight * log_true).sum() / max(1, classes.numel())


def _dice_loss(p: Tensor, classes: Tensor, *, first: int) -> Tensor:
    """1 - mean soft Dice of the classes from `first` on that are present; 0 when none is."""
    n_classes = p.shape[0]
    p_true = p.gather(0, classes[None])[0]
    overlap = p.new_zeros(n_classes).index_add(0, classes, p_true)
    size = torch.bincount(classes, minlength=n_classes).to(p.dtype)
    dice = 2 * overlap / (p.sum(dim=1) + size).clamp(min=1e-6)
    present = size[first:] > 0
    if not bool(present.any()):
        return p.sum() * 0
    return 1 - dice[first:][present].mean()


# ---- the paper's losses (doi:10.1038/s41598-021-93427-x) -------------------------------------


def single_class_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy plus 1 - soft intersection over union of the whole batch.

    Parameters
    ----------
    logits : (B, 1, I, J) tensor
    target : (B, I, J) integer tensor
        1 where the finding is, 0 elsewhere, 255 ignored.
    """
    counts = target != IGNORE
    logit, truth = logits[:, 0].float()[counts], target[counts].float()
    if truth.numel() == 0:
        return logits.sum() * 0
    p = torch.sigmoid(logit)
    overlap = (p * truth).sum()
    union = p.sum() + truth.sum() - overlap
    iou = (overlap + _IOU_SMOOTH) / (union + _IOU_SMOOTH)
    return functional.binary_cross_entropy_with_logits(logit, truth) + 1 - iou


def multi_class_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Unweighted cross-entropy of the classes; the logits are raw, without a ReLU before.

    Parameters
    ----------
    logits : (B, C, I, J) tensor
    target : (B, I, J) integer tensor
        Class 0 to C - 1; 255 ignored.
    """
    log_p, classes = _flat(logits, target)
    return _cross_entropy(log_p, classes, gamma=0.0, weights=None)


_IOU_SMOOTH = 1.0  # a batch without the finding costs nothing when nothing is predicted
