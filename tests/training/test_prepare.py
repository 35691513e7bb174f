"""Prepared cases: what `segment` would see, kept until an input changes."""

import json

import nibabel as nib
import numpy as np
import pytest

from deepmir.config import Config, PreprocessConfig
from deepmir.errors import InputError
from deepmir.geometry import Grid
from deepmir.io.nifti import read_volume
from deepmir.model.weights import load_weights
from deepmir.preprocessing.run import prepare
from deepmir.segmentation import findings_input, plan_grid
from deepmir.training.dataset import list_persons, read_reference_labels
from deepmir.training.patches import open_case
from deepmir.training.predict import findings_channels
from deepmir.training.prepare import (
    case_box,
    labels_on_grid,
    mimics_of,
    prepare_persons,
)
from deepmir.volume import Modality, Scans

FAST = Config(preprocess=PreprocessConfig(bias_correction=False, register_t2w=False))


def prepare_study(data, cases, weights, **options):
    lines = []
    prepared = prepare_persons(
        list_persons(data, **options), cases, weights=load_weights(weights), config=FAST,
        progress=lines.append,
    )  # fmt: skip
    return {case.person.name: case for case in prepared}, lines


def test_a_case_holds_what_segment_gives_to_the_network(prepared_study, tiny_weights):
    case = prepared_study["sub-01"]
    scans = Scans(
        swi=read_volume(case.person.swi, Modality.SWI)[0],
        chimap=read_volume(case.person.chimap, Modality.CHIMAP)[0],
        t2w=read_volume(case.person.t2w, Modality.T2W)[0],
    )
    prepared = prepare(scans, load_weights(tiny_weights), FAST)
    wanted = findings_input(prepared, case_box(prepared), plan_grid(prepared.grid))
    found = findings_channels(open_case(case.folder), case.folder, (True, True, True))
    np.testing.assert_allclose(found, wanted, atol=4e-3)  # stored in half precision


def test_labels_come_back_onto_the_scan(prepared_study):
    case = prepared_study["sub-02"]
    labels = np.asarray(open_case(case.folder).labels)
    one_hot = np.stack([labels == value for value in (1, 2, 3)]).astype(np.float32)
    on_scan = case.to_scan(one_hot)
    back = np.where(on_scan.max(axis=0) >= 0.5, on_scan.argmax(axis=0) + 1, 0)
    assert np.array_equal(back, read_reference_labels(case.person).data)


def test_a_case_opens_as_a_training_case(prepared_study):
    case = open_case(prepared_study["sub-01"].folder)
    assert [len(places) for places in case.findings] == [1, 1, 1]
    assert case.spacing_mm == pytest.approx((0.9, 0.95, 2.0))
    assert len(open_case(prepared_study["sub-06"].folder).findings[0]) == 0


def test_nothing_is_prepared_twice_and_a_changed_input_anew(study, tiny_weights, tmp_path):
    keep = ["03", "04", "05", "06"]
    first, _ = prepare_study(study, tmp_path / "cases", tiny_weights, exclude=keep)
    again, lines = prepare_study(study, tmp_path / "cases", tiny_weights, exclude=keep)
    assert [case.folder for case in first.values()] == [case.folder for case in again.values()]
    assert lines == ["check 0 persons, 2 are prepared already"]
    path = first["sub-01"].person.labels
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[values == 3] = 0
    nib.Nifti1Image(values, image.affine).to_filename(path)
    changed, lines = prepare_study(study, tmp_path / "cases", tiny_weights, exclude=keep)
    assert lines[-1] == "prepare sub-01 (1 of 1)"
    assert changed["sub-01"].summary.lesions == (1, 1, 0)
    assert changed["sub-02"].folder == first["sub-02"].folder
    names = sorted(folder.name for folder in (tmp_path / "cases").iterdir())
    assert names == sorted(case.folder.name for case in changed.values())


def test_a_damaged_case_is_refused(study, tiny_weights, tmp_path):
    others = ["02", "03", "04", "05", "06"]
    cases, _ = prepare_study(study, tmp_path / "cases", tiny_weights, exclude=others)
    (cases["sub-01"].folder / "case.json").write_text(json.dumps({"plan": {}}))
    with pytest.raises(InputError, match=r"prepared case .*sub-01.* is damaged"):
        prepare_study(study, tmp_path / "cases", tiny_weights, exclude=others)


def test_a_lesion_outside_the_brain_is_noted(study, tiny_weights, tmp_path):
    path = next((study / "derivatives/truth/sub-06/anat").glob("*_dseg.nii.gz"))
    image = nib.load(path)
    values = np.zeros(image.shape, np.uint8)
    values[0, 0, 0] = 1
    nib.Nifti1Image(values, image.affine).to_filename(path)
    cases, _ = prepare_study(
        study, tmp_path / "c", tiny_weights, exclude=["01", "02", "03", "04", "05"]
    )
    stored = json.loads((cases["sub-06"].folder / "case.json").read_text())
    assert stored["lesions_outside_brain"] == 1


def test_labels_survive_a_change_of_grid():
    plan = plan_grid(Grid((40, 30, 10), np.diag([0.4, 0.5, 2.0, 1.0])))
    labels = np.zeros((40, 30, 10), np.int32)
    labels[8:14, 8:14, 3:5], labels[24:30, 18:24, 6] = 1, 255
    found = labels_on_grid(labels, plan)
    assert sorted(np.unique(found)) == [0, 1, 255]
    ratio = (plan.target_mm[0] * plan.target_mm[1]) / (0.4 * 0.5)
    assert (found == 1).sum() * ratio == pytest.approx((labels == 1).sum(), rel=0.35)
    assert not labels_on_grid(np.zeros_like(labels), plan).any()


def test_mimics_are_dark_or_strong_and_keep_away_from_findings():
    channels, brain = np.zeros((3, 12, 14, 9), np.float32), np.ones((12, 14, 9), bool)
    labels = np.zeros((12, 14, 9), np.uint8)
    channels[1, 2, 2, 2], channels[2, 9, 9, 4], channels[1, 6, 6, 6] = -1, -0.8, -1
    labels[6, 6, 5] = 1
    mimics = mimics_of(channels, brain, labels)
    assert (mimics[2, 2, 2], mimics[9, 9, 4], mimics[6, 6, 6]) == (1, 2, 0)
    brain[2, 2, 2] = False
    assert mimics_of(channels, brain, labels)[2, 2, 2] == 0
