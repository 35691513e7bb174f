"""Acquisition protocols: what the scanner was told, and how SWI and QSM were made of it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepmir.errors import ConfigError
from deepmir.physics.kspace import AxisFilter
from deepmir.reconstruction.inversion import InversionMethod
from deepmir.reconstruction.run import ChimapSettings, SwiSettings

NO_FILTERS = (None, None, None)
_STRENGTHS: dict[InversionMethod, tuple[float, float]] = {
    "tkd": (0.1, 0.25),
    "closed-form": (5e-4, 2e-2),
    "medi": (1e-4, 1e-3),
}
PROTOCOL_NAMES = ("random", "mesa-like")


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One gradient-echo acquisition, its reconstruction, and the T2w scan beside it."""

    name: str
    b0_t: float
    spacing_mm: tuple[float, float, float]
    tilt_deg: tuple[float, float, float]  # slab against scanner axes, about x, y, z
    echo_times_s: tuple[float, ...]
    repetition_time_s: float
    flip_deg: float
    snr: float  # white matter at TE = 0
    swi: SwiSettings
    chimap: ChimapSettings
    t2w_repetition_time_s: float
    t2w_echo_time_s: float  # contrast-equivalent
    t2w_blur_mm: tuple[float, float, float]  # standard deviation of its point spread
    t2w_snr: float
    k_space_filters: tuple[AxisFilter | None, AxisFilter | None, AxisFilter | None] = NO_FILTERS
    elliptical: bool = False  # corners of the phase-encoded plane J, K are not acquired
    sequence: Literal["3D", "2D"] = "3D"  # 2D: every slice has a phase offset of its own
    gibbs: bool = False  # resolved by cropping k-space in plane, which rings at edges
    fourier_share: float = 1.0  # of the phase-encoded axis J that is acquired
    motion_mm: float = 0.0  # how far the head drifts, with a jerk, during the scan
    phase_poles: bool = False  # coils badly combined: open fringe lines in the phase
    t2w_slice_mm: float = 1.0
    mask_grown_mm: float = 0.0  # of the mask that scans are reconstructed in; below 0 is tight
    stripped: bool = False  # SWI and T2w without skull, by that mask
    detailed_people: bool = False  # with signs of age, and structure within tissues


def mesa_like() -> Protocol:
    """Our assumption of the paper's protocol, whose own is not published."""
    return Protocol(
        name="mesa-like",
        b0_t=3.0,
        spacing_mm=(0.9, 0.9, 1.5),
        tilt_deg=(0.0, 0.0, 0.0),
        echo_times_s=(0.0075, 0.015, 0.0225, 0.030),
        repetition_time_s=0.040,
        flip_deg=15.0,
        snr=60.0,
        swi=SwiSettings(echo=2, phase="homodyne", filter_size=64.0),
        chimap=ChimapSettings(method="closed-form", strength=0.003, erosion_mm=2.0),
        t2w_repetition_time_s=3.0,
        t2w_echo_time_s=0.095,
        t2w_blur_mm=(0.45, 0.45, 0.45),
        t2w_snr=40.0,
    )


def sample_protocol(rng: np.random.Generator) -> Protocol:
    """Draw a protocol as cohort studies use them."""
    b0_t = float(rng.choice([1.5, 3.0, 7.0], p=[0.2, 0.7, 0.1]))
    flat = bool(rng.random() < 0.12)
    echo_times, swi_echo = _sample_echoes(b0_t, rng, single=flat)
    thick_t2w = rng.random() < 0.35
    filters = _sample_filters(rng, flat=flat)
    t2w_blur_mm = float(rng.uniform(0.2, 0.6))
    return Protocol(
        name="random",
        b0_t=b0_t,
        spacing_mm=_sample_spacing(rng, flat=flat),
        tilt_deg=(float(rng.normal(0, 10)), float(rng.normal(0, 3)), float(rng.normal(0, 3))),
        echo_times_s=echo_times,
        repetition_time_s=echo_times[-1] + float(rng.uniform(0.4, 0.9) if flat else
                                                 rng.uniform(0.006, 0.02)),
        flip_deg=float(rng.uniform(15, 30) if flat else rng.uniform(8, 20)),
        snr=float(rng.uniform(25, 80)),
        k_space_filters=filters,
        elliptical=None not in filters[1:] and bool(rng.random() < 0.5),
        swi=_sample_swi(swi_echo, rng, flat=flat),
        chimap=_sample_chimap(rng),
        t2w_repetition_time_s=float(rng.uniform(2.5, 6.0)),
        t2w_echo_time_s=float(rng.uniform(0.08, 0.12)),
        t2w_blur_mm=(t2w_blur_mm, t2w_blur_mm, 0.45),
        t2w_snr=float(rng.uniform(20, 60)),
        sequence="2D" if flat else "3D",
        gibbs=bool(rng.random() < 0.5),
        fourier_share=float(rng.choice([1.0, 7 / 8, 6 / 8], p=[0.6, 0.2, 0.2])),
        motion_mm=float(rng.choice([0.0, rng.uniform(0.1, 0.8)], p=[0.7, 0.3])),
        phase_poles=bool(rng.random() < 0.15),
        t2w_slice_mm=float(rng.uniform(3.0, 5.0)) if thick_t2w else 1.0,
        mask_grown_mm=float(rng.choice([-1.5, 0.0, 2.5], p=[0.2, 0.6, 0.2])),
        stripped=bool(rng.random() < 0.3),
        detailed_people=True,
    )  # fmt: skip


