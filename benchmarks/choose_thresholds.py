r"""Calibration and thresholds of the released network, chosen on the validation heads.

    python benchmarks/detection.py --anatomies cache/anatomies --out work/validation --persons 12 \
        --seed 91000 --heads 13 14 --protocol random --simulate-only
    python benchmarks/choose_thresholds.py --persons work/validation/scans --out work/chosen \
        --semi-real work/semi-real

Segments whole persons as `deepmir segment` does, with each subset of contrasts: simulated ones of
heads 13 and 14, and with --semi-real the persons of benchmarks/semi_real.py that are for work (real
maps N001, N002, N003 and N007 with inserted findings), so that probabilities mean something on what
a scanner made. The peak log odds of each marked component, and whether it is real, give each
subset its calibration (Platt 1999) at the prevalence of a cohort; the threshold of each finding
is the one with the best F1 at that prevalence, over the subsets that tell the finding. Prints
sensitivity, false findings a person and the calibration error, FROC points and the reliability
of the probabilities; with --picture both are drawn. The error is measured on persons that the
calibration was not fitted on: two halves serve each other. What was marked in a person is kept in
--out beside the checksum of the weights, so that a run that was stopped goes on. Never uses heads
15 and 16, nor maps N010 to N013.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import optimize, special

from deepmir.config import Config, SegmentConfig
from deepmir.io.bids import SubjectOutputs, raw_scan
from deepmir.io.nifti import read_label_map, read_volume
from deepmir.labels import Finding
from deepmir.model.weights import Calibration, load_weights
from deepmir.preprocessing.run import prepare
from deepmir.segmentation import beyond_chimap, finding_log_odds
from deepmir.simulation.cohort import TRUTH_FOLDER
from deepmir.training.thresholds import peak_scores
from deepmir.volume import Modality, Scans
from semi_real import WHILE_WORKING, list_persons

CONTRASTS = (Modality.T2W, Modality.SWI, Modality.CHIMAP)
THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(1, 20))
USUAL_PER_PERSON = {Finding.CMB: 2.3, Finding.IRON: 3.0, Finding.CALCIFICATION: 2.5}
"""Findings a person has in a cohort; semi-real persons hold many more, so that false findings
would weigh too little."""
SUBSETS = {
    "T2w+swi+Chimap": (True, True, True),
    "swi+Chimap": (False, True, True),
    "T2w+swi": (True, True, False),
    "T2w+Chimap": (True, False, True),
    "swi": (False, True, False),
    "Chimap": (False, False, True),
}
USUAL_SLOPE, SPREAD_OF_LOG_SLOPE = 0.2, 0.4
"""Of what this network's log odds are multiplied by: 0.12 to 0.23 on 36 other persons."""
FALSE_PER_PERSON = (0.1, 0.25, 0.5, 1.0, 2.0)


Pair = tuple[Calibration, Calibration]
"""Calibration where the Chimap has a value, and beyond it."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What was marked as one finding in some cases, and what was there."""

    peaks: np.ndarray  # (n, 2) greatest log odds of each component, within and beyond the Chimap
    real: np.ndarray  # (n,) whether it lies on such a finding
    found_by: np.ndarray  # (m, 2) greatest peaks on each reference lesion, -inf where it was missed
    n_cases: int

    def rates(self, pair: Pair, threshold: float) -> tuple[float, float]:
        """Sensitivity, and false findings a case, at a calibrated threshold."""
        kept = certainty(self.peaks, pair) >= threshold
        hits = certainty(self.found_by, pair) >= threshold
        sensitivity = float(hits.mean()) if len(hits) else float("nan")
        return sensitivity, float((kept & ~self.real).sum()) / self.n_cases

    def usual_f1(self, pair: Pair, threshold: float, usual: float) -> float:
        """F1 that these rates give where a person has `usual` findings."""
        sensitivity, false = self.rates(pair, threshold)
        return 2 * sensitivity * usual / (sensitivity * usual + false + usual)

    def weights(self, usual: float) -> np.ndarray:
        """Weight of each component that brings real ones to the prevalence of a cohort."""
        return np.where(self.real, usual * self.n_cases / max(len(self.found_by), 1), 1.0)


Found = dict[str, dict[Finding, list[Candidates]]]
"""Candidates by contrasts, finding and case."""


def certainty(peaks: np.ndarray, pair: Pair) -> np.ndarray:
    """Calibrated probability (n,) of peaks (n, 2); in float64, so that no two become one."""
    odds = [each.slope * column + each.offset for each, column in zip(pair, peaks.T, strict=True)]
    return np.asarray(special.expit(np.max(odds, axis=0)))


