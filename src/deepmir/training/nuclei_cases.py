"""Samples of the nuclei part: boxes of 1 mm of simulated cases, bent and shifted.

    case ──anatomy part, some of its scans──▶ where the nuclei seem to lie ─┐
      └──────────────────────────────────────▶ scans and true nuclei ───────┴─▶ NucleiCase, kept

    NucleiCase ──▶ pose, bend, patch, grey values ──▶ sample

What the anatomy part says is made once for each case and kept: it errs on the heads that it was
trained on almost as it errs on others (Dice 0.76 and 0.74), so the nuclei part learns how far to
trust it.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor
from torch.nn import functional

from deepmir.errors import InputError
from deepmir.io.atomic import write_bytes
from deepmir.model.anatomy_input import SPACING_MM as COARSE_MM
from deepmir.model.anatomy_input import scale_anatomy_inputs
from deepmir.model.predict import Network
from deepmir.preprocessing.anatomy import classes_and_side
from deepmir.preprocessing.nuclei import ANATOMY_CLASSES, BASES, in_box, nuclei_box, nuclei_inputs
from deepmir.training.anatomy_cases import load_coarse_case, masked_contrasts
from deepmir.training.anatomy_samples import AnatomySampling, rotation, sample_subset, spread
from deepmir.training.patches import Case, open_case
from deepmir.volume import FloatMap, Present

_FIRST_SUBSETS: tuple[Present, ...] = ((True, True, True), (False, True, True))
"""Contrasts that every case is seen with; more are drawn."""
_CONTROL_POINTS = 7


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class NucleiSampling:
    """How boxes are varied."""

    patch: tuple[int, int, int] = (64, 80, 56)
    """Voxels of 1 mm, multiples of 8."""
    subsets: int = Field(default=3, ge=1)
    """With how many sets of contrasts each case is seen."""
    rotation_deg: float = Field(default=10.0, ge=0, le=45)
    scale: float = Field(default=0.1, ge=0, lt=0.5)
    elastic_mm: float = Field(default=2.5, ge=0)
    coarse_shift_mm: float = Field(default=0.7, ge=0)
    """Standard deviation, along each axis, of what the anatomy part's nuclei are moved by."""
    grey: float = Field(default=0.12, ge=0)
    """Standard deviation of gain and offset of T2w and swi, and of χ's offset in its channel."""


@dataclass(frozen=True, slots=True, eq=False)
class NucleiCase:
    """The box of one case."""

    channels: npt.NDArray[np.float16]  # (3, I, J, K)
    classes: npt.NDArray[np.uint8]  # (I, J, K)
    present: npt.NDArray[np.bool_]  # (V, 3)
    coarse: npt.NDArray[np.uint8]  # (V, 4, I, J, K), 255 is a probability of 1


def prepare_case(folder: Path, kept: Path, anatomy: Network, *, sampling: NucleiSampling) -> None:
    """Cut the box of a case and keep it as `kept`, unless it is there.

    Raises
    ------
    InputError
        If the case cannot be read.
    OutputError
        If the box cannot be written.
    """
    if kept.exists():
        return
    case, coarse_case = open_case(folder), load_coarse_case(folder)
    rng = np.random.default_rng(list(folder.name.encode()))
    drawn = [sample_subset(rng, AnatomySampling()) for _ in range(sampling.subsets)]
    present = [*_FIRST_SUBSETS, *drawn][: sampling.subsets]
    truth = _one_hot(case)
    found = []
    for given in present:
        contrasts = masked_contrasts(coarse_case, rng, given)
        maps = (None if one is None else one.numpy() for one in contrasts)
        classes, _ = classes_and_side(scale_anatomy_inputs(*maps), anatomy)
        found.append(classes[ANATOMY_CLASSES])
    box = nuclei_box(np.maximum.reduce(found))
    if box is None:
        raise InputError(f"the anatomy part finds no nucleus in case {folder}; leave it out")
    coarse = np.stack([in_box(one, (COARSE_MM,) * 3, box) for one in found])
    arrays = {
        "channels": in_box(case.channels.astype(np.float32), case.spacing_mm, box).astype(
            np.float16
        ),
        "classes": in_box(truth, case.spacing_mm, box).argmax(axis=0).astype(np.uint8),
        "present": np.array(present),
        "coarse": np.rint(255 * coarse).astype(np.uint8),
    }
    content = BytesIO()
    np.savez(content, **arrays)
    write_bytes(kept, content.getvalue())


