"""Signal of one voxel against closed forms, and blooming that arises from sub-voxels."""

import numpy as np
import pytest

from deepmir.physics.dipole import sphere_field_ppm
from deepmir.physics.signal import (
    gradient_echo,
    phase_per_ppm_rad,
    spin_echo_amplitude,
    spoiled_echo_amplitude,
    sum_subvoxels,
)


def test_phase_of_one_ppm_at_3_tesla():
    assert phase_per_ppm_rad(3.0, 0.010) == pytest.approx(2 * np.pi * 42.577478518 * 3 * 0.010)


def test_decay_and_phase_follow_the_closed_form():
    one = np.ones((1, 1, 1), np.float32)
    echo = gradient_echo(2 * one, 40 * one, 0.1 * one, b0_t=3.0, echo_time_s=0.02)
    assert abs(echo[0, 0, 0]) == pytest.approx(2 * np.exp(-0.8), rel=1e-5)
    assert np.angle(echo[0, 0, 0]) == pytest.approx(phase_per_ppm_rad(3.0, 0.02) * 0.1, rel=1e-5)


def test_ernst_angle_gives_the_greatest_signal():
    t1 = np.array([0.85])
    ernst = np.degrees(np.arccos(np.exp(-0.04 / 0.85)))
    signal = [
        spoiled_echo_amplitude(np.ones(1), t1, repetition_time_s=0.04, flip_deg=flip)[0]
        for flip in (ernst - 4, ernst, ernst + 4)
    ]
    assert signal[1] > max(signal[0], signal[2])


def test_spin_echo_at_long_tr_decays_with_t2():
    signal = spin_echo_amplitude(
        np.ones(1), np.ones(1), np.array([0.08]), repetition_time_s=50.0, echo_time_s=0.08
    )
    assert signal[0] == pytest.approx(np.exp(-1))


def test_sub_voxels_are_averaged_over_their_own_voxel():
    fine = np.arange(4 * 6 * 2, dtype=float).reshape(4, 6, 2)
    coarse = sum_subvoxels(fine, (2, 3, 2))
    assert coarse.shape == (2, 2, 1)
    assert coarse[1, 0, 0] == pytest.approx(fine[2:4, 0:3, 0:2].mean())


def test_a_sphere_blooms_with_echo_time():
    """The void grows as the radius at which the dipole's phase spreads by a fixed amount.

    That radius goes with the cube root of TE: 1.26 times for twice the TE (analytic).
    """
    n, step = 96, 0.25
    axis = (np.arange(n) - n / 2 + 0.5) * step
    at = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    field = sphere_field_ppm(at, 1.0, 2.0, (0, 0, 1)).astype(np.float32)
    radii = []
    for echo_time in (0.015, 0.030):
        one = np.ones(field.shape, np.float32)
        fine = gradient_echo(one, 0 * one, field, b0_t=3.0, echo_time_s=echo_time)
        lost = 1 - np.abs(sum_subvoxels(fine, (4, 4, 4)))
        radii.append(np.cbrt(3 * (lost > 0.1).sum() / (4 * np.pi)))
    assert radii[1] / radii[0] == pytest.approx(2 ** (1 / 3), rel=0.12)
