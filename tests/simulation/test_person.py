"""One simulated person: what was put in must be seen, labelled, and repeatable."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepmir.errors import ConfigError, InputError, OutputError
from deepmir.io.nifti import read_label_map, read_volume
from deepmir.labels import Finding
from deepmir.simulation.cases import write_case, write_cases
from deepmir.simulation.cohort import TRUTH_FOLDER, write_person
from deepmir.simulation.lesions import FINDING_OF_KIND, Counts, Kind
from deepmir.simulation.person import parameters_text, replay_person, simulate_person
from deepmir.simulation.protocol import mesa_like
from deepmir.simulation.truth import IGNORE, Mimic
from deepmir.volume import Modality

_SPEC = importlib.util.spec_from_file_location(
    "phantom_head", Path(__file__).with_name("phantom_head.py")
)
phantom_head = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(phantom_head)


def few(_rng: np.random.Generator) -> Counts:
    return Counts(cmb=3, iron=2, calcification=2, mixed=0)


@pytest.fixture(scope="module")
def anatomy():
    return phantom_head.phantom_anatomy()


@pytest.fixture(scope="module")
def person(anatomy):
    return simulate_person(anatomy, seed=3, protocol="mesa-like", counts=few)


def test_all_images_lie_on_one_grid(person):
    shape = person.swi.shape
    images = (person.chi_ppm, person.findings, person.mimics, person.acquisition.t2w)
    assert {image.shape for image in images} == {shape}
    assert all(np.isfinite(image).all() for image in images)


def test_a_person_is_written_with_its_truth_and_what_looks_like_it(person, tmp_path):
    write_person(person, tmp_path, subject="x")
    truth = tmp_path / TRUTH_FOLDER / "sub-x" / "anat"
    assert {path.name for path in truth.iterdir()} == {
        "sub-x_desc-brain_mask.nii.gz",
        "sub-x_desc-deposits_dseg.nii.gz",
        "sub-x_desc-findings_dseg.nii.gz",
        "sub-x_desc-mimics_dseg.nii.gz",
        "sub-x_desc-regions_dseg.nii.gz",
        "sub-x_desc-simulation_parameters.json",
        "sub-x_desc-true_Chimap.nii.gz",
    }
    for name, wanted in (
        ("findings_dseg", person.findings), ("mimics_dseg", person.mimics),
    ):  # fmt: skip
        assert wanted.any()
        written = read_label_map(truth / f"sub-x_desc-{name}.nii.gz").data
        assert np.array_equal(written, wanted)
    table = (tmp_path / TRUTH_FOLDER / "desc-mimics_dseg.tsv").read_text().splitlines()
    assert table[1:] == ["1\tVEIN", "2\tMIXED", "3\tSPACE", "4\tFRINGE", "5\tDROPOUT"]
    deposits = read_label_map(truth / "sub-x_desc-deposits_dseg.nii.gz").data
    true_chi, _ = read_volume(truth / "sub-x_desc-true_Chimap.nii.gz", Modality.CHIMAP)
    assert set(np.unique(deposits)) == {0, 1, 2, 3}
    cmb = (person.findings == Finding.CMB) & (deposits == 1)
    assert 0 < cmb.sum() < (person.findings == Finding.CMB).sum()  # blooming
    assert true_chi.data[deposits == 1].max() > 0.1
    assert true_chi.data[deposits == 3].min() < -0.05
    assert (tmp_path / "sub-x" / "anat" / "sub-x_swi.nii.gz").is_file()
    with pytest.raises(OutputError):
        write_person(person, tmp_path, subject="x")


def test_labels_are_findings_or_ignored(person):
    assert set(np.unique(person.findings)) <= {0, 1, 2, 3, IGNORE}
    assert (person.findings == Finding.CMB).any()


def test_a_visible_deposit_has_the_label_of_its_kind(person):
    for deposit, seen, effect in zip(
        person.deposits, person.visibility, person.acquisition.effects, strict=True
    ):
        if seen is None or not seen.seen:
            continue
        densest = np.unravel_index(np.argmax(effect.fraction), effect.fraction.shape)
        around = person.findings[effect.block][tuple(slice(max(c - 2, 0), c + 3) for c in densest)]
        assert FINDING_OF_KIND[deposit.kind] in around


def test_blood_is_paramagnetic_and_calcium_diamagnetic_on_the_reconstructed_map(person):
    for deposit, seen in zip(person.deposits, person.visibility, strict=True):
        if seen is not None and seen.seen_on_qsm:
            assert np.sign(seen.peak_chi_ppm) == np.sign(deposit.chi_ppm)


def test_findings_darken_swi(person):
    inside = person.findings == Finding.CMB
    assert np.median(person.swi[inside]) < 0.6 * np.median(person.swi[person.acquisition.brain])


def test_same_seed_same_bytes_other_seed_other_person(anatomy, person):
    again = simulate_person(anatomy, seed=3, protocol="mesa-like", counts=few)
    assert np.array_equal(again.swi, person.swi)
    assert np.array_equal(again.chi_ppm, person.chi_ppm)
    assert parameters_text(again) == parameters_text(person)
    other = simulate_person(anatomy, seed=4, protocol="mesa-like", counts=few)
    assert other.swi.shape != person.swi.shape or not np.array_equal(other.swi, person.swi)


def test_a_whole_head_has_a_t2w_of_its_own_grid_and_pose(anatomy):
    whole = simulate_person(
        anatomy,
        seed=3,
        protocol="mesa-like",
        counts=lambda _: Counts(cmb=1, iron=0, calcification=0, mixed=0),
        whole_head=True,
    )
    scan = whole.acquisition
    assert scan.t2w.shape != whole.swi.shape
    assert np.linalg.norm(scan.t2w_affine[:3, 0]) == pytest.approx(1.0)
    assert not np.allclose(scan.t2w_affine, scan.affine)


# ---- drawn protocols, and replay -----------------------------------------------------------

CHEAP_SEED = 28  # a coarse grid; poles, motion, partial Fourier, thick T2w


@pytest.fixture(scope="module")
def drawn(anatomy):
    return simulate_person(anatomy, seed=CHEAP_SEED, protocol="random")


def test_a_saved_description_replays_the_person(anatomy, drawn):
    again = replay_person(anatomy, parameters_text(drawn))
    assert np.array_equal(again.swi, drawn.swi)
    assert np.array_equal(again.chi_ppm, drawn.chi_ppm)
    assert np.array_equal(again.acquisition.t2w, drawn.acquisition.t2w)
    assert parameters_text(again) == parameters_text(drawn)


def test_age_is_a_parameter_and_ages_brain_and_iron(anatomy):
    young, old = (simulate_person(anatomy, seed=CHEAP_SEED, age_years=age) for age in (45.0, 90.0))
    assert json.loads(parameters_text(old))["variation"]["age_years"] == 90
    lesions = [one.variation.ageing.white_lesions_ml for one in (young, old)]
    assert lesions[1] > 5 * lesions[0]
    assert replay_person(anatomy, parameters_text(old)).variation == old.variation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"anatomy": "another"}, "made of anatomy"),
        ({"counts": "<lambda>"}, "not one of"),
        ({"seed": None}, "no description"),
        ({"deepmir": "0.0.1"}, "simulated by deepmir 0.0.1"),
    ],
)
def test_a_description_that_cannot_be_replayed_is_refused(anatomy, drawn, change, said):
    text = json.loads(parameters_text(drawn)) | change
    with pytest.raises(ConfigError, match=said):
        replay_person(anatomy, json.dumps(text))


def test_a_stripped_scan_with_fringes_of_a_protocol_of_ones_own(anatomy):
    protocol = replace(
        mesa_like(),
        name="mine",
        spacing_mm=(1.0, 1.0, 3.0),
        echo_times_s=(0.02,),
        swi=replace(mesa_like().swi, echo=0),
        phase_poles=True,
        stripped=True,
        mask_grown_mm=-1.5,
    )
    person = simulate_person(anatomy, seed=3, protocol=protocol, counts=few)
    fringes, brain = person.acquisition.fringes, person.acquisition.brain
    assert 0 < fringes.mean() < 0.05
    assert (person.mimics[fringes] == Mimic.FRINGE).mean() > 0.9
    assert 0.7 * brain.sum() < (person.swi > 0).sum() < brain.sum()
    assert not (person.chi_mask & ~brain).any()
    assert json.loads(parameters_text(person))["protocol"]["stripped"]


def test_without_deposits_there_is_no_label(anatomy):
    none = simulate_person(
        anatomy,
        seed=5,
        protocol="mesa-like",
        counts=lambda _: Counts(cmb=0, iron=0, calcification=0, mixed=0),
    )
    assert not none.findings.any()
    assert none.deposits == ()


def test_an_unknown_protocol_is_refused(anatomy):
    with pytest.raises(ConfigError, match="mesa-like"):
        simulate_person(anatomy, seed=1, protocol="nobody's")


def test_a_case_holds_what_training_reads(person, tmp_path):
    write_case(person, tmp_path / "case-00000")
    files = sorted(path.name for path in (tmp_path / "case-00000").iterdir())
    arrays = ["brain.npy", "channels.npy", "labels.npy", "mimics.npy", "regions.npy"]
    assert files == sorted(["case.json", *arrays])
    channels = np.load(tmp_path / "case-00000" / "channels.npy")
    labels = np.load(tmp_path / "case-00000" / "labels.npy")
    assert channels.dtype == np.float16
    assert channels.shape == (3, *labels.shape)
    assert (labels == Finding.CMB).sum() == (person.findings == Finding.CMB).sum()
    assert not list(tmp_path.glob(".case*"))


def test_cases_need_an_anatomy(tmp_path):
    with pytest.raises(InputError, match="anatom"):
        write_cases([], tmp_path, numbers=range(1), seed=0)


def test_kinds_all_have_a_meaning():
    assert set(FINDING_OF_KIND) == set(Kind)
