"""Raw files in, complex echoes out: units, grids and readout checked on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from nibabel import orientations

from deepmir.errors import GeometryError, InputError
from deepmir.geometry import check_same_grid
from deepmir.io.nifti import Series, read_series
from deepmir.io.raw import PhaseUnit, RawScan, ScanPhysics, resolve_physics
from deepmir.physics.dipole import b0_direction
from deepmir.reconstruction.phase import phase_to_rad
from deepmir.reconstruction.readout import correct_alternating_slices, correct_bipolar
from deepmir.reconstruction.run import GradientEchoes
from deepmir.reconstruction.swi import ComplexMap
from deepmir.volume import BoolMap, FloatMap, Modality, Notice, Volume

LARGEST_SPACING_MM = 5.0
"""Thicker voxels hold no venous detail (the limit of SWI and QSM elsewhere)."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadEchoes:
    """What the files of one acquisition hold, ready to be reconstructed."""

    echoes: GradientEchoes
    like: Volume  # magnitude of the first echo: grid, name and way back
    phase_unit: PhaseUnit | None  # None: real and imaginary part
    notices: tuple[Notice, ...]


def read_echoes(scan: RawScan) -> ReadEchoes:
    """Read magnitude and phase, or real and imaginary part, as complex echoes.

    Slices that alternate in sign, and the ramp and offset of a bipolar readout are corrected, with
    a notice.
    Voxels that are not finite in any echo get no signal.

    Raises
    ------
    InputError
        If a file cannot be read; magnitude and phase have different numbers of echoes, or hold
        the same values; the phase of an echo is constant, or phase is unwrapped or of an unknown
        unit; echo times, field strength or the direction of B0 are not known or not plausible;
        the echoes contradict each other.
    GeometryError
        If the images lie on different grids, or voxels are too thick.
    """
    first, second = ([read_series(path, Modality.MEGRE) for path in part] for part in scan.parts)
    like = _check_grids(scan, [*first, *second])
    images, others = _volumes(first), _volumes(second)
    _check_numbers(scan, len(images), len(others))
    _check_parts_differ(scan, images, others)
    physics = resolve_physics(scan, len(images))
    direction = _direction(physics, first[0], like)
    unit: PhaseUnit | None = None
    if scan.is_cartesian:
        signals = [(a + 1j * b).astype(np.complex64) for a, b in zip(images, others, strict=True)]
    else:
        _check_magnitude(images, scan.magnitude[0])
        phases, unit = phase_to_rad(others, unit=scan.phase_unit, name=str(scan.phase[0]))
        signals = [_complex(m, p) for m, p in zip(images, phases, strict=True)]
    finite: BoolMap = np.logical_and.reduce([series.finite for series in (*first, *second)])
    corrected, notices = _corrected([signal * finite for signal in signals], physics, like.name)
    echoes = GradientEchoes(
        signals=corrected,
        echo_times_s=physics.echo_times_s,
        b0_t=physics.field_strength_t,
        spacing_mm=like.grid.spacing_mm,
        b0_direction=direction,
    )
    read = tuple(notice for series in (*first, *second) for notice in series.notices)
    return ReadEchoes(echoes, like, unit, (*dict.fromkeys(read), *notices))


def _volumes(series: Sequence[Series]) -> list[FloatMap]:
    volumes = [volume for one in series for volume in one.volumes]
    return [np.asarray(volume.data, dtype=np.float32) for volume in volumes]


def _check_grids(scan: RawScan, series: Sequence[Series]) -> Volume:
    like = series[0].volumes[0]
    for path, one in zip(scan.files, series, strict=True):
        check_same_grid(like.grid, one.volumes[0].grid, first_name=like.name, second_name=str(path))
    if max(like.grid.spacing_mm) > LARGEST_SPACING_MM + 1e-3:
        raise GeometryError(
            f"{like.name} has voxels up to {max(like.grid.spacing_mm):.3g} mm long; wanted at most "
            f"{LARGEST_SPACING_MM:g} mm: thicker slices show no susceptibility of small things"
        )
    return like


