"""Preprocessing: scans as read in, channels on one grid with brain mask and regions out.

align ─► unit of QSM ─► anatomy part at 2 mm ─► plausibility ─► N4 ─► scale
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepmir.config import Config, PreprocessConfig
from deepmir.errors import GeometryError, InputError
from deepmir.geometry import Grid
from deepmir.labels import ALL_REGION_NUMBERS
from deepmir.model.predict import open_network
from deepmir.model.weights import Weights
from deepmir.preprocessing.anatomy import Anatomy, find_anatomy
from deepmir.preprocessing.biasfield import correct_bias
from deepmir.preprocessing.normalize import scale_chi, scale_swi, scale_t2w
from deepmir.preprocessing.nuclei import with_nuclei
from deepmir.preprocessing.plausibility import check_chimap, check_intensities, check_polarity
from deepmir.preprocessing.register import Aligned, Alignment, align
from deepmir.preprocessing.units import QsmUnit, to_ppm
from deepmir.volume import BoolMap, FloatMap, Modality, Notice, Present, Scans, Volume

__all__ = ["Alignment", "Coverage", "Prepared", "Progress", "ignore_progress", "prepare"]

Progress = Callable[[str, float], None]
"""Told the stage at work and the share of it that is done, 0 to 1."""

MIN_REGION_MM3 = 100.0
"""A region of which less than this is seen counts as outside the field of view."""
_USUAL_BRAIN_ML = 1000.0  # a small adult's; less than this is hardly the whole of it
_POSSIBLE_BRAIN_ML = (700.0, 3000.0)  # with CSF; the ICBM 152 template has 2200


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the brain the reference scan shows."""

    regions: frozenset[int]  # region numbers in the field of view; others are n/a
    brain_ml: float
    complete: bool  # the brain touches no end of the field of view along the slice axis
    share: float  # of all regions of the label table

    def __contains__(self, number: object) -> bool:
        """Tell whether a region is in the field of view."""
        return number in self.regions


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Three modalities on one grid, ready for the findings part."""

    channels: FloatMap  # (3, I, J, K): T2w, swi, Chimap, scaled; zeros where not present
    present: Present
    brain_mask: BoolMap
    brain_probability: FloatMap
    basal_ganglia_probability: FloatMap
    regions: npt.NDArray[np.uint8]  # region numbers of deepmir.labels, 0 outside
    aligned: Scans  # unscaled, as acquired, χ in ppm
    reference: Volume
    alignments: tuple[Alignment, ...]
    brain_coverage: Coverage
    notices: tuple[Notice, ...]

    @property
    def grid(self) -> Grid:
        """The grid of all maps."""
        return self.reference.grid


def ignore_progress(stage: str, fraction: float) -> None:
    """Tell nobody."""


def prepare(
    scans: Scans,
    weights: Weights,
    config: Config,
    *,
    brain_mask: BoolMap | None = None,
    qsm_unit: QsmUnit | None = None,
    progress: Progress = ignore_progress,
) -> Prepared:
    """Bring the scans of one person onto the reference grid and scale them for the network.

    Parameters
    ----------
    scans
        At least one of T2w, swi and Chimap, each on its own grid.
    brain_mask : (I, J, K) bool array
        On the reference grid; None: the anatomy part finds the brain.
    qsm_unit
        Unit of the Chimap; None: told from its values, or refused.

    Raises
    ------
    GeometryError
        If there is no scan, scans do not overlap, or the mask is not on the reference grid.
    InputError
        If a scan is not what it is said to be, has no brain, or is registered poorly where
        the config refuses that; UnitError if the unit of the Chimap cannot be told.
    WeightsError
        If the network cannot be run.
    """
    _check_mask(brain_mask, scans.reference)
    checked = check_scans(scans)
    progress("preprocess", 0.05)
    aligned, alignments, registration_notices = align_scans(scans, config.preprocess)
    aligned, unit_notices = _in_ppm(aligned, brain_mask, qsm_unit)
    progress("preprocess", 0.3)
    network = open_network(weights, "anatomy", config.segment)
    anatomy = find_anatomy(aligned, network, brain_mask=brain_mask)
    _check_inverted(aligned, anatomy)
    progress("preprocess", 0.6)
    channels = scaled_channels(aligned, anatomy.brain_mask, config.preprocess)
    if weights.has("nuclei"):
        outlines = open_network(weights, "nuclei", config.segment)
        spacing = aligned.reference.grid.spacing_mm
        anatomy = with_nuclei(anatomy, channels, scans.present, spacing, outlines)
    coverage = brain_coverage(anatomy, aligned.reference.grid)
    progress("preprocess", 1.0)
    return Prepared(
        channels=channels,
        present=scans.present,
        brain_mask=anatomy.brain_mask,
        brain_probability=anatomy.brain_probability,
        basal_ganglia_probability=anatomy.basal_ganglia_probability,
        regions=anatomy.regions,
        aligned=aligned,
        reference=aligned.reference,
        alignments=alignments,
        brain_coverage=coverage,
        notices=(
            *checked,
            *registration_notices,
            *unit_notices,
            *coverage_notices(coverage, aligned.reference.grid),
        ),
    )


def check_scans(scans: Scans) -> tuple[Notice, ...]:
    """Check each scan by itself, before anything is computed.

    Raises
    ------
    InputError
        If one is not what it is said to be.
    """
    notices: list[Notice] = []
    for scan in (scans.t2w, scans.swi):
        if scan is not None:
            notices.extend(check_intensities(scan))
    if scans.chimap is not None:
        check_chimap(scans.chimap, None)
    return tuple(notices)


def align_scans(
    scans: Scans, config: PreprocessConfig
) -> tuple[Scans, tuple[Alignment, ...], tuple[Notice, ...]]:
    """Bring all scans onto the grid of the reference scan.

    Raises
    ------
    GeometryError
        If two scans do not overlap and cannot be brought together.
    InputError
        If a registration is poor and the config refuses that.
    """
    reference = scans.reference
    results = [_aligned(scan, reference, config) for scan in (scans.t2w, scans.swi, scans.chimap)]
    t2w, swi, chimap = (None if result is None else result.volume for result in results)
    found = [result for result in results if result is not None]
    return (
        Scans(t2w=t2w, swi=swi, chimap=chimap),
        tuple(result.alignment for result in found),
        tuple(notice for result in found for notice in result.notices),
    )


def scaled_channels(aligned: Scans, mask: BoolMap, config: PreprocessConfig) -> FloatMap:
    """Correct the receive field of T2w and SWI, and scale all: (3, I, J, K).

    Raises
    ------
    InputError
        If the brain is empty or constant on a scan.
    """
    grid = aligned.reference.grid
    channels = np.zeros((3, *grid.shape), dtype=np.float32)
    scalers = (scale_t2w, scale_swi, scale_chi)
    for index, scan in enumerate((aligned.t2w, aligned.swi, aligned.chimap)):
        if scan is None:
            continue
        data = scan.data.astype(np.float32, copy=False)
        if config.bias_correction and scan.modality is not Modality.CHIMAP:
            data = correct_bias(data, mask, scan.affine, shrink=config.bias_shrink)
        name = scan.name or f"the {scan.modality} scan"
        channels[index] = scalers[index](data, mask, spacing_mm=grid.spacing_mm, name=name)
    return channels


def brain_coverage(anatomy: Anatomy, grid: Grid) -> Coverage:
    """Tell which regions of the label table are in the field of view."""
    counts = np.bincount(anatomy.regions.ravel(), minlength=256)
    needed = max(MIN_REGION_MM3 / grid.voxel_volume_mm3, 1)
    seen = frozenset(number for number in ALL_REGION_NUMBERS if counts[number] >= needed)
    ends = anatomy.brain_mask[:, :, [0, -1]]
    return Coverage(
        regions=seen,
        brain_ml=float(anatomy.brain_mask.sum() * grid.voxel_volume_mm3 / 1000),
        complete=not ends.any(),
        share=len(seen) / len(ALL_REGION_NUMBERS),
    )


def coverage_notices(coverage: Coverage, grid: Grid) -> tuple[Notice, ...]:
    """Say what is not in the field of view, or that the voxel size can hardly be right."""
    seen_ml = f"the reference scan shows {coverage.brain_ml:.0f} ml of brain"
    low, high = _POSSIBLE_BRAIN_ML
    if coverage.brain_ml > high or (coverage.share == 1 and coverage.brain_ml < low):
        size = " × ".join(f"{length:.3g}" for length in grid.spacing_mm)
        text = (
            f"{seen_ml} with {coverage.share:.0%} of its regions, where an adult has 1000 to 2000: "
            f"check its voxel size, {size} mm by its header, and the brain mask if you gave one; "
            "sizes and regions rest on them"
        )
        return (Notice("preprocess", text),)
    if coverage.complete and coverage.brain_ml >= _USUAL_BRAIN_ML:
        return ()
    text = f"{seen_ml} and {coverage.share:.0%} of the regions; counts of the others are n/a"
    return (Notice("preprocess", text, "info"),)


def _aligned(scan: Volume | None, reference: Volume, config: PreprocessConfig) -> Aligned | None:
    if scan is None:
        return None
    if scan is reference:
        return Aligned(scan, Alignment(scan.modality, "identity", 1.0))
    return align(scan, reference, config)


def _in_ppm(
    aligned: Scans, brain_mask: BoolMap | None, unit: QsmUnit | None
) -> tuple[Scans, tuple[Notice, ...]]:
    if aligned.chimap is None:
        return aligned, ()
    chimap, notices = to_ppm(aligned.chimap, brain=brain_mask, unit=unit)
    return Scans(t2w=aligned.t2w, swi=aligned.swi, chimap=chimap), notices


def _check_mask(mask: BoolMap | None, reference: Volume) -> None:
    if mask is None:
        return
    if mask.shape != reference.data.shape:
        raise GeometryError(
            f"the brain mask is {mask.shape}, but the reference scan "
            f"{reference.name or reference.modality} is {reference.data.shape}; "
            "make the mask on that scan's grid"
        )
    if not mask.any():
        raise InputError("the brain mask is empty; leave it out, and the network finds the brain")


def _check_inverted(aligned: Scans, anatomy: Anatomy) -> None:
    if aligned.chimap is not None:
        check_polarity(
            aligned.chimap.data.astype(np.float32, copy=False),
            anatomy.regions,
            spacing_mm=aligned.reference.grid.spacing_mm,
            name=aligned.chimap.name or "the QSM",
        )
