"""N4: a known smooth field is taken out, inside the mask and without touching the input."""

import numpy as np
import pytest

from deepmir.errors import GeometryError
from deepmir.preprocessing.biasfield import correct_bias

AFFINE = np.diag([2.0, 2.2, 3.0, 1.0])


@pytest.fixture
def head():
    """Two tissues under a field of a factor of two, and the brain's mask."""
    rng = np.random.default_rng(3)
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in (40, 36, 30)], indexing="ij")
    mask = i**2 + j**2 + k**2 < 0.8
    tissue = np.where((np.sin(9 * i) * np.cos(8 * j)) > 0, 100, 140)
    image = tissue * np.exp(0.35 * i + 0.2 * j) + rng.normal(0, 1, mask.shape)
    return image.astype(np.float32), mask, tissue


def spread(image, tissue, mask):
    """Relative spread of what should be one tissue."""
    return np.mean([image[mask & (tissue == t)].std() / image[mask].mean() for t in (100, 140)])


def test_the_field_is_divided_out(head):
    image, mask, tissue = head
    corrected = correct_bias(image, mask, AFFINE, shrink=2)
    assert spread(corrected, tissue, mask) < 0.35 * spread(image, tissue, mask)
    assert corrected.dtype == np.float32


def test_the_brains_mean_is_kept(head):
    image, mask, _ = head
    corrected = correct_bias(image, mask, AFFINE, shrink=4)
    assert corrected[mask].mean() == pytest.approx(image[mask].mean(), rel=1e-3)


def test_same_input_same_output_and_the_input_stays(head):
    image, mask, _ = head
    before = image.copy()
    first, second = (correct_bias(image, mask, AFFINE, shrink=4) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert np.array_equal(image, before)


def test_few_slices_and_a_large_factor_are_no_obstacle(head):
    image, mask, _ = head
    corrected = correct_bias(image[..., 12:17], mask[..., 12:17], AFFINE, shrink=16)
    assert np.isfinite(corrected).all()


def test_an_image_without_positive_brain_is_left_alone(head):
    image, mask, _ = head
    assert np.array_equal(correct_bias(-image, mask, AFFINE, shrink=4), -image)


def test_another_grid_is_refused(head):
    image, mask, _ = head
    with pytest.raises(GeometryError, match="its mask"):
        correct_bias(image, mask[1:], AFFINE, shrink=4)
