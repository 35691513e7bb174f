"""Size, place, susceptibility, contrast and certainty of every lesion.

Susceptibility and SWI signal are measured against the tissue around the lesion: the median of
a ring that lies 2 to 4 mm outside it, without other findings. That makes χ independent of the
map's arbitrary reference.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.config import LesionConfig
from deepmir.errors import GeometryError, InputError
from deepmir.geometry import (
    Affine,
    check_same_grid,
    spacing_mm,
    sphere_diameter_mm,
    voxel_to_world,
    voxel_volume_mm3,
)
from deepmir.labels import (
    ALL_REGION_NUMBERS,
    BASAL_GANGLIA_BASES,
    Compartment,
    Finding,
    Side,
    region_label,
    split_region_number,
)
from deepmir.lesions.instances import InstanceMap, label_findings
from deepmir.volume import BoolMap, FloatMap, IntMap, Scans

RING_MM = (2.0, 4.0)
"""Distance from the lesion of the tissue that it is compared with."""
NEAREST_REGION_MM = 5.0
"""How far a lesion that lies in no region may be from the region it is counted to."""
_FEW_VOXELS = 8  # a ring with less tissue than this is taken as a whole

_Values = npt.NDArray[np.floating]


class Certainty(StrEnum):
    """MARS grade (Gregoire 2009, doi:10.1212/WNL.0b013e3181c34a7d)."""

    DEFINITE = "definite"
    POSSIBLE = "possible"


class SizeClass(StrEnum):
    """BOMBS size class (Cordonnier 2009, doi:10.1161/STROKEAHA.108.526996)."""

    SMALL = "<5 mm"
    LARGE = "5-10 mm"
    EXCEEDING = ">10 mm"


@dataclass(frozen=True, slots=True)
class Lesion:
    """One instance of a finding, measured in scanner space."""

    index: int
    """1 … n over all findings of a person: by finding, then the largest first."""
    finding: Finding
    n_voxels: int
    volume_mm3: float
    diameter_mm: float
    """Diameter of the sphere of equal volume."""
    centroid_mm: tuple[float, float, float]
    """Scanner coordinates, RAS+."""
    centroid_voxel: tuple[float, float, float]
    """Voxel indices, counted from 0, in the reference scan's file as it was stored."""
    region: int
    """Region number (:mod:`deepmir.labels`); 0 where no region lies within 5 mm."""
    compartment: Compartment | None
    side: Side | None
    mean_chi_ppm: float | None
    """Mean χ minus the ring's median; None without a QSM here."""
    peak_chi_ppm: float | None
    """The χ that is furthest from the ring's median, minus that median."""
    total_chi_ppm_mm3: float | None
    """Mean χ times volume: nearly independent of echo time and voxel size."""
    swi_contrast: float | None
    """1 − mean signal / ring's median: 0 is invisible, 1 is black; None without an SWI here."""
    probability: float | None
    """The greatest of its voxels, which is what is calibrated; None where a person drew it."""
    certainty: Certainty
    size_class: SizeClass
    counted: bool
    """False for iron outside the basal ganglia, which is listed and not counted."""

    @property
    def exceeds_10mm(self) -> bool:
        """Above 10 mm: by definition no microbleed; kept and flagged."""
        return self.size_class is SizeClass.EXCEEDING

    @property
    def region_name(self) -> str:
        """Human name of the region, such as ``left frontal``."""
        return region_label(self.region) if self.region else "no region within 5 mm"


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredLesions:
    """The lesions of one person, and where each of them is."""

    lesions: tuple[Lesion, ...]
    instances: InstanceMap  # (I, J, K); a voxel's value is its lesion's `index`, else 0

    def findings(self) -> npt.NDArray[np.uint8]:
        """Label map (I, J, K) of the findings, without what was too small to be kept."""
        values = np.array([0, *(lesion.finding for lesion in self.lesions)], dtype=np.uint8)
        return values[self.instances]


def size_class(diameter_mm: float) -> SizeClass:
    """BOMBS size class; 10 mm itself is still a microbleed.

    Examples
    --------
    >>> [size_class(d).value for d in (4.9, 5.0, 10.0, 10.1)]
    ['<5 mm', '5-10 mm', '5-10 mm', '>10 mm']
    """
    if diameter_mm < 5:
        return SizeClass.SMALL
    return SizeClass.LARGE if diameter_mm <= 10 else SizeClass.EXCEEDING


