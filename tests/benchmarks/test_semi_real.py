"""Findings inserted into a map: what is put in is what comes out, where it was put."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from deepmir.labels import Finding
from deepmir.physics.dipole import field_ppm
from deepmir.physics.signal import gradient_echo, phase_per_ppm_rad, sum_subvoxels
from deepmir.reconstruction.inversion import invert
from deepmir.reconstruction.run import GradientEchoes, reconstruct_swi
from deepmir.simulation.lesions import Deposit, Kind

SHAPE, SPACING_MM = (72, 80, 28), (0.94, 0.94, 3.0)
CENTRE_MM = (34.1, 37.6, 42.7)
# caudate, putamen, pallidum, nigra, red nucleus of both sides
NUCLEI = (
    (30, 52, 16), (42, 52, 16), (24, 46, 15), (48, 46, 15), (27, 42, 14),
    (45, 42, 14), (32, 33, 11), (40, 33, 11), (34, 35, 13), (38, 35, 13),
)  # fmt: skip


@pytest.fixture(scope="module")
def benchmarks(benchmark_module):
    return benchmark_module("semi_real_scans"), benchmark_module("semi_real")


@pytest.fixture(scope="module")
def scans(benchmarks):
    return benchmarks[0]


@pytest.fixture(scope="module")
def real(scans):
    rng = np.random.default_rng(0)
    axes = [(np.arange(n) - n / 2) / (n / 2 - 4) for n in SHAPE]
    brain = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) < 1
    texture = 0.05 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.0)
    nuclei = np.zeros(SHAPE, dtype=np.uint8)
    for number, (i, j, k) in enumerate(NUCLEI, start=1):
        nuclei[i - 1 : i + 2, j - 1 : j + 2, k] = number
    return scans.RealMap(np.where(brain, texture, 0).astype(np.float32), nuclei, SPACING_MM)


@pytest.fixture(scope="module")
def settings(scans):
    drawn = scans.sample_settings(np.random.default_rng(3))
    return replace(drawn, inversion="closed-form", strength=0.003, snr=60.0)


def sphere(moment_ppm_mm3: float, radius_mm: float = 1.8) -> Deposit:
    return Deposit(
        kind=Kind.CMB,
        place="subcortical white matter",
        centre_mm=CENTRE_MM,
        semi_axes_mm=(radius_mm,) * 3,
        rotation_deg=(0.0, 0.0, 0.0),
        chi_ppm=moment_ppm_mm3 / (4 / 3 * np.pi * radius_mm**3),
        r2star_hz_per_ppm=150.0,
        r2_hz_per_ppm=0.0,
        proton_density=0.9,
        patchiness=0.0,
        seed=1,
    )


def distance_mm():
    axes = [np.arange(n) * s - c for n, s, c in zip(SHAPE, SPACING_MM, CENTRE_MM, strict=True)]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))


@pytest.mark.parametrize(("method", "strength"), [("closed-form", 0.003), ("tkd", 0.15)])
def test_total_chi_of_a_sphere_is_kept_and_stays_where_it_is(
    scans, real, settings, method, strength
):
    settings = replace(settings, inversion=method, strength=strength)
    before = real.chi_ppm.copy()
    pair = scans.insert(real, [sphere(8.0)], settings, np.random.default_rng(1)).scans
    change, away_mm = pair.chi_ppm - pair.chi_without_ppm, distance_mm()
    total = float(change[away_mm < 5].sum() * np.prod(SPACING_MM))
    assert total == pytest.approx(8.0, rel=0.2)
    assert np.abs(change[(away_mm > 20) & real.mask]).max() < 0.01
    assert np.allclose(pair.swi[away_mm > 20], pair.swi_without[away_mm > 20], rtol=0.01)
    assert pair.swi[away_mm < 1.5].max() < 0.2 * np.median(pair.swi_without[real.mask])
    assert np.array_equal(real.chi_ppm, before)


def test_same_seed_same_scans_and_nothing_inserted_nothing_changed(scans, real, settings):
    one, two = (scans.insert(real, [], settings, np.random.default_rng(5)).scans for _ in range(2))
    assert np.array_equal(one.swi, two.swi)
    assert np.array_equal(one.chi_ppm, real.chi_ppm)
    assert np.array_equal(one.swi, one.swi_without)


def test_veins_lose_on_the_swi_what_tubes_of_blood_lose(scans, settings):
    """Oracle: tubes of 0.4 ppm on sub-voxels, their signals added up, inverted as a map is."""
    rows = []
    for radius_mm, direction in (
        (0.4, (1, 0, 0.3)),
        (0.6, (0.6, 0.6, 0.5)),
        (0.8, (0, 1, 0.2)),
        (0.5, (0.1, 0.1, 1)),
    ):
        chi, swi = scanned_tube(radius_mm, np.array(direction), settings.swi)
        nuclei = np.zeros(chi.shape, dtype=np.uint8)
        nuclei[0, :30, 0] = np.repeat(np.arange(1, 11), 3)
        vein = scans.RealMap(chi, nuclei, SPACING_MM)
        drawn = replace(settings, snr=500.0, vein_darkness=1.0, swi=replace(settings.swi, echo=3))
        synthesised = scans.insert(vein, [], drawn, np.random.default_rng(1)).scans.swi
        inner = (slice(8, -8), slice(8, -8), slice(3, -3))
        falls = (1 - image[inner] / np.median(image[inner]) for image in (swi, synthesised))
        rows.append(np.stack([chi[inner], *falls], axis=-1).reshape(-1, 3))
    pooled = np.concatenate(rows)
    for low, high in ((0.06, 0.1), (0.1, 0.15), (0.15, 0.3)):
        within = pooled[(pooled[:, 0] > low) & (pooled[:, 0] < high)]
        _, expected, measured = np.median(within, axis=0)
        assert measured == pytest.approx(expected, abs=0.12)


def scanned_tube(radius_mm: float, direction, swi_settings):
    """χ map and SWI (TE 20 ms, 3 T) of a straight vein through the middle of a block."""
    shape, factors = (36, 36, 12), (4, 4, 12)
    step = [s / f for s, f in zip(SPACING_MM, factors, strict=True)]
    axes = [
        (np.arange(n * f) - n * f / 2) * s for n, f, s in zip(shape, factors, step, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    along = np.tensordot((direction / np.linalg.norm(direction)).astype(np.float32), points, 1)
    blood = (points**2).sum(axis=0) - along**2 < radius_mm**2
    field = field_ppm(0.4 * blood.astype(np.float32), step, (0, 0, 1), margin_mm=5.0)
    decay_hz = np.where(blood, 60.0, 20.0).astype(np.float32)
    signals = tuple(
        sum_subvoxels(
            gradient_echo(np.ones_like(field), decay_hz, field, b0_t=3.0, echo_time_s=time), factors
        )
        for time in (0.01, 0.02)
    )
    echoes = GradientEchoes(signals, (0.01, 0.02), 3.0, SPACING_MM, (0.0, 0.0, 1.0))
    shift = np.angle(signals[0]).astype(np.float32) / np.float32(phase_per_ppm_rad(3.0, 0.01))
    chi = invert(
        shift, np.ones(shape, dtype=bool), SPACING_MM, (0, 0, 1), method="closed-form",
        strength=0.003,
    )  # fmt: skip
    chi = chi - np.float32(np.median(chi)) + np.float32(1e-5)
    return chi, reconstruct_swi(echoes, replace(swi_settings, echo=1))


def test_label_map_has_nuclei_rim_and_sides_where_they_are(scans, real):
    labels = scans.label_map(real)
    assert labels.shape == (67, 75, 82)
    for number, label in ((1, 11), (2, 50), (5, 13), (6, 52)):
        i, j, k = np.round(np.array(NUCLEI[number - 1]) * SPACING_MM).astype(int)
        assert labels[i, j, k] == label
    inside = np.flatnonzero(labels[:, 37, 42])
    assert (labels[inside[0], 37, 42], labels[inside[-1], 37, 42]) == (3, 42)
    assert {2, 41} <= set(np.unique(labels))


def test_microbleeds_have_moments_of_the_range_and_persons_without_have_none(scans, real):
    deposits = scans.draw_deposits(real, np.random.default_rng(2), with_microbleeds=True)
    moments = [d.moment_ppm_mm3 for d in deposits if d.kind is Kind.CMB]
    low, high = scans.CMB_MOMENTS_PPM_MM3
    assert moments
    assert all(low <= moment <= high for moment in moments)
    without = scans.draw_deposits(real, np.random.default_rng(2), with_microbleeds=False)
    assert not any(d.kind is Kind.CMB for d in without)


def test_truth_follows_the_contrasts_that_are_there(scans, real, settings):
    deposits = [sphere(1.0)]
    insertion = scans.insert(real, deposits, settings, np.random.default_rng(1))
    (on_both,), (on_swi,), (on_qsm,) = (
        scans.truth_of(insertion, deposits, 2.65, swi=swi, chimap=chimap)[1]
        for swi, chimap in ((True, True), (True, False), (False, True))
    )
    assert (on_both.seen_on_swi, on_both.seen_on_qsm) == (on_swi.seen_on_swi, on_qsm.seen_on_qsm)
    assert not on_swi.seen_on_qsm
    assert not on_qsm.seen_on_swi


def test_plain_threshold_is_told_the_nuclei(benchmarks, real):
    _, semi_real = benchmarks
    chi = np.zeros(SHAPE, dtype=np.float32)
    chi[26:29, 42, 14] = 0.5  # in the pallidum
    chi[10:12, 40, 14] = 0.5  # outside all nuclei
    chi[31:34, 33, 11] = 0.5  # in the nigra
    chi[60, 40, 14] = -0.5
    counts = {
        finding: int(semi_real.above_threshold(chi, real.nuclei, finding, 0.3).astype(bool).sum())
        for finding in Finding
    }
    assert counts == {Finding.CMB: 2, Finding.IRON: 3, Finding.CALCIFICATION: 1}
    instances = semi_real.above_threshold(chi, real.nuclei, Finding.CMB, 0.3)
    assert not semi_real.of_volume(instances, 6.0, np.inf).any()
    assert semi_real.of_volume(instances, 5.0, np.inf).sum() == 2


def test_persons_are_half_without_microbleeds_on_every_map(benchmarks):
    _, semi_real = benchmarks
    persons = semi_real.list_persons(("N001", "N002", "N003"), 4)
    assert len({person.label for person in persons}) == 12
    for scan in ("N001", "N002", "N003"):
        assert sum(p.with_microbleeds for p in persons if p.scan == scan) == 2
