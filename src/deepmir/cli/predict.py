"""``deepmir predict``: a network that `deepmir train` made of slices, on new scans."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from deepmir.cli import options
from deepmir.cli.train import training_part

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir predict --checkpoint runs/paper --data new_scans --out predictions\n\n"
    "deepmir predict --checkpoint runs/paper/seed-1/fold-01 --data new_scans --out predictions\n\n"
    "deepmir predict --checkpoint runs/paper/seed-1/fold-01/last.pt --data new_scans "
    "--out predictions --exclude 07"
)


def run(
    *,
    checkpoint: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER|FILE",
            help="Folder of one run of `deepmir train`, or a checkpoint in it. Of a folder: the "
            "checkpoint that the recipe keeps as the best, else the last.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="BIDS data set with the contrasts that the recipe takes."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Label maps on the scans' own grids, as a BIDS derivative; made when absent.",
        ),
    ],
    exclude: options.Exclude = None,
    weights: options.WeightsFolder = None,
    config: options.ConfigFile = None,
    device: options.Device = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write label maps anew that are there already.")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    r"""Find findings on new scans with a network that `deepmir train` made by a recipe of slices.

    Such as `paper-multi` and `paper-single`. The scans of all persons are checked first, and
    prepared as they were for the training: give the same --weights and --config. Stopped, the
    same command goes on with the next person. Networks of the findings part are applied by
    `deepmir segment --weights`. Needs the part `train` (pip install 'deepmir\[train]').
    """
    _, training = training_part()
    trained = training.find_trained(checkpoint)
    if trained.warning is not None:
        print(f"warning: {trained.warning}", file=sys.stderr)
    count = training.predict(
        trained,
        data,
        out,
        study=training.StudyOptions(
            weights=weights, config=options.resolve_config(config, device=device)
        ),
        exclude=tuple(exclude or ()),
        overwrite=overwrite,
        progress=_ignore if quiet else _print_line,
    )
    print(f"label maps of {count} persons: {out}")


def _print_line(line: str) -> None:
    print(line, flush=True)


def _ignore(line: str) -> None:
    """Show nothing."""
