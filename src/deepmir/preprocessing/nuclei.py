"""The nuclei part: outlines of thalamus, caudate, putamen and pallidum in a box of 1 mm.

    anatomy part, 2 mm ──▶ where they lie ──▶ box ──┐
    T2w, swi, Chimap as the findings part sees them ┴─▶ nuclei part ──▶ regions of the native grid

At 2 mm even the true nuclei, brought there and back, overlap themselves by 0.87 to 0.92 only
(docs/decisions.md). Channels of the nuclei part: the three scans, one plane each that says whether
it is there, and the anatomy part's probability of each nucleus.

Places are counted from the outer face of the reference grid's first voxel, which all grids made by
:func:`~deepmir.preprocessing.resample.regrid` share.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from deepmir.labels import REGIONS
from deepmir.model.anatomy_input import OUTSIDE_CLASS, regions_of_classes
from deepmir.model.anatomy_input import SPACING_MM as COARSE_MM
from deepmir.model.predict import Network, seen_both_ways
from deepmir.preprocessing.anatomy import Anatomy
from deepmir.preprocessing.resample import interpolate_axis
from deepmir.volume import FloatMap, Present

SPACING_MM = 1.0
BASES = (4, 21, 22, 23)
"""Regions that are outlined anew: thalamus, caudate, putamen, pallidum; class 0 is all else."""
ANATOMY_CLASSES = [n for n, region in enumerate(REGIONS, start=1) if region.base in BASES]
"""Their classes in the anatomy part's output, in the same order."""
N_CHANNELS = 6 + len(BASES)
N_CLASSES = 1 + len(BASES)
MARGIN_MM = 12.0
MULTIPLE = 8
"""A box is a multiple of so many voxels along each axis."""
_LEAST_PROBABILITY = 0.5
_SLICES_AT_A_TIME = 4
_STRAY_PER_CENT = 0.5  # of the coarse voxels at either end: a stray one does not widen the box
_MOST_VOXELS = 32  # coarse ones to either side of the middle: no network finds nuclei 64 mm from it

Box = tuple[slice, slice, slice]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """What the nuclei part tells."""

    box: Box  # voxels of 1 mm; may reach beyond the field of view
    classes: FloatMap  # (5, I, J, K): none, then each of BASES; probabilities


def with_nuclei(
    anatomy: Anatomy, channels: FloatMap, present: Present, spacing_mm: Spacing, network: Network
) -> Anatomy:
    """Anatomy whose regions have the outlines of the nuclei part; as it was where it has no nuclei.

    Shapes as in :func:`find_nuclei`.
    """
    coarse = anatomy.coarse.classes[ANATOMY_CLASSES]
    nuclei = find_nuclei(channels, present, spacing_mm, coarse, network)
    if nuclei is None:
        return anatomy
    return replace(anatomy, regions=redrawn_regions(anatomy, nuclei, spacing_mm))


def find_nuclei(
    channels: FloatMap, present: Present, spacing_mm: Spacing, coarse: FloatMap, network: Network
) -> Nuclei | None:
    """Outline the nuclei that the anatomy part has found; None where it found none.

    The network sees the box twice, as it is and mirrored along I; the mean counts.

    Parameters
    ----------
    channels : (3, I, J, K) array
        T2w, swi and Chimap on the reference grid, scaled; 0 where one is not there.
    present
        Which of them is there.
    spacing_mm
        Of the reference grid.
    coarse : (4, I, J, K) array
        The anatomy part's probability of each nucleus at 2 mm.
    network
        The nuclei part.
    """
    box = nuclei_box(coarse)
    if box is None:
        return None
    inputs = nuclei_inputs(
        in_box(channels, spacing_mm, box), present, in_box(coarse, (COARSE_MM,) * 3, box)
    )
    return Nuclei(box, seen_both_ways(network, inputs))


