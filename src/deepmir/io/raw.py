"""Raw gradient-echo scans: which files, and the numbers that make sense of them.

Echo times, field strength and the direction of B0 are physics that an image does not show: they
come from the user, from the JSON sidecars (:mod:`deepmir.io.sidecars`), or the scan is refused with
the place where they go.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal

from deepmir.errors import InputError
from deepmir.io.bids import check_subject, sidecar_path, subject_from_name
from deepmir.io.sidecars import Entry, read_sidecars

PhaseUnit = Literal["rad", "mrad", "0-4095", "±2048", "±4096", "full-range"]
PhaseSign = Literal["auto", "positive", "negative"]

LONGEST_ECHO_TIME_S = 0.5
"""A gradient echo has lost its signal long before: longer times are milliseconds."""
FIELD_STRENGTHS_T = (0.05, 15.0)
_ECHO = re.compile(r"_echo-(\d+)")
_PARTS = ("mag", "phase", "real", "imag")
_SUFFIXES = ("MEGRE", "GRE", "T2starw")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawScan:
    """Files of one gradient-echo acquisition, and what the user says about it.

    One file an echo in their order, or one file with the echoes along its fourth axis.
    """

    magnitude: tuple[Path, ...] = ()
    phase: tuple[Path, ...] = ()
    real: tuple[Path, ...] = ()
    imaginary: tuple[Path, ...] = ()
    """Real and imaginary part, in place of magnitude and phase."""
    echo_times_s: tuple[float, ...] | None = None
    """None: ``EchoTime`` of the sidecars."""
    field_strength_t: float | None = None
    """None: ``MagneticFieldStrength`` of the sidecars."""
    b0_direction: tuple[float, float, float] | None = None
    """Along the voxel axes as stored; None: ``B0_dir`` of the sidecars, or the header."""
    phase_unit: PhaseUnit | None = None
    """None: told from the range of the values, or refused."""
    phase_sign: PhaseSign = "auto"
    """``positive``: a field above B0 makes positive phase; ``auto``: told from the brain."""

    @property
    def parts(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Magnitude and phase, or real and imaginary part.

        Raises
        ------
        InputError
            If neither pair is complete, or both are given.
        """
        polar, cartesian = (self.magnitude, self.phase), (self.real, self.imaginary)
        given = [pair for pair in (polar, cartesian) if any(pair)]
        if len(given) != 1 or not all(given[0]):
            raise InputError(
                f"found {len(self.magnitude)} magnitude, {len(self.phase)} phase, "
                f"{len(self.real)} real and {len(self.imaginary)} imaginary files; wanted "
                "magnitude and phase (--mag, --phase), or real and imaginary part (--real, --imag)"
            )
        return given[0]

    @property
    def is_cartesian(self) -> bool:
        """Whether real and imaginary part are given."""
        return bool(self.real or self.imaginary)

    @property
    def files(self) -> tuple[Path, ...]:
        """All image files."""
        return (*self.magnitude, *self.phase, *self.real, *self.imaginary)

    @property
    def subject(self) -> str:
        """Label of the person by the name of the first file.

        Raises
        ------
        InputError
            If there are no files.
        """
        return subject_from_name(self.parts[0][0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanPhysics:
    """The numbers that make a field map of phase."""

    echo_times_s: tuple[float, ...]
    field_strength_t: float
    b0_direction: tuple[float, float, float] | None  # as stored; None: by the header


def find_raw_scan(folder: Path, subject: str, *, session: str | None = None) -> RawScan:
    """Find a person's raw gradient echo in a BIDS data set.

    ``sub-<label>[/ses-<label>]/anat/*_part-mag_*`` and ``_part-phase_`` with the suffix MEGRE, GRE
    or T2starw, or ``part-real`` and ``part-imag``; echoes in the order of their ``echo-`` entity.

    Raises
    ------
    InputError
        If there is none, or more than one acquisition (acq, run, session).
    """
    bare = check_subject(subject)
    person = folder / f"sub-{bare}"
    anat = (person if session is None else person / f"ses-{session}") / "anat"
    found = {
        part: sorted(
            (
                path
                for path in anat.glob(f"*_part-{part}_*.nii*")
                if path.name.split(".")[0].endswith(_SUFFIXES)
            ),
            key=_echo_number,
        )
        for part in _PARTS
    }
    scan = RawScan(
        magnitude=tuple(found["mag"]),
        phase=tuple(found["phase"]),
        real=tuple(found["real"]),
        imaginary=tuple(found["imag"]),
    )
    if not scan.files:
        raise InputError(
            f"{anat} holds no raw gradient echo; wanted files such as "
            f"sub-{bare}_echo-1_part-mag_MEGRE.nii.gz and sub-{bare}_echo-1_part-phase_MEGRE.nii.gz"
        )
    _check_one_acquisition(scan.files)
    return scan


def resolve_physics(scan: RawScan, n_echoes: int) -> ScanPhysics:
    """Complete what the user said by the sidecars, and check it.

    The sidecars of the magnitude (or real part) are asked first, those of the phase for what
    they do not say.

    Raises
    ------
    InputError
        If echo times or field strength are nowhere, of the wrong number, not increasing, or in
        another unit; or a sidecar cannot be read.
    """
    parts = [[read_sidecars(path) for path in part] for part in scan.parts]
    times = scan.echo_times_s or next(filter(None, map(_echo_times, parts)), ())
    sidecars = [*chain(*parts)]
    strength = scan.field_strength_t or _field_strength(_first(sidecars, "MagneticFieldStrength"))
    direction = scan.b0_direction or _direction(_first(sidecars, "B0_dir"))
    name = scan.parts[0][0]
    check_echo_times(times, n_echoes, name)
    return ScanPhysics(
        echo_times_s=times,
        field_strength_t=_checked_strength(strength, name),
        b0_direction=direction,
    )


def check_echo_times(times_s: Sequence[float], n_echoes: int, path: Path) -> None:
    """Check that there is one echo time for each echo, in seconds, increasing.

    Raises
    ------
    InputError
        If not.
    """
    if not times_s:
        raise InputError(
            f"the echo times of {path} are not known; pass --echo-times in seconds (such as "
            f"0.0075,0.015), or {_place('EchoTime', path)}"
        )
    shown = ", ".join(f"{time:g}" for time in times_s)
    if len(times_s) != n_echoes:
        raise InputError(
            f"{path} has {n_echoes} echoes, but {len(times_s)} echo times are known ({shown}); "
            "pass one for each with --echo-times"
        )
    if not all(math.isfinite(time) and time > 0 for time in times_s):
        raise InputError(f"the echo times {shown} of {path} must be positive numbers of seconds")
    if max(times_s) > LONGEST_ECHO_TIME_S:
        in_seconds = ",".join(f"{time / 1000:g}" for time in times_s)
        raise InputError(
            f"the echo times {shown} of {path} look like milliseconds; wanted seconds: "
            f'--echo-times {in_seconds}, or correct "EchoTime" in the sidecars'
        )
    if any(late <= early for early, late in pairwise(times_s)):
        raise InputError(
            f"the echo times {shown} of {path} do not increase; give the files and times in the "
            "order of the echoes"
        )


def _checked_strength(strength_t: float | None, path: Path) -> float:
    where = f"pass --field-strength, or {_place('MagneticFieldStrength', path)}"
    if strength_t is None:
        raise InputError(
            f"the field strength of {path} is not known; {where} (in tesla, such as 3)"
        )
    low, high = FIELD_STRENGTHS_T
    if not low <= strength_t <= high:
        raise InputError(
            f"the field strength {strength_t:g} of {path} is none in tesla ({low:g} to {high:g}); "
            f"{where}"
        )
    return float(strength_t)


def _place(key: str, image: Path) -> str:
    """Say where a value goes: the image's sidecar, and in a data set one that is for all."""
    sidecar = sidecar_path(image).name
    place = f'write "{key}" into {sidecar}'
    if not sidecar.startswith("sub-"):
        return place
    echo, suffix = _ECHO.search(sidecar), sidecar.split("_")[-1]
    general = f"echo-{echo.group(1)}_{suffix}" if echo else suffix
    return f"{place}, or for all persons into {general} at the top of the data set"


def _echo_times(sidecars: Sequence[dict[str, Entry]]) -> tuple[float, ...]:
    """Echo times that the sidecars tell; a file of several echoes has a list of them."""
    entries = (sidecar["EchoTime"] for sidecar in sidecars if "EchoTime" in sidecar)
    return tuple(chain.from_iterable(entry.numbers() for entry in entries))


def _first(sidecars: Sequence[dict[str, Entry]], key: str) -> Entry | None:
    return next((sidecar[key] for sidecar in sidecars if key in sidecar), None)


def _field_strength(entry: Entry | None) -> float | None:
    if entry is None:
        return None
    numbers = entry.numbers()
    if len(numbers) != 1:
        raise InputError(f'"{entry.key}" in {entry.sidecar} is {entry.value}; wanted one number')
    return numbers[0]


def _direction(entry: Entry | None) -> tuple[float, float, float] | None:
    if entry is None:
        return None
    numbers = entry.numbers()
    if len(numbers) != 3:
        raise InputError(
            f'"{entry.key}" in {entry.sidecar} is {entry.value}; wanted three numbers along I, J, K'
        )
    return numbers[0], numbers[1], numbers[2]


def _echo_number(path: Path) -> tuple[int, str]:
    found = _ECHO.search(path.name)
    return (int(found.group(1)) if found else 0), path.name


def _check_one_acquisition(files: Sequence[Path]) -> None:
    """Refuse files that differ in more than echo and part: they are several acquisitions."""
    names = {re.sub(r"_(echo|part)-[0-9A-Za-z]+", "", path.name) for path in files}
    if len(names) > 1:
        raise InputError(
            f"{files[0].parent} holds several gradient echoes ({', '.join(sorted(names))}); "
            "choose one by its files with --mag and --phase"
        )
