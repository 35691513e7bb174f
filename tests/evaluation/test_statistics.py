"""Agreement, intervals, comparisons: known answers and laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepmir.errors import InputError
from deepmir.evaluation import bootstrap
from deepmir.evaluation.agreement import agreement_of, bland_altman, intraclass, weighted_kappa
from deepmir.evaluation.candidates import Candidates, candidates_of
from deepmir.evaluation.curves import curve_of
from deepmir.evaluation.detection import evaluate_person
from deepmir.evaluation.rules import RULES
from deepmir.labels import Finding

# ---- agreement -------------------------------------------------------------


def test_known_agreement():
    found = agreement_of([0, 3, 6, 12], [0, 1, 5, 14])
    assert (found.mean_error, found.mean_absolute_error) == (0.25, 1.25)
    assert found.pearson.value == pytest.approx(stats.pearsonr([0, 3, 6, 12], [0, 1, 5, 14])[0])
    assert found.pearson.low < found.pearson.value < found.pearson.high
    assert found.burden.table == ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    assert (found.burden.kappa, found.burden.same_class) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("count", "burden"), [(0, 0), (1, 1), (4, 1), (5, 2), (10, 2), (11, 3), (90, 3)]
)
def test_classes_of_burden(count, burden):
    table = np.array(agreement_of([count], [count]).burden.table)
    assert table[burden, burden] == 1


def test_limits_of_agreement_hold_most_differences():
    found = bland_altman(np.array([2.0, 4.0, 6.0]), np.array([1.0, 4.0, 8.0]))
    spread = 1.96 * np.std([1.0, 0.0, -2.0], ddof=1)
    assert found.bias == pytest.approx(-1 / 3)
    assert found.upper_limit - found.bias == pytest.approx(spread)


def test_what_agreement_cannot_tell_is_none():
    found = agreement_of([2], [2])
    assert (found.pearson, found.intraclass, found.bland_altman) == (None, None, None)
    same = agreement_of([1, 1, 1, 1], [1, 1, 1, 1])
    assert (same.pearson, same.intraclass, same.burden.kappa) == (None, None, None)


def test_absolute_agreement_punishes_a_constant_difference():
    first = np.arange(8.0)
    assert intraclass(np.stack([first, first], axis=1)).value == pytest.approx(1.0)
    shifted = intraclass(np.stack([first, first + 3], axis=1))
    assert 0 < shifted.value < 0.8


def test_counts_of_different_persons_are_refused():
    with pytest.raises(ValueError, match="two counts"):
        agreement_of([1, 2], [1])
    with pytest.raises(ValueError, match="two counts"):
        agreement_of([], [])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=4, max_size=20))
@settings(deadline=None, max_examples=50)
def test_agreement_does_not_depend_on_order_or_roles(counts):
    first, second = (list(side) for side in zip(*counts, strict=True))
    here, there = agreement_of(first, second), agreement_of(second[::-1], first[::-1])
    assert here.mean_error == pytest.approx(-there.mean_error)
    for name in ("pearson", "intraclass"):
        one, other = getattr(here, name), getattr(there, name)
        assert (one is None) == (other is None)
        assert one is None or one.value == pytest.approx(other.value)
    assert (here.burden.kappa is None) == (there.burden.kappa is None)


def test_kappa_of_opposite_raters_is_negative():
    assert weighted_kappa(np.array([0, 1]), np.array([1, 0]), n_classes=2) == -1.0


# ---- bootstrap -------------------------------------------------------------


def persons(*texts):
    """Count persons, each given as ``prediction/reference``."""
    found = []
    for text in texts:
        maps = [
            np.array([[[int(character == "#") for character in side]]]) for side in text.split("/")
        ]
        found.append(evaluate_person(*maps, rule="deepmir").cmb)
    return bootstrap.counts_of(found)


COHORT = persons(*["#.#/#..", "../.#", "#/#", "#.#.#/.....", "#/.", "../..", "#.#/#.#"] * 4)


def test_intervals_of_pooled_figures_agree_with_scipy():
    draws = bootstrap.draw_persons(len(COHORT), seed=3, n_resamples=4000)
    ours = bootstrap.pooled_interval(COHORT, bootstrap.f1, draws)
    theirs = stats.bootstrap(
        (np.arange(len(COHORT)),),
        lambda at: float(bootstrap.f1(COHORT[at].sum(axis=0))),
        method="percentile",
        vectorized=False,
        n_resamples=4000,
        rng=np.random.default_rng(4),
    ).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.03)
    assert ours.low < ours.value < ours.high


def test_the_same_seed_gives_the_same_interval_and_one_person_has_no_spread():
    draws = [bootstrap.draw_persons(len(COHORT), seed=seed) for seed in (1, 1, 2)]
    found = [bootstrap.pooled_interval(COHORT, bootstrap.sensitivity, one) for one in draws]
    assert found[0] == found[1] != found[2]
    alone = persons("#.#/#..")
    one = bootstrap.pooled_interval(alone, bootstrap.precision, bootstrap.draw_persons(1, seed=0))
    assert (one.low, one.value, one.high) == (0.5, 0.5, 0.5)


def test_figures_that_nobody_defines_have_no_interval():
    draws = bootstrap.draw_persons(2, seed=0)
    nothing = persons("./.", "./.")
    assert bootstrap.pooled_interval(nothing, bootstrap.f1, draws) is None
    assert bootstrap.mean_interval([None, None], draws) is None
    assert bootstrap.mean_interval([None, 0.5], draws).value == 0.5


def test_figures_are_those_of_detection():
    total = COHORT.sum(axis=0)
    assert bootstrap.sensitivity(total) == pytest.approx(16 / 20)
    assert bootstrap.precision(total) == pytest.approx(16 / 36)
    assert bootstrap.false_per_person(total) == pytest.approx(20 / 28)


def test_comparing_a_method_with_itself_finds_nothing():
    draws = bootstrap.draw_persons(len(COHORT), seed=0)
    found = bootstrap.compare(COHORT, COHORT, "f1", draws)
    assert found.difference.value == 0
    assert (found.p_bootstrap, found.p_wilcoxon) == (1.0, None)


def test_a_better_method_is_told_and_the_roles_swap_the_sign():
    better = persons(*["#/#", "#.#/#.#", "../..", "#/#"] * 6)
    worse = persons(*["#.#/#..", "#..../#.#..", "#./..", "./#"] * 6)
    draws = bootstrap.draw_persons(24, seed=0)
    here = bootstrap.compare(better, worse, "f1", draws)
    there = bootstrap.compare(worse, better, "f1", draws)
    assert here.difference.low > 0
    assert here.p_bootstrap < 0.01
    assert here.p_wilcoxon < 0.01
    assert there.difference.value == -here.difference.value
    assert there.p_wilcoxon == here.p_wilcoxon
    with pytest.raises(ValueError, match="same persons"):
        bootstrap.compare(better, worse[:3], "f1", draws)


def test_holm_is_never_below_and_keeps_what_is_undefined():
    assert bootstrap.holm([None, 0.9, 0.9]) == [None, 1.0, 1.0]
    assert bootstrap.holm([]) == []


def test_runs_widen_the_interval_by_the_spread_between_seeds():
    other = persons(*["#.#/#.#", "#/#", "#/#", "#/.", "./.", "../..", "#.#/#.#"] * 4)[: len(COHORT)]
    one = bootstrap.over_runs([COHORT, COHORT], "f1", seed=0)
    two = bootstrap.over_runs([COHORT, other], "f1", seed=0)
    assert one.between_runs_sd == 0
    assert two.between_runs_sd == pytest.approx(np.std(two.values, ddof=1))
    assert two.mean.value == pytest.approx(np.mean(two.values))
    assert two.mean.high - two.mean.low > one.mean.high - one.mean.low


# ---- candidates and curves -------------------------------------------------


def candidates(probability, reference, extent=0.3):
    values = np.array([[[float(number) / 10 for number in probability.split()]]], dtype=np.float32)
    truth = np.array([[["._x".find(mark) for mark in reference]]])
    labels = np.where(truth == 2, 255, np.where(truth == 1, 1, 0))
    return candidates_of(values, labels, Finding.CMB, rule=RULES["deepmir"], extent=extent)


def test_candidates_are_components_above_the_extent_with_their_peaks():
    found = candidates("4 9 0 5 2 6 0 8", "_.......")
    assert found.peaks.tolist() == pytest.approx([0.9, 0.5, 0.6, 0.8])
    assert found.correct.tolist() == [True, False, False, False]
    assert (found.n_reference, found.pairs) == (1, ((1, 0),))


def test_candidates_on_what_is_not_scored_are_left_out():
    found = candidates("9 0 8 0 7", "x.x._")
    assert found.peaks.tolist() == pytest.approx([0.7])
    assert found.pairs == ((1, 0),)


def test_known_curve():
    one, other = candidates("9 0 8 0 6", "_..._"), candidates("7 0 0 0 0", ".....")
    curve = curve_of([one, other])
    assert curve.thresholds.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert curve.sensitivity.tolist() == [0.5, 0.5, 0.5, 1.0]
    assert curve.false_per_person.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert curve.precision.tolist() == [1.0, 0.5, pytest.approx(1 / 3), 0.5]
    assert [curve.sensitivity_at(rate) for rate in (0.125, 0.5, 1.0, 8.0)] == [0.5, 0.5, 1.0, 1.0]
    assert curve.mean_sensitivity == pytest.approx((3 * 0.5 + 4 * 1.0) / 7)


def test_a_curve_without_references_has_no_sensitivity():
    curve = curve_of([candidates("9 0 8", "...")])
    assert curve.sensitivity_at(1.0) is None
    assert curve.average_precision is None
    assert curve.mean_sensitivity is None
    empty = curve_of([Candidates(0, np.empty(0), np.empty(0, dtype=bool), ())])
    assert len(empty.thresholds) == 0


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.nan])
def test_what_is_no_probability_is_refused(wrong):
    values = np.full((2, 2, 2), 0.2, dtype=np.float32)
    values[0, 0, 0] = wrong
    labels = np.zeros((2, 2, 2), dtype=int)
    with pytest.raises(InputError, match="0 to 1"):
        candidates_of(values, labels, Finding.CMB, rule=RULES["deepmir"], extent=0.5)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_curves_rise_as_the_threshold_falls(seed):
    random = np.random.default_rng(seed)
    values = random.random((3, 5, 6, 7)).astype(np.float32) ** 4
    labels = random.choice([0, 1], size=(3, 5, 6, 7), p=[0.9, 0.1])
    found = [
        candidates_of(*pair, Finding.CMB, rule=RULES["deepmir"], extent=0.3)
        for pair in zip(values, labels, strict=True)
    ]
    curve = curve_of(found)
    assert (np.diff(curve.sensitivity) >= 0).all()
    assert (np.diff(curve.false_per_person) >= 0).all()
    assert curve.sensitivity.max(initial=0) <= 1