@dataclass(frozen=True, slots=True)
class Person:
    """Files of one person: scans by modality, and the truth by subset of contrasts."""

    name: str
    scans: dict[Modality, Path]
    truth: dict[str, Path]


@dataclass(frozen=True, slots=True)
class Job:
    """One person with one subset of contrasts."""

    person: Person
    subset: str
    weights: Path | None
    kept: Path  # .npz


def main() -> None:
    """Predict, calibrate, choose, print."""
    options = read_options()
    persons = simulated_persons(options.persons)
    if options.semi_real is not None:
        persons += semi_real_persons(options.semi_real, options.seeds)
    folder = options.out / "candidates" / load_weights(options.weights).sha256[:12]
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(person, subset, options.weights, folder / f"{person.name}_{subset}.npz")
        for person in persons
        for subset in options.subsets
        if subset in person.truth
    ]
    subsets = {name: SUBSETS[name] for name in options.subsets}
    found: Found = {subset: {finding: [] for finding in Finding} for subset in subsets}
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for job, of_job in zip(jobs, pool.map(candidates_of_job, jobs), strict=True):
            for finding, one in of_job.items():
                found[job.subset][finding].append(one)
            print(job.person.name, job.subset, "done", flush=True)
    calibration = {
        subset: {finding: fit_calibration(joined(rows), USUAL_PER_PERSON[finding])
                 for finding, rows in of_subset.items() if tells(subset, finding)}
        for subset, of_subset in found.items()
    }  # fmt: skip
    pairs = {
        (subset, finding): (own, calibration.get(without_chi(subset), {}).get(finding, own))
        for subset, of_subset in calibration.items()
        for finding, own in of_subset.items()
    }
    thresholds = {finding: best_threshold(found, pairs, finding) for finding in Finding}
    measured = [
        row_of(subset, finding, found, pairs[subset, finding], thresholds[finding])
        for finding in Finding for subset in subsets if tells(subset, finding)
    ]  # fmt: skip
    print(as_table(measured))
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "proposed": {finding.name: threshold for finding, threshold in thresholds.items()},
        "calibration": {
            subset: {finding.name: asdict(fitted) for finding, fitted in of_subset.items()}
            for subset, of_subset in calibration.items()
        },
        "measured": [asdict(row) for row in measured],
        "persons": [person.name for person in persons],
    }
    (options.out / "thresholds.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    if options.picture:
        draw(measured, options.picture)


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--persons", type=Path, required=True, help="scans of detection.py")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--subsets", nargs="+", choices=list(SUBSETS), default=list(SUBSETS))
    parser.add_argument("--semi-real", type=Path, help="folder that semi_real.py has filled")
    parser.add_argument("--seeds", type=int, default=3, help="semi-real persons of each map")
    parser.add_argument("--picture", type=Path, help="FROC and reliability as a PNG")
    return parser.parse_args()


def simulated_persons(scans: Path) -> list[Person]:
    """Persons that benchmarks/detection.py has simulated."""
    labels = sorted(path.name.removeprefix("sub-") for path in scans.glob("sub-*"))
    return [
        Person(
            label,
            {modality: scans / raw_scan(label, modality.value) for modality in CONTRASTS},
            dict.fromkeys(SUBSETS, scans / TRUTH_FOLDER / SubjectOutputs(label).findings),
        )
        for label in labels
    ]


def semi_real_persons(folder: Path, seeds: int) -> list[Person]:
    """Persons that benchmarks/semi_real.py has made of the maps for work; they have no T2w."""
    names = {"swi+Chimap": "swiqsm", "swi": "swi", "Chimap": "qsm"}
    return [
        Person(
            one.label,
            {
                modality: one.file(folder, f"{modality.value}.nii.gz")
                for modality in (Modality.SWI, Modality.CHIMAP)
            },
            {subset: one.file(folder, f"truth-{name}.nii.gz") for subset, name in names.items()},
        )
        for one in list_persons(WHILE_WORKING, seeds)
    ]


def candidates_of_job(job: Job) -> dict[Finding, Candidates]:
    """Find what is marked in one person with one subset of contrasts, once, and keep it."""
    if not job.kept.exists():
        found = candidates_of_person(job)
        arrays = {
            f"{finding.name}_{name}": getattr(one, name)
            for finding, one in found.items()
            for name in ("peaks", "real", "found_by")
        }
        np.savez(job.kept, **arrays)
    with np.load(job.kept) as kept:
        return {
            finding: Candidates(
                kept[f"{finding.name}_peaks"],
                kept[f"{finding.name}_real"],
                kept[f"{finding.name}_found_by"],
                1,
            )
            for finding in Finding
        }