def _check_numbers(scan: RawScan, n_first: int, n_second: int) -> None:
    if n_first != n_second:
        one, other = (part[0] for part in scan.parts)
        raise InputError(
            f"{one} and its fellows hold {n_first} echoes, {other} and its fellows {n_second}; "
            "wanted as many of one as of the other"
        )


def _check_parts_differ(
    scan: RawScan, images: Sequence[FloatMap], others: Sequence[FloatMap]
) -> None:
    """Refuse one image in two roles: magnitude from 0 to 4000 would pass for stored phase."""
    for (number, image), (other_number, other) in product(
        enumerate(images, start=1), enumerate(others, start=1)
    ):
        if np.array_equal(image, other):
            roles = ("real part", "imaginary part") if scan.is_cartesian else ("magnitude", "phase")
            first, second = (part[0] for part in scan.parts)
            raise InputError(
                f"echo {number} of the {roles[0]} {first} and echo {other_number} of the "
                f"{roles[1]} {second} hold the same values; wanted two images: pass the "
                f"{roles[0]} and the {roles[1]} of each echo"
            )


def _check_magnitude(images: Sequence[FloatMap], path: Path) -> None:
    if min(float(image.min()) for image in images) < 0:
        raise InputError(
            f"the magnitude {path} has negative values; is it the phase? Wanted magnitude with "
            "--mag and phase with --phase; real and imaginary part go with --real and --imag"
        )


def _complex(magnitude: FloatMap, phase_rad: FloatMap) -> ComplexMap:
    signal = np.empty(magnitude.shape, dtype=np.complex64)
    signal.real, signal.imag = magnitude * np.cos(phase_rad), magnitude * np.sin(phase_rad)
    return signal


def _direction(physics: ScanPhysics, series: Series, like: Volume) -> tuple[float, float, float]:
    """Direction of B0 along the axes of the array that was read."""
    if physics.b0_direction is not None:
        return _along_read_axes(physics.b0_direction, like)
    if not series.has_orientation:
        raise InputError(
            f"the direction of B0 in {like.name} is not known: its header has no orientation "
            "(sform and qform code are 0); pass --b0-direction along its voxel axes (such as "
            '0,0,1), or write "B0_dir" into the sidecar'
        )
    return b0_direction(like.affine)


def _along_read_axes(
    stored: tuple[float, float, float], like: Volume
) -> tuple[float, float, float]:
    length = float(np.linalg.norm(stored))
    if not np.isfinite(length) or length == 0:
        raise InputError(f"the direction of B0 {stored} has no length; wanted such as 0,0,1")
    native = like.native or like.grid
    turned: npt.NDArray[np.float64] = np.zeros(3)
    for value, (axis, flip) in zip(stored, orientations.io_orientation(native.affine), strict=True):
        turned[int(axis)] = value * flip / length
    return float(turned[0]), float(turned[1]), float(turned[2])


def _corrected(
    signals: Sequence[ComplexMap], physics: ScanPhysics, name: str
) -> tuple[tuple[ComplexMap, ...], tuple[Notice, ...]]:
    notices = []
    straight, axis = correct_alternating_slices(signals)
    if axis is not None:
        text = f"the phase of {name} alternates by π from slice to slice (as GE exports do)"
        notices.append(Notice("reconstruct", f"{text}; every second slice was turned back"))
    corrected, difference = correct_bipolar(straight, physics.echo_times_s, name=name)
    if difference is not None:
        text = (
            f"odd and even echoes of {name} differ by {difference}, as in a bipolar readout; it "
            "was taken off"
        )
        notices.append(Notice("reconstruct", text))
    if len(signals) == 2:
        text = (
            f"whether the two echoes of {name} were read in opposite directions cannot be told; "
            "it hardly changes χ"
        )
        notices.append(Notice("reconstruct", text, "info"))
    return corrected, tuple(notices)
