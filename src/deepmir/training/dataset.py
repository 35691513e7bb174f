"""A study as training data: a BIDS data set of scans, with reference label maps in derivatives.

    DATA/sub-01/[ses-1/]anat/*_swi, *_Chimap, *_T2w         any subset with swi or Chimap
    DATA/derivatives/NAME/sub-01/[ses-1/]anat/*_desc-findings_dseg.nii.gz

Everything that is wrong is found before anything is computed, and told in one message.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepmir.errors import DeepmirError, InputError
from deepmir.io.nifti import read_label_map, read_volume
from deepmir.labels import Finding
from deepmir.lesions import label_instances
from deepmir.model.losses import IGNORE
from deepmir.volume import Modality, Present, Volume

LABELS_ENDING = "_desc-findings_dseg.nii.gz"
_PARAMETERS_ENDING = "_desc-simulation_parameters.json"
_SCAN = re.compile(r"_(swi|Chimap|T2w)\.nii(\.gz)?$")
_TOLD_AT_ONCE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPerson:
    """Files of one person, or of one session of a person."""

    name: str  # "sub-01" or "sub-01_ses-1"
    group: str  # persons of one group are never split between training and test
    labels: Path | None = None  # None: nobody has labelled this person
    swi: Path | None = None
    chimap: Path | None = None
    t2w: Path | None = None

    @property
    def subject(self) -> str:
        """Label of the person, without ``sub-``."""
        return self.name.partition("_")[0].removeprefix("sub-")

    @property
    def reference(self) -> Path:
        """Scan on whose grid the labels lie.

        Raises
        ------
        InputError
            If there is neither SWI nor QSM.
        """
        found = self.swi or self.chimap
        if found is None:
            raise InputError(f"{self.name} has neither SWI nor QSM; leave it out by --exclude")
        return found

    @property
    def present(self) -> Present:
        """Whether there are T2w, swi and Chimap, in the network's order."""
        return self.t2w is not None, self.swi is not None, self.chimap is not None

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Names of the scans that are there, in the network's order."""
        kinds = ("T2w", "swi", "Chimap")
        return tuple(kind for kind, there in zip(kinds, self.present, strict=True) if there)


@dataclass(frozen=True, slots=True)
class PersonSummary:
    """What was found out about one person's labels when they were checked."""

    name: str
    group: str
    contrasts: tuple[str, ...]
    lesions: tuple[int, int, int]  # of each finding, by 26 neighbours

    @property
    def load(self) -> int:
        """Number of microbleeds and iron deposits, by which folds are stratified."""
        return self.lesions[0] + self.lesions[1]


def is_bids(folder: Path) -> bool:
    """Tell a BIDS data set from a folder of prepared cases or of anatomies."""
    return any(path.is_dir() for path in folder.glob("sub-*"))


def list_persons(
    data: Path,
    *,
    labels: Path | None = None,
    group_by: str = "auto",
    exclude: Sequence[str] = (),
) -> tuple[LabelledPerson, ...]:
    """List the persons of a data set with their scans and label maps, sorted by name.

    Parameters
    ----------
    data : Path
        Folder with ``sub-*``.
    labels : Path, optional
        Folder with the label maps; by default the only one in ``derivatives`` that has some.
    group_by : str
        ``person``; a column of ``participants.tsv``; or ``auto``: the head a simulated person
        was made from, else the person.
    exclude : sequence of str
        Persons to leave out, as ``01`` or ``sub-01``.

    Raises
    ------
    InputError
        If there is no person or no label map, a person has no label map, no SWI and QSM, or
        two scans of one kind, or the grouping is unknown.
    """
    sessions = _sessions(data, exclude)
    source = _labels_folder(data) if labels is None else labels
    groups = _groups(data, source, group_by)
    persons: list[LabelledPerson] = []
    wrong: list[str] = []
    for folder in sessions:
        name = "_".join(folder.relative_to(data).parts)
        try:
            persons.append(_person(name, folder, source, data, groups))
        except InputError as error:
            wrong.append(str(error))
    _refuse(wrong, str(data))
    return tuple(persons)


