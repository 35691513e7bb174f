"""``deepmir evaluate``: findings against a reference, lesion by lesion."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from deepmir.cli import options
from deepmir.errors import InputError

if TYPE_CHECKING:
    from deepmir.evaluation.detection import Score
    from deepmir.lesions import Connectivity

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir evaluate results/sub-01/anat/sub-01_desc-findings_dseg.nii.gz rater.nii.gz\n\n"
    "deepmir evaluate results made/derivatives/truth"
)

_PATTERN = "sub-*/**/*_desc-findings_dseg.nii.gz"


def run(
    prediction: Annotated[
        Path, typer.Argument(help="Label map of findings, or a folder of results (BIDS).")
    ],
    reference: Annotated[
        Path, typer.Argument(help="What is true: a label map, or a folder of the same form.")
    ],
    *,
    connectivity: Annotated[
        int, typer.Option(help="Voxels that make one lesion: 6, 18 or 26 neighbours.")
    ] = 26,
    rule: Annotated[
        Literal["any-overlap"], typer.Option(help="What a hit is: one shared voxel.")
    ] = "any-overlap",
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    """Score findings against a reference, lesion by lesion.

    Prints sensitivity, precision, F1 and false positives for each finding, pooled over all
    persons, and what the wrong ones lie on. Label 255 in the reference is not scored.
    """
    from deepmir.evaluation.detection import pool
    from deepmir.evaluation.tables import format_score

    neighbours = cast("Connectivity", connectivity)  # a wrong number is refused below
    scores = [
        score_files(found, true, connectivity=neighbours, rule=rule)
        for found, true in _pairs(prediction, reference)
    ]
    print(format_score(pool(scores)))


def score_files(
    prediction: Path,
    reference: Path,
    *,
    connectivity: "Connectivity",
    rule: Literal["any-overlap"],
) -> "Score":
    """Score one label map against another on the same grid.

    Raises
    ------
    InputError, GeometryError
        If a file cannot be read, holds another label, or lies on another grid.
    ConfigError
        If `connectivity` is unknown.
    """
    from deepmir.evaluation.detection import IGNORE, evaluate_person
    from deepmir.io.nifti import read_label_map
    from deepmir.labels import Finding

    found = read_label_map(prediction, allowed=tuple(Finding))
    true = read_label_map(reference, reference=found, allowed=(*Finding, IGNORE))
    return evaluate_person(
        found.data.astype("int32"), true.data.astype("int32"), connectivity=connectivity, rule=rule
    )


def _pairs(prediction: Path, reference: Path) -> list[tuple[Path, Path]]:
    """Files to compare: the two given, or those that two folders share by person."""
    if not (prediction.is_dir() and reference.is_dir()):
        return [(prediction, reference)]
    found, true = _by_name(prediction), _by_name(reference)
    missing = sorted(true.keys() - found.keys())
    if missing:
        raise InputError(
            f"{prediction} has no {missing[0]}, which {reference} has ({len(missing)} such); "
            "segment these persons too, or leave them out of the reference"
        )
    if not true:
        raise InputError(f"{reference} holds no {_PATTERN}; wanted one label map a person there")
    return [(found[name], true[name]) for name in sorted(true)]


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob(_PATTERN)}
