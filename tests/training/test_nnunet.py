"""nnU-Net export: names, geometry, labels and splits as its documentation wants them."""

import json

import nibabel as nib
import numpy as np
import pytest

from deepmir.errors import ConfigError, InputError
from deepmir.labels import Finding
from deepmir.training.folds import plan_folds
from deepmir.training.nnunet import (
    NnunetNames,
    class_map,
    common_contrasts,
    dataset_json,
    export_nnunet,
    splits_of,
)
from deepmir.volume import Modality, Volume


@pytest.fixture(scope="module")
def exported(prepared_study, tmp_path_factory):
    plan = plan_folds([case.summary for case in prepared_study.values()], n_folds=3, seed=1)
    out = tmp_path_factory.mktemp("nnUNet_raw")
    names = NnunetNames(number=7, name="Bleeds")
    folder = export_nnunet(
        prepared_study, plan, out, names=names, labelled=(Finding.CMB, Finding.CALCIFICATION)
    )
    return folder, plan


def test_the_tree_is_that_of_the_documentation(exported):
    folder, _ = exported
    assert folder.name == "Dataset007_Bleeds"
    persons = [f"sub-0{n}" for n in range(1, 7)]
    images = sorted(path.name for path in (folder / "imagesTr").iterdir())
    assert images == [f"{name}_000{n}.nii.gz" for name in persons for n in range(3)]
    labels = sorted(path.name for path in (folder / "labelsTr").iterdir())
    assert labels == [f"{name}.nii.gz" for name in persons]
    rest = {path.name for path in folder.iterdir()}
    assert rest == {"imagesTr", "labelsTr", "dataset.json", "splits_final.json"}


def test_dataset_json_has_its_four_keys(exported):
    folder, _ = exported
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "T2w", "1": "SWI", "2": "noNorm"},
        "labels": {"background": 0, "CMB": 1, "CALCIFICATION": 2},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }


def test_images_and_labels_of_a_person_share_the_scans_geometry(exported, prepared_study):
    folder, _ = exported
    scan = nib.load(prepared_study["sub-02"].person.swi)
    for path in (*(folder / "imagesTr").glob("sub-02_*"), folder / "labelsTr" / "sub-02.nii.gz"):
        image = nib.load(path)
        assert image.shape == scan.shape
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)


def test_labels_are_numbered_without_gaps(exported, prepared_study):
    folder, _ = exported
    reference = np.asarray(nib.load(prepared_study["sub-02"].person.labels).dataobj)
    found = np.asarray(nib.load(folder / "labelsTr" / "sub-02.nii.gz").dataobj)
    assert np.array_equal(found == 1, reference == Finding.CMB)
    assert np.array_equal(found == 2, reference == Finding.CALCIFICATION)
    assert set(np.unique(found)) == {0, 1, 2}


def test_susceptibility_keeps_its_sign(exported):
    folder, _ = exported
    labels = np.asarray(nib.load(folder / "labelsTr" / "sub-02.nii.gz").dataobj)
    chi = np.asarray(nib.load(folder / "imagesTr" / "sub-02_0002.nii.gz").dataobj)
    assert chi[labels == 1].mean() > 1 > -1 > chi[labels == 2].mean()


def test_splits_have_one_entry_a_fold_and_nobody_twice(exported):
    folder, plan = exported
    splits = json.loads((folder / "splits_final.json").read_text())
    assert splits == splits_of(plan)
    assert [set(split) for split in splits] == [{"train", "val"}] * 3
    everyone = {f"sub-0{n}" for n in range(1, 7)}
    for split, fold in zip(splits, plan.folds, strict=True):
        assert split["val"] == list(fold.test)
        assert set(split["train"]) == everyone - set(split["val"])


def test_ignored_voxels_are_the_highest_class():
    labels = Volume(np.array([[[0, 1, 2, 3, 255]]], np.int32), np.eye(4), Modality.DSEG)
    assert class_map(labels, (Finding.CMB, Finding.IRON)).ravel().tolist() == [0, 1, 2, 0, 3]
    described = dataset_json(["swi"], (Finding.CMB, Finding.IRON), n_persons=1, ignored=True)
    assert described["labels"] == {"background": 0, "CMB": 1, "IRON": 2, "ignore": 3}


@pytest.mark.parametrize(("number", "name"), [(0, "A"), (1000, "A"), (5, "two words"), (5, "")])
def test_names_that_nnunet_cannot_read_are_refused(number, name):
    with pytest.raises(ConfigError, match="number from 1 to 999"):
        assert NnunetNames(number=number, name=name).folder


def test_nothing_in_common_is_refused():
    with pytest.raises(InputError, match="no contrast in common"):
        common_contrasts({})
