"""The scan itself: field, complex echoes on a finer grid, noise, and the T2w beside it."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepmir.geometry import Affine
from deepmir.physics.arrays import along_axis
from deepmir.physics.dipole import b0_direction, field_ppm
from deepmir.physics.kspace import (
    crop_k_space,
    filter_k_space,
    moved_between_lines,
    partial_fourier,
)
from deepmir.physics.scanner import complex_noise, receive_field, shim_field, smooth_field
from deepmir.physics.signal import (
    gradient_echo,
    spin_echo_amplitude,
    spoiled_echo_amplitude,
    sum_subvoxels,
)
from deepmir.reconstruction.run import GradientEchoes, SwiSettings, erode_mm
from deepmir.reconstruction.swi import ComplexMap, homodyne_phase, unwrapped_phase
from deepmir.simulation.anatomy import EXTRACRANIAL
from deepmir.simulation.lesions import DepositEffect, ScanGeometry, deposit_effect
from deepmir.simulation.protocol import Protocol
from deepmir.simulation.scene import COARSE_MM, Scene, interpolate_axis
from deepmir.simulation.tissue import (
    AIR_CHI_PPM,
    TissueValues,
    iron_pattern,
    lookup,
    sample_tissue_values,
    structure_ppm,
    texture,
)
from deepmir.simulation.vessels import ARTERY, SINUS, Vessel, rasterize
from deepmir.volume import BoolMap, FloatMap, IntMap

FINE_SLICE_MM = 0.8
_SHIMMED = (2, 3, 41, 42, 10, 49, 16)
_CSF = 24
BORDER_VOXELS = 6
SLAB_SLICES = 8  # simulated at a time
_FLOW_VOID = np.float32(0.7)  # share of the T2w signal that flowing blood loses
FRINGE_RAD = 0.8  # filtered phase above this darkens SWI by two thirds


@dataclass(frozen=True, slots=True)
class VenousBlood:
    """What veins and sinuses of one person hold."""

    chi_ppm: float
    r2star_hz: float


@dataclass(frozen=True, slots=True, eq=False)
class Acquisition:
    """One person's raw scans, with and without the deposits, on the scan's grid."""

    echoes: GradientEchoes
    echoes_without_deposits: GradientEchoes
    t2w: FloatMap  # on the scan's grid, or on its own with `separate_t2w`
    t2w_affine: Affine
    effects: tuple[DepositEffect | None, ...]  # one per deposit of the scene
    vein_fraction: FloatMap
    space_fraction: FloatMap  # perivascular spaces
    fringes: BoolMap  # where the phase of coils or of a steep field darkens SWI
    chi_ppm: FloatMap  # the truth: tissue, veins and deposits; 0 outside the skull
    tissue: TissueValues
    blood: VenousBlood
    labels: IntMap
    regions: IntMap
    brain: BoolMap
    affine: Affine


def acquire(
    scene: Scene, protocol: Protocol, rng: np.random.Generator, *, separate_t2w: bool = False
) -> Acquisition:
    """Scan a person: every random number comes from `rng`, so a seed replays the scan.

    With `separate_t2w` the T2w has its own 1 mm grid, or its own thick slices, and the head moved
    a little before it; else it lies on the scan's grid, perfectly registered.
    """
    grid = _scan_grid(scene, protocol)
    tissue = sample_tissue_values(rng, b0_t=protocol.b0_t, age_years=scene.variation.age_years)
    blood = _sample_venous_blood(rng, protocol.b0_t)
    tissue.chi_ppm[SINUS], tissue.r2star_hz[SINUS] = blood.chi_ppm, blood.r2star_hz
    signals, fraction, chi = _tissue_echoes(scene, protocol, grid, tissue, blood, rng)
    coil = _coil(grid.shape, rng)
    fringes = np.zeros(grid.shape, dtype=bool)
    if protocol.phase_poles or protocol.sequence == "2D":
        coil, fringes = _troubled_phase(coil, protocol, grid, rng)
    clean: list[ComplexMap] = [signal * coil for signal in signals]
    effects = _deposit_effects(scene, protocol, grid)
    noise = _noise(clean, protocol, rng)
    affected = _apply_effects(clean, effects)
    t2w, t2w_affine = _t2w_scan(
        scene,
        protocol,
        tissue,
        grid if not separate_t2w else None,
        _from_scan(_t2w_darkening(fraction, effects), grid, scene.labels.shape)
        if separate_t2w
        else _t2w_darkening(fraction, effects),
        rng,
    )
    shifts = _sample_motion(protocol, grid, rng)
    labels, regions, brain = (
        _nearest(image, grid)
        for image in (scene.labels, scene.regions, scene.brain.astype(np.uint8))
    )
    wraps = open_fringes(clean[protocol.swi.echo], grid.spacing_mm, protocol.swi)
    return Acquisition(
        echoes=_finish(affected, noise, shifts, protocol, grid),
        echoes_without_deposits=_finish(clean, noise, shifts, protocol, grid),
        t2w=t2w,
        t2w_affine=t2w_affine,
        effects=effects,
        vein_fraction=fraction,
        space_fraction=_space_fraction(scene, grid),
        fringes=fringes | (wraps & (brain > 0)),
        chi_ppm=_with_deposits(chi, effects),
        tissue=tissue,
        blood=blood,
        labels=labels,
        regions=regions,
        brain=brain.astype(bool),
        affine=grid.affine,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _ScanGrid:
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]  # centre of voxel 0 in the 1 mm grid's frame
    factors: tuple[int, int, int]  # sub-voxels
    affine: Affine
    b0: tuple[float, float, float]


def _scan_grid(scene: Scene, protocol: Protocol) -> _ScanGrid:
    spacing = protocol.spacing_mm
    size = np.array(scene.labels.shape) - 1.0
    i, j, k = (max(2, int(extent // step)) for extent, step in zip(size, spacing, strict=True))
    origin = tuple(
        float((extent - (n - 1) * step) / 2)
        for extent, n, step in zip(size, (i, j, k), spacing, strict=True)
    )
    affine = scene.affine.copy()
    affine[:3, :3] = scene.affine[:3, :3] * np.array(spacing)
    affine[:3, 3] = scene.affine[:3, :3] @ np.array(origin) + scene.affine[:3, 3]
    slices = max(2, int(np.ceil(spacing[2] / FINE_SLICE_MM)))
    return _ScanGrid(
        shape=(i, j, k),
        spacing_mm=spacing,
        origin_mm=(origin[0], origin[1], origin[2]),
        factors=(2, 2, slices),
        affine=affine,
        b0=b0_direction(affine),
    )


def _fine_axis(grid: _ScanGrid, axis: int) -> npt.NDArray[np.float64]:
    """Positions of sub-voxel centres along an axis, in mm of the 1 mm grid's frame."""
    n, factor, step = grid.shape[axis], grid.factors[axis], grid.spacing_mm[axis]
    index = -0.5 + (np.arange(n * factor) + 0.5) / factor
    return np.asarray(grid.origin_mm[axis] + index * step)


