"""Settings: one frozen dataclass per stage; an unknown key is an error.

A TOML file has one table per stage. What it leaves out keeps the value given here; the
resolved whole is saved beside every result (:func:`as_dict`).
"""

import tomllib
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from deepmir.errors import ConfigError

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class PreprocessConfig:
    """How scans are brought onto the reference grid and scaled."""

    register_t2w: bool = True
    """Register T2w rigidly to the reference scan (else trust the affines)."""
    refuse_poor_registration: bool = False
    """Stop with an error where the registration's quality is poor, instead of a warning."""
    min_registration_quality: float = Field(default=0.15, ge=0, le=1)
    """Normalised mutual information (0 to 1) below which a registration is called poor."""
    bias_correction: bool = True
    """Correct the receive field of SWI and T2w by N4 (doi:10.1109/TMI.2010.2046908)."""
    bias_shrink: int = Field(default=8, ge=1, le=16)
    """Shrink factor of N4 in plane; 8 takes a fifth of the time of 4."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class SegmentConfig:
    """How the network is run."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU where torch finds one, else OpenVINO on the CPU."""
    overlap: float = Field(default=0.25, ge=0, lt=1)
    """Share of a window that neighbouring windows of the findings part have in common."""
    thresholds: dict[str, float] | None = None
    """Least probability of a finding, by its name; None: the weights' own."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0: all there are."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class LesionConfig:
    """How voxels become lesions."""

    connectivity: Literal[6, 18, 26] = 26
    """Neighbours joined to a voxel: by a face (6), also an edge (18), also a corner (26)."""
    min_volume_mm3: float = Field(default=1.0, ge=0)
    """Smaller components are dropped."""
    definite_probability: float = Field(default=0.9, ge=0, le=1)
    """Probability from which a finding is graded definite, otherwise possible."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class ReportConfig:
    """What the HTML report shows."""

    max_findings_pictured: int = Field(default=60, ge=0)
    """Findings with a picture each; the table always lists all."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Config:
    """All settings of one run."""

    preprocess: PreprocessConfig = Field(default_factory=PreprocessConfig)
    segment: SegmentConfig = Field(default_factory=SegmentConfig)
    lesions: LesionConfig = Field(default_factory=LesionConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)


_ADAPTER: TypeAdapter[Config] = TypeAdapter(Config)


def read_config(path: Path | None) -> Config:
    """Read settings from a TOML file; None gives the defaults.

    Raises
    ------
    ConfigError
        If the file is missing, is not TOML, has an unknown key or a value out of range.
    """
    if path is None:
        return Config()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return _ADAPTER.validate_python(table)
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_complaint(error)}") from error


def as_dict(config: Config) -> dict[str, Any]:
    """Return the resolved settings as plain values, ready for JSON."""
    return cast(dict[str, Any], _ADAPTER.dump_python(config, mode="json"))


def _first_complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown setting {where}; `docs/reference.md` lists all settings"
    return f"setting {where} = {first.get('input')!r}: {first['msg']}"
