"""A trained network of the slices part on scans that nobody has labelled: `deepmir predict`.

    RUN/best.pt ─▶ Trained        scans ─prepare─▶ case ─slices─▶ label map on the scan's own grid

The findings part goes another way: its weights folder is what `deepmir segment --weights` takes.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepmir.config import Config
from deepmir.errors import InputError, OutputError, TrainingError
from deepmir.io.atomic import write_text
from deepmir.io.bids import DatasetKind, check_dataset_folder, write_dataset_files
from deepmir.io.provenance import checksum
from deepmir.model.unet import UNet
from deepmir.model.weights import Weights
from deepmir.training.dataset import LabelledPerson, check_persons
from deepmir.training.experiment import (
    labels_by_slices,
    prediction_path,
    read_network,
    write_prediction,
)
from deepmir.training.fit import (
    BEST_NAME,
    CHECKPOINT_NAME,
    choose_device,
    clear_endings,
    read_checkpoint,
)
from deepmir.training.prepare import prepare_persons
from deepmir.training.recipes import Recipe

DATASET_NAME = "deepmir predictions"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint of the slices part and what is known of its run."""

    checkpoint: Path
    recipe: Recipe
    step: int
    sha256: str
    warning: str | None  # None: the run is finished

    @property
    def described(self) -> dict[str, str | int]:
        """What stands beside every label map."""
        return {
            "Description": f"Findings by a network of recipe {self.recipe.name}",
            "Checkpoint": self.checkpoint.name,
            "CheckpointSHA256": self.sha256,
            "Step": self.step,
        }


def find_trained(run: Path) -> Trained:
    """Find the result of a run: a folder of `deepmir train`, or one of its checkpoints.

    Raises
    ------
    InputError
        If there is no checkpoint, or it is of another part of the network.
    TrainingError
        If it cannot be read.
    """
    checkpoint = _checkpoint_of(run)
    stored = read_checkpoint(checkpoint)
    recipe = stored.recipe
    if recipe.part == "findings":
        raise InputError(
            f"{checkpoint} is of the findings part: `deepmir segment --weights` applies the "
            "folder `weights` that `deepmir train` writes when a run on all persons is finished"
        )
    if recipe.part != "slices":
        raise InputError(
            f"{checkpoint} is of the {recipe.part} part, which finds nothing by itself; wanted a "
            "run by a recipe of the slices part, such as paper-multi"
        )
    return Trained(
        checkpoint, recipe, stored.step, checksum(checkpoint), _warning(checkpoint, recipe)
    )


def predict_scans(
    trained: Trained,
    persons: Sequence[LabelledPerson],
    out: Path,
    *,
    preparation: tuple[Weights, Config],
    overwrite: bool,
    progress: Progress = lambda _: None,
) -> int:
    """Write the label map of every person as a BIDS derivative; returns how many are new.

    Label maps that the same checkpoint has written already are kept, so that a call that was
    stopped goes on.

    Parameters
    ----------
    preparation : tuple of Weights and Config
        Anatomy network and settings that prepare the scans: those of the training.
    overwrite : bool
        Write all anew.

    Raises
    ------
    InputError, GeometryError
        If a person lacks a contrast that the recipe takes, or a scan is not what it should be.
    ConfigError
        If slices are larger than the recipe's.
    OutputError
        If `out` holds label maps of another network, or something cannot be written.
    TrainingError
        If memory is full, or there is no GPU where one is wanted.
    """
    check_contrasts_of(trained.recipe, persons)
    check_dataset_folder(out, DatasetKind.DERIVATIVE)
    todo = [person for person in persons if overwrite or not _is_done(trained, person, out)]
    check_persons(todo)
    device = choose_device(preparation[1].segment.device)
    network = read_network(trained.checkpoint, device=device)
    write_dataset_files(out, kind=DatasetKind.DERIVATIVE, name=DATASET_NAME, out=out)
    with clear_endings(trained.checkpoint.parent):
        for number, person in enumerate(todo, 1):
            progress(f"{person.name} ({number} of {len(todo)})")
            _predict_one(trained, network, person, out, preparation=preparation)
    return len(todo)


def check_contrasts_of(recipe: Recipe, persons: Sequence[LabelledPerson]) -> None:
    """Check that all persons have the contrasts that a recipe takes.

    Raises
    ------
    InputError
        If some lack one; all are named.
    """
    wanted = set(recipe.slices.inputs)
    wrong = []
    for person in persons:
        lacking = sorted(wanted - set(person.contrasts))
        if lacking:
            wrong.append(f"{person.name} has no {' and no '.join(lacking)}")
    if wrong:
        raise InputError(
            f"recipe {recipe.name} takes {', '.join(recipe.slices.inputs)}: {'; '.join(wrong)}; "
            "leave them out by --exclude, or take a network that was trained without"
        )


def _predict_one(
    trained: Trained,
    network: UNet,
    person: LabelledPerson,
    out: Path,
    *,
    preparation: tuple[Weights, Config],
) -> None:
    weights, config = preparation
    device = next(network.parameters()).device
    with tempfile.TemporaryDirectory() as cases:
        (case,) = prepare_persons([person], Path(cases), weights=weights, config=config)
        labels = labels_by_slices(case, network, trained.recipe.slices, device=device)
    path = prediction_path(out, person)
    _sidecar(path).unlink(missing_ok=True)  # what is half written is not taken for done
    write_prediction(labels, person, path)
    sources = [str(scan) for scan in (person.t2w, person.swi, person.chimap) if scan is not None]
    text = json.dumps({**trained.described, "Sources": sources}, indent=1) + "\n"
    write_text(_sidecar(path), text)


def _is_done(trained: Trained, person: LabelledPerson, out: Path) -> bool:
    """Whether this checkpoint has written a person's label map already.

    Raises
    ------
    OutputError
        If another one has.
    """
    path = prediction_path(out, person)
    if not path.exists() or not _sidecar(path).exists():
        return False
    described = json.loads(_sidecar(path).read_text(encoding="utf-8"))
    if described.get("CheckpointSHA256") != trained.sha256:
        raise OutputError(
            f"{path} is there already, from another network; give a fresh --out, or --overwrite"
        )
    return True


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _checkpoint_of(run: Path) -> Path:
    if run.is_file():
        return run
    for name in (BEST_NAME, CHECKPOINT_NAME):
        if (run / name).is_file():
            return run / name
    folds = sorted(path.parent for path in run.glob(f"seed-*/fold-*/{CHECKPOINT_NAME}"))
    hint = "give the folder of a run of `deepmir train`"
    if folds:
        hint = f"choose one of its {len(folds)} folds, such as {folds[0]}"
    raise InputError(f"{run} holds no checkpoint ({BEST_NAME} or {CHECKPOINT_NAME}); {hint}")


def _warning(checkpoint: Path, recipe: Recipe) -> str | None:
    """Say that the run of a checkpoint is not finished; None if it is."""
    last = checkpoint.with_name(CHECKPOINT_NAME)
    try:
        step = read_checkpoint(last).step if last.exists() else None
    except TrainingError:
        step = None
    steps = recipe.optimisation.steps
    if step is None or steps is None or step >= steps:
        return None
    return f"the run of {checkpoint} is not finished: step {step} of the {steps} of its recipe"
