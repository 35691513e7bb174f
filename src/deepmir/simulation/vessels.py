"""Trees of veins, which microbleeds are confused with, and of arteries.

    label map ──▶ speed of each voxel ──fast marching──▶ time to the sink
        starts ──steepest descent──▶ paths that join ──▶ vessels, wider with every one that joins

Two venous trees. The superficial one drains cortex and sulci along the pial surface into the dural
sinuses; the deep one drains white matter and deep nuclei to the ventricle wall and around the
brain stem into the vein of Galen. One arterial tree, grown against its flow, leads from the cortex
along the pial surface to the arteries that the label map has at the base of the brain. A path that
meets another goes on with it, so every vessel starts thin, grows by what joins it (Murray's law,
about r³ = Σ r³) and ends in another one or its sink: none ends bluntly, and short ones are thin. A
short thick piece of vein on its own is a microbleed to any reader, and no brain has such pieces.
Diameters of veins 0.2 to 2.2 mm, the widest where the deep veins meet (Lee 1970; Okudera 1999); of
arteries 0.3 to 2.6 mm.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses
from scipy import ndimage

from deepmir.volume import BoolMap, FloatMap, IntMap

Points = npt.NDArray[np.float32]  # (n, 3) mm in the grid's own frame: index times spacing
Voxels = npt.NDArray[np.int64]  # flat indices

STEP_MM = 0.5
_GRAY = (3, 42, 8, 47)
_WHITE = (2, 41, 77)
_DEEP_GRAY = (10, 49, 11, 50, 12, 51, 13, 52, 26, 58, 28, 60)
_STEM = (16, 28, 60)
_VENTRICLES = (4, 43)
_LIQUOR = (*_VENTRICLES, 5, 44, 14, 15, 24)
SINUS = 514
ARTERY = 502
_MURRAY = 0.28
"""Power of the number of venules that gives the radius; 1/3 where r³ adds up exactly."""
_LONGEST_MM = 300
_NEVER = 1e6  # a time that no path takes


@dataclass(frozen=True, slots=True, kw_only=True)
class VesselParameters:
    """What is drawn once per person: where each tree begins how often, and how vessels run."""

    superficial: int = 5000
    deep: int = 1000
    arterial: int = 700
    tortuosity: float = 0.5
    """Spread of the logarithm of speed: paths go round what is slow."""
    scale: float = 1.0  # of all diameters


@dataclass(frozen=True, slots=True, eq=False)
class Vessel:
    """One vein or artery: its centre line and the radius along it."""

    points_mm: Points  # (n, 3)
    radius_mm: FloatMap  # (n,)


@dataclass(frozen=True, slots=True, eq=False)
class _Territory:
    """Where one tree grows: how fast a path may go, where it begins and where it ends."""

    speed: FloatMap  # (I, J, K), 0 where no vessel may run
    starts: BoolMap
    sink: BoolMap
    thinnest_mm: float  # radius where a vessel begins
    widest_mm: float  # and the greatest that one reaches


def sample_parameters(rng: np.random.Generator) -> VesselParameters:
    """Draw how rich in veins a person is."""
    rich = float(rng.uniform(0.5, 1.5))
    return VesselParameters(
        superficial=round(5000 * rich * rng.uniform(0.7, 1.3)),
        deep=round(1000 * rich * rng.uniform(0.5, 1.5)),
        arterial=round(700 * rich),
        tortuosity=float(rng.uniform(0.3, 0.8)),
        scale=float(rng.uniform(0.8, 1.3)),
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
    if not brain.any():
        return []
    return [
        *_tree(_superficial(labels, brain), parameters.superficial, parameters, rng),
        *_tree(_deep(labels, brain), parameters.deep, parameters, rng),
    ]


def grow_arteries(
    labels: IntMap, brain: BoolMap, parameters: VesselParameters, rng: np.random.Generator
) -> list[Vessel]:
    """Grow the arteries of the cortex on a 1 mm label map, each from its thin end.

    They end in the arteries that the label map has (502), or where these would be.

    Parameters
    ----------
    labels, brain : (I, J, K) arrays
        As :func:`grow_veins` takes them.
    """
    if not brain.any():
        return []
    return _tree(_arterial(labels, brain), parameters.arterial, parameters, rng)


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


# ---- territories -----------------------------------------------------------------------------


def _superficial(labels: IntMap, brain: BoolMap) -> _Territory:
    """Cortex and sulci: fast along the pial surface, slow through cortex and to the sinuses."""
    pial, gray = _pial_distance_mm(labels, brain), np.isin(labels, _GRAY)
    sink = _sinus_or_midline(labels, brain)
    speed = np.where(gray & (pial > -4), np.float32(0.35), np.float32(0))
    speed[(pial > 1.5) & (pial < 12)] = 0.15
    speed[np.abs(pial - 0.3) < 1.2] = 1
    speed[np.isin(labels, _VENTRICLES)] = 0
    speed[sink] = 1
    return _Territory(speed, gray & brain & (pial > -3.5), sink, thinnest_mm=0.23, widest_mm=0.7)


def _deep(labels: IntMap, brain: BoolMap) -> _Territory:
    """White matter and deep nuclei: to the ventricle wall, along it and around the stem."""
    ventricle = _signed_distance_mm(np.isin(labels, _VENTRICLES))
    stem = _signed_distance_mm(np.isin(labels, _STEM))
    sink = _galen(labels, brain)
    white, nuclei = np.isin(labels, _WHITE), np.isin(labels, _DEEP_GRAY)
    speed = np.where(white, np.float32(0.35), np.where(nuclei, np.float32(0.25), np.float32(0)))
    speed[brain & (np.abs(stem - 2.0) < 1.5)] = 1
    speed[np.abs(ventricle - 0.7) < 1.2] = 1.5
    speed[ndimage.binary_dilation(sink, iterations=12) & brain & (speed == 0)] = 0.3
    speed[sink] = 1
    starts = (white & (ventricle > 3) & (ventricle < 30)) | (nuclei & (ventricle < 20))
    starts |= brain & (np.abs(stem - 2.0) < 1.0)
    return _Territory(speed, starts, sink, thinnest_mm=0.15, widest_mm=1.1)


def _arterial(labels: IntMap, brain: BoolMap) -> _Territory:
    """Cortex and sulci: along the pial surface to the base of the brain, through the cisterns."""
    pial, gray = _pial_distance_mm(labels, brain), np.isin(labels, _GRAY)
    sink = _circle_of_willis(labels, brain)
    speed = np.where(gray & (pial > -2), np.float32(0.2), np.float32(0))
    speed[(pial > 1.5) & (pial < 12)] = 0.3
    speed[np.abs(pial - 0.7) < 1.2] = 1
    speed[np.isin(labels, _VENTRICLES)] = 0
    speed[ndimage.binary_dilation(sink, iterations=12) & brain & (speed == 0)] = 0.1
    speed[sink] = 1
    return _Territory(speed, gray & brain & (pial > -2), sink, thinnest_mm=0.15, widest_mm=1.3)


# ---- trees -----------------------------------------------------------------------------------


def _tree(
    territory: _Territory, venules: int, parameters: VesselParameters, rng: np.random.Generator
) -> list[Vessel]:
    """Veins of one territory, the longest first; each ends where it joins an earlier one."""
    time = _time_to_sink(territory, parameters.tortuosity, rng)
    starts = np.flatnonzero(territory.starts & np.isfinite(time) & (time > 0))
    if len(starts) == 0 or venules == 0:
        return []
    paths = _descend(time, rng.choice(starts, size=min(venules, len(starts)), replace=False))
    venules_at = np.bincount(np.concatenate(paths), minlength=time.size)
    radius = territory.thinnest_mm * parameters.scale * venules_at.astype(np.float32) ** _MURRAY
    return _joined_vessels(paths, np.minimum(radius, territory.widest_mm), time.shape)


def _time_to_sink(territory: _Territory, tortuosity: float, rng: np.random.Generator) -> FloatMap:
    """Least time from each voxel to the sink (Sethian 1996); infinite where no path leads."""
    unequal = ndimage.gaussian_filter(
        rng.standard_normal(territory.speed.shape, dtype=np.float32), 1.0
    )
    unequal *= np.float32(tortuosity / max(float(unequal.std()), 1e-6))
    marching = sitk.FastMarchingImageFilter()
    marching.SetNormalizationFactor(1.0)
    marching.SetStoppingValue(_NEVER)
    trial = np.argwhere(territory.sink)[:, ::-1].tolist()  # SimpleITK counts the last axis first
    marching.SetTrialPoints([[int(x) for x in point] for point in trial])
    speed = sitk.GetImageFromArray(territory.speed * np.exp(unequal))
    time = sitk.GetArrayFromImage(marching.Execute(speed))
    reached = (territory.speed > 0) & (time < _NEVER)
    return np.where(reached, time, np.inf).astype(np.float32)


def _descend(time: FloatMap, starts: Voxels) -> list[Voxels]:
    """Path of flat indices from each start, by the steepest of 26 steps, to where none descends."""
    steps = np.array([step for step in np.ndindex(3, 3, 3) if step != (1, 1, 1)]) - 1
    padded = np.pad(time, 1, constant_values=np.inf)
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    offsets, lengths = steps @ strides, np.linalg.norm(steps, axis=1).astype(np.float32)
    flat = padded.reshape(-1)
    here = np.ravel_multi_index(
        tuple(np.array(np.unravel_index(starts, time.shape)) + 1), padded.shape
    )
    tracks = [here]
    alive = np.ones(len(here), dtype=bool)
    for _ in range(_LONGEST_MM):
        drop = (flat[here][:, None] - flat[here[:, None] + offsets]) / lengths
        best = drop.argmax(axis=1)
        alive = alive & (drop[np.arange(len(here)), best] > 0)
        if not alive.any():
            break
        here = np.where(alive, here + offsets[best], here)
        tracks.append(here)
    lines = np.stack(tracks, axis=1)
    kept = np.concatenate(
        [np.ones((len(lines), 1), dtype=bool), lines[:, 1:] != lines[:, :-1]], axis=1
    )
    at = np.array(np.unravel_index(lines, padded.shape)) - 1
    unpadded = np.ravel_multi_index(tuple(at), time.shape)
    return [line[used] for line, used in zip(unpadded, kept, strict=True)]


def _joined_vessels(
    paths: list[Voxels], radius_mm: FloatMap, shape: tuple[int, ...]
) -> list[Vessel]:
    """Cut each path where it meets a longer one, and smooth it; ends meet exactly."""
    places = np.full((radius_mm.size, 3), np.nan, dtype=np.float32)
    vessels = []
    for path in sorted(paths, key=len, reverse=True):
        taken = np.flatnonzero(~np.isnan(places[path, 0]))
        own = path[: int(taken[0])] if len(taken) else path
        points = np.stack(np.unravel_index(own, shape), axis=1).astype(np.float32)
        widths = radius_mm[own]
        if len(taken):
            points = np.concatenate([points, places[path[taken[:1]]]])
            widths = np.append(widths, widths[-1:])
        if len(points) < 2:
            continue
        points = _smooth(points)
        places[own] = points[: len(own)]
        vessels.append(_resampled(points, ndimage.gaussian_filter1d(widths, 2.0, mode="nearest")))
    return vessels


def _smooth(points: Points) -> Points:
    """Smooth a line by about 1.5 mm; both ends stay where they are."""
    n = len(points)
    bow = points[0] + np.linspace(0, 1, n, dtype=np.float32)[:, None] * (points[-1] - points[0])
    around = ndimage.gaussian_filter1d(
        np.pad(points - bow, ((n - 1, n - 1), (0, 0)), mode="reflect", reflect_type="odd"),
        1.5, axis=0,
    )  # fmt: skip
    return np.asarray(bow + around[n - 1 : 2 * n - 1], dtype=np.float32)


def _resampled(points: Points, radius_mm: FloatMap) -> Vessel:
    """Line and radius at steps of at most half a millimetre."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, along[-1], max(2, int(np.ceil(along[-1] / STEP_MM)) + 1))
    line = np.stack([np.interp(at, along, points[:, axis]) for axis in range(3)], axis=1)
    return Vessel(line.astype(np.float32), np.interp(at, along, radius_mm).astype(np.float32))


