"""The study from beginning to end, in pieces as long as there is time.

OUT/cohort/            simulated persons, unless a data set is given
OUT/cases/             prepared once for all arms
OUT/folds.json         the same folds for every arm
OUT/multi-SWI+QSM/...  one cross-validation an arm (deepmir.training.crossval)
OUT/results.json, tables.tsv, study.html
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from deepmir.config import Config
from deepmir.io.atomic import write_text
from deepmir.labels import Finding
from deepmir.model.weights import load_weights
from deepmir.study.arms import Arm, StudySize, shown_contrasts, study_arms
from deepmir.study.cohort import N_PERSONS, make_cohort
from deepmir.study.paper import Kind
from deepmir.study.statistics import CellResult, PersonCounts, summarise_cell
from deepmir.training.crossval import (
    FOLD_RECORD_NAME,
    Budget,
    cross_validate,
    drop_checkpoints,
    predictions_folder,
    run_folder,
    score_prediction,
)
from deepmir.training.experiment import DataChoice, Experiment, predict_persons, prepare_data
from deepmir.training.fit import RunOptions, choose_device, result_checkpoint
from deepmir.training.folds import FOLDS_NAME, FoldPlan, settle_plan
from deepmir.training.prepare import PreparedCase

COHORT_NAME = "cohort"
CASES_NAME = "cases"
RESULTS_NAME = "results.json"
_FOLD_SEED = 1

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """Everything that decides the study's results."""

    size: StudySize
    data: DataChoice | None = None
    """None: simulate the cohort."""
    persons: int = N_PERSONS
    seed: int = 2021
    """Of the simulated persons; the seeds of the runs are the recipes'."""
    anatomies: tuple[Path, ...] = ()
    weights: Path | None = None
    config: Config = field(default_factory=Config)


@dataclass(frozen=True, slots=True)
class Cell:
    """One finding of one arm with one combination of inputs."""

    kind: Kind
    inputs: str
    finding: Finding
    n_folds_done: int
    result: CellResult


@dataclass(frozen=True, slots=True)
class StudyState:
    """How far the study has come."""

    cells: tuple[Cell, ...]
    n_runs_done: int
    n_runs: int

    @property
    def finished(self) -> bool:
        """Whether every fold of every arm is done."""
        return self.n_runs_done == self.n_runs


def run_study(
    plan: StudyPlan, out: Path, *, options: RunOptions, progress: Progress
) -> StudyState | None:
    """Go on with the study until it is finished or the time is over.

    Returns
    -------
    StudyState, or None while the cohort is not whole.

    Raises
    ------
    InputError, GeometryError
        If something is wrong with the data or the heads.
    ConfigError
        If there are fewer heads than folds.
    TrainingError, WeightsError, OutputError
        As :func:`deepmir.training.crossval.cross_validate`.
    """
    budget = Budget(options.minutes)
    choice = plan.data or DataChoice(data=out / COHORT_NAME)
    if plan.data is None and not make_cohort(
        out / COHORT_NAME, persons=plan.persons, seed=plan.seed, anatomies=plan.anatomies,
        budget=budget, progress=progress,
    ):  # fmt: skip
        return None
    cases, labelled = prepare_data(
        choice, out / CASES_NAME, weights=load_weights(plan.weights), config=plan.config,
        progress=progress,
    )  # fmt: skip
    folds = settle_plan(
        out / FOLDS_NAME,
        [case.summary for case in cases.values()],
        n_folds=plan.size.n_folds,
        seed=_FOLD_SEED,
    )
    arms = study_arms(plan.size)
    for arm in arms:
        # the paper's recipe counts calcifications as background, the release recipe does not
        experiment = Experiment(
            recipe=arm.recipe,
            cases=cases,
            labelled=labelled if arm.kind == "release" else arm.findings,
        )
        share = replace(options, minutes=budget.minutes_left)
        if not run_arm(arm, experiment, folds, out / arm.name, options=share, progress=progress):
            break
    state = read_state(arms, cases, folds, out)
    write_text(out / RESULTS_NAME, json.dumps(_as_json(plan, state), indent=1) + "\n")
    return state