def list_scans(data: Path, *, exclude: Sequence[str] = ()) -> tuple[LabelledPerson, ...]:
    """List the persons of a data set with their scans, without asking for label maps.

    Raises
    ------
    InputError
        If there is no person, or one has no SWI and QSM, or two scans of one kind.
    """
    persons: list[LabelledPerson] = []
    wrong: list[str] = []
    for folder in _sessions(data, exclude):
        name = "_".join(folder.relative_to(data).parts)
        try:
            scans = _needed_scans(name, folder)
        except InputError as error:
            wrong.append(str(error))
        else:
            persons.append(_with_scans(LabelledPerson(name=name, group=name), scans))
    _refuse(wrong, str(data), to="predicted")
    return tuple(persons)


def check_persons(persons: Sequence[LabelledPerson]) -> tuple[PersonSummary, ...]:
    """Read every scan and label map, and count the findings; persons without any are kept.

    Raises
    ------
    InputError
        If a file cannot be read, labels lie on another grid than the scan, or a label is not
        in the table; all such persons are named.
    """
    summaries: list[PersonSummary] = []
    wrong: list[str] = []
    for person in persons:
        try:
            summaries.append(check_person(person))
        except DeepmirError as error:
            wrong.append(f"{person.name}: {error}")
    _refuse(wrong, "the data set")
    return tuple(summaries)


def check_person(person: LabelledPerson) -> PersonSummary:
    """Read the scans and the label map of one person, and count the findings.

    Raises
    ------
    InputError, GeometryError
        As :func:`check_persons`.
    """
    for path, modality in ((person.swi, Modality.SWI), (person.chimap, Modality.CHIMAP)):
        if path is not None and path != person.reference:
            read_volume(path, modality)
    if person.t2w is not None:
        read_volume(person.t2w, Modality.T2W)
    modality = Modality.SWI if person.swi is not None else Modality.CHIMAP
    reference, _ = read_volume(person.reference, modality)
    if person.labels is None:
        return PersonSummary(person.name, person.group, person.contrasts, (0, 0, 0))
    labels = read_reference_labels(person, reference)
    cmb, iron, calcification = (
        int(label_instances(labels.data == finding, connectivity=26).max(initial=0))
        for finding in Finding
    )
    return PersonSummary(person.name, person.group, person.contrasts, (cmb, iron, calcification))


def read_reference_labels(person: LabelledPerson, reference: Volume | None = None) -> Volume:
    """Read a person's label map: findings, and 255 where nothing can be told.

    Raises
    ------
    InputError, GeometryError
        If the person has none, or as :func:`deepmir.io.nifti.read_label_map`.
    """
    if person.labels is None:
        raise InputError(f"{person.name} has no label map; name the folder that has it by --labels")
    return read_label_map(person.labels, reference=reference, allowed=(*Finding, IGNORE))


def summary_text(summaries: Sequence[PersonSummary]) -> str:
    """Return what was found, in one line for people."""
    totals = np.sum([summary.lesions for summary in summaries], axis=0)
    without = sum(summary.load == 0 for summary in summaries)
    groups = len({summary.group for summary in summaries})
    counts = ", ".join(f"{n} {finding.name}" for n, finding in zip(totals, Finding, strict=True))
    return (
        f"{len(summaries)} persons of {groups} groups: {counts}; {without} persons without CMB "
        "and IRON (kept: they teach restraint)"
    )


# ---- files ---------------------------------------------------------------------------------


def _session_folders(data: Path) -> Iterator[Path]:
    for subject in sorted(path for path in data.glob("sub-*") if path.is_dir()):
        sessions = sorted(path for path in subject.glob("ses-*") if path.is_dir())
        yield from sessions or [subject]


def _sessions(data: Path, exclude: Sequence[str]) -> list[Path]:
    """Folders of all sessions but those of the excluded persons.

    Raises
    ------
    InputError
        If there is none.
    """
    left_out = {f"sub-{name.removeprefix('sub-')}" for name in exclude}
    sessions = [path for path in _session_folders(data) if _subject_of(path) not in left_out]
    if not sessions:
        raise InputError(
            f"{data} holds no person (no sub-* folder with scans); wanted a BIDS data set such "
            "as `deepmir simulate` writes"
        )
    return sessions


def _subject_of(folder: Path) -> str:
    return folder.parent.name if folder.name.startswith("ses-") else folder.name


