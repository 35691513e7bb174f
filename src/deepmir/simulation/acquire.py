"""The scan itself: field, complex echoes on a finer grid, noise, and the T2w beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepmir.geometry import Affine
from deepmir.physics.dipole import b0_direction, field_ppm
from deepmir.physics.signal import (
    gradient_echo,
    spin_echo_amplitude,
    spoiled_echo_amplitude,
    sum_subvoxels,
)
from deepmir.reconstruction.run import GradientEchoes
from deepmir.reconstruction.swi import ComplexMap, limit_resolution
from deepmir.simulation.lesions import Deposit, DepositEffect, ScanGeometry, deposit_effect
from deepmir.simulation.protocol import Protocol
from deepmir.simulation.scene import COARSE_MM, Scene, interpolate_axis
from deepmir.simulation.tissue import (
    AIR_CHI_PPM,
    TissueValues,
    lookup,
    sample_tissue_values,
    texture,
)
from deepmir.simulation.vessels import rasterize
from deepmir.volume import BoolMap, FloatMap, IntMap

FINE_SLICE_MM = 0.8
_SHIMMED = (2, 3, 41, 42, 10, 49, 16)
_EXTRACRANIAL = (0, 506, 507, 508, 509, 511, 512, 515, 516, 530)


@dataclass(frozen=True, slots=True, eq=False)
class Acquisition:
    """One person's raw scans, with and without the deposits, on the scan's grid."""

    echoes: GradientEchoes
    echoes_without_deposits: GradientEchoes
    t2w: FloatMap  # on the scan's grid, or on its own with `separate_t2w`
    t2w_affine: Affine
    effects: tuple[DepositEffect | None, ...]  # one per deposit of the scene
    vein_fraction: FloatMap
    chi_ppm: FloatMap  # the truth: tissue, veins and deposits; 0 outside the skull
    labels: IntMap
    regions: IntMap
    brain: BoolMap
    affine: Affine


def acquire(
    scene: Scene, protocol: Protocol, rng: np.random.Generator, *, separate_t2w: bool = False
) -> Acquisition:
    """Scan a person: every random number comes from `rng`, so a seed replays the scan.

    With `separate_t2w` the T2w has its own 1 mm grid, and the head moved a little before it;
    else it lies on the scan's grid, perfectly registered.
    """
    grid = _scan_grid(scene, protocol)
    tissue = sample_tissue_values(rng, b0_t=protocol.b0_t, age_years=scene.variation.age_years)
    veins = _sample_venous_blood(rng, protocol.b0_t)
    clean, fraction, chi = _clean_echoes(scene, protocol, grid, tissue, veins, rng)
    effects = _deposit_effects(scene, protocol, grid)
    noise = _noise(clean, protocol, rng)
    affected = _apply_effects(clean, effects)
    darkening = _t2w_darkening(fraction, effects)
    t2w = _t2w(scene, protocol, tissue, None if separate_t2w else grid, rng)
    if separate_t2w:
        t2w = t2w * _from_scan(darkening, grid, t2w.shape)
        t2w_affine = _small_motion(rng) @ scene.affine
    else:
        t2w, t2w_affine = t2w * darkening, grid.affine
    t2w = _noisy_magnitude(t2w, protocol.t2w_snr, rng)
    labels, regions, brain = (
        _nearest(image, grid)
        for image in (scene.labels, scene.regions, scene.brain.astype(np.uint8))
    )
    return Acquisition(
        echoes=_finish(affected, noise, protocol, grid),
        echoes_without_deposits=_finish(clean, noise, protocol, grid),
        t2w=t2w,
        t2w_affine=t2w_affine,
        effects=effects,
        vein_fraction=fraction,
        chi_ppm=_with_deposits(chi, scene.deposits, effects),
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


@dataclass(frozen=True, slots=True)
class _VenousBlood:
    chi_ppm: float
    r2star_hz: float


def _sample_venous_blood(rng: np.random.Generator, b0_t: float) -> _VenousBlood:
    """χ from haematocrit and oxygenation (Jain 2012, doi:10.1002/mrm.23282)."""
    haematocrit, oxygenation = rng.uniform(0.36, 0.46), rng.uniform(0.56, 0.72)
    chi = 4 * np.pi * haematocrit * (0.273 * (1 - oxygenation) - 0.008)
    return _VenousBlood(chi, float(rng.uniform(40, 100)) * (b0_t / 3.0) ** 1.7)


def _clean_echoes(
    scene: Scene,
    protocol: Protocol,
    grid: _ScanGrid,
    tissue: TissueValues,
    blood: _VenousBlood,
    rng: np.random.Generator,
) -> tuple[list[ComplexMap], FloatMap, FloatMap]:
    """Noise-free echoes without deposits, the veins' share of each voxel, and its true χ."""
    shape = (scene.labels.shape[0], scene.labels.shape[1], scene.labels.shape[2])
    chi = _to_fine(_chi_with_texture(scene, tissue, rng), grid)
    r2star = lookup(scene.labels, tissue.r2star_hz)
    r2star *= 1 + texture(shape, rng, correlation_voxels=1.5, amplitude=0.06)
    amplitude = spoiled_echo_amplitude(
        lookup(scene.labels, tissue.proton_density),
        lookup(scene.labels, tissue.t1_s),
        repetition_time_s=protocol.repetition_time_s,
        flip_deg=protocol.flip_deg,
    ).astype(np.float32)
    amplitude *= 1 + texture(shape, rng, correlation_voxels=1.0, amplitude=0.03)
    amplitude, r2star = _to_fine(amplitude, grid), _to_fine(r2star, grid)
    fine_step = tuple(s / f for s, f in zip(grid.spacing_mm, grid.factors, strict=True))
    start = tuple(float(_fine_axis(grid, axis)[0]) for axis in range(3))
    fraction = rasterize(
        scene.veins,
        chi.shape,
        (fine_step[0], fine_step[1], fine_step[2]),
        (start[0], start[1], start[2]),
    )
    chi += fraction * (np.float32(blood.chi_ppm) - chi)
    r2star += fraction * (np.float32(blood.r2star_hz) - r2star)
    field = field_ppm(chi, fine_step, grid.b0, margin_mm=12.0)
    field += _background_field(scene, grid)
    echoes = []
    for echo_time in protocol.echo_times_s:
        fine = gradient_echo(amplitude, r2star, field, b0_t=protocol.b0_t, echo_time_s=echo_time)
        echoes.append(sum_subvoxels(fine, grid.factors))
    coil = _coil(grid.shape, rng)
    return (
        [echo * coil for echo in echoes],
        sum_subvoxels(fraction, grid.factors),
        sum_subvoxels(chi, grid.factors),
    )


