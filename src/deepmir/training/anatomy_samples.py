"""Synthetic whole heads at 2 mm for the anatomy part, made on the fly from label maps.

    Head ──sample_view──▶ View ──codes_in_view──▶ codes ──┬─▶ T2w, swi, Chimap ─▶ scaled inputs
                                                          └─▶ classes, side

70 % of the magnitude contrasts follow the signal equations, 30 % give every tissue a random
grey value (SynthSeg, doi:10.1016/j.media.2023.102789). The Chimap is always reconstructed: a
dipole field, then a truncated or regularised inversion inside an imperfect brain mask.

All maps are torch tensors on the device of the head that they are made from, CPU or GPU. What is
drawn once a sample comes from NumPy's generator, the same on every device; what is drawn once a
voxel comes from a generator of the device that is seeded by it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass
from scipy import fft
from torch import Tensor
from torch.nn import functional

from deepmir.errors import InputError
from deepmir.labels import BASAL_GANGLIA_BASES, REGION_BY_BASE, REGIONS, RIGHT_OFFSET
from deepmir.model.anatomy_input import (
    NO_REGION_CLASS,
    OUTSIDE_CLASS,
    SPACING_MM,
    class_of_regions,
    padded_shape,
    scale_anatomy_inputs,
)
from deepmir.simulation.tissue import TISSUES, TissueValues, sample_tissue_values
from deepmir.volume import BoolMap, FloatMap, Present

Shape = tuple[int, int, int]

AIR_CODE = 0
"""Code of air and of what lies outside a head's array: label 0, no brain."""

SMALLEST_VOXELS = 64
"""Of a sample along each axis: one coarse voxel would leave instance norms without statistics."""

MOST_OFFSET_PPM = 0.03
"""Susceptibility has no absolute zero: maps are off by so much."""

_DEEP_CLASSES = [n + 1 for n, region in enumerate(REGIONS) if region.base in BASAL_GANGLIA_BASES]
_DEEP_SHIFT_VOXELS = 8


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class AnatomySampling:
    """How heads are varied; shares are probabilities."""

    rotation_deg: float = Field(default=15.0, ge=0, le=45)
    scale: float = Field(default=0.1, ge=0, lt=0.5)
    elastic_mm: float = Field(default=3.0, ge=0)
    random_contrast_share: float = Field(default=0.3, ge=0, le=1)
    skull_stripped_share: float = Field(default=0.5, ge=0, le=1)
    slab_share: float = Field(default=0.35, ge=0, le=1)
    """Fields of view that cover only 40 to 100 % of the brain along K."""
    whole_head_share: float = Field(default=0.25, ge=0, le=1)
    """Fields of view that hold the whole head, the neck and the air around them."""
    deep_share: float = Field(default=0.5, ge=0, le=1)
    """Samples cut down, once made, to a box around the deep grey matter: a step on such a box takes
    a third of the time of one on the brain, and the nuclei are what is learned last."""
    subsets: tuple[tuple[str, float], ...] = (
        ("T2w+swi+Chimap", 0.25),
        ("swi+Chimap", 0.17),
        ("Chimap", 0.17),
        ("T2w", 0.13),
        ("swi", 0.12),
        ("T2w+swi", 0.08),
        ("T2w+Chimap", 0.08),
    )
    """Which contrasts a sample has, and how often."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A label map folded into one small code per kind of voxel."""

    name: str
    codes: Tensor  # (I, J, K) int16, 1 mm
    labels: npt.NDArray[np.uint16]  # (n_codes,) anatomical number
    classes: Tensor  # (n_codes,) uint8, class of the anatomy part
    right: Tensor  # (n_codes,) bool
    paired: Tensor  # (n_codes,) bool
    brain: Tensor  # (n_codes,) bool
    centre: npt.NDArray[np.float64]  # (3,) voxel in the middle of the brain
    extent_mm: npt.NDArray[np.float64]  # (3,) size of the brain's box

    def to(self, device: torch.device) -> "Head":
        """Return the same head on a device; its samples are made there."""
        return replace(
            self,
            codes=self.codes.to(device),
            classes=self.classes.to(device),
            right=self.right.to(device),
            paired=self.paired.to(device),
            brain=self.brain.to(device),
        )


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Where and how a head is looked at: sampled first, applied later."""

    shape: Shape  # field of view in voxels of 2 mm
    matrix: npt.NDArray[np.float64]  # (3, 3): rotation, scale and mirror
    centre: npt.NDArray[np.float64]  # (3,) voxel of the head at the middle of the view
    mirrored: bool
    displacement_mm: npt.NDArray[np.float32]  # (3, c, c, c) control points of the deformation


@dataclass(frozen=True, slots=True, eq=False)
class AnatomySample:
    """One training sample."""

    inputs: Tensor  # (6, I, J, K) float32
    classes: Tensor  # (I, J, K) uint8
    right: Tensor  # (I, J, K) bool
    paired: Tensor  # (I, J, K) bool


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """A view of one head filled with one person's tissue values."""

    codes: Tensor
    labels: npt.NDArray[np.uint16]  # (n_codes,)
    brain: Tensor
    values: TissueValues
    veins: Tensor  # share of a voxel that is vein, 0 to 1

    def painted(self, per_label: npt.NDArray[np.floating]) -> Tensor:
        """Map (I, J, K) of a property that is given per label; unknown labels are soft tissue."""
        known = np.where(self.labels < len(per_label), self.labels, 507)
        table = np.asarray(per_label, dtype=np.float32)[known]
        return torch.from_numpy(table).to(self.codes.device)[self.codes]


