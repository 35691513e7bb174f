"""Every verb does its work, says it shortly, and explains itself."""

import json
import shutil
import sys
from typing import get_args

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from deepmir.cli import app, evaluate, main
from deepmir.evaluation.rules import RULES
from deepmir.io.bids import SubjectOutputs, raw_scan
from deepmir.model.weights import load_weights

VERBS = (
    "segment", "measure", "reconstruct", "demo", "simulate", "evaluate", "train", "predict",
    "export-nnunet", "study", "info",
)  # fmt: skip


@pytest.fixture
def run(capsys):
    """Run the command line; give (exit code, standard output, standard error)."""

    def call(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def scans(scan_files):
    return ["--swi", scan_files["swi"], "--qsm", scan_files["qsm"], "--t2w", scan_files["t2w"]]


# ---- help ------------------------------------------------------------------


def test_verbs_are_exactly_these():
    names = tuple(command.name for command in app.registered_commands)
    assert names == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, run):
    code, out, err = run(verb, "--help")
    assert code == 0
    assert err == ""
    assert f"deepmir {verb}" in out
    assert "--verbose" in out


def test_no_words_show_the_help(run):
    _, out, err = run()
    assert "segment" in out + err


@pytest.mark.parametrize(
    "words", [["segment", "--nonsense"], ["nonsense"], ["segment"], ["evaluate", "one"]]
)
def test_wrong_usage_exits_with_2(words, run):
    code, _, err = run(*words)
    assert code == 2
    assert "Usage" in err


# ---- segment and measure ---------------------------------------------------


def test_segment_writes_a_report_and_says_where(run, scans, tiny_weights, tmp_path):
    code, out, err = run("segment", *scans, "--out", tmp_path, "--weights", tiny_weights)
    assert code == 0
    assert out.splitlines()[-1] == f"report: {tmp_path / 'sub-01.html'}"
    assert (tmp_path / "sub-01.html").exists()
    assert "microbleeds" in out
    assert [line.split("] ")[1] for line in err.splitlines()] == [
        "read",
        "preprocess",
        "segment",
        "lesions",
        "report",
    ]


def test_quiet_says_nothing(run, scans, tiny_weights, tmp_path):
    words = ["--out", tmp_path, "--weights", tiny_weights, "--quiet"]
    assert run("segment", *scans, *words) == (0, "", "")


def test_options_of_segment_arrive(run, scans, tiny_weights, tmp_path, scan_files):
    settings = tmp_path / "settings.toml"
    settings.write_text("[lesions]\nconnectivity = 6\n[segment]\ndevice = 'auto'\n")
    code, _, err = run(
        "segment", *scans, "--out", tmp_path / "out", "--weights", tiny_weights, "--subject", "x7",
        "--config", settings, "--device", "cpu", "--brain-mask", scan_files["mask"],
        "--qsm-unit", "ppm", "--no-save-probabilities",
    )  # fmt: skip
    assert code == 0, err
    record = json.loads((tmp_path / "out" / SubjectOutputs("x7").provenance).read_text())
    assert record["config"]["lesions"]["connectivity"] == 6
    assert record["config"]["segment"]["device"] == "cpu"
    assert record["command_line"] == sys.argv
    assert "brain mask" in [file["role"] for file in record["inputs"]]
    assert not list((tmp_path / "out").rglob("*probseg*"))


def test_t2w_alone_is_no_failure_and_counts_nothing(run, scan_files, tiny_weights, tmp_path):
    code, out, err = run(
        "segment", "--t2w", scan_files["t2w"], "--out", tmp_path, "--weights", tiny_weights
    )
    assert code == 0
    assert "warning: T2w alone" in err
    counts = [line.split()[-1] for line in out.splitlines()[2:-1]]
    assert counts == ["n/a"] * 5


