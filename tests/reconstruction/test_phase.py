"""Phase in every way that scanners store it comes back in radians; what is no phase is refused."""

import numpy as np
import pytest

from deepmir.errors import InputError
from deepmir.reconstruction.phase import phase_to_rad

RAMP = np.linspace(-np.pi, np.pi, 4096, endpoint=False, dtype=np.float64).reshape(16, 16, 16)


def stored(low, step, *, whole=True):
    values = low + (RAMP + np.pi) / (2 * np.pi) * step
    return (np.round(values) if whole else values).astype(np.float32)


@pytest.mark.parametrize(
    ("image", "unit"),
    [
        (stored(-np.pi, 2 * np.pi, whole=False), "rad"),
        (stored(-3142, 6283), "mrad"),
        (stored(0, 4096), "0-4095"),
        (stored(-2048, 4096), "±2048"),
        (stored(-4096, 8192), "±4096"),
    ],
)
def test_every_scale_is_recognised(image, unit):
    (phase,), found = phase_to_rad([image], unit=None, name="p.nii")
    assert found == unit
    assert phase == pytest.approx(RAMP, abs=0.003)


def test_zero_to_a_turn_is_moved_by_half_a_turn():
    (phase,), found = phase_to_rad([(RAMP + np.pi).astype(np.float32)], unit=None, name="p.nii")
    assert found == "rad"
    assert np.exp(1j * phase) == pytest.approx(np.exp(1j * (RAMP + np.pi)) * -1, abs=1e-5)


def test_full_range_takes_any_scale():
    image = (RAMP * 0.003674 / np.pi).astype(np.float32)
    with pytest.raises(InputError, match="--phase-unit"):
        phase_to_rad([image], unit=None, name="p.nii")
    (phase,), _ = phase_to_rad([image], unit="full-range", name="p.nii")
    assert phase == pytest.approx(RAMP, abs=0.01)


def test_one_scale_for_all_echoes():
    early = (0.2 * RAMP).astype(np.float32)  # alone its unit could not be told
    phases, _ = phase_to_rad([early, RAMP.astype(np.float32)], unit=None, name="p.nii")
    assert phases[0] == pytest.approx(early, abs=1e-5)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((4, 4, 4), 2.0, np.float32), "everywhere"),
        ((RAMP * 4).astype(np.float32), "unwrapped"),
        ((RAMP * 0.3).astype(np.float32), "cannot be told"),
    ],
)
def test_what_is_no_wrapped_phase_is_refused(image, words):
    with pytest.raises(InputError, match=words):
        phase_to_rad([image], unit=None, name="p.nii")


@pytest.mark.parametrize("n_echoes", [2, 3])
@pytest.mark.parametrize("ground", [2.0, 0.0])
def test_one_constant_echo_is_refused_and_named(n_echoes, ground):
    constant = np.full(RAMP.shape, 2.0, np.float32)
    constant[:4] = ground  # as where a mask was put on
    phases = [RAMP.astype(np.float32)] * (n_echoes - 1)
    with pytest.raises(InputError, match=f"echo {n_echoes} of {n_echoes} .* everywhere"):
        phase_to_rad([*phases, constant], unit=None, name="p.nii")


def test_unwrapped_phase_is_refused_even_when_its_unit_is_said():
    with pytest.raises(InputError, match="unwrapped"):
        phase_to_rad([(RAMP * 4).astype(np.float32)], unit="rad", name="p.nii")
