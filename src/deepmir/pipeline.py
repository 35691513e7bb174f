"""The whole flow for one person: read → prepare → segment → measure; `result` writes it.

`segment` and `measure` take scans as files or as images, return objects and write nothing.
"""

import hashlib
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from deepmir.config import Config, read_config
from deepmir.errors import InputError
from deepmir.geometry import check_same_grid
from deepmir.io.bids import check_subject, subject_from_name
from deepmir.io.nifti import read_label_map, read_mask, read_volume
from deepmir.io.provenance import (
    InputFile,
    Provenance,
    StageTimer,
    WeightsUsed,
    describe_input,
    describe_software,
    peak_memory_bytes,
)
from deepmir.io.sidecars import read_sidecars
from deepmir.labels import Finding
from deepmir.lesions import mars_table, measure_lesions, summarise, tellable_findings
from deepmir.model.weights import Weights, load_weights
from deepmir.preprocessing.run import Prepared, Progress, ignore_progress, prepare
from deepmir.preprocessing.units import QsmUnit
from deepmir.result import SubjectResult, write_result
from deepmir.segmentation import Segmentation, resolve_thresholds, segment_findings
from deepmir.volume import BoolMap, IntMap, Modality, Notice, Present, Scans, Volume

__all__ = ["PersonScans", "Source", "SubjectResult", "measure", "segment", "write_result"]

FAR_MM, FAR_DEG = 40.0, 25.0
"""Movements between two scans of a session that are larger than a head usually makes."""

