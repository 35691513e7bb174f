"""Whatever cannot be right: one message that names the file, exit code 2, nothing written."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from deepmir.cli import main


@pytest.fixture
def segment(tiny_weights, tmp_path, capsys):
    """Run ``deepmir segment`` into ``tmp_path / "out"``; give (exit code, standard error)."""

    def run(*, words=(), **scans):
        options = [word for name, path in scans.items() for word in (f"--{name}", str(path))]
        out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
        weights = [] if "--weights" in words else ["--weights", str(tiny_weights)]
        code = main(["segment", "--quiet", *options, *out, *weights, *words])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def changed(scan_files, tmp_path):
    """Write a changed copy of a scan: ``changed("swi", data=…, affine=…)``."""

    def write(name, *, data=None, affine=None, file_name=None):
        image = nib.load(scan_files[name])
        data = image.get_fdata(dtype=np.float32) if data is None else data
        path = tmp_path / (file_name or f"changed_{name}.nii")
        new = Nifti1Image(data, image.affine if affine is None else affine)
        new.to_filename(path)
        return path

    return write


def values(scan_files, name):
    return nib.load(scan_files[name]).get_fdata(dtype=np.float32)


def check_refused(code, message, path, *, out=None, words=""):
    """Check what every refusal has in common."""
    assert code == 2, message
    assert Path(path).name in message
    assert words in message
    assert message.startswith("deepmir: ")
    assert "Traceback" not in message
    assert message.count("\n") <= 2
    assert out is None or not out.exists() or list(out.iterdir()) == []


# ---- files -----------------------------------------------------------------


def write_nothing(path, scan):
    del path, scan


def write_empty(path, scan):
    del scan
    path.write_bytes(b"")


def write_truncated(path, scan):
    path.write_bytes(scan.read_bytes()[:5000])


def write_text(path, scan):
    del scan
    path.write_text("a letter, not a scan\n" * 100)


def write_folder(path, scan):
    del scan
    path.mkdir()


@pytest.mark.parametrize(
    "write", [write_nothing, write_empty, write_truncated, write_text, write_folder]
)
@pytest.mark.parametrize("option", ["swi", "t2w"])
def test_a_file_that_is_no_scan(option, write, segment, scan_files, tmp_path):
    path = tmp_path / "wrong.nii.gz"
    write(path, scan_files[option])
    given = {"qsm": scan_files["qsm"], option: path}
    check_refused(*segment(**given), path, out=tmp_path / "out")


def patch_header(source, target, *, offset, numbers, kind="<f4"):
    """Overwrite numbers of an uncompressed NIfTI-1 header, which nibabel would not write."""
    content = bytearray(source.read_bytes())
    new = np.array(numbers, dtype=kind).tobytes()
    content[offset : offset + len(new)] = new
    target.write_bytes(bytes(content))
    return target


@pytest.mark.parametrize("size", [-1.5, 0.0, np.nan])
def test_a_voxel_size_that_is_none(size, segment, changed, tmp_path):
    scan = changed("swi")
    no_sform = patch_header(scan, tmp_path / "a.nii", offset=254, numbers=[0], kind="<i2")
    path = patch_header(no_sform, tmp_path / "size.nii", offset=80, numbers=[size, 1.0, 1.0])
    path = patch_header(path, path, offset=252, numbers=[0], kind="<i2")
    check_refused(*segment(swi=path), path, out=tmp_path / "out")


def test_a_singular_affine(segment, changed, tmp_path):
    path = tmp_path / "singular.nii"
    patch_header(changed("swi"), path, offset=280, numbers=[0.0] * 12)
    patch_header(path, path, offset=254, numbers=[1], kind="<i2")
    check_refused(*segment(swi=path), path, out=tmp_path / "out")


# ---- values ----------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["swi", "qsm", "t2w"])
def test_one_value_everywhere(name, value, segment, changed, scan_files, tmp_path):
    path = changed(name, data=np.full_like(values(scan_files, name), value))
    check_refused(*segment(**{name: path}), path, out=tmp_path / "out")


def test_some_nan_and_inf_are_counted_and_said(segment, changed, scan_files):
    data = values(scan_files, "qsm").copy()
    data[:3] = np.nan
    data[3] = np.inf
    path = changed("qsm", data=data)
    code, message = segment(swi=scan_files["swi"], qsm=path)
    assert code == 0
    assert f"{4 * data[0].size} voxels" in message
    assert path.name in message


def test_a_series(segment, changed, scan_files, tmp_path):
    data = values(scan_files, "swi")
    path = changed("swi", data=np.stack([data, data], axis=-1))
    check_refused(*segment(swi=path), path, out=tmp_path / "out")


def test_a_series_of_one_is_an_image(segment, changed, scan_files):
    path = changed("swi", data=values(scan_files, "swi")[..., None])
    code, _ = segment(swi=path)
    assert code == 0


@pytest.mark.parametrize("cut", [np.s_[:, :, :1], np.s_[:, :, 5]])
def test_a_single_slice_and_2d(cut, segment, changed, scan_files, tmp_path):
    path = changed("swi", data=values(scan_files, "swi")[cut])
    check_refused(*segment(swi=path), path, out=tmp_path / "out")


def test_a_unit_that_cannot_be_told(segment, changed, scan_files, tmp_path):
    path = changed("qsm", data=values(scan_files, "qsm") * 37)
    check_refused(*segment(qsm=path), path, out=tmp_path / "out", words="--qsm-unit")


def test_ppb_is_converted_and_said(segment, changed, scan_files):
    path = changed("qsm", data=values(scan_files, "qsm") * 1000)
    code, message = segment(qsm=path)
    assert code == 0
    assert "divided by 1000" in message


def test_a_unit_that_is_said_is_believed(segment, changed, scan_files):
    path = changed("qsm", data=values(scan_files, "qsm") * 1000)
    code, message = segment(qsm=path, words=["--qsm-unit", "ppb"])
    assert code == 0
    assert "divided by" not in message


def test_a_magnitude_in_place_of_qsm(segment, scan_files, tmp_path):
    code, message = segment(qsm=scan_files["swi"])
    check_refused(code, message, scan_files["swi"], out=tmp_path / "out", words="magnitude")


def test_a_susceptibility_map_in_place_of_swi(segment, scan_files, tmp_path):
    code, message = segment(swi=scan_files["qsm"])
    check_refused(code, message, scan_files["qsm"], out=tmp_path / "out", words="negative")


# ---- grids -----------------------------------------------------------------


def far_away(scan):
    affine = nib.load(scan).affine.copy()
    affine[:3, 3] += 600
    return affine


def test_a_qsm_that_does_not_overlap(segment, changed, scan_files, tmp_path):
    path = changed("qsm", affine=far_away(scan_files["qsm"]))
    code, message = segment(swi=scan_files["swi"], qsm=path)
    check_refused(code, message, path, out=tmp_path / "out", words="do not overlap")


def test_a_t2w_that_does_not_overlap_and_shows_something_else(
    segment, changed, scan_files, tmp_path
):
    noise = np.random.default_rng(3).uniform(1, 2, values(scan_files, "t2w").shape)
    path = changed("t2w", data=noise.astype(np.float32), affine=far_away(scan_files["t2w"]))
    code, message = segment(swi=scan_files["swi"], t2w=path)
    check_refused(code, message, path, out=tmp_path / "out", words="do not overlap")


def test_a_t2w_of_the_same_head_far_away_is_brought_back_and_said(segment, changed, scan_files):
    path = changed("t2w", affine=far_away(scan_files["t2w"]))
    code, message = segment(swi=scan_files["swi"], t2w=path)
    assert code == 0
    assert f"{path} was moved by" in message


@pytest.mark.parametrize(("name", "limit_mm"), [("swi", 5.0), ("qsm", 5.0), ("t2w", 7.0)])
def test_slices_that_are_too_thick(name, limit_mm, segment, changed, tmp_path):
    path = changed(name, affine=np.diag([0.9, 0.9, limit_mm + 0.1, 1.0]))
    check_refused(*segment(**{name: path}), path, out=tmp_path / "out", words=f"{limit_mm:g} mm")


def test_an_empty_mask(segment, changed, scan_files, tmp_path):
    path = changed("mask", data=np.zeros(values(scan_files, "mask").shape, np.uint8))
    code, message = segment(swi=scan_files["swi"], words=["--brain-mask", str(path)])
    check_refused(code, message, path, out=tmp_path / "out", words="empty")


def test_a_mask_on_another_grid(segment, changed, scan_files, tmp_path):
    path = changed("mask", data=values(scan_files, "mask")[:-2])
    code, message = segment(swi=scan_files["swi"], words=["--brain-mask", str(path)])
    check_refused(code, message, path, out=tmp_path / "out", words="grid")


# ---- outputs ---------------------------------------------------------------


def test_a_result_that_is_there_already(segment, scan_files, tmp_path):
    assert segment(swi=scan_files["swi"])[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    code, message = segment(swi=scan_files["swi"])
    check_refused(code, message, "sub-01", words="--overwrite")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert segment(swi=scan_files["swi"], words=["--overwrite"])[0] == 0


def test_a_file_in_place_of_the_folder(segment, scan_files, tmp_path):
    (tmp_path / "out").write_text("in the way")
    check_refused(*segment(swi=scan_files["swi"]), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "in the way"


def test_a_folder_of_another_data_set(segment, scan_files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset_description.json").write_text('{"Name": "raw"}')
    check_refused(*segment(swi=scan_files["swi"]), tmp_path / "out", words="data set")


def test_a_read_only_folder(segment, scan_files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    make = Path.mkdir

    def refuse(path, *arguments, **options):  # root may write everywhere: play the system
        if out in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    check_refused(*segment(swi=scan_files["swi"]), out, out=out, words="Permission denied")


@pytest.mark.parametrize("ending", [".nii.gz", ".tsv", ".html", "provenance.json"])
def test_a_full_disk(ending, segment, scan_files, tmp_path, monkeypatch):
    wanted = []
    write = Path.replace

    def refuse(path, target):
        if str(target).endswith(ending) and not wanted:
            wanted.append(target)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return write(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    code, message = segment(swi=scan_files["swi"])
    check_refused(code, message, tmp_path / "out", out=tmp_path / "out", words="No space left")
    assert wanted
    assert ".deepmir-" not in message


# ---- weights ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["anatomy.onnx", "findings.onnx", "manifest.json"])
def test_damaged_weights(name, segment, scan_files, tiny_weights, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(tiny_weights, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / name).write_bytes(bytes(content))
    code, message = segment(swi=scan_files["swi"], words=["--weights", str(folder)])
    check_refused(code, message, name, out=tmp_path / "out")


def test_missing_weights(segment, scan_files, tmp_path):
    code, message = segment(swi=scan_files["swi"], words=["--weights", str(tmp_path / "none")])
    check_refused(code, message, tmp_path / "none", out=tmp_path / "out")


# ---- settings and usage ----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[lesions]\nconectivity = 26\n", "conectivity"),
        ("[lesions]\nconnectivity = 8\n", "connectivity"),
        ("[segment]\noverlap = 1.5\n", "overlap"),
        ("not toml", "TOML"),
    ],
)
def test_settings_that_are_wrong(text, words, segment, scan_files, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    code, message = segment(swi=scan_files["swi"], words=["--config", str(path)])
    check_refused(code, message, path, out=tmp_path / "out", words=words)


def test_no_scan_at_all(segment, tmp_path):
    code, message = segment()
    assert code == 2
    assert "--swi, --qsm and --t2w" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("label", ["a b", "../up", "ü", ""])
def test_a_label_that_bids_does_not_allow(label, segment, scan_files, tmp_path):
    code, message = segment(swi=scan_files["swi"], words=["--subject", label])
    check_refused(code, message, "--subject", out=tmp_path / "out")


# ---- names -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["Müller 北京 (1).nii.gz", "new\nline.nii.gz", "-dash.nii.gz"])
def test_any_file_name_works(name, segment, scan_files, tmp_path):
    path = tmp_path / name
    shutil.copy(scan_files["swi"], path)
    code, message = segment(swi=path, words=["--out", str(tmp_path / "Größe 中" / "out")])
    assert code == 0, message
    assert len(list((tmp_path / "Größe 中" / "out").glob("sub-*.html"))) == 1


def test_a_long_path_works(segment, scan_files, tmp_path):
    folder = tmp_path.joinpath(*["long" * 30] * 8)
    folder.mkdir(parents=True)
    path = folder / ("x" * 240 + ".nii.gz")
    shutil.copy(scan_files["swi"], path)
    code, message = segment(swi=path, words=["--out", str(folder / "out")])
    assert code == 0, message


def test_a_path_that_is_too_long_for_the_system(segment, scan_files, tmp_path):
    path = tmp_path / ("x" * 300 + ".nii.gz")
    check_refused(*segment(swi=path), path, out=tmp_path / "out")
    out = tmp_path / ("y" * 300)
    code, message = segment(swi=scan_files["swi"], words=["--out", str(out)])
    check_refused(code, message, out)


# ---- what is not foreseen --------------------------------------------------


def test_ctrl_c_leaves_nothing(scan_files, tiny_weights, tmp_path):
    out = tmp_path / "out"
    words = ["--swi", scan_files["swi"], "--out", out, "--weights", tiny_weights]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepmir.cli", "segment", *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # a test run started in the background hands down that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert "read" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=300)
    assert process.returncode == 130, message
    assert "interrupted" in message
    assert "Traceback" not in message
    assert not out.exists()


@pytest.mark.parametrize("verbose", [False, True])
def test_an_unforeseen_error_is_one_line_unless_verbose(
    verbose, segment, scan_files, tmp_path, monkeypatch
):
    def fail(*_arguments, **_options):
        raise RuntimeError("never thought of")

    monkeypatch.setattr("deepmir.pipeline.prepare", fail)
    code, message = segment(swi=scan_files["swi"], words=["--verbose"] if verbose else [])
    assert code == 1
    assert "never thought of" in message
    assert ("Traceback" in message) == verbose
    assert ("--verbose" in message) == (not verbose)
    assert not (tmp_path / "out").exists()


def test_a_foreseen_error_shows_its_traceback_when_verbose(segment, tmp_path):
    code, message = segment(swi=tmp_path / "absent.nii", words=["--verbose"])
    assert code == 2
    assert "Traceback" in message
    assert message.splitlines()[-1].startswith("deepmir: there is no file")
