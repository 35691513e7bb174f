"""Export trained checkpoints as the released weights, with thresholds and measured figures.

    python benchmarks/release_weights.py --runs runs --out src/deepmir/weights/released

Reads ``anatomy/last.pt`` and ``findings/last.pt`` under RUNS. A part that is not there is taken
from the package's weights, and so are what it was trained on, and thresholds and calibration unless
``--thresholds`` names the JSON of benchmarks/choose_thresholds.py. ``--detection``, ``--semi-real``
and ``--real`` take those of the other benchmarks: their figures go into the model card. Without
RUNS the card alone is new.
"""

import argparse
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from deepmir.labels import Finding
from deepmir.model.weights import ONNX_FILES, RELEASED, Calibration, Part, load_weights
from deepmir.training.export import ReleaseNotes, export_release

DATA = (
    "simulated scans of 12 heads (SynthSeg label maps, Apache-2.0), no patient's scan; "
    "made by benchmarks/release_data.py"
)


def main() -> None:
    """Export both parts with the notes."""
    options = read_options()
    runs = {} if options.runs is None else checkpoints_under(options.runs)
    base = RELEASED if len(runs) < len(ONNX_FILES) or options.share < 1 else None
    notes = ReleaseNotes(
        code_version=version("deepmir"),
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
    parser.add_argument("--detection", type=Path)
    parser.add_argument("--semi-real", type=Path)
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
        raise SystemExit(f"wanted {' or '.join(map(str, paths.values()))}, found neither")
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


def figures_of(options: argparse.Namespace) -> dict[str, float]:
    """Figures measured after training, by name."""
    figures: dict[str, float] = {}
    for what, path in (
        ("test heads", options.detection),
        ("inserted into real maps", options.semi_real),
    ):
        results = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
        for subset, result in results.items():
            if "derived" in result:
                figures |= detection_figures(f"{what}, {subset}", result)
    for path in options.real:
        for row in json.loads(path.read_text(encoding="utf-8")):
            figures |= real_figures(row)
    return figures


def detection_figures(
    name: str, result: dict[str, dict[str, dict[str, float]]]
) -> dict[str, float]:
    """Figures of one subset of contrasts of benchmarks/detection.py; undefined ones left out."""
    wanted = ("sensitivity", "precision", "false_per_person_without")
    found = {
        f"{name}, {finding} {key}": derived[key]
        for finding, derived in result["derived"].items()
        for key in wanted
        if derived[key] is not None
    }
    dice = result.get("region_dice", {})
    return found | {f"{name}, Dice {region}": x for region, x in dice.items()}


def real_figures(row: dict[str, dict[str, float]]) -> dict[str, float]:
    """Figures of one scan of benchmarks/real_data.py."""
    dice = {f"real QSM {row['scan']}, Dice {name}": x for name, x in row.get("dice", {}).items()}
    if "findings" in row:
        dice[f"real QSM {row['scan']}, false CMB"] = float(row["findings"]["CMB"])
    return dice


if __name__ == "__main__":
    main()
