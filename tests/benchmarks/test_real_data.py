"""Real scans: the overlap with labels that hold part of a nucleus is told in two ways."""

import numpy as np
import pytest


def test_labels_that_end_early_count_within_their_slices_too(benchmark_module):
    real_data = benchmark_module("real_data")
    regions = np.zeros((6, 6, 8), dtype=np.uint8)
    regions[1:3, 1:4, 1:7], regions[4:6, 1:4, 1:7] = 121, 221
    silver = np.where(np.arange(8) < 4, (regions > 0) * 2, 0)
    dice = real_data.dice_of_nuclei(regions, silver)
    assert dice["caudate"] == (pytest.approx(2 / 3, abs=1e-3), 1.0)
