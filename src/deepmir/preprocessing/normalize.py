"""Scaling of each modality for the findings network; training and inference share it.

SWI and T2w have arbitrary units and are scaled by robust statistics of the brain. χ has a
unit: its zero and its sign carry the diagnosis, so it is re-referenced to the brain's
median and divided by a constant, never by its own spread.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.errors import GeometryError, InputError
from deepmir.volume import BoolMap, FloatMap

MARGIN_MM = 3.0
"""How far outside the brain mask the channels keep their values; beyond it they are 0."""
CHI_SCALE_PPM = 0.25
_IQR_PER_SIGMA = 1.349  # of a normal distribution

Spacing = tuple[float, float, float]


def scale_swi(
    swi: FloatMap, mask: BoolMap, *, spacing_mm: Spacing, name: str = "the SWI"
) -> FloatMap:
    """Scale SWI to 2·(x / median − 1), clipped to −2 … 4: no signal at all is −2.

    Voxels of exactly 0 that reach from outside the mask are the background of a scan without
    skull: they are 0 as all else outside, lest the edge of the brain look like one deposit.

    Parameters
    ----------
    swi : (I, J, K) array
    mask : (I, J, K) bool array
        The brain; the median is that of its non-zero voxels.
    spacing_mm
        Length of a voxel along I, J and K.
    name
        What to call the scan in an error.

    Returns
    -------
    (I, J, K) float32 array, 0 further than 3 mm from the mask

    Raises
    ------
    GeometryError
        If image and mask differ in shape.
    InputError
        If the brain is empty or constant on this scan, or its median is not positive.

    Examples
    --------
    >>> swi = np.array([[[100.0, 50.0, 100.0, 0.0, 600.0]]], dtype=np.float32)
    >>> scaled = scale_swi(swi, np.ones((1, 1, 5), dtype=bool), spacing_mm=(1.0, 1.0, 1.0))
    >>> scaled.ravel().tolist()
    [0.0, -1.0, 0.0, -2.0, 4.0]
    """
    inside = _values_inside(swi, mask, name)
    median = float(np.median(inside))
    if median <= 0:
        raise InputError(
            f"{name}: the brain's median is {median:.3g}, but intensities must be positive; "
            "pass the image as the scanner or the SWI reconstruction made it"
        )
    scaled = np.clip(2 * (swi / np.float32(median) - 1), -2, 4)
    scaled[_background(swi, mask)] = 0
    return _near_mask_only(scaled, mask, spacing_mm)


def scale_t2w(
    t2w: FloatMap, mask: BoolMap, *, spacing_mm: Spacing, name: str = "the T2w scan"
) -> FloatMap:
    """Scale T2w to robust z-scores (x − median) / (IQR / 1.349), clipped to ±5.

    Voxels of exactly 0 are outside the scan's field of view or its own brain mask: they
    stay 0 and take no part in the statistics. Shapes and `name` as in :func:`scale_swi`.

    Raises
    ------
    GeometryError
        If image and mask differ in shape.
    InputError
        If the brain is empty or constant on this scan.
    """
    inside = _values_inside(t2w, mask, name)
    low, median, high = (float(q) for q in np.percentile(inside, [25, 50, 75]))
    spread = (high - low) / _IQR_PER_SIGMA
    if spread <= 0:  # more than half of the brain has one value
        raise InputError(f"{name}: half of the brain has the one value {median:.4g}; {_ADVICE}")
    scaled = np.clip((t2w - np.float32(median)) / np.float32(spread), -5, 5)
    scaled[t2w == 0] = 0
    return _near_mask_only(scaled, mask, spacing_mm)


def scale_chi(
    chi_ppm: FloatMap, mask: BoolMap, *, spacing_mm: Spacing, name: str = "the QSM"
) -> FloatMap:
    """Scale χ to (χ − median of the brain) / 0.25 ppm, clipped to ±4.

    Voxels of exactly 0 are outside the map's own mask: they stay 0 and take no part in the
    median. Shapes and `name` as in :func:`scale_swi`.

    Raises
    ------
    GeometryError
        If map and mask differ in shape.
    InputError
        If the brain is empty or constant on this map.
    """
    median = np.float32(np.median(_values_inside(chi_ppm, mask, name)))
    scaled = np.clip((chi_ppm - median) / np.float32(CHI_SCALE_PPM), -4, 4)
    scaled[chi_ppm == 0] = 0
    return _near_mask_only(scaled, mask, spacing_mm)


def dilate_mm(mask: BoolMap, radius_mm: float, *, spacing_mm: Spacing) -> BoolMap:
    """Grow a mask by all voxels whose centre lies within `radius_mm` of one of its own.

    Examples
    --------
    >>> line = np.zeros((7, 1, 1), dtype=bool)
    >>> line[3] = True
    >>> dilate_mm(line, 2.0, spacing_mm=(1.0, 1.0, 1.0)).ravel().astype(int).tolist()
    [0, 1, 1, 1, 1, 1, 0]
    """
    grown = mask.copy()
    if not mask.any():
        return grown
    reach = [int(radius_mm / step + 1e-6) for step in spacing_mm]
    box = _bounding_box(mask, reach)
    runs = _runs_along_i(mask[box], reach[0])
    for j, k in np.ndindex(2 * reach[1] + 1, 2 * reach[2] + 1):
        dj, dk = j - reach[1], k - reach[2]
        rest = radius_mm**2 - (dj * spacing_mm[1]) ** 2 - (dk * spacing_mm[2]) ** 2
        if rest >= -1e-6:
            run = runs[int(max(rest, 0) ** 0.5 / spacing_mm[0] + 1e-6)]
            (to_j, from_j), (to_k, from_k) = _shifts(dj), _shifts(dk)
            grown[box][:, to_j, to_k] |= run[:, from_j, from_k]
    return grown


_ADVICE = "pass the image as the scanner or its reconstruction made it, or another brain mask"


def _values_inside(image: FloatMap, mask: BoolMap, name: str) -> FloatMap:
    if image.shape != mask.shape:
        raise GeometryError(f"{name} is {image.shape} but the brain mask is {mask.shape}")
    inside: FloatMap = image[mask & (image != 0)]
    if inside.size == 0:
        raise InputError(f"{name} has no value other than 0 inside the brain mask; {_ADVICE}")
    if inside.min() == inside.max() and inside.size > 1:
        raise InputError(f"{name} is constant ({inside[0]:.4g}) inside the brain mask; {_ADVICE}")
    return inside


def _background(image: FloatMap, mask: BoolMap) -> BoolMap:
    """Voxels of zero that are joined by faces to one outside the mask."""
    zero = image == 0
    if not (zero & ~mask).any():
        return np.zeros_like(zero)
    pieces, n = ndimage.label(zero)
    outside = np.zeros(n + 1, dtype=bool)
    outside[pieces[zero & ~mask]] = True
    return outside[pieces]


def _near_mask_only(
    scaled: npt.NDArray[np.floating], mask: BoolMap, spacing_mm: Spacing
) -> FloatMap:
    near = dilate_mm(mask, MARGIN_MM, spacing_mm=spacing_mm)
    return np.where(near, scaled, 0).astype(np.float32)


def _bounding_box(mask: BoolMap, margin: list[int]) -> tuple[slice, ...]:
    box = []
    for axis, pad in enumerate(margin):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        where = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(int(where[0]) - pad, 0), int(where[-1]) + 1 + pad))
    return tuple(box)


def _runs_along_i(mask: BoolMap, longest: int) -> list[BoolMap]:
    """Return the mask dilated along I by 0, 1, … `longest` voxels."""
    runs = [mask]
    for step in range(1, longest + 1):
        run = runs[-1].copy()
        run[step:] |= mask[:-step]
        run[:-step] |= mask[step:]
        runs.append(run)
    return runs


def _shifts(step: int) -> tuple[slice, slice]:
    """Return the slices (to, from) that move an axis by `step`."""
    if step >= 0:
        return slice(step, None), slice(None, -step or None)
    return slice(None, step), slice(-step, None)
