"""Instances: known answers, refusals, then properties that hold for every mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from deepmir.errors import ConfigError, GeometryError, InputError
from deepmir.labels import Finding
from deepmir.lesions import instances, label_findings, label_instances
from deepmir.lesions.instances import bounding_box

shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)
masks = hnp.arrays(bool, shapes)
label_maps = hnp.arrays(np.uint8, shapes, elements=st.integers(0, 3))
connectivities = st.sampled_from([6, 18, 26])


def flood_fill_count(mask: np.ndarray, max_axes: int) -> int:
    """Slow, obvious reference: count components by walking neighbour to neighbour."""
    todo = {tuple(v) for v in np.argwhere(mask)}
    steps = [d for d in np.ndindex(3, 3, 3) if 1 <= sum(x != 1 for x in d) <= max_axes]
    count = 0
    while todo:
        count += 1
        stack = [todo.pop()]
        while stack:
            at = stack.pop()
            near = {
                tuple(a + d - 1 for a, d in zip(at, step, strict=True)) for step in steps
            } & todo
            todo -= near
            stack += near
    return count


def test_findings_are_numbered_by_kind_then_largest_first():
    findings = np.zeros((9, 5, 4), dtype=np.uint8)
    findings[0, 0, 0] = Finding.IRON
    findings[2, 0, 0] = Finding.CMB
    findings[4:7, 0, 0] = Finding.CMB
    findings[8, 4, 3] = Finding.CALCIFICATION
    instances, kinds = label_findings(findings, connectivity=6, min_voxels=1)
    assert kinds == (Finding.CMB, Finding.CMB, Finding.IRON, Finding.CALCIFICATION)
    assert instances[:, 0, 0].tolist() == [3, 0, 2, 0, 1, 1, 1, 0, 0]
    assert instances[8, 4, 3] == 4


def test_touching_findings_of_two_kinds_are_two_lesions():
    findings = np.array([[[1, 2, 1]]], dtype=np.uint8)
    instances, kinds = label_findings(findings, connectivity=26, min_voxels=1)
    assert instances.ravel().tolist() == [1, 3, 2]
    assert kinds == (Finding.CMB, Finding.CMB, Finding.IRON)


def test_smaller_instances_are_dropped_and_leave_no_gap():
    findings = np.array([[[1, 0, 1, 1, 0, 2]]], dtype=np.uint8)
    instances, kinds = label_findings(findings, connectivity=26, min_voxels=2)
    assert instances.ravel().tolist() == [0, 0, 1, 1, 0, 0]
    assert kinds == (Finding.CMB,)


def test_bounding_box_of_nothing_is_empty():
    box = bounding_box(np.zeros((2, 3, 4), dtype=bool))
    assert np.zeros((2, 3, 4))[box].size == 0


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 4), bool), np.zeros((3, 4, 5)), np.zeros((2, 3, 4, 5), bool)]
)
def test_only_a_3d_boolean_mask_is_accepted(bad):
    with pytest.raises(GeometryError, match="3-D bool"):
        label_instances(bad, connectivity=26)


@pytest.mark.parametrize("bad", [1, 8, 27])
def test_an_unknown_connectivity_is_refused(bad):
    with pytest.raises(ConfigError, match="6, 18 or 26"):
        label_instances(np.zeros((2, 3, 4), dtype=bool), connectivity=bad)


def test_a_value_without_a_meaning_is_refused():
    with pytest.raises(InputError, match=r"\[7\].*1 \(CMB\)"):
        label_findings(np.full((1, 1, 1), 7), connectivity=26, min_voxels=1)


def test_a_map_of_fractions_is_refused():
    with pytest.raises(GeometryError, match="3-D integer"):
        label_findings(np.zeros((1, 1, 1)), connectivity=26, min_voxels=1)


@given(masks, st.sampled_from([(6, 1), (18, 2), (26, 3)]))
@settings(max_examples=150, deadline=None)
def test_same_count_as_a_flood_fill(mask, pair):
    connectivity, max_axes = pair
    before = mask.copy()
    instances = label_instances(mask, connectivity=connectivity)
    assert instances.max(initial=0) == flood_fill_count(mask, max_axes)
    assert np.array_equal(instances > 0, mask)
    assert np.array_equal(mask, before)


@given(label_maps, connectivities)
@settings(deadline=None)
def test_no_voxel_is_lost_and_no_kind_is_mixed(findings, connectivity):
    instances, kinds = label_findings(findings, connectivity=connectivity, min_voxels=0)
    assert np.array_equal(np.array([0, *kinds])[instances], findings)
    sizes = np.bincount(instances.ravel(), minlength=len(kinds) + 1)[1:]
    order = [(kind, -size) for kind, size in zip(kinds, sizes, strict=True)]
    assert order == sorted(order)


@given(masks, connectivities)
def test_the_graph_of_voxels_is_labelled_as_the_image_is(mask, connectivity):
    voxels = np.flatnonzero(mask)
    neighbours = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    expected, _ = ndimage.label(mask, structure=neighbours)
    found = instances._label_voxels(voxels, mask.shape, neighbours)
    assert found.tolist() == expected.ravel()[voxels].tolist()


def test_a_sparse_mask_is_labelled_at_its_borders_too():
    mask = np.zeros((30, 31, 32), dtype=bool)
    mask[0, 0, 0] = mask[29, 30, 31] = mask[0, 30, 0] = mask[1, 29, 1] = True
    found = label_instances(mask, connectivity=26)
    assert found[mask].tolist() == [1, 2, 2, 3]
    assert found[~mask].max() == 0
