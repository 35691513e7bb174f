"""Train one part of the network by a recipe: the functions behind ``deepmir train``.

train           one run on simulated cases or anatomies
train_on_study  a BIDS data set: one run on all persons, or cross-validation
predict         a trained network of the slices part on new scans
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from deepmir.config import Config
from deepmir.errors import ConfigError, InputError, TrainingError
from deepmir.io.atomic import write_text
from deepmir.model.weights import RELEASED, Weights, load_weights
from deepmir.training.anatomy_task import NO_CASES, AnatomyCases, AnatomyTask
from deepmir.training.apply import Trained, find_trained, predict_scans
from deepmir.training.crossval import SCORES_NAME, CrossValidation, cross_validate
from deepmir.training.dataset import is_bids, list_scans
from deepmir.training.experiment import (
    DataChoice,
    Experiment,
    prepare_data,
    read_network,
    train_fold,
    validated_thresholds,
)
from deepmir.training.export import initial_state
from deepmir.training.export_tuned import export_tuned
from deepmir.training.findings_task import FindingsTask
from deepmir.training.fit import (
    FitResult,
    Job,
    RunOptions,
    State,
    batch_makers,
    choose_device,
    result_checkpoint,
)
from deepmir.training.folds import FOLDS_NAME, Fold, plan_split, read_plan, settle_plan
from deepmir.training.fresh import closing_in_turn, has_anatomies, makers_for
from deepmir.training.nnunet import NnunetNames, export_nnunet
from deepmir.training.nuclei_task import NucleiTask, prepare_boxes
from deepmir.training.parallel import run_job
from deepmir.training.patches import list_cases
from deepmir.training.recipes import Recipe, recipe_as_dict, recipe_from_json, with_seed
from deepmir.training.resuming import changed_settings
from deepmir.training.sources import CaseBlocks, Mix, Mixture, Opener
from deepmir.training.team import Share

__all__ = [
    "DataChoice",
    "Mix",
    "RunOptions",
    "StudyOptions",
    "ending_text",
    "export_study",
    "find_trained",
    "init_folder",
    "is_bids",
    "predict",
    "train",
    "train_on_study",
]

CASES_NAME = "cases"
EXPORT_CASES_NAME = "deepmir-cases"  # nnU-Net takes any Dataset* beside its own for another one
WEIGHTS_NAME = "weights"
RECIPE_NAME = "recipe.json"

Progress = Callable[[str], None]


def train(  # noqa: PLR0913 - what a user says on the command line
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    init: Path | None = None,
    mixes: Sequence[Mix] = (),
    options: RunOptions | None = None,
    progress: Progress = lambda _: None,
) -> FitResult:
    """Train until the recipe's schedule ends or the options stop it; goes on where it stopped.

    Parameters
    ----------
    recipe : Recipe
    data : Path
        Folder of anatomies (``head_XX.npz``) or, for the findings part, of simulated cases; of
        anatomies the findings part simulates new cases while it trains.
    out : Path
        Folder of the checkpoint, the log and what is needed to repeat the run.
    init : Path, optional
        Folder of released weights to start from, with a fresh optimizer.
    mixes : sequence of Mix
        Other cases, or anatomies, that the findings part draws a share of its patches from; one
        folder of cases that the anatomy part makes a share of its samples of.
    options : RunOptions, optional
        Time, steps, threads, device and processes that simulate.
    progress : callable, optional
        Takes one line of text at a time.

    Raises
    ------
    InputError
        If there is no data of the training heads.
    ConfigError
        If the recipe is of the slices part, which needs a BIDS data set, or mixes do not fit.
    TrainingError
        If a case cannot be simulated, the loss is no number any more, or the checkpoint in `out`
        does not fit the recipe.
    WeightsError
        If `init` is damaged or holds another network.
    """
    if recipe.part == "slices":
        raise ConfigError(
            f"recipe {recipe.name} trains on scans of persons, and {data} is no BIDS data set (no "
            "sub-* folder); give one such as `deepmir simulate` writes"
        )
    given = options or RunOptions()
    make = partial(_open_simulated, _Simulated(recipe, data, out, init, tuple(mixes)), given)
    return run_job(make, recipe, out, options=given, progress=progress)


@dataclass(frozen=True, slots=True)
class _Simulated:
    """A run on simulated data."""

    recipe: Recipe
    data: Path
    out: Path
    init: Path | None
    mixes: tuple[Mix, ...]


def _open_simulated(wanted: _Simulated, options: RunOptions, share: Share) -> Job:
    """Open the data of a run for one of its processes."""
    recipe = wanted.recipe
    initial = None if wanted.init is None else initial_state(wanted.init, recipe)
    if recipe.part == "anatomy":
        device = choose_device(options.device, share)
        heads = AnatomyTask(
            recipe,
            wanted.data,
            cases=_cases_beside(wanted),
            device=str(device),
            workers=batch_makers(options, device),
        )
        return Job(heads, recipe, initial, heads.close)
    if recipe.part == "nuclei":
        return _open_nuclei(wanted, options, initial)
    makers = makers_for(share, options.workers)
    opener = Opener(recipe, wanted.out, makers, resume=options.resume, share=share)
    sources = Mixture(opener.training(wanted.data, name="case"), opener.mixed(wanted.mixes))
    task = FindingsTask(
        recipe,
        sources,
        opener.validation(wanted.data),
        share=share,
        makers=batch_makers(options, choose_device(options.device, share)),
    )
    return Job(task, recipe, initial, closing_in_turn(makers, task))


def _open_nuclei(wanted: _Simulated, options: RunOptions, initial: State | None) -> Job:
    """Cut the boxes of the cases that are new, and draw from all."""
    if wanted.mixes:
        raise ConfigError("the nuclei part takes cases by --data alone; leave --mix out")
    workers = batch_makers(options, choose_device(options.device))
    boxes = prepare_boxes(
        wanted.recipe,
        wanted.data,
        wanted.out,
        load_weights(wanted.init),
        workers=options.makers or os.cpu_count() or 1,
    )
    task = NucleiTask(wanted.recipe, boxes, workers=workers)
    return Job(task, wanted.recipe, initial, task.close)


def _cases_beside(wanted: _Simulated) -> AnatomyCases:
    """Cases that are mixed into the heads of the anatomy part, the same when a run goes on."""
    if not wanted.mixes:
        return NO_CASES
    recipe, mixes = wanted.recipe, wanted.mixes
    if len(mixes) > 1 or has_anatomies(mixes[0].folder):
        raise ConfigError(
            "the anatomy part takes one --mix, a folder of simulated cases; its own samples are "
            "made of the anatomies in --data"
        )
    folder, share = mixes[0].folder, mixes[0].share
    record = wanted.out / "mix_1_blocks.json"
    names = CaseBlocks(folder, recipe.train_heads, record).cases_of("0")
    validation = list_cases(folder, recipe.validation_heads)
    return AnatomyCases(
        tuple(folder / name for name in names), tuple(folder / name for name in validation), share
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """How a study's data set is trained on, beside the recipe."""

    n_folds: int | None = None
    """None: one run on all persons; 0: leave one out."""
    fold: int | None = None
    """Run this fold alone, counted from 1."""
    seeds: tuple[int, ...] = ()
    """Seeds of the runs; empty: the recipe's own."""
    init: Path | None = None
    mixes: tuple[Mix, ...] = ()
    cases: Path | None = None
    """Where prepared cases lie; None: in the output folder."""
    weights: Path | None = None
    """Weights folder whose anatomy part prepares the scans; None: that of `init`, else the
    released one."""
    config: Config = field(default_factory=Config)
    """How scans are prepared."""


