"""``deepmir reconstruct``: raw gradient-echo magnitude and phase to SWI, minIP, Chimap and R2*."""

from typing import TYPE_CHECKING

from deepmir.cli import options, raw
from deepmir.cli.console import show_progress, show_table
from deepmir.cli.results import show_information, show_notices
from deepmir.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from deepmir.reconstruction.person import Reconstruction

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir reconstruct --bids dataset --subject 01 --out results\n\n"
    "deepmir reconstruct --mag mag.nii.gz --phase phase.nii.gz --echo-times 0.0075,0.015,0.0225 "
    "--field-strength 3 --out results"
)


def run(
    *,
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
    config: options.ConfigFile = None,
    weights: options.WeightsFolder = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    """Make SWI, minIP, QSM (Chimap) and R2* of one person's raw gradient echo.

    Give --mag and --phase (one file with all echoes, or one a file in their order), --real and
    --imag, or --bids with --subject. Echo times and field strength come from the JSON sidecars,
    inherited from folders above as BIDS says, unless the options say them. Phase may be in radians
    or in the integers of Siemens, Philips and GE. Methods are chosen by name in --config, table
    [reconstruct].
    """
    from deepmir.reconstruction.person import reconstruct_to_files

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
    if scan is None:
        raise InputError("no scan was given; pass --mag and --phase, --real and --imag, or --bids")
    with show_progress(quiet=quiet) as progress:
        result = reconstruct_to_files(
            scan,
            out,
            overwrite=overwrite,
            brain_mask=brain_mask,
            subject=subject,
            config=options.resolve_config(config, device=device),
            weights=weights,
            progress=progress,
        )
    show_notices(result.notices)
    if not quiet:
        _show(result, out)


def _show(result: "Reconstruction", out: "Path") -> None:
    names = result.outputs
    rows = [
        ("SWI", str(out / names.swi)),
        ("minIP", str(out / names.minip)),
        ("QSM, ppm", str(out / names.chimap)),
    ]
    if result.r2starmap is not None:
        rows.append(("R2*, 1/s", str(out / names.r2starmap)))
    show_table(f"sub-{result.subject}", ("map", "file"), rows)
    show_information(result.notices)