def protocol_by_name(name: str, rng: np.random.Generator) -> Protocol:
    """Return the named protocol; ``random`` draws one.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    if name == "random":
        return sample_protocol(rng)
    if name == "mesa-like":
        return mesa_like()
    raise ConfigError(f"unknown protocol {name!r}; known are {', '.join(PROTOCOL_NAMES)}")


def _sample_spacing(rng: np.random.Generator, *, flat: bool) -> tuple[float, float, float]:
    """Voxel size: 0.6 to 1 mm in plane; slices of 0.8 to 3.3 mm in 3-D, 3 to 5 mm in 2-D."""
    in_plane = float(rng.uniform(0.6, 1.0))
    if flat:
        return in_plane, in_plane, float(rng.uniform(3.0, 5.0))
    slice_mm = float(rng.choice([rng.uniform(0.8, 1.6), rng.uniform(1.6, 3.3)], p=[0.45, 0.55]))
    return in_plane, in_plane, max(slice_mm, in_plane)


def _sample_filters(
    rng: np.random.Generator, *, flat: bool
) -> tuple[AxisFilter | None, AxisFilter | None, AxisFilter | None]:
    """Draw what is acquired along the readout I, the phase-encoded J and, in 3-D, the slices K.

    The phase-encoded axis is resolved least, as a rule. Slices are often filled up with zeros,
    too, with a softer edge: see docs/realism.md for the spectra of real maps.
    """
    read = AxisFilter(float(rng.uniform(0.8, 1.05)), float(rng.uniform(0.1, 0.5)))
    phase = AxisFilter(float(rng.uniform(0.65, 1.0)), float(rng.uniform(0.1, 0.5)))
    slices = AxisFilter(float(rng.uniform(0.55, 1.1)), float(rng.uniform(0.2, 1.4)))
    there = rng.random(3) < (0.7, 0.85, 0.0 if flat else 0.65)
    i, j, k = (
        one if given else None for one, given in zip((read, phase, slices), there, strict=True)
    )
    return i, j, k


def _sample_swi(echo: int, rng: np.random.Generator, *, flat: bool) -> SwiSettings:
    """SWI; of a 2-D scan as a rule the T2*-weighted magnitude alone, a phase mask of power 0."""
    return SwiSettings(
        echo=echo,
        phase="homodyne" if rng.random() < 0.55 else "unwrapped",
        filter_size=float(rng.uniform(32, 96)),
        power=0 if flat and rng.random() < 0.8 else int(rng.choice([3, 4, 4, 4, 5])),
    )


def _sample_echoes(
    b0_t: float, rng: np.random.Generator, *, single: bool
) -> tuple[tuple[float, ...], int]:
    """Echo times in s, and which of them makes the SWI: TE about 60 ms·T over the field."""
    wanted = 0.06 / b0_t * float(rng.uniform(0.75, 1.25))
    if single or rng.random() < 0.35:
        return (wanted,), 0
    count = int(rng.choice([2, 3, 4, 5, 6, 8], p=[0.2, 0.25, 0.25, 0.15, 0.1, 0.05]))
    first = float(rng.uniform(0.004, 0.009))
    last = max(first + 0.008, wanted * float(rng.uniform(1.0, 1.5)))
    times = tuple(float(t) for t in np.linspace(first, last, count))
    return times, int(np.argmin(np.abs(np.array(times) - wanted)))


def _sample_chimap(rng: np.random.Generator) -> ChimapSettings:
    """How phase becomes a Chimap; a part by MEDI, as `deepmir reconstruct` does by default.

    Exact phase goes with MEDI alone, which mistrusts it where signal is lost: the other methods
    draw streaks around such places.
    """
    method = list(_STRENGTHS)[int(rng.choice(3, p=[0.4, 0.45, 0.15]))]
    low, high = _STRENGTHS[method]
    medi = method == "medi"
    pdf = bool(rng.random() < 0.1)
    return ChimapSettings(
        method=method,
        strength=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        largest_sphere_mm=float(rng.uniform(5, 14)),
        vsharp_threshold=0.05 if medi else 0.1,
        erosion_mm=float(rng.uniform(0, 5)),
        reference="brain" if rng.random() < 0.5 else "csf",
        unwrap="path" if medi else "laplacian",
        background="pdf" if pdf else "vsharp",
        tolerance=float(rng.uniform(0.015, 0.03)),
        refinements=int(rng.integers(3)) if medi and not pdf else 0,
    )
