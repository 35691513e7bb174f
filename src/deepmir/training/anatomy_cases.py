"""Samples of the anatomy part from simulated cases of the findings part, at 2 mm.

The anatomy part's own heads are cheap and varied: any pose, any contrast, skull or none. Cases
have what those leave out: deposits in the nuclei, real inversion artefacts, voxels of every
size. They end outside the brain, so the edge that they were cut at is hidden by a mask.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deepmir.geometry import Grid
from deepmir.labels import REGIONS, RIGHT_OFFSET
from deepmir.model.anatomy_input import SPACING_MM, class_of_regions, scale_anatomy_inputs
from deepmir.preprocessing.normalize import CHI_SCALE_PPM
from deepmir.preprocessing.resample import regrid, resample_labels, resample_mean
from deepmir.training.anatomy_samples import (
    MOST_OFFSET_PPM,
    AnatomySample,
    AnatomySampling,
    deep_box,
    imperfect_mask,
    padded_sample,
    sample_subset,
)
from deepmir.training.patches import open_case
from deepmir.volume import FloatMap, Present

_ABOVE_ZERO = (6.0, 3.0)
"""Added to T2w and swi of a case, whose least values are -5 and -2: zero is background only."""


@dataclass(frozen=True, slots=True, eq=False)
class CoarseCase:
    """A case at 2 mm."""

    contrasts: npt.NDArray[np.float16]  # (3, I, J, K): T2w and swi above 0, χ in ppm
    classes: Tensor  # (I, J, K) uint8
    right: Tensor  # (I, J, K) bool
    paired: Tensor  # (I, J, K) bool


def load_coarse_case(folder: Path) -> CoarseCase:
    """Read a case and bring it to 2 mm as inference does.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    case = open_case(folder)
    i, j, k = case.brain.shape
    affine = np.diag([*case.spacing_mm, 1.0])
    coarse = regrid(Grid((i, j, k), affine), (SPACING_MM,) * 3)
    contrasts = [resample_mean(_unscaled(case.channels, n), affine, coarse) for n in range(3)]
    here, brain = (resample_labels(one, affine, coarse) for one in (case.regions, case.brain))
    classes = class_of_regions(here, brain > 0)
    paired = [region.base for region in REGIONS if region.paired]
    return CoarseCase(
        contrasts=np.stack(contrasts).astype(np.float16),
        classes=torch.from_numpy(classes),
        right=torch.from_numpy(here >= RIGHT_OFFSET),
        paired=torch.from_numpy(np.isin(here % 100, paired)),
    )


def make_case_sample(
    case: CoarseCase, rng: np.random.Generator, sampling: AnatomySampling
) -> AnatomySample:
    """Make one training sample of a case: mirrored or not, with some of its contrasts."""
    t2w, swi, chi = masked_contrasts(case, rng, sample_subset(rng, sampling))
    maps = [scale_anatomy_inputs(t2w, swi, chi), case.classes, case.right, case.paired]
    if rng.random() < sampling.deep_share:
        box = deep_box(case.classes, rng)
        maps = [part[(..., *box)] for part in maps]
    if rng.random() < 0.5:
        maps = [part.flip(-3) for part in maps]
        maps[2] = ~maps[2]
    inputs, classes, right, paired = maps
    return padded_sample(inputs, classes, right=right, paired=paired)


def masked_contrasts(
    case: CoarseCase, rng: np.random.Generator, present: Present
) -> list[Tensor | None]:
    """T2w, swi and χ of a case behind a brain mask that is not quite right; None for the absent."""
    t2w, swi, chi = torch.from_numpy(case.contrasts.astype(np.float32))
    mask = imperfect_mask(case.classes > 0, rng, low=0.15, high=0.7)
    chi = torch.where(chi != 0, chi + rng.uniform(-MOST_OFFSET_PPM, MOST_OFFSET_PPM), 0)
    every = zip((t2w * mask, swi * mask, chi), present, strict=True)
    return [channel if given else None for channel, given in every]


def _unscaled(channels: npt.NDArray[np.float16], number: int) -> FloatMap:
    """T2w and swi above zero, or χ in ppm, from the channel of a case; 0 stays background."""
    channel: FloatMap = channels[number].astype(np.float32)
    if number == 2:
        channel *= np.float32(CHI_SCALE_PPM)
    else:
        channel[channel != 0] += _ABOVE_ZERO[number]
    return channel
