"""Deposits: microbleeds, iron, calcifications and their mimics, drawn by their moment.

What survives imaging is a deposit's moment χ·volume (Liu 2012, doi:10.1148/radiol.11110251), so
that is what is drawn. A deposit is simulated in a local block of sub-voxels about four times as
fine as the scan: its complex factor on each voxel multiplies the head's signal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.labels import Finding
from deepmir.physics.dipole import field_ppm
from deepmir.physics.signal import phase_per_ppm_rad, sum_subvoxels
from deepmir.simulation.tissue import atria
from deepmir.simulation.vessels import Vessel
from deepmir.volume import BoolMap, FloatMap, IntMap

SUBVOXEL_MM = 0.25

BASAL_GANGLIA = (11, 12, 13, 50, 51, 52)
PALLIDUM = (13, 52)

CMB_PLACES: dict[str, float] = {
    "subcortical white matter": 0.401,
    "cortex": 0.337,
    "cerebellum": 0.082,
    "basal ganglia": 0.080,
    "thalamus": 0.055,
    "brain stem": 0.044,
}
"""Share of microbleeds by place: 957 annotated ones of five public cohorts."""

CMB_COUNTS: dict[int, int] = {
    1: 100, 2: 31, 3: 19, 4: 8, 5: 6, 6: 4, 7: 4, 8: 4, 9: 2, 10: 1, 11: 8, 12: 3, 13: 3, 14: 1,
    16: 1, 17: 2, 18: 1, 21: 1, 26: 1, 29: 1, 31: 1, 36: 1, 38: 1, 55: 1, 83: 1,
}  # fmt: skip
"""How many of those cohorts' positive scans have so many microbleeds."""

BY_VEIN = "against a vein"
_SHOWN_RADIUS_MM = 0.3  # a vein of at least this radius can be seen on SWI

CMB_MOMENTS = (0.4, 100.0)
FAINT_MOMENTS = (0.3, 3.0)
"""Least and greatest χ·volume of microbleeds, and of those near the limit, ppm·mm³."""

_CORE_SIZE, _CORE_CHI, _CORE_ON_T2W = 0.6, -0.5, 1.4
"""Calcified core of a mixed lesion: its axes, its χ and its T2w signal, relative to the whole. On
T2w a cavernoma is bright and mottled within a dark rim (Zabramski 1994,
doi:10.3171/jns.1994.80.3.0422)."""

MOST_CMB = 40
"""More do not fit apart from each other into one head."""


class Kind(StrEnum):
    """What a deposit is made of."""

    CMB = "microbleed"
    IRON = "iron"
    CALCIFICATION = "calcification"
    MIXED = "mixed"  # cavernoma-like, old blood round a calcified core: a mimic, not a finding


