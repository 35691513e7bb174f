"""The table of the Microbleed Anatomical Rating Scale (MARS).

Gregoire SM et al., Neurology 2009, doi:10.1212/WNL.0b013e3181c34a7d. Definite and possible
microbleeds are counted per region and side, and summed into lobar, deep and infratentorial.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from deepmir.labels import (
    BASAL_GANGLIA_BASES,
    MARS_BASES,
    REGION_BY_BASE,
    Compartment,
    Finding,
    Region,
    Side,
    region_number,
)
from deepmir.lesions.measure import Certainty, Lesion
from deepmir.volume import IntMap

_BASAL_GANGLIA = 3


@dataclass(frozen=True, slots=True)
class SideCounts:
    """Microbleeds by side; None where the row has no such side, or it was not scanned."""

    left: int | None
    right: int | None
    midline: int | None

    @property
    def total(self) -> int | None:
        """Sum over the sides; None where there is none."""
        known = [count for count in (self.left, self.right, self.midline) if count is not None]
        return sum(known) if known else None

    def of(self, side: Side) -> int | None:
        """Return the count of one side."""
        return {Side.LEFT: self.left, Side.RIGHT: self.right, Side.MIDLINE: self.midline}[side]


@dataclass(frozen=True, slots=True)
class MarsRow:
    """One line of the table."""

    level: Literal["region", "compartment", "unlocated", "total"]
    name: str
    compartment: Compartment | None
    sides: tuple[Side, ...]
    """The sides that the row can have; the counts of all others are None."""
    definite: SideCounts
    possible: SideCounts
    complete: bool
    """False where a part of the row lies outside the field of view."""

    @property
    def total(self) -> int | None:
        """Definite and possible together; None is n/a."""
        definite, possible = self.definite.total, self.possible.total
        return None if definite is None or possible is None else definite + possible


def covered_regions(regions: IntMap) -> frozenset[int]:
    """Region numbers that occur in a map of regions, 0 apart."""
    return frozenset(int(number) for number in np.unique(regions)) - {0}


def mars_table(
    lesions: Sequence[Lesion], *, covered: Collection[int], microbleeds_told: bool
) -> tuple[MarsRow, ...]:
    """Count microbleeds per MARS region, compartment and side.

    Rows are the 13 regions in groups, each group followed by its compartment's sum, then what
    lies in no region, then the total. The nuclei count as basal ganglia.

    Parameters
    ----------
    lesions : sequence of Lesion
        All of the person's lesions; only microbleeds are counted.
    covered : collection of int
        Region numbers, sides included, inside the field of view; others are n/a (None).
    microbleeds_told : bool
        False with T2w alone: every count is n/a.
    """
    cmb = [lesion for lesion in lesions if lesion.finding is Finding.CMB]
    tally = _Tally(cmb, frozenset(covered) if microbleeds_told else frozenset())
    rows: list[MarsRow] = []
    for compartment in Compartment:
        members = [
            REGION_BY_BASE[base]
            for base in MARS_BASES
            if REGION_BY_BASE[base].compartment is compartment
        ]
        rows += [_row("region", name=each.name, regions=[each], tally=tally) for each in members]
        rows.append(_row("compartment", name=compartment.value, regions=members, tally=tally))
    unlocated = [lesion for lesion in cmb if lesion.region == 0]
    rows.append(_unlocated_row(unlocated, told=microbleeds_told))
    everything = [REGION_BY_BASE[base] for base in MARS_BASES]
    located = _row("total", name="all", regions=everything, tally=tally)
    return (*rows, _with_unlocated(located, rows[-1]))


@dataclass(frozen=True, slots=True)
class _Tally:
    """Microbleeds, and the regions where they could have been seen."""

    cmb: list[Lesion]
    covered: frozenset[int]

    def count(self, region: Region, side: Side, certainty: Certainty) -> int | None:
        """Microbleeds of one grade in one region; None where it was not scanned."""
        numbers = {region_number(base, side) for base in _bases(region)}
        if not numbers & self.covered:
            return None
        return sum(
            lesion.region in numbers and lesion.certainty is certainty for lesion in self.cmb
        )

    def counts(self, regions: Sequence[Region], certainty: Certainty) -> SideCounts:
        """Sum over some regions by side; None where none of them was scanned on that side."""

        def summed(side: Side) -> int | None:
            on_side = [region for region in regions if side in _sides(region)]
            counts = [self.count(region, side, certainty) for region in on_side]
            known = [count for count in counts if count is not None]
            return sum(known) if known else None

        return SideCounts(summed(Side.LEFT), summed(Side.RIGHT), summed(Side.MIDLINE))

    def complete(self, regions: Sequence[Region]) -> bool:
        """Tell whether all of some regions were scanned, on both sides where paired."""
        return all(
            self.count(region, side, Certainty.DEFINITE) is not None
            for region in regions
            for side in _sides(region)
        )


def _bases(region: Region) -> frozenset[int]:
    return BASAL_GANGLIA_BASES if region.base == _BASAL_GANGLIA else frozenset({region.base})


def _sides(region: Region) -> tuple[Side, ...]:
    return (Side.LEFT, Side.RIGHT) if region.paired else (Side.MIDLINE,)


def _row(
    level: Literal["region", "compartment", "total"],
    *,
    name: str,
    regions: Sequence[Region],
    tally: _Tally,
) -> MarsRow:
    return MarsRow(
        level=level,
        name=name,
        compartment=None if level == "total" else regions[0].compartment,
        sides=tuple(side for side in Side if any(side in _sides(region) for region in regions)),
        definite=tally.counts(regions, Certainty.DEFINITE),
        possible=tally.counts(regions, Certainty.POSSIBLE),
        complete=tally.complete(regions),
    )


def _unlocated_row(unlocated: Sequence[Lesion], *, told: bool) -> MarsRow:
    grades = [lesion.certainty for lesion in unlocated]
    return MarsRow(
        level="unlocated",
        name="no region within 5 mm",
        compartment=None,
        sides=(Side.MIDLINE,),
        definite=SideCounts(None, None, grades.count(Certainty.DEFINITE) if told else None),
        possible=SideCounts(None, None, grades.count(Certainty.POSSIBLE) if told else None),
        complete=told,
    )


def _with_unlocated(total: MarsRow, unlocated: MarsRow) -> MarsRow:
    return replace(
        total,
        definite=_added(total.definite, unlocated.definite.midline),
        possible=_added(total.possible, unlocated.possible.midline),
    )


def _added(counts: SideCounts, more: int | None) -> SideCounts:
    midline = counts.midline if more is None else (counts.midline or 0) + more
    return SideCounts(counts.left, counts.right, midline)
