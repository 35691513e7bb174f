"""Findings of the tiny network: exact on the native grid, for every subset and every grid."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from deepmir.config import Config, PreprocessConfig, SegmentConfig
from deepmir.errors import ConfigError
from deepmir.geometry import Grid
from deepmir.labels import Finding
from deepmir.model.predict import SOFTENING, log_odds
from deepmir.model.weights import Calibration, load_weights
from deepmir.preprocessing.run import prepare
from deepmir.segmentation import (
    certainty_of,
    finding_log_odds,
    findings_of,
    likely_findings,
    plan_grid,
    resolve_thresholds,
    segment_findings,
    to_findings_grid,
    to_native_grid,
    without_calcification,
)
from deepmir.volume import Modality

CONFIG = Config(
    preprocess=PreprocessConfig(bias_correction=False, register_t2w=False),
    segment=SegmentConfig(device="cpu", threads=1),
)
T2W, SWI, CHIMAP = Modality.T2W, Modality.SWI, Modality.CHIMAP
CMB, IRON, CALCIFICATION = Finding
HALVES = dict.fromkeys(Finding, 0.5)


@pytest.fixture
def weights(tiny_weights):
    return load_weights(tiny_weights)


@pytest.fixture
def person(phantom_person):
    return phantom_person()


def segmented(scans, weights, config=CONFIG):
    return segment_findings(prepare(scans, weights, config), weights, config)


# ---- known answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("modalities", [(SWI, CHIMAP), (T2W, SWI, CHIMAP)])
def test_findings_are_exact_on_a_grid_that_is_not_resampled(person, weights, modalities):
    found = segmented(person.only(*modalities), weights)
    assert np.array_equal(found.findings, person.findings)
    assert found.probabilities.shape == (3, *person.findings.shape)
    assert found.thresholds == HALVES


def test_qsm_alone_finds_all_three(person, weights):
    assert np.array_equal(segmented(person.only(CHIMAP), weights).findings, person.findings)


@pytest.mark.parametrize("modalities", [(SWI,), (T2W, SWI)])
def test_without_qsm_there_is_no_calcification(person, weights, modalities):
    found = segmented(person.only(*modalities), weights)
    wanted = np.where(person.findings == CALCIFICATION, CMB, person.findings)
    assert np.array_equal(found.findings, wanted)
    assert not found.probabilities[CALCIFICATION - 1].any()


def test_t2w_alone_has_no_answer(person, weights):
    assert segmented(person.only(T2W), weights) is None


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((80, 84, 26), (0.5, 0.55, 2.0)),  # resampled to 0.6 mm
        ((34, 38, 26), (1.2, 1.3, 2.0)),  # to 1 mm
        ((26, 48, 44), (2.0, 0.95, 0.9)),  # sagittal: I is the slice axis
        ((44, 26, 48), (0.9, 2.0, 0.95)),  # coronal
        ((40, 42, 44), (1.0, 1.0, 1.0)),  # isotropic
    ],
)
def test_every_finding_is_found_on_any_grid(phantom_person, weights, shape, spacing_mm):
    person = phantom_person(shape, spacing_mm, radius_mm=4)
    found = segmented(person.only(SWI, CHIMAP), weights).findings
    for finding in Finding:
        here, there = person.findings == finding, found == finding
        assert 2 * (here & there).sum() / (here.sum() + there.sum()) > 0.8


def test_what_is_stored_is_calibrated_for_the_contrasts_that_are_there(person, weights):
    doubtful = {"CMB": Calibration(slope=0.5, offset=-1.0)}
    manifest = replace(weights.manifest, calibration={"swi+Chimap": doubtful})
    fitted = replace(weights, manifest=manifest)
    prepared = prepare(person.only(SWI, CHIMAP), weights, CONFIG)
    raw = segment_findings(prepared, weights, CONFIG).probabilities
    found = segment_findings(prepared, fitted, CONFIG).probabilities
    odds, box = finding_log_odds(prepared, weights, CONFIG)
    has_chi = prepared.channels[2][box] != 0
    wanted = special.expit(0.5 * odds[CMB - 1] - 1)
    assert has_chi.sum() > 500
    assert found[CMB - 1][box][has_chi] == pytest.approx(wanted[has_chi], abs=2e-3)
    assert np.array_equal(found[CMB - 1][box][~has_chi], raw[CMB - 1][box][~has_chi])
    assert np.array_equal(found[IRON - 1], raw[IRON - 1])
    alone = segmented(person.only(CHIMAP), fitted).probabilities
    assert np.array_equal(alone, segmented(person.only(CHIMAP), weights).probabilities)


def test_small_windows_change_nothing(person, weights):
    inputs = replace(weights.manifest.inputs, findings_window=(16, 16, 8))
    small = replace(weights, manifest=replace(weights.manifest, inputs=inputs))
    scans = person.only(SWI, CHIMAP)
    assert np.array_equal(segmented(scans, small).findings, person.findings)


def test_nothing_is_found_outside_the_brain_mask(person, weights):
    mask = person.brain & (person.findings != CMB)
    prepared = prepare(person.scans, weights, CONFIG, brain_mask=mask)
    found = segment_findings(prepared, weights, CONFIG)
    assert not (found.findings == CMB).any()
    assert not found.probabilities[:, ~mask].any()


def test_the_configs_threshold_wins(person, weights):
    strict = replace(CONFIG, segment=replace(CONFIG.segment, thresholds={"CMB": 1.0}))
    found = segmented(person.only(SWI, CHIMAP), weights, strict)
    assert not (found.findings == CMB).any()
    assert (found.findings == IRON).any()
    assert found.thresholds == HALVES | {CMB: 1.0}


def test_progress_is_told(person, weights):
    told = []
    prepared = prepare(person.scans, weights, CONFIG)
    segment_findings(prepared, weights, CONFIG, progress=lambda *step: told.append(step))
    assert told[-1] == ("segment", 1.0)


# ---- the parts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spacing_mm", "order", "target_mm"),
    [
        ((0.9, 0.9, 1.5), (0, 1, 2), (0.9, 0.9, 1.5)),
        ((0.5, 0.75, 2.0), (0, 1, 2), (0.6, 0.75, 2.0)),
        ((2.0, 0.5, 0.5), (2, 1, 0), (0.6, 0.6, 2.0)),
        ((1.2, 3.0, 0.8), (0, 2, 1), (1.0, 0.8, 3.0)),
        ((1.0, 1.02, 1.0), (0, 1, 2), (1.0, 1.0, 1.0)),
    ],
)
def test_the_thickest_axis_is_last_and_never_resampled(spacing_mm, order, target_mm):
    plan = plan_grid(Grid((8, 9, 10), np.diag([*spacing_mm, 1.0])))
    assert plan.order == order
    assert plan.target_mm == pytest.approx(target_mm)


@given(
    st.tuples(*[st.floats(0.3, 4)] * 3),
    st.tuples(*[st.integers(12, 20)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_there_and_back_keeps_a_smooth_map(spacing_mm, shape):
    plan = plan_grid(Grid(shape, np.diag([*spacing_mm, 1.0])))
    ramp = np.add.outer(np.add.outer(*map(np.arange, shape[:2])), np.arange(shape[2]))
    image = ramp.astype(np.float32)
    there = to_findings_grid(image, plan)
    back = to_native_grid(there[np.newaxis], plan, shape)[0]
    assert there.shape[2] == shape[plan.order[2]]
    inner = (slice(5, -5),) * 3
    assert back.shape == shape
    assert back[inner] == pytest.approx(image[inner], abs=1e-3)


def test_calcification_is_added_to_cmb_in_a_copy():
    p = np.array([0.1, 0.3, 0.2, 0.4], dtype=np.float32).reshape(4, 1, 1, 1)
    softened = p ** (1 / SOFTENING)
    merged = without_calcification(softened)
    assert special.expit(log_odds(merged)).ravel().tolist() == pytest.approx([0.7, 0.2, 0])
    assert softened.ravel().tolist() == pytest.approx((p ** (1 / SOFTENING)).ravel().tolist())


@pytest.mark.parametrize(
    ("thresholds", "complaint"),
    [({"VEIN": 0.5}, "unknown finding 'VEIN'"), ({"CMB": 0}, "CMB is 0")],
)
def test_bad_thresholds_are_refused(weights, thresholds, complaint):
    with pytest.raises(ConfigError, match=complaint):
        resolve_thresholds(weights, SegmentConfig(thresholds=thresholds))


def test_a_deposit_is_one_finding_even_where_its_rim_looks_like_another():
    p = np.full((3, 6, 5, 4), 1e-6)
    p[1, 1:4, 1:4, 1:3] = 0.9  # iron
    p[:, 4, 2, 2] = (0.8, 0.1, 1e-6)  # its rim, more like a microbleed
    p[0, 5, 0, 0] = 0.8  # does not touch
    labels = likely_findings(special.logit(p))
    assert set(np.unique(labels)) == {0, Finding.CMB, Finding.IRON}
    assert labels[4, 2, 2] == Finding.IRON
    assert labels[5, 0, 0] == Finding.CMB


def test_a_threshold_is_asked_of_the_peak_and_does_not_shrink_the_extent():
    p = np.full((3, 9, 5, 4), 1e-6)
    p[0, 1:4, 1:4, 1:3] = 0.6
    p[0, 2, 2, 1] = 0.99  # one sure voxel carries all of them
    p[0, 6:8, 1:3, 1:3] = 0.9  # sure nowhere
    labels = findings_of(special.logit(p), p, HALVES | {Finding.CMB: 0.95})
    assert (labels[1:4, 1:4, 1:3] == Finding.CMB).all()
    assert labels.sum() == 18


def test_the_extent_is_the_networks_and_the_certainty_decides_what_is_kept():
    p = np.full((3, 9, 5, 4), 1e-6)
    p[0, 1:4, 1:4, 1:3] = 0.9
    odds = special.logit(p)
    assert findings_of(odds, p, HALVES).sum() == 18
    assert findings_of(odds, p / 2, HALVES).sum() == 0
    assert findings_of(odds, p / 2, HALVES | {Finding.CMB: 0.3}).sum() == 18


def test_beyond_the_chimap_only_what_the_other_contrasts_tell_counts():
    def calibrations(present):
        doubt = 0.0 if present[2] else -2.0
        return dict.fromkeys(Finding, Calibration(offset=doubt))

    odds = np.ones((3, 2, 1, 1), dtype=np.float32)
    chi = np.array([0.1, 0.0], dtype=np.float32).reshape(2, 1, 1)
    both = certainty_of(odds, calibrations, (False, True, True), chi=chi)
    assert both[CMB - 1].ravel() == pytest.approx(special.expit([1, -1]))
    assert both[IRON - 1].ravel() == pytest.approx(special.expit([1, -1]))
    assert both[CALCIFICATION - 1].ravel() == pytest.approx(special.expit([1, 1]))
    alone = certainty_of(odds, calibrations, (False, False, True), chi=chi)
    assert alone == pytest.approx(special.expit(odds))
