"""One training run on a study's prepared persons, and what it predicts for others.

Fold ──train_fold──▶ checkpoint ──predict_persons──▶ label maps on each scan's own grid
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from deepmir.config import Config
from deepmir.errors import ConfigError, InputError, TrainingError
from deepmir.io.atomic import write_text
from deepmir.io.bids import DatasetKind, write_dataset_files
from deepmir.io.nifti import read_volume, write_map
from deepmir.labels import Finding
from deepmir.model.predict import log_odds
from deepmir.model.predict_torch import TorchNetwork
from deepmir.model.unet import UNet, build_network
from deepmir.model.weights import Calibration, Weights, load_weights
from deepmir.segmentation import certainty_of, findings_of
from deepmir.training.dataset import LABELS_ENDING, LabelledPerson, list_persons, summary_text
from deepmir.training.export import initial_state
from deepmir.training.fit import (
    FitResult,
    Job,
    RunOptions,
    clear_endings,
    read_checkpoint,
)
from deepmir.training.folds import Fold
from deepmir.training.fresh import closing_in_turn, makers_for
from deepmir.training.labelled_task import LabelledTask
from deepmir.training.parallel import run_job
from deepmir.training.patches import open_case
from deepmir.training.predict import labels_of_slices, predict_patches, predict_slices
from deepmir.training.prepare import PreparedCase, prepare_persons
from deepmir.training.recipes import Recipe, resolve_epochs
from deepmir.training.slices import SliceSampling, open_slices
from deepmir.training.slices_task import SlicesTask
from deepmir.training.sources import Mix, Opener
from deepmir.training.team import Share
from deepmir.training.thresholds import choose_thresholds
from deepmir.volume import FloatMap, Modality, Present

PERSONS_NAME = "persons.json"
PREDICTIONS_NAME = "deepmir out-of-fold predictions"
_UNTUNED_THRESHOLD = 0.5

Progress = Callable[[str], None]
Thresholds = dict[Finding, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChoice:
    """Which persons, as a user says it."""

    data: Path
    labels: Path | None = None
    group_by: str = "auto"
    exclude: tuple[str, ...] = ()
    labelled: tuple[Finding, ...] | None = None
    """Findings that the study's raters marked; None: those that occur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What is trained on whom; the same for all folds."""

    recipe: Recipe
    cases: Mapping[str, PreparedCase]  # by the person's name
    labelled: tuple[Finding, ...]
    init: Path | None = None
    mixes: tuple[Mix, ...] = ()
    shown: Present | None = None
    """Contrasts that the findings part is shown to predict; None: all that a person has."""

    def folders(self, names: Sequence[str]) -> tuple[Path, ...]:
        """Folders of the prepared cases of some persons."""
        return tuple(self.cases[name].folder for name in names)


def prepare_data(
    choice: DataChoice, cases: Path, *, weights: Weights, config: Config, progress: Progress
) -> tuple[dict[str, PreparedCase], tuple[Finding, ...]]:
    """List, check and prepare the persons of a data set; tell which findings are labelled.

    Raises
    ------
    InputError, GeometryError
        If something is wrong with the data; every person concerned is named.
    OutputError
        If a case cannot be written.
    """
    persons = list_persons(
        choice.data, labels=choice.labels, group_by=choice.group_by, exclude=choice.exclude
    )
    progress(f"{len(persons)} persons in {choice.data}")
    prepared = prepare_persons(persons, cases, weights=weights, config=config, progress=progress)
    progress(summary_text([case.summary for case in prepared]))
    labelled = choice.labelled or _findings_that_occur(prepared)
    if not labelled:
        raise InputError(
            f"the label maps of {choice.data} hold no finding at all; wanted some persons with "
            "findings to learn from"
        )
    others = [finding.name for finding in Finding if finding not in labelled]
    if others:
        progress(f"no labels of {' and '.join(others)}: not taught to be background")
    return {case.person.name: case for case in prepared}, labelled


def train_fold(
    experiment: Experiment, fold: Fold, out: Path, *, options: RunOptions, progress: Progress
) -> FitResult:
    """Train on the persons of a fold, or go on where it stopped.

    Raises
    ------
    TrainingError
        As :func:`deepmir.training.fit.fit`; also if the run in `out` was of other persons, or
        of scans or labels that have changed since.
    ConfigError, InputError
        If a person lacks a contrast that the recipe needs, or slices are too large for it.
    WeightsError
        If the weights to start from do not fit.
    """
    _settle_persons(experiment, fold, out, resume=options.resume)
    make = partial(_open_fold, experiment, fold, out, options)
    return run_job(make, experiment.recipe, out, options=options, progress=progress)


