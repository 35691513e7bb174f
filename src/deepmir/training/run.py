"""Train one part of the network by a recipe: the function behind ``deepmir train``."""

from collections.abc import Callable
from pathlib import Path

from deepmir.training.anatomy_task import AnatomyTask
from deepmir.training.export import initial_state
from deepmir.training.findings_task import FindingsTask
from deepmir.training.fit import FitResult, RunOptions, fit
from deepmir.training.recipes import Recipe


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    init: Path | None = None,
    options: RunOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> FitResult:
    """Train until the recipe's schedule ends or the options stop it; goes on where it stopped.

    Parameters
    ----------
    recipe : Recipe
    data : Path
        Folder of anatomies (``head_XX.npz``) or, for the findings part, of simulated cases.
    out : Path
        Folder of the checkpoint, the log and what is needed to repeat the run.
    init : Path, optional
        Folder of released weights to start from, with a fresh optimizer.
    options : RunOptions, optional
        Time, steps, threads and device.
    progress : callable, optional
        Takes one line of text at a time.

    Raises
    ------
    InputError
        If there is no data of the training heads.
    TrainingError
        If the loss is no number any more, or the checkpoint in `out` does not fit the recipe.
    WeightsError
        If `init` is damaged or holds another network.
    """
    task = (
        AnatomyTask(recipe, data) if recipe.part == "anatomy" else FindingsTask(recipe, data, out)
    )
    initial = None if init is None else initial_state(init, recipe)
    try:
        return fit(
            task, recipe, out, options=options or RunOptions(), initial=initial, progress=progress
        )
    finally:
        task.close()
