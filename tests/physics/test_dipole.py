"""Field of a susceptibility map: the analytic sphere and cylinder, then what must hold always."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmir.errors import GeometryError
from deepmir.physics.dipole import (
    b0_direction,
    cylinder_field_ppm,
    dipole_kernel,
    field_ppm,
    sphere_field_ppm,
)

_SPEC = importlib.util.spec_from_file_location(
    "libraries", Path(__file__).with_name("libraries.py")
)
libraries = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(libraries)

N = 48
STEP_MM = 0.5
OBLIQUE = (0.3, -0.2, 1.0)
MAGIC_DEG = 54.7356


def offsets_mm(shape=(N, N, N), steps_mm=(STEP_MM,) * 3) -> np.ndarray:
    """(I, J, K, 3) distances from a centre that lies between voxels."""
    axes = [(np.arange(n) - n / 2 + 0.5) * step for n, step in zip(shape, steps_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def filled(inside, factor: int = 4) -> np.ndarray:
    """Share of each voxel that a shape fills: the test of its sub-voxels, averaged."""
    fine = offsets_mm((N * factor,) * 3, (STEP_MM / factor,) * 3)
    parts = inside(fine).reshape((N, factor) * 3)
    return parts.mean(axis=(1, 3, 5)).astype(np.float32)


# ---- sphere --------------------------------------------------------------------------------


@pytest.mark.parametrize("b0", [(0, 0, 1), (0, 1, 0), OBLIQUE])
def test_field_outside_a_sphere_is_the_analytic_dipole(b0):
    at = offsets_mm()
    chi = filled(lambda fine: np.linalg.norm(fine, axis=-1) <= 3.0)
    field = field_ppm(chi, (STEP_MM,) * 3, b0, margin_mm=24)
    truth = sphere_field_ppm(at, 3.0, 1.0, b0)
    r = np.linalg.norm(at, axis=-1)
    ring = (r > 4.0) & (r < 8.0)
    assert np.corrcoef(field[ring], truth[ring])[0, 1] > 0.999
    assert np.abs(field - truth)[ring].max() < 0.04 * np.abs(truth[ring]).max()


@pytest.mark.parametrize("b0", [(0, 0, 1), OBLIQUE])
def test_inside_a_sphere_the_field_is_zero(b0):
    chi = filled(lambda fine: np.linalg.norm(fine, axis=-1) <= 5.0)
    field = field_ppm(chi, (STEP_MM,) * 3, b0, margin_mm=24)
    inside = field[np.linalg.norm(offsets_mm(), axis=-1) < 4.0]
    assert np.abs(inside).mean() < 0.005
    assert np.abs(inside).max() < 0.03  # the edge rings by voxels, more where B0 is oblique


def test_beside_a_sphere_the_field_is_zero_at_the_magic_angle():
    angle = np.deg2rad(MAGIC_DEG)
    at = np.array([[4 * np.sin(angle), 0, 4 * np.cos(angle)], [0, 0, 4.0], [4.0, 0, 0]])
    magic, pole, equator = sphere_field_ppm(at, 2.0, 3.0, (0, 0, 1))
    assert magic == pytest.approx(0, abs=1e-6)
    assert pole == pytest.approx(3 / 3 * (2 / 4) ** 3 * 2)
    assert equator == pytest.approx(-pole / 2)


def test_anisotropic_voxels_see_the_same_sphere():
    fine = offsets_mm()
    chi = (np.linalg.norm(fine, axis=-1) <= 4).astype(np.float32)
    thick = chi.reshape(N, N, N // 2, 2).mean(axis=3)
    here = field_ppm(chi, (STEP_MM,) * 3, (0, 0, 1), margin_mm=24)
    there = field_ppm(thick, (STEP_MM, STEP_MM, 2 * STEP_MM), (0, 0, 1), margin_mm=24)
    outside = np.linalg.norm(fine, axis=-1).reshape(N, N, N // 2, 2).mean(axis=3) > 5.5
    expected = here.reshape(N, N, N // 2, 2).mean(axis=3)
    assert np.abs(there - expected)[outside].max() < 0.01


# ---- cylinder ------------------------------------------------------------------------------


@pytest.mark.parametrize("angle_deg", [0, 30, MAGIC_DEG, 90])
def test_a_long_cylinder_has_its_analytic_field_at_every_angle(angle_deg):
    at = offsets_mm()
    chi = filled(lambda fine: np.hypot(fine[..., 0], fine[..., 1]) <= 2.0)  # along K, periodic
    angle = np.deg2rad(angle_deg)
    b0 = (np.sin(angle), 0, np.cos(angle))
    field = field_ppm(chi, (STEP_MM,) * 3, b0, margin_mm=0)
    # k = 0 is set to 0, which takes the mean off, and the neighbours of a periodic row are seen.
    mean = float(chi.mean()) * (3 * np.cos(angle) ** 2 - 1) / 6
    truth = cylinder_field_ppm(at, 2.0, 1.0, b0, axis=(0, 0, 1)) - mean
    rho = np.hypot(at[..., 0], at[..., 1])
    inside, ring = rho < 1.4, (rho > 2.7) & (rho < 4.0)
    assert field[inside].mean() == pytest.approx(truth[inside].mean(), abs=0.012)
    assert np.abs(field - truth)[ring].max() < 0.025


@pytest.mark.parametrize(
    ("angle_deg", "inside"), [(0, 1 / 3), (90, -1 / 6), (MAGIC_DEG, 0.0)]
)  # (3 cos²θ - 1) / 6
def test_inside_a_cylinder_the_closed_form_holds(angle_deg, inside):
    angle = np.deg2rad(angle_deg)
    b0 = (np.sin(angle), 0, np.cos(angle))
    here = cylinder_field_ppm(np.array([[0.3, 0.2, 7.0]]), 1.0, 1.0, b0, axis=(0, 0, 2.0))
    assert here[0] == pytest.approx(inside, abs=1e-6)


def test_around_a_cylinder_across_b0_the_field_has_four_lobes():
    at = np.array([[2.0, 0, 5.0], [0, 2.0, -3.0], [np.sqrt(2), np.sqrt(2), 0]])
    toward, across, between = cylinder_field_ppm(at, 1.0, 0.8, (1, 0, 0), axis=(0, 0, 1))
    assert toward == pytest.approx(0.8 / 2 * (1 / 2) ** 2)
    assert across == pytest.approx(-toward)
    assert between == pytest.approx(0, abs=1e-6)


# ---- what must hold always -----------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(*[st.integers(2, 12)] * 3),
    st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda b: np.linalg.norm(b) > 0.1),
    st.integers(0, 99),
)
def test_field_is_linear_blind_to_the_sign_of_b0_and_leaves_its_input_alone(shape, b0, seed):
    one, other = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    before = one.copy()
    together = field_ppm(one + other, (1, 1, 2), b0, margin_mm=4)
    apart = [field_ppm(part, (1, 1, 2), b0, margin_mm=4) for part in (one, other)]
    assert together == pytest.approx(apart[0] + apart[1], abs=1e-5)
    reverse = field_ppm(one, (1, 1, 2), tuple(-x for x in b0), margin_mm=4)
    assert reverse == pytest.approx(apart[0], abs=1e-5)
    assert np.array_equal(one, before)


def test_a_tilted_slab_sees_the_field_of_the_upright_one():
    tilt = np.deg2rad(30)
    affine = np.eye(4)
    affine[:3, :3] = [
        [1, 0, 0],
        [0, np.cos(tilt), -np.sin(tilt)],
        [0, np.sin(tilt), np.cos(tilt)],
    ]
    affine[:3, :3] *= [0.5, 0.75, 2.0]
    b0 = b0_direction(affine)
    assert b0 == pytest.approx((0, np.sin(tilt), np.cos(tilt)))
    at = offsets_mm()
    upright = sphere_field_ppm(at, 2.0, 1.0, (0, 0, 1))
    turned = sphere_field_ppm(at @ (affine[:3, :3] / [0.5, 0.75, 2.0]), 2.0, 1.0, b0)
    assert turned == pytest.approx(upright, abs=1e-6)


def test_half_and_full_kernel_agree():
    full = dipole_kernel((6, 8, 9), (1, 1, 2), (0, 0.3, 1), half=False)
    half = dipole_kernel((6, 8, 9), (1, 1, 2), (0, 0.3, 1))
    assert half == pytest.approx(full[:, :, :5])
    assert full[0, 0, 0] == 0


@pytest.mark.parametrize("bad", [(0, 0, 0), (np.nan, 0, 1)])
def test_a_direction_without_length_is_refused(bad):
    with pytest.raises(GeometryError, match="direction of B0"):
        dipole_kernel((4, 4, 4), (1, 1, 1), bad)
    with pytest.raises(GeometryError, match="length"):
        sphere_field_ppm(np.ones((1, 3)), 1.0, 1.0, bad)


# ---- libraries -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", libraries.NAMES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_every_library_gives_what_numpy_gives_in_its_own_precision(name, precision):
    xp = libraries.library(name)
    chi = np.random.default_rng(1).normal(size=(8, 9, 10))
    truth = field_ppm(chi, (1, 1, 1.5), OBLIQUE, margin_mm=3)
    field = field_ppm(
        xp.asarray(chi, dtype=getattr(xp, precision)), (1, 1, 1.5), OBLIQUE, margin_mm=3
    )
    assert field.dtype == getattr(xp, precision)
    tolerance = 1e-5 if precision == "float32" else 1e-12
    assert libraries.to_numpy(field) == pytest.approx(truth, abs=tolerance)


@pytest.mark.parametrize("name", libraries.NAMES)
def test_analytic_fields_are_written_once_for_all_libraries(name):
    xp = libraries.library(name)
    at = offsets_mm((4, 5, 6))
    same = xp.asarray(at, dtype=xp.float64)
    sphere = sphere_field_ppm(same, 0.8, 1.0, OBLIQUE)
    cylinder = cylinder_field_ppm(same, 0.8, 1.0, OBLIQUE, axis=(1, 0, 0))
    assert libraries.to_numpy(sphere) == pytest.approx(sphere_field_ppm(at, 0.8, 1.0, OBLIQUE))
    assert libraries.to_numpy(cylinder) == pytest.approx(
        cylinder_field_ppm(at, 0.8, 1.0, OBLIQUE, axis=(1, 0, 0))
    )


@pytest.mark.gpu
def test_tensors_stay_on_their_device():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    chi = torch.randn(16, 18, 20, device="cuda")
    field = field_ppm(chi, (1, 1, 1.5), OBLIQUE, margin_mm=3)
    assert field.device == chi.device
    truth = field_ppm(chi.cpu().numpy(), (1, 1, 1.5), OBLIQUE, margin_mm=3)
    assert field.cpu().numpy() == pytest.approx(truth, abs=1e-4)


def test_numpy_needs_no_torch():
    code = (
        "import numpy as np, sys; from deepmir.physics.dipole import field_ppm; "
        "import deepmir.physics.signal, deepmir.physics.kspace, deepmir.physics.scanner; "
        "field_ppm(np.ones((4, 4, 4)), (1, 1, 1), (0, 0, 1), margin_mm=2); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
