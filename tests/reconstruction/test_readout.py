"""Alternating slices, bipolar echoes and the sign of phase are found and undone."""

from dataclasses import replace

import numpy as np
import pytest

from deepmir.errors import InputError
from deepmir.reconstruction.readout import (
    correct_alternating_slices,
    correct_bipolar,
    dark_contrast_ppm,
    tell_sign,
)
from deepmir.reconstruction.run import ChimapSettings, reconstruct_chimap

EVEN_S = (0.006, 0.013, 0.020)
UNEVEN_S = (0.006, 0.013, 0.030)
QUICK = ChimapSettings(method="tkd", strength=0.15, largest_sphere_mm=7, unwrap="path")


def bipolar(echoes, *, slope_rad=0.0, offset_rad=0.0):
    """Echoes whose even ones are behind by a ramp along the first axis and an offset."""
    n = echoes.signals[0].shape[0]
    behind = offset_rad + slope_rad * (np.arange(n) - (n - 1) / 2)
    turn = np.exp(-1j * behind).astype(np.complex64)[:, None, None]
    turned = (
        signal * turn if number % 2 else signal for number, signal in enumerate(echoes.signals)
    )
    return replace(echoes, signals=tuple(turned))


def corrected(echoes):
    signals, _ = correct_bipolar(echoes.signals, echoes.echo_times_s, name="x")
    return replace(echoes, signals=signals)


def chi_change_ppm(echoes, expected, brain):
    """Change of χ by TKD that all but a thousandth of the voxels stay below."""
    maps = [reconstruct_chimap(one, brain, QUICK)[0] for one in (echoes, expected)]
    return float(np.percentile(np.abs(maps[0] - maps[1]), 99.9))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_alternating_slices_are_turned_back(phantom, axis):
    sign = (-1.0) ** np.arange(phantom.brain.shape[axis])
    form = [1, 1, 1]
    form[axis] = -1
    turned = [signal * sign.reshape(form) for signal in phantom.echoes.signals]
    corrected, found = correct_alternating_slices(turned)
    assert found == axis
    assert np.abs(np.sum(corrected[0] * np.conj(phantom.echoes.signals[0]))) == pytest.approx(
        np.sum(np.abs(phantom.echoes.signals[0]) ** 2), rel=1e-3
    )


def test_plain_slices_are_left_alone(phantom):
    same, axis = correct_alternating_slices(phantom.echoes.signals)
    assert axis is None
    assert same[1] is phantom.echoes.signals[1]


