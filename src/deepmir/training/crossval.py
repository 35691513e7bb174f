"""Cross-validation: every person is predicted by a network that never saw them.

OUT/folds.json                     who tests in which fold; written before anything trains
OUT/cases/sub-01-<key>/            prepared once, shared by all folds
OUT/seed-1/fold-01/last.pt ...     one run, resumable, runnable alone
OUT/seed-1/fold-01/fold.json       written when the fold is trained and its persons predicted
OUT/seed-1/predictions/sub-01/...  out-of-fold label maps, a BIDS derivative
OUT/scores.tsv                     per fold, per seed, pooled
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepmir.errors import InputError
from deepmir.evaluation.detection import Score, pool
from deepmir.io.atomic import write_text
from deepmir.io.nifti import read_label_map
from deepmir.io.tables import Cell, Column, write_table
from deepmir.labels import Finding
from deepmir.training.dataset import read_reference_labels
from deepmir.training.experiment import (
    Experiment,
    Thresholds,
    predict_persons,
    prediction_path,
    read_network,
    train_fold,
    validated_thresholds,
)
from deepmir.training.fit import (
    FitResult,
    RunOptions,
    choose_device,
    result_checkpoint,
)
from deepmir.training.folds import FoldPlan
from deepmir.training.lesion_scores import score_labels
from deepmir.training.prepare import PreparedCase
from deepmir.training.recipes import with_seed

FOLD_RECORD_NAME = "fold.json"
SCORES_NAME = "scores.tsv"
_POOLED = "all"

Progress = Callable[[str], None]
_Run = tuple[int, int]  # seed and fold

SCORE_COLUMNS: tuple[Column, ...] = (
    Column("seed", "Seed of the run; all: over the seeds"),
    Column("fold", "Number of the fold; all: over the folds"),
    Column("finding", "What was looked for"),
    Column("persons", "Persons who were predicted; once a seed"),
    Column("reference", "Reference lesions (26 neighbours)"),
    Column("detected", "Reference lesions that a prediction touches"),
    Column("predicted", "Predicted lesions; those on label 255 alone are not counted"),
    Column("correct", "Predicted lesions that touch a reference lesion"),
    Column("sensitivity", "detected / reference", decimals=3),
    Column("precision", "correct / predicted", decimals=3),
    Column("f1", "Harmonic mean of sensitivity and precision", decimals=3),
    Column("false_per_person", "Predicted lesions that touch none, a person", decimals=3),
)


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """How far a cross-validation has come."""

    done: tuple[tuple[int, int], ...]  # (seed, fold)
    wanted: tuple[tuple[int, int], ...]
    last: FitResult | None  # of the run that was at work last

    @property
    def finished(self) -> bool:
        """Whether all that was wanted is done."""
        return set(self.wanted) <= set(self.done)


class Budget:
    """Minutes that several runs share."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def minutes_left(self) -> float | None:
        """Minutes that are left; None without a limit."""
        return None if self._end is None else max(0.0, (self._end - time.monotonic()) / 60)

    @property
    def over(self) -> bool:
        """Whether nothing new should begin."""
        return self._end is not None and time.monotonic() >= self._end


def cross_validate(
    experiment: Experiment,
    plan: FoldPlan,
    out: Path,
    *,
    runs: Sequence[tuple[int, int]],
    options: RunOptions,
    progress: Progress,
) -> CrossValidation:
    """Train and predict some folds, one after the other, and score what is there.

    Folds are independent: processes that are given different `runs` may share `out`.

    Parameters
    ----------
    runs : sequence of (seed, fold)
        Folds count from 1.
    options : RunOptions
        Its minutes are for all runs together.

    Raises
    ------
    ConfigError
        If there is no such fold.
    TrainingError, InputError, WeightsError, OutputError
        As :func:`~deepmir.training.experiment.train_fold` and
        :func:`~deepmir.training.experiment.predict_persons`.
    """
    budget, last = Budget(options.minutes), None
    for seed, fold in runs:
        folder = run_folder(out, seed, fold)
        if (folder / FOLD_RECORD_NAME).exists() and options.resume:
            continue
        if budget.over and last is not None:
            break
        progress(f"seed {seed}, fold {fold} of {len(plan.folds)}")
        share = replace(options, minutes=budget.minutes_left)
        last = run_fold(experiment, plan, out, run=(seed, fold), options=share, progress=progress)
        if not last.finished:
            break
    return CrossValidation(settle_scores(experiment, plan, out), tuple(runs), last)


