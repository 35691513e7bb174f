"""Losses: known answers, what must not count, and a slow one-hot oracle."""

import math

import pytest
import torch
from torch.nn import functional

from deepmir.model.losses import (
    IGNORE,
    FindingsLoss,
    anatomy_loss,
    coarser_findings,
    findings_loss,
    multi_class_loss,
    single_class_loss,
)

CE_ONLY = FindingsLoss(dice_weight=0.0)


def sure_logits(target: torch.Tensor, n_classes: int = 4) -> torch.Tensor:
    """Logits that are right everywhere, with certainty."""
    return 50.0 * functional.one_hot(target.long(), n_classes).movedim(-1, 1).float()


def one_hot_dice(logits: torch.Tensor, target: torch.Tensor, classes: list[int]) -> float:
    """Slow, obvious reference: mean soft Dice of some classes over the whole batch."""
    p = logits.softmax(dim=1)
    truth = functional.one_hot(target.long(), logits.shape[1]).movedim(-1, 1)
    scores = [
        2 * (p[:, c] * truth[:, c]).sum() / (p[:, c].sum() + truth[:, c].sum()) for c in classes
    ]
    return float(torch.stack(scores).mean())


@pytest.fixture
def target() -> torch.Tensor:
    """Two patches of 2 x 3 x 4: class 1 in the first, class 3 in the second, no class 2."""
    labels = torch.zeros((2, 2, 3, 4), dtype=torch.uint8)
    labels[0, 0, 0, :2] = 1
    labels[1, 1, 2, 3] = 3
    return labels


def test_a_perfect_answer_costs_nothing(target):
    assert float(findings_loss(sure_logits(target), target, FindingsLoss())) < 1e-5


def test_no_opinion_costs_log_4(target):
    flat = torch.zeros((2, 4, 2, 3, 4))
    assert float(findings_loss(flat, target, CE_ONLY)) == pytest.approx(math.log(4))


def test_dice_counts_the_findings_that_are_present_over_the_batch(target):
    logits = torch.randn((2, 4, 2, 3, 4), generator=torch.Generator().manual_seed(1))
    loss = findings_loss(logits, target, FindingsLoss()) - findings_loss(logits, target, CE_ONLY)
    assert float(loss) == pytest.approx(1 - one_hot_dice(logits, target, [1, 3]), abs=1e-5)


def test_dice_weight_scales_dice(target):
    logits = torch.randn((2, 4, 2, 3, 4), generator=torch.Generator().manual_seed(2))
    ce, once, thrice = (
        float(findings_loss(logits, target, FindingsLoss(dice_weight=w))) for w in (0, 1, 3)
    )
    assert thrice - ce == pytest.approx(3 * (once - ce), rel=1e-4)


def test_a_batch_without_findings_has_no_dice():
    logits, empty = torch.zeros((1, 4, 2, 2, 2)), torch.zeros((1, 2, 2, 2), dtype=torch.uint8)
    assert float(findings_loss(logits, empty, FindingsLoss())) == pytest.approx(math.log(4))


def test_ignored_voxels_do_not_count(target):
    logits = torch.randn((2, 4, 2, 3, 4), generator=torch.Generator().manual_seed(3))
    target[0, 1] = IGNORE
    changed = logits.clone()
    changed[0, :, 1] = 7.0 * torch.arange(4)[:, None, None]
    both = [float(findings_loss(x, target, FindingsLoss())) for x in (logits, changed)]
    assert both[0] == pytest.approx(both[1])


def test_a_coarser_level_keeps_the_finding_of_a_single_voxel():
    target = torch.zeros(1, 4, 4, 2, dtype=torch.uint8)
    target[0, 1, 1, 0], target[0, 0, 0, 1] = 2, IGNORE
    target[0, 3, 0, 0] = IGNORE
    coarser = coarser_findings(target, (2, 2, 2))
    assert coarser.dtype == target.dtype
    assert coarser.squeeze().tolist() == [[2, 0], [IGNORE, 0]]
    assert torch.equal(coarser_findings(target, (1, 1, 1)), target)


def test_all_ignored_is_zero_with_a_gradient():
    logits = torch.zeros((1, 4, 2, 2, 2), requires_grad=True)
    loss = findings_loss(logits, torch.full((1, 2, 2, 2), IGNORE), FindingsLoss())
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None