# ---- heads -------------------------------------------------------------------------------


def load_head(path: Path) -> Head:
    """Read an anatomy written by the simulation and fold it into codes.

    Raises
    ------
    InputError
        If the file is missing or lacks one of labels, regions and brain.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            labels, regions, brain = stored["labels"], stored["regions"], stored["brain"]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{path} is not an anatomy (labels, regions, brain): {error}; make it anew with the "
            "simulator"
        ) from error
    return fold_head(path.stem, labels, regions=regions, brain=brain.astype(bool))


def fold_head(
    name: str,
    labels: npt.NDArray[np.integer],
    *,
    regions: npt.NDArray[np.integer],
    brain: BoolMap,
) -> Head:
    """Fold three maps (I, J, K) of 1 mm into one map of codes and a table per code.

    Raises
    ------
    InputError
        If the brain is empty.
    """
    if not brain.any():
        raise InputError(f"{name} has no brain voxel; an anatomy with a brain is needed")
    keys = (labels.astype(np.int64) * 512 + regions.astype(np.int64) * 2 + brain).ravel()
    present = np.bincount(keys) > 0
    present[0] = True  # air comes first
    codes = (np.cumsum(present) - 1).astype(np.int16)[keys].reshape(labels.shape)
    table = np.flatnonzero(present)
    code_regions, code_brain = table % 512 // 2, table % 2 == 1
    box = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low, high = np.array([b[0] for b in box]), np.array([b[-1] for b in box])
    return Head(
        name=name,
        codes=torch.from_numpy(codes),
        labels=(table // 512).astype(np.uint16),
        classes=torch.from_numpy(class_of_regions(code_regions, code_brain)),
        right=torch.from_numpy(code_regions >= RIGHT_OFFSET),
        paired=torch.tensor([_is_paired(int(number)) for number in code_regions]),
        brain=torch.from_numpy(code_brain),
        centre=(low + high) / 2,
        extent_mm=(high - low + 1).astype(np.float64),
    )


def _is_paired(region_number: int) -> bool:
    base = region_number % 100
    return base in REGION_BY_BASE and REGION_BY_BASE[base].paired


# ---- where the head is looked at ------------------------------------------------------------


def sample_view(head: Head, rng: np.random.Generator, sampling: AnatomySampling) -> View:
    """Draw the field of view, the pose and the deformation of one sample."""
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * sampling.rotation_deg)
    scale = 1 + rng.uniform(-1, 1) * sampling.scale + rng.uniform(-1, 1, 3) * sampling.scale / 3
    mirrored = bool(rng.random() < 0.5)
    matrix = rotation(angles) @ np.diag(1 / scale)
    if mirrored:
        matrix = np.diag([-1.0, 1.0, 1.0]) @ matrix
    size_mm, shift_mm = _sample_field_of_view(head.extent_mm * scale, rng, sampling)
    i, j, k = (int(n) for n in np.ceil(size_mm / SPACING_MM))
    control = rng.standard_normal((3, 9, 9, 9), dtype=np.float32)
    return View(
        shape=(i, j, k),
        matrix=matrix,
        centre=head.centre + matrix @ shift_mm,
        mirrored=mirrored,
        displacement_mm=control * np.float32(rng.uniform(0, sampling.elastic_mm)),
    )


def _sample_field_of_view(
    brain_mm: npt.NDArray[np.float64], rng: np.random.Generator, sampling: AnatomySampling
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Size of the field of view and how far its middle lies from the brain's, mm."""
    if rng.random() < sampling.whole_head_share:
        return _whole_head_view(brain_mm, rng)
    margin = rng.uniform(4, 40, 3) * (rng.random(3) < 0.8)
    size = np.minimum(brain_mm + margin + 4, (190, 254, 190))
    if rng.random() < 0.9:  # most samples fit 96 voxels in plane, which is what a step costs
        size[:2] = np.minimum(size[:2], 190)
    spare = np.maximum(size - brain_mm, 8)
    shift = rng.uniform(-0.5, 0.5, 3) * spare
    if rng.random() < sampling.slab_share:
        covered = rng.uniform(0.4, 1.0) * brain_mm[2]
        shift[2] = rng.uniform(-0.5, 0.5) * (brain_mm[2] - covered)
        size[2] = covered
    return size, shift


