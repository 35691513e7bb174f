"""Phase unwrapping and the combination of echoes into one field map."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage, sparse
from scipy.sparse import csgraph

from deepmir.physics.signal import phase_per_ppm_rad
from deepmir.volume import BoolMap, FloatMap

UnwrapMethod = Literal["laplacian", "path"]

_TURN = np.float32(2 * np.pi)
_WORST_EDGE = 1e-4  # a sparse graph takes 0 for "no edge"
_NOTICEABLE_OFFSET_RAD = 0.1  # between steps; noise leaves far less over a brain


def unwrap_laplacian(phase_rad: FloatMap, spacing_mm: Sequence[float]) -> FloatMap:
    """Unwrap phase by its Laplacian (Schofield 2003, doi:10.1364/OL.28.001194).

    Neumann boundaries (cosine transform), so that opposite faces do not meet. The result keeps
    a smooth offset, which background removal takes away.

    Parameters
    ----------
    phase_rad : (I, J, K) float array
        Wrapped phase in radians.
    spacing_mm : 3 floats
        Voxel size.
    """
    laplacian = np.zeros(phase_rad.shape, dtype=np.float32)
    for axis, step in enumerate(spacing_mm):
        wrapped = wrap(np.diff(phase_rad, axis=axis).astype(np.float32))
        wrapped /= step**2
        inner = [slice(None)] * 3
        inner[axis] = slice(None, -1)
        laplacian[tuple(inner)] += wrapped
        inner[axis] = slice(1, None)
        laplacian[tuple(inner)] -= wrapped
    spectrum = fft.dctn(laplacian, type=2, workers=-1)
    spectrum /= _laplacian_eigenvalues(phase_rad.shape, spacing_mm)
    spectrum[0, 0, 0] = 0
    return np.asarray(fft.idctn(spectrum, type=2, workers=-1), dtype=np.float32)


def wrap(phase_rad: FloatMap) -> FloatMap:
    """Bring phase into −π to π.

    Examples
    --------
    >>> [round(float(x), 2) for x in wrap(np.array([0.5, 3.5, -7.0], dtype=np.float32))]
    [0.5, -2.78, -0.72]
    """
    return np.asarray(phase_rad - _TURN * np.round(phase_rad / _TURN), dtype=phase_rad.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class UnwrapTree:
    """The paths along which a mask is unwrapped: a parent for every voxel of it."""

    mask: BoolMap  # (I, J, K)
    parent: npt.NDArray[np.int32]  # (n,) by number of the voxel within the mask; a root: itself
    piece: npt.NDArray[np.int32]  # (n,) number of the connected piece of the mask


def plan_paths(
    phases_rad: Sequence[FloatMap],
    magnitude: FloatMap,
    mask: BoolMap,
    *,
    times_s: Sequence[float],
) -> UnwrapTree:
    """Find the most reliable paths through a mask: a maximum spanning tree of its edges.

    Growing a region over the best edge first, as ROMEO does (Dymerska 2021,
    doi:10.1002/mrm.28563), builds exactly this tree. An edge between two neighbours is as good
    as its phase step is small, as the steps of two echoes agree, and as their magnitudes do.

    Parameters
    ----------
    phases_rad : sequence of (I, J, K) arrays
        One wrapped phase, or two whose steps are compared.
    magnitude : (I, J, K) array
    mask : (I, J, K) bool array
    times_s : sequence of floats
        When the phases had evolved.
    """
    number = np.full(mask.shape, -1, dtype=np.int32)
    n = int(np.count_nonzero(mask))
    number[mask] = np.arange(n, dtype=np.int32)
    rows, columns, costs = [], [], []
    for axis in range(3):
        start, end = _neighbours(axis)
        both = mask[start] & mask[end]
        quality = _edge_quality(phases_rad, magnitude, (start, end, both), times_s)
        rows.append(number[start][both])
        columns.append(number[end][both])
        costs.append(np.maximum(1 - quality, _WORST_EDGE))
    graph = sparse.coo_array(
        (np.concatenate(costs), (np.concatenate(rows), np.concatenate(columns))), shape=(n, n)
    )
    tree = csgraph.minimum_spanning_tree(graph.tocsr())
    _, piece = csgraph.connected_components(tree, directed=False)
    return UnwrapTree(mask, _parents(tree, piece), piece)


def unwrap_along(
    tree: UnwrapTree, phase_rad: FloatMap, *, near_rad: FloatMap | None = None
) -> FloatMap:
    """Unwrap phase along the paths of a tree: (I, J, K), 0 outside its mask.

    Parameters
    ----------
    near_rad : (I, J, K) array, optional
        Each connected piece is moved by whole turns so that its median lies nearest to that of
        this map; by default nearest to zero.
    """
    phase = phase_rad[tree.mask]
    parent = tree.parent
    turns = -np.round((phase - phase[parent]) / _TURN).astype(np.int32)
    # The sum over the whole path to the root, by doubling the stride: each round adds what lies
    # beyond, so that a path of a million voxels takes twenty rounds.
    while True:
        turns += turns[parent]
        further = parent[parent]
        if np.array_equal(parent, further):
            break
        parent = further
    unwrapped = phase + _TURN * turns
    away = unwrapped if near_rad is None else unwrapped - near_rad[tree.mask]
    pieces = np.arange(int(tree.piece.max()) + 1)
    medians = np.asarray(ndimage.median(away, tree.piece, pieces), dtype=np.float32)
    unwrapped -= (_TURN * np.round(medians / _TURN))[tree.piece]
    result = np.zeros(phase_rad.shape, dtype=np.float32)
    result[tree.mask] = unwrapped
    return result


@dataclass(frozen=True, slots=True, eq=False)
class FieldMap:
    """Total field and how far each voxel of it can be trusted."""

    field_ppm: FloatMap  # (I, J, K), up to a smooth offset
    weight: FloatMap  # (I, J, K): inverse standard deviation, up to a factor


def combine_echoes(
    phases_rad: Sequence[FloatMap],
    magnitudes: Sequence[FloatMap],
    *,
    echo_times_s: Sequence[float],
    b0_t: float,
    spacing_mm: Sequence[float],
) -> FloatMap:
    """Field map in ppm (I, J, K) of :func:`laplacian_field`, without its weight."""
    return laplacian_field(
        phases_rad, magnitudes, echo_times_s=echo_times_s, b0_t=b0_t, spacing_mm=spacing_mm
    ).field_ppm


def laplacian_field(
    phases_rad: Sequence[FloatMap],
    magnitudes: Sequence[FloatMap],
    *,
    echo_times_s: Sequence[float],
    b0_t: float,
    spacing_mm: Sequence[float],
) -> FieldMap:
    """Field map in ppm from the echoes, each unwrapped by its Laplacian.

    The weights are the inverse variances of the echoes' fields (Robinson 2017,
    doi:10.1002/nbm.3601). Each echo is unwrapped against the one before it and the differences
    are added up: steps between echoes wrap less than echoes do, and the receive coil's phase
    drops out. A single echo keeps that phase, smooth enough for background removal.
    """
    steps, times_s = echo_steps(phases_rad, echo_times_s)
    unwrapped = (unwrap_laplacian(step, spacing_mm) for step in steps)
    return _weighted_mean(unwrapped, magnitudes, times_s=times_s, b0_t=b0_t)


def path_field(
    phases_rad: Sequence[FloatMap],
    magnitudes: Sequence[FloatMap],
    mask: BoolMap,
    *,
    echo_times_s: Sequence[float],
    b0_t: float,
) -> FieldMap:
    """Field map in ppm inside a mask, its echoes unwrapped along the most reliable paths.

    As :func:`laplacian_field`, but exact to whole turns, which the Laplacian is not where the
    phase steps by more than π between neighbours, as it does at microbleeds. A constant between
    the steps from echo to echo, which a bipolar readout leaves, or whole turns of unevenly spaced
    echoes, is no field and is taken off: the field is known up to a constant in any case.
    """
    steps, times_s = echo_steps(phases_rad, echo_times_s)
    elapsed_s = np.diff([0.0, *times_s])
    ends = (0, len(steps) - 1) if len(steps) > 1 else (0,)
    tree = plan_paths(
        [steps[n] for n in ends], magnitudes[-1], mask, times_s=[elapsed_s[n] for n in ends]
    )
    unwrapped = [unwrap_along(tree, steps[0])]
    for step, elapsed in zip(steps[1:], elapsed_s[1:], strict=True):
        expected = unwrapped[0] * np.float32(elapsed / elapsed_s[0])
        near = unwrap_along(tree, step, near_rad=expected)
        unwrapped.append(_without_offset(near, expected, mask))
    return _weighted_mean(unwrapped, magnitudes, times_s=times_s, b0_t=b0_t)


def largest_tear(field_ppm: FloatMap, mask: BoolMap, *, half_turn_ppm: float) -> float:
    """Share of a mask that its largest piece of voxels more than half a turn from a neighbour has.

    Where phase turns round a line, as that of coils that were added without aligning them does,
    every way round is a whole turn off, and unwrapping along paths leaves a sheet over which it
    jumps. Strong microbleeds and noise leave a few voxels only.

    Parameters
    ----------
    field_ppm : (I, J, K) array
        Unwrapped along paths.
    mask : (I, J, K) bool array
        Where to look.
    half_turn_ppm
        Field that turns the phase by π.
    """
    torn = np.zeros(mask.shape, dtype=bool)
    for axis in range(3):
        start, end = _neighbours(axis)
        jumps = np.abs(field_ppm[end] - field_ppm[start]) > half_turn_ppm
        jumps &= mask[start] & mask[end]
        torn[start] |= jumps
        torn[end] |= jumps
    pieces, n = ndimage.label(torn, structure=np.ones((3, 3, 3)))
    return float(np.bincount(pieces[torn]).max() / mask.sum()) if n else 0.0


def relative_weight(weight: FloatMap, mask: BoolMap) -> FloatMap:
    """Weight whose mean in the mask is 1; at most 3, so that outliers do not rule; 0 outside."""
    mean = max(float(np.mean(weight[mask])), 1e-20) if mask.any() else 1.0
    return np.where(mask, np.minimum(weight / np.float32(mean), 3), 0).astype(np.float32)


def echo_steps(
    phases_rad: Sequence[FloatMap], echo_times_s: Sequence[float]
) -> tuple[list[FloatMap], list[float]]:
    """Phase steps from echo to echo, and the time from the first echo to the end of each.

    A single echo is one step from the excitation.
    """
    if len(phases_rad) == 1:
        return [phases_rad[0]], [echo_times_s[0]]
    steps = [late - early for early, late in itertools.pairwise(phases_rad)]
    return steps, [time - echo_times_s[0] for time in echo_times_s[1:]]


def _weighted_mean(
    steps_rad: Iterable[FloatMap],
    magnitudes: Sequence[FloatMap],
    *,
    times_s: Sequence[float],
    b0_t: float,
) -> FieldMap:
    """Mean field of unwrapped echo steps, weighted by TE² · magnitude²."""
    total = np.zeros(magnitudes[0].shape, dtype=np.float32)
    weights = np.full(magnitudes[0].shape, 1e-12, dtype=np.float32)
    phase = np.zeros(magnitudes[0].shape, dtype=np.float32)
    late_magnitudes = magnitudes[-len(times_s) :]
    for step, magnitude, time in zip(steps_rad, late_magnitudes, times_s, strict=True):
        phase = phase + step
        weight = np.float32(time**2) * magnitude**2
        total += weight * phase / np.float32(phase_per_ppm_rad(b0_t, time))
        weights += weight
    return FieldMap(total / weights, np.sqrt(weights))


def _without_offset(step_rad: FloatMap, expected_rad: FloatMap, mask: BoolMap) -> FloatMap:
    """Take off the median by which a step differs from what an earlier one lets expect."""
    offset = np.float32(np.median((step_rad - expected_rad)[mask]))
    if abs(offset) < _NOTICEABLE_OFFSET_RAD:
        return step_rad
    return np.where(mask, step_rad - offset, np.float32(0))


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the first and of the second voxel of every pair along an axis."""
    start, end = [slice(None)] * 3, [slice(None)] * 3
    start[axis], end[axis] = slice(None, -1), slice(1, None)
    return tuple(start), tuple(end)


