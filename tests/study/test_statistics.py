"""The paper's statistics against values worked out by hand and by scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deepmir.study.statistics import PersonCounts, agreement_of, mean_of, summarise_cell

counts = st.lists(st.integers(0, 50), min_size=2, max_size=30)


def test_means_are_over_persons_who_have_the_finding():
    persons = [
        PersonCounts("a", 4, 2, 4, 1),
        PersonCounts("b", 1, 1, 1, 1),
        PersonCounts("c", 0, 0, 5, 0),
        PersonCounts("d", 2, 0, 0, 0),
    ]
    cell = summarise_cell(persons)
    assert (cell.sensitivity.n, cell.sensitivity.value) == (3, 0.5)
    assert (cell.precision.n, cell.precision.value) == (2, 0.625)
    assert cell.agreement.n == 4
    assert cell.agreement.mean_difference == (0 + 0 + 5 - 2) / 4


def test_nobody_with_the_finding_gives_no_mean():
    cell = summarise_cell([PersonCounts("a", 0, 0, 1, 0)])
    assert (cell.sensitivity, cell.precision) == (None, None)
    assert cell.agreement.pearson_r is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=24))
def test_error_and_interval_are_those_of_scipy(values):
    mean = mean_of(values)
    assert mean.error == pytest.approx(stats.sem(values), abs=1e-12)
    assert 0 <= mean.low <= mean.value + 1e-12
    assert mean.value <= mean.high + 1e-12 <= 1 + 1e-12


def test_one_person_has_no_error():
    mean = mean_of([0.7, None])
    assert (mean.value, mean.error, mean.low) == (0.7, None, None)


@given(counts, st.integers(0, 9))
def test_a_constant_excess_moves_the_difference_alone(reference, excess):
    agreement = agreement_of(reference, [n + excess for n in reference])
    assert agreement.mean_difference == pytest.approx(excess)
    assert agreement.low == pytest.approx(excess)
    assert agreement.high == pytest.approx(excess)
    if np.std(reference) > 0:
        assert agreement.pearson_r == pytest.approx(1)


@given(counts, st.randoms())
def test_swapping_the_roles_mirrors_the_limits(reference, random):
    other = random.sample(reference, len(reference))
    one, two = agreement_of(reference, other), agreement_of(other, reference)
    assert one.low == pytest.approx(-two.high)
    assert one.pearson_r == two.pearson_r


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        agreement_of([1, 2], [1])
