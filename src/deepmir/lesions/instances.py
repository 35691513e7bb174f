"""Connected components, with the connectivity always said aloud."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from deepmir.errors import ConfigError, GeometryError, InputError
from deepmir.labels import Finding
from deepmir.volume import BoolMap, IntMap

Connectivity = Literal[6, 18, 26]
"""Voxels joined to a voxel: by a face (6), also an edge (18), also a corner (26)."""

InstanceMap = npt.NDArray[np.int32]
"""(I, J, K): 0 is background, 1 … n are the instances."""

_AXES_PER_STEP = {6: 1, 18: 2, 26: 3}  # how scipy spells the same thing
_SPARSE_SHARE = 0.01
"""Findings fill a few of a million voxels. Below this share the graph of the voxels themselves is
labelled: 256 x 256 x 128 voxels take milliseconds instead of a tenth of a second."""


def label_instances(mask: BoolMap, *, connectivity: Connectivity) -> InstanceMap:
    """Label the connected components of a mask 1 … n, leaving 0 outside it.

    Parameters
    ----------
    mask : (I, J, K) bool array
        True where the finding is present.
    connectivity : {6, 18, 26}
        No default: the lesion count depends on it, so the study must choose.

    Returns
    -------
    (I, J, K) int32 array

    Raises
    ------
    GeometryError
        If `mask` is not a 3-D boolean array.
    ConfigError
        If `connectivity` is none of 6, 18 and 26.

    Examples
    --------
    >>> corner_pair = np.zeros((2, 2, 2), dtype=bool)
    >>> corner_pair[0, 0, 0] = corner_pair[1, 1, 1] = True
    >>> [int(label_instances(corner_pair, connectivity=c).max()) for c in (6, 18, 26)]
    [2, 2, 1]
    """
    if mask.ndim != 3 or mask.dtype != np.bool_:
        raise GeometryError(f"mask must be a 3-D bool array, got {mask.ndim}-D {mask.dtype}")
    if connectivity not in _AXES_PER_STEP:
        raise ConfigError(f"connectivity must be 6, 18 or 26, got {connectivity!r}")
    neighbours = ndimage.generate_binary_structure(3, _AXES_PER_STEP[connectivity])
    instances = np.zeros(mask.shape, dtype=np.int32)
    voxels = np.flatnonzero(mask)
    if len(voxels) < _SPARSE_SHARE * mask.size:
        instances.ravel()[voxels] = _label_voxels(voxels, mask.shape, neighbours)
        return instances
    box = bounding_box(mask)  # label only where there is something
    instances[box], _ = ndimage.label(mask[box], structure=neighbours)
    return instances


def label_findings(
    findings: IntMap, *, connectivity: Connectivity, min_voxels: float
) -> tuple[InstanceMap, tuple[Finding, ...]]:
    """Count off the instances of all findings: by finding, then the largest first.

    Instances of equal size keep the order in which their first voxels lie in the array.

    Parameters
    ----------
    findings : (I, J, K) integer array
        Values of :class:`~deepmir.labels.Finding`; 0 is background.
    connectivity : {6, 18, 26}
        Which voxels are joined; findings of two kinds are never joined.
    min_voxels : float
        Smaller instances are dropped.

    Returns
    -------
    instances : (I, J, K) int32 array
        0 outside every kept instance, else the instance's number, counted from 1.
    kinds : tuple of Finding
        The finding of instance 1, 2, ….

    Raises
    ------
    GeometryError, ConfigError
        As :func:`label_instances`; also if `findings` is not an integer array.
    InputError
        If `findings` holds a value that is no finding.
    """
    check_findings(findings, name="the map of findings")
    instances = np.zeros(findings.shape, dtype=np.int32)
    kinds: list[Finding] = []
    for finding in Finding:
        components = label_instances(findings == finding, connectivity=connectivity)
        sizes = np.bincount(components.ravel())[1:]
        order = np.argsort(-sizes, kind="stable")
        kept = order[sizes[order] >= min_voxels]
        renumber = np.zeros(len(sizes) + 1, dtype=np.int32)
        renumber[kept + 1] = np.arange(len(kept)) + len(kinds) + 1
        instances += renumber[components]
        kinds += [finding] * len(kept)
    return instances, tuple(kinds)


def check_findings(findings: IntMap, *, name: str, also_allowed: tuple[int, ...] = ()) -> None:
    """Check that a label map holds findings and nothing else.

    Raises
    ------
    GeometryError
        If it is not a 3-D array of integers.
    InputError
        If a value is neither 0, a finding, nor in `also_allowed`.
    """
    if findings.ndim != 3 or not np.issubdtype(findings.dtype, np.integer):
        raise GeometryError(
            f"{name} must be a 3-D integer array, got {findings.ndim}-D {findings.dtype}"
        )
    allowed = {0, *map(int, Finding), *also_allowed}
    unknown = sorted({int(value) for value in np.unique(findings[findings != 0])} - allowed)
    if unknown:
        raise InputError(
            f"{name} holds the values {unknown[:5]}; wanted 0 and "
            + ", ".join(f"{finding.value} ({finding.name})" for finding in Finding)
            + "; relabel the map"
        )


def bounding_box(mask: BoolMap) -> tuple[slice, ...]:
    """Smallest box of slices that holds every True voxel; empty slices where there is none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
    return tuple(box)


def _label_voxels(
    voxels: npt.NDArray[np.intp], shape: tuple[int, ...], neighbours: BoolMap
) -> npt.NDArray[np.int32]:
    """Component 1 … n of each voxel, given by ascending numbers in C order."""
    # one voxel of margin around the image, so that a step over its border leads nowhere
    wide = tuple(length + 2 for length in shape)
    places = np.stack(np.unravel_index(voxels, shape)) + 1
    numbers = np.ravel_multi_index(tuple(places), wide)
    steps = (np.argwhere(neighbours) - 1) @ np.array([wide[1] * wide[2], wide[2], 1])
    starts, ends = [], []
    for step in steps[steps > 0]:
        found = np.minimum(np.searchsorted(numbers, numbers + step), len(numbers) - 1)
        joined = np.flatnonzero(numbers[found] == numbers + step)
        starts.append(joined)
        ends.append(found[joined])
    edges = (np.concatenate(starts), np.concatenate(ends))
    graph = sparse.coo_array(
        (np.ones(len(edges[0]), dtype=bool), edges), shape=(len(voxels), len(voxels))
    )
    _, components = csgraph.connected_components(graph, directed=False)
    # ndimage.label counts components in the order of their first voxels: so does this
    _, first, order = np.unique(components, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    return np.asarray(rank[order])
