"""Training patches of the findings part, drawn from simulated cases on disk.

    Case ──draw_place──▶ Place ──cut──▶ arrays ──augment, drop contrasts──▶ Patch

Half of the patches are centred on findings, a quarter on mimics, a quarter anywhere in the
brain. With a third on lesions others' networks collapsed to empty masks.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass
from scipy import ndimage

from deepmir.errors import InputError
from deepmir.labels import BASAL_GANGLIA_BASES, Finding
from deepmir.model.losses import IGNORE
from deepmir.volume import BoolMap, FloatMap, Present

Shape = tuple[int, int, int]
Voxel = tuple[int, int, int]
Number = TypeVar("Number", bound=np.generic)
Coordinates = npt.NDArray[np.int64]

MARGIN: Shape = (6, 6, 3)
"""Voxels cut around a patch so that blur and shifts see what lies beside it."""
CHI_SCALE_PPM = 0.25
"""Susceptibility that is 1 in the Chimap channel of the findings part."""


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PatchSampling:
    """Where patches lie and how they are varied."""

    shape: Shape = (64, 64, 16)
    finding_share: float = Field(default=0.5, ge=0, le=1)
    mimic_share: float = Field(default=0.25, ge=0, le=1)
    class_shares: tuple[float, float, float] = (3.0, 1.0, 1.0)
    """How often CMB, IRON and CALCIFICATION stand in the middle, relative to each other."""
    subsets: tuple[tuple[str, float], ...] = (
        ("T2w+swi+Chimap", 0.35),
        ("swi+Chimap", 0.25),
        ("swi", 0.12),
        ("Chimap", 0.12),
        ("T2w+swi", 0.08),
        ("T2w+Chimap", 0.08),
    )
    """Which contrasts a patch has, and how often."""
    shift_share: float = Field(default=0.3, ge=0, le=1)
    """Patches whose T2w and Chimap lie up to 2 voxels off."""
    context_loss_share: float = Field(default=0.2, ge=0, le=1)
    """Patches whose basal ganglia are less certain than they are: the coarse part may fail."""
    chi_offset_ppm: float = Field(default=0.03, ge=0)
    chi_gain: float = Field(default=0.2, ge=0, lt=1)
    noise: float = Field(default=0.06, ge=0)
    augment: bool = True
    block_steps: int = Field(default=200, gt=0)
    """The list of cases is fixed for so many steps, so that a folder may grow meanwhile."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One simulated scan on disk, memory-mapped, with the places worth looking at."""

    name: str
    channels: npt.NDArray[np.float16]  # (3, I, J, K)
    labels: npt.NDArray[np.uint8]  # (I, J, K), 255 = ignore
    brain: npt.NDArray[np.uint8]
    regions: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    findings: tuple[Coordinates, Coordinates, Coordinates]  # (n, 3) centres of each class
    mimics: tuple[Coordinates, ...]  # (n, 3) voxels of each kind
    inside: Coordinates  # (n, 3) voxels spread over the brain


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """One training sample of the findings part."""

    inputs: npt.NDArray[np.floating]  # (8, I, J, K)
    target: npt.NDArray[np.uint8]  # (I, J, K)


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    channels: FloatMap  # (3, ...), with margin
    target: npt.NDArray[np.uint8]  # patch only
    brain: FloatMap  # with margin
    basal_ganglia: FloatMap  # with margin


_BASAL_GANGLIA = np.isin(np.arange(256) % 100, sorted(BASAL_GANGLIA_BASES))


def basal_ganglia_of(regions: npt.NDArray[np.uint8]) -> FloatMap:
    """1 where a region map says basal ganglia or one of their nuclei, else 0."""
    return _BASAL_GANGLIA[regions].astype(np.float32)


# ---- cases ---------------------------------------------------------------------------------


