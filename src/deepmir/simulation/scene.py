"""A person in the scanner: one head, varied and posed, with its veins and deposits.

Everything lies on a 1 mm grid whose axes are the scan's, so that going to the scan's own finer
grid is one linear interpolation per axis.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepmir.geometry import Affine
from deepmir.labels import LEFT_OFFSET, RIGHT_OFFSET
from deepmir.simulation.ageing import (
    Ageing,
    displaced,
    perivascular_spaces,
    sample_ageing,
    ventricle_displacement,
    white_matter_lesions,
)
from deepmir.simulation.anatomy import Anatomy
from deepmir.simulation.lesions import Counts, Deposit, sample_deposits
from deepmir.simulation.protocol import Protocol
from deepmir.simulation.vessels import (
    ARTERY,
    Vessel,
    VesselParameters,
    grow_arteries,
    grow_veins,
    sample_parameters,
)
from deepmir.volume import BoolMap, FloatMap, IntMap

MARGIN_MM = 8
COARSE_MM = 2
_COARSE_MARGIN_MM = 40
_NECK_MM = 24  # further down than the margin
_NECK_ABOVE_MM, _NECK_SHARE = 30, 0.8
"""The neck goes on from the lowest slice that has this share of the area of the one so far above
it: a tilted head ends in a corner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """How this person's head differs from the label map it comes from."""

    rotation_deg: tuple[float, float, float]
    scale: tuple[float, float, float]
    elastic_mm: float  # standard deviation of the smooth displacement
    mirrored: bool
    age_years: float
    seed: int
    ageing: Ageing = field(default_factory=Ageing)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The true person, on a 1 mm grid along the scan's axes."""

    labels: IntMap  # (I, J, K) FreeSurfer-style numbers
    regions: IntMap  # (I, J, K) numbers of deepmir.labels
    brain: BoolMap
    affine: Affine  # of the 1 mm grid, scanner mm
    coarse_labels: IntMap  # whole head at 2 mm, for the background field
    coarse_brain: BoolMap
    coarse_origin_mm: tuple[float, float, float]  # its voxel (0,0,0) in the 1 mm grid's frame
    vessels: VesselParameters
    veins: list[Vessel]
    arteries: list[Vessel]
    deposits: list[Deposit]
    spaces: list[Vessel]  # perivascular, filled with CSF
    variation: Variation


def sample_variation(
    rng: np.random.Generator, *, age_years: float | None = None, signs_of_age: bool = False
) -> Variation:
    """Draw pose, size, smooth deformation, age unless it is given, and how old the brain looks."""
    pitch, roll, yaw = (float(x) for x in rng.normal(0, [6, 3, 3]))
    x, y, z = (float(s) for s in rng.uniform(0.92, 1.08) * rng.uniform(0.97, 1.03, 3))
    drawn = Variation(
        rotation_deg=(pitch, roll, yaw),
        scale=(x, y, z),
        elastic_mm=float(rng.uniform(0.5, 2.5)),
        mirrored=bool(rng.random() < 0.5),
        age_years=float(rng.uniform(45, 90)),
        seed=int(rng.integers(2**31)),
    )
    if age_years is not None:
        drawn = replace(drawn, age_years=age_years)
    if not signs_of_age:
        return drawn
    return replace(drawn, ageing=sample_ageing(drawn.age_years, rng))


