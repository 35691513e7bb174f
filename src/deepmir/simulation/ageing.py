"""Signs of age that are no findings: wide ventricles, white-matter lesions, perivascular spaces.

They are what a rater meets beside microbleeds in old brains. White-matter lesions are bright on
T2w; perivascular spaces are too, and neutral on QSM, since they hold CSF.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.simulation.tissue import distance_mm
from deepmir.simulation.vessels import Vessel
from deepmir.volume import BoolMap, FloatMap, IntMap

LEFT_LESION, RIGHT_LESION = 25, 57
_LEFT_WHITE, _RIGHT_WHITE = 2, 41
_LATERAL, _VENTRICLES = (4, 43), (4, 43, 14)
_GRAY = (3, 42)
_STRIATUM = (12, 51)
_REACH_MM = 12.0  # over which tissue gives way to a growing ventricle
_COARSE = 2  # voxels of 1 mm per knot of the displacement


@dataclass(frozen=True, slots=True, kw_only=True)
class Ageing:
    """How old a brain looks."""

    ventricle_growth_mm: float = 0.0  # of its wall, outwards
    white_lesions_ml: float = 0.0
    perivascular_spaces: int = 0


def sample_ageing(age_years: float, rng: np.random.Generator) -> Ageing:
    """Draw the signs of age; each spreads widely around its mean at that age.

    Lesions of white matter grow from about 1 ml at 60 to 8 ml at 85 (DeCarli 2005,
    doi:10.1016/j.neurobiolaging.2004.05.004); the lateral ventricles double in volume over the
    same years, which is a shift of their wall by 2 to 3 mm.
    """
    years = age_years - 60.0
    lesions = np.exp(0.08 * years + rng.normal(0, 0.9))
    return Ageing(
        ventricle_growth_mm=float(np.clip(0.06 * years + rng.normal(0.2, 0.8), 0.0, 3.5)),
        white_lesions_ml=float(np.clip(lesions, 0.05, 60.0)),
        perivascular_spaces=int(rng.poisson(np.exp(3.6 + 0.015 * years + rng.normal(0, 0.5)))),
    )


def ventricle_displacement(labels: IntMap, growth_mm: float) -> FloatMap:
    """Where each place comes from when the ventricles grow: offsets (3, A, B, C) in voxels.

    Tissue gives way outwards, less with distance; labels read at ``x + offset(x)`` have larger
    ventricles. One knot for every second voxel of the 1 mm label map.
    """
    coarse = np.isin(labels[::_COARSE, ::_COARSE, ::_COARSE], _VENTRICLES)
    distance = _signed_distance(coarse) * _COARSE
    smooth = ndimage.gaussian_filter(distance, 1.5)
    outward = np.stack([np.gradient(smooth, float(_COARSE), axis=axis) for axis in range(3)])
    outward /= np.maximum(np.linalg.norm(outward, axis=0), 1e-3)
    strength = np.float32(growth_mm) * np.exp(-np.abs(distance) / np.float32(_REACH_MM))
    return np.asarray(-outward * strength, dtype=np.float32)


def displaced(index: FloatMap, displacement: FloatMap) -> FloatMap:
    """Apply :func:`ventricle_displacement` to indices (3, I, J, K) into its label map."""
    knots = np.array(displacement.shape[1:])[:, None, None, None]
    at = np.clip(np.round(index / _COARSE).astype(np.int32), 0, knots - 1)
    return np.asarray(index + displacement[:, at[0], at[1], at[2]], dtype=np.float32)


def white_matter_lesions(labels: IntMap, volume_ml: float, rng: np.random.Generator) -> IntMap:
    """Turn white matter into lesions: caps and bands at the ventricles first, then spots.

    Parameters
    ----------
    labels : (I, J, K) int array
        1 mm label map.
    """
    white = np.isin(labels, (_LEFT_WHITE, _RIGHT_WHITE))
    white &= distance_mm(np.isin(labels, _GRAY)) > 2.5
    count = min(round(1000 * volume_ml), int(white.sum()))
    if count == 0:
        return labels.copy()
    noise = ndimage.gaussian_filter(rng.standard_normal(labels.shape, dtype=np.float32), 2.0)
    score = noise / max(float(noise.std()), 1e-6) - distance_mm(np.isin(labels, _LATERAL)) / 6.0
    chosen = white & (score >= np.partition(score[white], -count)[-count])
    out = labels.copy()
    out[chosen & (labels == _LEFT_WHITE)] = LEFT_LESION
    out[chosen & (labels == _RIGHT_WHITE)] = RIGHT_LESION
    return out


def perivascular_spaces(labels: IntMap, count: int, rng: np.random.Generator) -> list[Vessel]:
    """Thin straight tubes of CSF: radial in white matter, upright in the putamen.

    Most are 0.5 to 1.5 mm wide and a few millimetres long (Wardlaw 2013,
    doi:10.1016/S1474-4422(13)70124-8).
    """
    white = np.isin(labels, (_LEFT_WHITE, _RIGHT_WHITE)) & (distance_mm(np.isin(labels, _GRAY)) > 2)
    toward = _signed_distance(np.isin(labels, _LATERAL))
    toward = ndimage.gaussian_filter(toward, 2.0)
    radial = np.stack([np.gradient(toward, axis=axis) for axis in range(3)], axis=-1)
    homes = {True: np.flatnonzero(np.isin(labels, _STRIATUM)), False: np.flatnonzero(white)}
    tubes = []
    for _ in range(count):
        deep = bool(rng.random() < 0.35)
        where = homes[deep]
        if len(where) == 0:
            continue
        centre = np.array(np.unravel_index(int(rng.choice(where)), labels.shape), dtype=float)
        along = np.array([0.0, 0.3, 1.0]) if deep else radial[tuple(centre.astype(int))]
        tubes.append(_tube(centre, along, rng))
    return tubes


def _tube(
    centre: npt.NDArray[np.floating], along: npt.NDArray[np.floating], rng: np.random.Generator
) -> Vessel:
    direction = along + 0.25 * rng.standard_normal(3)
    direction /= max(float(np.linalg.norm(direction)), 1e-6)
    length_mm = float(rng.uniform(2.0, 9.0))
    at = np.arange(0, length_mm, 0.5) - length_mm / 2
    points = centre + rng.uniform(-0.5, 0.5, 3) + at[:, None] * direction
    radius = float(rng.uniform(0.25, 0.75)) * np.sqrt(
        np.maximum(1 - (at / (0.55 * length_mm)) ** 2, 0.1)
    )
    return Vessel(points_mm=points.astype(np.float32), radius_mm=radius.astype(np.float32))


def _signed_distance(mask: BoolMap) -> FloatMap:
    return np.asarray(distance_mm(mask) - distance_mm(~mask), dtype=np.float32)
