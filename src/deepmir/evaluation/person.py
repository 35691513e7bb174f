"""One person against the reference: every lesion, its fate, its size and place.

    prediction, reference (+ regions, probabilities) ──assess_person──▶ PersonAssessment

What is kept is small (a row a lesion), so that a cohort of any size fits into memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from deepmir.errors import GeometryError
from deepmir.evaluation.candidates import (
    Candidates,
    ReliabilityCounts,
    candidates_of,
    voxel_reliability_counts,
)
from deepmir.evaluation.detection import (
    IGNORE,
    MatchedFinding,
    Score,
    check_maps,
    match_findings,
    places_of,
    score_of,
)
from deepmir.evaluation.match import centroids_voxel, shared_voxels, sizes_of
from deepmir.evaluation.rules import Rule
from deepmir.geometry import Affine, sphere_diameter_mm, voxel_to_world, voxel_volume_mm3
from deepmir.labels import Compartment, Finding, split_region_number
from deepmir.lesions import SizeClass, size_class
from deepmir.lesions.instances import InstanceMap, bounding_box
from deepmir.volume import BoolMap, FloatMap, IntMap


class Role(StrEnum):
    """Whose lesion it is."""

    REFERENCE = "reference"
    PREDICTION = "prediction"


class Status(StrEnum):
    """What became of a lesion."""

    HIT = "hit"  # detected (reference) or correct (prediction)
    MISSED = "missed"
    FALSE = "false"
    IGNORED = "ignored"  # on the ignore zone only: neither true nor false


@dataclass(frozen=True, slots=True)
class ScoredLesion:
    """One lesion of the reference or of the prediction."""

    role: Role
    finding: Finding
    number: int
    """1, 2, … within person, role and finding."""
    status: Status
    n_partners: int
    """Lesions of the other side that it hits; more than one where it covers or is split."""
    n_voxels: int
    volume_mm3: float
    diameter_mm: float
    """Of the sphere of equal volume."""
    size_class: SizeClass
    centroid_mm: tuple[float, float, float]
    region: int
    """Region number of most of its voxels; 0 where there is no region or no map of regions."""
    dice: float | None
    """Of a hit reference lesion with all predictions that hit it."""
    volume_error_mm3: float | None
    """Volume of those predictions less its own."""
    lies_on: str
    """What the other side has there: a finding's name, ``ignored`` or ``nothing``."""

    @property
    def compartment(self) -> Compartment | None:
        """Lobar, deep or infratentorial; None where the region is not known."""
        return split_region_number(self.region)[0].compartment if self.region else None


@dataclass(frozen=True, slots=True)
class Overlap:
    """Volumes of one finding in one person, of all lesions together."""

    reference_mm3: float
    prediction_mm3: float
    """Outside the ignore zone."""
    shared_mm3: float

    @property
    def dice(self) -> float | None:
        """Dice overlap of the whole; None where both are empty."""
        total = self.reference_mm3 + self.prediction_mm3
        return 2 * self.shared_mm3 / total if total else None

    @property
    def volume_error_mm3(self) -> float:
        """Predicted less reference volume."""
        return self.prediction_mm3 - self.reference_mm3


@dataclass(frozen=True, slots=True, eq=False)
class PersonAssessment:
    """All that is kept of one person."""

    person: str
    group: str
    """Protocol, site or whatever else persons are told apart by; empty where nothing is said."""
    score: Score
    lesions: tuple[ScoredLesion, ...]
    overlaps: dict[Finding, Overlap]
    candidates: dict[Finding, Candidates]
    """By finding, where there is a map of probabilities."""
    calibration: dict[Finding, ReliabilityCounts]
    """Of the voxels, where there is a map of probabilities."""
    has_regions: bool


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PersonMaps:
    """What is known of one person, on one grid."""

    prediction: IntMap  # (I, J, K), values of Finding
    reference: IntMap  # (I, J, K), values of Finding, 255 is not scored
    affine: Affine
    regions: IntMap | None = None  # (I, J, K), region numbers
    probabilities: dict[Finding, FloatMap] | None = None  # (I, J, K) each
    person: str = ""
    group: str = ""


