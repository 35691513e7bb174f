"""Signs of age: ventricles that grow outwards, lesions of the asked volume, thin neutral spaces."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from deepmir.simulation.ageing import (
    displaced,
    perivascular_spaces,
    sample_ageing,
    ventricle_displacement,
    white_matter_lesions,
)
from deepmir.simulation.vessels import rasterize

_SPEC = importlib.util.spec_from_file_location(
    "phantom_head", Path(__file__).with_name("phantom_head.py")
)
phantom_head = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(phantom_head)


@pytest.fixture(scope="module")
def labels():
    return phantom_head.phantom_anatomy().labels


def moved(labels, growth_mm):
    index = np.indices(labels.shape).astype(np.float32)
    at = np.round(displaced(index, ventricle_displacement(labels, growth_mm))).astype(int)
    at = np.clip(at, 0, np.array(labels.shape)[:, None, None, None] - 1)
    return labels[tuple(at)]


def test_old_brains_have_wider_ventricles_more_lesions_and_more_spaces():
    rng = np.random.default_rng(0)
    young, old = ([sample_ageing(age, rng) for _ in range(200)] for age in (50.0, 85.0))
    for name in ("ventricle_growth_mm", "white_lesions_ml", "perivascular_spaces"):
        assert np.mean([getattr(one, name) for one in old]) > 1.3 * np.mean(
            [getattr(one, name) for one in young]
        )
    assert 0.2 < np.median([one.white_lesions_ml for one in young]) < 1.0
    assert 4 < np.median([one.white_lesions_ml for one in old]) < 13


def test_ventricles_grow_by_about_what_was_asked_and_nothing_is_lost(labels):
    grown = moved(labels, 2.0)
    before, after = np.isin(labels, (4, 43)), np.isin(grown, (4, 43))
    # the shift falls off with the distance it has to come from: 2 mm asked, somewhat less got
    depth = ndimage.distance_transform_edt(after)[after & ~before]
    assert after.sum() > 1.3 * before.sum()
    assert (before & ~after).sum() < 0.03 * before.sum()
    distance = ndimage.distance_transform_edt(~before)[after]
    assert 1.0 <= distance.max() <= 3.0
    assert depth.max() < 8
    assert set(np.unique(grown)) == set(np.unique(labels))


def test_growth_leaves_the_skull_alone(labels):
    grown = moved(labels, 3.0)
    assert (np.isin(grown, (507, 515)) != np.isin(labels, (507, 515))).mean() < 0.01


def test_lesions_have_the_asked_volume_lie_in_white_matter_and_keep_their_side(labels):
    spotted = white_matter_lesions(labels, 2.0, np.random.default_rng(1))
    left, right = spotted == 25, spotted == 57
    assert (left | right).sum() == pytest.approx(2000, abs=30)
    assert (labels[left] == 2).all()
    assert (labels[right] == 41).all()
    near = ndimage.distance_transform_edt(~np.isin(labels, (4, 43)))
    white = np.isin(labels, (2, 41))
    assert near[left | right].mean() < near[white].mean()  # at the ventricles first
    assert np.array_equal(labels, phantom_head.phantom_anatomy().labels)  # input left alone


def test_no_lesions_where_none_or_no_white_matter(labels):
    rng = np.random.default_rng(0)
    assert np.array_equal(white_matter_lesions(labels, 0.0, rng), labels)
    bare = np.full((8, 8, 8), 24, np.uint16)
    assert np.array_equal(white_matter_lesions(bare, 5.0, rng), bare)
    assert perivascular_spaces(bare, 5, rng) == []


def test_perivascular_spaces_are_thin_and_lie_in_white_matter_and_putamen(labels):
    spaces = perivascular_spaces(labels, 40, np.random.default_rng(2))
    assert len(spaces) == 40
    assert all(0 < space.radius_mm.max() <= 0.75 for space in spaces)
    fraction = rasterize(spaces, labels.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    home = labels[fraction > 0.2]
    assert np.isin(home, (2, 41, 12, 51)).mean() > 0.75
    assert (fraction > 0.2).sum() < 2500
