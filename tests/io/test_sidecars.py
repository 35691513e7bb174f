"""Sidecars are inherited from the top of a data set down, key by key."""

import json

import pytest

from deepmir.errors import InputError
from deepmir.io.sidecars import read_sidecars

NAME = "sub-01_ses-2_echo-1_part-mag_MEGRE"
ANAT = "sub-01/ses-2/anat"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / ANAT / f"{NAME}.nii.gz"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def write(folder, name, **entries):
    (folder / name).write_text(json.dumps(entries))


def values(image):
    return {key: entry.value for key, entry in read_sidecars(image).items()}


@pytest.mark.parametrize("name", ["MEGRE", "echo-1_MEGRE", "part-mag_MEGRE", NAME])
@pytest.mark.parametrize("folder", ["", "sub-01", "sub-01/ses-2", ANAT])
def test_a_sidecar_of_every_level_is_read(tmp_path, image, folder, name):
    write(tmp_path / folder, f"{name}.json", EchoTime=0.01)
    entry = read_sidecars(image)["EchoTime"]
    assert (entry.value, entry.sidecar) == (0.01, tmp_path / folder / f"{name}.json")


def test_nearer_sidecars_go_first_key_by_key(tmp_path, image):
    write(tmp_path, "MEGRE.json", RepetitionTime=0.04, MagneticFieldStrength=3, EchoTime=9)
    write(tmp_path / "sub-01", "sub-01_MEGRE.json", MagneticFieldStrength=1.5, EchoTime=8)
    write(tmp_path / "sub-01/ses-2", "sub-01_ses-2_echo-1_MEGRE.json", EchoTime=7)
    write(tmp_path / ANAT, f"{NAME}.json", EchoTime=0.01)
    assert values(image) == {
        "RepetitionTime": 0.04, "MagneticFieldStrength": 1.5, "EchoTime": 0.01,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["T2starw", "part-phase_MEGRE", "echo-10_MEGRE", "acq-fast_MEGRE", "sub-02_MEGRE", "xMEGRE"],
)
def test_a_sidecar_of_other_images_is_not_read(tmp_path, image, name):
    write(tmp_path, f"{name}.json", EchoTime=0.01)
    assert read_sidecars(image) == {}


def test_folders_above_the_data_set_are_not_searched(tmp_path):
    image = tmp_path / "dataset/sub-01/anat/sub-01_MEGRE.nii.gz"
    image.parent.mkdir(parents=True)
    write(tmp_path, "MEGRE.json", EchoTime=0.01)
    assert read_sidecars(image) == {}


def test_a_relative_path_finds_the_top(tmp_path, image, monkeypatch):
    write(tmp_path, "MEGRE.json", EchoTime=0.01)
    monkeypatch.chdir(image.parent)
    assert values(image.relative_to(image.parent)) == {"EchoTime": 0.01}


def test_a_name_that_is_not_of_bids_has_its_own_sidecar_only(tmp_path):
    write(tmp_path, "mag.json", EchoTime=0.01)
    write(tmp_path, "scan_mag.json", EchoTime=0.02)
    assert values(tmp_path / "scan_mag.nii") == {"EchoTime": 0.02}
    assert values(tmp_path / "other_mag.nii") == {}


@pytest.mark.parametrize("folder", ["", ANAT])
def test_two_sidecars_for_one_image_in_a_folder_are_refused(tmp_path, image, folder):
    write(tmp_path / folder, "MEGRE.json", EchoTime=0.01)
    write(tmp_path / folder, "echo-1_MEGRE.json", EchoTime=0.01)
    write(tmp_path / folder, "echo-2_MEGRE.json", EchoTime=0.02)
    with pytest.raises(InputError, match=r"MEGRE\.json and echo-1_MEGRE\.json, which .* join them"):
        read_sidecars(image)


@pytest.mark.parametrize("text", ["not json", "[1, 2]", ""])
def test_a_damaged_sidecar_above_is_named(tmp_path, image, text):
    (tmp_path / "MEGRE.json").write_text(text)
    with pytest.raises(InputError, match=r"sidecar .*MEGRE\.json.*correct or remove"):
        read_sidecars(image)


@pytest.mark.parametrize(
    ("value", "numbers"), [(0.01, (0.01,)), (3, (3.0,)), ([1, 2.5], (1.0, 2.5)), ([], ())]
)
def test_numbers_are_taken_out(tmp_path, image, value, numbers):
    write(tmp_path, "MEGRE.json", EchoTime=value)
    assert read_sidecars(image)["EchoTime"].numbers() == numbers


@pytest.mark.parametrize("value", ["0.01", None, True, {"s": 1}, [0.01, "n/a"], float("nan")])
def test_what_is_no_number_is_refused_with_its_file(tmp_path, image, value):
    write(tmp_path, "MEGRE.json", EchoTime=value)
    with pytest.raises(InputError, match=r'"EchoTime" in .*MEGRE\.json is .*wanted a number'):
        read_sidecars(image)["EchoTime"].numbers()