def _chi_with_texture(scene: Scene, tissue: TissueValues, rng: np.random.Generator) -> FloatMap:
    """χ inside the skull on the 1 mm grid; 0 where the background field takes over."""
    chi = lookup(scene.labels, tissue.chi_ppm)
    chi = ndimage.gaussian_filter(chi * ~np.isin(scene.labels, _EXTRACRANIAL), 0.5)
    shape = (chi.shape[0], chi.shape[1], chi.shape[2])
    fine = texture(shape, rng, correlation_voxels=0.8, amplitude=float(rng.uniform(0.004, 0.010)))
    wide = texture(shape, rng, correlation_voxels=2.5, amplitude=float(rng.uniform(0.003, 0.007)))
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
    chi[scene.coarse_brain | ~np.isin(scene.coarse_labels, _EXTRACRANIAL)] = 0
    step = (float(COARSE_MM),) * 3
    field = field_ppm(chi - np.float32(AIR_CHI_PPM), step, grid.b0, margin_mm=60.0)
    field = field - _low_order_fit(field, np.isin(scene.coarse_labels, _SHIMMED))
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


def _low_order_fit(field: FloatMap, where: BoolMap) -> FloatMap:
    """Second-order polynomial fitted inside a mask: what shimming takes off."""
    sample = np.argwhere(where[::3, ::3, ::3]) * 3
    centre, half = np.array(field.shape) / 2, np.array(field.shape) / 2
    unit = (sample - centre) / half
    columns = [np.ones(len(unit)), *unit.T]
    columns += [unit[:, a] * unit[:, b] for a in range(3) for b in range(a, 3)]
    weights, *_ = np.linalg.lstsq(np.stack(columns, axis=1), field[tuple(sample.T)], rcond=None)
    x, y, z = np.meshgrid(
        *(((np.arange(n) - n / 2) / (n / 2)).astype(np.float32) for n in field.shape),
        indexing="ij",
        sparse=True,
    )
    terms = [np.float32(1), x, y, z, x * x, x * y, x * z, y * y, y * z, z * z]
    total = np.zeros(field.shape, dtype=np.float32)
    for weight, term in zip(weights, terms, strict=True):
        total += np.float32(weight) * term
    return total


def _coil(shape: tuple[int, int, int], rng: np.random.Generator) -> ComplexMap:
    """Smooth receive bias and phase of the coil."""
    lattice = rng.standard_normal((2, 4, 4, 4)).astype(np.float32)
    bias, phase = (ndimage.zoom(part, [n / 4 for n in shape], order=3) for part in lattice)
    strength = float(rng.uniform(0.0, 0.2))
    smooth = np.exp(strength * bias[: shape[0], : shape[1], : shape[2]])
    return np.asarray(smooth * np.exp(0.7j * phase), dtype=np.complex64)


def _noise(
    clean: list[ComplexMap], protocol: Protocol, rng: np.random.Generator
) -> list[ComplexMap]:
    """Complex Gaussian noise for each echo, the same with and without deposits."""
    level = float(np.percentile(np.abs(clean[0]), 75)) / protocol.snr
    return [
        (
            level
            * (
                rng.standard_normal(echo.shape, dtype=np.float32)
                + 1j * rng.standard_normal(echo.shape, dtype=np.float32)
            )
        ).astype(np.complex64)
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


def _with_deposits(
    chi_ppm: FloatMap, deposits: Sequence[Deposit], effects: tuple[DepositEffect | None, ...]
) -> FloatMap:
    """Add the deposits' own χ to the true map: they are simulated on top of their tissue."""
    total = chi_ppm.copy()
    for deposit, effect in zip(deposits, effects, strict=True):
        if effect is not None:
            total[effect.block] += effect.fraction * np.float32(deposit.chi_ppm)
    return total


def _finish(
    signals: list[ComplexMap], noise: list[ComplexMap], protocol: Protocol, grid: _ScanGrid
) -> GradientEchoes:
    noisy: list[ComplexMap] = [signal + extra for signal, extra in zip(signals, noise, strict=True)]
    if protocol.k_space_share < 1:
        noisy = [limit_resolution(signal, share=protocol.k_space_share) for signal in noisy]
    return GradientEchoes(
        signals=tuple(noisy),
        echo_times_s=protocol.echo_times_s,
        b0_t=protocol.b0_t,
        spacing_mm=grid.spacing_mm,
        b0_direction=grid.b0,
    )


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
    return amplitude if grid is None else _to_scan(amplitude, grid)


def _t2w_darkening(vein_fraction: FloatMap, effects: tuple[DepositEffect | None, ...]) -> FloatMap:
    """Share of the T2w signal that flow voids in veins and deposits leave, on the scan's grid."""
    left = 1 - np.float32(0.7) * np.minimum(vein_fraction, 1)
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
