"""BIDS: exact names, refusals, and the validator's own verdict on generated data sets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmir.errors import InputError, OutputError
from deepmir.io.atomic import write_text
from deepmir.io.bids import (
    DatasetKind,
    ScanParameters,
    SubjectOutputs,
    check_dataset_folder,
    check_subject,
    derivative_sidecar_text,
    raw_scan,
    raw_sidecar_text,
    sidecar_path,
    subject_from_name,
    write_dataset_files,
)
from deepmir.io.nifti import write_map
from deepmir.io.tables import Column, read_table, write_table
from deepmir.labels import ALL_REGION_NUMBERS
from deepmir.volume import Modality, Volume

IMAGES = {
    f"sub-01/anat/sub-01_desc-{name}.nii.gz"
    for name in (
        "findings_dseg",
        "regions_dseg",
        "brain_mask",
        "CMB_probseg",
        "IRON_probseg",
        "CALCIFICATION_probseg",
    )
}
TABLES = {f"sub-01/anat/sub-01_desc-{name}.tsv" for name in ("lesions", "mars")}


# ---- names -----------------------------------------------------------------


def test_one_person_has_exactly_these_files():
    files = [path.as_posix() for path in SubjectOutputs("01").files]
    sidecars = {
        name.replace(".nii.gz", ".json").replace(".tsv", ".json") for name in IMAGES | TABLES
    }
    others = {"sub-01.html", "sub-01/anat/sub-01_desc-provenance.json"}
    assert set(files) == IMAGES | TABLES | sidecars | others
    assert len(files) == len(set(files))
    assert files[-1].endswith("provenance.json")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("sub-01_swi.nii.gz", "01"),
        ("sub-AB7_ses-2_acq-x_part-mag_swi.nii.gz", "AB7"),
        ("x_sub-3.nii", "3"),
        ("patient 7 (SWI).nii.gz", "patient7SWI"),
        ("my.sub-x!.nii", "mysubx"),
        ("Ångström.nii", "Angstrom"),
        ("x" * 100 + ".nii", "x" * 64),
    ],
)
def test_a_subject_is_read_from_a_file_name(name, label):
    assert subject_from_name(Path("sub-99") / name) == label


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1).filter(lambda x: x.strip(".")))
def test_every_file_name_gives_an_allowed_subject(name):
    label = subject_from_name(Path("folder") / name)
    assert check_subject(label) == label
    assert subject_from_name(Path("elsewhere") / name) == label


@pytest.mark.parametrize("label", ["", "a_b", "a b", "a-b", "ü", "../x", "x" * 65, "sub-", "a\n"])
def test_a_subject_that_bids_forbids_is_refused(label):
    with pytest.raises(InputError, match=r"subject label .* is not allowed.*--subject"):
        SubjectOutputs(label)


def test_a_subject_may_come_with_its_prefix():
    assert SubjectOutputs("sub-01") == SubjectOutputs("01")


@pytest.mark.parametrize(
    ("suffix", "echo", "part", "name"),
    [
        ("T2w", None, None, "sub-01_T2w.nii.gz"),
        ("swi", None, None, "sub-01_swi.nii.gz"),
        ("Chimap", None, None, "sub-01_Chimap.nii.gz"),
        ("MEGRE", 3, "mag", "sub-01_echo-3_part-mag_MEGRE.nii.gz"),
        ("MEGRE", 1, "phase", "sub-01_echo-1_part-phase_MEGRE.nii.gz"),
    ],
)
def test_raw_scans_are_named(suffix, echo, part, name):
    path = raw_scan("01", suffix, echo=echo, part=part)
    assert path == Path("sub-01", "anat", name)
    assert sidecar_path(path).name == name.replace(".nii.gz", ".json")


@pytest.mark.parametrize(
    ("suffix", "echo", "part"), [("MEGRE", None, "mag"), ("swi", 1, None), ("T2w", None, "mag")]
)
def test_entities_that_do_not_fit_are_refused(suffix, echo, part):
    with pytest.raises(ValueError, match="MEGRE"):
        raw_scan("01", suffix, echo=echo, part=part)


# ---- data sets -------------------------------------------------------------


def test_a_derivative_data_set_explains_itself(tmp_path):
    write_dataset_files(tmp_path, kind=DatasetKind.DERIVATIVE, name="Results", out=tmp_path)
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "deepmir"
    assert read_table(tmp_path / "desc-findings_dseg.tsv").column("name") == (
        "CMB",
        "IRON",
        "CALCIFICATION",
    )
    regions = read_table(tmp_path / "desc-regions_dseg.tsv")
    assert regions.column("index") == tuple(map(str, ALL_REGION_NUMBERS))
    assert "left putamen" in regions.column("name")


def test_writing_again_changes_nothing_and_keeps_what_others_ignore(tmp_path):
    kind = DatasetKind.RAW
    (tmp_path / ".bidsignore").write_text("mine/\n")
    write_dataset_files(tmp_path, kind=kind, name="Simulated", out=tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_dataset_files(tmp_path, kind=kind, name="Simulated", out=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert first[".bidsignore"].startswith(b"mine/\n*_swi.nii.gz\n")
    assert set(first) == {".bidsignore", "README.md", "dataset_description.json"}


@pytest.mark.parametrize(
    "content",
    [
        "not JSON",
        "[]",
        '{"Name": "raw scans", "BIDSVersion": "1.8.0"}',
        '{"DatasetType": "derivative", "GeneratedBy": [{"Name": "other"}]}',
        '{"DatasetType": "raw", "GeneratedBy": [{"Name": "deepmir"}]}',
        '{"DatasetType": "derivative", "GeneratedBy": null}',
    ],
)
def test_another_data_set_is_not_written_into(tmp_path, content):
    (tmp_path / "dataset_description.json").write_text(content)
    with pytest.raises(OutputError, match="already holds a data set that is no derivative"):
        check_dataset_folder(tmp_path, DatasetKind.DERIVATIVE)
    with pytest.raises(OutputError, match="choose another folder"):
        write_dataset_files(tmp_path, kind=DatasetKind.DERIVATIVE, name="x", out=tmp_path)
    assert (tmp_path / "dataset_description.json").read_text() == content


# ---- the validator ---------------------------------------------------------


@pytest.fixture
def scan(phantom_data, phantom_affine):
    return Volume(phantom_data, phantom_affine @ np.diag([-1, 1, 1, 1]), Modality.SWI)


def write_derivatives(folder: Path, scan: Volume) -> None:
    outputs = SubjectOutputs("01")
    for name in outputs.files:
        if name.name.endswith(".nii.gz"):
            write_map(np.ones(scan.data.shape), scan, folder / name, dtype=np.uint8)
            is_mask = name == outputs.brain_mask
            text = derivative_sidecar_text(
                "Map", sources=[folder / "swi.nii"], reference=None, mask=is_mask
            )
            write_text(folder / sidecar_path(name), text)
        elif name.suffix == ".tsv":
            write_table(folder / name, [Column("index", "Number")], [(1,)])
        elif name in {outputs.report, outputs.provenance}:
            write_text(folder / name, "{}")
    for name in ("group.html", "group_lesions.tsv", "group_subjects.json", ".deepmir-0/x.nii"):
        write_text(folder / name, "{}")
    write_dataset_files(folder, kind=DatasetKind.DERIVATIVE, name="Results", out=folder)


def write_raw(folder: Path, scan: Volume) -> None:
    names = {
        raw_scan("01", "T2w"): ScanParameters(repetition_time_s=3.0),
        raw_scan("01", "swi"): ScanParameters(),
        raw_scan("01", "Chimap"): ScanParameters(units="ppm"),
    }
    for echo in (1, 2):
        timing = {"echo_time_s": 0.0075 * echo, "field_strength_t": 3.0, "flip_angle_deg": 15.0}
        magnitude = raw_scan("01", "MEGRE", echo=echo, part="mag")
        names[magnitude] = ScanParameters(**timing, field_direction=(0.0, 0.0, 1.0))
        phase = raw_scan("01", "MEGRE", echo=echo, part="phase")
        names[phase] = ScanParameters(**timing, units="rad")
    for name, parameters in names.items():
        write_map(scan.data, scan, folder / name, dtype=np.float32)
        write_text(folder / sidecar_path(name), raw_sidecar_text(parameters))
    write_table(folder / "participants.tsv", [Column("participant_id", "Label")], [("sub-01",)])
    write_dataset_files(folder, kind=DatasetKind.RAW, name="Simulated", out=folder)


@pytest.mark.parametrize("write", [write_derivatives, write_raw])
def test_the_bids_validator_finds_no_error(tmp_path, scan, write):
    beside_python = Path(sys.executable).parent
    search = os.pathsep.join([str(beside_python), os.environ.get("PATH", "")])
    validator = shutil.which("bids-validator-deno", path=search)
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    folder = tmp_path / "dataset"
    write(folder, scan)
    run = subprocess.run(
        [validator, str(folder), "--format", "json"], capture_output=True, text=True, check=False
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue["severity"] == "error"]
    assert errors == []
    assert run.returncode == 0


def test_sidecars_say_what_bids_requires(tmp_path):
    phase = ScanParameters(echo_time_s=0.0075, units="rad")
    assert json.loads(raw_sidecar_text(phase)) == {"EchoTime": 0.0075, "Units": "rad"}
    mask = json.loads(
        derivative_sidecar_text(
            "Brain", sources=[tmp_path / "ü.nii"], reference=tmp_path / "swi.nii", mask=True
        )
    )
    assert mask["Type"] == "Brain"
    assert mask["Sources"] == [(tmp_path / "ü.nii").as_uri()]
    assert mask["SpatialReference"] == (tmp_path / "swi.nii").as_uri()
