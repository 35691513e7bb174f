"""The iterative methods: PDF keeps the rim, MEDI is nearer to the truth and knows when to stop."""

import numpy as np
import pytest
from scipy import ndimage

from deepmir.errors import GeometryError
from deepmir.physics.dipole import field_ppm
from deepmir.reconstruction import inversion
from deepmir.reconstruction.background import remove_background_pdf
from deepmir.reconstruction.inversion import (
    Morphology,
    doubt,
    edge_costs,
    invert,
    invert_medi_in_mask,
)
from deepmir.reconstruction.relaxation import MAX_R2STAR_HZ, fit_r2star, ventricles
from deepmir.reconstruction.unwrap import FieldMap, relative_weight

STRENGTH = {"tkd": 0.15, "closed-form": 0.003, "medi": 3e-4}


@pytest.fixture(scope="module")
def local(phantom, raw):
    """Noisy local field of the phantom's χ."""
    field = field_ppm(phantom.chi_ppm, raw.SPACING_MM, raw.B0, margin_mm=25)
    noise = np.random.default_rng(1).normal(0, 0.002, field.shape)
    return ((field + noise) * phantom.brain).astype(np.float32)


@pytest.fixture(scope="module")
def morphology(phantom):
    magnitude = np.abs(phantom.echoes.signals[-1]).astype(np.float32)
    return Morphology(magnitude, magnitude)


def inverted(local, phantom, raw, method, **options):
    return invert(
        local, phantom.brain, raw.SPACING_MM, raw.B0, method=method, strength=STRENGTH[method],
        **options,
    )  # fmt: skip


def error_of(chi, phantom):
    """Root-mean-square error in the brain, means taken off."""
    difference = (chi - phantom.chi_ppm)[phantom.brain]
    return float(np.std(difference))


def test_medi_is_nearer_to_the_truth_than_the_direct_methods(local, phantom, raw, morphology):
    errors = {
        method: error_of(inverted(local, phantom, raw, method, morphology=morphology), phantom)
        for method in STRENGTH
    }
    assert errors["medi"] < 0.7 * min(errors["tkd"], errors["closed-form"])


def test_medi_leaves_what_it_was_given(local, phantom, raw, morphology):
    before = local.copy(), morphology.weight.copy()
    chi = inverted(local, phantom, raw, "medi", morphology=morphology)
    assert np.array_equal(local, before[0])
    assert np.array_equal(morphology.weight, before[1])
    assert not chi[~phantom.brain].any()


def test_medi_stops_when_nothing_changes_any_more(local, phantom, raw, morphology, monkeypatch):
    counts = []
    transform = inversion.irfft3
    monkeypatch.setattr(inversion, "irfft3", lambda *a: counts.append(1) or transform(*a))
    for tolerance in (0.3, 0.03):
        counts.append(0)
        inverted(local, phantom, raw, "medi", morphology=morphology, tolerance=tolerance)
    loose = counts[1:].index(0)
    tight = len(counts) - loose - 2
    assert 2 <= loose < tight < 2 * inversion.MAX_ITERATIONS


def test_medi_says_when_it_did_not_come_to_its_end(local, phantom, raw, morphology, monkeypatch):
    field = phantom.brain, morphology, raw.SPACING_MM, raw.B0
    done = invert_medi_in_mask(local, *field, strength=3e-4, tolerance=0.03)
    assert done.unsettled is None
    assert np.array_equal(
        done.chi_ppm, inverted(local, phantom, raw, "medi", morphology=morphology, tolerance=0.03)
    )
    monkeypatch.setattr(inversion, "MAX_ITERATIONS", 3)
    cut_short = invert_medi_in_mask(local, *field, strength=3e-4, tolerance=0.03)
    assert 0.03 < cut_short.unsettled < 1
    nothing = invert_medi_in_mask(0 * local, *field, strength=3e-4, tolerance=0.03)
    assert nothing.unsettled is None


def test_a_field_that_is_wrong_in_places_is_doubted_there(
    local, phantom, raw, morphology, monkeypatch
):
    wrong = local.copy()
    at = np.random.default_rng(0).choice(np.flatnonzero(phantom.brain), 60, replace=False)
    wrong.ravel()[at] += 0.5  # as a turn too many
    options = {"morphology": morphology, "tolerance": 0.01}
    doubting = error_of(inverted(wrong, phantom, raw, "medi", **options), phantom)
    monkeypatch.setattr(inversion, "doubt", lambda residual, _: np.ones_like(residual))
    trusting = error_of(inverted(wrong, phantom, raw, "medi", **options), phantom)
    assert doubting < 0.8 * trusting


