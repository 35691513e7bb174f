"""Pairing: whose map is which, nobody dropped, nothing guessed."""

from pathlib import Path

import pytest

from deepmir.errors import InputError
from deepmir.io.pairing import (
    group_of,
    label_maps,
    other_maps,
    pair_label_maps,
    person_of,
    probability_maps,
    read_groups,
)
from deepmir.labels import Finding


@pytest.fixture
def tree(tmp_path):
    """Make empty files below ``tmp_path`` and return it."""

    def make(*names, side=""):
        for name in names:
            path = tmp_path / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / side

    return make


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("sub-01/anat/sub-01_desc-findings_dseg.nii.gz", "sub-01"),
        ("sub-01/ses-b/anat/sub-01_ses-b_dseg.nii.gz", "sub-01_ses-b"),
        ("sub-01/ses-b/lesions.nii.gz", "sub-01_ses-b"),
        ("rater/case 7.nii", "case 7"),
        ("sub-01_ses-b+2_mask.nii.gz", "sub-01_ses-b+2"),
    ],
)
def test_a_person_is_known_by_entities_else_by_the_name(name, person):
    assert person_of(Path(name)) == person


def test_folders_are_paired_and_one_sided_persons_listed(tree):
    found = tree("sub-01_seg.nii.gz", "sub-02_seg.nii.gz", "sub-09_seg.nii", side="found")
    true = tree(
        "sub-02/anat/sub-02_dseg.nii.gz", "sub-01/x_dseg.nii", "sub-07/x_dseg.nii", side="true"
    )
    pairing = pair_label_maps(found, true)
    assert [pair.person for pair in pairing.pairs] == ["sub-01", "sub-02"]
    assert pairing.pairs[1].reference.name == "sub-02_dseg.nii.gz"
    assert (pairing.only_prediction, pairing.only_reference) == (("sub-09",), ("sub-07",))


def test_two_files_are_a_pair_whatever_their_names(tree):
    folder = tree("sub-03_seg.nii.gz", "truth.nii.gz")
    (pair,) = pair_label_maps(folder / "sub-03_seg.nii.gz", folder / "truth.nii.gz").pairs
    assert pair.person == "sub-03"


def test_findings_come_before_other_label_maps_masks_and_the_rest(tree):
    names = ["sub-1_desc-findings_dseg.nii.gz", "sub-1_dseg.nii.gz", "sub-1_mask.nii.gz"]
    names += ["sub-1_T2w.nii.gz"]
    noise = ["sub-1_desc-regions_dseg.nii.gz", "sub-1_desc-brain_mask.nii.gz", "sub-1_swi.json"]
    noise += ["sub-1_desc-CMB_probseg.nii.gz", ".deepmir-x/sub-1_desc-findings_dseg.nii.gz"]
    for at, name in enumerate(names[:-1]):
        folder = tree(*names[at:-1], *noise, side=f"from-{at}")
        assert label_maps(folder)["sub-1"].name == name
    assert label_maps(tree(names[-1], side="rest"))["sub-1"].name == names[-1]


def test_a_pattern_chooses(tree):
    folder = tree("sub-1_a.nii.gz", "sub-1_b.nii.gz", "deep/sub-2_b.nii.gz")
    with pytest.raises(InputError, match=r"sub-1 has two label maps.*--pattern"):
        label_maps(folder)
    assert sorted(label_maps(folder, pattern="**/*_b.nii.gz")) == ["sub-1", "sub-2"]


def test_what_cannot_be_paired_is_refused(tree, tmp_path):
    empty = tree("readme.txt", side="empty")
    full = tree("sub-1.nii.gz", side="full")
    with pytest.raises(InputError, match=r"empty holds no label map"):
        pair_label_maps(empty, full)
    with pytest.raises(InputError, match=r"no file or folder"):
        pair_label_maps(tmp_path / "none", full)
    with pytest.raises(InputError, match=r"no person is in both .*sub-1.*case"):
        pair_label_maps(full, tree("case.nii.gz", side="other"))


def test_probabilities_by_finding(tree):
    folder = tree(
        "sub-1_desc-CMB_probseg.nii.gz", "sub-1_desc-IRON_probseg.nii.gz", "sub-2_probseg.nii"
    )
    found = probability_maps(folder)
    assert set(found["sub-1"]) == {Finding.CMB, Finding.IRON}
    assert set(found["sub-2"]) == {Finding.CMB}
    with pytest.raises(InputError, match="no map of probabilities"):
        probability_maps(tree("x.txt", side="none"))


def test_other_maps_take_the_first_ending_that_is_there(tree):
    folder = tree("sub-1_T2w.nii.gz", "sub-1_swi.nii.gz", "sub-2_T2w.nii.gz")
    assert {path.name for path in other_maps(folder, ("_swi", "_T2w")).values()} == {
        "sub-1_swi.nii.gz"
    }
    assert other_maps(folder, ("_Chimap",)) == {}
    assert list(other_maps(folder / "sub-2_T2w.nii.gz", ("_swi",))) == ["sub-2"]


def test_groups_come_from_a_table_of_persons(tmp_path):
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tprotocol\nsub-1\t3T\n2\tn/a\n")
    groups = read_groups(table, "protocol")
    assert groups == {"sub-1": "3T", "sub-2": "n/a"}
    assert group_of("sub-1_ses-b", groups) == "3T"
    assert group_of("sub-9", groups) == "n/a"
    assert group_of("sub-9", {}) == ""
    with pytest.raises(InputError, match="no column 'site'"):
        read_groups(table, "site")
    table.write_text("participant_id\tprotocol\nsub-1\t3T\n1\t7T\n")
    with pytest.raises(InputError, match="sub-1 twice"):
        read_groups(table, "protocol")