def train_on_study(
    recipe: Recipe,
    choice: DataChoice,
    out: Path,
    *,
    study: StudyOptions,
    options: RunOptions | None = None,
    progress: Progress = lambda _: None,
) -> CrossValidation | FitResult:
    """Train on a BIDS data set: once on all persons, or fold by fold; goes on where it stopped.

    Raises
    ------
    InputError, GeometryError
        If something is wrong with the data; every person concerned is named.
    ConfigError
        If there are too few persons for the folds, or no such fold.
    TrainingError, WeightsError, OutputError
        As :func:`train`.
    """
    weights = load_weights(study.weights)
    cases, labelled = prepare_data(
        choice, study.cases or out / CASES_NAME, weights=weights, config=study.config,
        progress=progress,
    )  # fmt: skip
    experiment = Experiment(
        recipe=recipe, cases=cases, labelled=labelled, init=study.init, mixes=study.mixes
    )
    given = options or RunOptions()
    changed = _settle_recipe(recipe, out / RECIPE_NAME, resume=given.resume)
    if study.n_folds is None:
        return _train_once(experiment, out, weights, study=study, options=given, progress=progress)
    if changed:
        progress(f"folds that are not done go on with {', '.join(changed)}")
    summaries = [case.summary for case in cases.values()]
    plan = settle_plan(
        out / FOLDS_NAME, summaries, n_folds=study.n_folds or None, seed=recipe.optimisation.seed
    )
    seeds = study.seeds or (recipe.optimisation.seed,)
    folds = range(1, len(plan.folds) + 1) if study.fold is None else (study.fold,)
    runs = [(seed, fold) for seed in seeds for fold in folds]
    return cross_validate(experiment, plan, out, runs=runs, options=given, progress=progress)


def _settle_recipe(recipe: Recipe, record: Path, *, resume: bool) -> tuple[str, ...]:
    """Write the recipe down, and list its settings that are others than the runs began with.

    Raises
    ------
    TrainingError
        If one of them makes other runs of them.
    """
    changed: tuple[str, ...] = ()
    if resume and record.exists():
        began = f"the runs in {record.parent} began with another recipe (see {record.name} there)"
        changed = changed_settings(_stored_recipe(record, began), recipe, began=began)
    write_text(record, json.dumps(recipe_as_dict(recipe), indent=1) + "\n")
    return changed