def assess_person(maps: PersonMaps, *, rule: Rule, extent: float = 0.5) -> PersonAssessment:
    """Score one person and keep a row for every lesion.

    Parameters
    ----------
    maps : PersonMaps
        All on one grid.
    rule : Rule
        What a hit is.
    extent : float
        Voxels of at least this probability make up a candidate.

    Raises
    ------
    GeometryError
        If an array is not 3-D and of integers, or shapes differ.
    InputError
        If an array holds a value without a meaning.
    """
    check_maps(maps.prediction, maps.reference)
    _check_shapes(maps)
    box = bounding_box((maps.prediction != 0) | (maps.reference != 0))
    prediction, reference = maps.prediction[box], maps.reference[box]
    matched = match_findings(prediction, reference, rule=rule, affine=maps.affine)
    lesions = _Lesions(maps, box, matched)
    probabilities = maps.probabilities or {}
    return PersonAssessment(
        person=maps.person,
        group=maps.group,
        score=score_of(matched, prediction, reference, rule=rule),
        lesions=tuple(lesions.rows()),
        overlaps={
            finding: _overlap(prediction, reference, finding, voxel_volume_mm3(maps.affine))
            for finding in Finding
        },
        candidates={
            finding: candidates_of(
                probability, maps.reference, finding, rule=rule, extent=extent, affine=maps.affine
            )
            for finding, probability in probabilities.items()
        },
        calibration={
            finding: voxel_reliability_counts(probability, maps.reference, finding)
            for finding, probability in probabilities.items()
        },
        has_regions=maps.regions is not None,
    )


def _check_shapes(maps: PersonMaps) -> None:
    others: dict[str, tuple[int, ...]] = {
        f"probabilities of {finding.name}": data.shape
        for finding, data in (maps.probabilities or {}).items()
    }
    if maps.regions is not None:
        others["regions"] = maps.regions.shape
    for name, shape in others.items():
        if shape != maps.reference.shape:
            raise GeometryError(
                f"the {name} have shape {shape} but the reference {maps.reference.shape}; "
                "bring all onto one grid first"
            )


def _overlap(prediction: IntMap, reference: IntMap, finding: Finding, voxel_mm3: float) -> Overlap:
    predicted: BoolMap = (prediction == finding) & (reference != IGNORE)
    referred: BoolMap = reference == finding
    return Overlap(
        reference_mm3=float(np.count_nonzero(referred)) * voxel_mm3,
        prediction_mm3=float(np.count_nonzero(predicted)) * voxel_mm3,
        shared_mm3=float(np.count_nonzero(predicted & referred)) * voxel_mm3,
    )


