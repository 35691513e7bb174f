"""A study as training data: what is found, and every refusal before anything is computed."""

import json

import nibabel as nib
import numpy as np
import pytest

from deepmir.errors import InputError
from deepmir.training.dataset import (
    check_persons,
    is_bids,
    list_persons,
    summary_text,
)


def rewrite_labels(data, label, change, affine=None):
    path = next((data / "derivatives/truth").glob(f"sub-{label}/anat/*_dseg.nii.gz"))
    image = nib.load(path)
    values = change(np.asarray(image.dataobj).copy())
    nib.Nifti1Image(values, image.affine if affine is None else affine).to_filename(path)


def test_persons_are_found_with_their_scans_and_labels(whole_study):
    persons = list_persons(whole_study)
    assert [person.name for person in persons] == [f"sub-0{n}" for n in range(1, 7)]
    first = persons[0]
    assert (first.subject, first.group, first.present) == ("01", "sub-01", (True, True, True))
    assert first.reference == first.swi
    assert first.labels.parent.parts[-4:] == ("derivatives", "truth", "sub-01", "anat")


def test_findings_are_counted_and_persons_without_any_are_kept(whole_study):
    summaries = check_persons(list_persons(whole_study))
    assert [summary.lesions for summary in summaries] == [(1, 1, 1)] * 5 + [(0, 0, 0)]
    assert (summaries[0].load, summaries[5].load) == (2, 0)
    assert summaries[0].contrasts == ("T2w", "swi", "Chimap")
    text = summary_text(summaries)
    assert "6 persons of 6 groups: 5 CMB, 5 IRON, 5 CALCIFICATION; 1 persons without" in text


def test_a_missing_contrast_is_a_flag(study):
    (study / "sub-02/anat/sub-02_T2w.nii.gz").unlink()
    (study / "sub-03/anat/sub-03_swi.nii.gz").unlink()
    persons = list_persons(study)
    assert persons[1].present == (False, True, True)
    assert persons[2].reference.name == "sub-03_Chimap.nii.gz"


def test_persons_are_left_out_by_label(whole_study):
    assert len(list_persons(whole_study, exclude=["01", "sub-02"])) == 4


def test_sessions_are_cases_of_one_person(study):
    for root in (study, study / "derivatives/truth"):
        folder = root / "sub-01" / "ses-a"
        folder.mkdir()
        (root / "sub-01" / "anat").rename(folder / "anat")
    first = list_persons(study)[0]
    assert (first.name, first.subject, first.group) == ("sub-01_ses-a", "01", "sub-01")


def test_simulated_persons_of_one_head_are_one_group(study):
    for label in ("01", "02"):
        folder = study / "derivatives/truth" / f"sub-{label}" / "anat"
        text = json.dumps({"anatomy": "head_07"})
        (folder / f"sub-{label}_desc-simulation_parameters.json").write_text(text)
    groups = [person.group for person in list_persons(study)]
    assert groups[:3] == ["head_07", "head_07", "sub-03"]
    alone = [person.group for person in list_persons(study, group_by="person")]
    assert alone[:2] == ["sub-01", "sub-02"]


def test_groups_come_from_a_column_of_the_participants(study):
    rows = ["participant_id\tfamily", *(f"sub-0{n}\tf{n // 3}" for n in range(1, 7))]
    (study / "participants.tsv").write_text("\n".join(rows) + "\n")
    groups = [person.group for person in list_persons(study, group_by="family")]
    assert groups == ["f0", "f0", "f1", "f1", "f1", "f2"]
    with pytest.raises(InputError, match="no column 'site'; its columns are participant_id, fam"):
        list_persons(study, group_by="site")


def test_grouping_without_a_table_is_refused(whole_study):
    with pytest.raises(InputError, match=r"no participants\.tsv to group by 'site'"):
        list_persons(whole_study, group_by="site")


def test_a_folder_of_cases_is_no_bids(cases, whole_study):
    assert is_bids(whole_study)
    assert not is_bids(cases)


# ---- refusals ------------------------------------------------------------------------------


def test_a_folder_without_persons_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no person"):
        list_persons(tmp_path)


def test_missing_labels_are_all_named_at_once(study):
    for label in ("02", "04"):
        next((study / "derivatives/truth").glob(f"sub-{label}/anat/*_dseg.nii.gz")).unlink()
    with pytest.raises(InputError, match=r"2 of the persons.*sub-02 has no label map.*sub-04 has"):
        list_persons(study)


def test_no_labels_at_all_ask_for_the_folder(study):
    (study / "derivatives/truth").rename(study / "elsewhere")
    with pytest.raises(InputError, match="name the folder that has them by --labels"):
        list_persons(study)
    assert len(list_persons(study, labels=study / "elsewhere")) == 6


def test_two_derivatives_with_labels_ask_for_a_choice(study):
    copy = study / "derivatives/rater2/sub-01/anat"
    copy.mkdir(parents=True)
    (copy / "sub-01_desc-findings_dseg.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 derivatives \(rater2, truth\); choose one"):
        list_persons(study)


def test_two_scans_of_a_kind_are_refused(study):
    anat = study / "sub-01/anat"
    (anat / "sub-01_run-2_swi.nii.gz").write_bytes((anat / "sub-01_swi.nii.gz").read_bytes())
    with pytest.raises(InputError, match="sub-01 has 2 swi scans"):
        list_persons(study)


def test_neither_swi_nor_qsm_is_refused(study):
    for kind in ("swi", "Chimap"):
        (study / f"sub-01/anat/sub-01_{kind}.nii.gz").unlink()
    with pytest.raises(InputError, match="sub-01 has neither swi nor Chimap"):
        list_persons(study)


def test_grids_that_disagree_and_unknown_labels_are_told_together(study):
    rewrite_labels(study, "01", lambda values: values[:-1])
    rewrite_labels(study, "03", lambda values: np.where(values == 1, 7, values).astype(np.uint8))
    with pytest.raises(InputError) as caught:
        check_persons(list_persons(study))
    message = str(caught.value)
    assert message.startswith("2 of the persons")
    assert "sub-01: " in message
    assert "unknown labels [7]" in message


def test_label_255_is_allowed(study):
    rewrite_labels(study, "01", lambda values: np.where(values == 1, 255, values).astype(np.uint8))
    assert check_persons(list_persons(study))[0].lesions == (0, 1, 1)


def test_a_damaged_scan_is_found_before_training(study):
    (study / "sub-05/anat/sub-05_T2w.nii.gz").write_bytes(b"\x1f\x8b no scan")
    with pytest.raises(InputError, match=r"sub-05: .*sub-05_T2w"):
        check_persons(list_persons(study))