def _to_fine(image: FloatMap, grid: _ScanGrid) -> FloatMap:
    for axis in range(3):
        image = interpolate_axis(image, _fine_axis(grid, axis), axis)
    return image


def _to_scan(image: FloatMap, grid: _ScanGrid) -> FloatMap:
    for axis in range(3):
        at = grid.origin_mm[axis] + np.arange(grid.shape[axis]) * grid.spacing_mm[axis]
        image = interpolate_axis(image, at, axis)
    return image


def _nearest(image: IntMap, grid: _ScanGrid) -> IntMap:
    for axis in range(3):
        at = grid.origin_mm[axis] + np.arange(grid.shape[axis]) * grid.spacing_mm[axis]
        image = np.take(image, np.clip(np.round(at).astype(int), 0, image.shape[axis] - 1), axis)
    return image


def _sample_venous_blood(rng: np.random.Generator, b0_t: float) -> VenousBlood:
    """χ from haematocrit and oxygenation (Jain 2012, doi:10.1002/mrm.23282)."""
    haematocrit, oxygenation = rng.uniform(0.36, 0.46), rng.uniform(0.56, 0.72)
    chi = 4 * np.pi * haematocrit * (0.273 * (1 - oxygenation) - 0.008)
    return VenousBlood(chi, float(rng.uniform(40, 100)) * (b0_t / 3.0) ** 1.7)


