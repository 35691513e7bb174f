"""Brain and regions of the tiny network, whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from deepmir.config import SegmentConfig
from deepmir.errors import InputError
from deepmir.labels import Finding, split_region_number
from deepmir.model.predict import open_network
from deepmir.preprocessing.anatomy import (
    BRAIN_FROM,
    find_anatomy,
    largest_component_filled,
    predict_coarse,
)
from deepmir.volume import Modality, Scans

SUBSETS = [
    (Modality.T2W,),
    (Modality.SWI,),
    (Modality.CHIMAP,),
    (Modality.T2W, Modality.SWI, Modality.CHIMAP),
]


@pytest.fixture
def network(weights):
    return open_network(weights, "anatomy", SegmentConfig(device="cpu", threads=1))


@pytest.fixture
def person(phantom_person):
    return phantom_person()


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.mark.parametrize("modalities", SUBSETS)
def test_every_subset_gives_the_brain(person, network, modalities):
    anatomy = find_anatomy(person.only(*modalities), network)
    assert dice(anatomy.brain_mask, person.brain) > 0.95
    assert np.array_equal(anatomy.brain_mask, anatomy.brain_probability >= BRAIN_FROM)
    far = ~ndimage.binary_dilation(person.brain, iterations=3, structure=np.ones((3, 3, 3)))
    assert anatomy.brain_probability[far].max() < 0.01


def test_findings_leave_no_holes(person, network):
    anatomy = find_anatomy(person.scans, network)
    assert anatomy.brain_mask[person.findings > 0].all()


def test_a_finding_that_looks_like_no_brain_takes_the_region_around_it(person, network):
    regions = find_anatomy(person.only(Modality.SWI), network).regions
    here = regions[person.findings == Finding.IRON] % 100
    assert set(here) == {22, 23}  # putamen and pallidum


def test_right_is_towards_larger_x(person, network):
    regions = find_anatomy(person.scans, network).regions
    middle = regions.shape[0] / 2
    for number in np.unique(regions[regions > 0]):
        side = split_region_number(int(number))[1].value
        centre = np.argwhere(regions == number)[:, 0].mean()
        assert (centre > middle) == (side == "right")


def test_regions_lie_where_the_tiny_network_puts_them(person, network):
    anatomy = find_anatomy(person.scans, network)
    i, j, k = np.array(anatomy.regions.shape) // 2
    base = anatomy.regions % 100
    assert base[i, j, k] == 23
    assert base[i, int(1.7 * j), k] == 9
    assert base[i, int(0.3 * j), k] == 12
    assert base[i, int(0.8 * j), int(0.35 * k)] == 2
    assert not anatomy.regions[~anatomy.brain_mask].any()
    nuclei = np.isin(base, [22, 23])
    inside = ndimage.binary_erosion(nuclei, iterations=2)
    assert anatomy.basal_ganglia_probability[inside].min() > 0.9
    assert anatomy.basal_ganglia_probability[base == 9].mean() < 0.1


def test_a_flipped_and_permuted_grid_gives_the_same_regions(person, network):
    """The array's axes stand otherwise, as after another acquisition; sides follow x."""
    here = find_anatomy(person.scans, network).regions
    swi = person.scans.swi
    oblique = np.eye(4)
    angle = np.radians(20)
    oblique[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned = replace(swi, affine=oblique @ swi.affine)
    there = find_anatomy(Scans(swi=turned), network).regions
    assert (here == there)[here > 0].mean() > 0.9


def test_a_users_mask_replaces_the_networks(person, network):
    mask = np.zeros_like(person.brain)
    mask[10:30, 12:30, 6:20] = True
    anatomy = find_anatomy(person.scans, network, brain_mask=mask)
    assert anatomy.brain_mask is mask
    assert np.array_equal(anatomy.brain_probability, mask.astype(np.float32))
    assert not anatomy.regions[~mask].any()
    assert anatomy.regions[mask].all()


def test_presence_planes_fill_the_padding_and_images_do_not(person):
    asked = []

    def network(batch):
        asked.append(batch)
        return np.zeros((1, 19, *batch.shape[2:]), dtype=np.float32)

    coarse = predict_coarse(person.only(Modality.T2W, Modality.CHIMAP), network)
    batch, _ = asked
    assert batch.shape == (1, 6, 32, 32, 32)
    assert coarse.classes.shape == (18, 20, 23, 26)
    assert [float(plane.min()) for plane in batch[0, 3:]] == [1, 0, 1]
    assert not batch[0, :3, 20:].any()
    assert batch[0, 0, :20, :23, :26].any()


def test_the_head_is_seen_mirrored_too_and_the_mean_counts(person):
    answers = []

    def network(batch):
        """Outside where the image is dark, right towards larger x; the second answer is weaker."""
        answers.append(batch[0, 0])
        logits = np.zeros((1, 19, *batch.shape[2:]), dtype=np.float32)
        logits[0, 0] = np.where(batch[0, 0] > 0, -9, 9) / len(answers)
        logits[0, 18, 10:20] = 9
        logits[0, 18, :10] = -9
        return logits

    t2w = person.scans.t2w
    lopsided = t2w.data.copy()
    lopsided[: t2w.data.shape[0] // 3] = 0
    coarse = predict_coarse(Scans(t2w=t2w.with_data(lopsided)), network)
    seen, mirrored = (np.asarray(image[:20, :23, :26]) for image in answers)
    assert np.array_equal(seen, mirrored[::-1])
    assert not np.array_equal(seen, seen[::-1])
    outside = (1 / (1 + 17 * np.exp(-9)) + 1 / (1 + 17 * np.exp(-4.5))) / 2
    assert coarse.classes[0][seen == 0] == pytest.approx(outside, abs=1e-3)
    assert coarse.classes[0][seen > 0].max() < 1e-2
    assert coarse.right[10:].min() > 0.99
    assert coarse.right[:10].max() < 0.01


def test_a_scan_without_a_brain_is_refused_by_name(person, network):
    empty = replace(person.scans.swi, data=person.scans.swi.data * 0, name="sub-01_swi.nii")
    with pytest.raises(InputError, match=r"found 0 ml of brain in sub-01_swi\.nii"):
        find_anatomy(Scans(swi=empty), network)


def test_only_the_largest_piece_is_kept_and_filled():
    mask = np.zeros((12, 11, 10), dtype=bool)
    mask[1:6, 1:6, 1:6] = True
    mask[3, 3, 3] = False
    mask[6, 6, 6] = True  # joined by a corner
    mask[9:11, 9:11, 8:10] = True
    kept = largest_component_filled(mask)
    assert kept.sum() == 126
    assert kept[3, 3, 3]
    assert not largest_component_filled(mask & False).any()