def test_focal_discounts_easy_voxels():
    logits, target = torch.zeros((1, 4, 1, 1, 1)), torch.zeros((1, 1, 1, 1))
    loss = findings_loss(logits, target, FindingsLoss(focal_gamma=2.0, dice_weight=0))
    assert float(loss) == pytest.approx(0.75**2 * math.log(4))


def test_class_weights_multiply():
    logits, target = torch.zeros((1, 4, 1, 1, 2)), torch.tensor([[[[0, 1]]]])
    loss = findings_loss(
        logits, target, FindingsLoss(class_weights=(1.0, 5.0, 1.0, 1.0), dice_weight=0)
    )
    assert float(loss) == pytest.approx(3 * math.log(4))


def test_side_costs_inside_paired_regions_only():
    target = torch.tensor([[[[0, 1, 2]]]])
    logits = torch.cat([sure_logits(target, 3), torch.tensor([[[[[9.0, 9.0, -60.0]]]]])], dim=1)
    right = torch.tensor([[[[False, False, False]]]])
    paired = torch.tensor([[[[False, False, True]]]])
    assert float(anatomy_loss(logits, target, right=right, paired=paired)) < 1e-4
    wrong = anatomy_loss(logits, target, right=~right, paired=paired)
    assert float(wrong) == pytest.approx(60, abs=1e-3)


def test_a_view_without_paired_regions_has_no_side():
    target = torch.zeros((1, 2, 2, 2), dtype=torch.uint8)
    nowhere = torch.zeros((1, 2, 2, 2), dtype=torch.bool)
    logits = torch.cat([sure_logits(target, 3), torch.zeros((1, 1, 2, 2, 2))], dim=1)
    assert float(anatomy_loss(logits, target, right=nowhere, paired=nowhere)) < 1e-5


# ---- the paper's losses --------------------------------------------------------------------


def slices_target():
    """Target (2, 6, 5) with some of each class."""
    return torch.randint(0, 3, (2, 6, 5), generator=torch.Generator().manual_seed(4))


def test_multi_class_is_torchs_cross_entropy():
    target = slices_target()
    logits = torch.randn((2, 3, 6, 5), generator=torch.Generator().manual_seed(5))
    expected = functional.cross_entropy(logits, target).item()
    assert multi_class_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)
    target[0, 0, 0] = IGNORE
    expected = functional.cross_entropy(logits, target, ignore_index=IGNORE).item()
    assert multi_class_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_negative_logits_have_a_gradient():
    """A ReLU before the softmax, as in the paper's code, would have none."""
    logits = torch.full((1, 3, 2, 2), -1.0, requires_grad=True)
    multi_class_loss(logits, torch.ones((1, 2, 2), dtype=torch.long)).backward()
    assert (logits.grad != 0).all()


def test_single_class_is_cross_entropy_and_overlap_by_hand():
    target = (slices_target() == 1).long()
    logits = torch.randn((2, 1, 6, 5), generator=torch.Generator().manual_seed(6))
    p = torch.sigmoid(logits[:, 0])
    overlap = (p * target).sum()
    union = p.sum() + target.sum() - overlap
    cross_entropy = functional.binary_cross_entropy(p, target.float())
    expected = cross_entropy + 1 - (overlap + 1) / (union + 1)
    assert single_class_loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_single_class_of_a_perfect_or_an_empty_batch_costs_nothing():
    target = (slices_target() == 1).long()
    assert single_class_loss(40.0 * (2 * target[:, None] - 1).float(), target).item() < 1e-4
    empty = torch.zeros_like(target)
    assert single_class_loss(torch.full((2, 1, 6, 5), -40.0), empty).item() < 1e-4


def test_ignored_pixels_do_not_count_in_single_class():
    target = torch.zeros((1, 2, 2), dtype=torch.long)
    target[0, 0, 0] = IGNORE
    logits = torch.full((1, 1, 2, 2), -40.0)
    logits[0, 0, 0, 0] = 40.0
    assert single_class_loss(logits, target).item() < 1e-4
    target[:] = IGNORE
    assert single_class_loss(logits, target).item() == 0
