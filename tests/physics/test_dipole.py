"""Field of a susceptibility map: the analytic sphere and cylinder, then what must hold always."""

import numpy as np
import pytest

from deepmir.errors import GeometryError
from deepmir.physics.dipole import b0_direction, dipole_kernel, field_ppm, sphere_field_ppm

N = 48
STEP_MM = 0.5


def offsets_mm() -> np.ndarray:
    """(N, N, N, 3) distances from a centre that lies between voxels."""
    axis = (np.arange(N) - N / 2 + 0.5) * STEP_MM
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


@pytest.mark.parametrize("b0", [(0, 0, 1), (0, 1, 0), (0.3, -0.2, 1.0)])
def test_field_outside_a_sphere_is_the_analytic_dipole(b0):
    at = offsets_mm()
    r = np.linalg.norm(at, axis=-1)
    chi = (r <= 3.0).astype(np.float32)
    field = field_ppm(chi, (STEP_MM,) * 3, b0, margin_mm=24)
    truth = sphere_field_ppm(at, 3.0, float(chi.sum() * STEP_MM**3 / (36 * np.pi)), b0)
    ring = (r > 4.0) & (r < 8.0)
    assert np.corrcoef(field[ring], truth[ring])[0, 1] > 0.998
    assert np.abs(field - truth)[ring].max() < 0.08 * np.abs(truth[ring]).max()


def test_inside_a_sphere_the_field_is_zero():
    r = np.linalg.norm(offsets_mm(), axis=-1)
    field = field_ppm((r <= 5.0).astype(np.float32), (STEP_MM,) * 3, (0, 0, 1), margin_mm=24)
    assert np.abs(field[r < 3.5]).max() < 0.02


@pytest.mark.parametrize(
    ("angle_deg", "inside"), [(0, 1 / 3), (90, -1 / 6), (54.7356, 0.0)]
)  # (3 cos²θ - 1) / 6; 0 at the magic angle
def test_inside_a_long_cylinder_the_field_depends_on_its_angle(angle_deg, inside):
    at = offsets_mm()
    chi = (np.hypot(at[..., 0], at[..., 1]) <= 2.5).astype(np.float32)  # along K, periodic
    angle = np.deg2rad(angle_deg)
    field = field_ppm(chi, (STEP_MM,) * 3, (np.sin(angle), 0, np.cos(angle)), margin_mm=0)
    middle = np.hypot(at[..., 0], at[..., 1]) < 1.5
    share = float(chi.mean())  # k = 0 is set to 0: the mean field is taken off
    assert field[middle].mean() == pytest.approx(inside, abs=0.02 + share / 2)


def test_anisotropic_voxels_see_the_same_sphere():
    fine = offsets_mm()
    chi = (np.linalg.norm(fine, axis=-1) <= 4).astype(np.float32)
    thick = chi.reshape(N, N, N // 2, 2).mean(axis=3)
    here = field_ppm(chi, (STEP_MM,) * 3, (0, 0, 1), margin_mm=24)
    there = field_ppm(thick, (STEP_MM, STEP_MM, 2 * STEP_MM), (0, 0, 1), margin_mm=24)
    outside = np.linalg.norm(fine, axis=-1).reshape(N, N, N // 2, 2).mean(axis=3) > 5.5
    expected = here.reshape(N, N, N // 2, 2).mean(axis=3)
    assert np.abs(there - expected)[outside].max() < 0.01


def test_field_is_linear_and_leaves_its_input_alone():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 9, 10, 11)).astype(np.float32)
    before = one.copy()
    together = field_ppm(one + other, (1, 1, 2), (0, 0.2, 1), margin_mm=4)
    apart = [field_ppm(part, (1, 1, 2), (0, 0.2, 1), margin_mm=4) for part in (one, other)]
    assert together == pytest.approx(apart[0] + apart[1], abs=1e-5)
    assert np.array_equal(one, before)


def test_half_and_full_kernel_agree():
    full = dipole_kernel((6, 8, 9), (1, 1, 2), (0, 0.3, 1), half=False)
    half = dipole_kernel((6, 8, 9), (1, 1, 2), (0, 0.3, 1))
    assert half == pytest.approx(full[:, :, :5])
    assert full[0, 0, 0] == 0


def test_torch_gives_what_numpy_gives():
    torch = pytest.importorskip("torch")
    chi = np.random.default_rng(1).normal(size=(8, 9, 10)).astype(np.float32)
    numpy_field = field_ppm(chi, (1, 1, 1.5), (0, 0, 1), margin_mm=3)
    torch_field = field_ppm(torch.from_numpy(chi), (1, 1, 1.5), (0, 0, 1), margin_mm=3)
    assert torch_field.numpy() == pytest.approx(numpy_field, abs=1e-5)


def test_b0_follows_an_oblique_slab():
    tilt = np.deg2rad(30)
    affine = np.eye(4)
    affine[:3, :3] = [
        [1, 0, 0],
        [0, np.cos(tilt), -np.sin(tilt)],
        [0, np.sin(tilt), np.cos(tilt)],
    ]
    affine[:3, :3] *= [0.5, 0.75, 2.0]
    assert b0_direction(affine) == pytest.approx((0, np.sin(tilt), np.cos(tilt)))


@pytest.mark.parametrize("bad", [(0, 0, 0), (np.nan, 0, 1)])
def test_a_direction_without_length_is_refused(bad):
    with pytest.raises(GeometryError, match="direction of B0"):
        dipole_kernel((4, 4, 4), (1, 1, 1), bad)
