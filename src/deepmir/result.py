"""One person's result: what was found out, and how it becomes files.

with reserve(out, "01", overwrite=False) as reserved:     # refuses before anything is computed
    result = ...
    reserved.write(result, save_probabilities=True)       # all files appear together
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deepmir.errors import OutputError
from deepmir.evaluation.detection import Score
from deepmir.io.atomic import stage_outputs, write_text, writing
from deepmir.io.bids import (
    DERIVATIVE_NAME,
    DatasetKind,
    SubjectOutputs,
    check_dataset_folder,
    derivative_sidecar_text,
    sidecar_path,
    write_dataset_files,
)
from deepmir.io.nifti import write_map
from deepmir.io.provenance import Provenance, StageTimer, peak_memory_bytes, provenance_text
from deepmir.io.tables import Cell, Column, write_table
from deepmir.labels import Finding
from deepmir.lesions import Certainty, Lesion, MarsRow, MeasuredLesions, SizeClass, Summary
from deepmir.model.weights import Weights
from deepmir.preprocessing.run import Prepared
from deepmir.report.subject import render_subject
from deepmir.report.view import SubjectView
from deepmir.volume import Notice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SubjectResult:
    """Everything that was found out about one person; nothing of it is written yet."""

    subject: str  # label without "sub-"
    prepared: Prepared
    measured: MeasuredLesions | None
    """None where the scans cannot tell any finding (T2w alone)."""
    probabilities: npt.NDArray[np.floating] | None
    """(3, I, J, K) in the order of Finding; None where a person drew the findings."""
    thresholds: tuple[tuple[Finding, float], ...]
    mars: tuple[MarsRow, ...]
    summary: Summary
    weights: Weights
    provenance: Provenance

    @property
    def lesions(self) -> tuple[Lesion, ...]:
        """All lesions, by finding, then the largest first."""
        return () if self.measured is None else self.measured.lesions

    def findings(self) -> npt.NDArray[np.uint8]:
        """Label map (I, J, K) of the findings; all 0 where the scans cannot tell any."""
        if self.measured is None:
            return np.zeros(self.prepared.grid.shape, dtype=np.uint8)
        return self.measured.findings()

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What a user must be told."""
        return self.provenance.notices

    @property
    def outputs(self) -> SubjectOutputs:
        """Names of this person's files, relative to the output folder."""
        return SubjectOutputs(self.subject)


