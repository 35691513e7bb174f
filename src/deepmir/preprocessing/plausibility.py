"""Is an image what it is said to be? Each check is a statistic and a limit, and can refuse.

Limits lie far outside what real scans show (docs/real-data.md), because a scan refused
wrongly is worse than one that a later step finds odd.
"""

import re
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.errors import InputError
from deepmir.labels import REGION_BY_BASE
from deepmir.preprocessing.units import brain_values
from deepmir.volume import BoolMap, FloatMap, IntMap, Modality, Notice, Volume

MIN_NEGATIVE_SHARE = 0.01
"""Real QSM: half of the brain is negative; a magnitude has no negative value."""
MAX_NEGATIVE_SHARE = 0.02
"""Of an SWI or T2w: interpolation leaves a few small ones, a phase half."""
INVERTED_PALLIDUM_PPM = -0.03
"""Real maps: the pallidum lies 0.08 to 0.12 ppm above what surrounds it."""
INVERTED_STRIATUM_PPM = -0.005
"""Caudate and putamen are 0.03 to 0.05 ppm above; a calcified pallidum leaves them so."""
MAX_EQUAL_EXCESS = 0.15
"""Real scans: under 0.01; a sliding minimum over 2, 3, 4 slices of one: 0.22, 0.33, 0.40."""
_PHASE_RANGES = {"π": np.pi, "4096": 4096.0, "2048": 2048.0}
_MIN_NUCLEUS_VOXELS = 20
_RING_MM = (2.0, 6.0)
_MAGNITUDE_NAME = re.compile(r"(T2star|T2starw|MEGRE|GRE|part-mag|magnitude)(?![a-z])", re.I)


def check_chimap(chimap: Volume, brain: BoolMap | None) -> None:
    """Check that a map is a susceptibility map, neither magnitude nor phase.

    Raises
    ------
    InputError
        If hardly a value is negative, or the values fill the range of a phase.
    """
    values = brain_values(chimap.data.astype(np.float32, copy=False), brain)
    name = chimap.name or "the QSM"
    phase_range = phase_range_of(values)
    if phase_range is not None:
        raise InputError(
            f"{name} looks like a phase image: its values fill the range of ±{phase_range}; "
            "pass a susceptibility map (Chimap, in ppm), for instance from `deepmir reconstruct`"
        )
    share = negative_share(values)
    if share < MIN_NEGATIVE_SHARE:
        raise InputError(
            f"{name} looks like a magnitude image: {share:.1%} of its brain is negative, in a "
            "susceptibility map about half is; pass the Chimap, in ppm, not scaled to positive "
            "numbers"
        )


def check_intensities(scan: Volume) -> tuple[Notice, ...]:
    """Check that an SWI or T2w holds intensities and is no minimum projection.

    Returns
    -------
    A notice where a T2*-weighted magnitude stands in for SWI, as far as its name tells.

    Raises
    ------
    InputError
        If values are negative as those of a phase, or an SWI is a minimum-intensity projection.
    """
    data = scan.data.astype(np.float32, copy=False)
    name = scan.name or f"the {scan.modality} scan"
    share = negative_share(data[np.isfinite(data) & (data != 0)])
    if share > MAX_NEGATIVE_SHARE:
        raise InputError(
            f"{name}: {share:.0%} of its values are negative, but a {scan.modality} scan has "
            "positive intensities; is it a phase image or a susceptibility map?"
        )
    if scan.modality is not Modality.SWI:
        return ()
    if equal_slices_excess(data) > MAX_EQUAL_EXCESS:
        raise InputError(
            f"{name} looks like a minimum-intensity projection (minIP): neighbouring slices hold "
            "the same values, so one microbleed would be found in many; pass the SWI itself"
        )
    return _magnitude_notices(name)


def check_polarity(
    chi_ppm: FloatMap, regions: IntMap, *, spacing_mm: tuple[float, float, float], name: str
) -> None:
    """Check that the basal ganglia are paramagnetic, as their iron makes them in everyone.

    A pallidum below its surroundings may be calcified; only when caudate and putamen are
    below theirs too is the map taken as inverted. Nuclei outside the field of view, or
    under 20 voxels, are no evidence.

    Parameters
    ----------
    chi_ppm : (I, J, K) array
    regions : (I, J, K) array
        Region numbers of :mod:`deepmir.labels`.
    spacing_mm
        Length of a voxel along I, J and K.
    name
        What to call the map in the error.

    Raises
    ------
    InputError
        If the map's sign is inverted.
    """
    pallidum = nucleus_contrast_ppm(chi_ppm, regions, bases=(23,), spacing_mm=spacing_mm)
    if pallidum is None or pallidum > INVERTED_PALLIDUM_PPM:
        return
    striatum = nucleus_contrast_ppm(chi_ppm, regions, bases=(21, 22), spacing_mm=spacing_mm)
    if striatum is not None and striatum > INVERTED_STRIATUM_PPM:
        return
    raise InputError(
        f"{name} is inverted: the pallidum lies {-pallidum:.3f} ppm below what surrounds it, but "
        "its iron makes it paramagnetic (positive) in everyone; multiply the map by -1"
    )