def test_measure_counts_what_a_person_drew(run, scans, scan_files, tiny_weights, tmp_path):
    code, out, _ = run(
        "measure", scan_files["truth"], *scans, "--out", tmp_path, "--weights", tiny_weights
    )
    assert code == 0
    counts = [line.split()[-1] for line in out.splitlines()[2:-1]]
    assert counts == ["1", "1", "0", "1", "1"]
    assert not list(tmp_path.rglob("*probseg*"))


# ---- demo ------------------------------------------------------------------


@pytest.fixture
def demo_scans(scan_files, tmp_path):
    """Put the tiny person where the demo looks for a person it has simulated before."""
    folder, label = tmp_path / "demo" / "scans", "sim4x001"
    truth = folder / "derivatives" / "truth" / SubjectOutputs(label).findings
    for name, path in (
        ("swi", folder / raw_scan(label, "swi")),
        ("qsm", folder / raw_scan(label, "Chimap")),
        ("t2w", folder / raw_scan(label, "T2w")),
        ("truth", truth),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scan_files[name], path)
    return tmp_path / "demo"


def test_demo_scores_against_the_truth_and_shows_it(run, demo_scans, tiny_weights):
    code, out, err = run("demo", "--out", demo_scans, "--seed", 4, "--weights", tiny_weights)
    assert code == 0, err
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    for finding in ("CMB", "IRON", "CALCIFICATION"):
        assert rows[finding][1:8] == ["1", "1", "1", "1", "1.00", "1.00", "1.00"]
    page = demo_scans / "results" / "sub-sim4x001.html"
    assert out.splitlines()[-1] == f"report: {page}"
    assert "any-overlap" in page.read_text(encoding="utf-8")


def test_demo_simulates_what_is_not_there(run, tmp_path, monkeypatch, tiny_weights):
    asked = []

    def simulate(out, **options):
        asked.append((out, options))
        raise RuntimeError("enough")

    monkeypatch.setattr("deepmir.simulation.cohort.simulate_cohort", simulate)
    code, _, _ = run("demo", "--out", tmp_path / "demo", "--seed", 9, "--weights", tiny_weights)
    assert code == 1
    ((out, options),) = asked
    assert out == tmp_path / "demo" / "scans"
    assert options["subjects"] == 1
    assert options["seed"] == 9
    assert not (tmp_path / "demo" / "results").exists()


def test_demo_looks_at_the_weights_before_it_simulates(run, tmp_path):
    code, _, err = run("demo", "--out", tmp_path / "demo", "--weights", tmp_path / "none")
    assert code == 2
    assert str(tmp_path / "none") in err
    assert not (tmp_path / "demo").exists()


# ---- simulate and train: the options arrive --------------------------------


def test_simulate_passes_its_options_on(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "deepmir.simulation.cohort.simulate_cohort",
        lambda out, **options: asked.append((out, options)),
    )
    code, out, _ = run(
        "simulate", tmp_path, "--subjects", 3, "--seed", 5, "--anatomy", "a.nii", "--anatomy",
        "b.nii", "--protocol", "mesa-like",
    )  # fmt: skip
    ((folder, options),) = asked
    assert code == 0
    assert folder == tmp_path
    assert (options["subjects"], options["seed"]) == (3, 5)
    assert [path.name for path in options["anatomies"]] == ["a.nii", "b.nii"]
    assert options["protocol"] == "mesa-like"
    assert str(tmp_path) in out


def test_simulate_refuses_a_head_that_is_not_there(run, tmp_path):
    code, _, err = run("simulate", tmp_path / "out", "--anatomy", tmp_path / "absent.nii.gz")
    assert code == 2
    assert "absent.nii.gz" in err
    assert not (tmp_path / "out").exists()