def test_the_size_of_chi_costs_and_broad_shades_fade(phantom, raw, morphology, monkeypatch):
    rng = np.random.default_rng(2)
    smooth = ndimage.gaussian_filter(rng.standard_normal(phantom.brain.shape), 4)
    field = field_ppm(phantom.chi_ppm, raw.SPACING_MM, raw.B0, margin_mm=25)
    field = (field + smooth * (0.01 / smooth.std())) * phantom.brain

    def shades():
        chi = inverted(field.astype(np.float32), phantom, raw, "medi", morphology=morphology)
        error = (chi - phantom.chi_ppm) * phantom.brain
        return float(np.std(ndimage.gaussian_filter(error, 3)[phantom.brain]))

    with_cost = shades()
    monkeypatch.setattr(inversion, "_SIZE_PENALTY", np.float32(1e-7))
    assert with_cost < 0.96 * shades()


def test_doubt_begins_at_six_standard_deviations():
    residual = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    residual[3, 4, 5] = -60
    mask = np.ones(residual.shape, dtype=bool)
    factor = doubt(residual, mask)
    assert factor[3, 4, 5] == pytest.approx(0.01, rel=0.1)
    assert np.count_nonzero(factor < 1) == 1
    assert (doubt(np.zeros_like(residual), mask) == 1).all()


def test_a_step_on_an_edge_of_the_magnitude_costs_nothing():
    magnitude = np.ones((10, 9, 8), np.float32)
    magnitude[5:] = 2
    costs = edge_costs(magnitude, np.ones(magnitude.shape, bool), (1, 1, 2))
    assert not costs[0][4].any()
    assert costs[1].sum() >= costs[0].sum()


def test_pdf_takes_off_what_lies_outside_and_keeps_the_rim(local, phantom, raw):
    air = np.zeros(phantom.brain.shape, np.float32)
    air[18:28, 0:4, 12:20] = 9.0
    total = local + field_ppm(air, raw.SPACING_MM, raw.B0, margin_mm=25).astype(np.float32)
    weight = phantom.brain.astype(np.float32)
    kept, mask = remove_background_pdf(
        FieldMap(total, weight), phantom.brain, raw.SPACING_MM, raw.B0, tolerance=0.01
    )
    assert np.array_equal(mask, phantom.brain)
    inner = ndimage.binary_erosion(phantom.brain, iterations=2)
    before, after = (field - local for field in (total, kept))
    assert np.std(after[inner]) < 0.1 * np.std(before[inner])


def test_pdf_without_a_mask_is_refused(local, phantom, raw):
    empty = np.zeros(phantom.brain.shape, bool)
    with pytest.raises(GeometryError, match="empty"):
        remove_background_pdf(FieldMap(local, local), empty, raw.SPACING_MM, raw.B0, tolerance=0.1)


def test_weights_have_mean_one_and_outliers_do_not_rule():
    weight = np.ones((6, 6, 6), np.float32)
    weight[0, 0, 0] = 1e6
    mask = np.ones(weight.shape, bool)
    mask[5] = False
    relative = relative_weight(weight, mask)
    assert relative.max() <= 3
    assert not relative[5].any()


# ---- relaxation ------------------------------------------------------------


def test_decay_is_told_exactly_without_noise():
    rates = np.linspace(5, 200, 60, dtype=np.float32).reshape(3, 4, 5)
    times = (0.004, 0.011, 0.021, 0.030)
    echoes = [(8e6 * np.exp(-rates * time)).astype(np.float32) for time in times]
    assert fit_r2star(echoes, times) == pytest.approx(rates, rel=0.01)


def test_decay_of_nothing_is_zero_and_growth_is_none():
    times = (0.004, 0.011)
    nothing = fit_r2star([np.zeros((2, 2, 2), np.float32)] * 2, times)
    growth = fit_r2star([np.full((2, 2, 2), value, np.float32) for value in (1, 2)], times)
    fast = fit_r2star([np.full((2, 2, 2), value, np.float32) for value in (1, 1e-3)], times)
    assert not nothing.any()
    assert not growth.any()
    assert (fast == MAX_R2STAR_HZ).all()


def test_one_echo_has_no_decay():
    with pytest.raises(ValueError, match="two echoes"):
        fit_r2star([np.ones((2, 2, 2), np.float32)], (0.01,))


def test_ventricles_are_slow_and_central():
    brain = np.ones((60, 60, 40), bool)
    rates = np.full(brain.shape, 20, np.float32)
    rates[27:33, 24:36, 15:25] = 1
    rates[:4, :4, :10] = 1  # sulcal CSF far from the centre
    found = ventricles(rates, brain, (1.2, 1.2, 1.5))
    assert found[30, 30, 20]
    assert not found[:4, :4].any()
    assert ventricles(np.full(brain.shape, 20, np.float32), brain, (1, 1, 1)) is None
