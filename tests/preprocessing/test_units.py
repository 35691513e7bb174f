"""The unit of QSM: each known factor found, each ambiguity refused, every explicit unit obeyed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmir.errors import UnitError
from deepmir.preprocessing.units import QSM_UNITS, brain_values, brain_width, to_ppm
from deepmir.volume import Modality, Volume

SHAPE = (24, 22, 20)


def brain_of(width: float, seed: int = 0) -> np.ndarray:
    """Values whose 5 to 95 % width is `width`, inside an ellipsoid."""
    values = np.random.default_rng(seed).uniform(-0.5, 0.5, SHAPE) * width / 0.9
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return (values * (np.sum(np.square(axes), axis=0) < 0.8)).astype(np.float32)


def chimap(data: np.ndarray) -> Volume:
    """Wrap a map whose unit is not known."""
    return Volume(data, np.eye(4), Modality.CHIMAP, name="sub-01_Chimap.nii.gz")


@pytest.mark.parametrize("width_ppm", [0.04, 0.07, 0.19])
def test_ppm_is_left_as_it_is(width_ppm):
    data = brain_of(width_ppm)
    converted, notices = to_ppm(chimap(data), brain=None)
    assert np.array_equal(converted.data, data)
    assert converted.unit == "ppm"
    assert notices == ()


@pytest.mark.parametrize("factor", [1000, 4096])
def test_one_fitting_factor_is_applied_and_reported(factor):
    data = brain_of(0.072)
    converted, (notice,) = to_ppm(chimap(np.round(data * factor)), brain=None)
    assert converted.data == pytest.approx(data, abs=1e-3)
    assert f"divided by {factor}" in notice.message
    assert "sub-01_Chimap.nii.gz" in notice.message


@pytest.mark.parametrize("width", [1e-4, 0.025, 0.5, 25, 150, 900])
def test_no_or_two_fitting_factors_are_refused(width):
    with pytest.raises(UnitError, match=r"sub-01_Chimap\.nii\.gz.*--qsm-unit"):
        to_ppm(chimap(brain_of(width)), brain=None)


def test_why_it_is_unclear_is_said():
    with pytest.raises(UnitError, match="both 1000 and 4096 would"):
        to_ppm(chimap(brain_of(150)), brain=None)
    with pytest.raises(UnitError, match="neither 1000 nor 4096 does"):
        to_ppm(chimap(brain_of(3.5)), brain=None)


@pytest.mark.parametrize(
    ("unit", "divisor"),
    [("ppm", 1), ("ppb", 1000), ("scaled-1000", 1000), ("scaled-4096", 4096)],
)
def test_an_explicit_unit_is_obeyed_whatever_the_values(unit, divisor):
    data = brain_of(0.5)
    converted, notices = to_ppm(chimap(data), brain=None, unit=unit)
    assert converted.data == pytest.approx(data / divisor, rel=1e-6)
    assert notices == ()


def stated(data: np.ndarray, unit: str) -> Volume:
    return Volume(data, np.eye(4), Modality.CHIMAP, name="sub-01_Chimap.nii.gz", unit=unit)


@pytest.mark.parametrize(("unit", "divisor"), [("ppm", 1), ("ppb", 1000)])
def test_the_unit_of_the_sidecar_is_believed_where_values_cannot_tell(unit, divisor):
    data = brain_of(1.5 * divisor)
    converted, (notice,) = to_ppm(stated(data, unit), brain=None)
    assert converted.data == pytest.approx(data / divisor, rel=1e-6)
    assert f"taken as {unit}" in notice.message


def test_the_unit_of_the_sidecar_decides_between_two_that_fit():
    data = brain_of(150)
    converted, notices = to_ppm(stated(data, "ppb"), brain=None)
    assert converted.data == pytest.approx(data / 1000, rel=1e-6)
    assert notices == ()


def test_values_are_believed_where_they_contradict_the_sidecar():
    data = brain_of(70)
    converted, (notice,) = to_ppm(stated(data, "ppm"), brain=None)
    assert converted.data == pytest.approx(data / 1000, rel=1e-6)
    assert "divided by 1000" in notice.message


def test_an_unknown_unit_in_a_sidecar_says_nothing():
    assert to_ppm(stated(brain_of(0.07), "arbitrary"), brain=None)[1] == ()
    with pytest.raises(UnitError):
        to_ppm(stated(brain_of(0.5), "arbitrary"), brain=None)


def test_all_units_are_known():
    assert QSM_UNITS == ("ppm", "ppb", "scaled-1000", "scaled-4096")


def test_an_unknown_unit_is_refused():
    with pytest.raises(UnitError, match=r"'ppt'.*ppm \| ppb"):
        to_ppm(chimap(brain_of(0.07)), brain=None, unit="ppt")


def test_an_all_zero_map_is_refused():
    with pytest.raises(UnitError, match="cannot be told"):
        to_ppm(chimap(np.zeros(SHAPE, np.float32)), brain=None)


# ---- where the brain is ----------------------------------------------------------------------


def test_a_given_mask_says_where_the_brain_is():
    data = brain_of(0.07)
    outside = data == 0
    data[outside] = 50
    assert brain_width(data, ~outside) == pytest.approx(0.07, rel=0.05)


def test_a_mask_without_values_is_as_good_as_none():
    data = brain_of(0.07)
    assert np.array_equal(brain_values(data, data == 0), brain_values(data))


def test_an_unmasked_map_is_judged_by_its_middle():
    data = brain_of(0.07)
    noise = np.random.default_rng(9).normal(0, 5, SHAPE).astype(np.float32)
    assert brain_width(np.where(data == 0, noise, data)) == pytest.approx(0.07, rel=0.05)


@given(st.floats(0.031, 0.199), st.integers(0, 9))
def test_ppm_is_never_taken_for_something_else(width_ppm, seed):
    converted, notices = to_ppm(chimap(brain_of(width_ppm * 0.98 + 0.001, seed)), brain=None)
    assert notices == ()
    assert np.ptp(converted.data) < 0.3