def _whole_head_view(
    brain_mm: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """View as of a T2w scan of the head: air on all sides, more below the brain than above."""
    size = np.minimum(brain_mm + rng.uniform(50, 90, 3), (222, 254, 254))
    spare = size - brain_mm
    shift = rng.uniform(-0.15, 0.15, 3) * spare
    shift[2] = -rng.uniform(0.2, 0.4) * spare[2]
    return size, shift


def rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Matrix (3, 3) of turns about I, J and K, one after the other; radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = [a for a in range(3) if a != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def codes_in_view(head: Head, view: View) -> Tensor:
    """Codes (int32) on the view's 2 mm grid, nearest neighbour; air where the head's array ends."""
    device = head.codes.device
    axes = [(torch.arange(n, device=device) - (n - 1) / 2) * SPACING_MM for n in view.shape]
    index = torch.zeros(view.shape, dtype=torch.int64, device=device)
    inside = torch.ones(view.shape, dtype=torch.bool, device=device)
    for row, length in enumerate(head.codes.shape):
        steps = [float(view.matrix[row, a]) * axes[a] for a in range(3)]
        at = steps[0][:, None, None] + steps[1][None, :, None] + steps[2][None, None, :]
        at = at + float(view.centre[row])
        at += spread(torch.from_numpy(view.displacement_mm[row]).to(device), view.shape)
        nearest = at.round().long()
        inside &= (nearest >= 0) & (nearest < length)
        index = index * length + nearest.clamp(0, length - 1)
    return torch.where(inside, head.codes.flatten()[index], AIR_CODE).int()


def spread(control: Tensor, shape: Shape) -> Tensor:
    """Cubic B-spline through a small grid of control values, spread over `shape`."""
    out = control
    for length in shape:  # each pass consumes the first axis and appends the long one
        weights = torch.from_numpy(_spline_weights(length, out.shape[0])).to(out.device)
        out = torch.tensordot(out, weights, dims=([0], [1]))
    return out


def _spline_weights(length: int, n_control: int) -> npt.NDArray[np.float32]:
    """(length, n_control) cubic B-spline weights; rows sum to 1."""
    position = np.linspace(1, n_control - 2, length)[:, None]
    distance = np.abs(position - np.arange(n_control)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance) ** 3 / 6
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def smooth_field(rng: np.random.Generator, like: Tensor, *, n_control: int) -> Tensor:
    """Smooth random field of about unit size: `n_control` random values along each axis."""
    control = rng.standard_normal((n_control,) * 3, dtype=np.float32) * np.float32(1.5)
    i, j, k = like.shape
    return spread(torch.from_numpy(control).to(like.device), (i, j, k))


def _noise(rng: np.random.Generator, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw standard normal numbers on the device."""
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    return torch.randn(shape, generator=generator, device=device)


def blur(image: Tensor, weight: float, axes: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    """Average every voxel with its two neighbours along each axis: w, 1 - 2w, w."""
    out = image
    for axis in axes:
        n = out.shape[axis]
        ends = out.narrow(axis, 0, 1), out.narrow(axis, n - 1, 1)
        padded = torch.cat([ends[0], out, ends[1]], dim=axis)
        beside = padded.narrow(axis, 0, n) + padded.narrow(axis, 2, n)
        out = (1 - 2 * weight) * out + weight * beside
    return out


# ---- contrasts ----------------------------------------------------------------------------


def _groups() -> npt.NDArray[np.intp]:
    """Tissue group of every label number; unknown labels are soft tissue (507)."""
    kinds = {id(tissue): n for n, tissue in enumerate(TISSUES.values())}
    groups = np.full(max(TISSUES) + 1, kinds[id(TISSUES[507])], dtype=np.intp)
    for label, tissue in TISSUES.items():
        groups[label] = kinds[id(tissue)]
    return groups


_GROUP_OF_LABEL = _groups()


def _random_grey(rng: np.random.Generator) -> FloatMap:
    """One grey value per label, equal within a tissue; air stays dark."""
    grey = rng.uniform(0.05, 1.0, len(_GROUP_OF_LABEL)).astype(np.float32)[_GROUP_OF_LABEL]
    grey[0] = rng.uniform(0, 0.05)
    return grey


def t2w_signal(values: TissueValues, *, tr_s: float, te_s: float) -> FloatMap:
    """Spin-echo signal per label: PD (1 - exp(-TR/T1)) exp(-TE R2)."""
    signal = values.proton_density * (1 - np.exp(-tr_s / np.maximum(values.t1_s, 1e-3)))
    return np.asarray(signal * np.exp(-te_s * values.r2_hz), dtype=np.float32)


def gre_signal(values: TissueValues, *, tr_s: float, te_s: float, flip_deg: float) -> FloatMap:
    """Spoiled gradient-echo signal per label (Ernst), with R2* decay."""
    flip = np.deg2rad(flip_deg)
    e1 = np.exp(-tr_s / np.maximum(values.t1_s, 1e-3))
    steady = np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1)
    return np.asarray(
        values.proton_density * steady * np.exp(-te_s * values.r2star_hz), dtype=np.float32
    )


def _t2w(scene: _Scene, rng: np.random.Generator, *, random_grey: bool) -> Tensor:
    tr_s, te_s = rng.uniform(2.5, 7), rng.uniform(0.07, 0.13)
    physics = t2w_signal(scene.values, tr_s=tr_s, te_s=te_s)
    per_label = _random_grey(rng) if random_grey else physics / physics.max()
    image = scene.painted(per_label)
    return _acquire(image * (1 - 0.5 * rng.random() * scene.veins), rng)


def _swi(scene: _Scene, rng: np.random.Generator, *, random_grey: bool) -> Tensor:
    te_s, tr_s = rng.uniform(0.01, 0.04), rng.uniform(0.02, 0.055)
    physics = gre_signal(scene.values, tr_s=tr_s, te_s=te_s, flip_deg=rng.uniform(8, 20))
    per_label = _random_grey(rng) if random_grey else physics / physics.max()
    # The phase mask darkens what is paramagnetic beyond what R2* does.
    masked = 1 - rng.uniform(0, 3) * np.clip(scene.values.chi_ppm - 0.03, 0, 0.3)
    masked[0] = 1
    image = scene.painted(per_label * np.clip(masked, 0.1, 1))
    image = image * (1 - rng.uniform(0.3, 1.0) * scene.veins)
    return _acquire(image * _dropout(scene.brain, rng), rng)


def _dropout(brain: Tensor, rng: np.random.Generator) -> Tensor:
    """Signal left near the sinuses: dark blobs at the underside of the brain."""
    left = torch.ones(brain.shape, device=brain.device)
    from_top = torch.arange(brain.shape[2], 0, -1, device=brain.device)
    lowest = torch.where(brain.any(dim=2), (brain * from_top).argmax(dim=2), -1).cpu().numpy()
    columns = np.argwhere(lowest >= 0)
    for _ in range(int(rng.integers(0, 4))):
        i, j = columns[rng.integers(len(columns))]
        width = rng.uniform(2, 6)
        parts = [
            torch.exp(-((torch.arange(n, device=brain.device) - int(c)) ** 2) / (2 * width**2))
            for n, c in zip(brain.shape, (i, j, lowest[i, j]), strict=True)
        ]
        left -= rng.uniform(0.5, 1.0) * (
            parts[0][:, None, None] * parts[1][None, :, None] * parts[2][None, None, :]
        )
    return left.clamp(0, 1)


def _acquire(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Texture, point spread, thick slices, receive bias and noise; air keeps its noise."""
    texture = _noise(rng, image.shape, image.device)
    image = blur(image * (1 + 0.04 * texture), rng.uniform(0.12, 0.28))
    if rng.random() < 0.4:
        axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
        image = blur(image, rng.uniform(0.15, 0.33), (axis,))
    image = image * torch.exp(rng.uniform(0, 0.35) * smooth_field(rng, image, n_control=5))
    level = rng.uniform(0.002, 0.035)
    return (image + level * _noise(rng, image.shape, image.device)).abs()


def _chimap(scene: _Scene, mask: Tensor, rng: np.random.Generator) -> Tensor:
    """Reconstructed χ in ppm, 0 outside `mask`."""
    texture = blur(_noise(rng, mask.shape, mask.device), 0.3)
    if rng.random() < 0.7:
        texture = blur(texture, 0.3)
    texture *= rng.uniform(0.005, 0.018) / max(float(texture.std()), 1e-6)
    chi = scene.painted(scene.values.chi_ppm)
    chi = blur(chi * scene.brain, rng.uniform(0.08, 0.22)) + texture
    chi = torch.where(scene.brain, chi + rng.uniform(0.15, 0.4) * scene.veins, 0)
    image = _invert(chi, rng)
    image += rng.uniform(0, 0.012) * smooth_field(rng, mask, n_control=6)
    if rng.random() < 0.5 and bool(mask.any()):
        image -= image[mask].mean()
    image += rng.uniform(-MOST_OFFSET_PPM, MOST_OFFSET_PPM)
    return torch.where(mask, image, 0)


def _invert(chi_ppm: Tensor, rng: np.random.Generator) -> Tensor:
    """Dipole field of χ with noise, brought back by a regularised inversion."""
    padded_i, padded_j, padded_k = (fft.next_fast_len(n + 8, real=True) for n in chi_ppm.shape)
    shape: Shape = (padded_i, padded_j, padded_k)
    dipole = _dipole(shape, rng.uniform(-0.4, 0.4, 2), chi_ppm.device)
    noise = _noise(rng, (*dipole.shape, 2), chi_ppm.device)
    spectrum = torch.fft.rfftn(chi_ppm, s=shape)
    level = rng.uniform(0.0005, 0.004) * float(np.sqrt(np.prod(shape) / 2))
    field = spectrum * dipole + level * torch.view_as_complex(noise)
    if rng.random() < 0.5:
        threshold = rng.uniform(0.1, 0.25)
        least = torch.where(dipole < 0, -threshold, threshold)
        inverse = 1 / torch.where(dipole.abs() < threshold, least, dipole)
    else:
        inverse = dipole / (dipole**2 + rng.uniform(0.005, 0.03))
    i, j, k = chi_ppm.shape
    image: Tensor = torch.fft.irfftn(field * inverse, s=shape)
    return image[:i, :j, :k]


def _dipole(shape: Shape, tilt: npt.NDArray[np.float64], device: torch.device) -> Tensor:
    """Return the unit dipole kernel 1/3 - (k·b)²/k² for a main field tilted away from K."""
    i = torch.fft.fftfreq(shape[0], device=device)[:, None, None]
    j = torch.fft.fftfreq(shape[1], device=device)[None, :, None]
    k = torch.fft.rfftfreq(shape[2], device=device)[None, None, :]
    b = np.array([tilt[0], tilt[1], 1.0]) / np.sqrt(1 + (tilt**2).sum())
    along = float(b[0]) * i + float(b[1]) * j + float(b[2]) * k
    square = i * i + j * j + k * k
    square[0, 0, 0] = 1
    dipole: Tensor = 1 / 3 - along * along / square
    dipole[0, 0, 0] = 0
    return dipole


def _veins(brain: Tensor, rng: np.random.Generator) -> Tensor:
    """Share of vein per voxel: some dozens of curved lines and a few round dots."""
    n_lines, n_steps = int(rng.integers(10, 60)), 36
    seeds = torch.argwhere(brain[::2, ::2, ::2]) * 2
    chosen = torch.from_numpy(rng.integers(len(seeds), size=n_lines)).to(brain.device)
    start = seeds[chosen].cpu().numpy()[:, None].astype(np.float64)
    heading = rng.normal(size=(n_lines, 1, 3)) + 0.25 * np.cumsum(
        rng.normal(size=(n_lines, n_steps, 3)), axis=1
    )
    heading /= np.linalg.norm(heading, axis=2, keepdims=True) + 1e-6
    path = start + np.cumsum(heading, axis=1)
    length = rng.integers(1, n_steps, size=(n_lines, 1))
    kept = np.arange(n_steps)[None] < length
    strength = np.broadcast_to(rng.uniform(0.15, 0.9, (n_lines, 1)), kept.shape)[kept]
    at = np.rint(path[kept]).astype(np.int64)
    inside = ((at >= 0) & (at < np.array(brain.shape))).all(axis=1)
    flat = np.ravel_multi_index(tuple(at[inside].T), brain.shape)
    veins = torch.zeros(brain.numel(), device=brain.device)
    veins.scatter_reduce_(
        0,
        torch.from_numpy(flat).to(brain.device),
        torch.from_numpy(strength[inside].astype(np.float32)).to(brain.device),
        reduce="amax",
    )
    return veins.reshape(brain.shape) * brain


def imperfect_mask(brain: Tensor, rng: np.random.Generator, *, low: float, high: float) -> Tensor:
    """Brain mask that eats in or stands off by a few mm, unevenly."""
    soft = brain.float()
    for _ in range(3):
        soft = blur(soft, 0.3)
    edge = rng.uniform(low, high) + 0.12 * smooth_field(rng, soft, n_control=10)
    return soft > edge.clamp(0.02, 0.98)


# ---- one sample ------------------------------------------------------------------------------


def make_sample(head: Head, rng: np.random.Generator, sampling: AnatomySampling) -> AnatomySample:
    """Make one training sample of a head: inputs and targets, padded to multiples of 32."""
    view = sample_view(head, rng, sampling)
    codes = codes_in_view(head, view)
    present = sample_subset(rng, sampling)
    inputs = _contrasts(head, codes, present, rng=rng, sampling=sampling)
    if rng.random() < sampling.deep_share:
        box = deep_box(head.classes[codes], rng)
        codes, inputs = codes[box], inputs[(slice(None), *box)]
    paired = head.paired[codes]
    right = head.right[codes] != view.mirrored
    return padded_sample(inputs, head.classes[codes], right=right, paired=paired)


def deep_box(classes: Tensor, rng: np.random.Generator) -> tuple[slice, slice, slice]:
    """Box of at most 128 mm around the basal ganglia; everything where the view has none."""
    deep = torch.argwhere(torch.isin(classes, classes.new_tensor(_DEEP_CLASSES)))
    if not len(deep):
        return slice(None), slice(None), slice(None)
    middle = deep.double().mean(dim=0).cpu().numpy()
    middle = middle + rng.uniform(-1, 1, 3) * _DEEP_SHIFT_VOXELS
    first = np.clip(np.rint(middle) - SMALLEST_VOXELS // 2, 0, None).astype(int)
    i, j, k = (slice(int(n), int(n) + SMALLEST_VOXELS) for n in first)
    return i, j, k


def _contrasts(
    head: Head,
    codes: Tensor,
    present: Present,
    *,
    rng: np.random.Generator,
    sampling: AnatomySampling,
) -> Tensor:
    brain = head.brain[codes]
    if not bool(brain.any()):
        brain = torch.ones_like(brain)
    scene = _Scene(
        codes=codes,
        labels=head.labels,
        brain=brain,
        values=_sample_values(rng),
        veins=_veins(brain, rng),
    )
    random_grey = rng.random(2) < sampling.random_contrast_share
    t2w = _t2w(scene, rng, random_grey=bool(random_grey[0])) if present[0] else None
    swi = _swi(scene, rng, random_grey=bool(random_grey[1])) if present[1] else None
    if rng.random() < sampling.skull_stripped_share:
        mask = imperfect_mask(brain, rng, low=0.15, high=0.7)
        t2w, swi = (image if image is None else image * mask for image in (t2w, swi))
    chi = None
    if present[2]:
        chi = _chimap(scene, imperfect_mask(brain, rng, low=0.3, high=0.95), rng)
    if t2w is not None and sum(present) > 1 and rng.random() < 0.1:
        t2w = _cut_end(t2w, rng)
    return cast(Tensor, scale_anatomy_inputs(t2w, swi, chi))


def _sample_values(rng: np.random.Generator) -> TissueValues:
    b0_t = float(rng.choice((1.5, 3.0, 7.0), p=(0.3, 0.6, 0.1)))
    return sample_tissue_values(rng, b0_t=b0_t, age_years=float(rng.uniform(20, 90)))


def sample_subset(rng: np.random.Generator, sampling: AnatomySampling) -> Present:
    """Draw which contrasts a sample has."""
    shares = np.array([share for _, share in sampling.subsets])
    names, _ = sampling.subsets[rng.choice(len(shares), p=shares / shares.sum())]
    given = names.split("+")
    return "T2w" in given, "swi" in given, "Chimap" in given


def _cut_end(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Leave out up to a third of the slices at one end: a scan that covers less."""
    n_slices = image.shape[2]
    lost = int(rng.uniform(0, 0.33) * n_slices)
    kept = torch.ones(n_slices, device=image.device)
    kept[slice(0, lost) if rng.random() < 0.5 else slice(n_slices - lost, None)] = 0
    return image * kept


def padded_sample(
    inputs: Tensor, classes: Tensor, *, right: Tensor, paired: Tensor
) -> AnatomySample:
    """Pad at the far ends as inference does; presence planes stay constant everywhere."""
    i, j, k = classes.shape
    missing = [max(n, SMALLEST_VOXELS) for n in padded_shape((i, j, k))]
    missing = [full - n for full, n in zip(missing, (i, j, k), strict=True)]
    ends = [0, missing[2], 0, missing[1], 0, missing[0]]  # torch names the last axis first
    padded = functional.pad(inputs, ends)
    padded[3:] = inputs[3:, :1, :1, :1]
    return AnatomySample(
        inputs=padded,
        classes=functional.pad(classes, ends, value=OUTSIDE_CLASS),
        right=functional.pad(right, ends),
        paired=functional.pad(paired & (classes != NO_REGION_CLASS), ends),
    )
