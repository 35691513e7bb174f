"""Semi-real persons: findings inserted into a real susceptibility map.

    map + nuclei ─► label map ─► deposits drawn ─► complex factor of each on its voxels
    map ─► echoes (magnitude from χ and nuclei, phase from the map's field) ─► × factors
        ─► SWI with and without findings
        ─► field with less field without ─► inversion ─► added to the map

The maps come without magnitude, so the SWI is synthesised: grey and white matter from the map's
own grey values, iron of the nuclei and veins from what rises above them. Everything else is the
map as it was measured. Used by ``semi_real.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.physics.dipole import field_ppm
from deepmir.physics.signal import gradient_echo, spoiled_echo_amplitude
from deepmir.preprocessing.normalize import dilate_mm
from deepmir.reconstruction.background import remove_background_vsharp
from deepmir.reconstruction.inversion import InversionMethod, invert
from deepmir.reconstruction.run import (
    GradientEchoes,
    SwiSettings,
    reconstruct_field,
    reconstruct_swi,
)
from deepmir.simulation.lesions import (
    Counts,
    Deposit,
    DepositEffect,
    Kind,
    ScanGeometry,
    deposit_effect,
    sample_deposits,
)
from deepmir.simulation.tissue import CORTEX, R2STAR_HZ_PER_PPM, WHITE, texture
from deepmir.simulation.truth import ScanPair, Visibility, draw_truth
from deepmir.volume import BoolMap, FloatMap, IntMap

ComplexMap = npt.NDArray[np.complexfloating]
Vector = npt.NDArray[np.float64]

B0_T = 3.0
B0_DIRECTION = (0.0, 0.0, 1.0)
CMB_MOMENTS_PPM_MM3 = (0.4, 40.0)
RIM_MM = 3.0
"""Brain outside the map, lost to its own erosion: echoes are made there too, findings are not."""
BASAL_GANGLIA = (1, 2, 3, 4, 5, 6)
"""Caudate, putamen and pallidum in the numbers of the maps' own labels."""
_FREESURFER = {1: 11, 2: 50, 3: 12, 4: 51, 5: 13, 6: 52}
_CORTEX_MM = 4.0

# Parts without a label, as ellipsoids in the frame of the red nuclei: label of each side, centre
# (lateral, anterior, superior) and semi-axes in mm, from their usual places in MNI space. Good
# enough to say what share of the deposits lies where; the findings part never sees them.
_PARTS: tuple[tuple[tuple[int, int], Sequence[float], Sequence[float]], ...] = (
    ((7, 46), (24, -41, -24), (26, 28, 22)),
    ((16, 16), (0, -6, -27), (12, 11, 25)),
    ((10, 49), (11, 3, 16), (8, 13, 9)),
    ((4, 43), (9, 19, 26), (6, 35, 7)),
    ((4, 43), (22, -21, 18), (6, 9, 9)),
)