def run_arm(
    arm: Arm,
    experiment: Experiment,
    folds: FoldPlan,
    out: Path,
    *,
    options: RunOptions,
    progress: Progress,
) -> bool:
    """Go on with one arm, fold by fold; tell whether it is finished.

    Checkpoints of a finished fold are removed: a network of the paper's has 31 million weights.

    Raises
    ------
    TrainingError, InputError, WeightsError, OutputError
        As :func:`run_study`.
    """
    seed = arm.recipe.optimisation.seed
    budget = Budget(options.minutes)
    for fold in range(1, len(folds.folds) + 1):
        if (out / _DONE.format(fold)).exists():
            continue
        progress(f"{arm.name}: fold {fold} of {len(folds.folds)}")
        share = replace(options, minutes=budget.minutes_left)
        result = cross_validate(
            experiment, folds, out, runs=[(seed, fold)], options=share, progress=progress
        )
        if not result.finished:
            return False
        if arm.kind == "release":
            _predict_subsets(arm, experiment, folds, out, fold=fold, options=options)
        drop_checkpoints(out, seed, fold)
        write_text(out / _DONE.format(fold), "{}\n")
        if budget.over:
            return fold == len(folds.folds)
    return True


def read_state(
    arms: Sequence[Arm], cases: Mapping[str, PreparedCase], folds: FoldPlan, out: Path
) -> StudyState:
    """Score what is on disk.

    Raises
    ------
    InputError, GeometryError
        If a prediction is missing or does not fit the reference.
    """
    cells: list[Cell] = []
    n_done = 0
    for arm in arms:
        done = _folds_done(out / arm.name, folds)
        n_done += len(done)
        names = [name for fold in done for name in folds.fold(fold).test]
        if names:
            for inputs in arm.inputs:
                folder = _predictions(arm, out / arm.name, inputs)
                cells += _cells(arm, inputs, [cases[name] for name in names], folder, len(done))
    return StudyState(tuple(cells), n_done, len(arms) * len(folds.folds))


_DONE = "fold-{:02d}.done.json"


def _folds_done(out: Path, folds: FoldPlan) -> tuple[int, ...]:
    numbers = range(1, len(folds.folds) + 1)
    return tuple(number for number in numbers if (out / _DONE.format(number)).exists())


def _predictions(arm: Arm, out: Path, inputs: str) -> Path:
    folder = predictions_folder(out, arm.recipe.optimisation.seed)
    return folder if arm.kind != "release" else folder.with_name(f"predictions-{inputs}")


def _predict_subsets(
    arm: Arm, experiment: Experiment, folds: FoldPlan, out: Path, *, fold: int, options: RunOptions
) -> None:
    """Predict who tests with every combination of inputs, by the one network of the fold."""
    folder = run_folder(out, arm.recipe.optimisation.seed, fold)
    record = json.loads((folder / FOLD_RECORD_NAME).read_text(encoding="utf-8"))
    thresholds = {Finding[name]: value for name, value in record["thresholds"].items()}
    for inputs in arm.inputs:
        predict_persons(
            replace(experiment, shown=shown_contrasts(inputs)),
            folds.fold(fold).test,
            result_checkpoint(folder, arm.recipe),
            _predictions(arm, out, inputs),
            thresholds=thresholds,
            device=choose_device(options.device),
        )


def _cells(
    arm: Arm, inputs: str, cases: Sequence[PreparedCase], folder: Path, n_done: int
) -> list[Cell]:
    scores = [(case.person.name, score_prediction(case, folder)) for case in cases]
    cells = []
    for finding in arm.findings:
        persons = [
            PersonCounts(
                name,
                score.of(finding).n_reference,
                score.of(finding).n_detected,
                score.of(finding).n_predicted,
                score.of(finding).n_correct,
            )
            for name, score in scores
        ]
        cells.append(Cell(arm.kind, inputs, finding, n_done, summarise_cell(persons)))
    return cells


def _as_json(plan: StudyPlan, state: StudyState) -> dict[str, object]:
    cells = [{**asdict(cell), "finding": cell.finding.name} for cell in state.cells]
    return {
        "version": plan.size.text,
        "rule": "paper: 26 neighbours, any overlap, mean over persons who have the finding",
        "finished": state.finished,
        "runs": [state.n_runs_done, state.n_runs],
        "cells": cells,
    }
