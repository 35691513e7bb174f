"""The atlas of regions and nuclei in template space, and its way onto a head.

The atlas is one small file of the package (MNI 2009c, 1 mm).  It is brought onto a head with
label maps alone, no intensities: both sides are turned into the same smooth class maps (white
matter, ventricles, thalamus, ... and left against right), a closed-form affine brings their
landmarks together, and symmetric demons do the rest.  Arrays are indexed (I, J, K), RAS+.

    head labels ──class_maps──▶ fit_warp ──▶ Warp ──carry──▶ atlas map on the head's grid
"""

from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from deepmir.errors import InputError
from deepmir.geometry import Affine, Grid, voxel_to_world
from deepmir.volume import BoolMap, FloatMap

LabelMap = npt.NDArray[np.uint16]
"""(I, J, K) FreeSurfer numbers, with the nuclei of `Nucleus` added."""
RegionMap = npt.NDArray[np.uint8]
"""(I, J, K) region numbers of `deepmir.labels`, 0 = none."""
Number = TypeVar("Number", bound=np.unsignedinteger)
Points = npt.NDArray[np.float64]
"""(n, 3) positions."""

NIGRA_LEFT, NIGRA_RIGHT = 1001, 1002
RED_NUCLEUS_LEFT, RED_NUCLEUS_RIGHT = 1003, 1004
DENTATE_LEFT, DENTATE_RIGHT = 1005, 1006
NUCLEI = (1001, 1002, 1003, 1004, 1005, 1006)
"""Nuclei that FreeSurfer has no number for; stored in the atlas file as 91 to 96."""
STORED_NUCLEI = tuple(range(91, 97))

_CLASSES: tuple[tuple[int, ...], ...] = (
    (2, 41, 25, 57),  # cerebral white matter and its lesions
    (3, 42),  # cortex
    (4, 43, 5, 44),  # lateral ventricles
    (10, 49),  # thalamus
    (11, 50, 26, 58),  # caudate, accumbens
    (12, 51),  # putamen
    (13, 52),  # pallidum
    (17, 18, 53, 54),  # hippocampus, amygdala
    (16, 28, 60, *NUCLEI[:4]),  # brain stem, ventral diencephalon, nigra, red nucleus
    (7, 46, *NUCLEI[4:]),  # cerebellar white matter, dentate
    (8, 47),  # cerebellar cortex
)
_LEFT = (2, 3, 4, 10, 11, 12, 13, 17, 18, 25, 26)
_RIGHT = (41, 42, 43, 49, 50, 51, 52, 53, 54, 57, 58)
# Small structures weigh more: they are what the deep regions are told by, and have few voxels.
# The folds of the cortex differ from head to head, so matching them is not forced.
_WEIGHTS = (0.6, 0.3, 2.0, 3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 1.0, 0.5, 1.0, 1.0)
_STEP = 2  # mm: the grid on which the warp is found
_LEVELS = ((2, 40, 1.5), (1, 12, 1.2))  # shrink factor, iterations, smoothing of the field


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """Template space as two label maps on one grid."""

    labels: LabelMap  # (I, J, K) FreeSurfer numbers and nuclei 1001 to 1006
    regions: RegionMap  # (I, J, K) region numbers
    affine: Affine  # to MNI 2009c mm


@dataclass(frozen=True, slots=True, eq=False)
class ClassMaps:
    """Smooth maps of what a head is made of, on a 2 mm grid around its brain."""

    maps: FloatMap  # (C, I, J, K): 0 to 1; the one before last is the brain, the last left - right
    affine: Affine


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """Way from positions in a head (mm) to positions in the atlas (mm)."""

    affine: Affine  # (4, 4): head mm to atlas mm, after the displacement
    displacement_mm: FloatMap  # (3, I, J, K) head mm
    grid: Affine  # of `displacement_mm`, to head mm


def load_atlas() -> Atlas:
    """Read the atlas that comes with the package.

    Raises
    ------
    InputError
        If the file is missing or is not what was installed.
    """
    try:
        with as_file(files("deepmir.simulation") / "data" / "atlas.nii.gz") as path:
            image = nib.load(path)
            stored = np.asanyarray(image.dataobj)
    except (OSError, ImageFileError) as error:
        raise InputError(
            f"the package's own atlas data/atlas.nii.gz cannot be read ({error}); "
            "install deepmir again"
        ) from error
    if stored.ndim != 4 or stored.shape[3] != 2 or stored.dtype != np.uint8:
        raise InputError(
            f"the package's own atlas is {stored.dtype} {stored.shape}, wanted uint8 (I, J, K, 2); "
            "install deepmir again"
        )
    labels = np.arange(256, dtype=np.uint16)
    labels[list(STORED_NUCLEI)] = NUCLEI
    return Atlas(labels[stored[..., 0]], stored[..., 1].copy(), np.asarray(image.affine, float))