def measure_lesions(
    findings: IntMap,
    *,
    scans: Scans,
    regions: IntMap,
    probabilities: FloatMap | None,
    config: LesionConfig,
) -> MeasuredLesions:
    """Measure every connected component of every finding.

    Parameters
    ----------
    findings : (I, J, K) integer array
        Values of :class:`~deepmir.labels.Finding`, on the grid of the reference scan.
    scans : Scans
        All of them on one grid; SWI and T2w as acquired, Chimap in ppm. Voxels of exactly 0
        are taken as lying outside a scan.
    regions : (I, J, K) integer array
        Region numbers; 0 where there is none.
    probabilities : (3, I, J, K) array or None
        In the order of :class:`~deepmir.labels.Finding`; None where a person drew the findings.
        Those are graded definite.
    config : LesionConfig
        Connectivity, smallest volume, and the probability of a definite finding. On SWI
        alone every microbleed is graded possible, because a calcification looks the same.

    Returns
    -------
    MeasuredLesions
        Empty where there is no finding.

    Raises
    ------
    GeometryError
        If the arrays are not on one grid.
    InputError
        If `findings` or `regions` hold a number without a meaning.
    """
    scene = _Scene(findings, scans, regions, probabilities)
    _check_scene(scene)
    least = config.min_volume_mm3 / scene.voxel_volume_mm3 * (1 - 1e-9)  # 1.0 mm³ is 1.0 mm³
    instances, kinds = label_findings(findings, connectivity=config.connectivity, min_voxels=least)
    boxes = ndimage.find_objects(instances)
    lesions = tuple(
        _measure_one(scene, _crop(scene, instances, index=index, box=box), finding, config=config)
        for index, (box, finding) in enumerate(zip(boxes, kinds, strict=True), start=1)
    )
    return MeasuredLesions(lesions, instances)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """Everything lesions are measured on."""

    findings: IntMap
    scans: Scans
    regions: IntMap
    probabilities: FloatMap | None

    @property
    def affine(self) -> Affine:
        return self.scans.reference.affine

    @property
    def voxel_volume_mm3(self) -> float:
        return voxel_volume_mm3(self.affine)

    @property
    def swi_alone(self) -> bool:
        return self.scans.present == (False, True, False)


@dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    """One lesion and its neighbourhood, as small as the ring and the nearest region allow."""

    index: int
    box: tuple[slice, ...]
    inside: BoolMap
    distance_mm: _Values  # to the lesion
    ring: BoolMap
    regions: IntMap


def _check_scene(scene: _Scene) -> None:
    reference = scene.scans.reference
    for volume in (scene.scans.swi, scene.scans.chimap, scene.scans.t2w):
        if volume is not None:
            check_same_grid(
                reference.grid,
                volume.grid,
                first_name=reference.name or "the reference scan",
                second_name=volume.name or f"the {volume.modality}",
            )
    wanted = {
        "the map of findings": (scene.findings, reference.data.shape),
        "the map of regions": (scene.regions, reference.data.shape),
        "the probabilities": (scene.probabilities, (len(Finding), *reference.data.shape)),
    }
    for name, (found, shape) in wanted.items():
        if found is not None and found.shape != shape:
            raise GeometryError(
                f"{name} have shape {found.shape} but the reference scan "
                f"{reference.name} needs {shape}; bring all onto one grid first"
            )
    _check_regions(scene.regions)


def _check_regions(regions: IntMap) -> None:
    present = {int(number) for number in np.unique(regions)} - {0}
    unknown = sorted(present - set(ALL_REGION_NUMBERS))
    if unknown:
        raise InputError(
            f"the map of regions holds the numbers {unknown[:5]}, which the region table does "
            "not have; see the label table in the docs"
        )


def _crop(scene: _Scene, instances: InstanceMap, *, index: int, box: tuple[slice, ...]) -> _Crop:
    """Cut out lesion `index` and what lies within 5 mm of it."""
    spacing = spacing_mm(scene.affine)
    margins = [int(np.ceil(NEAREST_REGION_MM / step)) for step in spacing]
    wide = tuple(
        slice(max(part.start - margin, 0), part.stop + margin)
        for part, margin in zip(box, margins, strict=True)
    )
    inside = instances[wide] == index
    distance = np.asarray(ndimage.distance_transform_edt(~inside, sampling=spacing))
    shell = (distance >= RING_MM[0]) & (distance <= RING_MM[1]) & (scene.findings[wide] == 0)
    tissue = shell & (scene.regions[wide] > 0)
    ring = tissue if np.count_nonzero(tissue) >= _FEW_VOXELS else shell
    return _Crop(index, wide, inside, distance, ring, scene.regions[wide])