@dataclass(frozen=True, slots=True, eq=False)
class _FineMaps:
    """What the signal is made of, on the fine grid."""

    amplitude: FloatMap
    r2star_hz: FloatMap
    chi_ppm: FloatMap


def _tissue_echoes(
    scene: Scene,
    protocol: Protocol,
    grid: _ScanGrid,
    tissue: TissueValues,
    blood: VenousBlood,
    rng: np.random.Generator,
) -> tuple[list[ComplexMap], FloatMap, FloatMap]:
    """Echoes of tissue, veins and spaces without noise, coil and deposits; veins' share; χ."""
    maps = _fine_maps(scene, protocol, grid, tissue, rng)
    veins = _fine_fraction(scene.veins, grid)
    maps.chi_ppm[...] += veins * (np.float32(blood.chi_ppm) - maps.chi_ppm)
    maps.r2star_hz[...] += veins * (np.float32(blood.r2star_hz) - maps.r2star_hz)
    fine_step = tuple(s / f for s, f in zip(grid.spacing_mm, grid.factors, strict=True))
    field = field_ppm(maps.chi_ppm, fine_step, grid.b0, margin_mm=12.0)
    field += _background_field(scene, grid)
    echoes = [
        _one_echo(maps, field, echo_time, protocol, grid) for echo_time in protocol.echo_times_s
    ]
    return echoes, sum_subvoxels(veins, grid.factors), sum_subvoxels(maps.chi_ppm, grid.factors)


def _one_echo(
    maps: _FineMaps, field: FloatMap, echo_time_s: float, protocol: Protocol, grid: _ScanGrid
) -> ComplexMap:
    """Echo on the scan's grid, some slices at a time: the fine signal never stands as a whole."""
    echo = np.empty(grid.shape, dtype=np.complex64)
    for first in range(0, grid.shape[2], SLAB_SLICES):
        last = min(first + SLAB_SLICES, grid.shape[2])
        fine = (..., slice(first * grid.factors[2], last * grid.factors[2]))
        signal = gradient_echo(
            maps.amplitude[fine],
            maps.r2star_hz[fine],
            field[fine],
            b0_t=protocol.b0_t,
            echo_time_s=echo_time_s,
        )
        echo[..., first:last] = _resolved(signal, grid.factors, gibbs=protocol.gibbs)
    return echo


def _fine_maps(
    scene: Scene,
    protocol: Protocol,
    grid: _ScanGrid,
    tissue: TissueValues,
    rng: np.random.Generator,
) -> _FineMaps:
    shape = (scene.labels.shape[0], scene.labels.shape[1], scene.labels.shape[2])
    chi = _to_fine(_chi_with_texture(scene, tissue, rng, structured=protocol.detailed_people), grid)
    r2star = lookup(scene.labels, tissue.r2star_hz)
    r2star *= 1 + texture(shape, rng, correlation_voxels=1.5, amplitude=0.06)
    per_label = spoiled_echo_amplitude(
        tissue.proton_density,
        tissue.t1_s,
        repetition_time_s=protocol.repetition_time_s,
        flip_deg=protocol.flip_deg,
    ).astype(np.float32)
    amplitude = lookup(scene.labels, per_label)
    amplitude *= 1 + texture(shape, rng, correlation_voxels=1.0, amplitude=0.03)
    maps = _FineMaps(_to_fine(amplitude, grid), _to_fine(r2star, grid), chi)
    for tubes, label in ((scene.spaces, _CSF), (scene.arteries, ARTERY)):
        if tubes:
            share = _fine_fraction(tubes, grid)
            maps.chi_ppm[...] += share * (tissue.chi_ppm[label] - maps.chi_ppm)
            maps.r2star_hz[...] += share * (tissue.r2star_hz[label] - maps.r2star_hz)
            maps.amplitude[...] += share * (per_label[label] - maps.amplitude)
    return maps


def _fine_fraction(tubes: list[Vessel], grid: _ScanGrid) -> FloatMap:
    """Volume fraction of tubes on the fine grid."""
    i, j, k = (n * factor for n, factor in zip(grid.shape, grid.factors, strict=True))
    di, dj, dk = (s / f for s, f in zip(grid.spacing_mm, grid.factors, strict=True))
    oi, oj, ok = (float(_fine_axis(grid, axis)[0]) for axis in range(3))
    return rasterize(tubes, (i, j, k), (di, dj, dk), (oi, oj, ok))


