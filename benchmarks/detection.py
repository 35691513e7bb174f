"""Lesion-wise detection on simulated persons whose heads the network never saw.

    python benchmarks/detection.py --anatomies FOLDER --out work/detection --persons 20

FOLDER holds stored anatomies ``head_15.npz`` and ``head_16.npz`` (the test split). Persons are
simulated once and kept, so the same scans serve every version of the network. Writes
``detection.json`` and prints the tables that docs/detection.md shows: over all, and sensitivity by
what makes a finding easy or hard. A person's result is kept beside the checksum of the weights,
so that a run that was stopped goes on.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from scipy import ndimage, stats

from deepmir.evaluation.detection import Score, evaluate_person, pool
from deepmir.evaluation.tables import format_score
from deepmir.io.atomic import write_text
from deepmir.io.bids import SubjectOutputs, raw_scan
from deepmir.io.nifti import read_label_map, write_map
from deepmir.labels import Finding
from deepmir.lesions import label_instances
from deepmir.model.weights import load_weights
from deepmir.pipeline import segment
from deepmir.simulation.cohort import TRUTH_FOLDER, person_label, simulate_cohort

SUBSETS = {
    "SWI + QSM + T2w": ("swi", "qsm", "t2w"),
    "SWI + QSM": ("swi", "qsm"),
    "SWI": ("swi",),
    "QSM": ("qsm",),
}
SUFFIX = {"swi": "swi", "qsm": "Chimap", "t2w": "T2w"}
REGIONS_SCORED = {"caudate": 21, "putamen": 22, "pallidum": 23, "thalamus": 4}


def main() -> None:
    """Simulate what is missing, segment, score, print and write."""
    options = read_options()
    persons = simulate_missing(options)
    results = {}
    for name in options.subsets:
        started = time.monotonic()
        scores, dice = score_subset(options.out, persons, SUBSETS[name], options.weights)
        pooled = pool(scores)
        results[name] = {
            "persons": len(scores),
            "seconds": round(time.monotonic() - started),
            "score": asdict(pooled),
            "derived": {f.name: derived(pooled, f) for f in Finding},
            "region_dice": {key: round(float(np.nanmean(v)), 3) for key, v in dice.items()},
        }
        print(f"\n## {name}\n\n{format_score(pooled)}\n")
        print("Dice:", results[name]["region_dice"], flush=True)
    (options.out / "detection.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anatomies", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--persons", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2021)
    parser.add_argument("--heads", type=int, nargs="+", default=[15, 16])
    parser.add_argument("--protocol", default="mesa-like")
    parser.add_argument("--subsets", nargs="+", choices=list(SUBSETS), default=list(SUBSETS)[:1])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--simulate-only", action="store_true")
    return parser.parse_args()


def simulate_missing(options: argparse.Namespace) -> list[str]:
    """Simulate the persons that are not there yet, one cohort of one person each."""
    labels = []
    for n in range(options.persons):
        seed = options.seed + n
        head = options.heads[n % len(options.heads)]
        label = person_label(seed, 0)
        if not (options.out / "scans" / raw_scan(label, "swi")).exists():
            simulate_cohort(
                options.out / "scans",
                subjects=1,
                seed=seed,
                anatomies=[options.anatomies / f"head_{head:02d}.npz"],
                protocol=options.protocol,
            )
            print(f"simulated {label} (head {head})", flush=True)
        labels.append(label)
    if options.simulate_only:
        raise SystemExit(0)
    return labels


def score_subset(
    out: Path, persons: list[str], contrasts: tuple[str, ...], weights: Path | None
) -> tuple[list[Score], dict[str, list[float]]]:
    """Score every person on some of the contrasts: detection, and Dice of brain and nuclei."""
    scores: list[Score] = []
    dice: dict[str, list[float]] = {name: [] for name in ("brain", *REGIONS_SCORED)}
    for label in persons:
        scans = {name: out / "scans" / raw_scan(label, SUFFIX[name]) for name in contrasts}
        result = segment(**scans, weights=weights, subject=label)
        truth = out / "scans" / TRUTH_FOLDER
        names = SubjectOutputs(label)
        reference = read_label_map(truth / names.findings).data.astype(np.int32)
        found = result.findings().astype(np.int32)
        scores.append(evaluate_person(found, reference, connectivity=26, rule="any-overlap"))
        add_dice(dice, result.prepared, truth, names)
        print(label, line_of(scores[-1]), flush=True)
    return scores, dice


def add_dice(
    dice: dict[str, list[float]], prepared: object, truth: Path, names: SubjectOutputs
) -> None:
    """Append one person's Dice of the brain mask and of each nucleus, sides apart."""
    brain = read_label_map(truth / names.brain_mask).data > 0
    dice["brain"].append(dice_of(prepared.brain_mask, brain))
    regions = read_label_map(truth / names.regions).data
    for name, base in REGIONS_SCORED.items():
        for offset in (100, 200):
            number = base + offset
            dice[name].append(dice_of(prepared.regions == number, regions == number))


def dice_of(first: np.ndarray, second: np.ndarray) -> float:
    """Dice overlap of two masks; nan where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return float("nan") if total == 0 else 2 * int((first & second).sum()) / total


def derived(score: Score, finding: Finding) -> dict[str, float | None]:
    """Derive what follows from the counts of one finding."""
    one = score.of(finding)
    return {
        "sensitivity": one.sensitivity,
        "precision": one.precision,
        "f1": one.f1,
        "false_per_person": one.false_per_person,
        "false_per_person_without": one.false_per_person_without,
    }


def line_of(score: Score) -> str:
    """One person's counts in one line: detected / reference, false."""
    parts = []
    for finding in Finding:
        one = score.of(finding)
        parts.append(f"{finding.name} {one.n_detected}/{one.n_reference} +{one.n_false}")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