def list_cases(folder: Path, heads: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the finished cases of some heads, sorted."""
    found = sorted(folder.glob("*/case.json"))
    return tuple(path.parent.name for path in found if _head_of(path) in heads)


@lru_cache(maxsize=4096)
def _head_of(path: Path) -> int:
    """Return the number of the head that a case was made from; -1 where its name has none."""
    description = json.loads(path.read_text(encoding="utf-8"))
    name = str(description.get("anatomy", description.get("head", "")))
    digits = "".join(character for character in name.partition(".")[0] if character.isdigit())
    return int(digits) if digits else -1


def open_case(folder: Path) -> Case:
    """Map a case into memory and find its lesions and mimics.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    try:
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("channels", "labels", "mimics", "brain", "regions")
        }
        description = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"case {folder} cannot be read: {error}; simulate it again") from error
    labels = arrays["labels"]
    spacing = tuple(float(step) for step in description["spacing_mm"])
    return Case(
        name=folder.name,
        channels=arrays["channels"],
        labels=labels,
        brain=arrays["brain"],
        regions=arrays["regions"],
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        findings=(
            _component_centres(labels == Finding.CMB),
            _component_centres(labels == Finding.IRON),
            _component_centres(labels == Finding.CALCIFICATION),
        ),
        mimics=_voxels_by_value(arrays["mimics"]),
        inside=_spread_voxels(np.asarray(arrays["brain"]) > 0),
    )


def _component_centres(mask: BoolMap) -> Coordinates:
    """Voxel of each component that lies nearest to its centre."""
    if not mask.any():
        return np.zeros((0, 3), dtype=np.int64)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    components, count = ndimage.label(mask[box], structure=np.ones((3, 3, 3)))
    voxels = np.argwhere(components > 0)
    numbers = components[components > 0]
    sizes = np.bincount(numbers, minlength=count + 1)[1:, None]
    sums = np.stack([np.bincount(numbers, voxels[:, a], count + 1)[1:] for a in range(3)], axis=1)
    distance = ((voxels - (sums / sizes)[numbers - 1]) ** 2).sum(axis=1)
    order = np.lexsort((distance, numbers))
    first = np.searchsorted(numbers[order], np.arange(1, count + 1))
    return np.asarray(voxels[order][first] + [axis.start for axis in box], dtype=np.int64)


