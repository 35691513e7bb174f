"""Raw scans are found, and their physics comes from options, sidecars, or not at all."""

import json
from pathlib import Path

import pytest

from deepmir.errors import InputError
from deepmir.io.bids import sidecar_path
from deepmir.io.raw import RawScan, find_raw_scan, resolve_physics

NAMES = [
    f"sub-01_echo-{echo}_part-{part}_MEGRE.nii.gz"
    for echo in (10, 2, 1)
    for part in ("mag", "phase")
]


def make(folder, names, *, session=None):
    anat = folder / "sub-01" / ("" if session is None else f"ses-{session}") / "anat"
    anat.mkdir(parents=True)
    for name in names:
        (anat / name).touch()
    return folder


@pytest.fixture
def scan(tmp_path):
    return RawScan(magnitude=(tmp_path / "m.nii.gz",), phase=(tmp_path / "p.nii.gz",))


def write_sidecar(scan, **entries):
    sidecar_path(scan.magnitude[0]).write_text(json.dumps(entries))


def test_echoes_are_found_in_their_order(tmp_path):
    scan = find_raw_scan(make(tmp_path, NAMES), "sub-01")
    assert [path.name.split("_")[1] for path in scan.magnitude] == ["echo-1", "echo-2", "echo-10"]
    assert [path.name.split("_")[2] for path in scan.phase] == ["part-phase"] * 3
    assert scan.subject == "01"


@pytest.mark.parametrize("suffix", ["GRE", "T2starw"])
def test_a_single_echo_and_a_session_are_found(tmp_path, suffix):
    names = [f"sub-01_ses-2_part-{part}_{suffix}.nii" for part in ("mag", "phase")]
    scan = find_raw_scan(make(tmp_path, names, session="2"), "01", session="2")
    assert len(scan.files) == 2


def test_real_and_imaginary_part_are_found(tmp_path):
    names = [f"sub-01_part-{part}_GRE.nii.gz" for part in ("real", "imag")]
    scan = find_raw_scan(make(tmp_path, names), "01")
    assert scan.is_cartesian
    assert [path.name for path in scan.parts[1]] == ["sub-01_part-imag_GRE.nii.gz"]


def test_nothing_found_says_what_was_wanted(tmp_path):
    with pytest.raises(InputError, match="part-mag_MEGRE"):
        find_raw_scan(make(tmp_path, ["sub-01_T2w.nii.gz"]), "01")


def test_two_acquisitions_are_refused(tmp_path):
    more = [name.replace("_echo", "_acq-fast_echo") for name in NAMES]
    with pytest.raises(InputError, match="several gradient echoes"):
        find_raw_scan(make(tmp_path, NAMES + more), "01")


@pytest.mark.parametrize(
    "files",
    [{}, {"magnitude": 1}, {"phase": 1}, {"real": 1}, {"magnitude": 1, "imaginary": 1}],
    ids=str,
)
def test_half_of_a_pair_is_refused(files):
    with pytest.raises(InputError, match="--mag, --phase"):
        _ = RawScan(**dict.fromkeys(files, (Path("x.nii"),))).parts


def test_sidecars_tell_and_options_go_over_them(scan):
    write_sidecar(scan, EchoTime=[0.005, 0.01], MagneticFieldStrength=3, B0_dir=[0, 0.1, 1])
    physics = resolve_physics(scan, 2)
    assert physics.echo_times_s == (0.005, 0.01)
    assert physics.field_strength_t == 3.0
    assert physics.b0_direction == (0.0, 0.1, 1.0)
    said = RawScan(
        magnitude=scan.magnitude, phase=scan.phase, echo_times_s=(0.02,), field_strength_t=1.5,
        b0_direction=(1, 0, 0),
    )  # fmt: skip
    physics = resolve_physics(said, 1)
    assert (physics.echo_times_s, physics.field_strength_t) == ((0.02,), 1.5)
    assert physics.b0_direction == (1, 0, 0)


