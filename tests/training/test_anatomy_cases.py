"""Samples of the anatomy part from simulated cases."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deepmir.errors import InputError
from deepmir.labels import REGIONS
from deepmir.model.anatomy_input import NO_REGION_CLASS, OUTSIDE_CLASS
from deepmir.training.anatomy_cases import load_coarse_case, make_case_sample
from deepmir.training.anatomy_samples import AnatomySampling

WHOLE = AnatomySampling(subsets=(("T2w+swi+Chimap", 1.0),), deep_share=0.0)
PUTAMEN_CLASS = next(n for n, region in enumerate(REGIONS, start=1) if region.base == 22)


@pytest.fixture
def folder(tmp_path, write_tiny_case):
    """Case of 18 × 21.6 × 15 mm with a right putamen."""
    write_tiny_case(tmp_path / "case-00000", head=1)
    return tmp_path / "case-00000"


def test_a_case_at_2_mm_keeps_its_regions_sides_and_background(folder):
    case = load_coarse_case(folder)
    assert case.contrasts.shape == (3, 9, 11, 8)
    assert set(case.classes.unique().tolist()) >= {OUTSIDE_CLASS, PUTAMEN_CLASS}
    putamen = case.classes == PUTAMEN_CLASS
    assert bool(case.right[putamen].all() and case.paired[putamen].all())
    assert (case.contrasts[..., -1] == 0).all()
    assert (case.contrasts[:2, 4, 5, 4] > 0).all()
    chi_ppm = np.load(folder / "channels.npy")[2].astype(np.float32) * 0.25
    assert np.abs(case.contrasts[2]).max() <= np.abs(chi_ppm).max()


def test_a_sample_of_a_case_fits_the_network_and_is_repeatable(folder):
    case = load_coarse_case(folder)
    one, other = (make_case_sample(case, np.random.default_rng(1), WHOLE) for _ in "ab")
    assert torch.equal(one.inputs, other.inputs)
    assert one.inputs.shape == (6, 64, 64, 64)
    assert bool((one.inputs[3:] == 1).all())
    assert not bool((one.paired & (one.classes == NO_REGION_CLASS)).any())


def test_mirroring_a_case_swaps_its_sides(folder):
    case = load_coarse_case(folder)
    sides = set()
    for seed in range(8):
        sample = make_case_sample(case, np.random.default_rng(seed), WHOLE)
        putamen = sample.classes == PUTAMEN_CLASS
        at = torch.argwhere(putamen)[:, 0].double().mean()
        sides.add((bool(sample.right[putamen].all()), bool(at > 4)))
    assert sides == {(True, True), (False, False)}


def test_absent_contrasts_stay_dark(folder):
    sampling = replace(WHOLE, subsets=(("Chimap", 1.0),))
    sample = make_case_sample(load_coarse_case(folder), np.random.default_rng(0), sampling)
    assert sample.inputs[3:].amin(dim=(1, 2, 3)).tolist() == [0, 0, 1]
    assert float(sample.inputs[:2].abs().max()) == 0


def test_a_broken_case_is_named(folder):
    (folder / "regions.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"case-00000 cannot be read"):
        load_coarse_case(folder)
