"""``deepmir segment``: one person's scans in, measured findings and a report out."""

from typing import Annotated

import typer

from deepmir.cli import options
from deepmir.cli.console import show_progress
from deepmir.cli.results import show_notices, show_summary

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir segment --swi sub-01_swi.nii.gz --qsm sub-01_Chimap.nii.gz --t2w sub-01_T2w.nii.gz "
    "--out results\n\n"
    "deepmir segment --qsm map_in_ppb.nii.gz --qsm-unit ppb --subject 07 --out results"
)


def run(
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
    save_probabilities: Annotated[
        bool, typer.Option(help="Also write a probability map for each finding.")
    ] = True,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    """Find and measure microbleeds, iron deposits and calcifications of one person.

    Give any of --swi, --qsm and --t2w: at least one of SWI and QSM to find microbleeds, and QSM
    to tell calcifications. Scans may have any orientation and voxel size, with or without skull.
    Results lie on the grid of the SWI (else of the QSM, else of the T2w). Start with the page
    OUT/sub-LABEL.html.
    """
    from deepmir.pipeline import PersonScans, segment_to_folder

    scans = PersonScans(swi=swi, qsm=qsm, t2w=t2w, brain_mask=brain_mask, qsm_unit=qsm_unit)
    with show_progress(quiet=quiet) as progress:
        result = segment_to_folder(
            scans,
            out,
            subject=subject,
            config=options.resolve_config(config, device=device),
            weights=weights,
            save_probabilities=save_probabilities,
            overwrite=overwrite,
            progress=progress,
        )
    show_notices(result.notices)
    if not quiet:
        show_summary(result, out / result.outputs.report)
