"""A venous tree: what microbleeds are confused with.

Walkers step through direction fields that the label map gives: along the pial surface to the
dural sinuses (sulcal veins), through the cortex to the nearest sulcal vein (cortical veins),
through white matter to the ventricle wall (medullary veins), along the ventricle wall and around
the brain stem to the vein of Galen (deep and basal veins). Diameters 0.3 to 2.5 mm (Lee 1970;
Okudera 1999).

No vein begins or ends bluntly: it starts as thin as a venule, and where it does not reach what it
drains into, it thins out again. A short blunt piece of vein on its own is a microbleed to any
reader, and no brain has such pieces.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.volume import BoolMap, FloatMap, IntMap

Points = npt.NDArray[np.float32]  # (n, 3) mm in the grid's own frame: index times spacing

STEP_MM = 0.5
_GRAY = (3, 42, 8, 47)
_WHITE = (2, 41)
_VENTRICLES = (4, 43)
_LIQUOR = (*_VENTRICLES, 5, 44, 14, 15, 24)
_SINUS = 514
_SHORTEST_MM = 3.0
_TAPER_MM = 5.0
_THINNEST = 0.3  # radius at a free end, as a share of the vein's


@dataclass(frozen=True, slots=True, kw_only=True)
class VesselParameters:
    """What is drawn once per person: number of walkers per kind, and their properties."""

    sulcal: int = 420
    cortical: int = 1400
    medullary: int = 260
    deep: int = 26
    tortuosity: float = 0.35
    scale: float = 1.0  # of all diameters


@dataclass(frozen=True, slots=True, eq=False)
class Vessel:
    """One vein: its centre line and the radius along it."""

    points_mm: Points  # (n, 3)
    radius_mm: FloatMap  # (n,)


@dataclass(frozen=True, slots=True, eq=False)
class _Guide:
    """How one kind of vein walks: towards a sink, along a surface, both as potentials."""

    sink: FloatMap  # potential that falls towards the sink, mm
    surface: FloatMap | None  # signed distance to the surface to follow, mm
    surface_at_mm: float
    pull: float  # weight of the sink against inertia


def sample_parameters(rng: np.random.Generator) -> VesselParameters:
    """Draw how rich in veins a person is."""
    rich = float(rng.uniform(0.5, 1.5))
    return VesselParameters(
        sulcal=round(420 * rich),
        cortical=round(1400 * rich * rng.uniform(0.5, 1.5)),
        medullary=round(260 * rich * rng.uniform(0.4, 1.6)),
        deep=round(26 * rng.uniform(0.7, 1.3)),
        tortuosity=float(rng.uniform(0.2, 0.5)),
        scale=float(rng.uniform(0.8, 1.2)),
    )


def grow_veins(
    labels: IntMap, brain: BoolMap, parameters: VesselParameters, rng: np.random.Generator
) -> list[Vessel]:
    """Grow the veins of one person on a 1 mm label map.

    Parameters
    ----------
    labels : (I, J, K) int array
        FreeSurfer-style numbers, 1 mm isotropic.
    brain : (I, J, K) bool array
        Inside of the skull that belongs to the brain, ventricles included.
    """
    tissue = brain & (labels > 0) & (labels < 500) & ~np.isin(labels, _LIQUOR)
    pial = _signed_distance_mm(ndimage.binary_closing(tissue, iterations=1))
    ventricle = _signed_distance_mm(np.isin(labels, _VENTRICLES))
    sinus = _distance_mm(_sinus_or_midline(labels, brain))
    galen = _distance_mm(_galen(labels, brain))
    sulcal = _sulcal(labels, brain, pial, sinus, parameters, rng)
    return [
        *sulcal,
        *_cortical(labels, pial, sulcal, parameters, rng),
        *_medullary(labels, ventricle, parameters, rng),
        *_deep(labels, ventricle, galen, parameters, rng),
    ]


def rasterize(
    vessels: list[Vessel],
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    origin_mm: tuple[float, float, float],
) -> FloatMap:
    """Volume fraction (I, J, K) that vessels take of each voxel, edges softened by one voxel.

    `origin_mm` is where the centre of voxel (0, 0, 0) lies in the frame of the points.
    """
    fraction = np.zeros(shape, dtype=np.float32)
    if not vessels:
        return fraction
    points, radii = _resample(vessels, 0.6 * min(spacing_mm))
    voxel_mm = float(np.prod(spacing_mm)) ** (1 / 3)
    reach = [int(np.ceil((float(radii.max()) + voxel_mm) / step)) for step in spacing_mm]
    order = np.argsort(radii)
    points, radii = points[order], radii[order]
    index = ((points - np.array(origin_mm)) / np.array(spacing_mm)).astype(np.float32)
    nearest = np.round(index).astype(np.int32)
    flat = fraction.reshape(-1)
    for offset in np.ndindex(*(2 * r + 1 for r in reach)):
        step = np.array(offset, dtype=np.int32) - np.array(reach, dtype=np.int32)
        gap = float(np.linalg.norm(np.maximum(np.abs(step) - 0.5, 0) * spacing_mm))
        first = int(np.searchsorted(radii, gap - 0.5 * voxel_mm))
        if first < len(radii):
            _stamp(flat, nearest[first:] + step, index[first:], radii[first:], shape, spacing_mm)
    return fraction


def _stamp(
    flat: FloatMap,
    voxel: npt.NDArray[np.int32],
    index: Points,
    radii: FloatMap,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> None:
    """Raise `flat` in place (this module's own fresh buffer) to the fraction at these voxels."""
    inside = ((voxel >= 0) & (voxel < np.array(shape))).all(axis=1)
    voxel, index, radii = voxel[inside], index[inside], radii[inside]
    distance = np.sqrt((((voxel - index) * np.array(spacing_mm, np.float32)) ** 2).sum(axis=1))
    voxel_mm = float(np.prod(spacing_mm)) ** (1 / 3)
    thin = np.minimum(1.0, np.pi * (radii / voxel_mm) ** 2)
    value = np.clip((np.maximum(radii, 0.5 * voxel_mm) - distance) / voxel_mm + 0.5, 0, 1) * thin
    used = value > 0.01
    linear = np.ravel_multi_index(tuple(voxel[used].T), shape)
    np.maximum.at(flat, linear, value[used].astype(np.float32))


def _resample(vessels: list[Vessel], step_mm: float) -> tuple[Points, FloatMap]:
    points, radii = [], []
    repeats = max(1, int(np.ceil(STEP_MM / step_mm)))
    shares = np.arange(repeats, dtype=np.float32) / repeats
    for vessel in vessels:
        start, end = vessel.points_mm[:-1], vessel.points_mm[1:]
        between = start[:, None] + shares[None, :, None] * (end - start)[:, None]
        points.append(between.reshape(-1, 3))
        radii.append(np.repeat(vessel.radius_mm[:-1], repeats))
    return np.concatenate(points), np.concatenate(radii).astype(np.float32)


def _sulcal(
    labels: IntMap,
    brain: BoolMap,
    pial: FloatMap,
    sinus: FloatMap,
    parameters: VesselParameters,
    rng: np.random.Generator,
) -> list[Vessel]:
    surface = np.isin(labels, _GRAY) & (pial > -1.5) & brain
    start = _pick(surface, parameters.sulcal, rng)
    guide = _Guide(sink=sinus, surface=pial, surface_at_mm=0.6, pull=0.45)
    lines = _walk(start, guide, 90, parameters.tortuosity, rng)
    radius = rng.lognormal(np.log(0.30), 0.45, len(lines)).clip(0.14, 0.9) * parameters.scale
    return _vessels(lines, radius, sinus, growth=1.6)


def _cortical(
    labels: IntMap,
    pial: FloatMap,
    sulcal: list[Vessel],
    parameters: VesselParameters,
    rng: np.random.Generator,
) -> list[Vessel]:
    """Thin veins from the depth of the cortex that drain into the nearest sulcal vein."""
    if not sulcal:
        return []
    drain = _distance_mm(_voxels_of(sulcal, labels.shape))
    near = np.isin(labels, _GRAY) & (pial < -1.0) & (drain > _SHORTEST_MM) & (drain < 12)
    start = _pick(near, parameters.cortical, rng)
    guide = _Guide(sink=drain, surface=None, surface_at_mm=0.0, pull=0.8)
    lines = _walk(start, guide, 40, parameters.tortuosity, rng)
    radius = rng.uniform(0.12, 0.3, len(lines)) * parameters.scale
    return _vessels(lines, radius, drain, growth=1.3)


def _medullary(
    labels: IntMap, ventricle: FloatMap, parameters: VesselParameters, rng: np.random.Generator
) -> list[Vessel]:
    near = np.isin(labels, _WHITE) & (ventricle > 4) & (ventricle < 28)
    start = _pick(near, parameters.medullary, rng)
    guide = _Guide(sink=ventricle, surface=None, surface_at_mm=0.0, pull=0.9)
    lines = _walk(start, guide, 60, 0.4 * parameters.tortuosity, rng)
    radius = rng.uniform(0.13, 0.34, len(lines)) * parameters.scale
    return _vessels(lines, radius, ventricle, growth=1.5)


def _deep(
    labels: IntMap,
    ventricle: FloatMap,
    galen: FloatMap,
    parameters: VesselParameters,
    rng: np.random.Generator,
) -> list[Vessel]:
    wall = (np.abs(ventricle - 0.8) < 0.8) & (galen < 75)
    guide = _Guide(sink=galen, surface=ventricle, surface_at_mm=0.7, pull=0.5)
    lines = _walk(_pick(wall, parameters.deep, rng), guide, 150, parameters.tortuosity, rng)
    stem = _signed_distance_mm(np.isin(labels, (16, 28, 60)))
    around = (np.abs(stem - 2.5) < 1.0) & (galen < 50)
    basal = _Guide(sink=galen, surface=stem, surface_at_mm=2.5, pull=0.45)
    lines += _walk(_pick(around, parameters.deep // 3, rng), basal, 120, parameters.tortuosity, rng)
    radius = rng.uniform(0.28, 0.6, len(lines)) * parameters.scale
    return _vessels(lines, radius, galen, growth=1.5)


def _vessels(
    lines: list[Points], radii_mm: npt.NDArray[np.floating], sink: FloatMap, *, growth: float
) -> list[Vessel]:
    """Give centre lines their radii; those shorter than a few mm are left out."""
    return [
        _vessel(line, radius, growth=growth, drained=bool(_sample([sink], line[-1:])[0, 0] < 1.5))
        for line, radius in zip(lines, radii_mm, strict=True)
        if STEP_MM * (len(line) - 1) >= _SHORTEST_MM
    ]


def _vessel(line: Points, radius_mm: float, *, growth: float, drained: bool) -> Vessel:
    """Give a centre line a radius that grows downstream and is thin at a free end.

    Examples
    --------
    >>> line = np.zeros((41, 3), dtype=np.float32)
    >>> radius_mm = _vessel(line, 0.5, growth=1.5, drained=False).radius_mm
    >>> [round(float(radius_mm[n]), 2) for n in (0, 20, 40)]
    [0.11, 0.56, 0.22]
    """
    widths = radius_mm * np.linspace(0.75, growth, len(line), dtype=np.float32)
    along_mm = STEP_MM * np.arange(len(line))
    free_mm = along_mm if drained else np.minimum(along_mm, along_mm[::-1])
    taper_mm = min(_TAPER_MM, max(along_mm[-1] / 2, STEP_MM))
    widths = widths * (_THINNEST + (1 - _THINNEST) * np.minimum(free_mm / taper_mm, 1))
    return Vessel(points_mm=line, radius_mm=widths.astype(np.float32))


def _voxels_of(vessels: list[Vessel], shape: tuple[int, ...]) -> BoolMap:
    """Voxels of the 1 mm grid that centre lines run through."""
    points = np.concatenate([vessel.points_mm for vessel in vessels])
    voxels = np.clip(np.round(points).astype(int), 0, np.array(shape) - 1)
    crossed = np.zeros(shape, dtype=bool)
    crossed[tuple(voxels.T)] = True
    return crossed


def _walk(
    start: Points, guide: _Guide, steps: int, noise: float, rng: np.random.Generator
) -> list[Points]:
    """Step all walkers at once down the sink's potential; a walker ends at its sink."""
    if len(start) == 0:
        return []
    down = _gradient(-guide.sink)
    sideways = None if guide.surface is None else _gradient(guide.surface)
    position = start.astype(np.float32).copy()
    heading = _unit(rng.standard_normal(position.shape).astype(np.float32))
    wander = _unit(rng.standard_normal(position.shape).astype(np.float32))
    track = [position.copy()]
    alive = np.ones(len(position), dtype=bool)
    for _ in range(steps):
        wander = _unit(0.8 * wander + 0.6 * rng.standard_normal(position.shape))
        wish = guide.pull * _unit(_sample(down, position)) + (1 - guide.pull) * heading
        heading = _unit(wish + noise * wander)
        if guide.surface is not None and sideways is not None:
            offset = _sample([guide.surface], position) - guide.surface_at_mm
            normal = _unit(_sample(sideways, position))
            along = heading - (heading * normal).sum(axis=1, keepdims=True) * normal
            heading = _unit(along - 0.5 * np.clip(offset, -1, 1) * normal)
        alive = alive & (_sample([guide.sink], position)[:, 0] > 0.5)
        position = position + STEP_MM * heading * alive[:, None]
        track.append(position.copy())
    lines = np.stack(track, axis=1)
    moved = np.linalg.norm(np.diff(lines, axis=1), axis=2) > 1e-6
    lengths = moved.sum(axis=1) + 1
    return [line[:n] for line, n in zip(lines, lengths, strict=True) if n > 4]


def _gradient(potential: FloatMap) -> list[FloatMap]:
    return [np.asarray(part, dtype=np.float32) for part in np.gradient(potential)]


def _sample(maps: list[FloatMap], position: Points) -> Points:
    return np.stack(
        [ndimage.map_coordinates(m, position.T, order=1, mode="nearest") for m in maps], axis=1
    )


def _unit(vectors: npt.NDArray[np.floating]) -> Points:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-6), dtype=np.float32)


def _pick(mask: BoolMap, count: int, rng: np.random.Generator) -> Points:
    where = np.flatnonzero(mask)
    if len(where) == 0 or count <= 0:
        return np.zeros((0, 3), dtype=np.float32)
    chosen = rng.choice(where, size=count, replace=len(where) < count)
    points = np.stack(np.unravel_index(chosen, mask.shape), axis=1).astype(np.float32)
    return np.asarray(points + rng.uniform(-0.5, 0.5, points.shape), dtype=np.float32)


def _signed_distance_mm(mask: BoolMap) -> FloatMap:
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    return ndimage.gaussian_filter((outside - inside).astype(np.float32), 0.7)


def _distance_mm(mask: BoolMap) -> FloatMap:
    return np.asarray(ndimage.distance_transform_edt(~mask), dtype=np.float32)


def _sinus_or_midline(labels: IntMap, brain: BoolMap) -> BoolMap:
    """Dural sinuses where the label map has them, else the top of the brain's middle."""
    sinus = labels == _SINUS
    if sinus.sum() > 500:
        return np.asarray(sinus)
    middle = np.zeros_like(brain)
    columns = np.argwhere(brain.any(axis=2))
    centre = int(np.median(columns[:, 0]))
    for j in np.unique(columns[:, 1]):
        tops = np.flatnonzero(brain[max(centre - 3, 0) : centre + 4, j].any(axis=0))
        if len(tops):
            middle[centre, j, tops[-1]] = True
    return middle


def _galen(labels: IntMap, brain: BoolMap) -> BoolMap:
    """Return the point behind and above the thalami where the deep veins meet."""
    thalami = np.argwhere(np.isin(labels, (10, 49)))
    point = np.zeros_like(brain)
    if len(thalami) == 0:
        thalami = np.argwhere(brain)
    centre = thalami.mean(axis=0)
    back = np.percentile(thalami[:, 1], 2)
    at = np.round([centre[0], back - 2, centre[2] + 3]).astype(int)
    point[tuple(np.clip(at, 0, np.array(brain.shape) - 1))] = True
    return point
