"""``deepmir train``: train a network by a recipe, or go on where it stopped."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepmir.cli import options
from deepmir.errors import ConfigError, MissingPartError

if TYPE_CHECKING:
    from deepmir.labels import Finding
    from deepmir.training.fit import FitResult

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir train --recipe fine-tune --init released --data study --out runs/tuned\n\n"
    "deepmir train --recipe paper-multi --data study --out runs/paper --folds 5\n\n"
    "deepmir train --recipe paper-multi --data study --out runs/paper --folds 5 --fold 2\n\n"
    "deepmir train --recipe my_recipe.toml --data study --out runs/mine --folds loo\n\n"
    "deepmir train --recipe release --data anatomies --out runs/release --minutes 60\n\n"
    "deepmir train --recipe release-findings --data cases --out runs/findings --minutes 60\n\n"
    "deepmir train --recipe release-findings --data anatomies --out runs/fresh --workers 12\n\n"
    "deepmir train --recipe paper-multi --data study --out runs/paper --folds 5 --devices 4\n\n"
    "deepmir train --recipe fine-tune --init released --data study --mix anatomies --mix-share 0.3 "
    "--out runs/tuned"
)


_RELEASE = "release"
_PARTS_OF_RELEASE = ("release-anatomy", "release-findings")
_OF_PERSONS = {_RELEASE: "release-findings"}
"""Labelled scans have no regions of the head to learn: the anatomy part stays as it is."""


def run(
    *,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="`release` (of anatomies the anatomy and the findings part, one after the other), "
            "`release-findings`, `release-anatomy`, `release-nuclei`, `fine-tune`, `paper-multi`, "
            "`paper-single`, or a TOML file with a recipe.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="BIDS data set of scans with label maps in its derivatives; or a folder of "
            "simulated cases; or of anatomies (head_XX.npz), of which the findings part simulates "
            "new cases while it trains.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Checkpoints, log, predictions, scores; made when absent."
        ),
    ],
    labels: options.Labels = None,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="K|loo",
            help="Cross-validation in K folds by person, or `loo` to leave out one at a time.",
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(min=1, help="Run this fold alone; folds can run side by side."),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            min=0, help="Seed in place of the recipe's; with persons repeat it for several runs."
        ),
    ] = None,
    group_by: options.GroupBy = "auto",
    exclude: options.Exclude = None,
    labelled: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FINDING",
            help="CMB, IRON or CALCIFICATION, where the raters marked it; repeat. Default: the "
            "findings that occur.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="released|FOLDER", help="Weights to start from, with a fresh optimizer."
        ),
    ] = None,
    mix: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Simulated cases to draw from beside --data, or anatomies to simulate new ones "
            "from while training; repeat for several. The anatomy part takes one, of cases, the "
            "nuclei part none.",
        ),
    ] = None,
    mix_share: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the patches that come from --mix, once for each. Default: all sources "
            "give the same share.",
        ),
    ] = None,
    cases: options.Cases = None,
    weights: options.WeightsFolder = None,
    config: options.ConfigFile = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; the next call goes on.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the schedule, in place of the recipe's.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice.")] = 0,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes that simulate cases while training; 0: half as many as CPU cores.",
        ),
    ] = 0,
    makers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes that make batches; 0: one, beside a GPU a quarter of the CPU cores.",
        ),
    ] = 0,
    device: options.Device = None,
    devices: Annotated[
        int,
        typer.Option(
            min=0,
            help="GPUs of this machine (or, without any, processes) that share every batch; 0: all "
            "GPUs.",
        ),
    ] = 1,
    resume: Annotated[
        bool, typer.Option(help="Go on from the checkpoint in --out, if there is one.")
    ] = True,
    tensorboard: Annotated[
        bool, typer.Option(help="Write TensorBoard files beside the log.")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    r"""Train a network on a study's labelled scans, or on simulated data; resumes.

    Needs the part `train` (pip install 'deepmir\[train]'). Stopped by --minutes, Ctrl-C or the
    machine, the same command goes on from the last checkpoint and ends with the same weights.

    A BIDS data set is checked before anything starts, prepared once as `segment` would, and
    trained on: all persons at once (OUT/weights is then a folder for `segment --weights`), or
    by --folds with a label map of every person from a network that never saw that person.
    """
    recipes, training = training_part()
    both_parts = recipe == _RELEASE and not training.is_bids(data)
    names = _PARTS_OF_RELEASE if both_parts else (_OF_PERSONS.get(recipe, recipe),)
    plans = [_with_tensorboard(recipes.read_recipe(name), tensorboard) for name in names]
    how = training.RunOptions(
        minutes=minutes,
        steps=steps,
        resume=resume,
        threads=threads,
        workers=workers,
        makers=makers,
        device=device or "auto",
        devices=devices,
    )
    mixes = tuple(training.Mix(*one) for one in _mixes(mix, mix_share))
    progress = _ignore if quiet else _print_line
    start = training.init_folder(init)
    if not training.is_bids(data):
        _refuse_folds(folds, data)
        one_seed = _one_seed(seed or [])
        seeded = [plan if one_seed is None else recipes.with_seed(plan, one_seed) for plan in plans]
        train = training_of_both_parts() if both_parts else training.train
        result = train(*seeded, data, out, init=start, mixes=mixes, options=how, progress=progress)
    else:
        study = training.StudyOptions(
            n_folds=_fold_count(folds, fold),
            fold=fold,
            seeds=tuple(seed or ()),
            init=start,
            mixes=mixes,
            cases=cases,
            weights=weights,
            config=options.resolve_config(config, device=device),
        )
        choice = training.DataChoice(
            data=data,
            labels=labels,
            group_by=group_by,
            exclude=tuple(exclude or ()),
            labelled=_findings(labelled),
        )
        result = training.train_on_study(
            plans[0], choice, out, study=study, options=how, progress=progress
        )
    print(training.ending_text(result, out))


def _one_seed(seeds: list[int]) -> int | None:
    """Seed of a run on simulated data; None: the recipe's."""
    if len(seeds) > 1:
        raise ConfigError(
            f"--seed was given {len(seeds)} times, and simulated data make one run; give one seed, "
            "and another --out to each run"
        )
    return seeds[0] if seeds else None