def class_maps(labels: LabelMap, affine: Affine) -> ClassMaps:
    """Turn FreeSurfer numbers at 1 mm into the maps that a warp is fitted to.

    Raises
    ------
    InputError
        If the labels hold no brain at all.
    """
    which = np.zeros(int(labels.max(initial=0)) + 2048, dtype=np.uint8)
    for number, members in enumerate(_CLASSES, start=1):
        which[list(members)] = number
    box = padded_box(which[labels] > 0, margin=10)
    small = labels[box]
    classes = which[small]
    maps = [_halve(classes == number) for number in range(1, len(_CLASSES) + 1)]
    maps.append(_halve(classes > 0))
    maps.append(_halve(np.isin(small, _LEFT)) - _halve(np.isin(small, _RIGHT)))
    start = np.array([axis.start for axis in box], dtype=float)
    grid = affine @ np.diag([_STEP, _STEP, _STEP, 1.0])
    grid[:3, 3] = voxel_to_world(start[None] + (_STEP - 1) / 2, affine)[0]
    return ClassMaps(np.stack(maps), grid)


def fit_warp(head: ClassMaps, atlas: ClassMaps) -> Warp:
    """Find the way from a head to the atlas: affine by landmarks, then symmetric demons.

    Deterministic.  Thirion 1998, doi:10.1016/S1361-8415(98)80022-4; the forces of all maps are
    added, as in multi-channel demons (Peyrat 2010, doi:10.1109/TMI.2009.2038909).
    """
    affine = _landmark_affine(head, atlas)
    to_atlas = np.linalg.inv(atlas.affine) @ affine @ head.affine
    moved = np.stack(
        [
            ndimage.affine_transform(m, to_atlas, output_shape=head.maps.shape[1:], order=1)
            for m in atlas.maps
        ]
    )
    displacement = np.zeros((3, *head.maps.shape[1:]), dtype=np.float32)
    for shrink, n_iterations, sigma in _LEVELS:
        fixed, moving = _shrink(head.maps, shrink), _shrink(moved, shrink)
        field = _resize(displacement, fixed.shape[1:]) / np.float32(shrink)
        field = _demons(fixed, moving, field, n_iterations=n_iterations, sigma=sigma)
        displacement = _resize(field, head.maps.shape[1:]) * np.float32(shrink)
    in_mm = np.einsum("ab,bijk->aijk", head.affine[:3, :3], displacement)
    return Warp(affine, in_mm.astype(np.float32), head.affine)


def carry(
    values: npt.NDArray[Number], values_affine: Affine, warp: Warp, target: Grid
) -> npt.NDArray[Number]:
    """Carry an atlas map onto a grid in the head (nearest neighbour); 0 beyond the atlas."""
    onto, shape = target.affine, target.shape
    to_field = np.linalg.inv(warp.grid) @ onto
    moved_by = [
        ndimage.affine_transform(d, to_field, output_shape=shape, order=1, mode="nearest")
        for d in warp.displacement_mm
    ]
    to_values = np.linalg.inv(values_affine) @ warp.affine
    ijk = np.indices(shape, dtype=np.float32, sparse=True)
    whole = to_values @ onto
    coordinates = np.empty((3, *shape), dtype=np.float32)
    for axis in range(3):
        coordinates[axis] = whole[axis, 3] + sum(
            np.float32(whole[axis, n]) * ijk[n] + np.float32(to_values[axis, n]) * moved_by[n]
            for n in range(3)
        )
    found = ndimage.map_coordinates(values, coordinates, order=0, mode="constant")
    return np.asarray(found, dtype=values.dtype)


def padded_box(mask: BoolMap, *, margin: int) -> tuple[slice, slice, slice]:
    """Bounding box of a mask, grown by `margin` voxels where the array reaches that far."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        raise InputError(
            "the label map holds no brain; wanted FreeSurfer numbers such as 2, 3, 41 and 42"
        )
    i, j, k = (
        slice(max(axis.start - margin, 0), min(axis.stop + margin, size))
        for axis, size in zip(boxes[0], mask.shape, strict=True)
    )
    return i, j, k


def _halve(mask: BoolMap) -> FloatMap:
    """Share of a mask in blocks of 2 x 2 x 2 voxels, slightly smoothed; odd ends are padded."""
    padded = np.pad(mask, [(0, size % _STEP) for size in mask.shape]).astype(np.float32)
    i, j, k = (size // _STEP for size in padded.shape)
    means = padded.reshape(i, _STEP, j, _STEP, k, _STEP).mean(axis=(1, 3, 5))
    return np.asarray(ndimage.gaussian_filter(means, 0.7), dtype=np.float32)


def _landmarks(maps: ClassMaps) -> Points:
    """Centroids of the structures by side, and of the slabs at the brain's six ends, in mm."""
    side = maps.maps[-1]
    weights = [maps.maps[c] * (side > 0) for c in (0, 1, 2, 3, 4, 5, 6, 7)]
    weights += [maps.maps[c] * (side < 0) for c in (0, 1, 2, 3, 4, 5, 6, 7)]
    weights += [maps.maps[8], maps.maps[9] + maps.maps[10]]
    weights += _end_slabs(maps.maps[0] + maps.maps[1])
    weights += _end_slabs(maps.maps[9] + maps.maps[10])
    return voxel_to_world(np.array([_centroid(w) for w in weights]), maps.affine)