def nuclei_box(coarse: FloatMap) -> Box | None:
    """Voxels of 1 mm around the nuclei; None where there are none.

    Parameters
    ----------
    coarse : (4, I, J, K) array
        Probability of each nucleus at 2 mm.
    """
    voxels = np.argwhere(coarse.sum(axis=0) >= _LEAST_PROBABILITY)
    if not len(voxels):
        return None
    middle = np.median(voxels, axis=0)
    low, high = np.percentile(voxels, (_STRAY_PER_CENT, 100 - _STRAY_PER_CENT), axis=0)
    low, high = np.maximum(low, middle - _MOST_VOXELS), np.minimum(high, middle + _MOST_VOXELS)
    first = np.floor((low * COARSE_MM - MARGIN_MM) / SPACING_MM).astype(int)
    length = np.ceil(((high + 1) * COARSE_MM + MARGIN_MM) / SPACING_MM) - first
    whole = (np.ceil(length / MULTIPLE) * MULTIPLE).astype(int)
    i, j, k = (slice(int(a), int(a + n)) for a, n in zip(first, whole, strict=True))
    return i, j, k


def in_box(maps: FloatMap, spacing_mm: Spacing, box: Box) -> FloatMap:
    """Interpolate maps (..., I, J, K) linearly at the voxels of a box; edges go on outside."""
    return _at(maps, box, (SPACING_MM,) * 3, own_mm=spacing_mm)


def nuclei_inputs(channels: FloatMap, present: Present, coarse: FloatMap) -> FloatMap:
    """Stack the channels of the nuclei part: (10, I, J, K) float32."""
    planes = np.ones(channels.shape, np.float32)
    planes *= np.array(present, np.float32)[:, None, None, None]
    return np.concatenate([channels, planes, coarse]).astype(np.float32, copy=False)


def redrawn_regions(anatomy: Anatomy, nuclei: Nuclei, spacing_mm: Spacing) -> npt.NDArray[np.uint8]:
    """Regions of the reference grid (I, J, K) with the outlines of the nuclei part.

    What the anatomy part took for a nucleus and the nuclei part does not becomes the likeliest of
    the other regions there; sides are those of the anatomy part.
    """
    regions = anatomy.regions.copy()
    others = anatomy.coarse.classes.copy()
    others[[OUTSIDE_CLASS, *ANATOMY_CLASSES]] = 0
    coarse = np.concatenate([others, anatomy.coarse.right[np.newaxis]])
    for here in _slabs(nuclei.box, regions.shape, spacing_mm):
        slab = _at(coarse, here, spacing_mm, own_mm=(COARSE_MM,) * 3)
        fine = _at(nuclei.classes, here, spacing_mm, own_mm=(SPACING_MM,) * 3, first=nuclei.box)
        winner = fine.argmax(axis=0)
        nucleus = np.array([0, *ANATOMY_CLASSES])[winner]
        classes = np.where(winner > 0, nucleus, slab[:-1].argmax(axis=0))
        found = regions_of_classes(classes, slab[-1] > 0.5)
        regions[here] = np.where(anatomy.brain_mask[here], found, 0)
    return regions


def _slabs(box: Box, shape: tuple[int, ...], spacing_mm: Spacing) -> Iterator[Box]:
    """Voxels of the reference grid whose centres lie in the box, a few slices at a time."""
    sides = []
    for n, step, side in zip(shape, spacing_mm, box, strict=True):
        first, last = (
            int(np.clip(np.ceil(end * SPACING_MM / step - 0.5), 0, n))
            for end in (side.start, side.stop)
        )
        sides.append(slice(first, last))
    i, j, k = sides
    for first in range(k.start, k.stop, _SLICES_AT_A_TIME):
        yield i, j, slice(first, min(first + _SLICES_AT_A_TIME, k.stop))


def _at(
    maps: FloatMap, voxels: Box, spacing_mm: Spacing, *, own_mm: Spacing, first: Box | None = None
) -> FloatMap:
    """Interpolate maps (..., I, J, K) linearly at voxels of another grid.

    Parameters
    ----------
    maps
        Of voxels `own_mm`, cut out at the voxels `first` or whole.
    voxels
        Of spacing `spacing_mm`.
    """
    for axis in (2, 1, 0):
        side, step, own = voxels[axis], spacing_mm[axis], own_mm[axis]
        skipped = 0 if first is None else first[axis].start
        centres_mm = (side.start + 0.5 + np.arange(side.stop - side.start, dtype=np.float64)) * step
        maps = interpolate_axis(maps, centres_mm / own - 0.5 - skipped, axis=axis - 3)
    return maps
