"""Signal decay over the echoes: R2*, and the ventricles that it shows."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from deepmir.volume import BoolMap, FloatMap

MAX_R2STAR_HZ = 500.0
"""Faster decay cannot be told by echoes some milliseconds apart."""
_CSF_R2STAR_HZ = 5.0
_CENTRE_MM = 30.0
_SMALLEST_CSF_ML = 1.0


def fit_r2star(magnitudes: Sequence[FloatMap], echo_times_s: Sequence[float]) -> FloatMap:
    """R2* in 1/s (I, J, K): line through the logarithms, weighted by magnitude².

    The weights undo what the logarithm does to noise. Values are cut to 0 to 500 / s.

    Raises
    ------
    ValueError
        If there are fewer than two echoes.
    """
    if len(magnitudes) < 2:
        raise ValueError(f"R2* needs two echoes or more, got {len(magnitudes)}")
    shape = magnitudes[0].shape
    largest = np.float32(max(float(np.max(magnitudes[0])), 1e-20))  # keeps powers in range
    total, time, square, value, product = (np.zeros(shape, np.float32) for _ in range(5))
    for magnitude, at in zip(magnitudes, echo_times_s, strict=True):
        relative = magnitude / largest
        weight, logarithm = relative**2, np.log(np.maximum(relative, np.float32(1e-12)))
        total += weight
        time += weight * np.float32(at)
        square += weight * np.float32(at**2)
        value += weight * logarithm
        product += weight * logarithm * np.float32(at)
    spread = total * square - time**2
    told = spread > np.float32(1e-20)
    slope = (total * product - time * value) / np.where(told, spread, 1)
    return np.clip(np.where(told, -slope, 0), 0, MAX_R2STAR_HZ).astype(np.float32)


def ventricles(r2star_hz: FloatMap, brain: BoolMap, spacing_mm: Sequence[float]) -> BoolMap | None:
    """CSF of the ventricles: slow decay within 30 mm of the brain's centre.

    Liu 2018 (doi:10.1002/mrm.26946).

    Returns
    -------
    (I, J, K) bool array, or None where less than 1 ml of it is found.
    """
    at = np.argwhere(brain)
    centre = at.mean(axis=0)
    away = np.sqrt(
        sum(
            ((np.arange(n) - middle).reshape([-1 if a == axis else 1 for a in range(3)]) * step)
            ** 2
            for axis, (n, middle, step) in enumerate(
                zip(brain.shape, centre, spacing_mm, strict=True)
            )
        )
    )
    slow = ndimage.median_filter(r2star_hz, 3) < _CSF_R2STAR_HZ
    found = slow & brain & (away < _CENTRE_MM)
    volume_ml = float(found.sum()) * float(np.prod(spacing_mm)) / 1000
    return found if volume_ml >= _SMALLEST_CSF_ML else None