def build_scene(
    anatomy: Anatomy,
    protocol: Protocol,
    variation: Variation,
    counts: Counts,
    rng: np.random.Generator,
    *,
    whole_head: bool = False,
) -> Scene:
    """Pose a head, grow its veins, place its deposits.

    The slab ends 8 mm above and below the brain. With `whole_head` it holds scalp and skull in
    plane; otherwise it ends 8 mm outside the brain there too, which is all that the findings
    part sees.
    """
    axes = Rotation.from_euler("xyz", protocol.tilt_deg, degrees=True).as_matrix()
    box = _bounding_box(anatomy.brain, anatomy, variation, axes, MARGIN_MM)
    if whole_head:
        low, high = _bounding_box(anatomy.labels > 0, anatomy, variation, axes, MARGIN_MM)
        low[2], high[2] = box[0][2], box[1][2]
        box = low, high
    labels, regions, brain = _resample(anatomy, variation, axes, box, step_mm=1.0)
    wide = _bounding_box(anatomy.labels > 0, anatomy, variation, axes, _COARSE_MARGIN_MM)
    wide[0][2] -= _NECK_MM
    coarse, _, coarse_brain = _resample(anatomy, variation, axes, wide, step_mm=COARSE_MM)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, axes @ box[0]
    offset = wide[0] - box[0]
    vessels = sample_parameters(rng)
    veins = grow_veins(labels, brain.astype(bool), vessels, rng)
    deposits = sample_deposits(labels, counts, rng, veins=veins)
    arteries: list[Vessel] = []
    if protocol.detailed_people:
        own = np.random.default_rng([variation.seed, ARTERY])
        arteries = grow_arteries(labels, brain.astype(bool), vessels, own)
    labels, spaces = _aged(labels, variation.ageing, rng)
    return Scene(
        labels=labels,
        regions=regions,
        brain=brain.astype(bool),
        affine=affine,
        coarse_labels=_continue_neck(coarse),
        coarse_brain=coarse_brain.astype(bool),
        coarse_origin_mm=(float(offset[0]), float(offset[1]), float(offset[2])),
        vessels=vessels,
        veins=veins,
        arteries=arteries,
        deposits=deposits,
        spaces=spaces,
        variation=variation,
    )


def _aged(labels: IntMap, ageing: Ageing, rng: np.random.Generator) -> tuple[IntMap, list[Vessel]]:
    """Labels with white-matter lesions, and the perivascular spaces."""
    if ageing.white_lesions_ml > 0:
        labels = white_matter_lesions(labels, ageing.white_lesions_ml, rng)
    if ageing.perivascular_spaces == 0:
        return labels, []
    return labels, perivascular_spaces(labels, ageing.perivascular_spaces, rng)


def _posing_matrix(variation: Variation) -> npt.NDArray[np.float64]:
    """Person to label map: rotation, size, and left for right where mirrored (mm, centred)."""
    rotation = Rotation.from_euler("xyz", variation.rotation_deg, degrees=True).as_matrix()
    mirror = np.diag([-1.0 if variation.mirrored else 1.0, 1.0, 1.0])
    return np.asarray(mirror @ np.diag(1 / np.array(variation.scale)) @ rotation.T)