class _Lesions:
    """Rows of a person's lesions, made finding by finding."""

    def __init__(
        self,
        maps: PersonMaps,
        box: tuple[slice, ...],
        matched: Sequence[MatchedFinding],
    ) -> None:
        self._matched = matched
        self._affine = maps.affine
        self._voxel_mm3 = voxel_volume_mm3(maps.affine)
        self._start = np.array([part.start for part in box], dtype=float)
        self._prediction, self._reference = maps.prediction[box], maps.reference[box]
        self._regions = None if maps.regions is None else maps.regions[box]

    def rows(self) -> Iterable[ScoredLesion]:
        """Give reference lesions, then predictions, of each finding in turn."""
        for one in self._matched:
            yield from self._references(one)
            yield from self._predictions(one)

    def _references(self, one: MatchedFinding) -> Iterable[ScoredLesion]:
        partners = _partners(one.match.pairs)
        shared = shared_voxels(one.components.referred, one.components.predicted)
        sizes = sizes_of(one.components.predicted)
        under = _majority(one.components.referred, self._prediction)
        for number, (place, n_voxels, region) in enumerate(
            self._measured(one.components.referred), 1
        ):
            hit_by = np.array(sorted(partners.get(number, ())), dtype=np.intp) - 1
            volume, predicted = n_voxels * self._voxel_mm3, int(sizes[hit_by].sum())
            hit = len(hit_by) > 0
            yield ScoredLesion(
                role=Role.REFERENCE,
                finding=one.finding,
                number=number,
                status=Status.HIT if hit else Status.MISSED,
                n_partners=len(hit_by),
                n_voxels=n_voxels,
                volume_mm3=volume,
                diameter_mm=sphere_diameter_mm(volume),
                size_class=size_class(sphere_diameter_mm(volume)),
                centroid_mm=place,
                region=region,
                dice=_dice(shared[number - 1, hit_by].sum(), n_voxels + predicted) if hit else None,
                volume_error_mm3=predicted * self._voxel_mm3 - volume if hit else None,
                lies_on=one.finding.name if hit else _name(int(under[number - 1])),
            )

    def _predictions(self, one: MatchedFinding) -> Iterable[ScoredLesion]:
        partners = _partners(tuple((b, a) for a, b in one.match.pairs))
        places = places_of(one, self._reference)
        for number, (place, n_voxels, region) in enumerate(
            self._measured(one.components.predicted), 1
        ):
            n_partners = len(partners.get(number, ()))
            volume = n_voxels * self._voxel_mm3
            unscored = Status.IGNORED if number in one.match.ignored else Status.FALSE
            yield ScoredLesion(
                role=Role.PREDICTION,
                finding=one.finding,
                number=number,
                status=Status.HIT if n_partners else unscored,
                n_partners=n_partners,
                n_voxels=n_voxels,
                volume_mm3=volume,
                diameter_mm=sphere_diameter_mm(volume),
                size_class=size_class(sphere_diameter_mm(volume)),
                centroid_mm=place,
                region=region,
                dice=None,
                volume_error_mm3=None,
                lies_on=_name(int(places[number - 1])),
            )

    def _measured(
        self, instances: InstanceMap
    ) -> Iterable[tuple[tuple[float, float, float], int, int]]:
        """Centroid in mm, number of voxels and region of instance 1, 2, …."""
        sizes = sizes_of(instances)
        places = voxel_to_world(centroids_voxel(instances) + self._start, self._affine)
        regions = np.zeros(len(sizes), dtype=np.intp)
        if self._regions is not None:
            regions = _majority(instances, self._regions)
        for place, size, region in zip(places, sizes, regions, strict=True):
            yield (float(place[0]), float(place[1]), float(place[2])), int(size), int(region)


def _name(place: int) -> str:
    """Name of what lies there: 0 nothing, 1 to 3 the findings, 4 or 255 the ignore zone."""
    if place == 0:
        return "nothing"
    return Finding(place).name if place <= len(Finding) else "ignored"


def _dice(shared: np.integer, total: int) -> float:
    return float(2 * shared / total)


def _partners(pairs: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
    partners: dict[int, set[int]] = {}
    for first, second in pairs:
        partners.setdefault(first, set()).add(second)
    return partners


def _majority(instances: InstanceMap, labels: IntMap) -> npt.NDArray[np.intp]:
    """Most frequent label above 0 under instance 1, 2, …; 0 where there is none."""
    n = int(instances.max(initial=0))
    inside = (instances > 0) & (labels > 0)
    found, column = np.unique(labels[inside], return_inverse=True)
    if not len(found):
        return np.zeros(n, dtype=np.intp)
    cells = (instances[inside].astype(np.intp) - 1) * len(found) + column
    counts = np.bincount(cells, minlength=n * len(found)).reshape(n, len(found))
    return np.where(counts.any(axis=1), found[counts.argmax(axis=1)], 0).astype(np.intp)
