"""The unit of a susceptibility map: ppm is wanted, and never guessed silently.

The 5 to 95 % width of χ over a brain is 0.07 ppm in real maps and lies between 0.03 and
0.20 ppm for any field strength and method, which is narrow enough to tell ppm from ppb and
from integers scaled by 1000 or 4096.
"""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from deepmir.errors import UnitError
from deepmir.volume import BoolMap, FloatMap, Notice, Volume

QsmUnit = Literal["ppm", "ppb", "scaled-1000", "scaled-4096"]
QSM_UNITS: tuple[str, ...] = get_args(QsmUnit)
WIDTH_RANGE_PPM = (0.03, 0.20)
_DIVISORS: dict[str, float] = {"ppm": 1, "ppb": 1000, "scaled-1000": 1000, "scaled-4096": 4096}
_TRIED = {1000: "ppb, or ppm scaled by 1000", 4096: "ppm scaled by 4096"}
_OWN_MASK_SHARE = 0.8  # of its bounding box: an ellipsoid fills half, an unmasked map all


def to_ppm(
    chimap: Volume, *, brain: BoolMap | None, unit: QsmUnit | None = None
) -> tuple[Volume, tuple[Notice, ...]]:
    """Bring a susceptibility map to ppm.

    Parameters
    ----------
    chimap
        Map in `unit`. Its own `unit` is what its sidecar says: believed where the values allow
        it or cannot tell, else what the values say is taken.
    brain : (I, J, K) bool array
        None: the map's own support, or the middle of its field of view if it is unmasked.
    unit
        What the user says it is; None: to be told from the width of χ over the brain.

    Returns
    -------
    The map in ppm, and a notice where a factor was found and applied.

    Raises
    ------
    UnitError
        If the unit is unknown, or none is given and none or more than one fits.
    """
    if unit is not None:
        return _divided(chimap, _divisor_of(unit)), ()
    width = brain_width(_float32(chimap), brain)
    stated = _DIVISORS.get(chimap.unit)
    if stated is not None and _plausible(width / stated):
        return _divided(chimap, stated), ()
    if _plausible(width):
        return _divided(chimap, 1), ()
    fitting = [divisor for divisor in _TRIED if _plausible(width / divisor)]
    if len(fitting) != 1:
        if stated is None or width == 0:
            raise UnitError(_unclear(chimap, width, fitting))
        return _divided(chimap, stated), (_taken_as_stated(chimap, width / stated),)
    notice = Notice(
        "preprocess",
        f"{_name(chimap)} is not in ppm (5 to 95 % width {width:.4g} over the brain): taken as "
        f"{_TRIED[fitting[0]]} and divided by {fitting[0]}; --qsm-unit says otherwise",
    )
    return _divided(chimap, fitting[0]), (notice,)


def brain_width(chi: FloatMap, brain: BoolMap | None = None) -> float:
    """Difference of the 95th and the 5th percentile of χ over the brain, in the map's unit.

    Examples
    --------
    >>> chi = np.linspace(-0.05, 0.05, 1000, dtype=np.float32).reshape(10, 10, 10)
    >>> round(brain_width(chi, np.ones_like(chi, dtype=bool)), 3)
    0.09
    """
    low, high = np.percentile(brain_values(chi, brain), [5, 95])
    return float(high - low)


def brain_values(image: FloatMap, brain: BoolMap | None = None) -> npt.NDArray[np.float32]:
    """Non-zero values (n,) over the brain; without a mask over a map's own support.

    A map that fills more than four fifths of the box around its support has no mask of its
    own: then the middle half of the field of view along each axis stands for the brain.
    """
    support = np.isfinite(image) & (image != 0)
    if brain is not None and bool((support & brain).any()):
        return np.asarray(image[support & brain])
    if not support.any():
        return np.zeros(1, dtype=np.float32)
    if support.mean() > _OWN_MASK_SHARE or _share_of_box(support) > _OWN_MASK_SHARE:
        middle = tuple(slice(n // 4, n - n // 4) for n in image.shape)
        return np.asarray(image[middle][support[middle]])
    return np.asarray(image[support])


def _share_of_box(support: BoolMap) -> float:
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        where = np.flatnonzero(support.any(axis=others))
        box.append(int(where[-1] - where[0]) + 1)
    return float(support.sum() / np.prod(box))


def _divisor_of(unit: str) -> float:
    if unit not in _DIVISORS:
        raise UnitError(f"unknown QSM unit {unit!r}; --qsm-unit takes one of {_list()}")
    return _DIVISORS[unit]


def _divided(chimap: Volume, divisor: float) -> Volume:
    data = _float32(chimap) / np.float32(divisor)
    return replace(chimap, data=data, unit="ppm")


def _plausible(width_ppm: float) -> bool:
    return WIDTH_RANGE_PPM[0] <= width_ppm <= WIDTH_RANGE_PPM[1]


def _unclear(chimap: Volume, width: float, fitting: list[int]) -> str:
    why = "both 1000 and 4096 would" if fitting else "neither 1000 nor 4096 does"
    return (
        f"the unit of {_name(chimap)} cannot be told: 5 to 95 % of the brain span {width:.4g}, "
        f"in ppm it would be {WIDTH_RANGE_PPM[0]} to {WIDTH_RANGE_PPM[1]}, and {why} bring it "
        f"there; say which unit it is by --qsm-unit {_list()}"
    )


def _taken_as_stated(chimap: Volume, width_ppm: float) -> Notice:
    return Notice(
        "preprocess",
        f"{_name(chimap)} is taken as {chimap.unit}, as its sidecar says; 5 to 95 % of the brain "
        f"then span {width_ppm:.4g} ppm, and {WIDTH_RANGE_PPM[0]} to {WIDTH_RANGE_PPM[1]} are "
        "usual: look at the map, --qsm-unit says otherwise",
    )


def _list() -> str:
    return " | ".join(QSM_UNITS)


def _float32(volume: Volume) -> FloatMap:
    return volume.data.astype(np.float32, copy=False)


def _name(volume: Volume) -> str:
    return volume.name or "the QSM"