def _pial_distance_mm(labels: IntMap, brain: BoolMap) -> FloatMap:
    """Distance from the brain's surface, sulci included; negative inside."""
    tissue = brain & (labels > 0) & (labels < 500) & ~np.isin(labels, _LIQUOR)
    return _signed_distance_mm(ndimage.binary_closing(tissue, iterations=1))


def _signed_distance_mm(mask: BoolMap) -> FloatMap:
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    return ndimage.gaussian_filter((outside - inside).astype(np.float32), 0.7)


def _sinus_or_midline(labels: IntMap, brain: BoolMap) -> BoolMap:
    """Dural sinuses where the label map has them, else the top of the brain's middle."""
    sinus = labels == SINUS
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
    return _beside_thalami(labels, brain, percentile=2, forward_mm=-2, up_mm=3)


def _circle_of_willis(labels: IntMap, brain: BoolMap) -> BoolMap:
    """Arteries where the label map has them, else the point in front of and below the thalami."""
    arteries = labels == ARTERY
    if arteries.sum() > 500:
        return np.asarray(arteries)
    return _beside_thalami(labels, brain, percentile=98, forward_mm=6, up_mm=-18)


def _beside_thalami(
    labels: IntMap, brain: BoolMap, *, percentile: float, forward_mm: float, up_mm: float
) -> BoolMap:
    """Return one voxel in the middle, so far from the thalami's end that a percentile gives."""
    thalami = np.argwhere(np.isin(labels, (10, 49)))
    point = np.zeros_like(brain)
    if len(thalami) == 0:
        thalami = np.argwhere(brain)
    centre, end = thalami.mean(axis=0), np.percentile(thalami[:, 1], percentile)
    at = np.round([centre[0], end + forward_mm, centre[2] + up_mm]).astype(int)
    point[tuple(np.clip(at, 0, np.array(brain.shape) - 1))] = True
    return point
