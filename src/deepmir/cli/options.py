"""Options that several verbs share, declared once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from deepmir.config import Config

Swi = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Susceptibility-weighted image (NIfTI). Results lie on its grid."
    ),
]
Qsm = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Quantitative susceptibility map (NIfTI), in ppm unless --qsm-unit says.",
    ),
]
T2w = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="T2-weighted image (NIfTI); alone it gives regions, but no findings."
    ),
]
Out = Annotated[
    Path, typer.Option(metavar="FOLDER", help="Folder for the results; made when absent.")
]
Subject = Annotated[
    str | None,
    typer.Option(
        metavar="LABEL",
        help="Label of the person, such as 01; else taken from the first file's name.",
    ),
]
QsmUnit = Annotated[
    Literal["ppm", "ppb", "scaled-1000", "scaled-4096"] | None,
    typer.Option(help="Unit of the QSM where it is not ppm; without it the unit is checked."),
]
BrainMask = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Mask of the brain on the results' grid, in place of the network's own.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML file with settings (docs/reference.md lists them)."
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "gpu"] | None,
    typer.Option(help="Where the network runs; `auto`: a GPU where torch finds one, else CPU."),
]
WeightsFolder = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FOLDER", help="Folder of another network than the released one."
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder with the label maps (sub-*/anat/*_desc-findings_dseg.nii.gz). Default: the "
        "only derivative of the data set that has some.",
    ),
]
GroupBy = Annotated[
    str,
    typer.Option(
        metavar="auto|person|COLUMN",
        help="Persons of one group are never split: a column of participants.tsv, such as family "
        "or site; `auto`: the head that simulated persons share, else the person.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL", help="Person to leave out, such as 01; repeat for several."),
]
Cases = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Where prepared scans are kept; by default in the output folder."
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an earlier result of this person."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show a traceback when something fails.")]


def resolve_config(path: Path | None, *, device: Literal["auto", "cpu", "gpu"] | None) -> "Config":
    """Read the settings; what the command line says goes over the file.

    Raises
    ------
    ConfigError
        As :func:`deepmir.config.read_config`.
    """
    from dataclasses import replace

    from deepmir.config import read_config

    config = read_config(path)
    if device is None:
        return config
    return replace(config, segment=replace(config.segment, device=device))