def _bounding_box(
    where: BoolMap,
    anatomy: Anatomy,
    variation: Variation,
    axes: npt.NDArray[np.float64],
    margin_mm: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """First and last corner, in mm along the scan's axes, of the posed head with a margin."""
    index = np.argwhere(where[::4, ::4, ::4]) * 4.0
    world = index @ anatomy.affine[:3, :3].T + anatomy.affine[:3, 3] - _centre_mm(anatomy)
    posed = world @ np.linalg.inv(_posing_matrix(variation)).T
    along = posed @ axes
    return np.floor(along.min(axis=0) - margin_mm), np.ceil(along.max(axis=0) + margin_mm)


def _centre_mm(anatomy: Anatomy) -> npt.NDArray[np.float64]:
    index = np.argwhere(anatomy.brain[::4, ::4, ::4]).mean(axis=0) * 4.0
    return np.asarray(anatomy.affine[:3, :3] @ index + anatomy.affine[:3, 3])


def _resample(
    anatomy: Anatomy,
    variation: Variation,
    axes: npt.NDArray[np.float64],
    box: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    *,
    step_mm: float,
) -> tuple[IntMap, IntMap, IntMap]:
    """Labels, regions and brain on a grid along the scan's axes; nearest neighbour."""
    shape = tuple(int(n) for n in np.floor((box[1] - box[0]) / step_mm) + 1)
    to_map = np.linalg.inv(anatomy.affine[:3, :3])
    matrix = to_map @ _posing_matrix(variation) @ axes
    start = matrix @ box[0] + to_map @ (_centre_mm(anatomy) - anatomy.affine[:3, 3])
    axis = [np.arange(n, dtype=np.float32) * np.float32(step_mm) for n in shape]
    bend = _displacement_mm(variation, box, shape, step_mm)
    at = np.empty((3, *shape), dtype=np.float32)
    for row in range(3):
        at[row] = (
            np.float32(start[row])
            + np.float32(matrix[row, 0]) * axis[0][:, None, None]
            + np.float32(matrix[row, 1]) * axis[1][None, :, None]
            + np.float32(matrix[row, 2]) * axis[2][None, None, :]
            + bend[row]
        )
    if variation.ageing.ventricle_growth_mm > 0:
        growth = variation.ageing.ventricle_growth_mm
        at = displaced(at, ventricle_displacement(anatomy.labels, growth))
    index = np.round(at).astype(np.int32)
    size = np.array(anatomy.labels.shape, dtype=np.int32)[:, None, None, None]
    inside = ((index >= 0) & (index < size)).all(axis=0)
    i, j, k = np.where(inside, index, 0)
    labels = np.where(inside, anatomy.labels[i, j, k], 0)
    regions = np.where(inside, anatomy.regions[i, j, k], 0)
    brain = inside & anatomy.brain[i, j, k]
    if variation.mirrored:
        labels, regions = swap_sides(labels, regions)
    return labels.astype(np.uint16), regions.astype(np.uint8), brain.astype(np.uint8)


def swap_sides(labels: IntMap, regions: IntMap) -> tuple[IntMap, IntMap]:
    """Exchange left and right numbers of a label map and a region map."""
    pairs = (
        (2, 41), (3, 42), (4, 43), (5, 44), (7, 46), (8, 47), (10, 49), (11, 50), (12, 51),
        (13, 52), (17, 53), (18, 54), (25, 57), (26, 58), (28, 60), (30, 62),
        (1001, 1002), (1003, 1004), (1005, 1006),
    )  # fmt: skip
    table = np.arange(int(max(labels.max(), 1006)) + 1, dtype=labels.dtype)
    for one, other in pairs:
        table[one], table[other] = other, one
    right, left = regions >= RIGHT_OFFSET, (regions >= LEFT_OFFSET) & (regions < RIGHT_OFFSET)
    sides = regions.astype(np.int16) + LEFT_OFFSET * left - LEFT_OFFSET * right
    return table[labels], sides.astype(regions.dtype)


def _displacement_mm(
    variation: Variation,
    box: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    shape: tuple[int, ...],
    step_mm: float,
) -> npt.NDArray[np.float32]:
    """Smooth random displacement (3, I, J, K), the same in scanner space on every grid."""
    knots_mm = 32.0
    rng = np.random.default_rng(variation.seed)
    lattice = rng.standard_normal((3, 14, 14, 14), dtype=np.float32) * variation.elastic_mm
    axes = [
        (box[0][axis] + np.arange(n) * step_mm) / knots_mm + 6.5 for axis, n in enumerate(shape)
    ]
    coarse = [np.linspace(a[0], a[-1], max(2, len(a) // 6)) for a in axes]
    grid = np.stack(np.meshgrid(*coarse, indexing="ij"))
    bend = [ndimage.map_coordinates(part, grid, order=3, mode="nearest") for part in lattice]
    return np.stack([upsample_linear(part, shape) for part in bend])


def upsample_linear(image: FloatMap, shape: tuple[int, ...]) -> FloatMap:
    """Stretch an image onto `shape` so that first and last voxels coincide; linear."""
    for axis, n in enumerate(shape):
        at = np.linspace(0, image.shape[axis] - 1, n)
        image = interpolate_axis(image, at, axis)
    return image


def interpolate_axis(image: FloatMap, at: npt.NDArray[np.floating], axis: int) -> FloatMap:
    """Linear interpolation along one axis at fractional indices; the ends are continued."""
    at = np.clip(at, 0, image.shape[axis] - 1)
    low = np.minimum(at.astype(int), max(image.shape[axis] - 2, 0))
    form = [1] * image.ndim
    form[axis] = len(at)
    weight = (at - low).astype(np.float32).reshape(form)
    start = np.take(image, low, axis)
    end = np.take(image, np.minimum(low + 1, image.shape[axis] - 1), axis)
    end -= start
    end *= weight
    end += start
    return np.asarray(end, dtype=np.float32)


def _continue_neck(coarse: IntMap) -> IntMap:
    """Repeat the lowest whole slice of the head downwards where there is nothing.

    Necks do not end where scans do.
    """
    areas = np.count_nonzero(coarse, axis=(0, 1))
    filled = np.flatnonzero(areas)
    if len(filled) == 0:
        return coarse
    above = np.minimum(filled + _NECK_ABOVE_MM // COARSE_MM, filled[-1])
    lowest = int(filled[areas[filled] >= _NECK_SHARE * areas[above]][0])
    extended = coarse.copy()
    below = coarse[:, :, :lowest]
    extended[:, :, :lowest] = np.where(below > 0, below, coarse[:, :, [lowest]])
    return extended
