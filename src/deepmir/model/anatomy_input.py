"""Input of the anatomy part: what training and inference must scale alike.

Six channels on a 2 mm grid: T2w, swi, Chimap, then one plane each that says whether the
contrast is there. Output: 18 classes (outside, the 16 regions in table order, brain without
a region) and the logit of "right side".
"""

import array_api_compat
import numpy as np
import numpy.typing as npt

from deepmir.labels import REGIONS, RIGHT_OFFSET
from deepmir.physics.arrays import Array, namespace
from deepmir.volume import BoolMap

SPACING_MM = 2.0
N_CLASSES = len(REGIONS) + 2
OUTSIDE_CLASS = 0
NO_REGION_CLASS = N_CLASSES - 1
PAD_MULTIPLE = 32
CHI_UNIT_PPM = 0.2
"""Susceptibility that becomes 1 in the Chimap channel."""


def scale_anatomy_inputs(t2w: Array | None, swi: Array | None, chi_ppm: Array | None) -> Array:
    """Scale the contrasts and stack them with their presence planes: (6, I, J, K) float32.

    T2w and swi: the 1st and 99th percentile of the voxels that are not zero become 0 and 1,
    clipped to 0 to 1.5; voxels of zero or no number stay zero. Chimap: ppm / 0.2, clipped to ±2.

    Parameters
    ----------
    t2w, swi, chi_ppm : (I, J, K) array, optional
        NumPy arrays, or torch tensors of one device; so is the result.

    Raises
    ------
    ValueError
        If no contrast is given, or their shapes differ.
    """
    given = [channel for channel in (t2w, swi, chi_ppm) if channel is not None]
    if not given or len({channel.shape for channel in given}) != 1:
        raise ValueError(f"wanted one to three arrays of one shape, got {[c.shape for c in given]}")
    xp, device = namespace(given[0]), array_api_compat.device(given[0])
    stack = xp.zeros((6, *given[0].shape), dtype=xp.float32, device=device)
    if t2w is not None:
        stack[0, ...], stack[3, ...] = _percentile_scaled(t2w), 1
    if swi is not None:
        stack[1, ...], stack[4, ...] = _percentile_scaled(swi), 1
    if chi_ppm is not None:
        finite = xp.where(xp.isfinite(chi_ppm), chi_ppm, 0.0)
        stack[2, ...], stack[5, ...] = xp.clip(finite / CHI_UNIT_PPM, -2, 2), 1
    return stack


def _percentile_scaled(image: Array) -> Array:
    xp = namespace(image)
    inside = xp.isfinite(image) & (image != 0)
    values = image[inside]
    if values.shape[0] == 0:
        return xp.zeros_like(image)
    low, high = _percentiles(values)
    scale = 1 / max(high - low, 1e-6)
    return xp.clip((xp.where(inside, image, low) - low) * scale, 0, 1.5)


def _percentiles(values: Array) -> tuple[float, float]:
    """1st and 99th percentile, between neighbours linearly."""
    if array_api_compat.is_numpy_array(values):
        low, high = np.percentile(values, (1, 99))
        return float(low), float(high)
    ordered, last = namespace(values).sort(values), values.shape[0] - 1
    ends = []
    for share in (0.01, 0.99):
        below, part = int(share * last), share * last % 1
        here, there = float(ordered[below]), float(ordered[min(below + 1, last)])
        ends.append(here + part * (there - here))
    return ends[0], ends[1]


def class_of_regions(regions: npt.NDArray[np.integer], brain: BoolMap) -> npt.NDArray[np.uint8]:
    """Class index (I, J, K) of every voxel from its region number and the brain mask."""
    table: npt.NDArray[np.uint8] = np.full(RIGHT_OFFSET + 100, NO_REGION_CLASS, dtype=np.uint8)
    for index, region in enumerate(REGIONS):
        for offset in (0, 100, RIGHT_OFFSET):
            table[region.base + offset] = index + 1
    classes: npt.NDArray[np.uint8] = table[regions]
    classes[(regions == 0) & ~brain] = OUTSIDE_CLASS
    return classes


def regions_of_classes(classes: npt.NDArray[np.integer], right: BoolMap) -> npt.NDArray[np.uint8]:
    """Region number (I, J, K) of every class index and side; the way back."""
    left_table = np.zeros(N_CLASSES, dtype=np.uint8)
    right_table = np.zeros(N_CLASSES, dtype=np.uint8)
    for index, region in enumerate(REGIONS):
        left_table[index + 1] = region.base + (100 if region.paired else 0)
        right_table[index + 1] = region.base + (RIGHT_OFFSET if region.paired else 0)
    return np.asarray(np.where(right, right_table[classes], left_table[classes]), dtype=np.uint8)


def padded_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Shape rounded up to the multiple of 32 that the network needs.

    Examples
    --------
    >>> padded_shape((96, 97, 20))
    (96, 128, 32)
    """
    i, j, k = (-(-n // PAD_MULTIPLE) * PAD_MULTIPLE for n in shape)
    return i, j, k
