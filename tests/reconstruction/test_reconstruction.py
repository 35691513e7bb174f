"""Phase to SWI and Chimap: known fields come back, the sign is right, bad masks are refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from deepmir.errors import ConfigError, GeometryError
from deepmir.physics.dipole import field_ppm
from deepmir.physics.signal import gradient_echo
from deepmir.reconstruction.background import remove_background_vsharp
from deepmir.reconstruction.inversion import invert
from deepmir.reconstruction.run import (
    ChimapSettings,
    GradientEchoes,
    SwiSettings,
    erode_mm,
    reconstruct_chimap,
    reconstruct_field,
    reconstruct_swi,
)
from deepmir.reconstruction.swi import (
    minimum_intensity_projection,
    susceptibility_weighted,
)
from deepmir.reconstruction.unwrap import unwrap_laplacian

SHAPE = (48, 52, 40)
SPACING = (1.0, 1.0, 1.5)
B0 = (0.0, 0.1, 1.0)


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    at = np.indices(SHAPE).T * SPACING - np.array(SHAPE) * SPACING / 2
    return np.linalg.norm(at, axis=-1).T < 21


@pytest.fixture(scope="module")
def chi_ppm(ball) -> np.ndarray:
    chi = np.zeros(SHAPE, np.float32)
    chi[20:24, 24:28, 18:22] = 0.5
    chi[30:33, 24:27, 18:21] = -0.4
    return ndimage.gaussian_filter(chi, 0.6) * ball


@pytest.fixture(scope="module")
def echoes(ball, chi_ppm) -> GradientEchoes:
    field = field_ppm(chi_ppm, SPACING, B0, margin_mm=20)
    outside = np.zeros(SHAPE, np.float32)
    outside[10:14, 2:6, 4:8] = 9.0  # an air-like source outside the ball
    field = field + field_ppm(outside, SPACING, B0, margin_mm=20)
    one = ball.astype(np.float32) + 1e-3
    times = (0.005, 0.012, 0.019)
    signals = tuple(
        gradient_echo(one, 20 * one, field, b0_t=3.0, echo_time_s=time) for time in times
    )
    return GradientEchoes(signals, times, 3.0, SPACING, B0)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "tkd", "strength": 0.15},
        {"method": "closed-form", "strength": 0.003},
        {"method": "medi", "strength": 3e-4},
        {"method": "medi", "strength": 3e-4, "unwrap": "path"},
        {"method": "tkd", "strength": 0.15, "background": "pdf"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_susceptibility_comes_back_with_its_sign(echoes, ball, chi_ppm, options):
    settings = ChimapSettings(largest_sphere_mm=8, **options)
    chi, mask = reconstruct_chimap(echoes, ball, settings)
    assert np.corrcoef(chi[mask], chi_ppm[mask])[0, 1] > 0.8
    assert chi[21:23, 25:27, 19:21].mean() > 0.2
    assert chi[31, 25, 19] < -0.15
    assert not chi[~mask].any()


def test_brain_reference_puts_the_mean_at_zero(echoes, ball):
    chi, mask = reconstruct_chimap(echoes, ball, ChimapSettings(reference="brain"))
    assert chi[mask].mean() == pytest.approx(0, abs=1e-5)


def test_one_echo_is_enough(echoes, ball, chi_ppm):
    last = GradientEchoes(echoes.signals[-1:], echoes.echo_times_s[-1:], 3.0, SPACING, B0)
    chi, mask = reconstruct_chimap(last, ball, ChimapSettings(largest_sphere_mm=8))
    assert np.corrcoef(chi[mask], chi_ppm[mask])[0, 1] > 0.7


def test_field_of_many_echoes_is_in_ppm(echoes, ball):
    truth = np.angle(echoes.signals[1] * np.conj(echoes.signals[0]))
    ppm = truth / (2 * np.pi * 42.577 * 3 * 0.007)
    inner = ndimage.binary_erosion(ball, iterations=4)
    difference = (reconstruct_field(echoes) - ppm)[inner]
    assert np.std(difference) < 0.01


def test_a_ramp_of_many_turns_is_unwrapped():
    ramp = np.linspace(0, 12 * np.pi, 60, dtype=np.float32)[:, None, None] * np.ones((1, 8, 6))
    unwrapped = unwrap_laplacian(np.angle(np.exp(1j * ramp)).astype(np.float32), (1, 1, 2))
    assert unwrapped - unwrapped.mean() == pytest.approx(ramp - ramp.mean(), abs=0.02)


def test_vsharp_removes_a_harmonic_field_and_keeps_a_local_one(ball):
    i, _, k = np.indices(SHAPE)
    background = (0.05 * (i - 24) * SPACING[0] - 0.03 * (k - 20) * SPACING[2]).astype(np.float32)
    source = np.zeros(SHAPE, np.float32)
    source[23:25, 25:27, 19:21] = 1.0
    local = field_ppm(source, SPACING, (0, 0, 1), margin_mm=20)
    options = {"radii_mm": (2.0, 4.0, 6.0), "threshold": 0.05}
    kept, inner = remove_background_vsharp(background + local, ball, SPACING, **options)
    assert np.abs(kept - local)[ndimage.binary_erosion(inner, iterations=6)].max() < 0.05
    assert inner.sum() < ball.sum()


def test_swi_darkens_where_the_field_rises(echoes):
    for phase in ("homodyne", "unwrapped"):
        swi = reconstruct_swi(echoes, SwiSettings(echo=2, phase=phase, filter_size=48))
        magnitude = np.abs(echoes.signals[2])
        assert (swi <= magnitude + 1e-6).all()
        assert swi[21:23, 25:27, 17].mean() < 0.8 * magnitude[21:23, 25:27, 17].mean()


def test_phase_mask_touches_positive_phase_only():
    phase = np.array([[[-1.0, 0.0, np.pi / 2, np.pi]]], np.float32)
    swi = susceptibility_weighted(np.ones((1, 1, 4), np.float32), phase, power=4)
    assert swi.ravel() == pytest.approx([1, 1, 0.5**4, 0])


def test_minimum_projection_spans_eight_millimetres():
    swi = np.ones((2, 3, 12), np.float32)
    swi[0, 0, 6] = 0
    projected = minimum_intensity_projection(swi, (1, 1, 2.0))
    assert (projected[0, 0] == 0).sum() == 4
    assert (projected[1] == 1).all()


def test_an_unknown_inversion_is_refused(ball):
    zeros = np.zeros(SHAPE, np.float32)
    with pytest.raises(ConfigError, match="tkd"):
        invert(zeros, ball, SPACING, B0, method="nonsense", strength=1)
    with pytest.raises(ConfigError, match="magnitude"):
        invert(zeros, ball, SPACING, B0, method="medi", strength=1)


@pytest.mark.parametrize(("name", "value"), [("unwrap", "a"), ("background", "b")])
def test_an_unknown_method_is_refused(echoes, ball, name, value):
    with pytest.raises(ConfigError, match="known are"):
        reconstruct_chimap(echoes, ball, ChimapSettings(**{name: value}))


def test_a_mask_smaller_than_the_smallest_sphere_is_refused():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    with pytest.raises(GeometryError, match="smaller radii"):
        remove_background_vsharp(
            np.zeros((9, 9, 9), np.float32), mask, (1, 1, 1), radii_mm=(2.0,), threshold=0.05
        )


def test_a_brain_that_fills_the_field_of_view_does_not_meet_itself():
    i = np.arange(40)[:, None, None] * np.ones((1, 36, 30))
    ramp = (0.01 * i).astype(np.float32)  # harmonic, but its two ends differ
    options = {"radii_mm": (1.1, 3.0, 5.0), "threshold": 0.05}
    local, inner = remove_background_vsharp(ramp, np.ones(ramp.shape, bool), (1, 1, 1), **options)
    assert not inner[0].any()
    assert not inner[-1].any()
    assert np.abs(local).max() < 0.01


@pytest.mark.parametrize("background", ["vsharp", "pdf"])
def test_a_map_has_no_value_on_an_island_of_the_mask(ball, echoes, background):
    island = np.zeros(SHAPE, bool)
    island[2:9, 2:9, 2:8] = True  # wide enough for the smallest sphere
    bright = tuple(np.where(island, one / np.abs(one), one) for one in echoes.signals)
    settings = ChimapSettings(background=background, erosion_mm=1.0)
    chi, inner = reconstruct_chimap(replace(echoes, signals=bright), ball | island, settings)
    assert inner.any()
    assert not (inner & island).any()
    assert not chi[island].any()


def test_all_faces_of_a_whole_block_lose_their_rim():
    eroded = erode_mm(np.ones((9, 11, 8), bool), (1.0, 0.5, 2.0), 2.0)
    expected = np.zeros((9, 11, 8), bool)
    expected[2:-2, 4:-4, 1:-1] = True
    assert np.array_equal(eroded, expected)


def test_a_mask_that_the_field_of_view_cuts_is_eroded_there(ball):
    cut = ball[:, :, 15:]
    assert cut[:, :, 0].any()
    eroded = erode_mm(cut, SPACING, 2.0)
    assert not eroded[:, :, 0].any()
    whole = erode_mm(ball, SPACING, 2.0)
    assert np.array_equal(eroded[:, :, 2:], whole[:, :, 17:])


@pytest.mark.parametrize("by_mm", [0.0, 1.0, 2.0, 3.7])
def test_a_mask_within_the_field_of_view_is_eroded_by_its_distance(ball, by_mm):
    expected = ndimage.distance_transform_edt(ball, sampling=SPACING) > by_mm
    assert np.array_equal(erode_mm(ball, SPACING, by_mm), expected)
