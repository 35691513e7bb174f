"""Where other packages compute the same quantity, they say the same."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from deepmir.evaluation.agreement import burden_of, intraclass, weighted_kappa
from deepmir.evaluation.bootstrap import holm
from deepmir.evaluation.candidates import Candidates, reliability_counts
from deepmir.evaluation.curves import candidate_reliability, curve_of, reliability_of
from deepmir.evaluation.detection import evaluate_person
from deepmir.evaluation.person import PersonMaps, assess_person
from deepmir.evaluation.rules import RULES
from deepmir.labels import Finding

ANSWERS = json.loads(Path(__file__).with_name("oracles.json").read_text(encoding="utf-8"))


def load_program():
    path = Path(__file__).parents[2] / "benchmarks" / "oracles.py"
    spec = importlib.util.spec_from_file_location("oracles", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ORACLES = load_program()


@pytest.mark.parametrize("answer", ANSWERS["panoptica"], ids=lambda answer: str(answer["seed"]))
def test_panoptica_counts_the_same_under_its_rule(answer):
    reference, prediction = ORACLES.masks_of(answer["seed"])
    maps = [mask.astype(np.int32) for mask in (prediction, reference)]
    found = evaluate_person(*maps, rule="panoptica").cmb
    assert found.n_reference == answer["n_reference"]
    assert found.n_predicted == answer["n_prediction"]
    assert (found.n_detected, found.n_correct) == (answer["tp"], answer["tp"])
    assert found.f1 == pytest.approx(answer["rq"])
    person = assess_person(
        PersonMaps(prediction=maps[0], reference=maps[1], affine=np.eye(4)), rule=RULES["panoptica"]
    )
    assert person.overlaps[Finding.CMB].dice == pytest.approx(answer["dice"])


@pytest.mark.parametrize("answer", ANSWERS["icc"], ids=lambda answer: str(answer["seed"]))
def test_pingouin_gives_the_same_intraclass_correlation(answer):
    found = intraclass(ORACLES.counts_of(answer["seed"]).astype(float))
    assert found.value == pytest.approx(answer["value"], abs=1e-6)
    # pingouin rounds the interval to two digits
    assert [found.low, found.high] == pytest.approx(answer["interval"], abs=0.0051)


@pytest.mark.parametrize("answer", ANSWERS["kappa"], ids=lambda answer: str(answer["seed"]))
def test_statsmodels_gives_the_same_weighted_kappa(answer):
    counts = ORACLES.counts_of(answer["seed"]).astype(float)
    assert burden_of(counts[:, 1], counts[:, 0]).kappa == pytest.approx(answer["value"])


def test_statsmodels_corrects_alike():
    answer = ANSWERS["holm"]
    assert holm(answer["p_values"]) == pytest.approx(answer["corrected"])


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_gives_the_same_kappa(seed):
    first, second = np.random.default_rng(seed).integers(4, size=(2, 30))
    expected = metrics.cohen_kappa_score(first, second, weights="quadratic")
    assert weighted_kappa(first, second, n_classes=4) == pytest.approx(expected)


def candidates(*, digits):
    """Candidates of which each correct one hits a reference of its own, and none is missed."""
    random = np.random.default_rng(11)
    peaks = random.random(60).round(digits)
    correct = random.random(60) < peaks
    pairs = tuple((n + 1, int(at)) for n, at in enumerate(np.flatnonzero(correct)))
    return Candidates(int(correct.sum()), peaks, correct, pairs)


def test_scikit_learn_gives_the_same_precision_and_recall():
    one_to_one = candidates(digits=2)  # so that some are equal
    curve = curve_of([one_to_one])
    precision, recall, _ = metrics.precision_recall_curve(one_to_one.correct, one_to_one.peaks)
    assert curve.precision[::-1] == pytest.approx(precision[:-1])
    assert curve.sensitivity[::-1] == pytest.approx(recall[:-1])
    expected = metrics.average_precision_score(one_to_one.correct, one_to_one.peaks)
    assert curve.average_precision == pytest.approx(expected)


def test_scikit_learn_gives_the_same_reliability():
    one_to_one = candidates(digits=9)
    found = candidate_reliability([one_to_one])
    share, mean = calibration_curve(one_to_one.correct, one_to_one.peaks, n_bins=10)
    filled = found.n > 0
    assert found.share_true[filled] == pytest.approx(share)
    assert found.mean_probability[filled] == pytest.approx(mean)
    expected = metrics.brier_score_loss(one_to_one.correct, one_to_one.peaks)
    assert found.brier == pytest.approx(expected)


def test_a_probability_of_one_belongs_to_the_last_bin():
    found = reliability_of(reliability_counts(np.array([1.0, 0.95]), np.array([True, False])))
    assert found.n[-1] == 2
    assert found.expected_calibration_error == pytest.approx(0.475)