FINDING_OF_KIND: dict[Kind, Finding | None] = {
    Kind.CMB: Finding.CMB,
    Kind.IRON: Finding.IRON,
    Kind.CALCIFICATION: Finding.CALCIFICATION,
    Kind.MIXED: None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """One deposit as drawn; every number can be saved and replayed."""

    kind: Kind
    place: str
    centre_mm: tuple[float, float, float]  # in the frame of the 1 mm label map
    semi_axes_mm: tuple[float, float, float]
    rotation_deg: tuple[float, float, float]
    chi_ppm: float
    r2star_hz_per_ppm: float
    r2_hz_per_ppm: float
    proton_density: float  # relative to the tissue
    patchiness: float  # 0 compact ellipsoid … 1 ragged
    seed: int  # of the patches

    @property
    def moment_ppm_mm3(self) -> float:
        """χ · volume of the ellipsoid before patches are taken out of it."""
        a, b, c = self.semi_axes_mm
        return self.chi_ppm * 4 / 3 * np.pi * a * b * c


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many deposits of each kind a person has."""

    cmb: int
    iron: int
    calcification: int
    mixed: int
    faint_cmb: int = 0  # further microbleeds near the limit of what can be seen
    cmb_by_vein: int = 0  # further microbleeds that touch a vein


@dataclass(frozen=True, slots=True, eq=False)
class DepositEffect:
    """What one deposit does to the scan, on the voxels of a block of it."""

    block: tuple[slice, slice, slice]  # of the scan's grid
    echo_factors: tuple[npt.NDArray[np.complexfloating], ...]  # multiply each echo's signal
    spin_echo_factor: FloatMap  # multiplies T2w
    fraction: FloatMap  # volume fraction of deposit per voxel
    chi_ppm: FloatMap  # what it adds to the true χ


def realistic_counts(rng: np.random.Generator) -> Counts:
    """Draw counts as in a cohort of the elderly: half of the people have no microbleed."""
    scans = np.array([*CMB_COUNTS.values()])
    positive = int(rng.choice([*CMB_COUNTS], p=scans / scans.sum()))
    return Counts(
        cmb=min(positive, MOST_CMB) if rng.random() < 0.5 else 0,
        iron=int(rng.poisson(3.0)),
        calcification=int(rng.poisson(2.5)),
        mixed=int(rng.random() < 0.1),
    )


def demonstration_counts(rng: np.random.Generator) -> Counts:
    """Draw some of each kind, for a person to show."""
    return Counts(
        cmb=int(rng.integers(5, 9)),
        iron=int(rng.integers(3, 5)),
        calcification=int(rng.integers(2, 4)),
        mixed=0,
    )


def training_counts(rng: np.random.Generator) -> Counts:
    """Many more deposits than people have, a third of the microbleeds hardly to be seen.

    A network learns from what it sees: trained on blatant ones only it learns a threshold, and
    where few of them touch a vein it takes those that do for a piece of it.
    """
    return Counts(
        cmb=int(rng.integers(8, 18)),
        cmb_by_vein=int(rng.integers(4, 10)),
        faint_cmb=int(rng.integers(5, 13)),
        iron=int(rng.integers(4, 10)),
        calcification=int(rng.integers(6, 14)),
        mixed=int(rng.integers(0, 3)),
    )


def sample_deposits(
    labels: IntMap,
    counts: Counts,
    rng: np.random.Generator,
    *,
    veins: Sequence[Vessel] = (),
    apart_mm: float = 9.0,
) -> list[Deposit]:
    """Draw deposits into a 1 mm label map; two of them keep `apart_mm` between centres.

    Parameters
    ----------
    labels : (I, J, K) int array
        FreeSurfer numbers.
    counts : Counts
    rng : Generator
    veins : sequence of Vessel
        In the frame of the map; without them no microbleed is put against one.
    apart_mm : float
    """
    places = _Places(labels, veins)
    deposits: list[Deposit] = []
    for kind, count, faint, place in (
        (Kind.MIXED, counts.mixed, False, None),
        (Kind.CMB, counts.cmb, False, None),
        (Kind.CMB, counts.faint_cmb, True, None),
        (Kind.CMB, counts.cmb_by_vein, False, BY_VEIN),
        (Kind.IRON, counts.iron, False, None),
        (Kind.CALCIFICATION, counts.calcification, False, None),
    ):
        for _ in range(count):
            drawn = _sample_one(kind, place or _sample_place(kind, rng), places, rng, faint=faint)
            if drawn is not None and _is_apart(drawn, deposits, apart_mm):
                deposits.append(drawn)
    return deposits


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanGeometry:
    """The scan's grid in the frame of the label map, and how it is read out."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]  # centre of voxel (0, 0, 0)
    b0_t: float
    b0: tuple[float, float, float]  # direction along the grid's axes
    echo_times_s: Sequence[float]
    spin_echo_time_s: float


def deposit_effect(deposit: Deposit, labels: IntMap, scan: ScanGeometry) -> DepositEffect | None:
    """Complex factor of a deposit on the voxels around it; None where it lies off the grid.

    Parameters
    ----------
    labels : (I, J, K) int array
        1 mm label map: patchy iron stays within the basal ganglia.
    """
    reach = 1.2 * max(deposit.semi_axes_mm) + 4.0 + 2.0 * abs(deposit.moment_ppm_mm3) ** (1 / 3)
    reach = min(reach, 26.0)
    block = _block(deposit.centre_mm, reach, scan)
    if block is None:
        return None
    subvoxel = SUBVOXEL_MM if reach < 13.0 else 2 * SUBVOXEL_MM
    factors = tuple(max(1, int(np.ceil(step / subvoxel))) for step in scan.spacing_mm)
    fine_step = tuple(step / n for step, n in zip(scan.spacing_mm, factors, strict=True))
    points = _subvoxel_points(block, factors, scan)
    inside = _deposit_mask(deposit, labels, points)
    core = _calcified_core(deposit, labels, points) & inside
    chi = np.where(core, np.float32(_CORE_CHI), inside) * np.float32(deposit.chi_ppm)
    field = field_ppm(chi, fine_step, scan.b0, margin_mm=0.5 * reach)
    decay_hz = np.abs(chi) * np.float32(deposit.r2star_hz_per_ppm * scan.b0_t / 3.0)
    density = 1 + inside * np.float32(deposit.proton_density - 1)
    steps = (factors[0], factors[1], factors[2])
    echoes = tuple(
        _echo_factor(density, decay_hz, field, echo_time_s=te, b0_t=scan.b0_t, steps=steps)
        for te in scan.echo_times_s
    )
    dark = density * np.exp(
        -np.abs(chi) * np.float32(deposit.r2_hz_per_ppm * scan.spin_echo_time_s)
    )
    dark[core] = _CORE_ON_T2W
    return DepositEffect(
        block=block,
        echo_factors=echoes,
        spin_echo_factor=sum_subvoxels(dark, steps),
        fraction=sum_subvoxels(inside.astype(np.float32), steps),
        chi_ppm=sum_subvoxels(chi, steps),
    )


class _Places:
    """Where each kind may lie, looked up once per person."""

    def __init__(self, labels: IntMap, veins: Sequence[Vessel]) -> None:
        white, gray = np.isin(labels, (2, 41, 77)), np.isin(labels, (3, 42))
        to_gray = ndimage.distance_transform_edt(~gray)
        to_white = ndimage.distance_transform_edt(~white)
        self.labels = labels
        self.where: dict[str, npt.NDArray[np.intp]] = {
            "subcortical white matter": np.flatnonzero(white & (to_gray > 1.5)),
            "cortex": np.flatnonzero((gray & (to_white < 2.5)) | (white & (to_gray <= 1.5))),
            "cerebellum": np.flatnonzero(np.isin(labels, (7, 8, 46, 47))),
            "basal ganglia": np.flatnonzero(np.isin(labels, BASAL_GANGLIA)),
            "pallidum": np.flatnonzero(np.isin(labels, PALLIDUM)),
            "thalamus": np.flatnonzero(np.isin(labels, (10, 49))),
            "brain stem": np.flatnonzero(labels == 16),
            "parenchyma": np.flatnonzero(white | gray),
            "choroid plexus": np.flatnonzero(atria(labels)),
            "pineal": _behind_thalami(labels),
            "falx": _falx(labels),
            BY_VEIN: np.flatnonzero(_near_veins(veins, labels.shape) & (white | gray)),
        }

    def draw(self, place: str, rng: np.random.Generator) -> tuple[float, float, float] | None:
        where = self.where[place]
        if len(where) == 0:
            return None
        index = np.array(np.unravel_index(int(rng.choice(where)), self.labels.shape), dtype=float)
        i, j, k = index + rng.uniform(-0.5, 0.5, 3)
        return float(i), float(j), float(k)


def _near_veins(veins: Sequence[Vessel], shape: tuple[int, ...]) -> BoolMap:
    """Voxels whose centre is about 1 to 2 mm off the middle of a vein that SWI shows."""
    hit = np.zeros(shape, dtype=bool)
    for vein in veins:
        wide = vein.points_mm[vein.radius_mm > _SHOWN_RADIUS_MM]
        at = np.round(wide).astype(np.intp)
        at = at[((at >= 0) & (at < np.array(shape))).all(axis=1)]
        hit[tuple(at.T)] = True
    return np.asarray(ndimage.binary_dilation(hit) & ~hit)


def _sample_one(
    kind: Kind, place: str, places: _Places, rng: np.random.Generator, *, faint: bool
) -> Deposit | None:
    centre = places.draw(place, rng)
    if centre is None:
        return None
    chi, volume_mm3, patchiness = _sample_strength(kind, place, rng, faint=faint)
    compact = rng.uniform(0.65, 1.0, 3) if patchiness == 0 else rng.uniform(0.45, 1.0, 3)
    radius = (3 * volume_mm3 / (4 * np.pi * compact.prod())) ** (1 / 3)
    a, b, c = (float(x) for x in radius * compact)
    alpha, beta, gamma = (float(x) for x in rng.uniform(0, 180, 3))
    dark_on_t2w = rng.random() < 0.5
    return Deposit(
        kind=kind,
        place=place,
        centre_mm=centre,
        semi_axes_mm=(a, b, c),
        rotation_deg=(alpha, beta, gamma),
        chi_ppm=chi,
        r2star_hz_per_ppm=float(rng.uniform(100, 250) if chi > 0 else rng.uniform(50, 200)),
        r2_hz_per_ppm=float(rng.uniform(8, 40)) if dark_on_t2w or kind is Kind.IRON else 0.0,
        proton_density=float(rng.uniform(0.3, 0.8) if chi < 0 else rng.uniform(0.7, 1.0)),
        patchiness=patchiness,
        seed=int(rng.integers(2**31)),
    )


def _sample_place(kind: Kind, rng: np.random.Generator) -> str:
    if kind is Kind.CMB:
        return str(rng.choice(list(CMB_PLACES), p=np.array([*CMB_PLACES.values()]) / 0.999))
    if kind is Kind.IRON:
        return str(rng.choice(["basal ganglia", "pallidum"], p=[0.6, 0.4]))
    if kind is Kind.MIXED:
        return "parenchyma"
    kinds = ["pallidum", "choroid plexus", "pineal", "falx", "parenchyma"]
    return str(rng.choice(kinds, p=[0.3, 0.2, 0.1, 0.1, 0.3]))


def _sample_strength(
    kind: Kind, place: str, rng: np.random.Generator, *, faint: bool
) -> tuple[float, float, float]:
    """χ in ppm, volume in mm³ and patchiness of a new deposit."""
    if kind is Kind.CMB:
        usual = float(np.clip(rng.lognormal(np.log(8.0), 1.2), *CMB_MOMENTS))
        moment = float(np.exp(rng.uniform(*np.log(FAINT_MOMENTS)))) if faint else usual
        chi = float(np.exp(rng.uniform(np.log(0.3), np.log(3.0))))
        return chi, moment / chi, 0.0
    if kind is Kind.IRON:
        volume = float(np.clip(rng.lognormal(np.log(60.0), 0.8), 12.0, 500.0))
        return float(rng.uniform(0.2, 0.8)), volume, float(rng.uniform(0.3, 0.8))
    if kind is Kind.MIXED:
        return float(rng.uniform(0.4, 1.0)), float(rng.uniform(300, 1200)), 0.9
    chi = -float(np.exp(rng.uniform(np.log(0.3), np.log(2.5))))
    if place == "parenchyma":
        moment = float(np.clip(rng.lognormal(np.log(8.0), 1.0), 0.8, 60.0))
        return chi, moment / -chi, float(rng.choice([0.0, 0.4]))
    volume = float(np.clip(rng.lognormal(np.log(35.0), 0.9), 4.0, 300.0))
    return chi * 0.6, volume, float(rng.uniform(0.2, 0.8))


def _is_apart(new: Deposit, others: list[Deposit], apart_mm: float) -> bool:
    here = np.array(new.centre_mm)
    size = max(new.semi_axes_mm)
    return all(
        np.linalg.norm(here - other.centre_mm) > apart_mm + 0.5 * (size + max(other.semi_axes_mm))
        for other in others
    )


def _block(
    centre_mm: tuple[float, float, float],
    reach_mm: float,
    scan: ScanGeometry,
) -> tuple[slice, slice, slice] | None:
    slices = []
    for centre, n, step, start in zip(
        centre_mm, scan.shape, scan.spacing_mm, scan.origin_mm, strict=True
    ):
        at = (centre - start) / step
        first, last = int(np.floor(at - reach_mm / step)), int(np.ceil(at + reach_mm / step))
        first, last = max(first, 0), min(last + 1, n)
        if not 0 <= at < n or last - first < 2:
            return None
        slices.append(slice(first, last))
    return slices[0], slices[1], slices[2]


def _subvoxel_points(
    block: tuple[slice, slice, slice],
    factors: tuple[int, ...],
    scan: ScanGeometry,
) -> tuple[FloatMap, FloatMap, FloatMap]:
    """Coordinates in mm of sub-voxel centres, one broadcastable array per axis."""
    axes = []
    for axis, (part, n) in enumerate(zip(block, factors, strict=True)):
        count = (part.stop - part.start) * n
        index = part.start - 0.5 + (np.arange(count) + 0.5) / n
        form = [1, 1, 1]
        form[axis] = count
        along = (scan.origin_mm[axis] + index * scan.spacing_mm[axis]).astype(np.float32)
        axes.append(along.reshape(form))
    return axes[0], axes[1], axes[2]


def _deposit_mask(
    deposit: Deposit, labels: IntMap, points: tuple[FloatMap, FloatMap, FloatMap]
) -> BoolMap:
    rotation = _rotation(deposit.rotation_deg)
    offsets = [p - np.float32(c) for p, c in zip(points, deposit.centre_mm, strict=True)]
    square = np.zeros((1, 1, 1), dtype=np.float32)
    for row, semi_axis in zip(rotation, deposit.semi_axes_mm, strict=True):
        along = sum(np.float32(w) * o for w, o in zip(row, offsets, strict=True))
        square = square + (along / np.float32(semi_axis)) ** 2
    if deposit.patchiness == 0:
        return np.asarray(square <= 1)
    rng = np.random.default_rng(deposit.seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(square.shape, dtype=np.float32), 3.5)
    noise /= max(float(noise.std()), 1e-6)
    inside = square + np.float32(0.8 * deposit.patchiness) * noise <= 1.2
    if deposit.kind is Kind.IRON:
        at = [
            np.clip(np.round(p).astype(int), 0, n - 1)
            for p, n in zip(points, labels.shape, strict=True)
        ]
        inside &= np.isin(labels[at[0], at[1], at[2]], BASAL_GANGLIA)
    return np.asarray(inside)


def _calcified_core(
    deposit: Deposit, labels: IntMap, points: tuple[FloatMap, FloatMap, FloatMap]
) -> BoolMap:
    """Inner part of a mixed lesion, with patches of its own; empty for all other kinds."""
    if deposit.kind is not Kind.MIXED:
        return np.zeros((1, 1, 1), dtype=bool)
    a, b, c = (axis * _CORE_SIZE for axis in deposit.semi_axes_mm)
    core = replace(deposit, semi_axes_mm=(a, b, c), seed=deposit.seed + 1)
    return _deposit_mask(core, labels, points)


def _echo_factor(
    density: FloatMap,
    decay_hz: FloatMap,
    field: FloatMap,
    *,
    echo_time_s: float,
    b0_t: float,
    steps: tuple[int, int, int],
) -> npt.NDArray[np.complexfloating]:
    magnitude = density * np.exp(-np.float32(echo_time_s) * decay_hz)
    phase = np.float32(phase_per_ppm_rad(b0_t, echo_time_s)) * field
    real = sum_subvoxels(magnitude * np.cos(phase), steps)
    imaginary = sum_subvoxels(magnitude * np.sin(phase), steps)
    return np.asarray(real + 1j * imaginary, dtype=np.complex64)


def _rotation(angles_deg: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        i, j = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _behind_thalami(labels: IntMap) -> npt.NDArray[np.intp]:
    thalami = np.argwhere(np.isin(labels, (10, 49)))
    if len(thalami) == 0:
        return np.zeros(0, dtype=np.intp)
    centre = thalami.mean(axis=0)
    back = np.percentile(thalami[:, 1], 5)
    at = np.round([centre[0], back - 1, centre[2] - 3]).astype(int)
    near = np.argwhere(np.ones((5, 5, 5))) - 2 + at
    near = near[((near >= 0) & (near < np.array(labels.shape))).all(axis=1)]
    return np.asarray(np.ravel_multi_index(tuple(near.T), labels.shape), dtype=np.intp)


def _falx(labels: IntMap) -> npt.NDArray[np.intp]:
    """Voxels of CSF between the hemispheres, near the top."""
    left = ndimage.distance_transform_edt(labels != 3)
    right = ndimage.distance_transform_edt(labels != 42)
    between = (left < 4) & (right < 4) & ~np.isin(labels, (2, 3, 41, 42))
    at = np.argwhere(between)
    if len(at) == 0:
        return np.zeros(0, dtype=np.intp)
    chosen = at[at[:, 2] > np.percentile(at[:, 2], 40)]
    return np.asarray(np.ravel_multi_index(tuple(chosen.T), labels.shape), dtype=np.intp)
