"""``deepmir measure``: tables and report anew from a label map that a person has corrected."""

from pathlib import Path
from typing import Annotated

import typer

from deepmir.cli import options
from deepmir.cli.console import show_progress
from deepmir.cli.results import show_notices, show_summary

EXAMPLES = (
    "[bold]Example[/bold]\n\n"
    "deepmir measure corrected_dseg.nii.gz --swi sub-01_swi.nii.gz --qsm sub-01_Chimap.nii.gz "
    "--out corrected"
)


def run(
    dseg: Annotated[
        Path,
        typer.Argument(help="Label map: 1 microbleed, 2 iron deposit, 3 calcification (NIfTI)."),
    ],
    *,
    swi: options.Swi = None,
    qsm: options.Qsm = None,
    t2w: options.T2w = None,
    out: options.Out,
    subject: options.Subject = None,
    brain_mask: options.BrainMask = None,
    qsm_unit: options.QsmUnit = None,
    config: options.ConfigFile = None,
    weights: options.WeightsFolder = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    """Measure findings that a person has marked or corrected by hand.

    DSEG must lie on the grid of the SWI (else of the QSM), as `deepmir segment` writes it. Size,
    place, susceptibility and contrast are measured anew; the grade is "definite" unless the
    scans cannot tell.
    """
    from deepmir.pipeline import PersonScans, measure_to_folder

    scans = PersonScans(swi=swi, qsm=qsm, t2w=t2w, brain_mask=brain_mask, qsm_unit=qsm_unit)
    with show_progress(quiet=quiet) as progress:
        result = measure_to_folder(
            dseg,
            scans,
            out,
            subject=subject,
            config=options.resolve_config(config, device=device),
            weights=weights,
            overwrite=overwrite,
            progress=progress,
        )
    show_notices(result.notices)
    if not quiet:
        show_summary(result, out / result.outputs.report)