def _space_fraction(scene: Scene, grid: _ScanGrid) -> FloatMap:
    """Share of each voxel of the scan that perivascular spaces fill."""
    if not scene.spaces:
        return np.zeros(grid.shape, dtype=np.float32)
    return np.asarray(sum_subvoxels(_fine_fraction(scene.spaces, grid), grid.factors))


def _resolved(fine: ComplexMap, factors: tuple[int, int, int], *, gibbs: bool) -> ComplexMap:
    """From the fine grid to the scan's; slices are averaged in either case."""
    if not gibbs:
        return np.asarray(sum_subvoxels(fine, factors))
    a, b, c = factors
    slices = sum_subvoxels(fine, (1, 1, c))
    for axis, step in ((0, a), (1, b)):
        slices *= along_axis(_faded_ends(slices.shape[axis], BORDER_VOXELS * step), axis)
    return np.asarray(crop_k_space(slices, (a, b, 1)))


def _faded_ends(n: int, border: int) -> FloatMap:
    """Fall to 0 at both ends: the box cuts through scalp, whose edge would ring through the head.

    A real field of view ends in air.
    """
    inward = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    return (0.5 - 0.5 * np.cos(np.pi * np.clip(inward / border, 0, 1))).astype(np.float32)


def _chi_with_texture(
    scene: Scene, tissue: TissueValues, rng: np.random.Generator, *, structured: bool
) -> FloatMap:
    """χ inside the skull on the 1 mm grid; 0 where the background field takes over."""
    chi = lookup(scene.labels, tissue.chi_ppm)
    if structured:
        chi *= iron_pattern(scene.labels, rng)
        chi += structure_ppm(scene.labels, rng)
    chi = ndimage.gaussian_filter(chi * ~np.isin(scene.labels, EXTRACRANIAL), 0.5)
    shape = (chi.shape[0], chi.shape[1], chi.shape[2])
    fine = texture(shape, rng, correlation_voxels=0.8, amplitude=float(rng.uniform(0.004, 0.010)))
    wide = texture(shape, rng, correlation_voxels=2.5, amplitude=float(rng.uniform(0.001, 0.003)))
    solid = scene.brain & ~np.isin(scene.labels, (4, 43, 24, 14, 15, 5, 44))
    return np.asarray(chi + (fine + wide) * solid, dtype=np.float32)


def _background_field(scene: Scene, grid: _ScanGrid) -> FloatMap:
    """Field of air, bone and scalp on the fine grid, shimmed: its low orders are taken off.

    Interpolated by cubic splines: the kinks of a linear interpolation have a Laplacian, which
    background removal would take for local sources.
    """
    tissue = np.zeros(1100, dtype=np.float32)
    tissue[[515]], tissue[[511, 516]] = -2.0, 0.6
    chi = lookup(np.minimum(scene.coarse_labels, 1099), tissue)
    chi[scene.coarse_labels == 0] = AIR_CHI_PPM
    # Sharp steps of 9 ppm would ring through the whole head at twice the voxel's length; a ball
    # that is blurred has the same field outside.
    chi = ndimage.gaussian_filter(chi, 1.0)
    # Inside the head these are no sources: what the blur carries over the brain's rim, and holes
    # of the label map, would come out as susceptibility of the brain.
    chi[scene.coarse_brain | ~np.isin(scene.coarse_labels, EXTRACRANIAL)] = 0
    step = (float(COARSE_MM),) * 3
    field = field_ppm(chi - np.float32(AIR_CHI_PPM), step, grid.b0, margin_mm=60.0)
    field = field - shim_field(field, np.isin(scene.coarse_labels, _SHIMMED))
    field = ndimage.spline_filter(field, order=3, output=np.float32)
    for axis in range(3):
        at = (_fine_axis(grid, axis) - scene.coarse_origin_mm[axis]) / COARSE_MM
        field = _spline_axis(field, at, axis)
    return np.asarray(field, dtype=np.float32)


