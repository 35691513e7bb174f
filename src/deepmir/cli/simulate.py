"""``deepmir simulate``: labelled persons as a BIDS raw data set."""

from pathlib import Path
from typing import Annotated

import typer

from deepmir.cli import options
from deepmir.cli.console import show_progress

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir simulate made --subjects 3 --seed 1\n\n"
    "deepmir simulate made --subjects 10 --seed 1 --anatomy heads/aseg.nii.gz --protocol mesa-like"
)


def run(
    out: Annotated[Path, typer.Argument(help="Folder of the new data set.")],
    *,
    subjects: Annotated[int, typer.Option(min=1, help="How many persons.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same persons.")] = 0,
    anatomy: Annotated[
        list[Path] | None,
        typer.Option(
            help="Head as a label map with FreeSurfer numbers (NIfTI); repeat for several heads. "
            "Without it, a built-in template head."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Scan protocol: `mesa-like`, or `random` to draw one for each person."),
    ] = None,
    age: Annotated[
        float | None,
        typer.Option(
            min=18,
            max=110,
            help="Age of everyone in years: ventricles, white-matter lesions, iron of the nuclei. "
            "Without it, drawn for each person, 45 to 90.",
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    """Simulate scans of persons whose findings are known.

    Writes T2w, swi, Chimap and the raw multi-echo magnitude and phase of each person as a BIDS
    data set, with the true findings and regions under OUT/derivatives/truth.
    """
    from deepmir.simulation.cohort import simulate_cohort

    with show_progress(quiet=quiet) as progress:
        simulate_cohort(
            out,
            subjects=subjects,
            seed=seed,
            anatomies=anatomy,
            protocol=protocol,
            age_years=age,
            progress=progress,
        )
    if not quiet:
        print(f"{subjects} simulated: {out}; truth: {out / 'derivatives' / 'truth'}")
