"""The anatomy part, run once over the whole head at 2 mm: brain, regions, side.

Its probabilities, not its labels, are interpolated onto the reference grid, a few slices at
a time: eighteen classes of a whole scan at full resolution would take gigabytes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.errors import InputError
from deepmir.geometry import Grid
from deepmir.labels import BASAL_GANGLIA_BASES, REGIONS
from deepmir.model.anatomy_input import (
    NO_REGION_CLASS,
    OUTSIDE_CLASS,
    SPACING_MM,
    padded_shape,
    regions_of_classes,
    scale_anatomy_inputs,
)
from deepmir.model.predict import Network, bounding_box, sigmoid, softmax
from deepmir.preprocessing.resample import (
    along_axis,
    interpolate_axis,
    regrid,
    resample_mean,
    upsample,
)
from deepmir.volume import BoolMap, FloatMap, Scans, Volume

MIN_BRAIN_ML = 5.0
"""Less brain than this in a scan means that the network did not find it."""
BRAIN_FROM = 0.7
"""Probability from which a voxel is brain: at 0.5 masks are 3 % too large (docs/decisions.md)."""
_SLICES_AT_A_TIME = 4
_CORNERS_TOO = np.ones((3, 3, 3), dtype=bool)  # 26 neighbours
_BASAL_GANGLIA_CLASSES = [
    index for index, region in enumerate(REGIONS, start=1) if region.base in BASAL_GANGLIA_BASES
]


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """What the anatomy part tells, on the reference grid."""

    brain_mask: BoolMap  # (I, J, K)
    brain_probability: FloatMap  # (I, J, K)
    basal_ganglia_probability: FloatMap  # (I, J, K), nuclei included
    regions: npt.NDArray[np.uint8]  # (I, J, K), region numbers, 0 outside the brain and in CSF
    coarse: "CoarseAnatomy"


@dataclass(frozen=True, slots=True, eq=False)
class CoarseAnatomy:
    """Probabilities at 2 mm, cropped to the reference's field of view."""

    classes: FloatMap  # (18, I, J, K)
    right: FloatMap  # (I, J, K)


def find_anatomy(aligned: Scans, network: Network, *, brain_mask: BoolMap | None = None) -> Anatomy:
    """Find brain and regions on scans that lie on one grid.

    Parameters
    ----------
    aligned
        Scans on the reference grid, unscaled, χ in ppm.
    network
        The anatomy part.
    brain_mask : (I, J, K) bool array
        A user's mask, which replaces the network's.

    Raises
    ------
    InputError
        If no brain is found.
    """
    grid = aligned.reference.grid
    coarse = predict_coarse(aligned, network)
    if brain_mask is None:
        coarse = _one_brain(coarse, aligned.reference)
    return _on_reference_grid(coarse, grid, brain_mask)


def predict_coarse(aligned: Scans, network: Network) -> CoarseAnatomy:
    """Run the anatomy part on scans of one grid, resampled to 2 mm along its axes.

    The network sees the head twice, as it is and mirrored along I; the mean counts.
    """
    coarse_grid = regrid(aligned.reference.grid, (SPACING_MM,) * 3)
    t2w, swi, chi = (
        _coarse(scan, coarse_grid) for scan in (aligned.t2w, aligned.swi, aligned.chimap)
    )
    inputs = scale_anatomy_inputs(t2w, swi, chi)
    classes, right = classes_and_side(inputs, network)
    mirrored, left = classes_and_side(inputs[:, ::-1], network)
    half = np.float32(0.5)
    return CoarseAnatomy(half * (classes + mirrored[:, ::-1]), half * (right - left[::-1]) + half)


def classes_and_side(inputs: FloatMap, network: Network) -> tuple[FloatMap, FloatMap]:
    """Probabilities (18, I, J, K) of the classes and (I, J, K) of the right side.

    The far ends are padded with zeros to multiples of 32 voxels for the network.
    """
    i, j, k = inputs.shape[1:]
    padding = [(0, n - have) for n, have in zip(padded_shape((i, j, k)), (i, j, k), strict=True)]
    # the presence planes are constant everywhere, padding included
    padded = np.concatenate(
        [np.pad(inputs[:3], [(0, 0), *padding]), np.pad(inputs[3:], [(0, 0), *padding], "edge")]
    )
    logits = network(padded[np.newaxis])[0][:, :i, :j, :k]
    return softmax(logits[: NO_REGION_CLASS + 1]), sigmoid(logits[-1])