def _edge_quality(
    phases_rad: Sequence[FloatMap],
    magnitude: FloatMap,
    both: tuple[tuple[slice, ...], tuple[slice, ...], BoolMap],
    times_s: Sequence[float],
) -> npt.NDArray[np.float32]:
    """Reliability (n,) of the edges between neighbours that lie in the mask, 0 to 1."""
    start, end, inside = both
    steps = [wrap(phase[end][inside] - phase[start][inside]) for phase in phases_rad]
    quality = 1 - np.abs(steps[-1]) / np.float32(np.pi)
    if len(steps) > 1:
        expected = steps[0] * np.float32(times_s[-1] / times_s[0])
        quality *= 1 - np.minimum(np.abs(wrap(expected - steps[-1])), np.pi) / np.float32(np.pi)
    one, other = magnitude[start][inside], magnitude[end][inside]
    larger = np.maximum(np.maximum(one, other), np.float32(1e-20))
    return np.asarray(quality * (np.minimum(one, other) / larger) ** 2, dtype=np.float32)


def _parents(tree: sparse.csr_array, piece: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Parent of every node of a forest; the first node of each piece is its own parent."""
    n = piece.size
    _, roots = np.unique(piece, return_index=True)
    links = tree.tocoo()
    # a further node joined to all roots lets one search reach every piece
    rows = np.concatenate([links.coords[0], np.full(roots.size, n)])
    columns = np.concatenate([links.coords[1], roots])
    joined = sparse.coo_array((np.ones(rows.size), (rows, columns)), shape=(n + 1, n + 1))
    _, parent = csgraph.breadth_first_order(joined.tocsr(), n, directed=False)
    parent = parent[:n]
    return np.where(parent == n, np.arange(n), parent).astype(np.int32)


def _laplacian_eigenvalues(shape: Sequence[int], spacing_mm: Sequence[float]) -> FloatMap:
    total = np.zeros((1, 1, 1), dtype=np.float32)
    for axis, (n, step) in enumerate(zip(shape, spacing_mm, strict=True)):
        eigenvalues = (2 * np.cos(np.pi * np.arange(n) / n) - 2) / step**2
        form = [1, 1, 1]
        form[axis] = n
        total = total + eigenvalues.reshape(form).astype(np.float32)
    total[0, 0, 0] = 1
    return total
