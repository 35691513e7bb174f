"""Signal of one voxel against closed forms, and blooming that arises from sub-voxels."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate

from deepmir.errors import GeometryError
from deepmir.physics.dipole import field_ppm, sphere_field_ppm
from deepmir.physics.signal import (
    gradient_echo,
    phase_per_ppm_rad,
    spin_echo_amplitude,
    spoiled_echo_amplitude,
    sum_subvoxels,
)

_SPEC = importlib.util.spec_from_file_location(
    "libraries", Path(__file__).with_name("libraries.py")
)
libraries = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(libraries)


def test_phase_of_one_ppm_at_3_tesla():
    assert phase_per_ppm_rad(3.0, 0.010) == pytest.approx(2 * np.pi * 42.577478518 * 3 * 0.010)


@pytest.mark.parametrize("echo_time_s", [0.005, 0.020, 0.040])
def test_decay_and_phase_follow_the_closed_form(echo_time_s):
    one = np.ones((1, 1, 1), np.float32)
    echo = gradient_echo(2 * one, 40 * one, 0.04 * one, b0_t=3.0, echo_time_s=echo_time_s)
    assert abs(echo[0, 0, 0]) == pytest.approx(2 * np.exp(-40 * echo_time_s), rel=1e-5)
    assert np.angle(echo[0, 0, 0]) == pytest.approx(
        phase_per_ppm_rad(3.0, echo_time_s) * 0.04, rel=1e-5
    )


def test_a_flat_field_gradient_across_a_voxel_decays_as_a_sinc():
    """Mean of exp(iφ) over a linear phase of width w is sin(w/2) / (w/2)."""
    n, width_rad = 64, 4.0
    ramp = ((np.arange(n) + 0.5) / n - 0.5) * width_rad / phase_per_ppm_rad(3.0, 0.02)
    field = np.broadcast_to(ramp.astype(np.float32), (1, 1, n)).copy()
    one = np.ones_like(field)
    echo = sum_subvoxels(gradient_echo(one, 0 * one, field, b0_t=3.0, echo_time_s=0.02), (1, 1, n))
    assert abs(echo[0, 0, 0]) == pytest.approx(np.sin(2.0) / 2.0, rel=1e-3)


def test_spoiled_amplitude_is_ernsts_formula():
    t1, tr, flip = 0.85, 0.04, np.deg2rad(15)
    e1 = np.exp(-tr / t1)
    signal = spoiled_echo_amplitude(
        0.7 * np.ones(1), np.full(1, t1), repetition_time_s=tr, flip_deg=15
    )
    assert signal[0] == pytest.approx(0.7 * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1))


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


def test_a_grid_without_whole_voxels_is_refused():
    with pytest.raises(GeometryError, match="multiple"):
        sum_subvoxels(np.ones((4, 5, 2)), (2, 2, 2))


# ---- blooming ------------------------------------------------------------------------------

N, STEP_MM, RADIUS_MM = 96, 0.25, 1.0


def lost_over_sphere(tau: float) -> float:
    """Signal that a sphere's dipole takes away, over the sphere's volume.

    Static dephasing (Yablonskiy 1994, doi:10.1002/mrm.1910320610) with τ = χ/3 · γB0 · TE: the
    integral of 1 − cos(τ x (3 cos²θ − 1)) over x = (R/r)³ from 0 to 1 and over the angle.
    """
    cosine, weight = np.polynomial.legendre.leggauss(300)
    angular = 3 * cosine**2 - 1
    return integrate.quad(
        lambda x: float(weight @ (1 - np.cos(tau * x * angular))) / (2 * x**2), 0, 1, limit=400
    )[0]


def lost_in_simulation(field: np.ndarray, echo_time_s: float) -> float:
    one = np.ones(field.shape, np.float32)
    fine = gradient_echo(one, 0 * one, field, b0_t=3.0, echo_time_s=echo_time_s)
    voxels = sum_subvoxels(fine, (4, 4, 4))
    return float((1 - voxels.real).sum() / (4 / 3 * np.pi * RADIUS_MM**3))


def distances_mm(n: int = N, step_mm: float = STEP_MM) -> np.ndarray:
    axis = (np.arange(n) - n / 2 + 0.5) * step_mm
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def test_the_void_around_a_sphere_grows_with_echo_time_as_the_analytic_one():
    at, chi = distances_mm(), 2.0
    analytic = sphere_field_ppm(at, RADIUS_MM, chi, (0, 0, 1)).astype(np.float32)
    ball = np.zeros((N,) * 3, np.float32)
    inner = slice(N // 2 - 6, N // 2 + 6)
    fine = np.linalg.norm(distances_mm(48, STEP_MM / 4), axis=-1) <= RADIUS_MM
    ball[inner, inner, inner] = sum_subvoxels(fine.astype(np.float32), (4, 4, 4))
    simulated = field_ppm(chi * ball, (STEP_MM,) * 3, (0, 0, 1), margin_mm=12)
    times = (0.015, 0.030)
    truth = [lost_over_sphere(phase_per_ppm_rad(3.0, te) * chi / 3) for te in times]
    for field, tolerance in ((analytic, 0.03), (simulated, 0.06)):
        lost = [lost_in_simulation(field, te) for te in times]
        assert lost == pytest.approx(truth, rel=tolerance)
        radii = np.cbrt(lost)
        assert radii[1] / radii[0] == pytest.approx(np.cbrt(truth[1] / truth[0]), rel=0.02)


def test_far_above_its_phase_unit_the_void_grows_with_the_cube_root_of_echo_time():
    assert np.cbrt(lost_over_sphere(80.0) / lost_over_sphere(40.0)) == pytest.approx(
        2 ** (1 / 3), rel=0.01
    )
    assert lost_over_sphere(40.0) == pytest.approx(2 * np.pi / (3 * np.sqrt(3)) * 40 - 1, rel=0.01)


# ---- libraries -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", libraries.NAMES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_every_library_gives_the_same_echo_in_its_own_precision(name, precision):
    xp = libraries.library(name)
    rng = np.random.default_rng(2)
    maps = rng.uniform(0.5, 1.5, (4, 4, 6, 8))
    real = getattr(xp, precision)

    def echo(density, t1, r2star, field):
        amplitude = spoiled_echo_amplitude(density, t1, repetition_time_s=0.04, flip_deg=15.0)
        fine = gradient_echo(amplitude, 20 * r2star, field / 9, b0_t=3.0, echo_time_s=0.02)
        return sum_subvoxels(fine, (2, 3, 2))

    truth = echo(*maps)
    found = echo(*(xp.asarray(part, dtype=real) for part in maps))
    assert found.dtype == (xp.complex64 if precision == "float32" else xp.complex128)
    tolerance = 1e-6 if precision == "float32" else 1e-14
    assert np.abs(libraries.to_numpy(found) - truth).max() < tolerance
    spin = spin_echo_amplitude(
        *(xp.asarray(part, dtype=real) for part in maps[:3]),
        repetition_time_s=3.0,
        echo_time_s=0.1,
    )
    assert spin.dtype == real