def test_train_passes_its_options_on(run, tmp_path, monkeypatch):
    fit = pytest.importorskip("deepmir.training.fit", reason="torch is not installed")
    asked = []

    def train(recipe, data, out, **options):
        asked.append((recipe, data, out, options))
        return fit.FitResult(7, 100, out / "last.pt", {})

    monkeypatch.setattr("deepmir.training.run.train", train)
    code, out, _ = run(
        "train", "--recipe", "release-findings", "--data", "cases", "--out", tmp_path, "--minutes",
        2, "--steps", 100, "--init", "from", "--no-resume", "--device", "cpu", "--threads", 1,
        "--workers", 3, "--mix", "anatomies", "--mix", "more", "--seed", 7,
    )  # fmt: skip
    ((recipe, data, folder, options),) = asked
    assert code == 0
    assert (recipe.name, recipe.optimisation.seed) == ("release-findings", 7)
    assert (data.name, folder, options["init"].name) == ("cases", tmp_path, "from")
    assert options["options"] == fit.RunOptions(
        minutes=2, steps=100, resume=False, threads=1, workers=3, device="cpu"
    )
    assert [(mix.folder.name, round(mix.share, 3)) for mix in options["mixes"]] == [
        ("anatomies", 0.333),
        ("more", 0.333),
    ]
    assert "step 7 of 100" in out


