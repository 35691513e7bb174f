"""Thresholds of the released network, chosen on the validation heads.

    python benchmarks/choose_thresholds.py --cases FOLDER --weights FOLDER --out work/chosen

Runs the findings part over whole simulated cases of heads 13 and 14, with every subset of
contrasts that may be there, and prints sensitivity and false findings a person at each. The
threshold with the best F1 at the prevalence of a cohort, over the subsets that tell the finding, is
proposed. Never uses heads 15 and 16.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from deepmir.config import SegmentConfig
from deepmir.evaluation.detection import Detection, evaluate_person, pool
from deepmir.labels import Finding
from deepmir.model.predict import Network, open_network, predict_windows
from deepmir.model.weights import load_weights
from deepmir.segmentation import findings_of, without_calcification
from deepmir.training.patches import Case, basal_ganglia_of, list_cases, open_case

VALIDATION_HEADS = (13, 14)
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
USUAL_PER_PERSON = {Finding.CMB: 2.3, Finding.IRON: 3.0, Finding.CALCIFICATION: 2.5}
"""Findings a person has in a cohort; validation cases hold many more, so that false findings
would weigh too little."""
SUBSETS = {
    "T2w+swi+Chimap": (True, True, True),
    "swi+Chimap": (False, True, True),
    "swi": (False, True, False),
    "Chimap": (False, False, True),
}


def main() -> None:
    """Predict, score at each threshold, propose."""
    options = read_options()
    weights = load_weights(options.weights)
    network = open_network(weights, "findings", SegmentConfig())
    names = list_cases(options.cases, VALIDATION_HEADS)
    table: dict[str, dict[str, list[float]]] = {}
    for subset, present in SUBSETS.items():
        scores: dict[float, list[object]] = {threshold: [] for threshold in THRESHOLDS}
        for name in names:
            case = open_case(options.cases / name)
            found = predict(network, case, present, weights.manifest.inputs.findings_window)
            reference = np.asarray(case.labels).astype(np.int32)
            for threshold in THRESHOLDS:
                labels = findings_of(found, dict.fromkeys(Finding, threshold)).astype(np.int32)
                scores[threshold].append(
                    evaluate_person(labels, reference, connectivity=26, rule="any-overlap")
                )
        pooled = {threshold: pool(scores[threshold]) for threshold in THRESHOLDS}
        table[subset] = {
            f.name: [usual_f1(pooled[t].of(f), f) for t in THRESHOLDS] for f in Finding
        }
        for finding in Finding:
            row = [
                f"{t:g}: {pooled[t].of(finding).sensitivity or 0:.2f}/"
                f"{pooled[t].of(finding).false_per_person or 0:.1f}"
                for t in THRESHOLDS
            ]
            print(f"{subset:16s} {finding.name:14s}", "  ".join(row), flush=True)
    proposed = {finding.name: best_threshold(table, finding) for finding in Finding}
    print("proposed:", proposed)
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"thresholds": THRESHOLDS, "f1": table, "proposed": proposed, "cases": names}
    (options.out / "thresholds.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def predict(
    network: Network, case: Case, present: tuple[bool, bool, bool], window: tuple[int, int, int]
) -> np.ndarray:
    """Probabilities (3, I, J, K) of one case with some of its contrasts."""
    brain = np.asarray(case.brain) > 0
    stack = np.zeros((8, *brain.shape), dtype=np.float32)
    for channel, given in enumerate(present):
        if given:
            stack[channel], stack[3 + channel] = case.channels[channel], 1
    stack[6], stack[7] = brain, basal_ganglia_of(np.asarray(case.regions))
    found = predict_windows(network, stack, window=window, overlap=0.25, where=brain)[1:]
    if not present[2]:
        found = without_calcification(found)
    return found * brain


def usual_f1(detection: Detection, finding: Finding) -> float:
    """F1 that these counts would give where persons have as many findings as in a cohort."""
    found_per_person = (detection.sensitivity or 0.0) * USUAL_PER_PERSON[finding]
    false_per_person = detection.false_per_person or 0.0
    missed_per_person = USUAL_PER_PERSON[finding] - found_per_person
    return 2 * found_per_person / (2 * found_per_person + false_per_person + missed_per_person)


def best_threshold(table: dict[str, dict[str, list[float]]], finding: Finding) -> float:
    """Threshold with the best mean F1 over the subsets; without Chimap no calcification counts."""
    rows = [
        scores[finding.name]
        for subset, scores in table.items()
        if "Chimap" in subset or finding is not Finding.CALCIFICATION
    ]
    return THRESHOLDS[int(np.argmax(np.mean(rows, axis=0)))]


if __name__ == "__main__":
    main()
