"""One grid for all scans: T2w by rigid registration, QSM through the affines where it can.

QSM and SWI mostly come from one acquisition, so their affines agree; T2w is another
acquisition, between which the head has moved. Registration maximises Mattes' mutual
information (doi:10.1109/TMI.2003.809072) from coarse to fine; every sample lies on a
regular raster and one thread sums them, so that the result is the same bit for bit.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses

from deepmir.config import PreprocessConfig
from deepmir.errors import GeometryError, InputError
from deepmir.geometry import Grid, spacing_mm, voxel_to_world
from deepmir.preprocessing.resample import from_itk, one_thread, resample, to_itk
from deepmir.volume import BoolMap, FloatMap, Modality, Notice, Volume

LEVELS_MM = (8.0, 4.0, 2.0)
"""Voxel size of the three levels; finer than 2 mm costs time and gains under 0.1 mm."""
MIN_OVERLAP = 0.2
"""Share of the smaller field of view below which two affines do not tell where a scan lies."""
_BINS = 32
_SAMPLES = 60_000  # per level; a regular raster of this many gave 0.1 to 0.2 mm of scatter
_SAME_AXES_DEG = 1.0
_SAME_SPACING = 0.1  # relative


@dataclass(frozen=True, slots=True)
class Alignment:
    """How one scan came onto the reference grid."""

    modality: Modality
    method: Literal["identity", "affine", "rigid"]
    quality: float  # normalised mutual information with the reference, 0 to 1
    translation_mm: float = 0.0  # length, at the centre of the reference grid
    rotation_deg: float = 0.0
    poor: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """A scan resampled onto the reference grid."""

    volume: Volume
    alignment: Alignment
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RigidFit:
    """Result of one rigid registration; the transform maps reference to moving points (LPS)."""

    transform: sitk.Euler3DTransform
    quality_before: float
    quality: float

    @property
    def improved(self) -> bool:
        """Tell whether registration was better than where it started."""
        return self.quality > self.quality_before

    @property
    def translation_mm(self) -> float:
        """Length of the shift at the centre of the reference grid."""
        return float(np.linalg.norm(self.transform.GetTranslation()))

    @property
    def rotation_deg(self) -> float:
        """Angle of the rotation about its axis."""
        trace = float(np.trace(np.array(self.transform.GetMatrix()).reshape(3, 3)))
        return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def align(scan: Volume, reference: Volume, config: PreprocessConfig) -> Aligned:
    """Bring one scan onto the grid of the reference scan.

    T2w is registered rigidly unless the config says to trust the affines. A Chimap whose
    axes, voxels and field of view agree with the reference's is taken through the affines,
    any other is registered as well. A registration that is worse than its start is dropped.

    Raises
    ------
    GeometryError
        If the two scans do not overlap and registration does not bring them together.
    InputError
        If registration is poor and the config refuses that.
    """
    if scan.modality is Modality.CHIMAP and scan.grid.matches(reference.grid):
        return Aligned(
            _on_grid(scan, reference, scan.data), Alignment(scan.modality, "identity", 1.0)
        )
    apart = overlap(scan.grid, reference.grid) < MIN_OVERLAP
    trusted = from_one_acquisition(scan.grid, reference.grid)
    if scan.modality is Modality.CHIMAP and apart:
        raise GeometryError(_apart_message(scan, reference))
    if scan.modality is not Modality.CHIMAP:
        trusted = not config.register_t2w
    if trusted:
        return _through_affines(scan, reference)
    return _registered(scan, reference, config, apart=apart)


def from_one_acquisition(first: Grid, second: Grid) -> bool:
    """Tell whether two grids share their axes and voxels, and mostly their field of view.

    A crop, a shift by whole or half voxels and a padded field of view count as the same.
    """
    cosines = np.sum(_axes(first) * _axes(second), axis=0)
    ratio = np.array(first.spacing_mm) / np.array(second.spacing_mm)
    return bool(
        cosines.min() > np.cos(np.radians(_SAME_AXES_DEG))
        and np.abs(ratio - 1).max() < _SAME_SPACING
        and overlap(first, second) > 0.5
    )


def overlap(first: Grid, second: Grid) -> float:
    """Share of the smaller field of view that lies inside the other, 0 to 1.

    Examples
    --------
    >>> here = Grid((10, 10, 10), np.eye(4))
    >>> away = np.eye(4)
    >>> away[0, 3] = 50
    >>> overlap(here, here), overlap(here, Grid((10, 10, 10), away))
    (1.0, 0.0)
    """
    return max(_share_inside(first, second), _share_inside(second, first))


def register_rigid(moving: Volume, fixed: Volume, *, from_centre: bool) -> RigidFit:
    """Find the rigid transform that brings `moving` onto `fixed`.

    Parameters
    ----------
    moving, fixed
        Two scans of one head.
    from_centre
        Start from the centres of both fields of view instead of from the affines.

    Returns
    -------
    RigidFit
        The better of start and result by :func:`normalised_mutual_information`.
    """
    start = _start(moving, fixed, from_centre=from_centre)
    found = sitk.Euler3DTransform(start)
    moving_image, fixed_image = (to_itk(_clipped(scan), scan.affine) for scan in (moving, fixed))
    for level_mm in LEVELS_MM:
        levels = [_shrunken(image, level_mm) for image in (fixed_image, moving_image)]
        with one_thread():
            found = _optimised(levels[0], levels[1], start=found, step_mm=level_mm)
    finest = [_shrunken(image, LEVELS_MM[-1]) for image in (fixed_image, moving_image)]
    before, overlap_before = _quality(finest[0], finest[1], start)
    after, overlap_after = _quality(finest[0], finest[1], found)
    if after > before and overlap_after > overlap_before / 2:
        return RigidFit(found, before, after)
    return RigidFit(start, before, before)


def normalised_mutual_information(first: FloatMap, second: FloatMap, where: BoolMap) -> float:
    """Mutual information 2·I(A;B) / (H(A) + H(B)) of two images: 0 unrelated, 1 the same.

    Intensities are sorted into 32 bins between their 1st and 99th percentile. Around 0.3 to
    0.6 for two contrasts of one head in place, below 0.15 when they lie 20 mm apart.

    Examples
    --------
    >>> image = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    >>> round(normalised_mutual_information(image, -image, np.ones((4, 4, 4), dtype=bool)), 3)
    1.0
    """
    if not where.any():
        return 0.0
    bins = _binned(first[where]) * _BINS + _binned(second[where])
    joint = np.bincount(bins, minlength=_BINS**2).reshape(_BINS, _BINS) / bins.size
    first_entropy, second_entropy = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    total = first_entropy + second_entropy
    return float(2 * (total - _entropy(joint)) / total) if total > 0 else 0.0


def _through_affines(scan: Volume, reference: Volume) -> Aligned:
    data = resample(_float32(scan), scan.affine, reference.grid)
    if not np.any(data):
        raise GeometryError(_apart_message(scan, reference))
    where = (
        np.ones(data.shape, dtype=bool) if overlap(scan.grid, reference.grid) > 0.9 else data != 0
    )
    every = (slice(None, None, 2),) * 3  # an eighth of the voxels tells as much
    quality = normalised_mutual_information(_float32(reference)[every], data[every], where[every])
    return Aligned(_on_grid(scan, reference, data), Alignment(scan.modality, "affine", quality))


def _registered(
    scan: Volume, reference: Volume, config: PreprocessConfig, *, apart: bool
) -> Aligned:
    fit = register_rigid(scan, reference, from_centre=apart)
    data = resample(_float32(scan), scan.affine, reference.grid, transform=fit.transform)
    poor = fit.quality < config.min_registration_quality
    if not np.any(data) or (apart and poor):
        raise GeometryError(_apart_message(scan, reference))
    alignment = Alignment(
        scan.modality,
        "rigid" if fit.improved or apart else "affine",
        fit.quality,
        fit.translation_mm,
        fit.rotation_deg,
        poor,
    )
    notices = _poor_notices(alignment, scan, reference=reference, config=config)
    return Aligned(_on_grid(scan, reference, data), alignment, notices)


def _poor_notices(
    alignment: Alignment, scan: Volume, *, reference: Volume, config: PreprocessConfig
) -> tuple[Notice, ...]:
    if not alignment.poor:
        return ()
    found = (
        f"registration of {_name(scan)} to {_name(reference)} is poor: normalised mutual "
        f"information {alignment.quality:.2f}, wanted at least "
        f"{config.min_registration_quality:.2f}"
    )
    if config.refuse_poor_registration:
        raise InputError(f"{found}; check that both are of one person, or leave this scan out")
    return (Notice("preprocess", f"{found}; look at the overlay in the report"),)


def _apart_message(scan: Volume, reference: Volume) -> str:
    centres = (np.mean(volume.grid.corners_mm(), axis=0) for volume in (scan, reference))
    distance_mm = float(np.linalg.norm(np.subtract(*centres)))
    return (
        f"{_name(scan)} and {_name(reference)} do not overlap in scanner space (their centres "
        f"are {distance_mm:.0f} mm apart) and could not be brought together; check that both "
        "are of one person and that their headers are intact"
    )


def _on_grid(scan: Volume, reference: Volume, data: npt.NDArray[np.generic]) -> Volume:
    return replace(
        scan, data=data.astype(np.float32), affine=reference.affine, native=reference.native
    )


def _start(moving: Volume, fixed: Volume, *, from_centre: bool) -> sitk.Euler3DTransform:
    lps = np.array([-1.0, -1.0, 1.0])
    fixed_centre, moving_centre = (
        np.mean(volume.grid.corners_mm(), axis=0) * lps for volume in (fixed, moving)
    )
    start = sitk.Euler3DTransform()
    start.SetCenter([float(x) for x in fixed_centre])
    if from_centre:
        start.SetTranslation([float(x) for x in moving_centre - fixed_centre])
    return start


def _optimised(
    fixed: sitk.Image, moving: sitk.Image, *, start: sitk.Euler3DTransform, step_mm: float
) -> sitk.Euler3DTransform:
    found = sitk.Euler3DTransform(start)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    share = min(1.0, _SAMPLES / fixed.GetNumberOfPixels())
    if share < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm,
        minStep=0.005,
        numberOfIterations=100,
        relaxationFactor=0.8,  # 0.5 stopped 1 to 3 degrees short of large rotations
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(found, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # ITK's way to say that all samples left the moving image
        return start
    return found


def _shrunken(image: sitk.Image, level_mm: float) -> sitk.Image:
    """Average blocks of voxels up to about `level_mm`; never below 8 voxels along an axis."""
    factors = [
        max(1, min(round(level_mm / step), n // 8))
        for step, n in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
    return sitk.BinShrink(image, factors)


def _quality(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform
) -> tuple[float, float]:
    """Return the normalised mutual information in the overlap, and the overlap's share."""
    inside = moving * 0 + 1
    moved, seen = (
        from_itk(sitk.Resample(image, fixed, transform, sitk.sitkLinear, 0.0))
        for image in (moving, inside)
    )
    where = seen > 0.5
    return normalised_mutual_information(from_itk(fixed), moved, where), float(where.mean())


