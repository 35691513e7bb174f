"""Venous trees: every vein begins as a venule, joins another or its sink, and grows on the way."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from deepmir.simulation.vessels import (
    ARTERY,
    STEP_MM,
    VesselParameters,
    grow_arteries,
    grow_veins,
    rasterize,
    sample_parameters,
)

_SPEC = importlib.util.spec_from_file_location(
    "phantom_head", Path(__file__).with_name("phantom_head.py")
)
phantom_head = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(phantom_head)

PLAIN = VesselParameters(superficial=400, deep=150)


@pytest.fixture(scope="module")
def head():
    return phantom_head.phantom_anatomy()


@pytest.fixture(scope="module")
def veins(head):
    return grow_veins(head.labels, head.brain, PLAIN, np.random.default_rng(1))


def length_mm(vein):
    return float(np.linalg.norm(np.diff(vein.points_mm, axis=0), axis=1).sum())


def test_all_begin_as_venules(veins):
    assert len(veins) > 300
    first = np.array([vein.radius_mm[0] for vein in veins])
    assert (first > 0.1).all()
    assert np.median(first) < 0.3
    assert max(vein.radius_mm.max() for vein in veins) > 2 * np.median(first)


def test_nearly_all_end_in_another_vein_and_the_rest_in_few_places(veins):
    ends = np.array([vein.points_mm[-1] for vein in veins])
    owners = np.repeat(np.arange(len(veins)), [len(vein.points_mm) for vein in veins])
    tree = cKDTree(np.concatenate([vein.points_mm for vein in veins]))
    near = tree.query_ball_point(ends, STEP_MM)
    joined = [any(owners[at] != number) for number, at in enumerate(near)]
    sinks = ends[~np.array(joined)]
    assert np.mean(joined) > 0.9
    assert len({tuple(np.round(place / 8)) for place in sinks}) < 40


def test_a_vein_is_no_thinner_where_it_ends_than_where_it_begins(veins):
    for vein in veins:
        assert vein.radius_mm[-1] >= vein.radius_mm[0] - 1e-6


def test_no_short_thick_piece_stands_alone(head, veins):
    """What looks like a microbleed to any reader must not be called a vein."""
    fraction = rasterize(veins, head.labels.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    pieces, count = ndimage.label(fraction > 0.15, structure=np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, np.arange(1, count + 1))
    peaks = ndimage.maximum(fraction, pieces, np.arange(1, count + 1))
    assert not ((sizes <= 6) & (peaks > 0.5)).any()


def test_lines_are_smooth_and_finely_stepped(veins):
    for vein in veins:
        steps = np.linalg.norm(np.diff(vein.points_mm, axis=0), axis=1)
        assert steps.max() <= STEP_MM + 1e-3
        assert len(vein.points_mm) == len(vein.radius_mm)


def test_thicker_veins_by_scale_and_more_by_number(head):
    def grown(**changes):
        parameters = VesselParameters(**({"superficial": 200, "deep": 80} | changes))
        return grow_veins(head.labels, head.brain, parameters, np.random.default_rng(2))

    usual, thick, many = grown(), grown(scale=2.0), grown(superficial=600)
    assert np.isclose(thick[0].radius_mm[0], 2 * usual[0].radius_mm[0])
    assert sum(map(length_mm, many)) > 1.5 * sum(map(length_mm, usual))
    assert grown(superficial=0, deep=0) == []


def test_the_same_seed_grows_the_same(head, veins):
    again = grow_veins(head.labels, head.brain, PLAIN, np.random.default_rng(1))
    assert all(
        np.array_equal(a.points_mm, b.points_mm) and np.array_equal(a.radius_mm, b.radius_mm)
        for a, b in zip(again, veins, strict=True)
    )


def test_people_differ_in_how_rich_in_veins_they_are():
    drawn = [sample_parameters(np.random.default_rng(seed)) for seed in range(40)]
    assert len({one.superficial for one in drawn}) > 30
    assert min(one.scale for one in drawn) < 1 < max(one.scale for one in drawn)


def test_arteries_lead_from_the_cortex_to_those_of_the_label_map(head):
    labels = head.labels.copy()
    i, j = labels.shape[0] // 2, labels.shape[1] // 2
    low = int(np.argwhere(head.brain[i, j])[0, 0])
    labels[i - 5 : i + 6, j - 5 : j + 6, low - 4 : low + 2] = ARTERY
    arteries = grow_arteries(labels, head.brain, PLAIN, np.random.default_rng(5))
    assert len(arteries) > 300
    longest = arteries[0]
    assert labels[tuple(np.round(longest.points_mm[-1]).astype(int))] == ARTERY
    assert longest.radius_mm[-1] > 2 * longest.radius_mm[0]
    deep = np.isin(head.labels, (10, 49, 12, 51))
    fraction = rasterize(arteries, labels.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert fraction[ndimage.binary_erosion(deep, iterations=3)].max() < 0.1


def test_a_head_without_brain_has_no_vessels():
    nothing = np.zeros((12, 14, 10), np.uint16)
    for grow in (grow_veins, grow_arteries):
        assert grow(nothing, nothing > 0, PLAIN, np.random.default_rng(0)) == []
