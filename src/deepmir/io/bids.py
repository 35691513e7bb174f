"""Names and places by the Brain Imaging Data Structure (doi:10.1038/sdata.2016.44).

One person's result is a set of names relative to the output folder (:class:`SubjectOutputs`);
simulated scans are a raw data set (:func:`raw_scan`). What BIDS does not know (tables of
lesions, pages, ``swi``: https://github.com/bids-standard/bids-specification/pull/2538) is
listed in ``.bidsignore``, so that the validator finds nothing else to say.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

from deepmir.errors import InputError, OutputError
from deepmir.io.atomic import TEMPORARY_PREFIX, write_text, writing
from deepmir.io.tables import Column, table_text
from deepmir.labels import ALL_REGION_NUMBERS, Finding, region_label

BIDS_VERSION = "1.11.1"
MAX_LABEL_LENGTH = 64
"""Longer subject labels make file names that some disks refuse."""

DERIVATIVE_NAME = "deepmir: microbleeds, iron deposits and calcifications"
"""Name of every data set of results, so that all verbs may share one folder."""

_CODE_URL = "https://github.com/deepmir/deepmir"
_LABEL = re.compile(rf"[0-9A-Za-z]{{1,{MAX_LABEL_LENGTH}}}")
_SUBJECT_IN_NAME = re.compile(r"(?:^|_)sub-([0-9A-Za-z]+)(?=_|\.|$)")


class DatasetKind(StrEnum):
    """What a BIDS data set holds, as ``DatasetType`` spells it."""

    RAW = "raw"
    DERIVATIVE = "derivative"


_NOT_BIDS: dict[DatasetKind, tuple[str, ...]] = {
    DatasetKind.RAW: ("*_swi.nii.gz", "*_swi.json", "*_minIP.nii.gz", "*_minIP.json"),
    DatasetKind.DERIVATIVE: (
        "*_desc-lesions.*",
        "*_desc-mars.*",
        "*_desc-provenance.json",
        "*_desc-reconstruction_provenance.json",
        "*_swi.*",
        "*_minIP.*",
        "sub-*.html",
        "group.html",
        "group_*",
    ),
}


# ---- subjects --------------------------------------------------------------


def check_subject(label: str) -> str:
    """Return a subject label, without ``sub-``, that BIDS allows.

    Raises
    ------
    InputError
        If the label has other characters than letters and digits of ASCII, or is too long.
    """
    bare = label.removeprefix("sub-")
    if not _LABEL.fullmatch(bare):
        raise InputError(
            f"the subject label {label!r} is not allowed; wanted 1 to {MAX_LABEL_LENGTH} letters "
            "(A to Z) or digits, such as 01: pass another one with --subject"
        )
    return bare


def subject_from_name(path: Path) -> str:
    """Subject label of a scan: its ``sub-`` entity, else what of the name BIDS allows.

    A name without any letter or digit of ASCII gives a label from its checksum.

    Examples
    --------
    >>> subject_from_name(Path("sub-07_ses-1_swi.nii.gz"))
    '07'
    >>> subject_from_name(Path("Müller_swi (1).nii"))
    'Mullerswi1'
    """
    entity = _SUBJECT_IN_NAME.search(path.name)
    if entity:
        return entity.group(1)[:MAX_LABEL_LENGTH]
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    # NFKD splits ü into u and a mark, and the mark is dropped
    ascii_only = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    label = re.sub(r"[^0-9A-Za-z]", "", ascii_only)[:MAX_LABEL_LENGTH]
    return label or hashlib.sha256(path.name.encode(errors="replace")).hexdigest()[:8]


# ---- one person's result ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubjectOutputs:
    """Every file of one person's result, relative to the output folder."""

    subject: str  # without "sub-"

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", check_subject(self.subject))

    @property
    def findings(self) -> Path:
        """Label map of the findings (see :class:`deepmir.labels.Finding`)."""
        return self._anat("findings_dseg.nii.gz")

    @property
    def regions(self) -> Path:
        """Label map of the regions (see :mod:`deepmir.labels`)."""
        return self._anat("regions_dseg.nii.gz")

    @property
    def brain_mask(self) -> Path:
        """Mask of the brain."""
        return self._anat("brain_mask.nii.gz")

    def probability(self, finding: Finding) -> Path:
        """Probability map of one finding."""
        return self._anat(f"{finding.name}_probseg.nii.gz")

    @property
    def lesions(self) -> Path:
        """Table with one row a lesion."""
        return self._anat("lesions.tsv")

    @property
    def mars(self) -> Path:
        """Table with one row a region: the Microbleed Anatomical Rating Scale."""
        return self._anat("mars.tsv")

    @property
    def report(self) -> Path:
        """The page that shows it all."""
        return Path(f"sub-{self.subject}.html")

    @property
    def provenance(self) -> Path:
        """What was decided; written last, so that its presence means "complete"."""
        return self._anat("provenance.json")

    @property
    def files(self) -> tuple[Path, ...]:
        """All of the files that there may be, sidecars included, the provenance last."""
        images = (
            self.findings,
            self.regions,
            self.brain_mask,
            *(self.probability(finding) for finding in Finding),
        )
        with_sidecar = (*images, self.lesions, self.mars)
        sidecars = (sidecar_path(path) for path in with_sidecar)
        return (*with_sidecar, *sidecars, self.report, self.provenance)

    def _anat(self, ending: str) -> Path:
        return Path(f"sub-{self.subject}", "anat", f"sub-{self.subject}_desc-{ending}")


