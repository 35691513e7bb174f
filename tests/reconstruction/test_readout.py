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


def test_a_bipolar_ramp_is_taken_off(phantom):
    ramp = 0.3 + 0.06 * (np.arange(phantom.brain.shape[0]) - 20)[:, None, None]
    signals = phantom.echoes.signals
    bipolar = [signals[0], signals[1] * np.exp(-1j * ramp), signals[2]]
    corrected, across = correct_bipolar(bipolar, phantom.echoes.echo_times_s, name="x")
    assert across == pytest.approx(0.06 * phantom.brain.shape[0], rel=0.2)
    turned = np.angle(corrected[1] * np.conj(signals[1]))[phantom.brain]
    assert np.median(np.abs(turned)) < 0.05


def test_plain_echoes_are_left_alone(phantom):
    times = phantom.echoes.echo_times_s
    same, across = correct_bipolar(phantom.echoes.signals, times, name="x")
    assert across == 0
    assert same[1] is phantom.echoes.signals[1]


@pytest.mark.parametrize("times", [(0.006, 0.013), (0.006, 0.013, 0.030)])
def test_nothing_is_told_without_three_even_echoes(phantom, times):
    signals = phantom.echoes.signals[: len(times)]
    assert correct_bipolar(signals, times, name="x")[1] == 0


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


def test_without_evidence_positive_is_assumed_and_said(phantom):
    nothing = np.zeros_like(phantom.chi_ppm)
    found = tell_sign(nothing, phantom.brain, nucleus_contrast_ppm=0.0, echoes=phantom.echoes)
    assert found.positive
    assert not found.certain
