"""What was decided and used for one result: everything that is needed to repeat it.

The JSON that :func:`provenance_text` gives is the same for the same run, times and memory
apart; it is written beside every result.
"""

import dataclasses
import hashlib
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

from deepmir.config import Config, as_dict
from deepmir.errors import InputError
from deepmir.volume import Notice

if sys.platform != "win32":
    import resource

DEPENDENCIES = ("nibabel", "numpy", "openvino", "scipy", "SimpleITK", "torch")
"""Packages whose version can change a number; absent ones are left out."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that a result was made from."""

    role: str  # "swi", "Chimap", "T2w", "brain mask", "label map"
    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WeightsUsed:
    """The network that a result was made with."""

    name: str
    version: str
    sha256: str  # of the weights' manifest, which holds the checksums of all files


@dataclass(frozen=True, slots=True)
class Software:
    """The program and what it ran on."""

    deepmir: str
    python: str
    platform: str
    dependencies: dict[str, str]


@dataclass(frozen=True, slots=True)
class StageTime:
    """Wall-clock time of one stage."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """All that was decided for one person's result."""

    subject: str
    command_line: tuple[str, ...]
    started: str  # ISO 8601, UTC
    inputs: tuple[InputFile, ...]
    config: Config
    weights: WeightsUsed | None
    software: Software
    stages: tuple[StageTime, ...]
    peak_memory_bytes: int
    notices: tuple[Notice, ...]


def utc_now() -> str:
    """Return the present time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(slots=True)
class StageTimer:
    """Collects the wall-clock time of stages in the order in which they end.

    Examples
    --------
    >>> timer = StageTimer()
    >>> with timer.stage("read"):
    ...     pass
    >>> [stage.stage for stage in timer.stages]
    ['read']
    """

    started: str = field(default_factory=utc_now)
    _stages: list[StageTime] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as one stage; also when it fails."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._stages.append(StageTime(name, round(time.perf_counter() - begin, 3)))

    @property
    def stages(self) -> tuple[StageTime, ...]:
        """What has been timed so far."""
        return tuple(self._stages)


def checksum(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from error


def describe_input(role: str, path: Path) -> InputFile:
    """Return the absolute path, size and checksum of an input.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    sha256 = checksum(path)
    return InputFile(role, str(path.absolute()), path.stat().st_size, sha256)


def describe_software(dependencies: Sequence[str] = DEPENDENCIES) -> Software:
    """Return versions of deepmir, Python, the platform and the installed dependencies."""
    versions = {name: _version(name) for name in dependencies}
    return Software(
        deepmir=_version("deepmir") or "unknown",
        python=platform.python_version(),
        platform=platform.platform(),
        dependencies={name: version for name, version in versions.items() if version},
    )


def peak_memory_bytes() -> int:
    """Return the largest resident memory that this process has had."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def provenance_text(provenance: Provenance) -> str:
    """Return the record as JSON text with sorted keys."""
    record = dataclasses.asdict(provenance) | {"config": as_dict(provenance.config)}
    return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
