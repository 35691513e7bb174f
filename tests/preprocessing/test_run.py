"""Preprocessing as a whole: every subset of scans, any grid, and what is refused."""

import re
from dataclasses import replace

import numpy as np
import pytest

from deepmir.config import Config, PreprocessConfig, SegmentConfig
from deepmir.errors import GeometryError, InputError, UnitError
from deepmir.geometry import Grid
from deepmir.model.weights import load_weights
from deepmir.preprocessing.resample import resample
from deepmir.preprocessing.run import (
    Coverage,
    brain_coverage,
    check_scans,
    coverage_notices,
    prepare,
    scaled_channels,
)
from deepmir.volume import Modality, Scans

CONFIG = Config(segment=SegmentConfig(device="cpu", threads=1))
T2W, SWI, CHIMAP = Modality.T2W, Modality.SWI, Modality.CHIMAP
SUBSETS = [(T2W,), (SWI,), (CHIMAP,), (T2W, SWI), (T2W, CHIMAP), (SWI, CHIMAP), (T2W, SWI, CHIMAP)]


@pytest.fixture
def person(phantom_person):
    return phantom_person()


@pytest.fixture
def fast():
    """No registration and no N4, for tests of the rest."""
    return Config(
        preprocess=PreprocessConfig(bias_correction=False, register_t2w=False),
        segment=CONFIG.segment,
    )


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# ---- subsets and grids -----------------------------------------------------------------------


@pytest.mark.parametrize("modalities", SUBSETS)
def test_every_subset_is_prepared(person, weights, fast, modalities):
    scans = person.only(*modalities)
    prepared = prepare(scans, weights, fast)
    assert prepared.present == tuple(m in modalities for m in (T2W, SWI, CHIMAP))
    assert prepared.grid.matches(scans.reference.grid)
    assert prepared.channels.shape == (3, *person.brain.shape)
    assert [bool(channel.any()) for channel in prepared.channels] == list(prepared.present)
    assert [alignment.modality for alignment in prepared.alignments] == list(modalities)
    agreement = (prepared.brain_mask == person.brain).mean()
    assert agreement > 0.97


def test_the_reference_is_swi_then_chimap_then_t2w(person, weights, fast):
    for modalities, wanted in [((T2W, CHIMAP), CHIMAP), ((T2W,), T2W), ((T2W, SWI), SWI)]:
        prepared = prepare(person.only(*modalities), weights, fast)
        assert prepared.reference.modality is wanted
        assert prepared.alignments[modalities.index(wanted)].method == "identity"


def test_scans_on_other_grids_come_onto_the_reference(person, weights):
    t2w, chimap = person.scans.t2w, person.scans.chimap
    fine = Grid((50, 60, 48), t2w.affine @ np.diag([0.8, 0.8, 0.55, 1]))
    there = replace(t2w, data=resample(t2w.data, t2w.affine, fine), affine=fine.affine)
    corner = np.eye(4)
    corner[2, 3] = 3
    crop = replace(chimap, data=chimap.data[..., 3:-2], affine=chimap.affine @ corner)
    prepared = prepare(Scans(t2w=there, swi=person.scans.swi, chimap=crop), weights, CONFIG)
    assert [a.method for a in prepared.alignments] == [
        prepared.alignments[0].method,
        "identity",
        "affine",
    ]
    assert prepared.alignments[0].translation_mm < 0.7
    for volume in (prepared.aligned.t2w, prepared.aligned.swi, prepared.aligned.chimap):
        assert volume.grid.matches(prepared.grid)
    inner = prepared.brain_mask.copy()
    inner[..., :3] = inner[..., -2:] = False
    assert_close(prepared.aligned.chimap.data[inner], chimap.data[inner])


def test_a_thick_axis_that_is_not_the_last_is_no_obstacle(phantom_person, weights, fast):
    person = phantom_person((26, 48, 44), (2.0, 0.95, 0.9))
    prepared = prepare(person.scans, weights, fast)
    assert (prepared.brain_mask == person.brain).mean() > 0.97


