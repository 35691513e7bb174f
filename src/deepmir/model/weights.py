"""The weights folder: what it must hold, and that nothing in it is damaged.

    manifest.json        name, version, thresholds, SHA-256 of every other file
    anatomy.onnx         2 mm, whole head: brain, regions, side
    nuclei.onnx          1 mm, a box: outlines of thalamus and nuclei; not in every folder
    findings.onnx        native grid, in windows: CMB, IRON, CALCIFICATION
    weights.safetensors  the trainable form of all, half precision
    MODEL_CARD.md        what it was trained on, how good it is, what it is not for

No pickle: nothing in the folder can run code when it is read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from scipy import special

from deepmir.errors import OutputError, WeightsError
from deepmir.labels import REGIONS, Finding
from deepmir.volume import CHANNELS, FloatMap, Present

Part = Literal["anatomy", "nuclei", "findings"]

MANIFEST_FILE = "manifest.json"
CARD_FILE = "MODEL_CARD.md"
TRAINABLE_FILE = "weights.safetensors"
ONNX_FILES: dict[Part, str] = {
    "anatomy": "anatomy.onnx",
    "nuclei": "nuclei.onnx",
    "findings": "findings.onnx",
}
REQUIRED_PARTS: tuple[Part, ...] = ("anatomy", "findings")
"""Without the nuclei part the outlines of nuclei are those of the anatomy part."""
RELEASED = Path(__file__).parents[1] / "weights" / "released"
MAX_BYTES = 16 * 2**20
ANATOMY_CLASSES: tuple[str, ...] = (
    "outside",
    *(region.name for region in REGIONS),
    "brain without region",
)
"""Channels of the anatomy part's softmax; one more channel is the logit of "right side"."""

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=_STRICT)
class WeightsFile:
    """One file of the folder."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class ModelCard:
    """The model card in short; :data:`CARD_FILE` holds the whole."""

    summary: str
    training_data: str
    evaluation: str
    limits: str
    licence: str = "Apache-2.0"


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class NetworkInputs:
    """What the network was trained to see; it must fit what preprocessing makes."""

    anatomy_channels: int = 6
    anatomy_spacing_mm: float = 2.0
    nuclei_channels: int = 10
    nuclei_spacing_mm: float = 1.0
    findings_channels: int = 8
    findings_window: tuple[int, int, int] = (128, 128, 32)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Calibration:
    """What the network's probabilities mean: logit p' = slope · logit p + offset.

    Fitted on the peaks of whole findings at the prevalence of a cohort (Platt 1999), so that of
    ten findings with 0.8 eight are real. Rising, so that the order of findings stays.
    """

    slope: float = Field(default=1.0, gt=0)
    offset: float = 0.0

    def apply(self, log_odds: npt.NDArray[np.floating]) -> FloatMap:
        """Calibrated probabilities of log odds (logit p) of any shape, float32.

        Examples
        --------
        >>> squared_odds = Calibration(slope=2.0, offset=0.0)
        >>> [round(float(p), 2) for p in squared_odds.apply(np.log([1.0, 9.0]))]
        [0.5, 0.99]
        """
        raised = np.float32(self.slope) * np.float32(log_odds) + np.float32(self.offset)
        return np.asarray(special.expit(raised), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Manifest:
    """What stands in ``manifest.json``."""

    name: str
    version: str
    card: ModelCard
    files: dict[str, WeightsFile]
    thresholds: dict[str, float]  # by finding name
    calibration: dict[str, dict[str, Calibration]] = Field(default_factory=dict)
    """By the contrasts that are there, as `contrasts_name` writes them, then by finding."""
    inputs: NetworkInputs = Field(default_factory=NetworkInputs)
    anatomy_classes: tuple[str, ...] = ANATOMY_CLASSES
    format: Literal[1] = 1


@dataclass(frozen=True, slots=True)
class Weights:
    """A weights folder whose files were all found intact."""

    folder: Path
    manifest: Manifest
    sha256: str  # of manifest.json, which holds the checksums of all other files

    @property
    def thresholds(self) -> dict[Finding, float]:
        """Least calibrated probability of a finding, chosen on validation data."""
        return {Finding[name]: value for name, value in self.manifest.thresholds.items()}

    def calibrations(self, present: Present) -> dict[Finding, Calibration]:
        """Calibration of each finding's probabilities; the identity where none was fitted.

        Parameters
        ----------
        present : tuple of bool
            Whether T2w, swi and Chimap are there. The same network is surer than it should be
            with few contrasts and less sure with all. Contrasts that were not calibrated
            themselves take what was fitted without T2w, which adds least.
        """
        fitted = self.manifest.calibration
        without_t2w = (False, present[1], present[2])
        own = fitted.get(contrasts_name(present), fitted.get(contrasts_name(without_t2w), {}))
        return {finding: own.get(finding.name, Calibration()) for finding in Finding}

    def has(self, part: Part) -> bool:
        """Whether the folder has a part."""
        return ONNX_FILES[part] in self.manifest.files

    def onnx_path(self, part: Part) -> Path:
        """File that runs one part of the network."""
        return self.folder / ONNX_FILES[part]

    @property
    def trainable_path(self) -> Path:
        """File of all parts' weights in the form that training continues from."""
        return self.folder / TRAINABLE_FILE


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def contrasts_name(present: Present) -> str:
    """Name of the contrasts that are there.

    Examples
    --------
    >>> contrasts_name((True, False, True))
    'T2w+Chimap'
    """
    return "+".join(name for name, given in zip(CHANNELS, present, strict=True) if given)


