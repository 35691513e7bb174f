"""How many deposits people have, and how faint the faint ones are."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from deepmir.simulation.lesions import (
    CMB_MOMENTS,
    FAINT_MOMENTS,
    MOST_CMB,
    Counts,
    Kind,
    realistic_counts,
    sample_deposits,
    training_counts,
)
from deepmir.simulation.vessels import Vessel

_SPEC = importlib.util.spec_from_file_location(
    "phantom_head", Path(__file__).with_name("phantom_head.py")
)
phantom_head = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(phantom_head)


@pytest.fixture(scope="module")
def labels():
    return phantom_head.phantom_anatomy().labels


def moments(labels, counts):
    rng = np.random.default_rng(3)
    drawn = sample_deposits(labels, counts, rng, apart_mm=-20.0)
    return np.array([d.moment_ppm_mm3 for d in drawn if d.kind is Kind.CMB])


def test_faint_microbleeds_are_near_the_limit(labels):
    faint = moments(labels, Counts(cmb=0, faint_cmb=200, iron=0, calcification=0, mixed=0))
    assert len(faint) > 50
    assert FAINT_MOMENTS[0] * 0.99 <= faint.min()
    assert faint.max() <= FAINT_MOMENTS[1] * 1.01
    assert FAINT_MOMENTS[1] < 8  # the median of the usual ones


def test_usual_microbleeds_go_from_hardly_visible_to_blatant(labels):
    usual = moments(labels, Counts(cmb=200, iron=0, calcification=0, mixed=0))
    assert CMB_MOMENTS[0] * 0.99 <= usual.min() < 2
    assert 25 < usual.max() <= CMB_MOMENTS[1] * 1.01
    assert 4 < np.median(usual) < 16


def test_microbleeds_are_put_against_veins_where_there_are_some(labels):
    middle = np.array(labels.shape) / 2 + [20.0, 0, 15]
    along = np.linspace(-15, 15, 61)[:, None] * [0.0, 1, 0] + middle
    vein = Vessel(points_mm=along, radius_mm=np.full(61, 0.5))
    counts = Counts(cmb=0, cmb_by_vein=20, iron=0, calcification=0, mixed=0)
    rng = np.random.default_rng(3)
    drawn = sample_deposits(labels, counts, rng, veins=[vein], apart_mm=-20.0)
    off = [np.linalg.norm(along - d.centre_mm, axis=1).min() for d in drawn]
    assert len(drawn) == 20
    assert max(off) < 2.5
    assert not sample_deposits(labels, counts, rng)


def test_half_of_the_people_have_no_microbleed_and_few_have_many():
    rng = np.random.default_rng(0)
    counts = np.array([realistic_counts(rng).cmb for _ in range(2000)])
    assert 0.45 < np.mean(counts == 0) < 0.55
    positive = counts[counts > 0]
    assert np.median(positive) == 2  # 957 microbleeds in 205 positive scans
    assert 3.5 < positive.mean() < 6
    assert positive.max() == MOST_CMB


def test_training_heads_hold_many_a_third_of_them_faint():
    rng = np.random.default_rng(0)
    drawn = [training_counts(rng) for _ in range(200)]
    faint, by_vein = (sum(getattr(c, n) for c in drawn) for n in ("faint_cmb", "cmb_by_vein"))
    total = faint + by_vein + sum(c.cmb for c in drawn)
    assert 0.25 < faint / total < 0.45
    assert 0.15 < by_vein / total < 0.35
    assert min(c.cmb + c.cmb_by_vein for c in drawn) >= 10