def _centroid(weight: FloatMap) -> list[float]:
    total = float(weight.sum())
    if total == 0:
        return [np.nan] * 3
    return [
        float(weight.sum(axis=tuple({0, 1, 2} - {axis})) @ np.arange(size)) / total
        for axis, size in enumerate(weight.shape)
    ]


def _end_slabs(weight: FloatMap, share: float = 0.06) -> list[FloatMap]:
    """Parts of a map that hold its first and last `share` along each axis."""
    slabs = []
    for axis in range(3):
        profile = weight.sum(axis=tuple({0, 1, 2} - {axis}))
        position = np.cumsum(profile) / max(float(profile.sum()), 1e-6)
        shape = [-1 if n == axis else 1 for n in range(3)]
        slabs += [weight * (position <= share).reshape(shape)]
        slabs += [weight * (position >= 1 - share).reshape(shape)]
    return slabs


def _landmark_affine(head: ClassMaps, atlas: ClassMaps) -> Affine:
    """Least-squares affine from head mm to atlas mm over the landmarks that both have."""
    source, target = _landmarks(head), _landmarks(atlas)
    both = np.isfinite(source).all(axis=1) & np.isfinite(target).all(axis=1)
    if both.sum() < 8:
        raise InputError(
            f"only {int(both.sum())} structures of the brain were found, wanted at least 8; "
            "is this a label map with FreeSurfer numbers?"
        )
    homogeneous = np.c_[source[both], np.ones(int(both.sum()))]
    solution, *_ = np.linalg.lstsq(homogeneous, target[both], rcond=None)
    return np.vstack([solution.T, [0, 0, 0, 1]])


def _shrink(maps: FloatMap, factor: int) -> FloatMap:
    if factor == 1:
        return maps
    smooth = ndimage.gaussian_filter(maps, (0, *[0.6 * factor] * 3))
    return np.asarray(smooth[:, ::factor, ::factor, ::factor], dtype=np.float32)


def _resize(field: FloatMap, shape: tuple[int, ...]) -> FloatMap:
    """Resize a displacement field whose first voxels coincide."""
    if field.shape[1:] == shape:
        return field
    factor = 2 if shape[0] > field.shape[1] else 0.5
    step = np.full(3, 1 / factor)
    return np.stack(
        [
            ndimage.affine_transform(f, step, output_shape=shape, order=1, mode="nearest")
            for f in field
        ]
    )


def _demons(
    fixed: FloatMap, moving: FloatMap, field: FloatMap, *, n_iterations: int, sigma: float
) -> FloatMap:
    """Displacement in voxels that brings `moving` (C, I, J, K) onto `fixed`."""
    weights = np.array(_WEIGHTS, dtype=np.float32)[:, None, None, None]
    scaled = np.sqrt(weights)
    fixed, moving = fixed * scaled, moving * scaled
    slope = np.stack([np.gradient(fixed, axis=axis) for axis in (1, 2, 3)])
    moving_image = sitk.GetImageFromArray(np.moveaxis(moving, 0, -1), isVector=True)
    for _ in range(n_iterations):
        warped = _warp(moving_image, field)
        step = _force(fixed - warped, slope, warped)
        step = ndimage.gaussian_filter(step, (0, *[1.0] * 3))
        moved = _warp(_as_image(field), step)
        field = ndimage.gaussian_filter(step + moved, (0, *[sigma / 2] * 3))
    return field


def _force(difference: FloatMap, fixed_slope: FloatMap, warped: FloatMap) -> FloatMap:
    """Update of symmetric demons, at most one voxel, summed over the maps."""
    top = np.zeros(fixed_slope.shape[:1] + fixed_slope.shape[2:], dtype=np.float32)
    below = np.full(difference.shape[1:], 1e-3, dtype=np.float32)
    for axis in range(3):
        slope = 0.5 * (fixed_slope[axis] + np.gradient(warped, axis=axis + 1))
        top[axis] = (difference * slope).sum(axis=0)
        below += (slope**2).sum(axis=0)
    below += 0.25 * (difference**2).sum(axis=0)
    return np.asarray(np.clip(top / below, -1, 1), dtype=np.float32)


def _as_image(field: FloatMap) -> sitk.Image:
    return sitk.GetImageFromArray(np.moveaxis(field, 0, -1), isVector=True)


def _warp(image: sitk.Image, field: FloatMap) -> FloatMap:
    """Values of a vector image at every voxel plus its displacement in voxels; edge held."""
    # SimpleITK counts axes the other way round, so components are reversed too.
    vectors = np.moveaxis(field[::-1], 0, -1).astype(np.float64)
    transform = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(vectors, isVector=True))
    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(image)
    resample.SetTransform(transform)
    resample.UseNearestNeighborExtrapolatorOn()
    moved = sitk.GetArrayFromImage(resample.Execute(image))
    return np.moveaxis(np.asarray(moved, dtype=np.float32), -1, 0)