@dataclass(frozen=True, slots=True)
class ReconstructionOutputs:
    """Every file that is made of one person's raw phase, relative to the output folder."""

    subject: str  # without "sub-"

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", check_subject(self.subject))

    @property
    def swi(self) -> Path:
        """Susceptibility-weighted image."""
        return self._anat("swi.nii.gz")

    @property
    def minip(self) -> Path:
        """Minimum-intensity projection of the SWI over some slices."""
        return self._anat("minIP.nii.gz")

    @property
    def chimap(self) -> Path:
        """Susceptibility in ppm."""
        return self._anat("Chimap.nii.gz")

    @property
    def r2starmap(self) -> Path:
        """Rate of signal decay in 1/s; with two echoes or more."""
        return self._anat("R2starmap.nii.gz")

    @property
    def mask(self) -> Path:
        """Where the Chimap holds: the brain less its rim and broad dropout."""
        return self._anat("desc-chi_mask.nii.gz")

    @property
    def provenance(self) -> Path:
        """What was decided; written last, so that its presence means "complete"."""
        return self._anat("desc-reconstruction_provenance.json")

    @property
    def files(self) -> tuple[Path, ...]:
        """All of the files that there may be, sidecars included, the provenance last."""
        images = (self.swi, self.minip, self.chimap, self.r2starmap, self.mask)
        return (*images, *(sidecar_path(path) for path in images), self.provenance)

    def _anat(self, ending: str) -> Path:
        return Path(f"sub-{self.subject}", "anat", f"sub-{self.subject}_{ending}")


def sidecar_path(path: Path) -> Path:
    """JSON file that describes an image or a table.

    Examples
    --------
    >>> sidecar_path(Path("sub-01_T2w.nii.gz")).name
    'sub-01_T2w.json'
    """
    return path.with_name(path.name.removesuffix(".gz").rpartition(".")[0] + ".json")


def derivative_sidecar_text(
    description: str,
    *,
    sources: Sequence[Path],
    reference: Path | None,
    mask: bool = False,
    units: str | None = None,
) -> str:
    """Sidecar of a derived image, as JSON text.

    Parameters
    ----------
    description : str
        What the image shows, with its unit.
    sources : sequence of Path
        The scans that it was made from.
    reference : Path or None
        The scan on whose grid it lies.
    mask : bool
        Whether it is the brain mask, which BIDS wants to be told.
    units : str, optional
        Unit of the values.
    """
    sidecar: dict[str, str | list[str]] = {
        "Description": description,
        "Sources": [source.absolute().as_uri() for source in sources],
        "SpatialReference": "orig" if reference is None else reference.absolute().as_uri(),
    }
    if mask:
        sidecar["Type"] = "Brain"
    if units is not None:
        sidecar["Units"] = units
    return _json(sidecar)


# ---- raw scans -------------------------------------------------------------