def _open_fold(
    experiment: Experiment, fold: Fold, out: Path, options: RunOptions, share: Share
) -> Job:
    """Open the data of a fold for one process of its run."""
    makers = makers_for(share, options.workers)
    opener = Opener(experiment.recipe, out, makers, resume=options.resume, share=share)
    task, recipe = make_task(experiment, fold, opener)
    initial = None if experiment.init is None else initial_state(experiment.init, recipe)
    return Job(task, recipe, initial, closing_in_turn(makers, task))


def make_task(
    experiment: Experiment, fold: Fold, opener: Opener
) -> tuple["LabelledTask | SlicesTask", Recipe]:
    """Task of a fold, and the recipe with its epochs turned into steps.

    Parameters
    ----------
    opener : Opener
        Of the sources that are mixed in; it knows which part of every batch is made.

    Raises
    ------
    ConfigError, InputError
        As :func:`train_fold`.
    """
    recipe = experiment.recipe
    train, validation = experiment.folders(fold.train), experiment.folders(fold.validation)
    if recipe.part == "slices":
        if experiment.mixes:
            raise ConfigError("--mix is for recipes of the findings part; leave it out")
        check_contrasts(experiment, (*fold.train, *fold.validation, *fold.test))
        task = SlicesTask(recipe, train, validation, share=opener.share)
        return task, resolve_epochs(recipe, task.steps_per_epoch)
    if recipe.part in ("anatomy", "nuclei"):
        raise InputError(
            f"recipe {recipe.name} is of the {recipe.part} part, which is trained on maps of "
            "regions, not on findings; take fine-tune, release-findings or a recipe of the slices"
        )
    labelled = LabelledTask(
        recipe,
        train,
        validation,
        labelled=experiment.labelled,
        mixed=opener.mixed(experiment.mixes),
        share=opener.share,
    )
    return labelled, recipe


def check_contrasts(experiment: Experiment, names: Sequence[str]) -> None:
    """Check that all persons have the contrasts of a recipe of the slices part.

    Raises
    ------
    InputError
        If one lacks a contrast.
    """
    wanted = set(experiment.recipe.slices.inputs)
    for name in names:
        lacking = wanted - set(experiment.cases[name].summary.contrasts)
        if lacking:
            raise InputError(
                f"{name} has no {' and no '.join(sorted(lacking))}, which recipe "
                f"{experiment.recipe.name} takes; change slices.inputs or leave the person out"
            )


def read_network(checkpoint: Path, *, device: torch.device) -> UNet:
    """Averaged weights of a checkpoint in a network that is ready to predict.

    Raises
    ------
    TrainingError
        If the checkpoint cannot be read.
    """
    stored = read_checkpoint(checkpoint)
    network = build_network(stored.spec)
    network.load_state_dict(stored.ema)
    return network.to(device).eval()


def validated_thresholds(
    experiment: Experiment, fold: Fold, network: UNet, *, device: torch.device
) -> Thresholds:
    """Thresholds of a trained findings part, from whole scans of the validation persons.

    A finding of which these have few lesions keeps the threshold of the weights that training
    began with, or 0.5.
    """
    before = dict.fromkeys(Finding, _UNTUNED_THRESHOLD)
    if experiment.init is not None:
        before = load_weights(experiment.init).thresholds
    runner = TorchNetwork(network, device)
    scans = (
        (
            *odds_and_certainty(
                experiment,
                predict_patches(runner, case.folder, present=case.person.present),
                case.person.present,
                chi=chi_of(case),
            ),
            np.asarray(open_case(case.folder).labels),
        )
        for case in (experiment.cases[name] for name in fold.validation)
    )
    return choose_thresholds(scans, before)


def calibrations_of(experiment: Experiment, present: Present) -> dict[Finding, Calibration]:
    """Calibration of the weights that training began with; the identity where it began anew."""
    if experiment.init is None:
        return dict.fromkeys(Finding, Calibration())
    return load_weights(experiment.init).calibrations(present)


def chi_of(case: PreparedCase) -> FloatMap:
    """Chimap channel of a prepared case, on its grid (I, J, K)."""
    return np.asarray(open_case(case.folder).channels[2], dtype=np.float32)


def odds_and_certainty(
    experiment: Experiment, softened: FloatMap, shown: Present, *, chi: FloatMap
) -> tuple[FloatMap, FloatMap]:
    """Log odds and calibrated probability of each finding, both (3, I, J, K).

    Parameters
    ----------
    softened : (4, I, J, K) array
        As :func:`~deepmir.training.predict.predict_patches` gives them.
    shown : tuple of bool
        Which of T2w, swi and Chimap the network was shown.
    chi : (I, J, K) array
        The Chimap channel.
    """
    odds = log_odds(softened)
    return odds, certainty_of(odds, partial(calibrations_of, experiment), shown, chi=chi)


