"""Axial slices as the paper trains on them, without the defects of its code.

    Case ──SliceCase──▶ slices ──epoch_plan──▶ (slice, Move) ──cut, move──▶ inputs, target

After Rashid 2021 (doi:10.1038/s41598-021-93427-x): slices padded to 256 x 256, z-scores per
person and channel, flips, turns and shifts of the slices that hold a lesion, and as many of
those that hold none. Here z-scores are over the brain and not over the padding, masks are
moved by nearest neighbour, a slice is background when that very slice holds no lesion, and
validation slices are never augmented.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass
from scipy import ndimage

from deepmir.errors import ConfigError
from deepmir.labels import Finding
from deepmir.model.losses import IGNORE
from deepmir.training.patches import CHI_SCALE_PPM, Case
from deepmir.volume import CHANNELS, FloatMap, Modality

MoveKind = Literal["none", "flip", "turn", "turn back", "shift"]
MOVES: tuple[MoveKind, ...] = ("flip", "turn", "turn back", "shift")
"""Augmented copies of a lesion slice in one epoch: one of each."""


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SliceSampling:
    """What a network on slices sees, and what it looks for."""

    inputs: tuple[Literal["T2w", "swi", "Chimap"], ...] = ("T2w", "swi", "Chimap")
    """Contrasts in the order of the network's channels; every person must have them."""
    findings: tuple[Literal["CMB", "IRON", "CALCIFICATION"], ...] = ("CMB", "IRON")
    """One: a network of its own, by sigmoid. Several: classes beside the background."""
    size: int = Field(default=256, gt=0)
    """Slices are padded to this many voxels along both axes."""
    chi_limit_ppm: float = Field(default=0.5, gt=0)
    """Susceptibility is clipped to plus and minus this; the paper's limit is not published."""
    largest_turn_deg: int = Field(default=178, ge=1, lt=180)
    largest_shift: int = Field(default=45, ge=0)
    """Largest shift of an augmented slice, in voxels along both axes."""
    augment: bool = True
    slices_per_epoch: int | None = Field(default=None, gt=0)
    """An epoch takes so many at random of the slices it would have; None: all of them."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Places of the inputs among the channels of a case."""
        return tuple(CHANNELS.index(Modality(name)) for name in self.inputs)

    @property
    def classes(self) -> tuple[Finding, ...]:
        """Findings in the order of their class numbers, which count from 1."""
        return tuple(Finding[name] for name in self.findings)

    @property
    def n_outputs(self) -> int:
        """Channels of the network's output."""
        return 1 if len(self.findings) == 1 else len(self.findings) + 1


@dataclass(frozen=True, slots=True, eq=False)
class SliceCase:
    """One person's slices: memory-mapped, with what scales them."""

    case: Case
    mean: tuple[float, ...]  # of each channel, over the brain
    spread: tuple[float, ...]
    with_brain: npt.NDArray[np.intp]  # slices that show brain
    with_lesion: npt.NDArray[np.intp]  # of them, those that hold a finding


@dataclass(frozen=True, slots=True)
class Move:
    """How one slice is moved; everything that was drawn for it."""

    flip: tuple[bool, bool] = (False, False)
    turn_deg: float = 0.0
    shift: tuple[int, int] = (0, 0)


STILL = Move()


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    """One slice of an epoch."""

    case: int
    k: int
    kind: MoveKind


def open_slices(case: Case, sampling: SliceSampling) -> SliceCase:
    """Find a person's slices, and mean and spread of each channel over the brain.

    Raises
    ------
    ConfigError
        If a slice does not fit into `sampling.size`.
    """
    longest = max(case.brain.shape[:2])
    if longest > sampling.size:
        raise ConfigError(
            f"{case.name} has slices of {longest} voxels, more than the {sampling.size} of the "
            f"recipe; set slices.size to {-(-longest // 32) * 32} or more"
        )
    brain = np.asarray(case.brain) > 0
    values = [_raw(case, channel, sampling)[brain] for channel in sampling.channels]
    lesion = np.isin(np.asarray(case.labels), sampling.classes) & brain
    shown = np.flatnonzero(brain.any(axis=(0, 1)))
    return SliceCase(
        case=case,
        mean=tuple(float(inside.mean()) for inside in values),
        spread=tuple(max(float(inside.std()), 1e-6) for inside in values),
        with_brain=shown,
        with_lesion=np.flatnonzero(lesion.any(axis=(0, 1))),
    )


def cut_slice(
    person: SliceCase, k: int, sampling: SliceSampling
) -> tuple[FloatMap, npt.NDArray[np.uint8]]:
    """Cut one slice: z-scores (C, N, N), 0 outside the brain, and its target (N, N), uint8.

    The target holds class numbers, 0 for background and for findings that are not asked for,
    255 where no label can be given.
    """
    case = person.case
    brain = np.asarray(case.brain[:, :, k]) > 0
    channels = np.zeros((len(sampling.channels), sampling.size, sampling.size), dtype=np.float32)
    place = _middle(brain.shape, sampling.size)
    for n, channel in enumerate(sampling.channels):
        scaled = (_raw(case, channel, sampling, k) - person.mean[n]) / person.spread[n]
        channels[n][place] = np.where(brain, scaled, 0)
    target = np.zeros((sampling.size, sampling.size), dtype=np.uint8)
    target[place] = class_numbers(np.asarray(case.labels[:, :, k]), sampling)
    return channels, target