def _voxels_by_value(places: npt.NDArray[np.uint8]) -> tuple[Coordinates, ...]:
    at = np.argwhere(np.asarray(places) > 0)
    values = places[tuple(at.T)]
    kinds = [at[values == value] for value in np.unique(values)]
    return tuple(kind[:: max(1, len(kind) // 4000)] for kind in kinds)


def _spread_voxels(mask: BoolMap) -> Coordinates:
    flat = np.flatnonzero(mask)
    return np.stack(np.unravel_index(flat[:: max(1, len(flat) // 8000)], mask.shape), axis=1)


# ---- places --------------------------------------------------------------------------------


def draw_patch(
    folder: Path, names: tuple[str, ...], rng: np.random.Generator, *, sampling: PatchSampling
) -> Patch:
    """Draw one patch from the named cases of a folder.

    Raises
    ------
    InputError
        If no case is named, or one cannot be read.
    """
    if not names:
        raise InputError(f"{folder} has no finished case to train on; simulate some first")
    case, centre = draw_place(folder, names, rng, sampling=sampling)
    return make_patch(case, centre, rng, sampling=sampling)


def draw_place(
    folder: Path, names: tuple[str, ...], rng: np.random.Generator, *, sampling: PatchSampling
) -> tuple[Case, Voxel]:
    """Draw a case and the middle of a patch in it."""
    kind = rng.random()
    if kind < sampling.finding_share:
        return _finding_place(folder, names, rng, sampling=sampling)
    case = cached_case(folder, names[int(rng.integers(len(names)))])
    if kind < sampling.finding_share + sampling.mimic_share and case.mimics:
        places = case.mimics[int(rng.integers(len(case.mimics)))]
        return case, _jittered(places, rng, sampling.shape)
    return case, _jittered(case.inside, rng, sampling.shape)


def _finding_place(
    folder: Path, names: tuple[str, ...], rng: np.random.Generator, *, sampling: PatchSampling
) -> tuple[Case, Voxel]:
    shares = np.array(sampling.class_shares)
    finding = int(rng.choice(3, p=shares / shares.sum()))
    case = cached_case(folder, names[int(rng.integers(len(names)))])
    for _ in range(6):
        if len(case.findings[finding]):
            return case, _jittered(case.findings[finding], rng, sampling.shape)
        case = cached_case(folder, names[int(rng.integers(len(names)))])
    return case, _jittered(case.inside, rng, sampling.shape)


def _jittered(places: Coordinates, rng: np.random.Generator, shape: Shape) -> Voxel:
    """One of some places, off the middle of the patch by up to a third of its size."""
    i, j, k = places[int(rng.integers(len(places)))]
    di, dj, dk = (int(rng.integers(-(n // 3), n // 3 + 1)) for n in shape)
    return int(i) + di, int(j) + dj, int(k) + dk


_opened: dict[Path, Case] = {}


def cached_case(folder: Path, name: str) -> Case:
    """Case of a folder, opened once."""
    path = folder / name
    if path not in _opened:
        _opened[path] = open_case(path)
    return _opened[path]


def forget_case(path: Path) -> None:
    """Close a case that nobody will ask for any more."""
    _opened.pop(path, None)


def keep_only(folder: Path, names: tuple[str, ...]) -> None:
    """Close the cases of a folder that are not among these."""
    for path in [path for path in _opened if path.parent == folder and path.name not in names]:
        forget_case(path)


# ---- patches -------------------------------------------------------------------------------


def make_patch(
    case: Case, centre: Voxel, rng: np.random.Generator, *, sampling: PatchSampling
) -> Patch:
    """Cut, vary and stack one patch around a voxel."""
    cut = _cut(case, centre, sampling.shape)
    present = _draw_subset(rng, sampling)
    channels = _place_channels(cut.channels, rng, sampling)
    context = np.stack(
        [
            _soften(cut.brain, case, rng, sampling=sampling),
            _soften(cut.basal_ganglia, case, rng, sampling=sampling),
        ]
    )
    if sampling.augment:
        channels = vary_intensities(channels, rng, sampling)
        if rng.random() < sampling.context_loss_share:
            context[1] *= rng.uniform()
    inputs = np.zeros((8, *sampling.shape), dtype=np.float32)
    for channel, given in enumerate(present):
        if given:
            inputs[channel], inputs[3 + channel] = channels[channel], 1
    inputs[6:] = context
    target = target_for(cut.target, present)
    return _turn(inputs, target, rng) if sampling.augment else Patch(inputs, target)


def target_for(labels: npt.NDArray[np.uint8], present: Present) -> npt.NDArray[np.uint8]:
    """Target of a patch with some contrasts only.

    Without a Chimap the sign of χ is not known, so a calcification cannot be told from a
    microbleed: its voxels are ignored.
    """
    if present[2]:
        return labels
    return np.where(labels == Finding.CALCIFICATION, np.uint8(IGNORE), labels)


def _cut(case: Case, centre: Voxel, shape: Shape) -> _Cut:
    low = [c - n // 2 for c, n in zip(centre, shape, strict=True)]
    wide_low = [at - m for at, m in zip(low, MARGIN, strict=True)]
    wide = [n + 2 * m for n, m in zip(shape, MARGIN, strict=True)]
    regions = _window(case.regions, wide_low, wide)
    return _Cut(
        channels=np.stack([_window(c, wide_low, wide) for c in case.channels]).astype(np.float32),
        target=_window(case.labels, low, list(shape)),
        brain=_window(case.brain, wide_low, wide).astype(np.float32),
        basal_ganglia=basal_ganglia_of(regions),
    )


def _window(volume: npt.NDArray[Number], low: list[int], size: list[int]) -> npt.NDArray[Number]:
    """Window (I, J, K) of a volume; zero where it reaches beyond."""
    out = np.zeros(size, dtype=volume.dtype)
    source, target = [], []
    for start, length, end in zip(low, size, volume.shape, strict=True):
        first, last = min(max(start, 0), end), max(min(start + length, end), 0)
        source.append(slice(first, max(last, first)))
        target.append(slice(first - start, max(last, first) - start))
    out[tuple(target)] = volume[tuple(source)]
    return out


def _draw_subset(rng: np.random.Generator, sampling: PatchSampling) -> Present:
    shares = np.array([share for _, share in sampling.subsets])
    names, _ = sampling.subsets[int(rng.choice(len(shares), p=shares / shares.sum()))]
    given = names.split("+")
    return "T2w" in given, "swi" in given, "Chimap" in given


def _place_channels(
    channels: FloatMap, rng: np.random.Generator, sampling: PatchSampling
) -> FloatMap:
    """Take the margin off; sometimes T2w and Chimap lie up to 2 voxels off the SWI."""
    out = np.empty((3, *sampling.shape), dtype=np.float32)
    moved = sampling.augment and rng.random() < sampling.shift_share
    offsets = np.zeros((3, 3), dtype=int)
    if moved:
        offsets[0] = rng.integers((-2, -2, -1), (3, 3, 2))
        offsets[2] = rng.integers((-1, -1, 0), (2, 2, 1))
    for channel, offset in enumerate(offsets):
        box = tuple(
            slice(m + int(d), m + int(d) + n)
            for m, d, n in zip(MARGIN, offset, sampling.shape, strict=True)
        )
        out[channel] = channels[channel][box]
    return out


def _soften(
    mask: FloatMap, case: Case, rng: np.random.Generator, *, sampling: PatchSampling
) -> FloatMap:
    """Mask as an imperfect 2 mm network would give it: smooth, a little off, grown or eaten."""
    inner = tuple(slice(m, m + n) for m, n in zip(MARGIN, sampling.shape, strict=True))
    low, high = mask.min(), mask.max()
    width = rng.uniform(0.3, 0.8)
    grown = rng.uniform(max(0.25, width / 2), min(0.75, 1 - width / 2))
    roll = rng.integers((-1, -1, 0), (2, 2, 1))
    if low == high:
        return np.full(sampling.shape, low, dtype=np.float32)
    sigma = [1.5 / step for step in case.spacing_mm]
    soft = ndimage.gaussian_filter(np.roll(mask, roll, axis=(0, 1, 2)), sigma, truncate=2)
    return np.asarray(np.clip((soft[inner] - grown) / width + 0.5, 0, 1), dtype=np.float32)


def vary_intensities(
    channels: FloatMap, rng: np.random.Generator, sampling: PatchSampling
) -> FloatMap:
    """Vary gain, gamma, offset and noise of (T2w, swi, Chimap); zeros outside stay zero.

    The sign of χ is never flipped: it is what tells blood from calcium.
    """
    t2w, swi, chi = channels
    varied = np.stack(
        [
            t2w * rng.uniform(0.8, 1.25) + rng.uniform(-0.2, 0.2),
            2
            * (np.maximum(swi / 2 + 1, 0) ** rng.uniform(0.8, 1.25) * rng.uniform(0.95, 1.05) - 1),
            chi * (1 + rng.uniform(-1, 1) * sampling.chi_gain)
            + rng.uniform(-1, 1) * sampling.chi_offset_ppm / CHI_SCALE_PPM,
        ]
    )
    scale = rng.uniform(0, sampling.noise, (3, 1, 1, 1)) * (rng.random((3, 1, 1, 1)) < 0.5)
    varied += scale * rng.standard_normal(varied.shape, dtype=np.float32)
    return np.where(channels != 0, varied, 0).astype(np.float32)


def _turn(inputs: FloatMap, target: npt.NDArray[np.uint8], rng: np.random.Generator) -> Patch:
    """Mirror along each axis half of the time; turn by quarters where the patch is square."""
    flips = tuple(axis for axis in range(3) if rng.random() < 0.5)
    quarters = int(rng.integers(4)) if inputs.shape[1] == inputs.shape[2] else 0
    inputs = np.flip(inputs, tuple(axis + 1 for axis in flips))
    target = np.flip(target, flips)
    inputs = np.rot90(inputs, quarters, axes=(1, 2))
    target = np.rot90(target, quarters, axes=(0, 1))
    return Patch(np.ascontiguousarray(inputs), np.ascontiguousarray(target))