def candidates_of_person(job: Job) -> dict[Finding, Candidates]:
    """Prepare and predict as `deepmir segment` does; brain and nuclei are the network's."""
    present = SUBSETS[job.subset]
    t2w, swi, chi = (
        read_volume(job.person.scans[modality], modality)[0] if given else None
        for modality, given in zip(CONTRASTS, present, strict=True)
    )
    weights, config = load_weights(job.weights), Config(segment=SegmentConfig(threads=1))
    scans = Scans(t2w=t2w, swi=swi, chimap=chi)
    prepared = prepare(scans, weights, config, qsm_unit="ppm")  # artefacts can hide the unit
    odds, box = finding_log_odds(prepared, weights, config)
    labels = read_label_map(job.person.truth[job.subset]).data.astype(int)
    return candidates_of(odds, labels[box], beyond_chimap(prepared.channels[2][box], present))


def candidates_of(
    odds: np.ndarray, labels: np.ndarray, beyond: np.ndarray
) -> dict[Finding, Candidates]:
    """Find the marked components of a scan; those on ignored voxels are left out."""
    found = {}
    for finding in Finding:
        scores = [
            peak_scores(odds, np.where(part, odds[finding - 1], -np.inf), labels, finding)
            for part in (~beyond, beyond)
        ]
        peaks = np.stack([np.concatenate([one.correct, one.false]) for one in scores], axis=1)
        real = np.arange(len(peaks)) < len(scores[0].correct)
        best = np.stack([one.best for one in scores], axis=1)
        found[finding] = Candidates(peaks, real, best, 1)
    return found


def joined(parts: list[Candidates]) -> Candidates:
    """Candidates of several cases together."""
    return Candidates(
        np.concatenate([part.peaks for part in parts]),
        np.concatenate([part.real for part in parts]),
        np.concatenate([part.found_by for part in parts]),
        sum(part.n_cases for part in parts),
    )


def tells(subset: str, finding: Finding) -> bool:
    """Whether these contrasts can tell the finding: without the sign of χ no calcification."""
    return "Chimap" in subset or finding is not Finding.CALCIFICATION


def without_chi(subset: str) -> str:
    """Name of the contrasts that are left where a Chimap has no value."""
    return subset.replace("+Chimap", "")


def best_threshold(found: Found, pairs: dict[tuple[str, Finding], Pair], finding: Finding) -> float:
    """Threshold of the best mean F1 over the subsets that tell the finding."""
    usual = USUAL_PER_PERSON[finding]
    rows = [
        (joined(of_subset[finding]), pairs[subset, finding])
        for subset, of_subset in found.items()
        if tells(subset, finding)
    ]
    f1 = [np.mean([row.usual_f1(pair, t, usual) for row, pair in rows]) for t in THRESHOLDS]
    return THRESHOLDS[int(np.argmax(f1))]


def fit_calibration(candidates: Candidates, usual: float) -> Calibration:
    """Likeliest slope and offset at the prevalence of a cohort, given what slopes are usual.

    Without the latter a few persons whose components happen to fall apart without overlap would
    make every probability 0 or 1. Components that lie beyond the Chimap have the calibration of
    the contrasts without it.
    """
    here = np.isfinite(candidates.peaks[:, 0])
    logit, weight = candidates.peaks[here, 0], candidates.weights(usual)[here]
    sign = np.where(candidates.real[here], -1.0, 1.0)

    def loss(x: np.ndarray) -> float:
        margin = sign * (np.exp(x[0]) * logit + x[1])
        unusual = (x[0] - np.log(USUAL_SLOPE)) / SPREAD_OF_LOG_SLOPE
        return float((weight * np.logaddexp(0, margin)).sum() + unusual**2 / 2)

    start = np.array([np.log(USUAL_SLOPE), 0.0])
    log_slope, offset = optimize.minimize(loss, start, method="Nelder-Mead").x
    return Calibration(slope=round(float(np.exp(log_slope)), 4), offset=round(float(offset), 4))


# ---- what it gives -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How good one finding is told with some contrasts."""

    subset: str
    finding: str
    threshold: float
    n_findings: int
    sensitivity: float
    false_per_person: float
    usual_f1: float
    froc: dict[str, float]  # false findings a person: sensitivity
    calibration_error: float
    reliability: list[tuple[float, float, float]]
    """Of each bin: mean probability, share that is real, findings a person."""