def _labels_folder(data: Path) -> Path:
    pattern = f"sub-*/**/*{LABELS_ENDING}"
    found = sorted(
        folder for folder in data.glob("derivatives/*") if next(folder.glob(pattern), None)
    )
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            f"{data} has no label maps: no derivatives/*/sub-*/anat/*{LABELS_ENDING}; name the "
            "folder that has them by --labels"
        )
    names = ", ".join(folder.name for folder in found)
    raise InputError(
        f"{data} has label maps in {len(found)} derivatives ({names}); choose one by --labels, "
        f"such as --labels {found[0]}"
    )


def _person(
    name: str, folder: Path, source: Path, data: Path, groups: "_Grouping"
) -> LabelledPerson:
    scans = _needed_scans(name, folder)
    within = folder.relative_to(data)
    found = sorted((source / within).glob(f"**/*{LABELS_ENDING}"))
    if len(found) != 1:
        there = "no label map" if not found else f"{len(found)} label maps"
        raise InputError(f"{name} has {there} (*{LABELS_ENDING}) in {source / within}")
    person = LabelledPerson(name=name, group=groups.of(name, found[0]), labels=found[0])
    return _with_scans(person, scans)


def _with_scans(person: LabelledPerson, scans: Mapping[str, Path]) -> LabelledPerson:
    return replace(person, swi=scans.get("swi"), chimap=scans.get("Chimap"), t2w=scans.get("T2w"))


def _needed_scans(name: str, folder: Path) -> dict[str, Path]:
    """Find the scans of one person, SWI or QSM at least.

    Raises
    ------
    InputError
        If there is neither, or two of one kind.
    """
    scans = _scans(name, folder)
    if not scans.keys() & {"swi", "Chimap"}:
        raise InputError(f"{name} has neither swi nor Chimap in {folder}")
    return scans


def _scans(name: str, folder: Path) -> dict[str, Path]:
    by_kind: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted([*folder.glob("anat/*.nii*"), *folder.glob("swi/*.nii*")]):
        match = _SCAN.search(path.name)
        if match and "_part-phase" not in path.name:
            by_kind[match.group(1)].append(path)
    for kind, paths in by_kind.items():
        if len(paths) > 1:
            raise InputError(
                f"{name} has {len(paths)} {kind} scans ({', '.join(p.name for p in paths)}); "
                "keep one a session"
            )
    return {kind: paths[0] for kind, paths in by_kind.items()}


@dataclass(frozen=True, slots=True)
class _Grouping:
    by_subject: dict[str, str] | None  # None: from the head of simulated persons, else oneself
    use_heads: bool

    def of(self, name: str, labels: Path) -> str:
        subject = name.partition("_")[0]
        if self.by_subject is not None:
            if subject not in self.by_subject:
                raise InputError(f"{name} is not in participants.tsv, or its group is empty")
            return self.by_subject[subject]
        parameters = labels.with_name(labels.name.replace(LABELS_ENDING, _PARAMETERS_ENDING))
        if self.use_heads and parameters.exists():
            return str(json.loads(parameters.read_text(encoding="utf-8")).get("anatomy", subject))
        return subject


def _groups(data: Path, source: Path, group_by: str) -> _Grouping:
    if group_by in ("auto", "person"):
        return _Grouping(None, use_heads=group_by == "auto")
    table = next(
        (
            path
            for path in (data / "participants.tsv", source / "participants.tsv")
            if path.exists()
        ),
        None,
    )
    if table is None:
        raise InputError(f"{data} has no participants.tsv to group by {group_by!r}")
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    if not rows or not {"participant_id", group_by} <= rows[0].keys():
        known = ", ".join(rows[0]) if rows else "none"
        raise InputError(f"{table} has no column {group_by!r}; its columns are {known}")
    values = {row["participant_id"]: row[group_by] for row in rows}
    return _Grouping(
        {name: value for name, value in values.items() if value not in ("", "n/a")},
        use_heads=False,
    )


def _refuse(wrong: Sequence[str], where: str, *, to: str = "trained on") -> None:
    """Tell all complaints in one message.

    Raises
    ------
    InputError
        If there is one.
    """
    if not wrong:
        return
    told = "; ".join(wrong[:_TOLD_AT_ONCE])
    more = f"; and {len(wrong) - _TOLD_AT_ONCE} more" if len(wrong) > _TOLD_AT_ONCE else ""
    raise InputError(
        f"{len(wrong)} of the persons of {where} cannot be {to}: {told}{more}. Mend them, "
        "or leave them out by --exclude"
    )