@pytest.mark.parametrize("offset_rad", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("slope_rad", [0.0, 0.06, -0.12])
def test_a_bipolar_ramp_and_offset_are_taken_off(phantom, slope_rad, offset_rad):
    behind = bipolar(phantom.echoes, slope_rad=slope_rad, offset_rad=offset_rad)
    signals, found = correct_bipolar(behind.signals, EVEN_S, name="x")
    if slope_rad == offset_rad == 0:
        assert found is None
        return
    assert found.slopes_rad == pytest.approx((slope_rad, 0, 0), abs=1e-3)
    assert found.ramp_rad == pytest.approx(abs(slope_rad) * phantom.brain.shape[0], abs=0.02)
    assert found.offset_rad == pytest.approx(offset_rad, abs=1e-3)
    turned = np.angle(signals[1] * np.conj(phantom.echoes.signals[1]))[phantom.brain]
    assert np.abs(turned).max() < 0.02
    assert signals[0] is behind.signals[0]


@pytest.mark.parametrize("times", [UNEVEN_S, (0.006, 0.013, 0.016), (0.004, 0.011, 0.024, 0.031)])
def test_of_uneven_echoes_the_ramp_is_taken_off(raw, times):
    phantom = raw.raw_phantom(times_s=times)
    behind = bipolar(phantom.echoes, slope_rad=0.12, offset_rad=1.0)
    assert chi_change_ppm(behind, phantom.echoes, phantom.brain) > 0.02
    signals, found = correct_bipolar(behind.signals, times, name="x")
    assert found.slopes_rad == pytest.approx((0.12, 0, 0), abs=1e-3)
    assert found.offset_rad is None
    assert "offset" not in str(found)
    after = replace(behind, signals=signals)
    assert chi_change_ppm(after, phantom.echoes, phantom.brain) < 0.002


@pytest.mark.parametrize("times", [EVEN_S, UNEVEN_S])
@pytest.mark.parametrize("offset_rad", [0.25, 1.0, 2.0])
def test_an_offset_of_every_second_echo_does_not_reach_chi(raw, times, offset_rad):
    phantom = raw.raw_phantom(times_s=times)
    behind = bipolar(phantom.echoes, offset_rad=offset_rad)
    assert chi_change_ppm(corrected(behind), phantom.echoes, phantom.brain) < 0.002


@pytest.mark.parametrize("times", [EVEN_S, UNEVEN_S])
@pytest.mark.parametrize("noise", [0.004, 0.1])
def test_plain_echoes_are_left_alone(raw, times, noise):
    echoes = raw.raw_phantom(times_s=times, noise=noise).echoes
    same, found = correct_bipolar(echoes.signals, times, name="x")
    assert found is None
    assert same[1] is echoes.signals[1]


def test_of_two_echoes_nothing_is_told_and_nothing_is_lost(raw):
    phantom = raw.raw_phantom(times_s=EVEN_S[:2])
    behind = bipolar(phantom.echoes, slope_rad=0.12, offset_rad=1.0)
    same, found = correct_bipolar(behind.signals, EVEN_S[:2], name="x")
    assert found is None
    assert same[1] is behind.signals[1]
    # The one step then holds a linear field more, which background removal takes off.
    assert chi_change_ppm(behind, phantom.echoes, phantom.brain) < 0.005


def test_echoes_that_contradict_each_other_are_refused(phantom):
    rng = np.random.default_rng(0)
    random = np.exp(1j * rng.uniform(-np.pi, np.pi, phantom.brain.shape))
    signals = [phantom.echoes.signals[0] * random, *phantom.echoes.signals[1:]]
    with pytest.raises(InputError, match="do not follow one field"):
        correct_bipolar(signals, phantom.echoes.echo_times_s, name="mag.nii")


@pytest.mark.parametrize("sign", [1, -1])
def test_nuclei_tell_the_sign(phantom, sign):
    evidence = tell_sign(
        sign * phantom.chi_ppm,
        phantom.brain,
        nucleus_contrast_ppm=sign * 0.08,
        echoes=phantom.echoes,
    )
    assert evidence.positive == (sign > 0)
    assert evidence.certain
    assert "basal ganglia" in evidence.reason


@pytest.mark.parametrize("sign", [1, -1])
def test_veins_tell_the_sign_without_nuclei(phantom, sign):
    chi = np.where(phantom.chi_ppm > 0, phantom.chi_ppm, 0)  # no calcification
    magnitude = 100 * phantom.brain * np.exp(-0.02 * 300 * chi)
    echoes = replace(phantom.echoes, signals=(magnitude.astype(np.complex64),))
    assert sign * dark_contrast_ppm(sign * chi, phantom.brain, echoes) > 0.05
    found = tell_sign(sign * chi, phantom.brain, nucleus_contrast_ppm=None, echoes=echoes)
    assert found.positive == (sign > 0)
    assert "veins" in found.reason


def test_the_rim_of_a_block_does_not_tell_the_sign(phantom):
    chi = np.zeros_like(phantom.chi_ppm)
    magnitude = np.full(chi.shape, 100, np.float32)
    chi[[0, -1]], magnitude[[0, -1]] = -1.0, 1.0  # what is beyond is not known
    chi[20:22, 20:30, 15], magnitude[20:22, 20:30, 15] = 0.4, 30.0
    echoes = replace(phantom.echoes, signals=(magnitude.astype(np.complex64),))
    assert dark_contrast_ppm(chi, np.ones(chi.shape, bool), echoes) > 0.01


def test_without_evidence_positive_is_assumed_and_said(phantom):
    nothing = np.zeros_like(phantom.chi_ppm)
    found = tell_sign(nothing, phantom.brain, nucleus_contrast_ppm=0.0, echoes=phantom.echoes)
    assert found.positive
    assert not found.certain
