"""Thresholds: the best F1 on whole scans, against a plain search with the real label maps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from deepmir.evaluation.detection import evaluate_person
from deepmir.labels import Finding
from deepmir.segmentation import findings_of
from deepmir.training.thresholds import (
    CANDIDATES,
    PeakScores,
    best_threshold,
    choose_thresholds,
    peak_scores,
)


def scan(seed):
    """Probabilities with blobs of many heights, some of them on reference lesions."""
    rng = np.random.default_rng(seed)
    probabilities, reference = np.full((3, 24, 24, 8), 1e-6, np.float32), np.zeros((24, 24, 8), int)
    for i in range(2, 24, 4):
        for j in range(2, 24, 4):
            block = (slice(i, i + 2), slice(j, j + 2), slice(3, 5))
            kind = rng.integers(4)
            probabilities[(0, *block)] = rng.uniform(0.2, 1)
            reference[block] = {0: 1, 1: 0, 2: 255, 3: 1}[int(kind)]
    return probabilities, reference


@settings(max_examples=15)
@given(st.integers(0, 999), st.sampled_from(CANDIDATES))
def test_peaks_count_as_the_label_map_would(seed, threshold):
    probabilities, reference = scan(seed)
    odds = special.logit(probabilities)
    score = peak_scores(odds, probabilities[0], reference, Finding.CMB)
    labels = findings_of(odds, probabilities, dict.fromkeys(Finding, threshold)).astype(int)
    counts = evaluate_person(labels, reference, connectivity=26, rule="any-overlap").cmb
    assert (score.correct >= threshold).sum() == counts.n_correct
    assert (score.false >= threshold).sum() == counts.n_predicted - counts.n_correct
    assert (score.best >= threshold).sum() == counts.n_detected
    assert len(score.best) == counts.n_reference


def test_the_threshold_parts_false_from_true():
    score = PeakScores(np.full(9, 0.96), np.full(20, 0.75), np.full(9, 0.96))
    assert best_threshold([score], otherwise=0.5) == 0.8


def test_few_lesions_choose_nothing():
    score = PeakScores(np.full(2, 0.96), np.full(20, 0.75), np.full(2, 0.96))
    assert best_threshold([score], otherwise=0.42) == 0.42
    assert best_threshold([], otherwise=0.42) == 0.42


def test_each_finding_has_its_own():
    drawn = [scan(seed) for seed in range(3)]
    scans = [(special.logit(p), p, reference) for p, reference in drawn]
    chosen = choose_thresholds(scans, dict.fromkeys(Finding, 0.6))
    assert chosen[Finding.IRON] == 0.6
    assert chosen[Finding.CMB] in CANDIDATES


@pytest.mark.parametrize("seed", [1, 2])
def test_the_choice_is_the_best_of_the_candidates(seed):
    probabilities, reference = scan(seed)
    odds = special.logit(probabilities)
    chosen = choose_thresholds([(odds, probabilities, reference)], dict.fromkeys(Finding, 0.6))
    f1 = {}
    for threshold in CANDIDATES:
        labels = findings_of(odds, probabilities, dict.fromkeys(Finding, threshold)).astype(int)
        counts = evaluate_person(labels, reference, connectivity=26, rule="any-overlap").cmb
        f1[threshold] = counts.f1
    assert f1[chosen[Finding.CMB]] == pytest.approx(max(f1.values()))
