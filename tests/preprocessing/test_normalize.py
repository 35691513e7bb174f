"""Scaling: known numbers, the margin, what is refused, and laws that hold for every image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from deepmir.errors import GeometryError, InputError
from deepmir.preprocessing.normalize import dilate_mm, scale_chi, scale_swi, scale_t2w

SPACING_MM = (0.5, 0.75, 2.0)
SCALERS = [scale_swi, scale_t2w, scale_chi]


@pytest.fixture
def mask():
    mask = np.zeros((16, 14, 9), dtype=bool)
    mask[5:11, 4:10, 3:6] = True
    return mask


@pytest.fixture
def image(mask):
    return np.random.default_rng(1).uniform(50, 150, mask.shape).astype(np.float32)


# ---- known answers ---------------------------------------------------------------------------


def test_swi_is_relative_to_the_brains_median(image, mask):
    image[mask] = np.linspace(90, 110, mask.sum())
    image[7, 7, 4], image[8, 7, 4], image[9, 7, 4] = 0, 50, 1000
    scaled = scale_swi(image, mask, spacing_mm=SPACING_MM)
    assert scaled[7:10, 7, 4] == pytest.approx([-2, -1, 4], abs=0.02)
    assert scaled.dtype == np.float32


def test_the_background_of_a_stripped_swi_is_no_deposit(image, mask):
    image[~mask] = 0
    image[5] = 0  # the scan's own mask is smaller than the brain's
    image[8, 7, 4] = 0  # a deposit without signal inside
    scaled = scale_swi(image, mask, spacing_mm=SPACING_MM)
    assert not scaled[:6].any()
    assert not scaled[~mask].any()
    assert scaled[8, 7, 4] == -2


def test_t2w_is_a_robust_z_score(image, mask):
    values = np.random.default_rng(2).normal(300, 20, mask.sum())
    image[mask] = values
    scaled = scale_t2w(image, mask, spacing_mm=SPACING_MM)
    low, median, high = np.percentile(values, [25, 50, 75])
    expected = (values - median) / ((high - low) / 1.349)
    assert scaled[mask] == pytest.approx(expected.clip(-5, 5), abs=1e-4)


def test_t2w_is_clipped_at_five(image, mask):
    image[7, 7, 4], image[8, 7, 4] = 1e6, -1e6
    scaled = scale_t2w(image, mask, spacing_mm=SPACING_MM)
    assert scaled[7:9, 7, 4].tolist() == [5, -5]


def test_t2w_outside_its_field_of_view_stays_zero(image, mask):
    image[:7] = 0
    scaled = scale_t2w(image, mask, spacing_mm=SPACING_MM)
    assert not scaled[:7].any()
    assert scaled[7:11, 4:10, 3:6].all()


def test_chi_keeps_its_scale_and_loses_only_its_median(image, mask):
    chi = (image - 100) / 1000
    scaled = scale_chi(chi, mask, spacing_mm=SPACING_MM)
    assert scaled[mask] == pytest.approx((chi[mask] - np.median(chi[mask])) / 0.25, abs=1e-5)


def test_chi_is_clipped_and_its_support_respected(image, mask):
    chi = (image - 100) / 1000
    chi[5:8], chi[8, 7, 4], chi[9, 7, 4] = 0, 3, -3
    scaled = scale_chi(chi, mask, spacing_mm=SPACING_MM)
    assert scaled[8:10, 7, 4].tolist() == [4, -4]
    assert not scaled[5:8].any()
    inside = chi[mask & (chi != 0)]
    assert scaled[10, 7, 4] == pytest.approx((chi[10, 7, 4] - np.median(inside)) / 0.25, abs=1e-5)


@pytest.mark.parametrize("scale", SCALERS)
def test_channels_end_3_mm_from_the_mask(image, mask, scale):
    away_mm = ndimage.distance_transform_edt(~mask, sampling=SPACING_MM)
    scaled = scale(image, mask, spacing_mm=SPACING_MM)
    assert not scaled[away_mm > 3].any()
    assert scaled[(away_mm > 0) & (away_mm <= 3)].all()


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALERS)
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_empty_or_constant_brain_is_refused_by_name(mask, scale, value):
    image = np.full(mask.shape, value, dtype=np.float32)
    with pytest.raises(InputError, match=r"sub-01_scan\.nii"):
        scale(image, mask, spacing_mm=SPACING_MM, name="sub-01_scan.nii")


@pytest.mark.parametrize("scale", SCALERS)
def test_an_empty_mask_is_refused(image, mask, scale):
    with pytest.raises(InputError, match="no value"):
        scale(image, mask & False, spacing_mm=SPACING_MM)


@pytest.mark.parametrize("scale", SCALERS)
def test_another_grid_is_refused(image, mask, scale):
    with pytest.raises(GeometryError, match="brain mask is"):
        scale(image, mask[1:], spacing_mm=SPACING_MM)


def test_a_negative_swi_is_refused(image, mask):
    with pytest.raises(InputError, match="must be positive"):
        scale_swi(-image, mask, spacing_mm=SPACING_MM)


def test_a_t2w_of_one_value_is_refused(image, mask):
    image[mask] = 7
    image[7, 7, 4] = 8
    with pytest.raises(InputError, match="one value 7"):
        scale_t2w(image, mask, spacing_mm=SPACING_MM)


# ---- properties ------------------------------------------------------------------------------


@given(st.floats(0.01, 1000), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_units_of_swi_and_t2w_do_not_matter(factor, seed):
    image = np.random.default_rng(seed).uniform(1, 2, (6, 7, 8)).astype(np.float32)
    mask = np.ones(image.shape, dtype=bool)
    for scale in (scale_swi, scale_t2w):
        here = scale(image, mask, spacing_mm=SPACING_MM)
        there = scale(image * np.float32(factor), mask, spacing_mm=SPACING_MM)
        assert here == pytest.approx(there, abs=1e-3)


@given(st.integers(0, 100), st.floats(0.2, 6), st.sampled_from([SPACING_MM, (1, 1, 1), (3, 2, 1)]))
@settings(max_examples=40, deadline=None)
def test_dilation_is_that_of_the_distance_transform(seed, radius_mm, spacing_mm):
    mask = np.random.default_rng(seed).random((9, 10, 11)) > 0.99
    mask[4, 5, 6] = True
    away_mm = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    grown = dilate_mm(mask, radius_mm, spacing_mm=spacing_mm)
    assert np.array_equal(grown, away_mm <= radius_mm + 1e-9)


@pytest.mark.parametrize("scale", SCALERS)
def test_inputs_are_left_alone(image, mask, scale):
    image_before, mask_before = image.copy(), mask.copy()
    scale(image, mask, spacing_mm=SPACING_MM)
    assert np.array_equal(image, image_before)
    assert np.array_equal(mask, mask_before)
