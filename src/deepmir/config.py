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
class ReconstructConfig:
    """How SWI and Chimap are made of raw phase (docs/reconstruction.md compares the methods)."""

    unwrap: Literal["laplacian", "path"] = "path"
    """`laplacian`: smooth and without errors of whole turns; `path`: exact, along the most
    reliable paths (as ROMEO, doi:10.1002/mrm.28563)."""
    background: Literal["vsharp", "pdf"] = "vsharp"
    """`vsharp` (doi:10.1016/j.neuroimage.2010.10.070); `pdf`: projection onto dipole fields
    (doi:10.1002/nbm.1670), which keeps the rim of the brain."""
    largest_sphere_mm: float = Field(default=8.0, ge=2, le=40)
    """Radius of the largest sphere of V-SHARP."""
    vsharp_threshold: float = Field(default=0.05, gt=0, lt=1)
    """Truncation of the deconvolution of V-SHARP."""
    pdf_tolerance: float = Field(default=0.03, gt=0, lt=1)
    """Share of its first residual at which PDF stops."""
    inversion: Literal["tkd", "closed-form", "medi"] = "medi"
    """`tkd` (doi:10.1002/mrm.22135), `closed-form` (doi:10.1002/jmri.24365), or `medi`: iterative,
    sparing the edges of the magnitude (doi:10.1002/mrm.22816)."""
    strength: float | None = Field(default=None, gt=0)
    """Threshold of TKD (0.15), weight of the closed form (0.003) or of MEDI (0.0003); none: the
    number in brackets."""
    tolerance: float = Field(default=0.015, gt=0, lt=1)
    """MEDI stops when an iteration changes χ by less than this share of its norm."""
    refinements: int = Field(default=2, ge=0, le=5)
    """How often the background is removed again from the field that χ does not explain yet."""
    erosion_mm: float = Field(default=2.0, ge=0, le=10)
    """Rim of the brain that is taken off first."""
    reference: Literal["brain", "csf"] = "brain"
    """What has χ = 0: the mean of the brain, or CSF of the ventricles (found by slow decay)."""
    swi_echo: int | None = Field(default=None, ge=1)
    """Number of the echo that makes the SWI, from 1; none: TE nearest to 60 ms over tesla."""
    swi_phase: Literal["unwrapped", "homodyne"] = "unwrapped"
    """Phase of the SWI: unwrapped first (fewer fringes), or filtered as scanners do."""
    swi_filter: float = Field(default=64.0, ge=8, le=256)
    """High-pass filter of the SWI's phase: k-space samples of a field of view of 240 mm."""
    swi_power: int = Field(default=4, ge=1, le=8)
    """How often the phase mask multiplies the magnitude."""
    minip_mm: float = Field(default=8.0, gt=0, le=50)
    """Thickness of the slab of the minimum-intensity projection."""


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
    definite_probability: float = Field(default=0.65, ge=0, le=1)
    """Probability from which a finding is graded definite, otherwise possible."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class ReportConfig:
    """What the HTML report shows."""

    max_findings_pictured: int = Field(default=60, ge=0)
    """Findings with a picture each; the table always lists all."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Config:
    """All settings of one run."""

    reconstruct: ReconstructConfig = Field(default_factory=ReconstructConfig)
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