@dataclass(frozen=True, slots=True, eq=False)
class RealMap:
    """A measured susceptibility map with the labels of its nuclei, cut to the brain."""

    chi_ppm: FloatMap  # (I, J, K), 0 outside its mask
    nuclei: IntMap  # (I, J, K), 1 … 10, odd on the side of the low first index
    spacing_mm: tuple[float, float, float]

    @property
    def mask(self) -> BoolMap:
        """Where the map holds."""
        return np.asarray(ndimage.binary_fill_holes(self.chi_ppm != 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the scan was made and reconstructed; drawn once per person."""

    echo_times_s: tuple[float, ...]
    repetition_time_s: float
    flip_deg: float
    snr: float
    swi: SwiSettings
    vein_darkness: float  # 1: as usual
    inversion: InversionMethod
    strength: float
    largest_sphere_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class Insertion:
    """Scans of one semi-real person with and without the findings."""

    scans: ScanPair
    effects: tuple[DepositEffect | None, ...]
    mask: BoolMap


def cut_to_brain(
    chi_ppm: FloatMap, nuclei: IntMap, spacing_mm: tuple[float, float, float]
) -> RealMap:
    """Cut a map to its brain with a margin of 10 mm."""
    (found,) = ndimage.find_objects((chi_ppm != 0).astype(np.uint8))
    margins = [int(np.ceil(10.0 / step)) for step in spacing_mm]
    box = tuple(
        slice(max(part.start - pad, 0), part.stop + pad)
        for part, pad in zip(found, margins, strict=True)
    )
    return RealMap(chi_ppm[box].astype(np.float32), nuclei[box].astype(np.uint8), spacing_mm)


def sample_settings(rng: np.random.Generator) -> Settings:
    """Draw a multi-echo acquisition at 3 T and its reconstruction."""
    count = int(rng.integers(4, 7))
    first, last = rng.uniform(0.004, 0.007), rng.uniform(0.022, 0.030)
    times = tuple(float(t) for t in np.linspace(first, last, count))
    tkd = rng.random() < 0.35
    strength = rng.uniform(0.1, 0.25) if tkd else np.exp(rng.uniform(np.log(5e-4), np.log(2e-2)))
    return Settings(
        echo_times_s=times,
        repetition_time_s=times[-1] + float(rng.uniform(0.006, 0.02)),
        flip_deg=float(rng.uniform(8, 20)),
        snr=float(rng.uniform(30, 80)),
        swi=SwiSettings(
            echo=int(np.argmin(np.abs(np.array(times) - rng.uniform(0.018, 0.024)))),
            phase="homodyne" if rng.random() < 0.55 else "unwrapped",
            filter_size=float(rng.uniform(32, 96)),
        ),
        vein_darkness=float(rng.uniform(0.7, 1.3)),
        inversion="tkd" if tkd else "closed-form",
        strength=float(strength),
        largest_sphere_mm=float(rng.uniform(6, 14)),
    )


def draw_deposits(
    real: RealMap, rng: np.random.Generator, *, with_microbleeds: bool
) -> list[Deposit]:
    """Draw findings where they may lie; more microbleeds than usual, for a narrow interval.

    Moments of microbleeds are even on a logarithmic scale, so that each range of conspicuity
    holds enough of them: a third lies near the limit of what can be seen.
    """
    counts = Counts(
        cmb=int(rng.integers(9, 15)) if with_microbleeds else 0,
        iron=int(rng.integers(2, 6)),
        calcification=int(rng.integers(2, 6)),
        mixed=0,
    )
    low, high = np.log(CMB_MOMENTS_PPM_MM3)
    return [
        with_moment(deposit, float(np.exp(rng.uniform(low, high))))
        if deposit.kind is Kind.CMB
        else deposit
        for deposit in sample_deposits(label_map(real), counts, rng)
    ]


def with_moment(deposit: Deposit, moment_ppm_mm3: float) -> Deposit:
    """Return the same deposit with another size, so that its moment is this."""
    scale = float(np.cbrt(moment_ppm_mm3 / deposit.moment_ppm_mm3))
    a, b, c = (axis * scale for axis in deposit.semi_axes_mm)
    return replace(deposit, semi_axes_mm=(a, b, c))


def label_map(real: RealMap) -> IntMap:
    """1 mm label map in FreeSurfer numbers whose voxel 0 is centred on the scan's voxel 0.

    Nuclei as labelled, an outer rim of 4 mm as cortex, cerebellum, brain stem, thalami and
    lateral ventricles roughly from the red nuclei, everything else as white matter.
    """
    mask = _resample_nearest(real.mask.astype(np.uint8), real.spacing_mm) > 0
    nuclei = _resample_nearest(real.nuclei, real.spacing_mm)
    depth_mm = ndimage.distance_transform_edt(mask)
    labels = np.where(mask, np.where(depth_mm < _CORTEX_MM, 3, 2), 0).astype(np.uint16)
    lateral, anterior, superior = _head_frame_mm(nuclei, labels.shape)
    is_right = lateral > 0
    labels[is_right & (labels == 2)], labels[is_right & (labels == 3)] = 41, 42
    for (left, right), centre, semi_axes in _PARTS:
        square = (
            ((np.abs(lateral) - centre[0]) / semi_axes[0]) ** 2
            + ((anterior - centre[1]) / semi_axes[1]) ** 2
            + ((superior - centre[2]) / semi_axes[2]) ** 2
        )
        inside = (square <= 1) & (depth_mm >= _CORTEX_MM)
        labels[inside] = np.where(is_right, right, left)[inside]
    for number, label in _FREESURFER.items():
        labels[mask & (nuclei == number)] = label
    return labels


def insert(
    real: RealMap, deposits: list[Deposit], settings: Settings, rng: np.random.Generator
) -> Insertion:
    """Make SWI and susceptibility map of a person with and without deposits, same noise."""
    mask = real.mask
    brain = dilate_mm(mask, RIM_MM, spacing_mm=real.spacing_mm)
    effects = deposit_effects(real, deposits, settings)
    clean = clean_echoes(real, brain, settings, rng)
    noise = _noise(clean, settings.snr, rng)
    without = _echoes([a + b for a, b in zip(clean, noise, strict=True)], real, settings)
    affected = _apply(clean, effects)
    with_deposits = _echoes([a + b for a, b in zip(affected, noise, strict=True)], real, settings)
    change = inverted_change(with_deposits, without, mask, brain, settings)
    swi, swi_without = (
        reconstruct_swi(echoes, settings.swi) * mask for echoes in (with_deposits, without)
    )
    chi = np.where(mask, real.chi_ppm + change, 0).astype(np.float32)
    pair = ScanPair(
        swi=swi,
        swi_without=swi_without,
        chi_ppm=chi,
        chi_without_ppm=real.chi_ppm,
        lost=np.zeros(chi.shape, dtype=bool),  # these scans have no dropout
    )
    return Insertion(pair, effects, mask)


def deposit_effects(
    real: RealMap, deposits: list[Deposit], settings: Settings
) -> tuple[DepositEffect | None, ...]:
    """Complex factor of each deposit on the voxels around it."""
    i, j, k = real.chi_ppm.shape
    scan = ScanGeometry(
        shape=(i, j, k),
        spacing_mm=real.spacing_mm,
        origin_mm=(0.0, 0.0, 0.0),
        b0_t=B0_T,
        b0=B0_DIRECTION,
        echo_times_s=settings.echo_times_s,
        spin_echo_time_s=0.1,
    )
    labels = label_map(real)
    return tuple(deposit_effect(deposit, labels, scan) for deposit in deposits)


def inverted_change(
    with_deposits: GradientEchoes,
    without: GradientEchoes,
    mask: BoolMap,
    brain: BoolMap,
    settings: Settings,
) -> FloatMap:
    """Invert what the deposits change in the phase: what they add to the map."""
    difference = reconstruct_field(with_deposits) - reconstruct_field(without)
    spacing = with_deposits.spacing_mm
    local, inner = remove_background_vsharp(
        difference,
        brain,
        spacing,
        radii_mm=np.linspace(1.01 * min(spacing), settings.largest_sphere_mm, 5).tolist(),
        threshold=0.1,
    )
    return invert(
        local, mask & inner, spacing, B0_DIRECTION,
        method=settings.inversion, strength=settings.strength,
    )  # fmt: skip


def clean_echoes(
    real: RealMap, brain: BoolMap, settings: Settings, rng: np.random.Generator
) -> list[ComplexMap]:
    """Noise-free echoes of the person as scanned, 0 outside the brain."""
    spacing = real.spacing_mm
    share = grey_share(real)
    amplitude = spoiled_echo_amplitude(
        WHITE.proton_density + share * (CORTEX.proton_density - WHITE.proton_density),
        WHITE.t1_s + share * (CORTEX.t1_s - WHITE.t1_s),
        repetition_time_s=settings.repetition_time_s,
        flip_deg=settings.flip_deg,
    ).astype(np.float32)
    i, j, k = brain.shape
    amplitude *= 1 + texture((i, j, k), rng, correlation_voxels=0.7, amplitude=0.03)
    iron = np.where(real.nuclei > 0, np.maximum(real.chi_ppm, 0), 0)
    r2star = WHITE.r2star_hz + share * (CORTEX.r2star_hz - WHITE.r2star_hz)
    r2star = r2star + R2STAR_HZ_PER_PPM * ndimage.gaussian_filter(iron, 0.5)
    r2star = r2star + vein_decay_hz(vein_fraction(real)) * settings.vein_darkness
    field = field_ppm(real.chi_ppm, spacing, B0_DIRECTION, margin_mm=40.0)
    coil = _coil((i, j, k), rng)
    return [
        np.asarray(
            brain
            * coil
            * gradient_echo(
                amplitude, r2star.astype(np.float32), field, b0_t=B0_T, echo_time_s=echo_time
            ),
            dtype=np.complex64,
        )
        for echo_time in settings.echo_times_s
    ]


def grey_share(real: RealMap) -> FloatMap:
    """Share of grey matter in each voxel, told from χ: myelin is diamagnetic, cortex is not.

    Clipped before smoothing, lest the tissue of veins be brighter than what is around them.
    """
    smooth = ndimage.gaussian_filter(np.minimum(real.chi_ppm, 0.04), (1.0, 1.0, 0.3))
    return np.asarray(np.clip((smooth + 0.03) / 0.06, 0, 1), dtype=np.float32)


def vein_fraction(real: RealMap) -> FloatMap:
    """Share of venous blood in each voxel, 0 to 1: what rises above its surroundings.

    Outside the nuclei, texture of 0.01 to 0.03 ppm apart; blood that fills a voxel shows as
    about 0.3 ppm on a real map, whose inversion and voxel size have lowered it.
    """
    spacing = np.array(real.spacing_mm)
    weight = ndimage.gaussian_filter(real.mask.astype(np.float32), 5.0 / spacing)
    around = ndimage.gaussian_filter(real.chi_ppm, 5.0 / spacing) / np.maximum(weight, 1e-3)
    excess = real.chi_ppm - around
    clear = np.clip((excess - 0.035) / 0.03, 0, 1)
    outside = ~dilate_mm(real.nuclei > 0, 1.5, spacing_mm=real.spacing_mm)
    return np.asarray(np.clip(clear * excess / 0.3, 0, 1) * outside * real.mask, dtype=np.float32)


def vein_decay_hz(fraction: FloatMap) -> FloatMap:
    """Extra decay of a voxel with this share of venous blood.

    Veins thinner than a voxel dephase with the tissue beside them, which is lost once χ has been
    averaged over a voxel; it is put back, so that a vein loses on SWI what tubes of blood lose
    when their signal is summed over sub-voxels (a test): half at 0.06 to 0.1 ppm, five sixths
    above 0.2 ppm (TE 20 ms).
    """
    return np.asarray(65.0 * fraction**0.6, dtype=np.float32)


def truth_of(
    insertion: Insertion,
    deposits: list[Deposit],
    voxel_volume_mm3: float,
    *,
    swi: bool,
    chimap: bool,
) -> tuple[IntMap, list[Visibility | None]]:
    """Label map of what a rater could see on the contrasts that are there; 255: not seen."""
    pair = insertion.scans
    shown = replace(
        pair,
        swi=pair.swi if swi else pair.swi_without,
        chi_ppm=pair.chi_ppm if chimap else pair.chi_without_ppm,
    )
    labels, _, seen = draw_truth(
        deposits, insertion.effects, shown, insertion.mask, voxel_volume_mm3=voxel_volume_mm3
    )
    return np.where(insertion.mask, labels, 0).astype(np.uint8), seen


def deposit_cores(insertion: Insertion) -> IntMap:
    """Mark the voxels that hold a deposit's substance with its number, from 1."""
    cores = np.zeros(insertion.mask.shape, dtype=np.uint8)
    for number, effect in enumerate(insertion.effects, start=1):
        if effect is not None and effect.fraction.any():
            core = (effect.fraction > 0.05) | (effect.fraction == effect.fraction.max())
            cores[effect.block][core] = number
    return cores


def _apply(clean: list[ComplexMap], effects: tuple[DepositEffect | None, ...]) -> list[ComplexMap]:
    affected = [echo.copy() for echo in clean]
    for effect in effects:
        if effect is not None:
            for echo, factor in zip(affected, effect.echo_factors, strict=True):
                echo[effect.block] *= factor
    return affected


def _echoes(signals: list[ComplexMap], real: RealMap, settings: Settings) -> GradientEchoes:
    return GradientEchoes(
        signals=tuple(signals),
        echo_times_s=settings.echo_times_s,
        b0_t=B0_T,
        spacing_mm=real.spacing_mm,
        b0_direction=B0_DIRECTION,
    )


def _noise(clean: list[ComplexMap], snr: float, rng: np.random.Generator) -> list[ComplexMap]:
    magnitude = np.abs(clean[0])
    level = np.float32(np.percentile(magnitude[magnitude > 0], 50) / snr)
    return [
        np.asarray(
            level
            * (
                rng.standard_normal(echo.shape, dtype=np.float32)
                + 1j * rng.standard_normal(echo.shape, dtype=np.float32)
            ),
            dtype=np.complex64,
        )
        for echo in clean
    ]


def _coil(shape: tuple[int, int, int], rng: np.random.Generator) -> ComplexMap:
    """Smooth receive bias and phase."""
    lattice = rng.standard_normal((2, 4, 4, 4)).astype(np.float32)
    bias, phase = (ndimage.zoom(part, [n / 4 for n in shape], order=3) for part in lattice)
    strength = float(rng.uniform(0.0, 0.2))
    return np.asarray(np.exp(strength * bias + 0.7j * phase), dtype=np.complex64)


def _resample_nearest(image: IntMap, spacing_mm: Sequence[float]) -> IntMap:
    """From the scan's grid to 1 mm; voxel 0 keeps its centre."""
    for axis, step in enumerate(spacing_mm):
        n = image.shape[axis]
        at = np.arange(int((n - 1) * step) + 1) / step
        image = np.take(image, np.clip(np.round(at).astype(int), 0, n - 1), axis)
    return image


def _head_frame_mm(nuclei: IntMap, shape: tuple[int, ...]) -> tuple[Vector, Vector, Vector]:
    """Distances in mm to the point between the red nuclei: to the right, forward and up.

    The midline is that of the pairs of nuclei; heads that nod are not straightened.
    """
    pairs = [
        (np.argwhere(nuclei == odd).mean(axis=0), np.argwhere(nuclei == odd + 1).mean(axis=0))
        for odd in (1, 3, 5, 7, 9)
    ]
    across = np.mean([even - odd for odd, even in pairs], axis=0)[:2]
    across /= np.linalg.norm(across)
    centre = np.mean(pairs[-1], axis=0)
    i, j, k = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij", sparse=True)
    i, j, k = i - centre[0], j - centre[1], k - centre[2]
    right, forward = across[0] * i + across[1] * j, across[0] * j - across[1] * i
    lateral, anterior, superior = np.broadcast_arrays(right, forward, k)
    return lateral, anterior, superior
