"""K-space: resolution, partial Fourier and motion against images whose answer is known."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from deepmir.errors import GeometryError
from deepmir.physics.kspace import (
    AxisFilter,
    crop_k_space,
    filter_k_space,
    moved_between_lines,
    partial_fourier,
)
from deepmir.physics.signal import sum_subvoxels

_SPEC = importlib.util.spec_from_file_location(
    "libraries", Path(__file__).with_name("libraries.py")
)
libraries = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(libraries)


def smooth_image(shape) -> np.ndarray:
    """Complex image of low frequencies only."""
    at = [2 * np.pi * (np.arange(n) + 0.5) / n for n in shape]
    i, j, k = np.meshgrid(*at, indexing="ij")
    return (2 + np.cos(i) + 0.5 * np.sin(2 * j)) * np.exp(0.3j * np.cos(k))


def test_cropping_keeps_smooth_images_where_they_were():
    fine, coarse = smooth_image((32, 36, 24)), smooth_image((16, 12, 12))
    assert crop_k_space(fine, (2, 3, 2)) == pytest.approx(coarse, abs=1e-6)


@pytest.mark.parametrize("kept", range(100, 132))
def test_cropping_takes_the_right_lines_at_every_size(kept):
    lines = np.arange(-((kept - 1) // 2), (kept + 1) // 2)
    weights = np.random.default_rng(kept).standard_normal(len(lines))
    fine, coarse = (
        (np.exp(2j * np.pi * np.outer((np.arange(n) + 0.5) / n, lines)) @ weights)[:, None, None]
        for n in (2 * kept, kept)
    )
    assert crop_k_space(fine, (2, 1, 1)) == pytest.approx(coarse, abs=1e-6)


def test_cropping_rings_at_an_edge_and_averaging_does_not():
    edge = np.zeros((64, 4, 4), complex)
    edge[17:47] = 1
    cropped, averaged = crop_k_space(edge, (2, 1, 1)).real, sum_subvoxels(edge, (2, 1, 1)).real
    assert cropped.max() > 1.05  # Gibbs
    assert averaged.max() <= 1
    assert cropped.sum() == pytest.approx(averaged.sum())


def spectrum_of_a_point(filters, *, elliptical=False) -> np.ndarray:
    """Filter a point, whose k-space is 1 everywhere: what is left of it, (I, J, K), centred."""
    point = np.zeros((16, 20, 24), complex)
    point[8, 10, 12] = 1
    seen = filter_k_space(point, filters, elliptical=elliptical)
    return np.abs(np.fft.fftshift(np.fft.fftn(seen)))


def test_a_filter_leaves_half_where_it_says_on_its_own_axis_alone():
    left = spectrum_of_a_point((AxisFilter(0.5, 0.2), None, AxisFilter(0.75, 0.5)))
    assert left[8, :, 12] == pytest.approx(np.ones(20))
    assert left[[0, 3, 4, 5, 8], 0, 12] == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)
    assert left[8, 0, [0, 3, 6, 12]] == pytest.approx([0, 0.5, 1, 1], abs=1e-6)


def test_no_filter_changes_nothing():
    image = smooth_image((8, 10, 6))
    assert filter_k_space(image, (None, None, None)) is image


def test_an_elliptical_k_space_has_no_corners():
    filters = (None, AxisFilter(1.0, 0.1), AxisFilter(1.0, 0.1))
    square, round_ = (spectrum_of_a_point(filters, elliptical=how) for how in (False, True))
    assert square[0, 1, 2] > 0.9
    assert round_[0, 1, 2] == pytest.approx(0, abs=1e-6)
    for along in (round_[0, 1:-1, 12], round_[0, 10, 2:-1], round_[:, 10, 12]):
        assert along == pytest.approx(np.ones(len(along)), abs=0.03)
    # within the ellipse, outside the rhombus that the product of distances would be
    assert round_[0, 4, 5] == pytest.approx(1, abs=1e-6)
    with pytest.raises(GeometryError, match="both axes"):
        filter_k_space(smooth_image((4, 4, 4)), (None, None, AxisFilter(1, 0.1)), elliptical=True)


def test_full_fourier_changes_nothing_and_partial_blurs_a_point():
    point = np.zeros((8, 32, 4), complex)
    point[4, 16, 2] = 1
    assert partial_fourier(point, share=1.0, axis=1) == pytest.approx(point)
    blurred = np.abs(partial_fourier(point, share=0.75, axis=1))
    assert blurred[4, 16, 2] == pytest.approx(0.75)
    assert blurred[4, 15, 2] > 0.1
    assert blurred[3].max() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.0, 1.2, np.nan])
def test_a_share_that_is_no_partial_fourier_is_refused(share):
    with pytest.raises(GeometryError, match=r"above 0\.5"):
        partial_fourier(np.ones((4, 4, 4), complex), share=share, axis=1)


def test_a_head_that_lies_still_elsewhere_is_shifted():
    image = smooth_image((12, 16, 10))
    still = np.tile([1.5, -1.0, 4.0], (16, 1))
    moved = moved_between_lines(image, still, (0.5, 1.0, 2.0), axis=1)
    assert moved == pytest.approx(np.roll(image, (3, -1, 2), (0, 1, 2)), abs=1e-6)


def test_periodic_motion_makes_ghosts_along_the_lines_only():
    image = np.zeros((8, 32, 8), complex)
    image[2:6, 14:18, 2:6] = 1
    shifts = np.zeros((32, 3))
    shifts[::2, 1] = 0.8
    ghosts = np.abs(moved_between_lines(image, shifts, (1, 1, 1), axis=1))
    assert ghosts[3, 0, 3] > 0.01  # half a field of view away
    assert ghosts[0, :, 3].max() == pytest.approx(0, abs=1e-12)
    assert (ghosts**2).sum() == pytest.approx((np.abs(image) ** 2).sum())  # nothing is lost


def test_one_shift_is_wanted_for_each_line():
    with pytest.raises(GeometryError, match="each of 6 lines"):
        moved_between_lines(np.ones((4, 6, 4), complex), np.zeros((5, 3)), (1, 1, 1), axis=1)


@pytest.mark.parametrize("name", libraries.NAMES)
def test_every_library_gives_the_same_image(name):
    xp = libraries.library(name)
    image = smooth_image((8, 12, 6))
    same = xp.asarray(image, dtype=xp.complex64)
    shifts = np.random.default_rng(0).normal(size=(12, 3))
    for there, here in (
        (crop_k_space(same, (2, 3, 1)), crop_k_space(image, (2, 3, 1))),
        (partial_fourier(same, share=0.7, axis=1), partial_fourier(image, share=0.7, axis=1)),
        (
            moved_between_lines(same, shifts, (1, 1, 2), axis=1),
            moved_between_lines(image, shifts, (1, 1, 2), axis=1),
        ),
    ):
        assert there.dtype == xp.complex64
        assert np.abs(libraries.to_numpy(there) - here).max() < 1e-5
