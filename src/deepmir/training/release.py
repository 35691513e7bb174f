"""Recipe ``release``: what of the network takes heads alone, and a weights folder of it.

    anatomies ─▶ OUT/anatomy ─▶ OUT/findings ─▶ OUT/weights     (recipes release-anatomy, -findings)

Thresholds and calibration are not chosen here: that takes whole persons
(``benchmarks/choose_thresholds.py``). The nuclei part is that of ``--init``: it trains on simulated
cases (recipe ``release-nuclei``), which are not there yet.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deepmir.model.weights import REQUIRED_PARTS
from deepmir.training.export import ReleaseNotes, export_release
from deepmir.training.fit import CHECKPOINT_NAME, FitResult, RunOptions
from deepmir.training.recipes import Recipe
from deepmir.training.run import train
from deepmir.training.sources import Mix


def train_release(  # noqa: PLR0913 - what a user says on the command line
    anatomy: Recipe,
    findings: Recipe,
    anatomies: Path,
    out: Path,
    *,
    init: Path | None = None,
    mixes: Sequence[Mix] = (),
    options: RunOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> FitResult:
    """Train one part after the other and write ``OUT/weights``; goes on where it stopped.

    Parameters
    ----------
    anatomy, findings : Recipe
        One of each part.
    anatomies : Path
        Folder of anatomies (``head_XX.npz``); the findings part simulates cases of them.
    out : Path
        Folder of the runs and of the weights.
    init, mixes, progress
        As :func:`deepmir.training.run.train` takes them, for each part.
    options : RunOptions, optional
        Its minutes are those of all parts together, its steps those of each.

    Returns
    -------
    FitResult of the part that was trained last; the weights are there if it is finished.

    Raises
    ------
    InputError, ConfigError, TrainingError, WeightsError
        As :func:`deepmir.training.run.train`.
    """
    given = options or RunOptions()
    begun = time.monotonic()

    def train_part(recipe: Recipe) -> FitResult:
        spent = (time.monotonic() - begun) / 60
        left = None if given.minutes is None else max(given.minutes - spent, 0.0)
        how = replace(given, minutes=left)
        folder = out / recipe.part
        return train(
            recipe, anatomies, folder, init=init, mixes=mixes, options=how, progress=progress
        )

    first = train_part(anatomy)
    if not first.finished:
        return first
    last = train_part(findings)
    if last.finished:
        heads = ", ".join(map(str, findings.train_heads))
        notes = ReleaseNotes(name=out.name, data=f"simulated scans of heads {heads}")
        checkpoints = {part: out / part / CHECKPOINT_NAME for part in REQUIRED_PARTS}
        export_release(checkpoints, out / "weights", notes, base=init)
        progress(f"weights, thresholds 0.5 and not calibrated: {out / 'weights'}")
    return last