def _one_hot(case: Case) -> FloatMap:
    """None, then each nucleus of either side: (5, I, J, K)."""
    base = np.asarray(case.regions) % 100
    nuclei = np.stack([base == number for number in BASES]).astype(np.float32)
    return np.concatenate([1 - nuclei.sum(axis=0, keepdims=True), nuclei])


def load_case(kept: Path) -> NucleiCase:
    """Read a box that was kept."""
    with np.load(kept, allow_pickle=False) as stored:
        return NucleiCase(
            **{name: stored[name] for name in ("channels", "classes", "present", "coarse")}
        )


@dataclass(frozen=True, slots=True, eq=False)
class NucleiSample:
    """One training sample."""

    inputs: Tensor  # (10, I, J, K) float32
    classes: Tensor  # (I, J, K) uint8


def make_sample(
    case: NucleiCase, rng: np.random.Generator, sampling: NucleiSampling
) -> NucleiSample:
    """Make one training sample: a patch of the box, turned, bent, mirrored, in other greys."""
    variant = int(rng.integers(len(case.present)))
    places = _places(case.classes.shape, rng, sampling)
    shift = torch.from_numpy(rng.normal(0, sampling.coarse_shift_mm, 3))
    channels = _greyed(_at(case.channels, places), rng, sampling.grey)
    coarse = _at(case.coarse[variant], places + shift)
    classes = _at(case.classes[np.newaxis], places, mode="nearest")[0]
    inputs = _inputs(channels.numpy(), case.present[variant], coarse.numpy())
    return NucleiSample(inputs, classes.to(torch.uint8))


def whole_box(case: NucleiCase, variant: int) -> NucleiSample:
    """Box of a case as it is, for validation."""
    channels, coarse = case.channels.astype(np.float32), case.coarse[variant].astype(np.float32)
    inputs = _inputs(channels, case.present[variant], coarse)
    return NucleiSample(inputs, torch.from_numpy(case.classes))


def _inputs(channels: FloatMap, present: npt.NDArray[np.bool_], coarse: FloatMap) -> Tensor:
    """Stack channels as inference does; those that are not there are 0, `coarse` is 0 to 255."""
    t2w, swi, chi = (bool(given) for given in present)
    shown = channels * present[:, None, None, None].astype(np.float32)
    return torch.from_numpy(nuclei_inputs(shown, (t2w, swi, chi), coarse / np.float32(255)))


def _places(shape: tuple[int, ...], rng: np.random.Generator, sampling: NucleiSampling) -> Tensor:
    """Voxels of the box that a patch looks at: (I, J, K, 3)."""
    matrix = rotation(np.deg2rad(rng.uniform(-1, 1, 3) * sampling.rotation_deg))
    scale = 1 + rng.uniform(-1, 1) * sampling.scale + rng.uniform(-1, 1, 3) * sampling.scale / 3
    matrix = matrix @ np.diag(scale * (-1 if rng.random() < 0.5 else 1, 1, 1))
    spare = np.maximum(np.array(shape) - np.array(sampling.patch), 0) / 2
    centre = (np.array(shape) - 1) / 2 + rng.uniform(-1, 1, 3) * spare
    axes = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in sampling.patch]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    bend = rng.uniform(0, sampling.elastic_mm)
    control = rng.standard_normal((3, *(_CONTROL_POINTS,) * 3), dtype=np.float32) * np.float32(bend)
    moved = torch.stack([spread(one, sampling.patch) for one in torch.from_numpy(control)], dim=-1)
    return grid @ torch.from_numpy(matrix.T) + torch.from_numpy(centre) + moved


def _at(maps: npt.NDArray[np.generic], places: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Look maps (C, I, J, K) up at places (…, 3): (C, …) float32; edges go on outside."""
    size = torch.tensor(maps.shape[1:], dtype=torch.float64)
    wanted = (2 * places + 1) / size - 1  # grid_sample counts from -1 to 1 between outer faces
    source = torch.from_numpy(maps.astype(np.float32))[None]
    at = wanted.flip(-1).float()[None]  # and names the last axis first
    return functional.grid_sample(
        source, at, mode=mode, padding_mode="border", align_corners=False
    )[0]


def _greyed(channels: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    """Other gain and offset of T2w and swi, another zero of χ; background stays 0."""
    gain = torch.from_numpy(np.exp(rng.normal(0, strength, 3))).float()
    gain[2] = 1
    offset = torch.from_numpy(rng.normal(0, strength, 3)).float()
    changed = channels * gain[:, None, None, None] + offset[:, None, None, None]
    return torch.where(channels != 0, changed, 0)
