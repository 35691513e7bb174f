"""The label tables: the only place where a number in a label map gets a meaning.

Findings are what the tool looks for; regions are where it finds them: the 13 regions of the
Microbleed Anatomical Rating Scale (MARS, Gregoire 2009, doi:10.1212/WNL.0b013e3181c34a7d)
and the nuclei caudate, putamen and pallidum, which override MARS "basal ganglia".

A region's number is its base number, + 100 on the left and + 200 on the right where the
region is paired: left frontal is 109, right frontal 209, brain stem 1.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

LEFT_OFFSET = 100
RIGHT_OFFSET = 200


class Finding(IntEnum):
    """Values stored in ``*_desc-findings_dseg.nii.gz``; 0 is background."""

    CMB = 1  # cerebral microbleed
    IRON = 2  # non-haemorrhage iron deposit of the basal ganglia
    CALCIFICATION = 3  # reported apart, never counted as one of the two


class Compartment(StrEnum):
    """The three MARS compartments into which regions are summed."""

    LOBAR = "lobar"
    DEEP = "deep"
    INFRATENTORIAL = "infratentorial"


class Side(StrEnum):
    """Side of the body, from the network and the affine, never from half of an array."""

    LEFT = "left"
    RIGHT = "right"
    MIDLINE = "midline"


@dataclass(frozen=True, slots=True)
class Region:
    """One anatomical region of the label table."""

    base: int  # number without side
    name: str
    compartment: Compartment
    paired: bool


REGIONS: tuple[Region, ...] = (
    Region(1, "brain stem", Compartment.INFRATENTORIAL, paired=False),
    Region(2, "cerebellum", Compartment.INFRATENTORIAL, paired=True),
    Region(3, "basal ganglia", Compartment.DEEP, paired=True),
    Region(4, "thalamus", Compartment.DEEP, paired=True),
    Region(5, "internal capsule", Compartment.DEEP, paired=True),
    Region(6, "external capsule", Compartment.DEEP, paired=True),
    Region(7, "corpus callosum", Compartment.DEEP, paired=False),
    Region(8, "deep and periventricular white matter", Compartment.DEEP, paired=True),
    Region(9, "frontal", Compartment.LOBAR, paired=True),
    Region(10, "parietal", Compartment.LOBAR, paired=True),
    Region(11, "temporal", Compartment.LOBAR, paired=True),
    Region(12, "occipital", Compartment.LOBAR, paired=True),
    Region(13, "insula", Compartment.LOBAR, paired=True),
    Region(21, "caudate", Compartment.DEEP, paired=True),
    Region(22, "putamen", Compartment.DEEP, paired=True),
    Region(23, "pallidum", Compartment.DEEP, paired=True),
)
"""The 13 MARS regions by their atlas number, then the nuclei; the order is the table's."""

REGION_BY_BASE: dict[int, Region] = {region.base: region for region in REGIONS}

MARS_BASES: tuple[int, ...] = tuple(range(1, 14))
NUCLEUS_BASES: tuple[int, ...] = (21, 22, 23)
BASAL_GANGLIA_BASES: frozenset[int] = frozenset({3, 21, 22, 23})
"""Where an iron deposit counts; the nuclei count as MARS "basal ganglia"."""


def region_number(base: int, side: Side) -> int:
    """Return the number of a region in a region label map.

    Raises
    ------
    ValueError
        If the region is unknown, or the side does not fit (a paired region on the midline).

    Examples
    --------
    >>> region_number(9, Side.LEFT), region_number(1, Side.MIDLINE)
    (109, 1)
    """
    if base not in REGION_BY_BASE:
        raise ValueError(f"unknown region {base}; known are {sorted(REGION_BY_BASE)}")
    if REGION_BY_BASE[base].paired == (side is Side.MIDLINE):
        raise ValueError(f"region {base} ({REGION_BY_BASE[base].name}) has no side {side.value!r}")
    return base + {Side.LEFT: LEFT_OFFSET, Side.RIGHT: RIGHT_OFFSET, Side.MIDLINE: 0}[side]


def split_region_number(number: int) -> tuple[Region, Side]:
    """Region and side of a number in a region label map.

    Raises
    ------
    ValueError
        If the number is not in the table.

    Examples
    --------
    >>> region, side = split_region_number(222)
    >>> region.name, side.value
    ('putamen', 'right')
    """
    base, side = number % LEFT_OFFSET, tuple(Side)[number // LEFT_OFFSET - 1]
    if number not in ALL_REGION_NUMBERS:
        raise ValueError(f"unknown region number {number}; see the label table in the docs")
    return REGION_BY_BASE[base], side


def region_label(number: int) -> str:
    """Human name of a region number, such as ``left frontal``; ``outside the brain`` for 0.

    Raises
    ------
    ValueError
        If the number is not in the table.
    """
    if number == 0:
        return "outside the brain"
    region, side = split_region_number(number)
    return region.name if side is Side.MIDLINE else f"{side.value} {region.name}"


ALL_REGION_NUMBERS: tuple[int, ...] = tuple(
    region.base + offset
    for region in REGIONS
    for offset in ((LEFT_OFFSET, RIGHT_OFFSET) if region.paired else (0,))
)
"""Every number that may stand in a ``*_desc-regions_dseg.nii.gz``, 0 apart."""
