"""Grids and interpolation against linear functions, which linear interpolation keeps."""

import numpy as np
import pytest

from deepmir.geometry import Grid, voxel_to_world
from deepmir.preprocessing.resample import (
    from_itk,
    interpolate_axis,
    regrid,
    resample,
    resample_labels,
    resample_mean,
    to_itk,
    upsample,
)

SLOPE = np.array([0.3, -0.7, 1.1])


def ramp(grid: Grid) -> np.ndarray:
    """Linear function of scanner space, sampled on a grid."""
    ijk = np.array(list(np.ndindex(grid.shape)), dtype=float)
    return (voxel_to_world(ijk, grid.affine) @ SLOPE).reshape(grid.shape).astype(np.float32)


@pytest.fixture
def grid(phantom_affine):
    return Grid((14, 12, 9), phantom_affine)


def test_an_image_survives_the_way_to_itk_and_back(phantom_data, phantom_affine):
    image = to_itk(phantom_data, phantom_affine)
    assert np.array_equal(from_itk(image), phantom_data)
    assert image.GetSpacing() == pytest.approx((0.5, 0.75, 2.0))


def test_itk_sees_the_same_scanner_space(grid):
    image = to_itk(ramp(grid), grid.affine)
    world = voxel_to_world(np.array([[3.0, 5.0, 7.0]]), grid.affine)[0]
    assert np.array(image.TransformIndexToPhysicalPoint((3, 5, 7))) * [-1, -1, 1] == pytest.approx(
        world
    )


def test_resampling_onto_an_oblique_finer_grid_keeps_a_ramp(grid):
    affine = grid.affine.copy()
    affine[:3, :3] = affine[:3, :3] @ np.diag([1.3, 0.7, 0.8])
    affine[:3, 3] = voxel_to_world(np.array([[2.0, 3.0, 2.0]]), grid.affine)[0]
    target = Grid((5, 6, 7), affine)
    np.testing.assert_allclose(resample(ramp(grid), grid.affine, target), ramp(target), atol=1e-4)


def test_outside_the_field_of_view_is_zero(grid):
    affine = grid.affine.copy()
    affine[:3, 3] += 500
    image = np.ones(grid.shape, dtype=np.float32)
    assert not resample(image, grid.affine, Grid((4, 5, 6), affine)).any()


def test_flipping_an_array_with_its_affine_changes_nothing(grid):
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = grid.shape[0] - 1
    there = resample(ramp(grid)[::-1], grid.affine @ flip, grid)
    np.testing.assert_allclose(there, ramp(grid), atol=1e-4)


def test_a_coarser_grid_covers_the_same_field_of_view(grid):
    coarse = regrid(grid, (2.0, 2.0, 2.0))
    assert coarse.shape == (4, 5, 9)  # 7, 9 and 18 mm
    assert coarse.spacing_mm == pytest.approx((2, 2, 2))
    faces = [voxel_to_world(np.array([[-0.5, -0.5, -0.5]]), g.affine) for g in (grid, coarse)]
    assert faces[0] == pytest.approx(faces[1])


def test_upsampling_is_the_way_back(grid):
    coarse = regrid(grid, (1.25, 1.0, 2.0))
    ratio = tuple(a / b for a, b in zip(grid.spacing_mm, coarse.spacing_mm, strict=True))
    fine = upsample(ramp(coarse), grid.shape, ratio)
    inner = (slice(2, -3), slice(2, -3), slice(1, -1))  # ends are clamped, not extrapolated
    np.testing.assert_allclose(fine[inner], ramp(grid)[inner], atol=1e-4)


def test_interpolation_takes_any_leading_axes_and_clamps():
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    result = interpolate_axis(data, np.array([-3.0, 0.5, 9.0]), axis=-1)
    assert result[0, 0].tolist() == [0, 0.5, 3]
    assert interpolate_axis(data[..., :1], np.array([0.0, 2.0]), axis=2).shape == (2, 3, 2)


def test_a_coarse_voxel_is_a_mean_and_stays_in_place(grid):
    coarse = regrid(grid, (2.0, 2.0, 4.0))
    inner = (slice(1, -1),) * 3  # the last voxels reach beyond the field of view
    there = resample_mean(ramp(grid), grid.affine, coarse)
    np.testing.assert_allclose(there[inner], ramp(coarse)[inner], atol=1e-4)
    fine = Grid((32, 32, 32), np.diag([0.5, 0.5, 0.5, 1.0]))
    noise = np.random.default_rng(0).normal(size=fine.shape).astype(np.float32)
    kept = resample_mean(noise, fine.affine, regrid(fine, (2.0, 2.0, 2.0))).std()
    assert kept < 0.2 < resample(noise, fine.affine, regrid(fine, (2.0, 2.0, 2.0))).std()


def test_background_takes_no_part_in_a_mean():
    fine = Grid((16, 8, 8), np.eye(4))
    image = np.zeros(fine.shape, dtype=np.float32)
    image[5:] = 7
    mean = resample_mean(image, fine.affine, regrid(fine, (2.0, 2.0, 2.0)))
    assert mean[1].max() == 0
    np.testing.assert_allclose(mean[3:], 7, rtol=1e-6)
    assert set(np.unique(mean[2])) <= {0, 7}


def test_labels_keep_their_places_and_are_never_mixed(grid):
    labels = np.arange(np.prod(grid.shape)).reshape(grid.shape) % 5
    there = np.flip(labels, axis=0)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = grid.shape[0] - 1
    assert np.array_equal(resample_labels(there, grid.affine @ flip, grid), labels)
    fine = regrid(grid, tuple(step / 2 for step in grid.spacing_mm))
    finer = resample_labels(labels, grid.affine, fine)
    assert set(np.unique(finer)) == {0, 1, 2, 3, 4}
    assert np.array_equal(resample_labels(finer, fine.affine, grid), labels)


def test_labels_outside_the_field_of_view_are_background(grid):
    far = grid.affine.copy()
    far[:3, 3] += 1000
    assert not resample_labels(np.ones(grid.shape, dtype=int), far, grid).any()