def _spline_axis(coefficients: FloatMap, at: npt.NDArray[np.float64], axis: int) -> FloatMap:
    """Evaluate cubic B-spline coefficients along one axis at fractional indices."""
    low = np.floor(at).astype(int)
    t = (at - low).astype(np.float32)
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    form = [1, 1, 1]
    form[axis] = len(at)
    total: FloatMap | None = None
    for tap, weight in enumerate(weights):
        index = np.clip(low + tap - 1, 0, coefficients.shape[axis] - 1)
        part = np.take(coefficients, index, axis)
        part *= (weight / 6).reshape(form)
        total = part if total is None else np.add(total, part, out=total)
    return coefficients if total is None else np.asarray(total, dtype=np.float32)


def _coil(shape: tuple[int, int, int], rng: np.random.Generator) -> ComplexMap:
    """Smooth receive bias and phase of the coil."""
    lattice = rng.standard_normal((2, 4, 4, 4)).astype(np.float32)
    strength = float(rng.uniform(0.0, 0.2))
    smooth = receive_field(lattice[0], lattice[1], shape, strength=strength, turn_rad=0.7)
    return np.asarray(smooth, dtype=np.complex64)


def _troubled_phase(
    coil: ComplexMap, protocol: Protocol, grid: _ScanGrid, rng: np.random.Generator
) -> tuple[ComplexMap, BoolMap]:
    """Coil whose phase has poles, or jumps from slice to slice, and where that darkens SWI.

    The phase of a plain sum of coils turns around the lines on which that sum is zero. High-pass
    filtering leaves open fringe lines there, which look like short veins and microbleeds.
    """
    turn = np.ones(grid.shape, dtype=np.complex64)
    if protocol.phase_poles:
        real, imaginary = rng.standard_normal((2, 4, 4, 4)).astype(np.float32)
        total = smooth_field(real + 0.5, grid.shape) + 1j * smooth_field(imaginary, grid.shape)
        turn = (total / np.maximum(np.abs(total), 1e-6)).astype(np.complex64)
    if protocol.sequence == "2D":
        turn = turn * np.exp(1j * rng.normal(0, 0.3, grid.shape[2])).astype(np.complex64)
    filtered = _filtered_phase(turn, grid.spacing_mm, protocol.swi)
    return np.asarray(coil * turn, dtype=np.complex64), np.asarray(filtered > FRINGE_RAD)


def open_fringes(
    signal: ComplexMap, spacing_mm: tuple[float, float, float], settings: SwiSettings
) -> BoolMap:
    """Where filtering leaves wraps that unwrapping takes off, above sinuses and ear canals."""
    if settings.phase != "homodyne":
        return np.zeros(signal.shape, dtype=bool)
    wrapped = _filtered_phase(signal, spacing_mm, settings) > FRINGE_RAD
    smooth = _filtered_phase(signal, spacing_mm, replace(settings, phase="unwrapped"))
    return np.asarray(wrapped & (smooth < FRINGE_RAD / 2))


def _filtered_phase(
    signal: ComplexMap, spacing_mm: tuple[float, float, float], settings: SwiSettings
) -> FloatMap:
    size = settings.filter_size
    if settings.phase == "homodyne":
        return homodyne_phase(signal, spacing_mm, filter_size=size)
    return unwrapped_phase(signal, spacing_mm, width_mm=240.0 / size)


def _sample_motion(
    protocol: Protocol, grid: _ScanGrid, rng: np.random.Generator
) -> npt.NDArray[np.float64] | None:
    """Where the head was at each line of k-space, mm: a drift and one jerk; None lay still."""
    if protocol.motion_mm == 0:
        return None
    lines = grid.shape[1]
    time = np.linspace(-0.5, 0.5, lines)[:, None]
    jerk = (np.arange(lines) > rng.integers(lines))[:, None] * rng.normal(0, 0.5, 3)
    return np.asarray(protocol.motion_mm * (time * rng.normal(0, 1, 3) + jerk))


def _noise(
    clean: list[ComplexMap], protocol: Protocol, rng: np.random.Generator
) -> list[ComplexMap]:
    """Complex Gaussian noise for each echo, the same with and without deposits."""
    level = float(np.percentile(np.abs(clean[0]), 75)) / protocol.snr
    return [
        complex_noise(
            rng.standard_normal(echo.shape, dtype=np.float32),
            rng.standard_normal(echo.shape, dtype=np.float32),
            level=level,
        )
        for echo in clean
    ]