def test_echo_times_and_field_strength_are_inherited(tmp_path):
    scan = find_raw_scan(make(tmp_path, NAMES), "01")
    for echo, time_s in ((1, 0.005), (2, 0.01), (10, 0.05)):
        (tmp_path / f"echo-{echo}_MEGRE.json").write_text(json.dumps({"EchoTime": time_s}))
    general = {"MagneticFieldStrength": 7, "B0_dir": [0, 1, 0]}
    (tmp_path / "sub-01" / "sub-01_MEGRE.json").write_text(json.dumps(general))
    physics = resolve_physics(scan, 3)
    assert physics.echo_times_s == (0.005, 0.01, 0.05)
    assert (physics.field_strength_t, physics.b0_direction) == (7.0, (0.0, 1.0, 0.0))


def test_the_phase_tells_what_the_magnitude_does_not(tmp_path):
    scan = find_raw_scan(make(tmp_path, NAMES[4:]), "01")
    write_sidecar(scan, MagneticFieldStrength=3)
    entries = {"EchoTime": 0.02, "MagneticFieldStrength": 7}
    (tmp_path / "part-phase_MEGRE.json").write_text(json.dumps(entries))
    physics = resolve_physics(scan, 1)
    assert (physics.echo_times_s, physics.field_strength_t) == ((0.02,), 3.0)


def test_the_place_of_what_is_missing_is_named(tmp_path):
    scan = find_raw_scan(make(tmp_path, NAMES), "01")
    with pytest.raises(InputError, match=r"for all persons into echo-1_MEGRE\.json at the top"):
        resolve_physics(scan, 3)
    said = RawScan(magnitude=scan.magnitude, phase=scan.phase, echo_times_s=(0.01, 0.02, 0.03))
    with pytest.raises(InputError, match=r"Strength.*into echo-1_MEGRE\.json at the top"):
        resolve_physics(said, 3)


def test_a_single_echo_has_its_place_too(tmp_path):
    names = [f"sub-01_part-{part}_T2starw.nii" for part in ("mag", "phase")]
    with pytest.raises(InputError, match=r"for all persons into T2starw\.json at the top"):
        resolve_physics(find_raw_scan(make(tmp_path, names), "01"), 1)


def test_an_option_goes_over_a_wrong_sidecar(scan):
    write_sidecar(scan, EchoTime="n/a", MagneticFieldStrength=None, B0_dir="up")
    said = RawScan(
        magnitude=scan.magnitude, phase=scan.phase, echo_times_s=(0.02,), field_strength_t=3,
        b0_direction=(0, 0, 1),
    )  # fmt: skip
    assert resolve_physics(said, 1).echo_times_s == (0.02,)


@pytest.mark.parametrize(
    ("entries", "n_echoes", "words"),
    [
        ({}, 1, "--echo-times"),
        ({"EchoTime": "10 ms"}, 1, "wanted a number"),
        ({"EchoTime": 0.01, "MagneticFieldStrength": "3T"}, 1, "wanted a number"),
        ({"EchoTime": 0.01, "MagneticFieldStrength": [3, 3]}, 1, "wanted one number"),
        ({"EchoTime": 0.01, "MagneticFieldStrength": 3, "B0_dir": "z"}, 1, "wanted a number"),
        ({"EchoTime": 0.01}, 1, "--field-strength"),
        ({"EchoTime": 10, "MagneticFieldStrength": 3}, 1, "milliseconds.*--echo-times 0.01"),
        ({"EchoTime": [0.02, 0.01], "MagneticFieldStrength": 3}, 2, "do not increase"),
        ({"EchoTime": [0.01, 0.01], "MagneticFieldStrength": 3}, 2, "do not increase"),
        ({"EchoTime": 0.01, "MagneticFieldStrength": 3}, 3, "has 3 echoes"),
        ({"EchoTime": -0.01, "MagneticFieldStrength": 3}, 1, "positive"),
        ({"EchoTime": 0.01, "MagneticFieldStrength": 30000}, 1, "tesla"),
        ({"EchoTime": 0.01, "MagneticFieldStrength": 3, "B0_dir": [1]}, 1, "three numbers"),
    ],
)
def test_what_the_physics_lacks_is_said_with_its_place(scan, entries, n_echoes, words):
    write_sidecar(scan, **entries)
    with pytest.raises(InputError, match=words):
        resolve_physics(scan, n_echoes)


@pytest.mark.parametrize("text", ["not json", "[1, 2]"])
def test_a_damaged_sidecar_is_refused(scan, text):
    sidecar_path(scan.magnitude[0]).write_text(text)
    with pytest.raises(InputError, match="sidecar"):
        resolve_physics(scan, 1)
