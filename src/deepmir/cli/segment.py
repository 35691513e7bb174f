"""``deepmir segment``: one person's scans in, measured findings and a report out."""

from typing import Annotated

import typer

from deepmir.cli import options, raw
from deepmir.cli.console import show_progress
from deepmir.cli.results import show_information, show_notices, show_summary
from deepmir.errors import InputError

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir segment --swi sub-01_swi.nii.gz --qsm sub-01_Chimap.nii.gz --t2w sub-01_T2w.nii.gz "
    "--out results\n\n"
    "deepmir segment --bids dataset --subject 01 --t2w sub-01_T2w.nii.gz --out results\n\n"
    "deepmir segment --qsm map_in_ppb.nii.gz --qsm-unit ppb --subject 07 --out results"
)


def run(
    *,
    swi: options.Swi = None,
    qsm: options.Qsm = None,
    t2w: options.T2w = None,
    mag: raw.Mag = None,
    phase: raw.Phase = None,
    real: raw.Real = None,
    imag: raw.Imag = None,
    bids: raw.Bids = None,
    session: raw.Session = None,
    echo_times: raw.EchoTimes = None,
    field_strength: raw.FieldStrength = None,
    b0_direction: raw.B0Direction = None,
    phase_unit: raw.PhaseUnit = None,
    phase_sign: raw.PhaseSign = "auto",
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
    Results lie on the grid of the SWI (else of the QSM, else of the T2w). Raw gradient-echo data
    are enough: with --mag and --phase, or --bids, SWI and QSM are made first, and written to OUT
    too. Start with the page OUT/sub-LABEL.html.
    """
    from deepmir import pipeline
    from deepmir.reconstruction.person import reconstruct_to_files
    from deepmir.result import reserve

    settings = options.resolve_config(config, device=device)
    scan = raw.raw_scan(
        mag=mag,
        phase=phase,
        real=real,
        imag=imag,
        bids=bids,
        subject=subject,
        session=session,
        echo_times=echo_times,
        field_strength=field_strength,
        b0_direction=b0_direction,
        phase_unit=phase_unit,
        phase_sign=phase_sign,
    )
    if scan is not None and (swi is not None or qsm is not None):
        raise InputError(
            "SWI or QSM were given beside raw echoes; leave out either --swi and --qsm or "
            "the raw files"
        )
    if scan is not None and subject is None:
        subject = scan.subject
    label = pipeline.PersonScans(swi=swi, qsm=qsm, t2w=t2w, subject=subject).label
    with (
        reserve(out, label, overwrite=overwrite) as reserved,
        show_progress(quiet=quiet) as progress,
    ):
        if scan is not None:
            made = reconstruct_to_files(
                scan,
                out,
                overwrite=overwrite,
                brain_mask=brain_mask,
                subject=label,
                config=settings,
                weights=weights,
                progress=progress,
            )
            swi, qsm, qsm_unit = out / made.outputs.swi, out / made.outputs.chimap, "ppm"
            show_notices(made.notices)
            if not quiet:
                show_information(made.notices)
        result = pipeline.segment(
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
        reserved.write(result, save_probabilities=save_probabilities)
    show_notices(result.notices)
    if not quiet:
        show_summary(result, out / result.outputs.report)