def _deposit_effects(
    scene: Scene, protocol: Protocol, grid: _ScanGrid
) -> tuple[DepositEffect | None, ...]:
    scan = ScanGeometry(
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        origin_mm=grid.origin_mm,
        b0_t=protocol.b0_t,
        b0=grid.b0,
        echo_times_s=protocol.echo_times_s,
        spin_echo_time_s=protocol.t2w_echo_time_s,
    )
    return tuple(deposit_effect(deposit, scene.labels, scan) for deposit in scene.deposits)


def _apply_effects(
    clean: list[ComplexMap], effects: tuple[DepositEffect | None, ...]
) -> list[ComplexMap]:
    affected = [echo.copy() for echo in clean]
    for effect in effects:
        if effect is not None:
            for echo, factor in zip(affected, effect.echo_factors, strict=True):
                echo[effect.block] *= factor
    return affected


def _with_deposits(chi_ppm: FloatMap, effects: tuple[DepositEffect | None, ...]) -> FloatMap:
    """Add the deposits' own χ to the true map: they are simulated on top of their tissue."""
    total = chi_ppm.copy()
    for effect in effects:
        if effect is not None:
            total[effect.block] += effect.chi_ppm
    return total


def _finish(
    signals: list[ComplexMap],
    noise: list[ComplexMap],
    shifts_mm: npt.NDArray[np.float64] | None,
    protocol: Protocol,
    grid: _ScanGrid,
) -> GradientEchoes:
    """Motion, noise, and what of k-space is acquired."""
    if shifts_mm is not None:
        signals = [moved_between_lines(s, shifts_mm, grid.spacing_mm, axis=1) for s in signals]
    noisy: list[ComplexMap] = [signal + extra for signal, extra in zip(signals, noise, strict=True)]
    if protocol.fourier_share < 1:
        noisy = [partial_fourier(signal, share=protocol.fourier_share, axis=1) for signal in noisy]
    noisy = [
        filter_k_space(signal, protocol.k_space_filters, elliptical=protocol.elliptical)
        for signal in noisy
    ]
    return GradientEchoes(
        signals=tuple(noisy),
        echo_times_s=protocol.echo_times_s,
        b0_t=protocol.b0_t,
        spacing_mm=grid.spacing_mm,
        b0_direction=grid.b0,
    )


def _t2w_scan(
    scene: Scene,
    protocol: Protocol,
    tissue: TissueValues,
    grid: _ScanGrid | None,
    darkening: FloatMap,
    rng: np.random.Generator,
) -> tuple[FloatMap, Affine]:
    """T2w with what darkens it, and its affine: on the scan's grid, or (None) on its own."""
    t2w = _t2w(scene, protocol, tissue, grid, rng)
    affine = scene.affine if grid is None else grid.affine
    brain = mask_in_use(scene.brain, (1.0, 1.0, 1.0), protocol)
    if protocol.stripped:
        own = brain if grid is None else _nearest(brain.astype(np.uint8), grid)
        darkening = darkening * own
    t2w = t2w * darkening
    if grid is None:
        affine = _small_motion(rng) @ affine
        t2w, affine = _own_slices(t2w, affine, protocol.t2w_slice_mm)
    return _noisy_magnitude(t2w, protocol.t2w_snr, rng), affine


def mask_in_use(
    brain: BoolMap, spacing_mm: tuple[float, float, float], protocol: Protocol
) -> BoolMap:
    """Brain mask as the protocol's reconstruction has it: true, tight or loose."""
    grown = protocol.mask_grown_mm
    if grown <= 0:
        return erode_mm(brain, spacing_mm, -grown)
    return np.asarray(ndimage.distance_transform_edt(~brain, sampling=spacing_mm) <= grown)