def test_simulated_data_take_one_seed(run, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    code, _, err = run(
        "train", "--recipe", "release-anatomy", "--data", tmp_path, "--out", tmp_path / "out",
        "--seed", 1, "--seed", 2,
    )  # fmt: skip
    assert code == 2
    assert "--seed was given 2 times" in err


def test_train_says_how_to_install_its_part(run, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("deepmir.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "deepmir.training.fit", None)
    code, _, err = run("train", "--recipe", "x", "--data", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert "pip install 'deepmir[train]'" in err


# ---- evaluate --------------------------------------------------------------


@pytest.fixture
def shifted(scan_files, tmp_path):
    """Write the truth with its first finding removed and its second called CMB."""
    image = nib.load(scan_files["truth"])
    labels = np.asarray(image.dataobj).copy()
    labels[labels == 1] = 0
    labels[labels == 2] = 1
    path = tmp_path / "shifted.nii.gz"
    Nifti1Image(labels, image.affine).to_filename(path)
    return path


def test_evaluate_of_two_files(run, scan_files, shifted):
    code, out, err = run("evaluate", shifted, scan_files["truth"])
    assert code == 0, err
    rows = {line.split()[0]: line.split() for line in reversed(out.splitlines()) if line}
    assert rows["CMB"][1:7] == ["1", "0", "1", "0", "0.00", "0.00"]
    assert rows["CALCIFICATION"][1:7] == ["1", "1", "1", "1", "1.00", "1.00"]
    assert "any-overlap, 26-connectivity, 1 person" in out


@pytest.fixture
def two_folders(scan_files, tmp_path):
    for folder in ("found", "true"):
        for label in ("01", "02"):
            path = tmp_path / folder / SubjectOutputs(label).findings
            path.parent.mkdir(parents=True)
            shutil.copy(scan_files["truth"], path)
    return tmp_path / "found", tmp_path / "true"


def test_evaluate_of_two_folders_pairs_persons(run, two_folders):
    code, out, err = run("evaluate", *two_folders)
    assert (code, err) == (0, "")
    assert "2 persons" in out
    shutil.rmtree(two_folders[0] / "sub-02")
    code, out, err = run("evaluate", *two_folders)
    assert code == 1
    assert "1 person" in out
    assert "1 person has no prediction and is not scored: sub-02" in err


def test_evaluate_writes_and_says_where(run, two_folders, tmp_path):
    code, out, err = run("evaluate", *two_folders, "--out", tmp_path / "out")
    assert code == 0
    assert out.splitlines()[-1] == f"page: {tmp_path / 'out' / 'evaluation.html'}"
    assert [line.split("] ")[1] for line in err.splitlines()] == ["score", "summarise"]
    code, out, err = run("evaluate", *two_folders, "--out", tmp_path / "out", "--quiet")
    assert (code, out) == (2, "")
    assert "--overwrite" in err
    words = ["--out", tmp_path / "out", "--quiet", "--overwrite"]
    assert run("evaluate", *two_folders, *words) == (0, "", "")


def test_options_of_evaluate_arrive(run, two_folders, tmp_path):
    found, true = two_folders
    code, _, err = run(
        "evaluate", found, true, "--out", tmp_path / "out", "--rule", "valdo", "--connectivity", 6,
        "--limit", 3, "--min-voxels", 2, "--max-diameter-mm", 12, "--findings", "IRON",
        "--findings", "CMB", "--labels", "1=CMB,2=IRON,3=background", "--reference-labels",
        "1=CMB,2=IRON,3=ignore,255=ignore", "--pattern", "**/*_dseg.nii.gz", "--resample",
        "--extent", 0.2, "--against", f"other={true}", "--run", found, "--raters", "--seed", 5,
    )  # fmt: skip
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    rule, settings = record["rule"], record["settings"]
    assert (rule["name"], rule["connectivity"], rule["limit"]) == ("valdo", 6, 3.0)
    assert (rule["min_voxels"], rule["max_diameter_mm"]) == (2, 12.0)
    assert settings["findings"] == ["CMB", "IRON"]
    assert settings["prediction_labels"] == {"1": 1, "2": 2, "3": 0}
    assert (settings["resample"], settings["extent"], settings["seed"]) == (True, 0.2, 5)
    assert record["comparisons"][0]["other"] == "other"
    assert len(record["runs"]["CMB"]) == 4
    assert len(record["raters"]) == 2 * 3
    assert record["command_line"] == sys.argv


def test_the_published_defects_of_valdo_are_a_switch(run, two_folders):
    words = [*two_folders, "--rule", "valdo", "--as-published"]
    code, out, _ = run("evaluate", *words)
    assert code == 0
    assert "valdo-as-published: centroid-distance-in-voxels < 0.1, nearest-only" in out
    code, _, err = run("evaluate", *two_folders, "--as-published")
    assert code == 2
    assert "belongs to the rule valdo" in err


def test_every_named_rule_can_be_chosen():
    assert set(get_args(evaluate._RuleName)) == set(RULES)


def test_evaluate_refuses_what_cannot_be(run, scan_files, tmp_path):
    code, _, err = run("evaluate", tmp_path, tmp_path)
    assert code == 2
    assert str(tmp_path) in err
    truth = scan_files["truth"]
    for words, said in (
        (["--connectivity", 8], "6, 18 or 26"),
        (["--findings", "BLOOD"], "BLOOD"),
        (["--labels", "1=BLOOD"], "1=BLOOD"),
        (["--against", "theirs"], "NAME=PATH"),
        (["--limit", 3], "needs no limit"),
        (["--extent", 0], "extent"),
        (["--rule", "best"], "best"),
    ):
        code, _, err = run("evaluate", truth, truth, *words)
        assert code == 2
        assert said in err


# ---- info ------------------------------------------------------------------


def test_info_shows_version_network_and_hardware(run, tiny_weights):
    code, out, _ = run("info", "--weights", tiny_weights)
    assert code == 0
    for words in ("deepmir  ", "Python", "CPU threads", "memory", "GPU", "part [train]"):
        assert words in out
    assert load_weights(tiny_weights).sha256 in out
    assert "# Tiny network" in out


def test_info_names_weights_that_are_asked_for_and_missing(run, tmp_path):
    code, _, err = run("info", "--weights", tmp_path / "none")
    assert code == 2
    assert str(tmp_path / "none") in err


def test_info_survives_without_the_released_network(run, tmp_path, monkeypatch):
    monkeypatch.setattr("deepmir.model.weights.RELEASED", tmp_path / "gone")
    code, out, _ = run("info")
    assert code == 0
    assert "network: " in out
