"""Input scaling and class numbers of the anatomy part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmir.labels import ALL_REGION_NUMBERS
from deepmir.model.anatomy_input import (
    N_CLASSES,
    NO_REGION_CLASS,
    class_of_regions,
    regions_of_classes,
    scale_anatomy_inputs,
)

SHAPE = (5, 6, 7)


@pytest.fixture
def image():
    return np.random.default_rng(4).uniform(100, 900, SHAPE).astype(np.float32)


def test_percentiles_of_the_voxels_that_are_not_zero_become_0_and_1(image):
    image[0] = 0
    scaled = scale_anatomy_inputs(image, None, None)[0]
    low, high = np.percentile(image[image != 0], (1, 99))
    expected = np.clip((image[1:] - low) / (high - low), 0, 1.5)
    np.testing.assert_allclose(scaled[1:], expected, atol=1e-5)
    assert (scaled[0] == 0).all()


def test_scaling_does_not_depend_on_the_scanner_gain(image):
    one, other = (scale_anatomy_inputs(None, g * image, None)[1] for g in (1, 37.5))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_chi_is_divided_by_a_constant_and_clipped():
    chi = np.array([[[-1.0, -0.1, 0.0, 0.2, 0.5, np.nan]]], dtype=np.float32)
    assert scale_anatomy_inputs(None, None, chi)[2].ravel().tolist() == pytest.approx(
        [-2, -0.5, 0, 1, 2, 0]
    )


@pytest.mark.parametrize("given_scans", [(1, 0, 0), (0, 1, 1), (1, 1, 1)])
def test_presence_planes_say_what_is_there(image, given_scans):
    stack = scale_anatomy_inputs(*(image if there else None for there in given_scans))
    assert stack[3:].mean(axis=(1, 2, 3)).tolist() == list(given_scans)
    assert all((stack[n] == 0).all() for n in range(3) if not given_scans[n])


def test_nothing_or_unequal_shapes_are_refused(image):
    with pytest.raises(ValueError, match="one to three"):
        scale_anatomy_inputs(None, None, None)
    with pytest.raises(ValueError, match="one shape"):
        scale_anatomy_inputs(image, image[1:], None)


@given(st.sampled_from(ALL_REGION_NUMBERS))
def test_every_region_goes_to_its_class_and_back(number):
    regions = np.full((1, 1, 1), number, dtype=np.uint8)
    classes = class_of_regions(regions, regions > 0)
    assert 0 < classes.item() < NO_REGION_CLASS
    assert regions_of_classes(classes, regions >= 200).item() == number


def test_brain_without_a_region_is_the_last_class():
    regions, brain = np.zeros((1, 1, 2), np.uint8), np.array([[[False, True]]])
    assert class_of_regions(regions, brain).ravel().tolist() == [0, N_CLASSES - 1]
    assert (regions_of_classes(class_of_regions(regions, brain), brain) == 0).all()