def _own_slices(image: FloatMap, affine: Affine, slice_mm: float) -> tuple[FloatMap, Affine]:
    """Thick slices of a 1 mm image: means of their profile, on a grid of their own."""
    if slice_mm <= 1:
        return image, affine
    count = max(2, int(image.shape[2] // slice_mm))
    centres = (image.shape[2] - 1 - (count - 1) * slice_mm) / 2 + np.arange(count) * slice_mm
    thick = interpolate_axis(_slice_mean(image, slice_mm), centres, 2)
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ np.array([0.0, 0.0, centres[0]]) + affine[:3, 3]
    moved[:3, 2] = affine[:3, 2] * slice_mm
    return thick, moved


def _slice_mean(image: FloatMap, slice_mm: float) -> FloatMap:
    """Mean over a slice's thickness around every position; box profiles of any width."""
    sums = np.cumsum(np.pad(image, ((0, 0), (0, 0), (1, 0))), axis=2, dtype=np.float32)
    at = np.arange(image.shape[2]) + 0.5
    high, low = (interpolate_axis(sums, at + half, 2) for half in (slice_mm / 2, -slice_mm / 2))
    n = image.shape[2]
    width = np.minimum(at + slice_mm / 2, n) - np.maximum(at - slice_mm / 2, 0)
    return np.asarray((high - low) / width, dtype=np.float32)


def _t2w(
    scene: Scene,
    protocol: Protocol,
    tissue: TissueValues,
    grid: _ScanGrid | None,
    rng: np.random.Generator,
) -> FloatMap:
    """Spin echo without veins and deposits, on the scan's grid or (None) on the 1 mm grid."""
    amplitude = spin_echo_amplitude(
        lookup(scene.labels, tissue.proton_density),
        lookup(scene.labels, tissue.t1_s),
        1 / lookup(scene.labels, tissue.r2_hz),
        repetition_time_s=protocol.t2w_repetition_time_s,
        echo_time_s=protocol.t2w_echo_time_s,
    ).astype(np.float32)
    amplitude = ndimage.gaussian_filter(amplitude, protocol.t2w_blur_mm)
    shape = (amplitude.shape[0], amplitude.shape[1], amplitude.shape[2])
    amplitude *= 1 + texture(shape, rng, correlation_voxels=1.0, amplitude=0.04)
    if scene.spaces:
        spaces = rasterize(scene.spaces, shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
        amplitude += spaces * (
            float(np.percentile(amplitude[scene.labels == _CSF], 75)) - amplitude
        )
    if scene.arteries:
        arteries = rasterize(scene.arteries, shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
        amplitude *= 1 - _FLOW_VOID * arteries
    if grid is None:
        return amplitude
    if protocol.t2w_slice_mm > 1:
        # Thick slices that preprocessing has brought onto the scan's grid.
        thick, affine = _own_slices(amplitude, np.eye(4), protocol.t2w_slice_mm)
        at = (np.arange(shape[2]) - affine[2, 3]) / affine[2, 2]
        amplitude = interpolate_axis(thick, at, 2)
    return _to_scan(amplitude, grid)


def _t2w_darkening(vein_fraction: FloatMap, effects: tuple[DepositEffect | None, ...]) -> FloatMap:
    """Share of the T2w signal that flow voids in veins and deposits leave, on the scan's grid."""
    left = 1 - _FLOW_VOID * np.minimum(vein_fraction, 1)
    for effect in effects:
        if effect is not None:
            left[effect.block] *= effect.spin_echo_factor
    return left


def _from_scan(image: FloatMap, grid: _ScanGrid, shape: tuple[int, ...]) -> FloatMap:
    """From the scan's grid to the 1 mm grid; linear."""
    for axis, n in enumerate(shape):
        at = (np.arange(n) - grid.origin_mm[axis]) / grid.spacing_mm[axis]
        image = interpolate_axis(image, at, axis)
    return image


def _small_motion(rng: np.random.Generator) -> Affine:
    """Head motion between two scans of one session: some millimetres and degrees."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", rng.normal(0, 1.0, 3), degrees=True).as_matrix()
    motion[:3, 3] = rng.normal(0, 1.0, 3)
    return motion


def _noisy_magnitude(image: FloatMap, snr: float, rng: np.random.Generator) -> FloatMap:
    """Receive bias and Rician noise."""
    bias = np.abs(_coil((image.shape[0], image.shape[1], image.shape[2]), rng))
    level = np.float32(np.percentile(image, 75) / snr)
    noise = level * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.asarray(np.hypot(image * bias + noise[0], noise[1]), dtype=np.float32)