def raw_scan(
    subject: str,
    suffix: Literal["T2w", "swi", "Chimap", "MEGRE"],
    *,
    echo: int | None = None,
    part: Literal["mag", "phase"] | None = None,
) -> Path:
    """Name of a raw scan, relative to the data set; all of them live in ``anat``.

    Raises
    ------
    InputError
        If the subject label is not allowed.
    ValueError
        If ``MEGRE`` comes without `echo`, or a map has `echo` or `part`.

    Examples
    --------
    >>> raw_scan("01", "MEGRE", echo=2, part="phase").name
    'sub-01_echo-2_part-phase_MEGRE.nii.gz'
    """
    if (echo is None) == (suffix == "MEGRE"):
        raise ValueError(f"{suffix} with echo {echo}: MEGRE must have an echo, others must not")
    if part is not None and suffix != "MEGRE":
        raise ValueError(f"{suffix} has no part {part!r}; only MEGRE has magnitude and phase")
    bare = check_subject(subject)
    entities = [f"sub-{bare}", f"echo-{echo}" if echo else "", f"part-{part}" if part else ""]
    name = "_".join([*filter(None, entities), f"{suffix}.nii.gz"])
    return Path(f"sub-{bare}", "anat", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanParameters:
    """How a raw scan was acquired; what is None is left out of the sidecar."""

    echo_time_s: float | None = None
    repetition_time_s: float | None = None
    flip_angle_deg: float | None = None
    field_strength_t: float | None = None
    field_direction: tuple[float, float, float] | None = None  # of B0 along I, J, K as stored
    units: str | None = None  # "rad" or "arbitrary" for phase, "ppm" for Chimap
    description: str | None = None


def raw_sidecar_text(parameters: ScanParameters) -> str:
    """Sidecar of a raw scan, as JSON text."""
    entries = {
        "Description": parameters.description,
        "EchoTime": parameters.echo_time_s,
        "RepetitionTime": parameters.repetition_time_s,
        "FlipAngle": parameters.flip_angle_deg,
        "MagneticFieldStrength": parameters.field_strength_t,
        "B0_dir": parameters.field_direction,
        "Units": parameters.units,
    }
    return _json({key: value for key, value in entries.items() if value is not None})


# ---- data sets -------------------------------------------------------------


def check_dataset_folder(folder: Path, kind: DatasetKind) -> None:
    """Check that a folder may take a data set of `kind`: it holds none, or one of ours.

    Raises
    ------
    OutputError
        If another program's data set, or one of another kind, is there.
    """
    path = folder / "dataset_description.json"
    if not path.exists():
        return
    try:
        found = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
        makers = [maker.get("Name") for maker in found.get("GeneratedBy", [])]
        is_ours = "deepmir" in makers and found.get("DatasetType") == kind
    except (OSError, ValueError, TypeError, AttributeError):
        is_ours = False
    if not is_ours:
        raise OutputError(
            f"{folder} already holds a data set that is no {kind} data set of deepmir (see "
            f"{path.name} there); choose another folder with --out"
        )


def write_dataset_files(folder: Path, *, kind: DatasetKind, name: str, out: Path) -> None:
    """Write what a data set has at its top: description, ``.bidsignore``, label tables.

    The same version writes the same bytes for every person, so that persons can share `out`.

    Parameters
    ----------
    folder : Path
        Where to write: `out` itself, or the staging folder that is moved there.
    kind : DatasetKind
        Raw data set or derivatives; derivatives get the label tables.
    name : str
        Name of the data set.
    out : Path
        The final folder: its ``.bidsignore`` lines are kept.

    Raises
    ------
    OutputError
        If `out` holds another data set (:func:`check_dataset_folder`), or writing fails.
    """
    check_dataset_folder(out, kind)
    write_text(folder / "dataset_description.json", _description_text(kind, name))
    write_text(folder / ".bidsignore", _bidsignore_text(kind, out / ".bidsignore"))
    if not (out / "README.md").exists():
        write_text(folder / "README.md", f"# {name}\n\n{_README[kind]}")
    if kind is DatasetKind.DERIVATIVE:
        for label_map, table in _LABEL_TABLES.items():
            write_lookup_table(folder, label_map, table)


def write_lookup_table(folder: Path, label_map: str, table: Sequence[tuple[int, str]]) -> None:
    """Write what the values of a label map mean, as BIDS wants it: desc-…_dseg.tsv.

    Raises
    ------
    OutputError
        If writing fails.
    """
    write_text(folder / f"desc-{label_map}_dseg.tsv", table_text(_LOOKUP_COLUMNS, table))


_LOOKUP_COLUMNS = (
    Column("index", "Value in the label map"),
    Column("name", "What the value means"),
)
_LABEL_TABLES: dict[str, tuple[tuple[int, str], ...]] = {
    "findings": tuple((int(finding), finding.name) for finding in Finding),
    "regions": tuple((label, region_label(label)) for label in ALL_REGION_NUMBERS),
}
_README = {
    DatasetKind.RAW: "Simulated scans made by deepmir; no real person was scanned.\n",
    DatasetKind.DERIVATIVE: (
        "Findings of deepmir, research use only. Open `sub-<label>.html` first; the tables "
        "`desc-lesions.tsv` and `desc-mars.tsv` are described by the JSON beside them, and "
        "`desc-provenance.json` says how they were made.\n"
    ),
}


def _description_text(kind: DatasetKind, name: str) -> str:
    maker = {"Name": "deepmir", "Version": metadata.version("deepmir"), "CodeURL": _CODE_URL}
    return _json(
        {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": str(kind),
            "GeneratedBy": [maker],
        }
    )


def _bidsignore_text(kind: DatasetKind, existing: Path) -> str:
    wanted = (*_NOT_BIDS[kind], f"{TEMPORARY_PREFIX}*")
    kept: list[str] = []
    with writing(existing):
        if existing.exists():
            kept = existing.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([*kept, *(line for line in wanted if line not in kept)]) + "\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