Source = Path | str | Volume
"""A scan: where it lies, or the image itself."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PersonScans:
    """The scans of one person as a user gives them: any subset of the three."""

    swi: Source | None = None
    qsm: Source | None = None
    t2w: Source | None = None
    brain_mask: Path | str | BoolMap | None = None
    """On the grid of the reference scan; None: the network finds the brain."""
    qsm_unit: QsmUnit | None = None
    """Unit of the QSM; None: told from its sidecar and values, or refused."""
    subject: str | None = None
    """Label of the person; None: taken from the name of the first scan."""

    @property
    def label(self) -> str:
        """Label of the person, without ``sub-``.

        Raises
        ------
        InputError
            If `subject` is no label that BIDS allows.
        """
        if self.subject is not None:
            return check_subject(self.subject)
        for source in (self.swi, self.qsm, self.t2w):
            name = source.name if isinstance(source, Volume) else source
            if name:
                return subject_from_name(Path(name))
        return "unnamed"


def segment(  # noqa: PLR0913 - the public face: one keyword for each thing a user may have
    *,
    swi: Source | None = None,
    qsm: Source | None = None,
    t2w: Source | None = None,
    brain_mask: Path | str | BoolMap | None = None,
    qsm_unit: QsmUnit | None = None,
    subject: str | None = None,
    config: Config | Path | str | None = None,
    weights: Path | str | None = None,
    progress: Progress = ignore_progress,
) -> SubjectResult:
    """Find and measure microbleeds, iron deposits and calcifications of one person.

    Parameters
    ----------
    swi, qsm, t2w : path or Volume, optional
        The scans: any subset; at least one of `swi` and `qsm` for findings.
    brain_mask : path or (I, J, K) bool array, optional
        On the grid of the reference scan; by default the network finds the brain.
    qsm_unit : {"ppm", "ppb", "scaled-1000", "scaled-4096"}, optional
        By default that of the sidecar (`Units`) where the values allow it or cannot tell; else
        told from the values, or refused.
    subject : str, optional
        Label of the person; by default taken from the first scan's name.
    config : Config or path of a TOML file, optional
        Settings; by default those of :class:`deepmir.config.Config`.
    weights : path, optional
        Folder of another network than the released one.
    progress : callable, optional
        Told the stage at work and the share of it that is done, 0 to 1.

    Returns
    -------
    SubjectResult
        Nothing is written; :func:`write_result` does.

    Raises
    ------
    InputError, GeometryError
        If a scan or the mask is unreadable, not what it is said to be, or on a wrong grid;
        UnitError if the unit of the QSM cannot be told.
    ConfigError
        If a setting is unknown or out of range.
    WeightsError
        If the network is missing or damaged.
    """
    scans = PersonScans(
        swi=swi, qsm=qsm, t2w=t2w, brain_mask=brain_mask, qsm_unit=qsm_unit, subject=subject
    )
    run = _start(scans, config, weights, progress)
    with run.timer.stage("segment"):
        progress("segment", 0.0)
        found = segment_findings(run.prepared, run.weights, run.config, progress=progress)
    return _finish(run, scans.label, findings=found.findings if found else None, found=found)


def measure(  # noqa: PLR0913 - as `segment`
    dseg: Source,
    *,
    swi: Source | None = None,
    qsm: Source | None = None,
    t2w: Source | None = None,
    brain_mask: Path | str | BoolMap | None = None,
    qsm_unit: QsmUnit | None = None,
    subject: str | None = None,
    config: Config | Path | str | None = None,
    weights: Path | str | None = None,
    progress: Progress = ignore_progress,
) -> SubjectResult:
    """Measure findings that a person has marked or corrected by hand.

    Parameters
    ----------
    dseg : path or Volume
        Label map with values of :class:`~deepmir.labels.Finding`, on the grid of the SWI or,
        without one, of the QSM.

    The others are those of :func:`segment`.

    Raises
    ------
    InputError
        If there is neither SWI nor QSM, or the label map holds another value; else as
        :func:`segment`.
    GeometryError
        If the label map lies on another grid.
    """
    scans = PersonScans(
        swi=swi, qsm=qsm, t2w=t2w, brain_mask=brain_mask, qsm_unit=qsm_unit, subject=subject
    )
    if swi is None and qsm is None:
        raise InputError(
            "findings are measured on SWI or QSM, and neither was given; pass --swi or --qsm"
        )
    run = _start(scans, config, weights, progress, dseg=dseg)
    return _finish(run, scans.label, findings=run.drawn, found=None)


# ---- stages ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What was read for one person."""

    scans: Scans
    brain_mask: BoolMap | None
    drawn: IntMap | None  # findings marked by a person
    files: tuple[InputFile, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """A run that has come as far as the prepared scans."""

    prepared: Prepared
    drawn: IntMap | None
    files: tuple[InputFile, ...]
    notices: tuple[Notice, ...]
    config: Config
    weights: Weights
    timer: StageTimer
    progress: Progress


def _start(
    scans: PersonScans,
    config: Config | Path | str | None,
    weights: Path | str | None,
    progress: Progress,
    *,
    dseg: Source | None = None,
) -> _Run:
    """Read and prepare the scans."""
    timer = StageTimer()
    settings = _settings(config)
    with timer.stage("read"):
        progress("read", 0.0)
        network = load_weights(None if weights is None else Path(weights))
        settings = _resolved(settings, network)
        inputs = _read(scans, dseg)
    with timer.stage("preprocess"):
        progress("preprocess", 0.0)
        prepared = prepare(
            inputs.scans,
            network,
            settings,
            brain_mask=inputs.brain_mask,
            qsm_unit=scans.qsm_unit,
            progress=progress,
        )
    notices = (
        *inputs.notices,
        *prepared.notices,
        *movement_notices(prepared),
        *modality_notices(prepared.present),
    )
    return _Run(prepared, inputs.drawn, inputs.files, notices, settings, network, timer, progress)


def _finish(
    run: _Run, subject: str, *, findings: IntMap | None, found: Segmentation | None
) -> SubjectResult:
    """Measure the findings and put everything together."""
    prepared = run.prepared
    with run.timer.stage("lesions"):
        run.progress("lesions", 0.0)
        measured = None
        if findings is not None:
            measured = measure_lesions(
                findings,
                scans=prepared.aligned,
                regions=prepared.regions,
                probabilities=None if found is None else found.probabilities.astype(np.float32),
                config=run.config.lesions,
            )
        lesions = () if measured is None else measured.lesions
        mars = mars_table(
            lesions,
            covered=prepared.brain_coverage.regions,
            microbleeds_told=Finding.CMB in tellable_findings(prepared.present),
        )
    return SubjectResult(
        subject=subject,
        prepared=prepared,
        measured=measured,
        probabilities=None if found is None else found.probabilities,
        thresholds=() if found is None else tuple(found.thresholds.items()),
        mars=mars,
        summary=summarise(lesions, present=prepared.present),
        weights=run.weights,
        provenance=_provenance(run, subject),
    )


def modality_notices(present: Present) -> tuple[Notice, ...]:
    """Say what cannot be told from the scans at hand.

    Parameters
    ----------
    present : tuple of bool
        Whether there are T2w, SWI and Chimap.
    """
    match present:
        case (_, False, False):
            text = (
                "T2w alone shows no microbleeds, iron deposits or calcifications: regions are "
                "given, every count is n/a; findings need SWI or QSM"
            )
        case (False, True, False):
            text = (
                "SWI alone cannot tell a calcification from a microbleed: every microbleed is "
                "graded possible, calcifications are n/a; add QSM"
            )
        case (True, True, False):
            text = "without QSM a calcification cannot be told from a microbleed: they are n/a"
        case (_, False, True):
            text = "without SWI the size of a finding is that on QSM"
        case _:
            return ()
    return (Notice("segment", text),)


def movement_notices(prepared: Prepared) -> tuple[Notice, ...]:
    """Say which scans lay so far from the reference scan that somebody should look."""
    aligned = prepared.aligned
    names = {
        scan.modality: scan.name or str(scan.modality)
        for scan in (aligned.t2w, aligned.swi, aligned.chimap)
        if scan is not None
    }
    return tuple(
        Notice(
            "preprocess",
            f"{names[found.modality]} was moved by {found.translation_mm:.0f} mm and "
            f"{found.rotation_deg:.0f} degrees onto the reference scan: is it of the same person? "
            "Look at the overlay in the report",
        )
        for found in prepared.alignments
        if found.translation_mm > FAR_MM or found.rotation_deg > FAR_DEG
    )


def _provenance(run: _Run, subject: str) -> Provenance:
    manifest = run.weights.manifest
    return Provenance(
        subject=f"sub-{subject}",
        command_line=tuple(sys.argv),
        started=run.timer.started,
        inputs=run.files,
        config=run.config,
        weights=WeightsUsed(manifest.name, manifest.version, run.weights.sha256),
        software=describe_software(),
        stages=run.timer.stages,
        peak_memory_bytes=peak_memory_bytes(),
        notices=run.notices,
    )


def _settings(config: Config | Path | str | None) -> Config:
    if isinstance(config, Config):
        return config
    return read_config(None if config is None else Path(config))


def _resolved(config: Config, weights: Weights) -> Config:
    """Put the weights' own thresholds in place of none: what is used is saved."""
    thresholds = resolve_thresholds(weights, config.segment)
    by_name = {finding.name: value for finding, value in thresholds.items()}
    return replace(config, segment=replace(config.segment, thresholds=by_name))


# ---- reading ---------------------------------------------------------------


@dataclass(slots=True)
class _Reader:
    """Reads scans, and notes what was read and what must be said."""

    files: list[InputFile] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def scan(self, source: Source | None, modality: Modality) -> Volume | None:
        """Read a scan, or take the image that was given."""
        if source is None:
            return None
        if isinstance(source, Volume):
            self.files.append(_describe_image(modality, source))
            return replace(source, modality=modality)
        volume, notices = read_volume(Path(source), modality)
        self.files.append(describe_input(modality.value, Path(source)))
        self.notices.extend(notices)
        return replace(volume, unit=_stated_unit(Path(source), modality))

    def mask(self, source: Path | str | BoolMap | None, reference: Volume) -> BoolMap | None:
        """Read a brain mask on the reference grid."""
        if source is None or isinstance(source, np.ndarray):
            return source
        mask = read_mask(Path(source), reference)
        self.files.append(describe_input("brain mask", Path(source)))
        return mask

    def drawn(self, source: Source | None, reference: Volume) -> IntMap | None:
        """Read a label map of findings on the reference grid."""
        if source is None:
            return None
        if isinstance(source, Volume):
            check_same_grid(
                reference.grid,
                source.grid,
                first_name=reference.name or "the reference scan",
                second_name=source.name or "the label map",
            )
            self.files.append(_describe_image(Modality.DSEG, source))
            return source.data.astype(np.int32)
        labels = read_label_map(Path(source), reference=reference, allowed=tuple(Finding))
        self.files.append(describe_input("label map", Path(source)))
        return labels.data.astype(np.int32)


def _read(given: PersonScans, dseg: Source | None) -> _Inputs:
    if given.swi is None and given.qsm is None and given.t2w is None:
        raise InputError("no scan was given; pass at least one of --swi, --qsm and --t2w")
    reader = _Reader()
    scans = Scans(
        swi=reader.scan(given.swi, Modality.SWI),
        chimap=reader.scan(given.qsm, Modality.CHIMAP),
        t2w=reader.scan(given.t2w, Modality.T2W),
    )
    mask = reader.mask(given.brain_mask, scans.reference)
    drawn = reader.drawn(dseg, scans.reference)
    return _Inputs(scans, mask, drawn, tuple(reader.files), tuple(reader.notices))


def _stated_unit(scan: Path, modality: Modality) -> str:
    """Return the unit that the sidecar of a Chimap gives; "" where there is none."""
    if modality is not Modality.CHIMAP:
        return ""
    units = read_sidecars(scan).get("Units")
    return "" if units is None else str(units.value).strip()


def _describe_image(modality: Modality, image: Volume) -> InputFile:
    data = np.ascontiguousarray(image.data)
    sha256 = hashlib.sha256(data.tobytes()).hexdigest()
    return InputFile(modality.value, image.name or "an image in memory", data.nbytes, sha256)
