"""Outlines of the nuclei: a ball that the anatomy part sees roughly and the nuclei part exactly."""

from dataclasses import replace

import numpy as np
import pytest

from deepmir.model.anatomy_input import NO_REGION_CLASS
from deepmir.preprocessing.anatomy import Anatomy, CoarseAnatomy
from deepmir.preprocessing.nuclei import (
    ANATOMY_CLASSES,
    BASES,
    MARGIN_MM,
    MULTIPLE,
    find_nuclei,
    in_box,
    nuclei_box,
    redrawn_regions,
    with_nuclei,
)

SPACING = (0.7, 0.7, 2.5)
SHAPE = (90, 100, 26)
CENTRE_MM = np.array([30.0, 36.0, 33.0])
RADIUS_MM = 9.0
PUTAMEN, FRONTAL = 22, 9
FRONTAL_CLASS = 9
PRESENT = (True, False, True)


def ball(shape, spacing_mm, radius_mm, first_mm=(0, 0, 0)):
    axes = [
        (np.arange(n) + 0.5) * step + first - centre
        for n, step, first, centre in zip(shape, spacing_mm, first_mm, CENTRE_MM, strict=True)
    ]
    i, j, k = np.meshgrid(*axes, indexing="ij")
    return i**2 + j**2 + k**2 < radius_mm**2


@pytest.fixture
def anatomy():
    """Brain everywhere, frontal, right of 25 mm; a ball too large that is called putamen."""
    coarse_shape = tuple(int(np.ceil(n * s / 2)) for n, s in zip(SHAPE, SPACING, strict=True))
    rough = ball(coarse_shape, (2, 2, 2), RADIUS_MM + 3)
    classes = np.zeros((NO_REGION_CLASS + 1, *coarse_shape), np.float32)
    classes[FRONTAL_CLASS] = np.where(rough, 0.2, 0.9)
    classes[ANATOMY_CLASSES[BASES.index(PUTAMEN)]] = np.where(rough, 0.8, 0.1)
    right = np.zeros(coarse_shape, np.float32)
    right[14:] = 1
    mask = np.ones(SHAPE, bool)
    mask[:, :, -3:] = False
    regions = np.where(ball(SHAPE, SPACING, RADIUS_MM + 3), 222, 209).astype(np.uint8) * mask
    plane = mask.astype(np.float32)
    return Anatomy(mask, plane, plane, regions, CoarseAnatomy(classes, right))


class Exact:
    """Network that draws the true ball, wherever the box lies."""

    def __init__(self, box):
        self.box, self.seen = box, []

    def __call__(self, batch):
        """Draw the ball into the logits."""
        self.seen.append(batch)
        first = [side.start for side in self.box]
        inside = ball(batch.shape[2:], (1, 1, 1), RADIUS_MM, first)
        logits = np.zeros((5, *batch.shape[2:]), np.float32)
        logits[0] = np.where(inside, -9, 9)
        logits[1 + BASES.index(PUTAMEN)] = -logits[0]
        return np.stack([logits, logits[:, ::-1]])  # the second image is mirrored


def coarse_of(anatomy):
    return anatomy.coarse.classes[ANATOMY_CLASSES]


def test_the_box_holds_the_nuclei_with_a_margin(anatomy):
    box = nuclei_box(coarse_of(anatomy))
    for side, centre in zip(box, CENTRE_MM, strict=True):
        assert (side.stop - side.start) % MULTIPLE == 0
        assert side.start <= centre - RADIUS_MM - MARGIN_MM
        assert side.stop >= centre + RADIUS_MM + MARGIN_MM


def test_a_stray_voxel_does_not_widen_the_box(anatomy):
    coarse = coarse_of(anatomy).copy()
    box = nuclei_box(coarse)
    coarse[0, 0, 0, 0] = 1
    assert nuclei_box(coarse) == box


def test_a_box_is_never_a_whole_head():
    everywhere = np.full((4, 100, 120, 90), 0.25, np.float32)
    box = nuclei_box(everywhere)
    assert max(side.stop - side.start for side in box) <= 2 * (64 + MARGIN_MM) + 2 * MULTIPLE


def test_without_nuclei_everything_stays(anatomy):
    empty = replace(anatomy.coarse, classes=np.zeros_like(anatomy.coarse.classes))
    before = replace(anatomy, coarse=empty)
    assert nuclei_box(coarse_of(before)) is None
    channels = np.zeros((3, *SHAPE), np.float32)
    assert with_nuclei(before, channels, PRESENT, SPACING, Exact(None)) is before


def test_places_are_kept_between_grids():
    """A map whose values are its own places in mm reads the same on the voxels of 1 mm."""
    axes = [(np.arange(n) + 0.5) * step for n, step in zip(SHAPE, SPACING, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    box = (slice(8, 24), slice(3, 11), slice(5, 29))
    found = in_box(places, SPACING, box)
    for axis, side in enumerate(box):
        wanted = np.arange(side.start, side.stop) + 0.5
        np.testing.assert_allclose(np.moveaxis(found[axis], axis, -1)[0, 0], wanted, rtol=1e-5)


def test_the_box_may_reach_beyond_the_scan():
    found = in_box(np.ones((4, 4, 4), np.float32), (1, 1, 1), (slice(-4, 4),) * 3)
    assert found.shape == (8, 8, 8)
    assert (found == 1).all()


def test_outlines_are_those_of_the_nuclei_part(anatomy):
    network = Exact(nuclei_box(coarse_of(anatomy)))
    channels = np.zeros((3, *SHAPE), np.float32)
    channels[0], channels[2] = 0.5, -0.5
    after = with_nuclei(anatomy, channels, PRESENT, SPACING, network)
    truth = ball(SHAPE, SPACING, RADIUS_MM) & anatomy.brain_mask
    putamen = after.regions % 100 == PUTAMEN
    assert 2 * (putamen & truth).sum() / (putamen.sum() + truth.sum()) > 0.96
    before = anatomy.regions % 100 == PUTAMEN
    assert (after.regions[before & ~putamen] % 100 == FRONTAL).all()
    assert not after.regions[~anatomy.brain_mask].any()
    assert np.array_equal(after.brain_mask, anatomy.brain_mask)
    ((straight, mirrored),) = network.seen
    assert straight.shape[0] == 10
    assert [float(plane.mean()) for plane in straight[:6]] == [0.5, 0, -0.5, 1, 0, 1]
    np.testing.assert_array_equal(straight, mirrored[:, ::-1])


def test_sides_are_those_of_the_anatomy_part(anatomy):
    network = Exact(nuclei_box(coarse_of(anatomy)))
    channels = np.zeros((3, *SHAPE), np.float32)
    nuclei = find_nuclei(channels, PRESENT, SPACING, coarse_of(anatomy), network)
    regions = redrawn_regions(anatomy, nuclei, SPACING)
    x_mm = (np.arange(SHAPE[0]) + 0.5) * SPACING[0]
    middle = regions[:, 52, 13]
    assert set(middle[(x_mm > 31) & (x_mm < 38)]) == {222}
    assert set(middle[(x_mm > 22) & (x_mm < 27)]) == {122}
