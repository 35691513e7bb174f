"""The simulator's parts: veins of known volume, tissue that hangs together, deposits, truth."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from deepmir.simulation.lesions import Deposit, Kind, ScanGeometry, deposit_effect
from deepmir.simulation.protocol import mesa_like, protocol_by_name, sample_protocol
from deepmir.simulation.scene import interpolate_axis, swap_sides, upsample_linear
from deepmir.simulation.tissue import (
    DURA_PPM,
    PLEXUS_PPM,
    TISSUES,
    atria,
    choroid_plexus,
    dural_sheets,
    iron_pattern,
    sample_tissue_values,
    structure_ppm,
)
from deepmir.simulation.truth import IGNORE, ScanPair, draw_truth
from deepmir.simulation.vessels import Vessel, rasterize


def a_deposit(**changes) -> Deposit:
    values = {
        "kind": Kind.CMB,
        "place": "cortex",
        "centre_mm": (10.0, 11.0, 12.0),
        "semi_axes_mm": (1.0, 1.0, 1.0),
        "rotation_deg": (0.0, 0.0, 0.0),
        "chi_ppm": 1.5,
        "r2star_hz_per_ppm": 150.0,
        "r2_hz_per_ppm": 20.0,
        "proton_density": 0.8,
        "patchiness": 0.0,
        "seed": 1,
    }
    return Deposit(**(values | changes))


GEOMETRY = ScanGeometry(
    shape=(24, 26, 20),
    spacing_mm=(0.9, 0.9, 1.5),
    origin_mm=(0.0, 0.0, 0.0),
    b0_t=3.0,
    b0=(0.0, 0.0, 1.0),
    echo_times_s=(0.01, 0.02),
    spin_echo_time_s=0.1,
)
LABELS = np.full((30, 30, 30), 2, np.uint16)


# ---- vessels -------------------------------------------------------------------------------


@pytest.mark.parametrize("radius_mm", [0.8, 1.5])
def test_a_straight_vessel_has_the_volume_of_its_cylinder(radius_mm):
    line = np.stack([np.full(61, 10.0), np.full(61, 10.0), np.arange(61) * 0.5], axis=1)
    vessel = Vessel(line.astype(np.float32), np.full(61, radius_mm, np.float32))
    spacing = (0.5, 0.5, 0.5)
    fraction = rasterize([vessel], (40, 40, 60), spacing, (0.0, 0.0, 0.0))
    assert fraction.sum() * 0.125 == pytest.approx(np.pi * radius_mm**2 * 30, rel=0.12)
    assert fraction.max() == pytest.approx(1, abs=0.02)


def test_a_vessel_thinner_than_a_voxel_never_fills_it():
    line = np.stack([np.full(21, 5.0), np.full(21, 5.0), np.arange(21) * 0.5], axis=1)
    vessel = Vessel(line.astype(np.float32), np.full(21, 0.15, np.float32))
    fraction = rasterize([vessel], (12, 12, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert 0 < fraction.max() < 0.1


def test_no_vessels_no_fraction():
    assert not rasterize([], (4, 5, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)).any()


# ---- tissue --------------------------------------------------------------------------------


def test_iron_raises_susceptibility_and_relaxation_together():
    draws = [
        sample_tissue_values(np.random.default_rng(n), b0_t=3.0, age_years=60.0) for n in range(80)
    ]
    chi = [draw.chi_ppm[13] for draw in draws]
    assert np.corrcoef(chi, [draw.r2star_hz[13] for draw in draws])[0, 1] > 0.8
    assert np.corrcoef(chi, [draw.r2_hz[13] for draw in draws])[0, 1] > 0.3
    assert np.mean(chi) == pytest.approx(TISSUES[13].chi_ppm, abs=0.02)


def test_old_nuclei_hold_more_iron():
    young, old = (
        sample_tissue_values(np.random.default_rng(0), b0_t=3.0, age_years=age)
        for age in (45.0, 85.0)
    )
    assert old.chi_ppm[12] > young.chi_ppm[12]
    assert old.chi_ppm[3] == young.chi_ppm[3]


def test_stronger_field_dephases_faster_and_recovers_more_slowly():
    low, high = (
        sample_tissue_values(np.random.default_rng(0), b0_t=b0, age_years=60.0) for b0 in (1.5, 7.0)
    )
    assert high.r2star_hz[2] > low.r2star_hz[2]
    assert high.t1_s[2] > low.t1_s[2]
    assert high.chi_ppm[2] == low.chi_ppm[2]


# ---- deposits ------------------------------------------------------------------------------


def test_a_deposit_takes_signal_away_and_more_with_echo_time():
    effect = deposit_effect(a_deposit(), LABELS, GEOMETRY)
    first, second = (np.abs(factor) for factor in effect.echo_factors)
    assert second.min() < first.min() < 1
    assert second.max() < 1.02
    volume = effect.fraction.sum() * 0.9 * 0.9 * 1.5
    assert volume == pytest.approx(4 / 3 * np.pi, rel=0.1)
    assert effect.spin_echo_factor.min() < 0.9


def test_phase_beside_blood_and_calcium_has_opposite_sign():
    blood = deposit_effect(a_deposit(), LABELS, GEOMETRY)
    calcium = deposit_effect(
        a_deposit(kind=Kind.CALCIFICATION, chi_ppm=-1.5, proton_density=0.8), LABELS, GEOMETRY
    )
    assert np.angle(blood.echo_factors[0]) == pytest.approx(
        -np.angle(calcium.echo_factors[0]), abs=1e-3
    )


def test_a_deposit_off_the_grid_has_no_effect():
    assert deposit_effect(a_deposit(centre_mm=(99.0, 1.0, 1.0)), LABELS, GEOMETRY) is None


def test_patchy_iron_stays_in_the_basal_ganglia():
    labels = LABELS.copy()
    labels[8:12, 9:14, 10:15] = 12
    iron = a_deposit(
        kind=Kind.IRON, chi_ppm=0.5, semi_axes_mm=(4.0, 4.0, 4.0), patchiness=0.5, seed=3
    )
    effect = deposit_effect(iron, labels, GEOMETRY)
    where = np.argwhere(effect.fraction > 0.5) + [part.start for part in effect.block]
    assert len(where) > 5
    inside = labels[tuple(np.round(where * GEOMETRY.spacing_mm).astype(int).T)] == 12
    assert inside.mean() > 0.9


# ---- truth ---------------------------------------------------------------------------------


def pair_of(swi, *, chi_ppm=None, chi_without_ppm=None, lost=False):
    flat = np.zeros_like(swi)
    return ScanPair(
        swi=swi.astype(np.float32),
        swi_without=np.ones_like(swi, np.float32),
        chi_ppm=flat if chi_ppm is None else chi_ppm,
        chi_without_ppm=flat if chi_without_ppm is None else chi_without_ppm,
        lost=np.full(swi.shape, lost),
    )


def marked(effect):
    mark = np.zeros(GEOMETRY.shape, np.float32)
    mark[effect.block] = effect.fraction / effect.fraction.max()
    noise = np.random.default_rng(0).normal(0, 0.002, GEOMETRY.shape).astype(np.float32)
    return mark, noise


def truth_of(deposit, effect, scans):
    return draw_truth([deposit], (effect,), scans, np.ones_like(scans.lost), voxel_volume_mm3=1.215)


@pytest.mark.parametrize(
    ("fall", "rise_ppm", "label"), [(0.9, 0.0, 1), (0.0, 0.3, 1), (0.1, 0.01, IGNORE)]
)
def test_a_deposit_is_a_label_only_where_a_rater_could_see_it(fall, rise_ppm, label):
    deposit = a_deposit()
    effect = deposit_effect(deposit, LABELS, GEOMETRY)
    mark, noise = marked(effect)
    scans = pair_of(1 - fall * mark, chi_ppm=noise + rise_ppm * mark, chi_without_ppm=noise)
    labels, mimics, seen = truth_of(deposit, effect, scans)
    assert label in labels
    assert seen[0].seen == (label != IGNORE)
    assert not mimics.any()


@pytest.mark.parametrize(("rise_ppm", "label"), [(0.0, IGNORE), (0.3, 1)])
def test_where_signal_is_lost_in_any_case_only_the_qsm_can_show_a_deposit(rise_ppm, label):
    deposit = a_deposit()
    effect = deposit_effect(deposit, LABELS, GEOMETRY)
    mark, noise = marked(effect)
    chi_ppm = noise + rise_ppm * mark
    scans = pair_of(1 - 0.9 * mark, chi_ppm=chi_ppm, chi_without_ppm=noise, lost=True)
    labels, _, seen = truth_of(deposit, effect, scans)
    assert label in labels
    assert not seen[0].seen_on_swi


def test_a_ring_of_phase_does_not_make_two_findings_of_one():
    deposit = a_deposit()
    effect = deposit_effect(deposit, LABELS, GEOMETRY)
    wide = np.zeros(GEOMETRY.shape, bool)
    wide[effect.block] = ndimage.binary_dilation(effect.fraction > 0.05)
    middle = int(np.argwhere(wide)[:, 0].mean())
    after = np.where(wide, 0.2, 1).astype(np.float32)
    after[middle] = 1.0  # a dark ring runs here with the deposit and without
    labels, _, _ = truth_of(deposit, effect, pair_of(after))
    assert ndimage.label((after < 1) & wide, np.ones((3, 3, 3)))[1] == 2
    assert ndimage.label(labels == 1, np.ones((3, 3, 3)))[1] == 1


def test_a_mixed_lesion_is_a_mimic_and_no_label():
    deposit = a_deposit(kind=Kind.MIXED)
    effect = deposit_effect(deposit, LABELS, GEOMETRY)
    dark = np.ones(GEOMETRY.shape, np.float32)
    dark[effect.block] -= 0.9 * (effect.fraction > 0)
    labels, mimics, _ = truth_of(deposit, effect, pair_of(dark))
    assert not labels.any()
    assert mimics.any()


def test_a_mixed_lesion_is_old_blood_round_a_calcified_core():
    deposit = a_deposit(kind=Kind.MIXED, semi_axes_mm=(5.0, 5.0, 5.0), chi_ppm=0.8)
    mixed, plain = (
        deposit_effect(one, LABELS, GEOMETRY) for one in (deposit, replace(deposit, kind=Kind.CMB))
    )
    core = mixed.chi_ppm < -0.39  # 0.8 ppm, times -0.5
    assert 0.1 < core.sum() / (plain.chi_ppm > 0.79).sum() < 0.4  # 0.6 of each axis
    assert mixed.chi_ppm.max() == pytest.approx(0.8)
    assert mixed.spin_echo_factor[core].min() > 1 > mixed.spin_echo_factor.min()
    assert np.array_equal(mixed.fraction, plain.fraction)


# ---- grids and protocols -------------------------------------------------------------------


def test_swapping_sides_twice_changes_nothing():
    labels = np.array([[[2, 41, 13, 16, 1001]]], np.uint16)
    regions = np.array([[[109, 209, 121, 1, 0]]], np.uint8)
    once = swap_sides(labels, regions)
    assert once[0].ravel().tolist() == [41, 2, 52, 16, 1002]
    assert once[1].ravel().tolist() == [209, 109, 221, 1, 0]
    twice = swap_sides(*once)
    assert np.array_equal(twice[0], labels)
    assert np.array_equal(twice[1], regions)


def test_linear_interpolation_is_exact_on_a_ramp_and_continues_the_ends():
    ramp = np.arange(6, dtype=np.float32)[None, :, None] * np.ones((2, 1, 3), np.float32)
    at = np.array([-1.0, 0.25, 4.5, 9.0])
    assert interpolate_axis(ramp, at, 1)[0, :, 0] == pytest.approx([0, 0.25, 4.5, 5])
    assert upsample_linear(ramp, (2, 11, 3))[1, :, 2] == pytest.approx(np.arange(11) / 2)


def test_drawn_protocols_stay_within_what_scanners_do():
    rng = np.random.default_rng(0)
    for _ in range(60):
        protocol = sample_protocol(rng)
        thickest = 3.3 if protocol.sequence == "3D" else 5.0
        assert 0.6 <= protocol.spacing_mm[0] <= 1.0
        assert protocol.spacing_mm[0] <= protocol.spacing_mm[2] <= thickest
        assert 0 <= protocol.swi.echo < len(protocol.echo_times_s) <= 8
        assert protocol.repetition_time_s > protocol.echo_times_s[-1]
        assert 0.5 < protocol.fourier_share <= 1
    assert protocol_by_name("mesa-like", rng) == mesa_like()


def test_drawn_protocols_are_of_every_kind():
    drawn = [sample_protocol(np.random.default_rng(seed)) for seed in range(300)]
    assert {one.b0_t for one in drawn} == {1.5, 3.0, 7.0}
    flat = [one for one in drawn if one.sequence == "2D"]
    assert 15 < len(flat) < 65
    assert all(len(one.echo_times_s) == 1 and one.spacing_mm[2] >= 3 for one in flat)
    assert {one.swi.power for one in flat} >= {0}  # T2*-weighted magnitude
    assert {one.mask_grown_mm for one in drawn} == {-1.5, 0.0, 2.5}
    assert not any(one.k_space_filters[2] or one.elliptical for one in flat)
    for axis in range(3):
        assert {one.k_space_filters[axis] is None for one in drawn} == {True, False}
    assert all((one.chimap.unwrap == "path") == (one.chimap.method == "medi") for one in drawn)
    for name in ("stripped", "gibbs", "phase_poles", "elliptical"):
        assert {getattr(one, name) for one in drawn} == {True, False}
    assert 0 < sum(one.motion_mm > 0 for one in drawn) < 150
    assert 0 < sum(one.t2w_slice_mm > 1 for one in drawn) < 150
    assert {one.chimap.method for one in drawn} == {"tkd", "closed-form", "medi"}
    assert 10 < sum(one.chimap.background == "pdf" for one in drawn) < 60
    assert {one.chimap.refinements for one in drawn if one.chimap.method == "medi"} == {0, 1, 2}
    blurs = [one.t2w_blur_mm[0] for one in drawn]
    assert min(blurs) < 0.25
    assert max(blurs) > 0.55


def test_structure_follows_the_folds_and_stays_small():
    labels = np.full((40, 40, 40), 24, np.uint16)
    labels[2:38, 2:38, 2:38] = 3
    labels[5:35, 5:35, 5:35] = 2
    labels[17:23, 17:23, 17:23] = 4
    chi = structure_ppm(labels, np.random.default_rng(0))
    assert not chi[labels == 24].any()
    assert (chi[labels == 4] != 0).mean() < 0.3  # plexus
    assert np.abs(chi[labels == 4]).max() <= -PLEXUS_PPM[0]
    # bright next to white matter and not further out
    assert chi[4, 10:30, 10:30].mean() > 0.01
    assert chi[2, 10:30, 10:30].mean() < 0
    assert chi[labels == 2].mean() < 0
    assert chi[5, 20, 20] > chi[10, 20, 20] > chi[13, 20, 20]  # rim, deep, beside the ventricle
    assert np.abs(chi[labels != 4]).max() < 0.1


def test_falx_and_tentorium_are_dark_sheets_half_way_between_what_they_part():
    labels = np.zeros((21, 30, 30), np.uint16)
    labels[:9, :, 12:], labels[12:, :, 12:], labels[:, :, :9] = 3, 42, 8
    labels[labels == 0] = 24
    sheets = dural_sheets(labels)
    assert sheets[:, 10, 16:].sum(axis=0) == pytest.approx(1)  # mm, of three or of four between
    assert sheets[10, 10, 16:] == pytest.approx(1)
    assert sheets[3, 10, :15].sum() == pytest.approx(1)
    labels[12, :, 12:] = 24
    assert dural_sheets(labels)[10:12, 10, 16:] == pytest.approx(0.5)
    chi = structure_ppm(labels, np.random.default_rng(0))
    assert DURA_PPM[0] <= 2 * chi[10, 10, 20] <= DURA_PPM[1]


def test_the_plexus_is_a_tuft_on_the_wall_of_the_atria():
    labels = np.full((40, 60, 30), 2, np.uint16)
    labels[8:32, 5:55, 6:24] = 4
    tuft = choroid_plexus(labels, np.random.default_rng(0))
    assert 0.05 < tuft.sum() / atria(labels).sum() < 0.5
    assert not tuft[14:26, :, 12:18].any()  # the middle is free
    rows = np.nonzero(tuft)[1]
    assert 5 < rows.min() < rows.max() < 27
    assert PLEXUS_PPM[0] < structure_ppm(labels, np.random.default_rng(0))[tuft].mean() < 0.02
    assert not choroid_plexus(np.full((9, 9, 9), 2, np.uint16), np.random.default_rng(0)).any()


def test_iron_is_uneven_in_nuclei_and_nowhere_else():
    labels = np.full((40, 40, 40), 2, np.uint16)
    labels[10:30, 10:30, 10:30] = 13
    factor = iron_pattern(labels, np.random.default_rng(0))
    assert (factor[labels == 2] == 1).all()
    assert factor[labels == 13].std() == pytest.approx(0.3, abs=0.1)
    assert factor[labels == 13].mean() == pytest.approx(1, abs=0.1)
