"""``deepmir demo``: simulate one person, segment the scans, score them against the truth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepmir.cli import options
from deepmir.cli.console import Progress, show_progress, show_table
from deepmir.cli.results import show_notices, show_summary

if TYPE_CHECKING:
    from deepmir.evaluation.detection import Score
    from deepmir.result import SubjectResult

EXAMPLES = "[bold]Example[/bold]\n\ndeepmir demo --out demo --seed 51"

_PROTOCOL = "mesa-like"
_SEED = 44  # a person with several findings of each kind; half of all people have no microbleed


def run(
    *,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for scans and results.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another person.")] = _SEED,
    weights: options.WeightsFolder = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    """See it work, without any data: one simulated person from scans to report.

    Simulates T2w, SWI and QSM of a template head with known findings (FOLDER/scans), finds them,
    compares with the truth and writes the report with the score (FOLDER/results). The same seed
    gives the same person; scans that are there already are used again.
    """
    from deepmir import pipeline
    from deepmir.io.bids import SubjectOutputs, raw_scan
    from deepmir.model.weights import load_weights
    from deepmir.result import reserve
    from deepmir.simulation.cohort import TRUTH_FOLDER, person_label

    load_weights(weights)  # damaged ones are better said before a minute of simulation
    label, scans, results = person_label(seed, 0), out / "scans", out / "results"
    truth = scans / TRUTH_FOLDER / SubjectOutputs(label).findings
    with (
        reserve(results, label, overwrite=overwrite) as reserved,
        show_progress(quiet=quiet) as progress,
    ):
        if not truth.exists():
            _simulate_one(scans, seed, progress)
        result = pipeline.segment(
            swi=scans / raw_scan(label, "swi"),
            qsm=scans / raw_scan(label, "Chimap"),
            t2w=scans / raw_scan(label, "T2w"),
            subject=label,
            config=options.resolve_config(None, device=device),
            weights=weights,
            progress=progress,
        )
        score = _score(result, truth)
        progress("report", 0.0)
        reserved.write(result, save_probabilities=True, evaluation=score)
    show_notices(result.notices)
    _show_score(score)
    show_summary(result, results / result.outputs.report)


def _simulate_one(scans: Path, seed: int, progress: Progress) -> None:
    from deepmir.simulation.cohort import simulate_cohort
    from deepmir.simulation.lesions import demonstration_counts

    simulate_cohort(
        scans,
        subjects=1,
        seed=seed,
        protocol=_PROTOCOL,
        counts=demonstration_counts,
        progress=progress,
    )


def _score(result: "SubjectResult", truth: Path) -> "Score":
    from deepmir.evaluation.detection import IGNORE, evaluate_person
    from deepmir.io.nifti import read_label_map
    from deepmir.labels import Finding

    reference = result.prepared.reference
    true = read_label_map(truth, reference=reference, allowed=(*Finding, IGNORE))
    return evaluate_person(
        result.findings(),
        true.data.astype("int32"),
        connectivity=result.provenance.config.lesions.connectivity,
        rule="any-overlap",
    )


def _show_score(score: "Score") -> None:
    from deepmir.evaluation.tables import DETECTION_HEAD, detection_rows, rule_text

    shown = DETECTION_HEAD.index("FP/person")  # of one person the rest is no news
    rows = [row[:shown] for row in detection_rows(score)]
    show_table(f"Against the truth: {rule_text(score)}", DETECTION_HEAD[:shown], rows)