def largest_component_filled(mask: BoolMap) -> BoolMap:
    """Keep the largest 26-connected component of a mask and fill its holes."""
    components, n = ndimage.label(mask, structure=_CORNERS_TOO)
    if n == 0:
        return np.zeros_like(mask)
    largest = int(np.argmax(np.bincount(components.ravel())[1:])) + 1
    return np.asarray(ndimage.binary_fill_holes(components == largest), dtype=bool)


def _coarse(scan: Volume | None, grid: Grid) -> FloatMap | None:
    if scan is None:
        return None
    return resample_mean(scan.data.astype(np.float32, copy=False), scan.affine, grid)


def _one_brain(coarse: CoarseAnatomy, reference: Volume) -> CoarseAnatomy:
    """Leave one brain without holes: its largest piece, everything else is outside."""
    seen = coarse.classes[OUTSIDE_CLASS] <= 1 - BRAIN_FROM
    brain = largest_component_filled(seen)
    volume_ml = float(brain.sum()) * SPACING_MM**3 / 1000
    if volume_ml < MIN_BRAIN_ML:
        name = reference.name or f"the {reference.modality} scan"
        raise InputError(
            f"found {volume_ml:.0f} ml of brain in {name}, wanted at least {MIN_BRAIN_ML:.0f}; "
            "check that it is a scan of a head and that its voxel size is right, or pass a "
            "--brain-mask"
        )
    classes = coarse.classes.copy()
    # one voxel more than the brain keeps the slope that places its edge between voxels
    near = ndimage.binary_dilation(brain, structure=_CORNERS_TOO)
    classes[:, ~near] = 0
    classes[OUTSIDE_CLASS, ~near] = 1
    # a hole, as a large bleed leaves it, belongs to the region around it
    known = brain & seen
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    holes = brain & ~seen
    i, j, k = nearest[:, holes]
    classes[:, holes] = classes[:, i, j, k]
    return CoarseAnatomy(classes, coarse.right)


def _on_reference_grid(coarse: CoarseAnatomy, grid: Grid, brain_mask: BoolMap | None) -> Anatomy:
    i, j, k = (step / SPACING_MM for step in grid.spacing_mm)
    ratio = (i, j, k)
    brain_probability = 1 - upsample(coarse.classes[OUTSIDE_CLASS], grid.shape, ratio)
    mask = brain_probability >= BRAIN_FROM
    if brain_mask is not None:
        mask, brain_probability = brain_mask, brain_mask.astype(np.float32)
    basal_ganglia = upsample(coarse.classes[_BASAL_GANGLIA_CLASSES].sum(axis=0), grid.shape, ratio)
    regions = _regions(coarse, mask, ratio)
    return Anatomy(mask, brain_probability, basal_ganglia, regions, coarse)


def _regions(
    coarse: CoarseAnatomy, mask: BoolMap, ratio: tuple[float, float, float]
) -> npt.NDArray[np.uint8]:
    """Likeliest region of each voxel of the mask; what is outside the brain is no choice."""
    regions = np.zeros(mask.shape, dtype=np.uint8)
    if not mask.any():
        return regions
    box = bounding_box(mask)
    # along I and J only what lies inside the box, along K a few slices at a time
    at_i, at_j, at_k = (
        along_axis(n, step)[side] for n, step, side in zip(mask.shape, ratio, box, strict=True)
    )
    stack = np.concatenate([coarse.classes[1:], coarse.right[np.newaxis]])
    for first in range(0, at_k.size, _SLICES_AT_A_TIME):
        slab = interpolate_axis(stack, at_k[first : first + _SLICES_AT_A_TIME], axis=3)
        slab = interpolate_axis(interpolate_axis(slab, at_j, axis=2), at_i, axis=1)
        classes = slab[:-1].argmax(axis=0) + 1
        k = box[2].start + first
        regions[box[0], box[1], k : k + slab.shape[3]] = regions_of_classes(classes, slab[-1] > 0.5)
    regions[~mask] = 0
    return regions