def row_of(subset: str, finding: Finding, found: Found, pair: Pair, threshold: float) -> Measured:
    """Measure one finding with one subset of contrasts."""
    usual = USUAL_PER_PERSON[finding]
    persons = found[subset][finding]
    row = joined(persons)
    sensitivity, false = row.rates(pair, threshold)
    beyond = found.get(without_chi(subset), {}) if tells(without_chi(subset), finding) else {}
    bins = cross_fitted_bins(persons, beyond.get(finding, persons), usual)
    total = sum(weight for _, _, weight in bins)
    error = sum(weight * abs(p - share) for p, share, weight in bins) / max(total, 1e-9)
    return Measured(
        subset=subset,
        finding=finding.name,
        threshold=threshold,
        n_findings=len(row.found_by),
        sensitivity=sensitivity,
        false_per_person=false,
        usual_f1=row.usual_f1(pair, threshold, usual),
        froc={f"{limit:g}": sensitivity_at(row, pair, limit) for limit in FALSE_PER_PERSON},
        calibration_error=error,
        reliability=[(p, share, weight / len(persons)) for p, share, weight in bins],
    )


def sensitivity_at(row: Candidates, pair: Pair, false_per_person: float) -> float:
    """Greatest sensitivity with at most so many false findings a person."""
    false = np.sort(certainty(row.peaks[~row.real], pair))[::-1]
    allowed = int(false_per_person * row.n_cases)
    least = false[allowed] if allowed < len(false) else 0.0
    hits = certainty(row.found_by, pair) > least
    return float(hits.mean()) if len(hits) else float("nan")


def cross_fitted_bins(
    persons: list[Candidates], without: list[Candidates], usual: float
) -> list[tuple[float, float, float]]:
    """Reliability in ten bins at a cohort's prevalence (Guo 2017), two halves fitting each other.

    Parameters
    ----------
    persons : list of Candidates
    without : list of Candidates
        Of the same persons, with the contrasts that are left beyond the Chimap.
    usual : float
        Findings a person has in a cohort.

    Returns
    -------
    list of (mean probability, share that is real, weight)
    """
    p, real, weight = [], [], []
    for half in (0, 1):
        own, beyond = (
            fit_calibration(joined(each[1 - half :: 2]), usual) for each in (persons, without)
        )
        row = joined(persons[half::2])
        p.append(certainty(row.peaks, (own, beyond)))
        real.append(row.real)
        weight.append(row.weights(usual))
    joint, is_real, weights = np.concatenate(p), np.concatenate(real), np.concatenate(weight)
    numbers = np.minimum((joint * 10).astype(int), 9)
    bins = []
    for number in np.unique(numbers):
        here = numbers == number
        total = float(weights[here].sum())
        bins.append(
            (
                float((weights * joint)[here].sum() / total),
                float((weights * is_real)[here].sum() / total),
                total,
            )
        )
    return bins


def as_table(measured: list[Measured]) -> str:
    """Markdown table of everything measured."""
    limits = " | ".join(f"at {limit:g}" for limit in FALSE_PER_PERSON)
    lines = [
        f"| finding | contrasts | findings | threshold | sensitivity | false a person | "
        f"F1 in a cohort | {limits} | calibration error |",
        "|---" * (8 + len(FALSE_PER_PERSON)) + "|",
    ]
    for row in measured:
        froc = " | ".join(f"{value:.2f}" for value in row.froc.values())
        lines.append(
            f"| {row.finding} | {row.subset} | {row.n_findings} | {row.threshold:g} | "
            f"{row.sensitivity:.2f} | {row.false_per_person:.2f} | {row.usual_f1:.2f} | {froc} | "
            f"{row.calibration_error:.3f} |"
        )
    return "\n".join(lines)


def draw(measured: list[Measured], path: Path) -> None:
    """Draw FROC curves above reliability diagrams, a column for each finding."""
    names = list(SUBSETS)
    figure, axes = plt.subplots(2, len(Finding), figsize=(12, 7.5), layout="constrained")
    for column, finding in enumerate(Finding):
        for row in measured:
            if row.finding != finding.name:
                continue
            style = {"marker": "o", "label": row.subset, "color": f"C{names.index(row.subset)}"}
            limits = [float(limit) for limit in row.froc]
            axes[0, column].plot(limits, list(row.froc.values()), **style)
            p, share, _ = zip(*row.reliability, strict=True) if row.reliability else ((), (), ())
            axes[1, column].plot(p, share, **style)
        axes[0, column].set(title=finding.name, xlabel="false findings a person", ylim=(0, 1))
        axes[1, column].plot([0, 1], [0, 1], color="0.6", linewidth=1)
        axes[1, column].set(xlabel="probability", xlim=(0, 1), ylim=(0, 1))
    axes[0, 0].set_ylabel("sensitivity")
    axes[1, 0].set_ylabel("share that is real")
    axes[0, 0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