def run_fold(
    experiment: Experiment,
    plan: FoldPlan,
    out: Path,
    *,
    run: tuple[int, int],
    options: RunOptions,
    progress: Progress,
) -> FitResult:
    """Train one fold with one seed and, when its schedule has ended, predict who tests.

    Raises
    ------
    ConfigError, TrainingError, InputError, WeightsError, OutputError
        As :func:`cross_validate`.
    """
    seed, number = run
    fold, folder = plan.fold(number), run_folder(out, seed, number)
    seeded = replace(experiment, recipe=with_seed(experiment.recipe, seed))
    (folder / FOLD_RECORD_NAME).unlink(missing_ok=True)
    result = train_fold(seeded, fold, folder, options=options, progress=progress)
    if not result.finished:
        return result
    progress(f"predict {len(fold.test)} persons")
    device = choose_device(options.device)
    checkpoint = result_checkpoint(folder, experiment.recipe)
    thresholds: Thresholds = {}
    if experiment.recipe.part == "findings":
        network = read_network(checkpoint, device=device)
        thresholds = validated_thresholds(seeded, fold, network, device=device)
    predict_persons(
        seeded, fold.test, checkpoint, predictions_folder(out, seed), thresholds=thresholds,
        device=device,
    )  # fmt: skip
    record = {
        "seed": seed,
        "fold": number,
        "step": result.step,
        "checkpoint": checkpoint.name,
        "scores": dict(result.scores),
        "thresholds": {finding.name: value for finding, value in thresholds.items()},
    }
    write_text(folder / FOLD_RECORD_NAME, json.dumps(record, indent=1) + "\n")
    return result


def run_folder(out: Path, seed: int, fold: int) -> Path:
    """Folder of one run."""
    return out / f"seed-{seed}" / f"fold-{fold:02d}"


def predictions_folder(out: Path, seed: int) -> Path:
    """Folder of the out-of-fold label maps of one seed."""
    return out / f"seed-{seed}" / "predictions"


def done_runs(out: Path, plan: FoldPlan) -> tuple[tuple[int, int], ...]:
    """List (seed, fold) of all runs on disk that are trained and predicted."""
    records = sorted(out.glob(f"seed-*/fold-*/{FOLD_RECORD_NAME}"))
    stored = [json.loads(path.read_text(encoding="utf-8")) for path in records]
    return tuple((run["seed"], run["fold"]) for run in stored if run["fold"] <= len(plan.folds))


def drop_checkpoints(out: Path, seed: int, fold: int) -> None:
    """Remove the checkpoints of a run that is done: its predictions and its log stay."""
    folder = run_folder(out, seed, fold)
    if (folder / FOLD_RECORD_NAME).exists():
        for path in folder.glob("*.pt"):
            path.unlink()


# ---- scores --------------------------------------------------------------------------------


def score_prediction(case: PreparedCase, predictions: Path) -> Score:
    """Score one person's out-of-fold label map.

    Raises
    ------
    InputError, GeometryError
        If the map is missing or does not fit the reference.
    """
    path = prediction_path(predictions, case.person)
    if not path.exists():
        raise InputError(f"{case.person.name} has no prediction {path}; run its fold again")
    found = read_label_map(path, allowed=tuple(Finding))
    reference = read_reference_labels(case.person, found)
    return score_labels(found.data.astype(np.int32), reference.data.astype(np.int32))


def settle_scores(experiment: Experiment, plan: FoldPlan, out: Path) -> tuple[_Run, ...]:
    """Write the table of scores of all runs on disk that are done; returns which these are.

    Another process may end its fold meanwhile. What is done is listed again before the table is
    written and once it is, so that whoever writes last has seen every record.

    Raises
    ------
    InputError, GeometryError
        As :func:`score_prediction`.
    OutputError
        If the table cannot be written.
    """
    scores: dict[_Run, list[Score]] = {}
    written: tuple[_Run, ...] = ()
    while (done := done_runs(out, plan)) and done != written:
        new = [run for run in done if run not in scores]
        scores |= {run: _scores_of(experiment, plan, out, run) for run in new}
        if not new:
            write_scores(out, {run: scores[run] for run in done}, experiment.labelled)
            written = done
    return done


def _scores_of(experiment: Experiment, plan: FoldPlan, out: Path, run: _Run) -> list[Score]:
    seed, fold = run
    cases = [experiment.cases[name] for name in plan.fold(fold).test]
    return [score_prediction(case, predictions_folder(out, seed)) for case in cases]


def write_scores(
    out: Path, by_run: Mapping[_Run, Sequence[Score]], findings: Sequence[Finding]
) -> None:
    """Write the table of scores: per fold, per seed over its folds, and over all.

    Parameters
    ----------
    by_run : mapping
        Scores of the persons who test, of each seed and fold.

    Raises
    ------
    OutputError
        If the table cannot be written.
    """
    rows: list[Sequence[Cell]] = []
    for (seed, fold), scores in by_run.items():
        rows += _rows(str(seed), str(fold), scores, findings)
    for seed in sorted({seed for seed, _ in by_run}):
        own = [score for (of, _), scores in by_run.items() if of == seed for score in scores]
        rows += _rows(str(seed), _POOLED, own, findings)
    every = [score for scores in by_run.values() for score in scores]
    rows += _rows(_POOLED, _POOLED, every, findings)
    write_table(out / SCORES_NAME, SCORE_COLUMNS, rows)


def _rows(
    seed: str, fold: str, scores: Sequence[Score], findings: Sequence[Finding]
) -> list[Sequence[Cell]]:
    pooled = pool(scores)
    rows: list[Sequence[Cell]] = []
    for finding in findings:
        counts = pooled.of(finding)
        rows.append(
            (
                seed,
                fold,
                finding.name,
                counts.n_persons,
                counts.n_reference,
                counts.n_detected,
                counts.n_predicted,
                counts.n_correct,
                counts.sensitivity,
                counts.precision,
                counts.f1,
                counts.false_per_person,
            )
        )
    return rows
