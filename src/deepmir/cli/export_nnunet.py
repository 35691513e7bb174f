"""``deepmir export-nnunet``: the same persons and folds as an nnU-Net v2 raw data set."""

from pathlib import Path
from typing import Annotated

import typer

from deepmir.cli import options
from deepmir.cli.train import training_part

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir export-nnunet --data study --out nnUNet_raw --folds runs/paper/folds.json "
    "--cases runs/paper/cases\n\n"
    "deepmir export-nnunet --data study --out nnUNet_raw --dataset-id 502 --name Iron"
)


def run(
    *,
    data: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="BIDS data set of scans with label maps."),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Folder that nnU-Net knows as nnUNet_raw."),
    ],
    dataset_id: Annotated[int, typer.Option(min=1, max=999, help="Number of the data set.")] = 501,
    name: Annotated[str, typer.Option(help="Its name: letters and digits.")] = "Microbleeds",
    folds: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="folds.json of a `deepmir train --folds`, written as the splits."
        ),
    ] = None,
    labels: options.Labels = None,
    group_by: options.GroupBy = "auto",
    exclude: options.Exclude = None,
    cases: options.Cases = None,
    weights: options.WeightsFolder = None,
    config: options.ConfigFile = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    r"""Write a study as an nnU-Net v2 raw data set, with the folds of `deepmir train`.

    The contrasts are those `segment` sees (registered, corrected, scaled). Copy
    splits_final.json into nnUNet_preprocessed after `nnUNetv2_plan_and_preprocess`: nnU-Net
    then trains on the same persons as `deepmir train`, and its validation persons are the
    out-of-fold ones. Needs the part `train` (pip install 'deepmir\[train]').
    """
    _, training = training_part()
    folder = training.export_study(
        training.DataChoice(
            data=data, labels=labels, group_by=group_by, exclude=tuple(exclude or ())
        ),
        out,
        names=(dataset_id, name),
        folds=folds,
        study=training.StudyOptions(
            cases=cases, weights=weights, config=options.resolve_config(config, device=None)
        ),
        progress=_ignore if quiet else _print_line,
    )
    print(f"nnU-Net data set: {folder}")


def _print_line(line: str) -> None:
    print(line, flush=True)


def _ignore(line: str) -> None:
    """Show nothing."""
