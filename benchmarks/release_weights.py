"""Export trained checkpoints as the released weights, with thresholds and measured figures.

    python benchmarks/release_weights.py --runs runs --out src/deepmir/weights/released

Reads ``last.pt`` of the folders ``anatomy``, ``nuclei`` and ``findings`` under RUNS. A part that is
not there is taken from the package's weights, and so are what it was trained on, and thresholds and
calibration unless ``--thresholds`` names the JSON of benchmarks/choose_thresholds.py.
``--detection``, ``--regions``, ``--semi-real`` and ``--real`` take those of the other benchmarks:
their figures go into the model card, several draws of ``--detection`` as one. Without RUNS the card
alone is new.
"""

import argparse
import json
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deepmir.labels import REGION_BY_BASE, Finding
from deepmir.model.weights import ONNX_FILES, RELEASED, Calibration, Part, load_weights
from deepmir.preprocessing.nuclei import BASES
from deepmir.training.export import ReleaseNotes, export_release

DATA = (
    "simulated scans of 12 heads (SynthSeg label maps, Apache-2.0), no patient's scan; "
    "made by benchmarks/release_data.py"
)


def main() -> None:
    """Export the parts with the notes."""
    options = read_options()
    runs = {} if options.runs is None else checkpoints_under(options.runs)
    base = RELEASED if len(runs) < len(ONNX_FILES) or options.share < 1 else None
    notes = ReleaseNotes(
        code_version=code_version(),
        data=options.data or (load_weights(base).manifest.card.training_data if base else DATA),
        thresholds=thresholds_of(options.thresholds),
        calibration=calibration_of(options.thresholds),
        validation=figures_of(options),
    )
    if base is not None and options.thresholds is None:
        earlier = load_weights(base)
        calibration = earlier.manifest.calibration
        notes = replace(notes, thresholds=earlier.thresholds, calibration=calibration)
    export_release(runs, options.out, notes, base=base, share=options.share)
    print(f"released: {options.out}")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--thresholds", type=Path)
    parser.add_argument("--detection", type=Path, nargs="*", default=[])
    parser.add_argument("--regions", type=Path, help="JSON of benchmarks/regions.py")
    parser.add_argument("--semi-real", type=Path, nargs="*", default=[])
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="how far a trained part goes from the package's weights (0) to the checkpoint's (1)",
    )
    parser.add_argument("--data", help="what was trained on; by default as the package's card says")
    return parser.parse_args()


def checkpoints_under(runs: Path) -> dict[Part, Path]:
    """Checkpoint of each part that was trained."""
    paths: dict[Part, Path] = {part: runs / part / "last.pt" for part in ONNX_FILES}
    there = {part: path for part, path in paths.items() if path.exists()}
    if not there:
        raise SystemExit(f"wanted {' or '.join(map(str, paths.values()))}, found none")
    return there


def thresholds_of(path: Path | None) -> dict[Finding, float]:
    """Thresholds that were proposed on the validation heads; 0.5 without a file."""
    if path is None:
        return dict.fromkeys(Finding, 0.5)
    proposed = json.loads(path.read_text(encoding="utf-8"))["proposed"]
    return {Finding[name]: float(value) for name, value in proposed.items()}


def calibration_of(path: Path | None) -> dict[str, dict[str, Calibration]]:
    """Calibration of each subset of contrasts, fitted on the validation heads; none without."""
    if path is None:
        return {}
    fitted = json.loads(path.read_text(encoding="utf-8"))["calibration"]
    return {
        subset: {name: Calibration(**values) for name, values in findings.items()}
        for subset, findings in fitted.items()
    }


def code_version() -> str:
    """Version of the package, and the commit that the export was made at."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(  # noqa: S603 - a fixed command
        git, capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"{version('deepmir')} (commit {commit})" if commit else version("deepmir")


def figures_of(options: argparse.Namespace) -> dict[str, float]:
    """Figures measured after training, by name."""
    figures: dict[str, float] = {}
    for what, paths in (
        ("test heads", options.detection),
        ("inserted into real maps", options.semi_real),
    ):
        draws = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        for subset in dict.fromkeys(name for draw in draws for name in draw):
            results = [draw[subset] for draw in draws if subset in draw]
            if isinstance(results[0], dict) and "score" in results[0]:
                figures |= pooled_figures(f"{what}, {subset}", results)
    if options.regions is not None:
        figures |= region_figures(json.loads(options.regions.read_text(encoding="utf-8")))
    for path in options.real:
        for row in json.loads(path.read_text(encoding="utf-8")):
            figures |= real_figures(row)
    return figures


def pooled_figures(name: str, results: list[dict[str, Any]]) -> dict[str, float]:
    """Figures of some draws of persons as of one; what has no denominator is left out."""
    figures: dict[str, float] = {}
    for finding in Finding:
        rows = [one["score"][finding.name.lower()] for one in results]
        n = {key: sum(row[key] for row in rows) for key in rows[0]}
        shares = {
            "sensitivity": (n["n_detected"], n["n_reference"]),
            "precision": (n["n_correct"], n["n_predicted"] - n["n_ignored"]),
            "false on a person without": (n["n_false_without"], n["n_persons_without"]),
        }
        what = f"{name}, {finding.name} ({n['n_reference']} there)"
        figures |= {f"{what}, {key}": a / b for key, (a, b) in shares.items() if b}
    return figures


def region_figures(regions: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """Dice of brain and nuclei by contrasts; outlines are those of the last part there is."""
    wanted = ("brain", *(REGION_BY_BASE[base].name for base in BASES))
    return {
        f"test heads, {subset}, Dice {name}": list(parts.values())[-1][name]
        for subset, parts in regions.items()
        for name in wanted
    }


def real_figures(row: dict[str, dict[str, float]]) -> dict[str, float]:
    """Figures of one scan of benchmarks/real_data.py."""
    dice = {f"real QSM {row['scan']}, Dice {name}": x for name, x in row.get("dice", {}).items()}
    if "findings" in row:
        dice[f"real QSM {row['scan']}, false CMB"] = float(row["findings"]["CMB"])
    return dice


if __name__ == "__main__":
    main()