def _measure_one(scene: _Scene, crop: _Crop, finding: Finding, *, config: LesionConfig) -> Lesion:
    n_voxels = int(np.count_nonzero(crop.inside))
    volume = n_voxels * scene.voxel_volume_mm3
    diameter = sphere_diameter_mm(volume)
    centroid = _centroid_mm(scene, crop)
    region = _locate(crop)
    compartment, side = _place(region)
    mean_chi, peak_chi = _chi_ppm(scene, crop)
    probability = _probability(scene, crop, finding)
    return Lesion(
        index=crop.index,
        finding=finding,
        n_voxels=n_voxels,
        volume_mm3=volume,
        diameter_mm=diameter,
        centroid_mm=_triple(centroid),
        centroid_voxel=_triple(_native_voxel(scene, centroid)),
        region=region,
        compartment=compartment,
        side=side,
        mean_chi_ppm=mean_chi,
        peak_chi_ppm=peak_chi,
        total_chi_ppm_mm3=None if mean_chi is None else mean_chi * volume,
        swi_contrast=_swi_contrast(scene, crop),
        probability=probability,
        certainty=_grade(scene, finding, probability, config=config),
        size_class=size_class(diameter),
        counted=finding is not Finding.IRON or region % 100 in BASAL_GANGLIA_BASES,
    )


def _centroid_mm(scene: _Scene, crop: _Crop) -> npt.NDArray[np.float64]:
    start = np.array([part.start for part in crop.box], dtype=float)
    centre = np.argwhere(crop.inside).mean(axis=0) + start
    return voxel_to_world(centre[None], scene.affine).reshape(3)


def _native_voxel(scene: _Scene, centroid_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    reference = scene.scans.reference
    native = reference.native or reference.grid
    to_voxel = np.asarray(np.linalg.inv(native.affine), dtype=np.float64)
    return voxel_to_world(centroid_mm[None], to_voxel).reshape(3)


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _locate(crop: _Crop) -> int:
    """Region of most of the lesion's voxels, else the nearest within 5 mm, else 0."""
    own = crop.regions[crop.inside]
    if own.any():
        return int(np.bincount(own[own > 0]).argmax())
    distance = np.where(crop.regions > 0, crop.distance_mm, np.inf)
    nearest = int(distance.argmin())
    return int(crop.regions.flat[nearest]) if distance.flat[nearest] <= NEAREST_REGION_MM else 0


def _place(number: int) -> tuple[Compartment | None, Side | None]:
    if number == 0:
        return None, None
    region, side = split_region_number(number)
    return region.compartment, side


def _chi_ppm(scene: _Scene, crop: _Crop) -> tuple[float | None, float | None]:
    """Mean and peak χ against the ring."""
    chimap = scene.scans.chimap
    if chimap is None:
        return None, None
    inside, ring = _inside_and_ring(chimap.data, crop)
    if not inside.any() or not len(ring):
        return None, None
    relative = inside - np.median(ring)
    return float(relative.mean()), float(relative[np.abs(relative).argmax()])


def _swi_contrast(scene: _Scene, crop: _Crop) -> float | None:
    """One minus the ratio of the mean signal to the ring's median.

    The mean and not the darkest voxel: the darkest of many gets darker with noise and size.
    """
    swi = scene.scans.swi
    if swi is None:
        return None
    inside, ring = _inside_and_ring(swi.data, crop)
    return float(1 - inside.mean() / np.median(ring)) if len(ring) else None


def _inside_and_ring(data: npt.NDArray[np.generic], crop: _Crop) -> tuple[_Values, _Values]:
    values = data[crop.box].astype(np.float64)
    return values[crop.inside], values[crop.ring & (values != 0)]


def _probability(scene: _Scene, crop: _Crop, finding: Finding) -> float | None:
    if scene.probabilities is None:
        return None
    return float(scene.probabilities[finding - 1][crop.box][crop.inside].max())


def _grade(
    scene: _Scene, finding: Finding, probability: float | None, *, config: LesionConfig
) -> Certainty:
    if finding is Finding.CMB and scene.swi_alone:
        return Certainty.POSSIBLE
    if probability is None or probability >= config.definite_probability:
        return Certainty.DEFINITE
    return Certainty.POSSIBLE
