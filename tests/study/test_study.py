"""The study: its arms, its page, and a whole tiny one on a data set of phantoms."""

import json
from dataclasses import replace

import numpy as np
import pytest

from deepmir.errors import ConfigError
from deepmir.io.tables import read_table
from deepmir.labels import Finding
from deepmir.study.arms import SIZES, StudySize, shown_contrasts, study_arms
from deepmir.study.cohort import mesa_counts
from deepmir.study.page import mean_text, page_text, write_study
from deepmir.study.paper import INPUTS, paper_result
from deepmir.study.run import Cell, StudyPlan, StudyState, run_study
from deepmir.study.statistics import PersonCounts, summarise_cell
from deepmir.training.experiment import DataChoice
from deepmir.training.fit import RunOptions
from deepmir.training.recipes import parse_recipe, with_slices


def cell(kind="multi", inputs="SWI+QSM", finding=Finding.CMB):
    persons = [PersonCounts(f"sub-{n}", n, max(n - 1, 0), n + 1, max(n - 1, 0)) for n in range(6)]
    return Cell(kind, inputs, finding, 2, summarise_cell(persons))


# ---- arms ----------------------------------------------------------------------------------


def test_the_full_study_has_every_combination_of_the_paper():
    arms = study_arms(SIZES["full"])
    assert len(arms) == 4 * 3 + 1
    assert len({arm.name for arm in arms}) == 13
    for arm in arms[:-1]:
        slices = arm.recipe.slices
        assert slices.inputs == INPUTS[arm.inputs[0]]
        assert slices.classes == arm.findings
        assert arm.recipe.network.in_channels == len(slices.inputs)
        assert arm.recipe.network.out_channels == (3 if arm.kind == "multi" else 1)
        assert arm.recipe.optimisation.epochs == 30
    assert arms[-1].inputs == tuple(INPUTS)


def test_the_small_study_is_declared():
    size = SIZES["small"]
    assert [arm.name for arm in study_arms(size)] == ["multi-SWI", "multi-SWI+QSM", "release"]
    assert study_arms(size)[0].recipe.optimisation.epochs == 4
    assert "version small: multi, release; SWI, SWI+QSM; 4 folds by head; 4 epochs" in size.text


def test_unknown_inputs_are_refused():
    with pytest.raises(ConfigError, match=r"unknown inputs \['CT'\]"):
        study_arms(StudySize(name="x", kinds=("multi",), inputs=("CT",), n_folds=2))


def test_a_recipe_of_another_part_takes_no_inputs():
    arms = study_arms(SIZES["small"])
    with pytest.raises(ConfigError, match="of the findings part, wanted slices"):
        with_slices(arms[-1].recipe, inputs=("swi",), findings=("CMB",))


def test_combinations_are_in_the_networks_order():
    assert shown_contrasts("SWI+T2w") == (True, True, False)
    assert shown_contrasts("SWI") == (False, True, False)


def test_the_cohort_has_about_7_microbleeds_each_and_a_tail():
    drawn = [mesa_counts(np.random.default_rng(n)).cmb for n in range(3000)]
    assert 5.5 < np.mean(drawn) < 8.5
    assert max(drawn) > 40
    assert 0.02 < np.mean(np.array(drawn) == 0) < 0.2


def test_the_papers_cells():
    assert paper_result("SWI", Finding.IRON, "multi").precision == 0.70
    assert paper_result("SWI+QSM+T2w", Finding.CMB, "single").sensitivity == 0.87
    assert paper_result("SWI", Finding.CMB, "release") is None


# ---- page ----------------------------------------------------------------------------------


def test_the_page_says_which_version_it_shows_and_how_far_it_is():
    state = StudyState((cell(), cell("release"), cell(finding=Finding.IRON)), 3, 12)
    page = page_text(state, SIZES["small"].text)
    assert "version small" in page
    assert "3 of 12 runs are done" in page
    assert "Not finished" in page
    assert page.count("<svg") == 4
    assert "0.84" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://doi.org", "")


def test_a_cell_stands_in_the_table_beside_the_papers(tmp_path):
    write_study(StudyState((cell(),), 1, 1), "version x", tmp_path)
    table = read_table(tmp_path / "tables.tsv")
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["persons"], row["persons_with"]) == ("6", "5")
    assert row["paper_sensitivity"] == "0.84"
    assert row["mean_difference"] == "1.00"
    assert float(row["sensitivity"]) == pytest.approx(
        np.mean([0, 1 / 2, 2 / 3, 3 / 4, 4 / 5]), 1e-2
    )
    assert mean_text(cell().result.sensitivity).startswith("0.54 ± 0.15 (")


# ---- whole ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_study_in_pieces(
    whole_study, tiny_weights, fast_config, paper_text, patch_text, tmp_path, monkeypatch
):
    recipes = {
        "paper-multi": parse_recipe(paper_text, origin="test"),
        "release-findings": parse_recipe(patch_text, origin="test"),
    }
    monkeypatch.setattr("deepmir.study.arms.read_recipe", recipes.__getitem__)
    size = replace(SIZES["small"], epochs=1, slices_per_epoch=16, n_folds=2, release_steps=2)
    plan = StudyPlan(
        size=size, data=DataChoice(data=whole_study), weights=tiny_weights, config=fast_config
    )
    say = []
    first = run_study(plan, tmp_path, options=RunOptions(minutes=0), progress=say.append)
    assert not first.finished
    state = run_study(plan, tmp_path, options=RunOptions(), progress=say.append)
    assert (state.finished, state.n_runs_done) == (True, 6)
    assert {(c.kind, c.inputs, c.finding.name) for c in state.cells} == {
        (kind, inputs, finding)
        for kind in ("multi", "release")
        for inputs in ("SWI", "SWI+QSM")
        for finding in ("CMB", "IRON")
    }
    assert all(len(c.result.persons) == 6 for c in state.cells)
    assert not list(tmp_path.rglob("*.pt"))
    assert json.loads((tmp_path / "results.json").read_text())["runs"] == [6, 6]
    say.clear()
    assert run_study(plan, tmp_path, options=RunOptions(), progress=say.append).finished
    assert not any("step" in line for line in say)
    assert write_study(state, size.text, tmp_path).exists()