def _findings(names: list[str] | None) -> "tuple[Finding, ...] | None":
    from deepmir.labels import Finding

    unknown = sorted(set(names or ()) - set(Finding.__members__))
    if unknown:
        raise ConfigError(
            f"--labelled is {', '.join(unknown)}; wanted {', '.join(Finding.__members__)}"
        )
    return tuple(sorted(Finding[name] for name in names)) if names else None


def _mixes(folders: list[Path] | None, shares: list[float] | None) -> list[tuple[Path, float]]:
    """Pair folders with their shares; without any, all sources give the same."""
    given = folders or []
    if shares is None:
        return [(folder, 1 / (len(given) + 1)) for folder in given]
    if len(shares) != len(given):
        raise ConfigError(
            f"--mix-share is given {len(shares)} times for {len(given)} times --mix; give it once "
            "for each, in the same order, or not at all"
        )
    return list(zip(given, shares, strict=True))


def _fold_count(folds: str | None, fold: int | None) -> int | None:
    """Read --folds: None without, 0 for leave one out."""
    if folds is None:
        if fold is not None:
            raise ConfigError("--fold names one of the folds of --folds; give that too")
        return None
    if folds == "loo":
        return 0
    if not folds.isdecimal() or int(folds) < 2:
        raise ConfigError(f"--folds is {folds}; wanted 2 or more, or `loo`")
    return int(folds)


def _refuse_folds(folds: str | None, data: Path) -> None:
    if folds is not None:
        raise ConfigError(
            f"--folds needs persons, and {data} is no BIDS data set (no sub-* folder); recipes on "
            "simulated cases split by heads: train_heads and validation_heads"
        )


def _with_tensorboard(recipe: Any, wanted: bool) -> Any:  # noqa: ANN401, FBT001 - Recipe needs torch
    from dataclasses import replace

    if not wanted:
        return recipe
    return replace(recipe, schedule=replace(recipe.schedule, tensorboard=True))


def training_part() -> tuple[ModuleType, ModuleType]:
    """Import the recipes and the functions of training.

    Raises
    ------
    MissingPartError
        If the part `train` is not installed.
    """
    try:
        from deepmir.training import recipes
        from deepmir.training import run as training
    except ModuleNotFoundError as error:
        raise MissingPartError(
            f"training needs {error.name}, which is not installed: pip install 'deepmir[train]'"
        ) from error
    return recipes, training


def training_of_both_parts() -> Callable[..., "FitResult"]:
    """Import the function that trains one part after the other."""
    from deepmir.training.release import train_release

    return train_release


def _print_line(line: str) -> None:
    print(line, flush=True)


def _ignore(line: str) -> None:
    """Show nothing."""
