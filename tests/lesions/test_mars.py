"""MARS table: known counts, n/a rows, sums."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmir.labels import (
    ALL_REGION_NUMBERS,
    MARS_BASES,
    Compartment,
    Finding,
    Side,
    split_region_number,
)
from deepmir.lesions import (
    Certainty,
    Lesion,
    SideCounts,
    SizeClass,
    covered_regions,
    mars_table,
    summarise,
    tellable_findings,
)

EVERYWHERE = frozenset(ALL_REGION_NUMBERS)


def lesion(region: int = 109, finding: Finding = Finding.CMB, **changes) -> Lesion:
    place = split_region_number(region) if region else None
    made = Lesion(
        index=1,
        finding=finding,
        n_voxels=4,
        volume_mm3=4.0,
        diameter_mm=2.0,
        centroid_mm=(0.0, 0.0, 0.0),
        centroid_voxel=(0.0, 0.0, 0.0),
        region=region,
        compartment=place[0].compartment if place else None,
        side=place[1] if place else None,
        mean_chi_ppm=None,
        peak_chi_ppm=None,
        total_chi_ppm_mm3=None,
        swi_contrast=0.5,
        probability=0.9,
        certainty=Certainty.DEFINITE,
        size_class=SizeClass.SMALL,
        counted=True,
    )
    return replace(made, **changes)


def table(lesions, covered=EVERYWHERE, *, told=True):
    rows = mars_table(lesions, covered=covered, microbleeds_told=told)
    return {row.name: row for row in rows}


def test_rows_are_the_13_regions_three_sums_the_unlocated_and_the_total():
    rows = mars_table([], covered=EVERYWHERE, microbleeds_told=True)
    assert [row.level for row in rows].count("region") == len(MARS_BASES)
    assert [row.name for row in rows if row.level == "compartment"] == list(Compartment)
    assert [row.level for row in rows[-2:]] == ["unlocated", "total"]
    assert all(row.total == 0 and row.complete for row in rows)


def test_counts_by_side_and_grade():
    possible = Certainty.POSSIBLE
    rows = table([lesion(109), lesion(109), lesion(209, certainty=possible), lesion(1)])
    assert rows["frontal"].definite == SideCounts(2, 0, None)
    assert rows["frontal"].possible == SideCounts(0, 1, None)
    assert rows["brain stem"].definite == SideCounts(None, None, 1)
    assert rows["lobar"].total == 3
    assert rows["infratentorial"].definite == SideCounts(0, 0, 1)
    assert (rows["all"].definite, rows["all"].possible.right) == (SideCounts(2, 0, 1), 1)
    assert rows["frontal"].sides == (Side.LEFT, Side.RIGHT)


def test_nuclei_count_as_basal_ganglia():
    rows = table([lesion(121), lesion(222), lesion(103)])
    assert rows["basal ganglia"].definite == SideCounts(2, 1, None)
    assert rows["deep"].total == 3


def test_only_microbleeds_are_counted():
    assert table([lesion(122, Finding.IRON)])["all"].total == 0


def test_what_lies_in_no_region_is_a_row_and_in_the_total():
    rows = table([lesion(0), lesion(0, certainty=Certainty.POSSIBLE), lesion(110)])
    unlocated = rows["no region within 5 mm"]
    assert (unlocated.definite.midline, unlocated.possible.midline) == (1, 1)
    assert rows["all"].total == 3


def test_regions_outside_the_field_of_view_are_not_zero():
    rows = table([lesion(109)], covered={109, 110, 210, 122})
    assert rows["frontal"].definite == SideCounts(1, None, None)
    assert not rows["frontal"].complete
    assert rows["brain stem"].total is None
    assert rows["basal ganglia"].definite == SideCounts(0, None, None)  # by its putamen
    assert (rows["infratentorial"].total, rows["lobar"].total) == (None, 1)
    assert rows["parietal"].complete
    assert not rows["all"].complete


def test_with_t2w_alone_every_count_is_missing():
    assert {row.total for row in table([], told=False).values()} == {None}


def test_side_counts_by_side():
    counts = SideCounts(1, 2, None)
    assert [counts.of(side) for side in Side] == [1, 2, None]
    assert (counts.total, SideCounts(None, None, None).total) == (3, None)


def test_covered_regions_are_those_of_the_map():
    assert covered_regions(np.array([[[0, 109, 1, 1]]])) == {1, 109}


@given(st.lists(st.sampled_from([0, *ALL_REGION_NUMBERS]), max_size=30))
def test_every_microbleed_is_in_the_total_once(numbers):
    rows = table([lesion(number) for number in numbers])
    assert rows["all"].total == len(numbers)
    parts = sum(rows[name].total for name in Compartment)
    assert parts + rows["no region within 5 mm"].total == len(numbers)


# ---- summary ---------------------------------------------------------------


def test_summary_counts_what_counts():
    found = summarise(
        [
            lesion(109),
            lesion(1, certainty=Certainty.POSSIBLE, size_class=SizeClass.LARGE),
            lesion(0, size_class=SizeClass.EXCEEDING),
            lesion(122, Finding.IRON),
            lesion(110, Finding.IRON, counted=False),
            lesion(110, Finding.CALCIFICATION),
        ],
        present=(True, True, True),
    )
    assert (found.cmb, found.cmb_definite, found.cmb_possible) == (3, 2, 1)
    assert (found.cmb_lobar, found.cmb_deep, found.cmb_infratentorial) == (1, 0, 1)
    assert found.cmb_unlocated == 1
    assert (found.cmb_below_5mm, found.cmb_5_to_10mm, found.cmb_exceeding_10mm) == (1, 1, 1)
    assert (found.iron, found.iron_elsewhere, found.calcification) == (1, 1, 1)
    assert (found.cmb_volume_mm3, found.iron_volume_mm3) == (12.0, 4.0)


@pytest.mark.parametrize(
    ("present", "told"),
    [
        ((True, False, False), set()),
        ((False, True, False), {Finding.CMB, Finding.IRON}),
        ((True, True, False), {Finding.CMB, Finding.IRON}),
        ((False, False, True), set(Finding)),
        ((True, True, True), set(Finding)),
    ],
)
def test_what_the_scans_cannot_tell_is_missing_and_never_zero(present, told):
    assert tellable_findings(present) == told
    found = summarise([], present=present)
    assert (found.cmb == 0) is (Finding.CMB in told)
    assert (found.iron is None) is (Finding.IRON not in told)
    assert (found.calcification is None) is (Finding.CALCIFICATION not in told)
