"""The weights folder: what is written is read back, and every damage is named."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmir.errors import OutputError, WeightsError
from deepmir.labels import Finding
from deepmir.model.weights import (
    ANATOMY_CLASSES,
    MAX_BYTES,
    Calibration,
    ModelCard,
    NetworkInputs,
    load_weights,
    write_manifest,
)

CARD = ModelCard(summary="s", training_data="t", evaluation="e", limits="l")
THRESHOLDS = {Finding.CMB: 0.4, Finding.IRON: 0.5, Finding.CALCIFICATION: 0.6}


@pytest.fixture
def folder(tiny_weights, tmp_path):
    """Copy of an intact weights folder, to be damaged."""
    return shutil.copytree(tiny_weights, tmp_path / "weights")


def rewrite(folder, **changes):
    """Change fields of the manifest; None takes one out."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in fields.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


# ---- known answers ---------------------------------------------------------------------------


def test_what_is_written_is_read_back(folder):
    inputs = NetworkInputs(findings_window=(64, 64, 16))
    arguments = {"name": "n", "version": "1.2", "thresholds": THRESHOLDS, "card": CARD}
    doubtful, sure = Calibration(slope=0.5, offset=-2.0), Calibration(slope=2.0)
    calibration = {"swi+Chimap": {"IRON": doubtful}, "T2w+swi+Chimap": {"IRON": sure}}
    written = write_manifest(folder, **arguments, inputs=inputs, calibration=calibration)
    read = load_weights(folder)
    assert read == written
    assert (read.manifest.name, read.manifest.version, read.manifest.card) == ("n", "1.2", CARD)
    assert read.thresholds == THRESHOLDS
    assert read.manifest.inputs == inputs
    assert read.calibrations((False, True, True))[Finding.IRON] == doubtful
    assert read.calibrations((False, True, True))[Finding.CMB] == Calibration()
    assert read.calibrations((True, True, True))[Finding.IRON] == sure
    assert set(read.calibrations((True, False, False)).values()) == {Calibration()}


def test_contrasts_that_were_not_calibrated_take_what_was_without_t2w(folder):
    rewrite(folder, calibration={"swi": {"CMB": {"slope": 0.5, "offset": -1.0}}})
    with_t2w = load_weights(folder).calibrations((True, True, False))
    assert with_t2w[Finding.CMB] == Calibration(slope=0.5, offset=-1.0)


@given(st.floats(-80, 80, width=32), st.floats(0.1, 5), st.floats(-8, 8))
def test_a_calibration_is_the_logistic_of_the_log_odds(odds, slope, offset):
    found = Calibration(slope=slope, offset=offset).apply(np.array([odds], np.float32))
    wanted = 1 / (1 + np.exp(-slope * odds - offset))
    assert found[0] == pytest.approx(wanted, abs=2e-3)


def test_a_falling_calibration_is_refused(folder):
    rewrite(folder, calibration={"swi": {"CMB": {"slope": -1.0, "offset": 0.0}}})
    with pytest.raises(WeightsError, match=r"calibration\.swi\.CMB\.slope"):
        load_weights(folder)


def test_all_files_are_listed(folder):
    manifest = load_weights(folder).manifest
    assert sorted(manifest.files) == [
        "MODEL_CARD.md",
        "anatomy.onnx",
        "findings.onnx",
        "weights.safetensors",
    ]
    assert manifest.files["anatomy.onnx"].size_bytes == (folder / "anatomy.onnx").stat().st_size


def test_paths_lie_in_the_folder(folder):
    weights = load_weights(folder)
    assert weights.onnx_path("findings") == folder / "findings.onnx"
    assert weights.trainable_path == folder / "weights.safetensors"


def test_the_checksum_is_that_of_the_manifest(folder):
    before = load_weights(folder).sha256
    rewrite(folder, version="9")
    assert load_weights(folder).sha256 != before


def test_the_classes_are_the_label_table():
    assert len(ANATOMY_CLASSES) == 18
    assert ANATOMY_CLASSES[1] == "brain stem"
    assert ANATOMY_CLASSES[16] == "pallidum"


def test_the_trainable_form_and_the_card_may_be_absent(folder):
    (folder / "weights.safetensors").unlink()
    (folder / "MODEL_CARD.md").unlink()
    weights = write_manifest(folder, name="n", version="1", thresholds=THRESHOLDS, card=CARD)
    assert sorted(weights.manifest.files) == ["anatomy.onnx", "findings.onnx"]


# ---- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["anatomy.onnx", "findings.onnx", "weights.safetensors"])
def test_one_changed_bit_is_found_and_the_file_named(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(WeightsError, match=rf"{name} is damaged.*reinstall"):
        load_weights(folder)


@pytest.mark.parametrize("name", ["findings.onnx", "MODEL_CARD.md"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name}.*No such file"):
        load_weights(folder)


def test_a_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"no network weights.*--weights"):
        load_weights(tmp_path / "nowhere")


def test_a_cut_manifest_is_refused(folder):
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    (folder / "manifest.json").write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(WeightsError, match=r"manifest\.json is damaged"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"extra": 1}, "extra"),
        ({"name": None}, "name"),
        ({"format": 2}, "format"),
        ({"thresholds": {"CMB": 0.5}}, "threshold"),
        ({"thresholds": {"CMB": 0.5, "IRON": 0.5, "CALCIFICATION": 1.5}}, "threshold"),
        ({"anatomy_classes": ["outside"]}, "anatomy classes"),
        ({"files": {}}, r"does not list anatomy\.onnx, findings\.onnx"),
    ],
)
def test_a_manifest_of_another_version_is_refused(folder, changes, complaint):
    rewrite(folder, **changes)
    with pytest.raises(WeightsError, match=rf"manifest\.json.*{complaint}"):
        load_weights(folder)


# ---- writing refuses -------------------------------------------------------------------------


def test_a_manifest_needs_both_networks(folder):
    (folder / "findings.onnx").unlink()
    with pytest.raises(WeightsError, match=r"has no findings\.onnx"):
        write_manifest(folder, name="n", version="1", thresholds=THRESHOLDS, card=CARD)


def test_a_manifest_needs_every_threshold(folder):
    with pytest.raises(WeightsError, match="threshold"):
        write_manifest(folder, name="n", version="1", thresholds={Finding.CMB: 0.5}, card=CARD)


def test_too_large_a_release_is_refused(folder):
    (folder / "weights.safetensors").write_bytes(bytes(MAX_BYTES))
    with pytest.raises(WeightsError, match="at most 16 MiB"):
        write_manifest(folder, name="n", version="1", thresholds=THRESHOLDS, card=CARD)


def test_a_manifest_that_cannot_be_written_is_an_output_error(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*manifest\.json"):
        write_manifest(folder, name="n", version="1", thresholds=THRESHOLDS, card=CARD)