def _share_inside(inner: Grid, outer: Grid) -> float:
    """Share of a raster of 12³ points of `inner` that lies inside `outer`."""
    steps = (np.arange(12, dtype=np.float64) + 0.5) / 12
    raster = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    raster = (raster * np.array(inner.shape) - 0.5).astype(np.float64)
    world = voxel_to_world(raster, inner.affine)
    voxels = voxel_to_world(world, np.linalg.inv(outer.affine).astype(np.float64))
    inside = (voxels >= -0.5) & (voxels <= np.array(outer.shape) - 0.5)
    return float(inside.all(axis=1).mean())


def _axes(grid: Grid) -> npt.NDArray[np.float64]:
    return np.asarray(grid.affine[:3, :3] / np.array(spacing_mm(grid.affine)))


def _binned(values: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    low, high = np.percentile(values, [1, 99])
    scaled = (values - low) * (_BINS / max(float(high - low), 1e-12))
    return np.asarray(scaled.clip(0, _BINS - 1), dtype=np.intp)


def _entropy(share: npt.NDArray[np.float64]) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _float32(volume: Volume) -> FloatMap:
    return volume.data.astype(np.float32, copy=False)


def _clipped(volume: Volume) -> FloatMap:
    """Clip an image to its 0.5 to 99.5 %: the metric's bins span all values there are."""
    data = _float32(volume)
    seen = data[data != 0]
    if seen.size == 0:
        return data
    low, high = np.percentile(seen, [0.5, 99.5])
    return data.clip(min(float(low), 0.0), float(high)).astype(np.float32)


def _name(volume: Volume) -> str:
    return volume.name or f"the {volume.modality} scan"
