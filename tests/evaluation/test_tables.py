"""Scores as text."""

import numpy as np

from deepmir.evaluation.detection import evaluate_person
from deepmir.evaluation.tables import (
    CONFUSION_HEAD,
    DETECTION_HEAD,
    confusion_rows,
    detection_rows,
    format_score,
    number_text,
)


def score():
    prediction = np.array([[[1, 0, 1, 0, 2]]])
    reference = np.array([[[1, 0, 0, 0, 0]]])
    return evaluate_person(prediction, reference, connectivity=26, rule="any-overlap")


def test_rows_fit_their_heads():
    cmb, iron, _ = detection_rows(score())
    assert cmb == ("CMB", "1", "1", "2", "1", "1.00", "0.50", "0.67", "1.00", "n/a")
    assert iron[5:] == ("n/a", "0.00", "0.00", "1.00", "1.00")
    assert len(cmb) == len(DETECTION_HEAD)
    assert confusion_rows(score())[0] == ("CMB", "1", "0", "0", "0", "1")
    assert {len(row) for row in confusion_rows(score())} == {len(CONFUSION_HEAD)}


def test_text_names_the_rule_and_aligns():
    lines = format_score(score()).splitlines()
    assert lines[0] == "Detection (matching any-overlap, 26-connectivity, 1 person)"
    assert lines[1].startswith("finding")
    assert len(lines[1]) == len(lines[2])


def test_undefined_is_not_a_number():
    assert (number_text(None), number_text(0.456), number_text(1.0, 1)) == ("n/a", "0.46", "1.0")