def nucleus_contrast_ppm(
    chi_ppm: FloatMap,
    regions: IntMap,
    *,
    bases: tuple[int, ...],
    spacing_mm: tuple[float, float, float],
) -> float | None:
    """Median χ of nuclei less that of a ring 2 to 6 mm around them; None if they are not seen.

    Parameters
    ----------
    bases
        Region numbers without side, such as (23,) for the pallidum of both sides.
    """
    nucleus = _is_base(regions, bases) & (chi_ppm != 0)
    if nucleus.sum() < _MIN_NUCLEUS_VOXELS:
        return None
    box = _box_around(nucleus, np.ceil(_RING_MM[1] / np.asarray(spacing_mm)).astype(int))
    away_mm = ndimage.distance_transform_edt(~nucleus[box], sampling=spacing_mm)
    ring = (away_mm > _RING_MM[0]) & (away_mm <= _RING_MM[1]) & (chi_ppm[box] != 0)
    ring &= ~_is_base(regions[box], (21, 22, 23))
    if ring.sum() < _MIN_NUCLEUS_VOXELS:
        return None
    return float(np.median(chi_ppm[nucleus]) - np.median(chi_ppm[box][ring]))


def negative_share(values: npt.NDArray[np.floating]) -> float:
    """Share of values that are below minus a hundredth of their 95th percentile of size."""
    if values.size == 0:
        return 0.0
    noticeable = 0.01 * float(np.percentile(np.abs(values), 95))
    return float((values < -noticeable).mean())


def phase_range_of(values: npt.NDArray[np.floating]) -> str | None:
    """Name of the phase range that values fill: "π", "4096", "2048"; None: they do not.

    A phase reaches both ends of its range and spreads over it; a susceptibility map has a
    few voxels far out and the rest in less than a tenth of its range.
    """
    low, high = float(values.min()), float(values.max())
    inner_low, inner_high = np.percentile(values, [5, 95])
    for name, limit in _PHASE_RANGES.items():
        ends = 0.95 * limit < -low <= 1.01 * limit and 0.95 * limit < high <= 1.01 * limit
        if ends and inner_high - inner_low > 0.2 * limit:
            return name
    return None


def equal_slices_excess(image: FloatMap) -> float:
    """How much more often neighbours are equal along one axis than along the others, −1 to 1.

    Neighbours of one value are counted over the middle of the image, zeros apart. Near 0
    for a scan, noise-free phantoms included; above 0.2 for a minimum over 2 or more slices.
    """
    middle = image[tuple(slice(n // 4, n - n // 4) for n in image.shape)]
    shares = []
    for axis in range(3):
        first, second = np.moveaxis(middle, axis, 0)[:-1], np.moveaxis(middle, axis, 0)[1:]
        seen = (first != 0) & (second != 0)
        shares.append(float((first == second)[seen].mean()) if seen.any() else 0.0)
    shares.sort()
    return shares[2] - shares[1]


def _magnitude_notices(name: str) -> tuple[Notice, ...]:
    if _MAGNITUDE_NAME.search(PurePath(name).name) is None:
        return ()
    return (
        Notice(
            "preprocess",
            f"{name} is by its name a T2*-weighted magnitude, taken in place of SWI: veins and "
            "small microbleeds are fainter on it",
        ),
    )


def _is_base(regions: IntMap, bases: tuple[int, ...]) -> BoolMap:
    numbers = [
        base + offset for base in bases for offset in (0, 100, 200) if base in REGION_BY_BASE
    ]
    return np.isin(regions, numbers)


def _box_around(mask: BoolMap, margin: npt.NDArray[np.intp]) -> tuple[slice, ...]:
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(
        slice(max(side.start - int(pad), 0), side.stop + int(pad))
        for side, pad in zip(found, margin, strict=True)
    )
