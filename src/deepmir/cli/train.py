"""``deepmir train``: train one part of the network, or go on where it stopped."""

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from deepmir.cli import options
from deepmir.errors import MissingPartError

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir train --recipe release-findings --data cases --out runs/findings --minutes 60\n\n"
    "deepmir train --recipe my_recipe.toml --data cases --out runs/mine --init weights-folder"
)


def run(
    *,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="`release-anatomy`, `release-findings`, or a TOML file with a recipe.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Anatomies (for the anatomy part) or simulated cases (for the findings part).",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Checkpoint and log; made when absent.")
    ],
    init: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Weights to start from, with a fresh optimizer."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; the next call goes on.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the schedule, in place of the recipe's.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice.")] = 0,
    device: options.Device = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the checkpoint in --out, if there is one.")
    ] = True,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    r"""Train one part of the network on simulated data; resumes.

    Needs the part `train` (pip install 'deepmir\[train]'). Stopped by --minutes, Ctrl-C or the
    machine, the same command goes on from the last checkpoint and ends with the same weights.
    """
    fit, recipes, training = _training_part()
    result = training.train(
        recipes.read_recipe(recipe),
        data,
        out,
        init=init,
        options=fit.RunOptions(
            minutes=minutes,
            steps=steps,
            resume=resume,
            threads=threads,
            device=device or "auto",
        ),
        progress=_ignore if quiet else _print_line,
    )
    state = "finished" if result.finished else "stopped; the same command goes on"
    print(f"step {result.step} of {result.steps}, {state}: {result.checkpoint}")


def _training_part() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        from deepmir.training import fit, recipes
        from deepmir.training import run as training
    except ModuleNotFoundError as error:
        raise MissingPartError(
            f"training needs {error.name}, which is not installed: pip install 'deepmir[train]'"
        ) from error
    return fit, recipes, training


def _print_line(line: str) -> None:
    print(line, flush=True)


def _ignore(line: str) -> None:
    """Show nothing."""