def predict_person(
    experiment: Experiment,
    case: PreparedCase,
    network: UNet,
    *,
    thresholds: Thresholds,
    device: torch.device,
) -> npt.NDArray[np.uint8]:
    """Label map of one person on the scan's RAS+ grid.

    Parameters
    ----------
    thresholds : dict
        Least probability of each finding; the slices part has none.
    """
    recipe = experiment.recipe
    if recipe.part == "slices":
        return labels_by_slices(case, network, recipe.slices, device=device)
    shown = experiment.shown or case.person.present
    softened = predict_patches(TorchNetwork(network, device), case.folder, present=shown)
    chi = case.to_scan(chi_of(case)[np.newaxis])[0]
    odds, certainty = odds_and_certainty(experiment, case.to_scan(softened), shown, chi=chi)
    labels = findings_of(odds, certainty, thresholds)
    labels[~np.isin(labels, experiment.labelled)] = 0
    return labels


def labels_by_slices(
    case: PreparedCase, network: UNet, sampling: SliceSampling, *, device: torch.device
) -> npt.NDArray[np.uint8]:
    """Label map of one person on the scan's RAS+ grid, by a network of the slices part.

    Raises
    ------
    ConfigError
        If the person's slices are larger than the recipe's.
    """
    person = open_slices(open_case(case.folder), sampling)
    found = predict_slices(network, person, sampling, device=device)
    labels = labels_of_slices(found, person, sampling)
    one_hot = np.stack([labels == finding for finding in Finding]).astype(np.float32)
    on_scan = case.to_scan(one_hot)
    nearest = np.where(on_scan.max(axis=0) >= 0.5, on_scan.argmax(axis=0) + 1, 0)
    return nearest.astype(np.uint8)


def prediction_path(folder: Path, person: LabelledPerson) -> Path:
    """Where the label map of a person lies in a folder of predictions."""
    session = person.name.partition("_")[2]
    return Path(folder, f"sub-{person.subject}", session, "anat", person.name + LABELS_ENDING)


def predict_persons(
    experiment: Experiment,
    names: Sequence[str],
    checkpoint: Path,
    predictions: Path,
    *,
    thresholds: Thresholds,
    device: torch.device,
) -> None:
    """Write the label maps of some persons as a BIDS derivative.

    Raises
    ------
    TrainingError
        If the checkpoint cannot be read, or memory is full.
    OutputError
        If a map cannot be written.
    """
    network = read_network(checkpoint, device=device)
    with clear_endings(checkpoint.parent):
        for name in names:
            case = experiment.cases[name]
            labels = predict_person(experiment, case, network, thresholds=thresholds, device=device)
            write_prediction(labels, case.person, prediction_path(predictions, case.person))
    write_dataset_files(
        predictions, kind=DatasetKind.DERIVATIVE, name=PREDICTIONS_NAME, out=predictions
    )


def write_prediction(labels: npt.NDArray[np.uint8], person: LabelledPerson, path: Path) -> None:
    """Write a label map on the native grid of the person's reference scan.

    Raises
    ------
    InputError
        If the scan cannot be read any more.
    OutputError
        If the map cannot be written.
    """
    modality = Modality.SWI if person.swi is not None else Modality.CHIMAP
    reference, _ = read_volume(person.reference, modality)
    write_map(labels, reference, path, dtype=np.uint8)


def _findings_that_occur(cases: Sequence[PreparedCase]) -> tuple[Finding, ...]:
    totals = np.sum([case.summary.lesions for case in cases], axis=0)
    return tuple(finding for finding, n in zip(Finding, totals, strict=True) if n)


def _settle_persons(experiment: Experiment, fold: Fold, out: Path, *, resume: bool) -> None:
    """Write down who trains and from which prepared case; refuse if a run began otherwise."""
    record = out / PERSONS_NAME
    now = {
        role: [folder.name for folder in experiment.folders(names)]
        for role, names in (("train", fold.train), ("validation", fold.validation))
    }
    if resume and record.exists():
        then = json.loads(record.read_text(encoding="utf-8"))
        changed = sorted(_names_in(now) ^ _names_in(then))
        if now != then:
            raise TrainingError(
                f"the run in {out} began with other persons, scans or labels "
                f"({', '.join(changed[:4]) or 'other roles'}); give a fresh --out, or "
                "--no-resume to start anew"
            )
        return
    write_text(record, json.dumps(now, indent=1) + "\n")


def _names_in(roles: Mapping[str, Sequence[str]]) -> set[str]:
    return {name for names in roles.values() for name in names}
