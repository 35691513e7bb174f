"""Synthetic whole heads at 2 mm for the anatomy part, made on the fly from label maps.

    Head ──sample_view──▶ View ──codes_in_view──▶ codes ──┬─▶ T2w, swi, Chimap ─▶ scaled inputs
                                                          └─▶ classes, side

70 % of the magnitude contrasts follow the signal equations, 30 % give every tissue a random
grey value (SynthSeg, doi:10.1016/j.media.2023.102789). The Chimap is always reconstructed: a
dipole field, then a truncated or regularised inversion inside an imperfect brain mask.
"""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass
from scipy import fft

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
from deepmir.volume import BoolMap, FloatMap

Shape = tuple[int, int, int]
Present = tuple[bool, bool, bool]
CodeMap = npt.NDArray[np.uint16]

AIR_CODE = 0
"""Code of air and of what lies outside a head's array: label 0, no brain."""

SMALLEST_VOXELS = 64
"""Of a sample along each axis: one coarse voxel would leave instance norms without statistics."""

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
    codes: CodeMap  # (I, J, K), 1 mm
    labels: npt.NDArray[np.uint16]  # (n_codes,) anatomical number
    classes: npt.NDArray[np.uint8]  # (n_codes,) class of the anatomy part
    right: BoolMap  # (n_codes,)
    paired: BoolMap  # (n_codes,)
    brain: BoolMap  # (n_codes,)
    centre: npt.NDArray[np.float64]  # (3,) voxel in the middle of the brain
    extent_mm: npt.NDArray[np.float64]  # (3,) size of the brain's box


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

    inputs: FloatMap  # (6, I, J, K)
    classes: npt.NDArray[np.uint8]  # (I, J, K)
    right: BoolMap  # (I, J, K)
    paired: BoolMap  # (I, J, K)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """A view of one head filled with one person's tissue values."""

    labels: npt.NDArray[np.uint16]
    brain: BoolMap
    values: TissueValues
    veins: FloatMap  # share of a voxel that is vein, 0 to 1


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
    codes = (np.cumsum(present) - 1).astype(np.uint16)[keys].reshape(labels.shape)
    table = np.flatnonzero(present)
    code_regions, code_brain = table % 512 // 2, table % 2 == 1
    box = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low, high = np.array([b[0] for b in box]), np.array([b[-1] for b in box])
    return Head(
        name=name,
        codes=codes,
        labels=(table // 512).astype(np.uint16),
        classes=class_of_regions(code_regions, code_brain),
        right=code_regions >= RIGHT_OFFSET,
        paired=np.array([_is_paired(int(number)) for number in code_regions]),
        brain=code_brain,
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
    matrix = _rotation(angles) @ np.diag(1 / scale)
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


def _rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = [a for a in range(3) if a != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def codes_in_view(head: Head, view: View) -> CodeMap:
    """Codes on the view's 2 mm grid, nearest neighbour; air where the head's array ends."""
    axes = [(np.arange(n) - (n - 1) / 2) * SPACING_MM for n in view.shape]
    index = np.zeros(view.shape, dtype=np.int64)
    inside = np.ones(view.shape, dtype=bool)
    for row in range(3):
        steps = [(view.matrix[row, a] * axes[a]).astype(np.float32) for a in range(3)]
        at = steps[0][:, None, None] + steps[1][None, :, None] + steps[2][None, None, :]
        at += np.float32(view.centre[row]) + _spread(view.displacement_mm[row], view.shape)
        nearest = np.rint(at).astype(np.int64)
        length = head.codes.shape[row]
        inside &= (nearest >= 0) & (nearest < length)
        index = index * length + np.clip(nearest, 0, length - 1)
    return np.where(inside, head.codes.reshape(-1)[index], np.uint16(AIR_CODE))


def _spread(control: npt.NDArray[np.float32], shape: Shape) -> FloatMap:
    """Cubic B-spline through a small grid of control values, spread over `shape`."""
    out = control
    for length in shape:  # each pass consumes the first axis and appends the long one
        weights = _spline_weights(length, out.shape[0])
        out = np.tensordot(out, weights, axes=(0, 1))
    return np.ascontiguousarray(out, dtype=np.float32)


def _spline_weights(length: int, n_control: int) -> npt.NDArray[np.float32]:
    """(length, n_control) cubic B-spline weights; rows sum to 1."""
    position = np.linspace(1, n_control - 2, length)[:, None]
    distance = np.abs(position - np.arange(n_control)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance) ** 3 / 6
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def smooth_field(rng: np.random.Generator, shape: Shape, *, n_control: int) -> FloatMap:
    """Smooth random field of about unit size: `n_control` random values along each axis."""
    return _spread(rng.standard_normal((n_control,) * 3, dtype=np.float32) * 1.5, shape)


def blur(image: FloatMap, weight: float, axes: tuple[int, ...] = (0, 1, 2)) -> FloatMap:
    """Average every voxel with its two neighbours along each axis: w, 1 - 2w, w."""
    out = image
    for axis in axes:
        padded = np.concatenate([out.take([0], axis), out, out.take([-1], axis)], axis)
        near = np.moveaxis(padded, axis, 0)
        mixed = (1 - 2 * weight) * near[1:-1] + weight * (near[:-2] + near[2:])
        out = np.moveaxis(mixed, 0, axis)
    return np.ascontiguousarray(out, dtype=np.float32)


# ---- contrasts ----------------------------------------------------------------------------


def _groups() -> npt.NDArray[np.intp]:
    """Tissue group of every label number; unknown labels are soft tissue (507)."""
    kinds = {id(tissue): n for n, tissue in enumerate(TISSUES.values())}
    groups = np.full(max(TISSUES) + 1, kinds[id(TISSUES[507])], dtype=np.intp)
    for label, tissue in TISSUES.items():
        groups[label] = kinds[id(tissue)]
    return groups


_GROUP_OF_LABEL = _groups()


def _lookup(labels: npt.NDArray[np.uint16], per_label: npt.NDArray[np.floating]) -> FloatMap:
    known = np.where(labels < len(per_label), labels, 507)
    return np.asarray(per_label, dtype=np.float32)[known]


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


def _t2w(scene: _Scene, rng: np.random.Generator, *, random_grey: bool) -> FloatMap:
    tr_s, te_s = rng.uniform(2.5, 7), rng.uniform(0.07, 0.13)
    physics = t2w_signal(scene.values, tr_s=tr_s, te_s=te_s)
    per_label = _random_grey(rng) if random_grey else physics / physics.max()
    image = _lookup(scene.labels, per_label)
    return _acquire(image * (1 - 0.5 * rng.random() * scene.veins), rng)


def _swi(scene: _Scene, rng: np.random.Generator, *, random_grey: bool) -> FloatMap:
    te_s, tr_s = rng.uniform(0.01, 0.04), rng.uniform(0.02, 0.055)
    physics = gre_signal(scene.values, tr_s=tr_s, te_s=te_s, flip_deg=rng.uniform(8, 20))
    per_label = _random_grey(rng) if random_grey else physics / physics.max()
    # The phase mask darkens what is paramagnetic beyond what R2* does.
    masked = 1 - rng.uniform(0, 3) * np.clip(scene.values.chi_ppm - 0.03, 0, 0.3)
    masked[0] = 1
    image = _lookup(scene.labels, per_label * np.clip(masked, 0.1, 1))
    image = image * (1 - rng.uniform(0.3, 1.0) * scene.veins)
    return _acquire(image * _dropout(scene.brain, rng), rng)


def _dropout(brain: BoolMap, rng: np.random.Generator) -> FloatMap:
    """Signal left near the sinuses: dark blobs at the underside of the brain."""
    left = np.ones(brain.shape, dtype=np.float32)
    columns = np.argwhere(brain.any(axis=2))
    grid = [np.arange(n, dtype=np.float32) for n in brain.shape]
    for _ in range(int(rng.integers(0, 4))):
        i, j = columns[rng.integers(len(columns))]
        k = int(np.argmax(brain[i, j]))
        width = rng.uniform(2, 6)
        parts = [
            np.exp(-((g - c) ** 2) / (2 * width**2)) for g, c in zip(grid, (i, j, k), strict=True)
        ]
        left -= rng.uniform(0.5, 1.0) * (
            parts[0][:, None, None] * parts[1][None, :, None] * parts[2][None, None, :]
        )
    return np.clip(left, 0, 1)


def _acquire(image: FloatMap, rng: np.random.Generator) -> FloatMap:
    """Texture, point spread, thick slices, receive bias and noise; air keeps its noise."""
    shape: Shape = image.shape
    texture = rng.standard_normal(shape, dtype=np.float32)
    image = blur(image * (1 + 0.04 * texture), rng.uniform(0.12, 0.28))
    if rng.random() < 0.4:
        axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
        image = blur(image, rng.uniform(0.15, 0.33), (axis,))
    image = image * np.exp(rng.uniform(0, 0.35) * smooth_field(rng, shape, n_control=5))
    noise = rng.standard_normal(shape, dtype=np.float32)
    return np.abs(image + np.float32(rng.uniform(0.002, 0.035)) * noise)


def _chimap(scene: _Scene, mask: BoolMap, rng: np.random.Generator) -> FloatMap:
    """Reconstructed χ in ppm, 0 outside `mask`."""
    shape: Shape = mask.shape
    chi = _lookup(scene.labels, scene.values.chi_ppm)
    texture = blur(rng.standard_normal(shape, dtype=np.float32), 0.3)
    if rng.random() < 0.7:
        texture = blur(texture, 0.3)
    texture *= np.float32(rng.uniform(0.005, 0.018) / max(float(texture.std()), 1e-6))
    chi = blur(chi * scene.brain, rng.uniform(0.08, 0.22)) + texture
    chi = np.where(scene.brain, chi + rng.uniform(0.15, 0.4) * scene.veins, 0)
    image = _invert(chi.astype(np.float32), rng)
    image += rng.uniform(0, 0.012) * smooth_field(rng, shape, n_control=6)
    if mask.any() and rng.random() < 0.5:
        image -= image[mask].mean()
    image += np.float32(rng.uniform(-0.03, 0.03))
    return np.where(mask, image, 0).astype(np.float32)


def _invert(chi_ppm: FloatMap, rng: np.random.Generator) -> FloatMap:
    """Dipole field of χ with noise, brought back by a regularised inversion."""
    padded_i, padded_j, padded_k = (fft.next_fast_len(n + 8, real=True) for n in chi_ppm.shape)
    shape: Shape = (padded_i, padded_j, padded_k)
    dipole = _dipole(shape, rng.uniform(-0.4, 0.4, 2))
    noise = rng.standard_normal((2, *dipole.shape), dtype=np.float32)
    spectrum = fft.rfftn(chi_ppm, s=shape, workers=1)
    field = spectrum * dipole + rng.uniform(0.0005, 0.004) * np.sqrt(np.prod(shape) / 2) * (
        noise[0] + 1j * noise[1]
    )
    if rng.random() < 0.5:
        threshold = rng.uniform(0.1, 0.25)
        inverse = 1 / np.where(
            np.abs(dipole) < threshold, np.where(dipole < 0, -1, 1) * threshold, dipole
        )
    else:
        inverse = dipole / (dipole**2 + rng.uniform(0.005, 0.03))
    image = fft.irfftn((field * inverse).astype(np.complex64), s=shape, workers=1)
    i, j, k = chi_ppm.shape
    return np.asarray(image[:i, :j, :k], dtype=np.float32)


def _dipole(shape: Shape, tilt: npt.NDArray[np.float64]) -> FloatMap:
    """Return the unit dipole kernel 1/3 - (k·b)²/k² for a main field tilted away from K."""
    ki, kj = (np.fft.fftfreq(n).astype(np.float32) for n in shape[:2])
    kk = np.fft.rfftfreq(shape[2]).astype(np.float32)
    b = np.array([tilt[0], tilt[1], 1.0]) / np.sqrt(1 + (tilt**2).sum())
    i, j, k = ki[:, None, None], kj[None, :, None], kk[None, None, :]
    along = np.float32(b[0]) * i + np.float32(b[1]) * j + np.float32(b[2]) * k
    square = i * i + j * j + k * k
    square[0, 0, 0] = 1
    dipole = np.float32(1 / 3) - along * along / square
    dipole[0, 0, 0] = 0
    return np.asarray(dipole, dtype=np.float32)


def _veins(brain: BoolMap, rng: np.random.Generator) -> FloatMap:
    """Share of vein per voxel: some dozens of curved lines and a few round dots."""
    n_lines, n_steps = int(rng.integers(10, 60)), 36
    seeds = np.argwhere(brain[::2, ::2, ::2]) * 2
    start = seeds[rng.integers(len(seeds), size=n_lines)][:, None].astype(np.float64)
    heading = rng.normal(size=(n_lines, 1, 3)) + 0.25 * np.cumsum(
        rng.normal(size=(n_lines, n_steps, 3)), axis=1
    )
    heading /= np.linalg.norm(heading, axis=2, keepdims=True) + 1e-6
    path = start + np.cumsum(heading, axis=1)
    length = rng.integers(1, n_steps, size=(n_lines, 1))
    kept = np.arange(n_steps)[None] < length
    strength = np.broadcast_to(rng.uniform(0.15, 0.9, (n_lines, 1)), kept.shape)
    at = np.rint(path[kept]).astype(int)
    inside = ((at >= 0) & (at < brain.shape)).all(axis=1)
    veins = np.zeros(brain.shape, dtype=np.float32)
    veins[tuple(at[inside].T)] = strength[kept][inside]
    return veins * brain


def _imperfect_mask(
    brain: BoolMap, rng: np.random.Generator, *, low: float, high: float
) -> BoolMap:
    """Brain mask that eats in or stands off by a few mm, unevenly."""
    shape: Shape = brain.shape
    soft = brain.astype(np.float32)
    for _ in range(3):
        soft = blur(soft, 0.3)
    edge = rng.uniform(low, high) + 0.12 * smooth_field(rng, shape, n_control=10)
    return np.asarray(soft > np.clip(edge, 0.02, 0.98))


# ---- one sample ------------------------------------------------------------------------------


def make_sample(head: Head, rng: np.random.Generator, sampling: AnatomySampling) -> AnatomySample:
    """Make one training sample of a head: inputs and targets, padded to multiples of 32."""
    view = sample_view(head, rng, sampling)
    codes = codes_in_view(head, view)
    present = _sample_subset(rng, sampling)
    inputs = _contrasts(head, codes, present, rng=rng, sampling=sampling)
    if rng.random() < sampling.deep_share:
        box = _deep_box(head.classes[codes], rng)
        codes, inputs = codes[box], inputs[(slice(None), *box)]
    paired = head.paired[codes]
    right = head.right[codes] != view.mirrored
    return _pad(inputs, head.classes[codes], right=right, paired=paired)


def _deep_box(
    classes: npt.NDArray[np.uint8], rng: np.random.Generator
) -> tuple[slice, slice, slice]:
    """Box of at most 128 mm around the basal ganglia; everything where the view has none."""
    deep = np.argwhere(np.isin(classes, _DEEP_CLASSES))
    if not len(deep):
        return slice(None), slice(None), slice(None)
    middle = deep.mean(axis=0) + rng.uniform(-1, 1, 3) * _DEEP_SHIFT_VOXELS
    first = np.clip(np.rint(middle) - SMALLEST_VOXELS // 2, 0, None).astype(int)
    i, j, k = (slice(int(n), int(n) + SMALLEST_VOXELS) for n in first)
    return i, j, k


def _contrasts(
    head: Head,
    codes: CodeMap,
    present: Present,
    *,
    rng: np.random.Generator,
    sampling: AnatomySampling,
) -> FloatMap:
    brain = head.brain[codes]
    if not brain.any():
        brain = np.ones_like(brain)
    scene = _Scene(
        labels=head.labels[codes],
        brain=brain,
        values=_sample_values(rng),
        veins=_veins(brain, rng),
    )
    random_grey = rng.random(2) < sampling.random_contrast_share
    t2w = _t2w(scene, rng, random_grey=bool(random_grey[0])) if present[0] else None
    swi = _swi(scene, rng, random_grey=bool(random_grey[1])) if present[1] else None
    if rng.random() < sampling.skull_stripped_share:
        mask = _imperfect_mask(brain, rng, low=0.15, high=0.7)
        t2w, swi = (image if image is None else image * mask for image in (t2w, swi))
    chi = None
    if present[2]:
        chi = _chimap(scene, _imperfect_mask(brain, rng, low=0.3, high=0.95), rng)
    if t2w is not None and sum(present) > 1 and rng.random() < 0.1:
        t2w = _cut_end(t2w, rng)
    return scale_anatomy_inputs(t2w, swi, chi)


def _sample_values(rng: np.random.Generator) -> TissueValues:
    b0_t = float(rng.choice((1.5, 3.0, 7.0), p=(0.3, 0.6, 0.1)))
    return sample_tissue_values(rng, b0_t=b0_t, age_years=float(rng.uniform(20, 90)))


def _sample_subset(rng: np.random.Generator, sampling: AnatomySampling) -> Present:
    shares = np.array([share for _, share in sampling.subsets])
    names, _ = sampling.subsets[rng.choice(len(shares), p=shares / shares.sum())]
    given = names.split("+")
    return "T2w" in given, "swi" in given, "Chimap" in given


def _cut_end(image: FloatMap, rng: np.random.Generator) -> FloatMap:
    """Leave out up to a third of the slices at one end: a scan that covers less."""
    lost = int(rng.uniform(0, 0.33) * image.shape[2])
    kept = np.ones(image.shape[2], dtype=np.float32)
    kept[slice(0, lost) if rng.random() < 0.5 else slice(image.shape[2] - lost, None)] = 0
    return image * kept


def _pad(
    inputs: FloatMap, classes: npt.NDArray[np.uint8], *, right: BoolMap, paired: BoolMap
) -> AnatomySample:
    """Pad at the far ends as inference does; presence planes stay constant everywhere."""
    i, j, k = classes.shape
    wanted = padded_shape((i, j, k))
    i, j, k = (max(n, SMALLEST_VOXELS) for n in wanted)
    wanted = (i, j, k)
    ends = [(0, full - n) for full, n in zip(wanted, classes.shape, strict=True)]
    padded = np.pad(inputs, [(0, 0), *ends])
    padded[3:] = inputs[3:, :1, :1, :1]
    return AnatomySample(
        inputs=padded,
        classes=np.pad(classes, ends, constant_values=OUTSIDE_CLASS),
        right=np.pad(right, ends),
        paired=np.pad(paired & (classes != NO_REGION_CLASS), ends),
    )
