"""What the scanner does to one scene, option by option, each against the plain scan of it."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepmir.reconstruction.run import reconstruct_swi
from deepmir.simulation.acquire import acquire, mask_in_use, open_fringes
from deepmir.simulation.ageing import Ageing, perivascular_spaces
from deepmir.simulation.lesions import Counts
from deepmir.simulation.protocol import mesa_like
from deepmir.simulation.scene import Variation, build_scene
from deepmir.simulation.vessels import SINUS, VesselParameters, grow_arteries, rasterize

_SPEC = importlib.util.spec_from_file_location(
    "phantom_head", Path(__file__).with_name("phantom_head.py")
)
phantom_head = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(phantom_head)

PROTOCOL = replace(
    mesa_like(),
    spacing_mm=(1.0, 1.0, 3.0),
    echo_times_s=(0.02,),
    swi=replace(mesa_like().swi, echo=0),
)
STILL = Variation(
    rotation_deg=(0.0, 0.0, 0.0),
    scale=(1.0, 1.0, 1.0),
    elastic_mm=0.0,
    mirrored=False,
    age_years=60.0,
    seed=0,
    ageing=Ageing(white_lesions_ml=3.0),
)


@pytest.fixture(scope="module")
def scene():
    none = Counts(cmb=0, iron=0, calcification=0, mixed=0)
    grown = build_scene(
        phantom_head.phantom_anatomy(), PROTOCOL, STILL, none, np.random.default_rng(0)
    )
    return replace(grown, veins=[])


def scan(scene, *, separate_t2w=False, **changes):
    return acquire(
        scene,
        replace(PROTOCOL, **changes),
        np.random.default_rng(1),
        separate_t2w=separate_t2w,
    )


@pytest.fixture(scope="module")
def plain(scene):
    return scan(scene)


def test_partial_fourier_takes_away_one_end_of_the_phase_encoded_axis(scene, plain):
    partial = scan(scene, fourier_share=0.75)
    before, after = (np.fft.fftn(one.echoes.signals[0]) for one in (plain, partial))
    n = before.shape[1]
    lost = np.fft.fftfreq(n) * n < n / 2 - 0.75 * n
    assert 0 < lost.sum() < 0.3 * n
    assert np.abs(after[:, lost]).max() < 1e-4 * np.abs(before[:, lost]).max()
    assert np.abs(after - before)[:, ~lost].max() < 1e-4 * np.abs(before).max()


@pytest.mark.parametrize("changes", [{"motion_mm": 0.6}, {"gibbs": True}])
def test_motion_and_ringing_change_the_scan_but_little(scene, plain, changes):
    other = scan(scene, **changes)
    before, after = (np.abs(one.echoes.signals[0])[plain.brain] for one in (plain, other))
    assert np.corrcoef(before, after)[0, 1] > 0.9
    assert np.abs(after - before).mean() > 0.002 * before.mean()


def test_with_and_without_deposits_the_head_moves_alike(scene):
    moved = scan(scene, motion_mm=0.6)
    assert np.array_equal(moved.echoes.signals[0], moved.echoes_without_deposits.signals[0])


def test_poles_turn_the_phase_leave_the_magnitude_and_darken_swi_where_it_is_said(scene, plain):
    other = scan(scene, phase_poles=True)
    assert 0 < (other.fringes & ~plain.fringes).mean() < 0.05
    swi, plain_swi = (reconstruct_swi(one.echoes, PROTOCOL.swi) for one in (other, plain))
    bright = other.fringes & ~plain.fringes & (plain_swi > np.median(plain_swi[plain.brain]) / 2)
    assert bright.any()
    assert np.median(swi[bright] / plain_swi[bright]) < 0.6
    turn = other.echoes.signals[0] * np.conj(plain.echoes.signals[0])
    assert np.std(np.angle(turn)[plain.brain]) > 0.3


def test_slices_of_a_2d_scan_have_phases_of_their_own(scene, plain):
    flat = scan(scene, sequence="2D")
    turn = flat.echoes.signals[0] * np.conj(plain.echoes.signals[0]) * plain.brain
    by_slice = np.angle(turn.sum(axis=(0, 1)))[3:-3]
    assert 0.1 < np.std(by_slice) < 0.7
    one_slice = np.angle(turn)[..., turn.shape[2] // 2][plain.brain[..., turn.shape[2] // 2]]
    assert np.std(one_slice) < 0.15


def test_the_mask_in_use_is_the_brain_or_grown_or_tight(plain):
    sizes = [
        mask_in_use(plain.brain, (1.0, 1.0, 3.0), replace(PROTOCOL, mask_grown_mm=mm)).sum()
        for mm in (-1.5, 0.0, 2.5)
    ]
    assert sizes[0] < sizes[1] == plain.brain.sum() < sizes[2]


def test_a_stripped_t2w_is_noise_outside_the_brain(scene, plain):
    stripped = scan(scene, stripped=True)
    outside = ~plain.brain
    scalp, noise = (np.percentile(one.t2w[outside], 98) for one in (plain, stripped))
    assert noise < 0.5 * scalp
    assert stripped.t2w[plain.brain] == pytest.approx(plain.t2w[plain.brain], rel=0.3, abs=0.1)


def test_thick_t2w_has_slices_of_its_own_where_the_thin_one_has_them(scene):
    thick, thin = (scan(scene, separate_t2w=True, t2w_slice_mm=mm) for mm in (4.0, 1.0))
    assert np.linalg.norm(thick.t2w_affine[:3, :3], axis=0) == pytest.approx([1, 1, 4])
    k = thick.t2w.shape[2] // 2
    place = thick.t2w_affine @ [0, 0, k, 1]
    at = round((np.linalg.inv(thin.t2w_affine) @ place)[2])
    mean = thin.t2w[..., at - 1 : at + 3].mean(axis=2)
    assert np.corrcoef(thick.t2w[..., k].ravel(), mean.ravel())[0, 1] > 0.9


def test_thick_t2w_on_the_scans_grid_is_blurred_along_slices_only(scene, plain):
    thick = scan(scene, t2w_slice_mm=5.0)
    assert thick.t2w.shape == plain.t2w.shape
    rough = [np.abs(np.diff(one.t2w, axis=2))[1:-1].mean() for one in (thick, plain)]
    assert rough[0] < 0.9 * rough[1]


def test_white_matter_lesions_are_bright_on_t2w(plain):
    lesions, white = np.isin(plain.labels, (25, 57)), np.isin(plain.labels, (2, 41))
    assert plain.t2w[lesions].mean() > 1.15 * plain.t2w[white].mean()


def test_perivascular_spaces_are_bright_on_t2w_and_hardly_turn_phase(scene, plain):
    spaces = perivascular_spaces(scene.labels, 120, np.random.default_rng(4))
    other = scan(replace(scene, spaces=spaces))
    brighter = (other.t2w - plain.t2w)[plain.brain]
    assert brighter.max() > 0.15 * plain.t2w[plain.brain].mean()
    assert brighter.min() > -0.3 * brighter.max()
    turn = np.angle(other.echoes.signals[0] * np.conj(plain.echoes.signals[0]))[plain.brain]
    assert np.percentile(np.abs(turn), 99) < 0.3


def test_arteries_are_bright_on_gradient_echoes_and_dark_on_t2w(scene, plain):
    thick, rng = VesselParameters(scale=4.0), np.random.default_rng(3)
    arteries = grow_arteries(scene.labels, scene.brain, thick, rng)
    other = scan(replace(scene, arteries=arteries))
    i, j, k, _ = np.linalg.solve(scene.affine, other.affine[:, 3])
    share = rasterize(arteries, other.brain.shape, PROTOCOL.spacing_mm, (i, j, k))
    inside, away = (share > 0.5) & other.brain, share == 0
    echoes = [np.abs(each.echoes.signals[0]) for each in (plain, other)]
    assert inside.sum() > 50
    assert np.median(echoes[1][inside] / echoes[0][inside]) > 1.2
    assert np.median(other.t2w[inside] / plain.t2w[inside]) < 0.6
    assert np.allclose(other.t2w[away].mean(), plain.t2w[away].mean(), rtol=0.01)


def test_arteries_come_with_detailed_people_and_leave_their_veins_as_they_were():
    none = Counts(cmb=0, iron=0, calcification=0, mixed=0)
    with_arteries, without = (
        build_scene(
            phantom_head.phantom_anatomy(),
            replace(PROTOCOL, detailed_people=detailed),
            STILL,
            none,
            np.random.default_rng(0),
        )
        for detailed in (True, False)
    )
    assert len(with_arteries.arteries) > 100
    assert without.arteries == []
    for one, other in zip(with_arteries.veins, without.veins, strict=True):
        assert np.array_equal(one.points_mm, other.points_mm)


def test_sinuses_hold_the_blood_of_the_veins(plain):
    assert plain.tissue.chi_ppm[SINUS] == pytest.approx(plain.blood.chi_ppm)
    assert plain.tissue.r2star_hz[SINUS] == pytest.approx(plain.blood.r2star_hz)


def test_wraps_of_a_steep_field_are_marked_where_the_filter_leaves_them():
    steep = np.linspace(0, 40, 80, dtype=np.float32) ** 2 / 20  # rad, 0.5 to 2 a voxel at the end
    signal = np.exp(1j * steep)[None, :, None] * np.ones((40, 1, 6), np.complex64)
    fringes = open_fringes(signal, (1.0, 1.0, 3.0), PROTOCOL.swi)
    assert fringes[:, 40:].any()
    assert not fringes[:, 12:20].any()
    unwrapped = replace(PROTOCOL.swi, phase="unwrapped")
    assert not open_fringes(signal, (1.0, 1.0, 3.0), unwrapped).any()


@pytest.mark.parametrize("tilt_deg", [-12.0, 0.0, 12.0])
def test_the_neck_goes_on_as_wide_as_the_head_and_far_enough(tilt_deg):
    none = Counts(cmb=0, iron=0, calcification=0, mixed=0)
    tilted = replace(PROTOCOL, tilt_deg=(tilt_deg, 0.0, 0.0))
    grown = build_scene(
        phantom_head.phantom_anatomy(), tilted, STILL, none, np.random.default_rng(0)
    )
    areas = np.count_nonzero(grown.coarse_labels, axis=(0, 1))
    brain = np.flatnonzero(grown.coarse_brain.any(axis=(0, 1)))
    assert (areas[: int(brain[0])] > 0.6 * areas[int(brain[0])]).all()
    assert 2 * brain[0] >= 60
