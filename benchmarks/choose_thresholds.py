"""Calibration and thresholds of the released network, chosen on the validation heads.

    python benchmarks/choose_thresholds.py --cases FOLDER --weights FOLDER --out work/chosen

Runs the findings part over whole simulated cases of heads 13 and 14, with every subset of
contrasts that may be there. The peak probability of each marked component, and whether it is real,
give the calibration (Platt 1999) at the prevalence of a cohort; the threshold of each finding is
the one with the best F1 at that prevalence, over the subsets that tell the finding. Prints
sensitivity, false findings a person and the calibration error. Never uses heads 15 and 16.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import optimize

from deepmir.config import SegmentConfig
from deepmir.labels import Finding
from deepmir.model.predict import Network, open_network, predict_windows
from deepmir.model.weights import Calibration, load_weights
from deepmir.segmentation import without_calcification
from deepmir.training.patches import Case, basal_ganglia_of, list_cases, open_case
from deepmir.training.thresholds import peak_scores

VALIDATION_HEADS = (13, 14)
THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(1, 20))
USUAL_PER_PERSON = {Finding.CMB: 2.3, Finding.IRON: 3.0, Finding.CALCIFICATION: 2.5}
"""Findings a person has in a cohort; validation cases hold many more, so that false findings
would weigh too little."""
SUBSETS = {
    "T2w+swi+Chimap": (True, True, True),
    "swi+Chimap": (False, True, True),
    "swi": (False, True, False),
    "Chimap": (False, False, True),
}


@dataclass(frozen=True, slots=True)
class Candidates:
    """What was marked as one finding in some cases, and what was there."""

    peaks: np.ndarray  # (n,) greatest raw probability of each marked component
    real: np.ndarray  # (n,) whether it lies on such a finding
    found_by: np.ndarray  # (m,) greatest peak on each reference lesion, 0 where it was missed
    n_cases: int

    def rates(self, calibration: Calibration, threshold: float) -> tuple[float, float]:
        """Sensitivity, and false findings a case, at a calibrated threshold."""
        kept = calibration.apply(self.peaks) >= threshold
        hits = calibration.apply(self.found_by) >= threshold
        sensitivity = float(hits.mean()) if len(hits) else float("nan")
        return sensitivity, float((kept & ~self.real).sum()) / self.n_cases

    def usual_f1(self, calibration: Calibration, threshold: float, usual: float) -> float:
        """F1 that these rates give where a person has `usual` findings."""
        sensitivity, false = self.rates(calibration, threshold)
        return 2 * sensitivity * usual / (sensitivity * usual + false + usual)

    def weights(self, usual: float) -> np.ndarray:
        """Weight of each component that brings real ones to the prevalence of a cohort."""
        return np.where(self.real, usual * self.n_cases / max(len(self.found_by), 1), 1.0)


def main() -> None:
    """Predict, calibrate, choose, print."""
    options = read_options()
    weights = load_weights(options.weights)
    network = open_network(weights, "findings", SegmentConfig())
    window = weights.manifest.inputs.findings_window
    names = list_cases(options.cases, VALIDATION_HEADS)
    found: dict[str, dict[Finding, Candidates]] = {}
    for subset, present in SUBSETS.items():
        cases = []
        for name in names:
            case = open_case(options.cases / name)
            cases.append(candidates_of(predict(network, case, present, window), case))
        found[subset] = {finding: joined([c[finding] for c in cases]) for finding in Finding}
        print(subset, "done", flush=True)
    chosen = {finding: choose(found, finding) for finding in Finding}
    for finding, (calibration, threshold) in chosen.items():
        report(found, finding, calibration, threshold)
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "proposed": {finding.name: threshold for finding, (_, threshold) in chosen.items()},
        "calibration": {finding.name: asdict(fitted) for finding, (fitted, _) in chosen.items()},
        "cases": names,
    }
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


def candidates_of(probabilities: np.ndarray, case: Case) -> dict[Finding, Candidates]:
    """Find the marked components of a case; those on ignored voxels are left out."""
    labels = np.asarray(case.labels).astype(int)
    found = {}
    for finding in Finding:
        scores = peak_scores(probabilities, labels, finding, Calibration())
        peaks = np.concatenate([scores.correct, scores.false])
        real = np.arange(len(peaks)) < len(scores.correct)
        found[finding] = Candidates(peaks, real, scores.best, 1)
    return found


def joined(parts: list[Candidates]) -> Candidates:
    """Candidates of several cases together."""
    return Candidates(
        np.concatenate([part.peaks for part in parts]).astype(np.float32),
        np.concatenate([part.real for part in parts]),
        np.concatenate([part.found_by for part in parts]).astype(np.float32),
        sum(part.n_cases for part in parts),
    )


def choose(
    found: dict[str, dict[Finding, Candidates]], finding: Finding
) -> tuple[Calibration, float]:
    """Calibration over the subsets that tell the finding, and the threshold of the best F1."""
    rows = [
        subset[finding]
        for name, subset in found.items()
        if "Chimap" in name or finding is not Finding.CALCIFICATION
    ]
    usual = USUAL_PER_PERSON[finding]
    calibration = fit_calibration(joined(rows), usual)
    f1 = [np.mean([row.usual_f1(calibration, t, usual) for row in rows]) for t in THRESHOLDS]
    return calibration, THRESHOLDS[int(np.argmax(f1))]


def fit_calibration(candidates: Candidates, usual: float) -> Calibration:
    """Slope and offset of the greatest likelihood at the prevalence of a cohort."""
    p = np.clip(candidates.peaks.astype(np.float64), 1e-7, 1 - 1e-7)
    logit, weight = np.log(p / (1 - p)), candidates.weights(usual)
    sign = np.where(candidates.real, -1.0, 1.0)

    def loss(x: np.ndarray) -> float:
        margin = sign * (np.exp(x[0]) * logit + x[1])
        return float((weight * np.logaddexp(0, margin)).sum() / weight.sum() + 1e-3 * x[0] ** 2)

    log_slope, offset = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead").x
    return Calibration(slope=round(float(np.exp(log_slope)), 4), offset=round(float(offset), 4))


def report(
    found: dict[str, dict[Finding, Candidates]],
    finding: Finding,
    calibration: Calibration,
    threshold: float,
) -> None:
    """Print what a finding's threshold gives with each subset."""
    print(f"{finding.name}: threshold {threshold:g}, {calibration}")
    usual = USUAL_PER_PERSON[finding]
    for name, subset in found.items():
        row = subset[finding]
        if len(row.found_by) == 0 or ("Chimap" not in name and finding is Finding.CALCIFICATION):
            continue
        sensitivity, false = row.rates(calibration, threshold)
        error = calibration_error(row, calibration, usual)
        print(
            f"  {name:16s} sensitivity {sensitivity:.2f}, false a person {false:.2f}, "
            f"F1 in a cohort {row.usual_f1(calibration, threshold, usual):.2f}, "
            f"calibration error {error:.3f}",
            flush=True,
        )


def calibration_error(row: Candidates, calibration: Calibration, usual: float) -> float:
    """Return the expected calibration error (Guo 2017) of ten bins, at a cohort's prevalence."""
    p, weight = calibration.apply(row.peaks), row.weights(usual)
    bins = np.minimum((p * 10).astype(int), 9)
    gaps = [
        abs(float((weight * (row.real - p))[bins == number].sum())) for number in np.unique(bins)
    ]
    return sum(gaps) / max(float(weight.sum()), 1e-9)


if __name__ == "__main__":
    main()