@dataclass(frozen=True, slots=True)
class Reserved:
    """A place where one person's result may be written, once."""

    out: Path
    staging: Path

    def write(
        self, result: SubjectResult, *, save_probabilities: bool, evaluation: Score | None = None
    ) -> None:
        """Write all files of a result; they appear when the reservation ends.

        Parameters
        ----------
        result : SubjectResult
        save_probabilities : bool
            Also write a map of probabilities for each finding.
        evaluation : Score, optional
            Shown in the report, where the truth is known.

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        timer = StageTimer()
        with timer.stage("write"):
            write_dataset_files(
                self.staging, kind=DatasetKind.DERIVATIVE, name=DERIVATIVE_NAME, out=self.out
            )
            _write_maps(result, self.staging, save_probabilities=save_probabilities)
            _write_tables(result, self.staging)
        with timer.stage("report"):
            page = render_subject(view_of(result, evaluation=evaluation))
            write_text(self.staging / result.outputs.report, page)
        record = replace(
            result.provenance,
            stages=(*result.provenance.stages, *timer.stages),
            peak_memory_bytes=peak_memory_bytes(),
        )
        write_text(self.staging / result.outputs.provenance, provenance_text(record))


@contextmanager
def reserve(out: Path, subject: str, *, overwrite: bool) -> Iterator[Reserved]:
    """Make sure that a result can be written, before it is computed.

    Parameters
    ----------
    out : Path
        Folder of the results; made when absent.
    subject : str
        Label of the person.
    overwrite : bool
        Replace an earlier result of this person; it stays until the new one is complete.

    Raises
    ------
    OutputError
        If the folder holds another data set or, without `overwrite`, this person's result;
        if it cannot be written to. Nothing of the new result is left then.
    """
    with writing(out):
        check_dataset_folder(out, DatasetKind.DERIVATIVE)
    staging = out
    try:
        own = SubjectOutputs(subject).files
        with stage_outputs(out, own=own, overwrite=overwrite) as staging:
            yield Reserved(out, staging)
    except OutputError as error:
        # a temporary name means nothing to a reader
        raise OutputError(str(error).replace(str(staging), str(out))) from error


def write_result(
    result: SubjectResult,
    out: Path | str,
    *,
    overwrite: bool = False,
    save_probabilities: bool = True,
) -> None:
    """Write one person's result as BIDS derivatives: all of its files, or none.

    Parameters
    ----------
    result : SubjectResult
    out : Path or str
        Folder of the results; made when absent.
    overwrite : bool
        Replace an earlier result of this person.
    save_probabilities : bool
        Also write a map of probabilities for each finding.

    Raises
    ------
    OutputError
        If the result is there already, or a file cannot be written.
    """
    with reserve(Path(out), result.subject, overwrite=overwrite) as reserved:
        reserved.write(result, save_probabilities=save_probabilities)


def view_of(result: SubjectResult, *, evaluation: Score | None = None) -> SubjectView:
    """Return what the page of one person shows."""
    prepared, card = result.prepared, result.weights.manifest.card
    nothing = MeasuredLesions((), np.zeros(prepared.grid.shape, dtype=np.int32))
    return SubjectView(
        provenance=result.provenance,
        measured=result.measured or nothing,
        summary=result.summary,
        mars=result.mars,
        scans=prepared.aligned,
        regions=prepared.regions,
        brain_mask=prepared.brain_mask,
        regions_seen=prepared.brain_coverage.share,
        alignments=prepared.alignments,
        thresholds=result.thresholds,
        weights_card=(
            ("what it is", card.summary),
            ("trained on", card.training_data),
            ("measured", card.evaluation),
            ("limits", card.limits),
            ("licence", card.licence),
        ),
        evaluation=evaluation,
    )


# ---- maps ------------------------------------------------------------------


def _write_maps(result: SubjectResult, folder: Path, *, save_probabilities: bool) -> None:
    prepared, names = result.prepared, result.outputs
    like = prepared.reference
    maps: dict[Path, tuple[npt.NDArray[np.generic], type[np.generic], str]] = {
        names.regions: (prepared.regions, np.uint8, "Region of every voxel of the brain"),
        names.brain_mask: (prepared.brain_mask, np.uint8, "Mask of the brain"),
    }
    if result.measured is not None:
        text = "Findings: 1 CMB, 2 IRON, 3 CALCIFICATION"
        maps[names.findings] = (result.measured.findings(), np.uint8, text)
    if save_probabilities and result.probabilities is not None:
        for finding, values in zip(Finding, result.probabilities, strict=True):
            text = f"Probability of {finding.name}, 0 to 1"
            maps[names.probability(finding)] = (values, np.float32, text)
    for name, (data, dtype, text) in maps.items():
        write_map(data, like, folder / name, dtype=dtype)
        sidecar = _sidecar_text(result, text, mask=name == names.brain_mask)
        write_text(folder / sidecar_path(name), sidecar)


def _sidecar_text(result: SubjectResult, description: str, *, mask: bool) -> str:
    sources = [Path(file.path) for file in result.provenance.inputs]
    reference = Path(result.prepared.reference.name)
    return derivative_sidecar_text(
        description,
        sources=[path for path in sources if path.is_absolute()],
        reference=reference if reference.is_file() else None,
        mask=mask,
    )


# ---- tables ----------------------------------------------------------------


def _write_tables(result: SubjectResult, folder: Path) -> None:
    names = result.outputs
    if result.measured is not None:  # an empty table would say "looked, found none"
        rows = [[value(lesion) for _, value in LESION_FIELDS] for lesion in result.lesions]
        write_table(folder / names.lesions, [column for column, _ in LESION_FIELDS], rows)
    mars = [[value(row) for _, value in MARS_FIELDS] for row in result.mars]
    write_table(folder / names.mars, [column for column, _ in MARS_FIELDS], mars)


_CERTAINTY = {
    Certainty.DEFINITE.value: "a definite finding (MARS)",
    Certainty.POSSIBLE.value: "a possible finding (MARS), or one that the scans cannot settle",
}
_SIZES = {
    SizeClass.SMALL.value: "BOMBS small",
    SizeClass.LARGE.value: "BOMBS large",
    SizeClass.EXCEEDING.value: "larger than a microbleed can be by definition",
}
_CHI = "against the tissue 2 to 4 mm around it"

LESION_FIELDS: tuple[tuple[Column, Callable[[Lesion], Cell]], ...] = (
    (Column("index", "Number of the lesion, as in the report"), lambda x: x.index),
    (
        Column(
            "finding",
            "What it is",
            levels={
                "CMB": "cerebral microbleed",
                "IRON": "non-haemorrhage iron deposit",
                "CALCIFICATION": "calcification",
            },
        ),
        lambda x: x.finding.name,
    ),
    (
        Column("counted", "Whether it counts; false for iron outside the basal ganglia"),
        lambda x: x.counted,
    ),
    (Column("certainty", "Grade", levels=_CERTAINTY), lambda x: x.certainty.value),
    (Column("region", "Region number as in desc-regions_dseg, 0 for none"), lambda x: x.region),
    (Column("region_name", "Region, with its side where it has one"), lambda x: x.region_name),
    (
        Column("compartment", "lobar, deep or infratentorial (MARS)"),
        lambda x: x.compartment and x.compartment.value,
    ),
    (Column("side", "left, right or midline"), lambda x: x.side and x.side.value),
    *(
        (
            Column(f"{axis}_mm", f"Centroid in scanner space, towards {end}", "mm", decimals=2),
            lambda x, at=at: x.centroid_mm[at],
        )
        for at, (axis, end) in enumerate((("x", "right"), ("y", "anterior"), ("z", "superior")))
    ),
    *(
        (
            Column(
                f"{axis}_voxel",
                f"Centroid as index {axis}, from 0, in the reference scan as stored",
                decimals=2,
            ),
            lambda x, at=at: x.centroid_voxel[at],
        )
        for at, axis in enumerate("ijk")
    ),
    (Column("n_voxels", "Size in voxels of the reference scan"), lambda x: x.n_voxels),
    (Column("volume_mm3", "Volume", "mm3", decimals=2), lambda x: x.volume_mm3),
    (
        Column("diameter_mm", "Diameter of the sphere of equal volume", "mm", decimals=2),
        lambda x: x.diameter_mm,
    ),
    (Column("size_class", "Size class", levels=_SIZES), lambda x: x.size_class.value),
    (Column("exceeds_10mm", "Whether the diameter exceeds 10 mm"), lambda x: x.exceeds_10mm),
    (
        Column("mean_chi_ppm", f"Mean susceptibility {_CHI}", "ppm", decimals=4),
        lambda x: x.mean_chi_ppm,
    ),
    (
        Column("peak_chi_ppm", f"Most extreme susceptibility {_CHI}", "ppm", decimals=4),
        lambda x: x.peak_chi_ppm,
    ),
    (
        Column("total_chi_ppm_mm3", "Mean susceptibility times volume", "ppm mm3", decimals=3),
        lambda x: x.total_chi_ppm_mm3,
    ),
    (
        Column(
            "swi_contrast",
            "1 - mean SWI signal / that of the tissue around it: 0 not seen, 1 black",
            decimals=3,
        ),
        lambda x: x.swi_contrast,
    ),
    (
        Column(
            "probability",
            "That it is such a finding, calibrated; n/a where a person drew the lesion",
            decimals=3,
        ),
        lambda x: x.probability,
    ),
)
"""Columns of the table of lesions, and the value of each for a lesion."""

MARS_FIELDS: tuple[tuple[Column, Callable[[MarsRow], Cell]], ...] = (
    (
        Column(
            "level",
            "What the row counts",
            levels={
                "region": "one region of the Microbleed Anatomical Rating Scale",
                "compartment": "sum of its regions",
                "unlocated": "microbleeds further than 5 mm from every region",
                "total": "all microbleeds",
            },
        ),
        lambda row: row.level,
    ),
    (Column("name", "Region or compartment"), lambda row: row.name),
    (
        Column("compartment", "lobar, deep or infratentorial"),
        lambda row: row.compartment and row.compartment.value,
    ),
    (
        Column("definite_left", "Definite microbleeds on the left; n/a: no such side, or unseen"),
        lambda row: row.definite.left,
    ),
    (Column("definite_right", "Definite, right"), lambda row: row.definite.right),
    (Column("definite_midline", "Definite, unpaired"), lambda row: row.definite.midline),
    (Column("possible_left", "Possible microbleeds on the left"), lambda row: row.possible.left),
    (Column("possible_right", "Possible, right"), lambda row: row.possible.right),
    (Column("possible_midline", "Possible, unpaired"), lambda row: row.possible.midline),
    (Column("total", "Definite and possible, all sides"), lambda row: row.total),
    (
        Column("complete", "False where a part of the row lies outside the field of view"),
        lambda row: row.complete,
    ),
)
"""Columns of the MARS table, and the value of each for a row."""
