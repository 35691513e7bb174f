"""``deepmir evaluate``: findings against a reference, lesion by lesion."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from deepmir.cli import options
from deepmir.cli.console import show_progress
from deepmir.errors import ConfigError

if TYPE_CHECKING:
    from deepmir.evaluation.rules import Rule
    from deepmir.labels import Finding
    from deepmir.lesions import Connectivity
    from deepmir.scoring import EvaluationResult

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir evaluate results made/derivatives/truth --out evaluation --images made "
    "--probabilities results\n\n"
    "deepmir evaluate theirs rater1 --out evaluation --labels 1=CMB --findings CMB --rule valdo\n\n"
    "deepmir evaluate results rater1 --out evaluation --against nnunet=theirs --run seed2 "
    "--run seed3\n\n"
    "deepmir evaluate found_dseg.nii.gz rater_dseg.nii.gz"
)

_RuleName = Literal[
    "deepmir", "paper", "valdo", "valdo-as-published", "microbleednet", "shivai", "panoptica"
]


def run(
    prediction: Annotated[
        Path,
        typer.Argument(
            help="Label map of findings, or a folder of them (BIDS derivatives or any)."
        ),
    ],
    reference: Annotated[
        Path, typer.Argument(help="What is true: a label map, or a folder; paired by person.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for page, tables and JSON; else only printed."),
    ] = None,
    rule: Annotated[
        _RuleName, typer.Option(help="What a hit is (docs/evaluation.md describes each).")
    ] = "deepmir",
    as_published: Annotated[
        bool,
        typer.Option(
            "--as-published/--mended", help="With --rule valdo: keep the defects of its script."
        ),
    ] = False,
    connectivity: Annotated[
        int | None,
        typer.Option(help="Neighbours that make one lesion: 6, 18 or 26; else the rule's own."),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(help="Of the rule: mm between centroids, or intersection over union."),
    ] = None,
    min_voxels: Annotated[
        int | None, typer.Option(help="Drop smaller lesions on both sides.")
    ] = None,
    max_diameter_mm: Annotated[
        float | None, typer.Option(help="Drop larger lesions on both sides.")
    ] = None,
    findings: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What the reference tells: CMB, IRON, CALCIFICATION; repeat. All by default.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="MAP",
            help="Meaning of the prediction's labels, such as 1=CMB,2=IRON,5=background.",
        ),
    ] = None,
    reference_labels: Annotated[
        str | None,
        typer.Option(metavar="MAP", help="The same for the reference; ignore: is not scored."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="Which files of the folders are meant, such as '**/*_pred.nii.gz'."),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample/--no-resample",
            help="Bring predictions onto the reference's grid by the nearest voxel.",
        ),
    ] = False,
    probabilities: Annotated[
        Path | None,
        typer.Option(help="Maps (*_probseg.nii.gz) for FROC, precision-recall and calibration."),
    ] = None,
    extent: Annotated[
        float, typer.Option(help="Least probability of the voxels that make up a candidate.")
    ] = 0.5,
    images: Annotated[
        Path | None, typer.Option(help="Scans for pictures of missed and false lesions.")
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(help="Maps of regions; else those beside the reference or prediction."),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(metavar="TSV", help="Table of persons, as participants.tsv.")
    ] = None,
    group_column: Annotated[
        str, typer.Option(help="Column of that table to tell persons apart by.")
    ] = "protocol",
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Another method on the same persons; repeat."),
    ] = None,
    run_again: Annotated[
        list[Path] | None,
        typer.Option("--run", help="A further run (seed) of the same method; repeat."),
    ] = None,
    raters: Annotated[
        bool,
        typer.Option("--raters/--no-raters", help="Compare all sides pair by pair, as raters."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap intervals.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier evaluation in FOLDER.")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    """Score findings against a reference, lesion by lesion: any method's label maps.

    Prints, and with --out writes, sensitivity, precision, F1 and false positives of each finding
    with intervals, what the wrong ones lie on, counts, volumes and classes of burden, all under a
    rule that is said aloud. Label 255 in the reference is not scored. Persons that one side lacks
    are listed, and the exit code is then 1.
    """
    from deepmir.labels import Finding
    from deepmir.scoring import (
        EvaluationSettings,
        EvaluationSources,
        evaluate,
        parse_labels,
        write_evaluation,
    )

    sources = EvaluationSources(
        prediction=prediction,
        reference=reference,
        pattern=pattern,
        probabilities=probabilities,
        images=images,
        regions=regions,
        groups=groups,
        group_column=group_column,
        others=tuple(_named_path(text) for text in against or ()),
        runs=tuple(run_again or ()),
    )
    settings = EvaluationSettings(
        rule=_changed(
            _rule(rule, connectivity, as_published=as_published), limit, min_voxels, max_diameter_mm
        ),
        findings=_findings(findings or list(Finding.__members__)),
        prediction_labels=None if labels is None else parse_labels(labels),
        reference_labels=None if reference_labels is None else parse_labels(reference_labels),
        resample=resample,
        extent=extent,
        raters=raters,
        seed=seed,
    )
    with show_progress(quiet=quiet or out is None) as progress:
        result = evaluate(sources, settings, progress=progress, command_line=tuple(sys.argv))
        page = None if out is None else write_evaluation(result, out, overwrite=overwrite)
    _show(result, page, quiet=quiet)
    if not result.is_complete:
        raise typer.Exit(1)


def _rule(name: str, connectivity: int | None, *, as_published: bool) -> "Rule":
    from deepmir.evaluation.rules import rule_named

    if as_published and name not in ("valdo", "valdo-as-published"):
        raise ConfigError(f"--as-published belongs to the rule valdo, not to {name}")
    name = "valdo-as-published" if as_published else name
    return rule_named(name, connectivity=cast("Connectivity | None", connectivity))


def _changed(
    rule: "Rule", limit: float | None, min_voxels: int | None, max_diameter_mm: float | None
) -> "Rule":
    """Put what was asked for in place of the rule's own."""
    return replace(
        rule,
        limit=rule.limit if limit is None else limit,
        min_voxels=rule.min_voxels if min_voxels is None else min_voxels,
        max_diameter_mm=rule.max_diameter_mm if max_diameter_mm is None else max_diameter_mm,
    )


def _findings(names: list[str]) -> "tuple[Finding, ...]":
    from deepmir.labels import Finding

    unknown = sorted(set(names) - set(Finding.__members__))
    if unknown:
        wanted = ", ".join(Finding.__members__)
        raise ConfigError(f"--findings {unknown[0]} is unknown; wanted some of {wanted}")
    return tuple(finding for finding in Finding if finding.name in names)


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ConfigError(f"--against {text!r} is wrong; wanted NAME=PATH, such as nnunet=theirs")
    return name, Path(path)


def _show(result: "EvaluationResult", page: Path | None, *, quiet: bool) -> None:
    from deepmir.evaluation.tables import PAPER_HEAD, format_score, format_table, paper_rows

    for notice in result.notices:
        print(f"warning: {notice}", file=sys.stderr)
    if quiet:
        return
    print(format_score(result.cohort.score))
    print(f"\nWith 95 % intervals ({result.cohort.rule.text})")
    print(format_table(PAPER_HEAD, paper_rows(result.cohort)))
    if page is not None:
        print(f"page: {page}")
