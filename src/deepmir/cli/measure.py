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
    from deepmir import pipeline
    from deepmir.result import reserve

    settings = options.resolve_config(config, device=device)
    label = pipeline.PersonScans(swi=swi, qsm=qsm, t2w=t2w, subject=subject).label
    with (
        reserve(out, label, overwrite=overwrite) as reserved,
        show_progress(quiet=quiet) as progress,
    ):
        result = pipeline.measure(
            dseg,
            swi=swi,
            qsm=qsm,
            t2w=t2w,
            brain_mask=brain_mask,
            qsm_unit=qsm_unit,
            subject=label,
            config=settings,
            weights=weights,
            progress=progress,
        )
        progress("report", 0.0)
        reserved.write(result, save_probabilities=False)
    show_notices(result.notices)
    if not quiet:
        show_summary(result, out / result.outputs.report)