def load_weights(folder: Path | None = None) -> Weights:
    """Open a weights folder and verify the checksum of every file in it.

    Parameters
    ----------
    folder
        None: the weights that the package brings along.

    Raises
    ------
    WeightsError
        If the folder, its manifest or a file is missing, damaged or of another format.
    """
    folder = RELEASED if folder is None else folder
    text = _manifest_bytes(folder)
    manifest = _parsed(text, folder / MANIFEST_FILE)
    for name, expected in manifest.files.items():
        _check_file(folder / name, expected)
    return Weights(folder, manifest, hashlib.sha256(text).hexdigest())


def write_manifest(  # noqa: PLR0913 - one keyword for each part of the manifest
    folder: Path,
    *,
    name: str,
    version: str,
    thresholds: dict[Finding, float],
    card: ModelCard,
    calibration: Mapping[str, Mapping[str, Calibration]] | None = None,
    inputs: NetworkInputs | None = None,
) -> Weights:
    """Write ``manifest.json`` for the files of a folder, and open the folder.

    The ONNX files of the required parts must be there; the nuclei part, the safetensors file and
    the model card are taken along where they are.

    Raises
    ------
    WeightsError
        If a file is missing, a threshold is missing or out of range, or all is above 16 MB.
    OutputError
        If the manifest cannot be written.
    """
    files = _described_files(folder)
    _check_thresholds({finding.name: value for finding, value in thresholds.items()}, folder)
    manifest = Manifest(
        name=name,
        version=version,
        card=card,
        files=files,
        thresholds={finding.name: float(thresholds[finding]) for finding in Finding},
        calibration={name: dict(fitted) for name, fitted in (calibration or {}).items()},
        inputs=inputs or NetworkInputs(),
    )
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    try:
        (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {folder / MANIFEST_FILE}: {error.strerror}") from error
    return load_weights(folder)


def _described_files(folder: Path) -> dict[str, WeightsFile]:
    needed = [ONNX_FILES[part] for part in REQUIRED_PARTS]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"{folder} has no {' and no '.join(missing)}; export the network first")
    names = [*ONNX_FILES.values(), TRAINABLE_FILE, CARD_FILE]
    files = {
        name: WeightsFile((folder / name).stat().st_size, _sha256(folder / name))
        for name in names
        if (folder / name).is_file()
    }
    total = sum(file.size_bytes for file in files.values())
    if total > MAX_BYTES:
        raise WeightsError(
            f"the files of {folder} have {total / 2**20:.1f} MiB, at most {MAX_BYTES // 2**20} MiB "
            "are wanted; store the numbers in half precision or take narrower levels"
        )
    return files


def _manifest_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST_FILE
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"no network weights: cannot read {path} ({error.strerror}); reinstall deepmir, or "
            "pass a folder that `deepmir train` exported by --weights"
        ) from error


def _parsed(text: bytes, path: Path) -> Manifest:
    try:
        manifest = _MANIFEST.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the file"
        raise WeightsError(
            f"{path} is damaged or of another version: {where}: {first['msg']}; {_AGAIN}"
        ) from error
    if manifest.anatomy_classes != ANATOMY_CLASSES:
        raise WeightsError(
            f"{path} has anatomy classes {manifest.anatomy_classes}, this version of deepmir "
            f"wants {ANATOMY_CLASSES}; {_AGAIN}"
        )
    _check_thresholds(manifest.thresholds, path)
    absent = sorted({ONNX_FILES[part] for part in REQUIRED_PARTS} - manifest.files.keys())
    if absent:
        raise WeightsError(f"{path} does not list {', '.join(absent)}; {_AGAIN}")
    return manifest


_AGAIN = "reinstall deepmir, or export the weights again"


def _check_thresholds(thresholds: dict[str, float], path: Path) -> None:
    wanted = {finding.name for finding in Finding}
    if thresholds.keys() != wanted or not all(0 < value <= 1 for value in thresholds.values()):
        raise WeightsError(
            f"{path}: wanted a threshold above 0 and up to 1 for each of {sorted(wanted)}, "
            f"got {thresholds}; {_AGAIN}"
        )


def _check_file(path: Path, expected: WeightsFile) -> None:
    try:
        found = _sha256(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path} ({error.strerror}); {_AGAIN}") from error
    if found != expected.sha256:
        raise WeightsError(
            f"{path} is damaged: its SHA-256 begins {found[:12]}, the manifest says "
            f"{expected.sha256[:12]}; {_AGAIN}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