def class_numbers(labels: npt.NDArray[np.uint8], sampling: SliceSampling) -> npt.NDArray[np.uint8]:
    """Turn values of a label map into the network's class numbers."""
    table = np.zeros(256, dtype=np.uint8)
    table[IGNORE] = IGNORE
    for number, finding in enumerate(sampling.classes, start=1):
        table[finding] = number
    numbers: npt.NDArray[np.uint8] = table[labels]
    return numbers


def findings_of_classes(
    classes: npt.NDArray[np.integer], sampling: SliceSampling
) -> npt.NDArray[np.uint8]:
    """Turn the network's class numbers into values of a label map."""
    values: npt.NDArray[np.uint8] = np.array([0, *sampling.classes], dtype=np.uint8)[classes]
    return values


def epoch_plan(
    persons: list[SliceCase], sampling: SliceSampling, *, seed: int, epoch: int
) -> tuple[PlannedSlice, ...]:
    """List the slices of one epoch in their order: a pure function of `seed` and `epoch`.

    Every slice that shows brain as it is; of each slice with a lesion a flipped, a turned, a
    back-turned and a shifted copy; and as many such copies of slices without any.
    """
    rng = np.random.default_rng([seed, epoch])
    every = [(n, int(k)) for n, person in enumerate(persons) for k in person.with_brain]
    lesions = [(n, int(k)) for n, person in enumerate(persons) for k in person.with_lesion]
    background = sorted(set(every) - set(lesions))
    plan = [PlannedSlice(n, k, "none") for n, k in every]
    if sampling.augment:
        plan += [PlannedSlice(n, k, kind) for n, k in lesions for kind in MOVES]
        if background:
            drawn = rng.integers(len(background), size=len(lesions) * len(MOVES))
            plan += [
                PlannedSlice(*background[int(at)], MOVES[n % len(MOVES)])
                for n, at in enumerate(drawn)
            ]
    order = rng.permutation(len(plan))[: sampling.slices_per_epoch]
    return tuple(plan[int(n)] for n in order)


def sample_move(kind: MoveKind, rng: np.random.Generator, sampling: SliceSampling) -> Move:
    """Draw how a slice is moved."""
    if kind == "flip":
        which = int(rng.integers(1, 4))  # one axis, the other, or both
        return Move(flip=(bool(which & 1), bool(which & 2)))
    if kind == "shift":
        i, j = rng.integers(-sampling.largest_shift, sampling.largest_shift + 1, 2)
        return Move(shift=(int(i), int(j)))
    if kind == "none":
        return STILL
    angle = float(rng.integers(1, sampling.largest_turn_deg + 1))
    return Move(turn_deg=angle if kind == "turn" else -angle)


def apply_move(
    channels: FloatMap, target: npt.NDArray[np.uint8], move: Move
) -> tuple[FloatMap, npt.NDArray[np.uint8]]:
    """Move a slice and its target alike: the image linearly, the target by nearest neighbour."""
    if move == STILL:
        return channels, target
    axes = tuple(axis for axis in range(2) if move.flip[axis])
    channels = np.flip(channels, tuple(axis + 1 for axis in axes))
    target = np.flip(target, axes)
    if move.turn_deg or any(move.shift):
        matrix, offset = _matrix(move, target.shape)
        channels = np.stack(
            [ndimage.affine_transform(each, matrix, offset, order=1) for each in channels]
        )
        target = ndimage.affine_transform(target, matrix, offset, order=0)
    return np.ascontiguousarray(channels), np.ascontiguousarray(target)


def _matrix(
    move: Move, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Matrix and offset from voxels of the moved slice to those it is taken from."""
    angle = math.radians(move.turn_deg)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    middle = (np.array(shape) - 1) / 2
    return matrix, middle - matrix @ (middle + np.array(move.shift))


def _raw(case: Case, channel: int, sampling: SliceSampling, k: int | None = None) -> FloatMap:
    """One channel of a case, or one slice of it; susceptibility is clipped."""
    image = case.channels[channel] if k is None else case.channels[channel][:, :, k]
    values = np.asarray(image, dtype=np.float32)
    if CHANNELS[channel] is not Modality.CHIMAP:
        return values
    limit = sampling.chi_limit_ppm / CHI_SCALE_PPM
    return np.clip(values, -limit, limit)


def _middle(shape: tuple[int, ...], size: int) -> tuple[slice, slice]:
    """Where a slice lies in its padded form."""
    i, j = ((size - n) // 2 for n in shape)
    return slice(i, i + shape[0]), slice(j, j + shape[1])


def place_of(person: SliceCase, sampling: SliceSampling) -> tuple[slice, slice]:
    """Where a person's slices lie in their padded form."""
    return _middle(person.case.brain.shape[:2], sampling.size)
