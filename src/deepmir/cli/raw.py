"""Options of raw gradient-echo scans, which ``reconstruct`` and ``segment`` share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepmir.errors import InputError

if TYPE_CHECKING:
    from deepmir.io.raw import RawScan

_PANEL = "Raw gradient echo"

Mag = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Magnitude (NIfTI): one file with all echoes, or repeat for each echo.",
        rich_help_panel=_PANEL,
    ),
]
Phase = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Phase, likewise.", rich_help_panel=_PANEL),
]
Real = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Real part, in place of magnitude and phase.",
        rich_help_panel=_PANEL,
    ),
]
Imag = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Imaginary part, likewise.", rich_help_panel=_PANEL),
]
Bids = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="BIDS data set: take the raw echoes of --subject (part-mag, part-phase) from it.",
        rich_help_panel=_PANEL,
    ),
]
Session = Annotated[
    str | None,
    typer.Option(
        metavar="LABEL", help="Session of the BIDS data set, such as 1.", rich_help_panel=_PANEL
    ),
]
EchoTimes = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS",
        help="Echo times in seconds, such as 0.0075,0.015; else EchoTime of the JSON sidecars, "
        "which may lie beside the image or in a folder of the BIDS data set above it.",
        rich_help_panel=_PANEL,
    ),
]
FieldStrength = Annotated[
    float | None,
    typer.Option(
        metavar="TESLA",
        help="Field strength; else MagneticFieldStrength of the sidecars, likewise.",
        rich_help_panel=_PANEL,
    ),
]
B0Direction = Annotated[
    str | None,
    typer.Option(
        metavar="I,J,K",
        help="Direction of B0 along the voxel axes as stored; else by sidecar or header.",
        rich_help_panel=_PANEL,
    ),
]
PhaseUnit = Annotated[
    Literal["rad", "mrad", "0-4095", "±2048", "±4096", "full-range"] | None,
    typer.Option(
        help="How phase is stored, where its range does not tell; `full-range`: its least and "
        "greatest value are -π and π.",
        rich_help_panel=_PANEL,
    ),
]
PhaseSign = Annotated[
    Literal["auto", "positive", "negative"],
    typer.Option(
        help="Phase where the field is stronger than B0; `auto`: told by nuclei and veins.",
        rich_help_panel=_PANEL,
    ),
]


def raw_scan(
    *,
    mag: list[Path] | None,
    phase: list[Path] | None,
    real: list[Path] | None,
    imag: list[Path] | None,
    bids: Path | None,
    subject: str | None,
    session: str | None,
    echo_times: str | None,
    field_strength: float | None,
    b0_direction: str | None,
    phase_unit: "PhaseUnit",
    phase_sign: "PhaseSign",
) -> "RawScan | None":
    """Put together what the options say of a raw scan; None where they name no files.

    Raises
    ------
    InputError
        If a list of numbers cannot be read, files come from two places, or --bids lacks --subject.
    """
    from dataclasses import replace

    from deepmir.io.raw import RawScan, find_raw_scan

    files = RawScan(
        magnitude=tuple(mag or ()),
        phase=tuple(phase or ()),
        real=tuple(real or ()),
        imaginary=tuple(imag or ()),
    )
    if bids is not None:
        if files.files or subject is None:
            raise InputError(
                "--bids takes the raw echoes of one person: pass --subject with it, and none of "
                "--mag, --phase, --real and --imag"
            )
        files = find_raw_scan(bids, subject, session=session)
    if not files.files:
        return None
    direction = None if b0_direction is None else _numbers(b0_direction, "--b0-direction")
    if direction is not None and len(direction) != 3:
        raise InputError(f"--b0-direction {b0_direction}: wanted three numbers, such as 0,0,1")
    return replace(
        files,
        echo_times_s=None if echo_times is None else _numbers(echo_times, "--echo-times"),
        field_strength_t=field_strength,
        b0_direction=None if direction is None else (direction[0], direction[1], direction[2]),
        phase_unit=phase_unit,
        phase_sign=phase_sign,
    )


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError as error:
        raise InputError(
            f"{option} {text!r} is no list of numbers; wanted such as 0.0075,0.015"
        ) from error