def test_the_same_input_gives_the_same_bits(person, weights):
    first, second = (prepare(person.scans, weights, CONFIG) for _ in range(2))
    assert first.channels.tobytes() == second.channels.tobytes()
    assert first.regions.tobytes() == second.regions.tobytes()


def test_inputs_are_left_alone(person, weights):
    before = [v.data.copy() for v in (person.scans.t2w, person.scans.swi, person.scans.chimap)]
    prepare(person.scans, weights, CONFIG)
    after = [v.data for v in (person.scans.t2w, person.scans.swi, person.scans.chimap)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


# ---- units, masks, coverage ------------------------------------------------------------------


def test_a_map_in_ppb_is_converted_and_noticed(person, weights, fast):
    ppb = replace(person.scans.chimap, data=person.scans.chimap.data * 1000)
    prepared = prepare(Scans(chimap=ppb), weights, fast)
    assert_close(prepared.aligned.chimap.data, person.scans.chimap.data)
    assert any("divided by 1000" in notice.message for notice in prepared.notices)


def test_an_explicit_unit_is_obeyed(person, weights, fast):
    thousand = replace(person.scans.chimap, data=person.scans.chimap.data * 4096)
    prepared = prepare(Scans(chimap=thousand), weights, fast, qsm_unit="scaled-4096")
    assert_close(prepared.aligned.chimap.data, person.scans.chimap.data)
    assert prepared.aligned.chimap.unit == "ppm"


def test_a_unit_that_cannot_be_told_is_refused(person, weights, fast):
    odd = replace(person.scans.chimap, data=person.scans.chimap.data * 20, unit="")
    with pytest.raises(UnitError, match="--qsm-unit"):
        prepare(Scans(chimap=odd), weights, fast)


def test_a_nuclei_part_draws_the_nuclei(person, weights, tiny_weights_with_nuclei, fast):
    without = prepare(person.scans, weights, fast).regions
    prepared = prepare(person.scans, load_weights(tiny_weights_with_nuclei), fast)
    found = prepared.regions
    assert {122, 222, 123, 223} <= set(np.unique(without))
    assert not {122, 222, 123, 223} & set(np.unique(found))
    assert (found[without == 122] == 121).mean() > 0.9
    assert (found[without == 222] == 221).mean() > 0.9
    others = ~np.isin(without % 100, (22, 23))
    assert (found == without)[others].mean() > 0.99
    assert 121 in prepared.brain_coverage
    assert 123 not in prepared.brain_coverage


def test_a_users_mask_is_obeyed(person, weights, fast):
    mask = person.brain.copy()
    mask[:15] = False
    prepared = prepare(person.scans, weights, fast, brain_mask=mask)
    assert np.array_equal(prepared.brain_mask, mask)
    assert not prepared.regions[:15].any()


def test_regions_outside_the_field_of_view_are_not_covered(person, weights, fast):
    prepared = prepare(person.scans, weights, fast)
    coverage = prepared.brain_coverage
    assert 123 in coverage
    assert 1 not in coverage  # the tiny network knows no brain stem
    assert coverage.complete
    assert coverage.brain_ml == pytest.approx(person.brain.sum() * 0.9 * 0.95 * 2 / 1000, rel=0.1)
    assert coverage.share == len(coverage.regions) / 30
    assert any("ml of brain" in notice.message for notice in prepared.notices)


@pytest.mark.parametrize(
    ("brain_ml", "share", "said"),
    [
        (1200, 1.0, []),
        (2230, 1.0, []),  # the person of `deepmir demo`
        (800, 1.0, ["800 ml of brain and 100% of the regions"]),
        (590, 0.8, ["590 ml of brain and 80% of the regions"]),
        (590, 1.0, ["590 ml of brain with 100% of its regions.* 1 × 1 × 3 mm by its header"]),
        (3500, 0.9, ["3500 ml of brain with 90% of its regions.* 1 × 1 × 3 mm by its header"]),
    ],
)
def test_a_voxel_size_that_can_hardly_be_right_is_said(brain_ml, share, said):
    coverage = Coverage(frozenset(), brain_ml=brain_ml, complete=True, share=share)
    notices = coverage_notices(coverage, Grid((10, 10, 10), np.diag([1, 1, 3, 1])))
    assert len(notices) == len(said)
    for notice, text in zip(notices, said, strict=True):
        assert re.search(text, notice.message)
        assert (notice.level == "warning") == ("header" in text)


def test_a_brain_that_is_cut_off_is_incomplete(person, weights, fast):
    swi = replace(person.scans.swi, data=person.scans.swi.data[..., :14])
    prepared = prepare(Scans(swi=swi), weights, fast)
    assert not prepared.brain_coverage.complete


def test_a_handful_of_voxels_is_no_region_in_view(person, weights, fast):
    prepared = prepare(person.scans, weights, fast)
    regions = np.zeros_like(prepared.regions)
    regions[5, 5, :2] = 109
    regions[20, :10, :8] = 209

    class Seen:
        brain_mask = prepared.brain_mask

    Seen.regions = regions
    assert brain_coverage(Seen, prepared.grid).regions == frozenset({209})


def test_bias_correction_acts_on_intensities_only(person, fast):
    ramp = np.linspace(0.6, 1.4, person.brain.shape[0])[:, None, None]
    scans = replace(
        person.scans,
        swi=person.scans.swi.with_data((person.scans.swi.data * ramp).astype(np.float32)),
    )
    off = scaled_channels(scans, person.brain, fast.preprocess)
    on = scaled_channels(scans, person.brain, CONFIG.preprocess)
    plain = person.brain & (person.findings == 0)
    assert on[1][plain].std() < 0.5 * off[1][plain].std()
    assert np.array_equal(on[2], off[2])


def test_progress_rises_to_one(person, weights, fast):
    told = []
    prepare(person.scans, weights, fast, progress=lambda stage, share: told.append((stage, share)))
    assert {stage for stage, _ in told} == {"preprocess"}
    assert told == sorted(told, key=lambda pair: pair[1])
    assert told[-1][1] == 1


# ---- refusals --------------------------------------------------------------------------------


def test_no_scan_at_all_is_refused(weights):
    with pytest.raises(GeometryError, match="at least one"):
        prepare(Scans(), weights, CONFIG)


def test_a_mask_on_another_grid_is_refused(person, weights):
    with pytest.raises(GeometryError, match=r"brain mask is .* sub-01_swi\.nii"):
        prepare(person.scans, weights, CONFIG, brain_mask=person.brain[1:])


def test_an_empty_mask_is_refused(person, weights):
    with pytest.raises(InputError, match="mask is empty"):
        prepare(person.scans, weights, CONFIG, brain_mask=person.brain & False)


def test_impostors_are_refused_before_anything_is_computed(person):
    negative = replace(person.scans.swi, data=-person.scans.swi.data)
    magnitude = replace(person.scans.chimap, data=np.abs(person.scans.chimap.data))
    with pytest.raises(InputError, match=r"sub-01_swi\.nii.*positive intensities"):
        check_scans(Scans(swi=negative))
    with pytest.raises(InputError, match=r"sub-01_Chimap\.nii looks like a magnitude"):
        check_scans(Scans(chimap=magnitude))


def test_an_inverted_map_is_refused(person, weights, fast):
    prepared = prepare(person.scans, weights, fast)
    nuclei = np.isin(prepared.regions % 100, [22, 23])
    data = np.where(nuclei, person.scans.chimap.data - 0.1, person.scans.chimap.data)
    chimap = person.scans.chimap.with_data(data.astype(np.float32))
    with pytest.raises(InputError, match=r"sub-01_Chimap\.nii is inverted"):
        prepare(Scans(chimap=chimap), weights, fast)
