"""The verbs around training, on a study of phantoms."""

import json

import pytest

from deepmir.cli import main
from deepmir.training.fit import FitResult

FAST = "[preprocess]\nbias_correction = false\nregister_t2w = false\n"


@pytest.fixture
def run(capsys):
    """Run the command line; give (exit code, standard output, standard error)."""

    def call(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def words(tmp_path, whole_study, prepared_study, tiny_weights, paper_text):
    """Options that a run on the study needs; its cases are prepared already."""
    (tmp_path / "fast.toml").write_text(FAST)
    (tmp_path / "paper.toml").write_text(paper_text)
    cases = prepared_study["sub-01"].folder.parent
    return [
        "--data", whole_study, "--out", tmp_path / "out", "--cases", cases,
        "--weights", tiny_weights, "--config", tmp_path / "fast.toml",
    ]  # fmt: skip


@pytest.fixture
def paper(tmp_path):
    return ["--recipe", tmp_path / "paper.toml"]


def test_one_fold_alone_then_the_rest(run, words, paper, tmp_path):
    code, out, err = run("train", *paper, *words, "--folds", 3, "--fold", 2)
    assert (code, err) == (0, "")
    assert "check 0 persons, 6 are prepared already" in out
    assert "6 persons of 6 groups: 5 CMB, 5 IRON, 5 CALCIFICATION" in out
    assert out.splitlines()[-1].startswith("1 of 1 folds done, finished; scores of 1 runs: ")
    plan = json.loads((tmp_path / "out" / "folds.json").read_text())
    assert len(plan["folds"]) == 3
    code, out, _ = run("train", *paper, *words, "--folds", 3, "--quiet")
    assert out.splitlines() == [
        f"3 of 3 folds done, finished; scores of 3 runs: {tmp_path / 'out' / 'scores.tsv'}"
    ]


def test_another_recipe_does_not_go_on(run, words, paper, paper_text, tmp_path):
    stopped = ["--folds", 3, "--minutes", 0, "--quiet"]
    run("train", *paper, *words, *stopped)
    other = paper_text.replace("slices_per_epoch = 24", "slices_per_epoch = 16")
    (tmp_path / "paper.toml").write_text(other)
    code, _, err = run("train", *paper, *words, *stopped)
    assert (code, "began with another recipe (see recipe.json there)" in err) == (2, True)
    assert run("train", *paper, *words, *stopped, "--no-resume")[0] == 0


def test_a_lower_rate_goes_on_and_is_said(run, words, paper, paper_text, tmp_path):
    stopped = ["--folds", 3, "--minutes", 0]
    run("train", *paper, *words, *stopped)
    (tmp_path / "paper.toml").write_text(paper_text.replace("0.01", "0.005"))
    code, out, _ = run("train", *paper, *words, *stopped)
    assert code == 0
    assert "go on with optimisation.learning_rate = 0.005 (was 0.01)" in out


def test_leave_one_out_with_two_seeds_stops_by_the_clock(run, words, paper):
    options = ["--folds", "loo", "--seed", 4, "--seed", 5, "--minutes", 0, "--quiet"]
    code, out, _ = run("train", *paper, *words, *options)
    assert code == 0
    assert out == "0 of 12 folds done, stopped; the same command goes on\n"


def test_a_run_on_all_persons_writes_its_log_and_tensorboard(run, words, paper, tmp_path):
    code, out, _ = run("train", *paper, *words, "--steps", 2, "--tensorboard")
    assert code == 0
    assert out.splitlines()[-1].startswith("step 2 of 2, finished: ")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "last.pt", "log.jsonl", "persons.json", "recipe.json", "tensorboard",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1"], "--folds is 1; wanted 2 or more, or `loo`"),
        (["--folds", "few"], "--folds is few"),
        (["--fold", "1"], "--fold names one of the folds of --folds"),
        (["--folds", "7"], "7 folds of 6 persons in 6 groups"),
        (["--folds", "3", "--fold", "4"], "there is no fold 4"),
        (["--labels", "nowhere"], "6 of the persons of"),
        (["--labelled", "VEIN"], "--labelled is VEIN; wanted CMB, IRON, CALCIFICATION"),
        (["--init", "released"], "slices part, which no weights folder holds"),
        (["--device", "gpu"], "torch finds none"),
        (["--device", "cpu", "--devices", "3"], "3 devices cannot share batches of 8"),
        (["--mix", "x"], "--mix is for recipes of the findings part"),
        (
            ["--mix", "x", "--mix-share", "0.2", "--mix-share", "0.3"],
            "--mix-share is given 2 times for 1 times --mix",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run, words, paper, options, message):
    code, out, err = run("train", *paper, *words, *options, "--quiet")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_folds_need_persons(run, tmp_path, paper_text):
    (tmp_path / "cases").mkdir()
    (tmp_path / "paper.toml").write_text(paper_text)
    paper = ["--recipe", tmp_path / "paper.toml"]
    options = ["--data", tmp_path / "cases", "--out", tmp_path / "out"]
    code, _, err = run("train", *paper, *options, "--folds", 3)
    assert (code, "--folds needs persons" in err) == (2, True)
    code, _, err = run("train", *paper, *options)
    assert (code, "is no BIDS data set" in err) == (2, True)


def test_export_takes_the_folds_of_train(run, words, paper, tmp_path):
    run("train", *paper, *words, "--folds", 3, "--minutes", 0, "--quiet")
    folds = tmp_path / "out" / "folds.json"
    code, out, err = run("export-nnunet", *words, "--folds", folds, "--quiet")
    assert (code, err) == (0, "")
    assert out == f"nnU-Net data set: {tmp_path / 'out' / 'Dataset501_Microbleeds'}\n"
    folder = tmp_path / "out" / "Dataset501_Microbleeds"
    assert len(json.loads((folder / "splits_final.json").read_text())) == 3
    code, _, err = run("export-nnunet", *words, "--folds", folds, "--exclude", "02", "--quiet")
    assert (code, "are of 6 persons, the data has 5" in err) == (2, True)


def test_a_study_of_too_few_heads_is_refused(run, words):
    cases = words.index("--cases")
    code, _, err = run("study", *words[:cases], *words[cases + 2 :], "--group-by", "nobody")
    assert code == 2
    assert "no participants.tsv" in err


def test_release_of_anatomies_trains_both_parts_in_turn(run, tmp_path, monkeypatch):
    asked = []

    def no_training(anatomy, findings, data, out, **_):
        asked.extend([anatomy, findings, data])
        return FitResult(0, 1, out / "anatomy" / "last.pt", {})

    monkeypatch.setattr("deepmir.cli.train.training_of_both_parts", lambda: no_training)
    (tmp_path / "heads").mkdir()
    words = ["--data", tmp_path / "heads", "--out", tmp_path / "out", "--seed", 7]
    code, out, _ = run("train", "--recipe", "release", *words)
    assert (code, out.startswith("step 0 of 1, stopped")) == (0, True)
    assert [one.part for one in asked[:2]] == ["anatomy", "findings"]
    assert {one.optimisation.seed for one in asked[:2]} == {7}


def test_release_on_persons_is_the_findings_part(run, words, tmp_path):
    code, _, err = run("train", "--recipe", "release", *words, "--folds", 3, "--minutes", 0)
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["name"] == "release-findings"