def _stored_recipe(record: Path, began: str) -> Recipe:
    """Recipe that runs began with; settings that are newer than the runs have their defaults."""
    try:
        return recipe_from_json(record.read_text(encoding="utf-8"))
    except ConfigError as error:
        raise TrainingError(
            f"{began}: {error}; give a fresh --out, or --no-resume to start anew"
        ) from error


def _train_once(
    experiment: Experiment, out: Path, weights: Weights, *, study: StudyOptions,
    options: RunOptions, progress: Progress,
) -> FitResult:  # fmt: skip
    """Train on all persons but those that validate; then write a folder for ``--weights``."""
    seed = study.seeds[0] if study.seeds else experiment.recipe.optimisation.seed
    seeded = replace(experiment, recipe=with_seed(experiment.recipe, seed))
    fold = plan_split([case.summary for case in experiment.cases.values()], seed=seed)
    result = train_fold(seeded, fold, out, options=options, progress=progress)
    if not result.finished or experiment.recipe.part != "findings":
        return result
    progress("choose thresholds on the validating persons")
    export_result(seeded, fold, out, base=study.init or weights.folder, options=options)
    progress(f"weights for `deepmir segment --weights`: {out / WEIGHTS_NAME}")
    return result


def export_result(
    experiment: Experiment, fold: Fold, out: Path, *, base: Path, options: RunOptions
) -> Weights:
    """Write the weights folder of a finished run, its thresholds chosen on who validated.

    Raises
    ------
    TrainingError, WeightsError, OutputError
        As :func:`~deepmir.training.export_tuned.export_tuned`.
    """
    checkpoint = result_checkpoint(out, experiment.recipe)
    device = choose_device(options.device)
    network = read_network(checkpoint, device=device)
    return export_tuned(
        checkpoint,
        base,
        out / WEIGHTS_NAME,
        thresholds=validated_thresholds(experiment, fold, network, device=device),
        persons=(len(fold.train), len(fold.validation)),
    )


def export_study(
    choice: DataChoice,
    out: Path,
    *,
    names: tuple[int, str],
    folds: Path | None,
    study: StudyOptions,
    progress: Progress,
) -> Path:
    """Write a study as an nnU-Net raw data set, and return its folder.

    Parameters
    ----------
    names : tuple of int and str
        Number and name of the data set.
    folds : Path or None
        Folds that `deepmir train` wrote.

    Raises
    ------
    InputError, GeometryError
        If something is wrong with the data or the folds, or they are of other persons.
    ConfigError, OutputError
        As :func:`deepmir.training.nnunet.export_nnunet`.
    """
    called = NnunetNames(number=names[0], name=names[1])
    plan = None if folds is None else read_plan(folds)
    weights = load_weights(study.weights)
    cases, labelled = prepare_data(
        choice,
        study.cases or out / EXPORT_CASES_NAME,
        weights=weights,
        config=study.config,
        progress=progress,
    )
    if plan is not None and plan.groups.keys() != cases.keys():
        raise InputError(
            f"the folds in {folds} are of {len(plan.groups)} persons, the data has {len(cases)}, "
            "and they are not the same; give the same --data, --labels and --exclude as to train"
        )
    return export_nnunet(cases, plan, out, names=called, labelled=labelled)


def predict(  # noqa: PLR0913 - what a user says on the command line
    trained: Trained,
    data: Path,
    out: Path,
    *,
    study: StudyOptions,
    exclude: tuple[str, ...] = (),
    overwrite: bool = False,
    progress: Progress = lambda _: None,
) -> int:
    """Apply a trained network of the slices part to the scans of a BIDS data set.

    Parameters
    ----------
    trained : Trained
        As :func:`~deepmir.training.apply.find_trained` finds it.
    data : Path
        BIDS data set; label maps are not asked for.
    study : StudyOptions
        Weights folder whose anatomy part prepares the scans, and settings: as in training.

    Returns
    -------
    int
        How many label maps are new.

    Raises
    ------
    InputError, GeometryError, ConfigError, OutputError, TrainingError, WeightsError
        As :func:`~deepmir.training.apply.predict_scans`.
    """
    return predict_scans(
        trained,
        list_scans(data, exclude=exclude),
        out,
        preparation=(load_weights(study.weights), study.config),
        overwrite=overwrite,
        progress=progress,
    )


def ending_text(result: CrossValidation | FitResult, out: Path) -> str:
    """Return one line that says how far a command came and what lies where."""
    if isinstance(result, FitResult):
        state = "finished" if result.finished else "stopped; the same command goes on"
        return f"step {result.step} of {result.steps}, {state}: {result.checkpoint}"
    done = len(set(result.wanted) & set(result.done))
    state = "finished" if result.finished else "stopped; the same command goes on"
    scores = f"; scores of {len(result.done)} runs: {out / SCORES_NAME}" if result.done else ""
    return f"{done} of {len(result.wanted)} folds done, {state}{scores}"


def init_folder(name: str | None) -> Path | None:
    """Weights folder that `--init` names: ``released`` is the one of the package."""
    if name is None:
        return None
    return RELEASED if name == "released" else Path(name)
