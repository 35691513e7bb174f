"""Choosing thresholds: what lies within and beyond the Chimap, and what certainty means."""

import numpy as np
import pytest
from scipy import special

from deepmir.labels import Finding
from deepmir.model.weights import Calibration

PLAIN = (Calibration(), Calibration())


@pytest.fixture(scope="module")
def chosen(benchmark_module):
    return benchmark_module("choose_thresholds")


def drawn(chosen, seed, n=4000, *, slope=0.5, offset=-2.0):
    """Candidates whose peaks mean what a calibration says, as many found as are real."""
    rng = np.random.default_rng(seed)
    peaks = np.stack([rng.uniform(0, 20, n), np.full(n, -np.inf)], axis=1)
    real = rng.random(n) < special.expit(slope * peaks[:, 0] + offset)
    return chosen.Candidates(peaks, real, peaks[real], n_cases=n)


def test_the_calibration_that_made_the_candidates_is_found_again(chosen):
    candidates = drawn(chosen, 0)
    usual = float(candidates.real.mean())  # as many a case as there are: all weights are 1
    fitted = chosen.fit_calibration(candidates, usual)
    assert fitted.slope == pytest.approx(0.5, rel=0.15)
    assert fitted.offset == pytest.approx(-2.0, rel=0.15)


def test_what_lies_beyond_the_chimap_is_not_fitted(chosen):
    candidates = drawn(chosen, 0)
    usual = float(candidates.real.mean())
    beyond = np.array([[-np.inf, 15.0]] * 500)
    more = chosen.Candidates(
        np.concatenate([candidates.peaks, beyond]),
        np.concatenate([candidates.real, np.zeros(500, dtype=bool)]),
        candidates.found_by,
        candidates.n_cases,
    )
    assert chosen.fit_calibration(more, usual) == chosen.fit_calibration(candidates, usual)


def test_peaks_within_and_beyond_the_chimap_are_told_apart(chosen):
    odds = np.full((3, 12, 6, 4), -9.0)
    labels = np.zeros((12, 6, 4), dtype=int)
    has_chi = np.zeros((12, 6, 4), dtype=bool)
    has_chi[:5] = True
    odds[0, 1:3, 1, 1] = 8  # real, within
    labels[1:3, 1, 1] = Finding.CMB
    odds[0, 4, 4, 1], odds[0, 5, 4, 1] = 2, 6  # false, on the border
    odds[0, 9, 1, 1] = 5  # false, beyond
    labels[9, 4, 1] = Finding.CMB  # missed
    found = chosen.candidates_of(odds, labels, ~has_chi)[Finding.CMB]
    assert sorted(found.peaks.tolist()) == [[-np.inf, 5], [2, 6], [8, -np.inf]]
    assert found.peaks[found.real].tolist() == [[8, -np.inf]]
    assert sorted(found.found_by.tolist()) == [[-np.inf, -np.inf], [8, -np.inf]]


def test_certainty_is_that_of_the_surer_side(chosen):
    peaks = np.array([[1.0, 3.0], [-np.inf, -np.inf]])
    doubtful = (Calibration(), Calibration(slope=0.1))
    assert chosen.certainty(peaks, PLAIN) == pytest.approx([special.expit(3), 0])
    assert chosen.certainty(peaks, doubtful) == pytest.approx([special.expit(1), 0])


def test_sensitivity_at_some_false_findings_a_person(chosen):
    peaks = np.array([[9.0, -np.inf], [8.0, -np.inf], [7.0, -np.inf], [6.0, -np.inf]])
    real = np.array([True, False, True, False])
    row = chosen.Candidates(peaks, real, np.concatenate([peaks[real], [[-np.inf] * 2]]), n_cases=1)
    assert chosen.sensitivity_at(row, PLAIN, 0) == pytest.approx(1 / 3)
    assert chosen.sensitivity_at(row, PLAIN, 1) == pytest.approx(2 / 3)
    assert chosen.sensitivity_at(row, PLAIN, 5) == pytest.approx(2 / 3)


def test_probabilities_that_mean_what_they_say_have_bins_on_the_diagonal(chosen):
    persons = [drawn(chosen, seed) for seed in range(4)]
    usual = float(np.mean([person.real.mean() for person in persons]))
    for probability, share, _ in chosen.cross_fitted_bins(persons, persons, usual):
        assert share == pytest.approx(probability, abs=0.06)
