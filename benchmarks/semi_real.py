"""Detection on semi-real persons: findings inserted into real susceptibility maps.

    python benchmarks/semi_real.py --shared FOLDER --out work/semi-real           # while working
    python benchmarks/semi_real.py --shared FOLDER --out work/semi-real --final   # once per release

FOLDER holds ``qsm_real``, whose maps carry no licence to show them: numbers only. Each map serves
several persons (one a seed), half of them without microbleeds. Microbleeds, iron deposits in the
labelled basal ganglia and calcifications are inserted by their physics
(``semi_real_scans.py``); the SWI is synthesised from the map. Every person is made once and kept,
every prediction is kept beside the checksum of the weights that made it, so that a run that was
stopped goes on where it was. Beside the network stands the best plain χ threshold, to which the
true nuclei are given. Writes ``semi_real.json`` and prints the tables of docs/semi-real.md.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage, stats

from deepmir.evaluation.detection import IGNORE, Score, evaluate_person, pool
from deepmir.evaluation.match import match_lesions
from deepmir.evaluation.tables import format_score
from deepmir.io.atomic import write_text
from deepmir.io.nifti import read_label_map, read_volume, write_map
from deepmir.labels import Finding
from deepmir.lesions import label_instances
from deepmir.model.weights import load_weights
from deepmir.pipeline import segment
from deepmir.simulation.lesions import FINDING_OF_KIND, Kind
from deepmir.volume import BoolMap, FloatMap, IntMap, Modality, Volume
from semi_real_scans import (
    BASAL_GANGLIA,
    RealMap,
    cut_to_brain,
    deposit_cores,
    draw_deposits,
    insert,
    sample_settings,
    truth_of,
)

SPACING_MM = (0.94, 0.94, 3.0)  # the headers' is a dummy
WHILE_WORKING = ("N001", "N002", "N003", "N007")
FINAL_ONLY = ("N010", "N011", "N012", "N013")
SUBSETS = {"SWI + QSM": ("swi", "qsm"), "SWI": ("swi",), "QSM": ("qsm",)}
PEAKS_PPM = (0.2, 0.4)
PEAK_NAMES = ("< 0.2", "0.2 to 0.4", "> 0.4")
THRESHOLDS_PPM = (0.06, 0.08, 0.10, 0.12, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50)
VOLUMES_MM3 = ((0.0, np.inf), (8.0, np.inf), (0.0, 500.0), (8.0, 500.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One semi-real person: which map, which seed."""

    scan: str
    seed: int
    with_microbleeds: bool

    @property
    def label(self) -> str:
        """Label of the person."""
        return f"{self.scan}s{self.seed:02d}"

    def file(self, out: Path, name: str) -> Path:
        """Where something about the person is kept."""
        return out / "persons" / self.label / f"sub-{self.label}_{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One inserted finding that a rater could see, and whether it was found."""

    finding: Finding
    peak_ppm: float
    found: bool


def main() -> None:
    """Make persons, predict, score, print and write."""
    options = read_options()
    persons = list_persons(FINAL_ONLY if options.final else WHILE_WORKING, options.seeds)
    for person in persons:
        make_missing(person, options)
    baseline = best_thresholds(persons, options.out)
    print(baseline_table(baseline), flush=True)
    results: dict[str, object] = {
        "persons": [person.label for person in persons],
        "threshold": {
            **baseline,
            "by_peak": by_peak(threshold_seen(persons, baseline, options.out)),
        },
    }
    print("\nPlain threshold, sensitivity by peak:\n")
    print(peak_table(results["threshold"]["by_peak"]), flush=True)
    name = "semi_real_final.json" if options.final else "semi_real.json"
    for subset in options.subsets:
        results[subset] = score_subset(persons, subset, options)
        write_text(options.out / name, json.dumps(results, indent=1) + "\n")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seeds", type=int, default=6, help="persons made of each map")
    parser.add_argument("--subsets", nargs="+", choices=list(SUBSETS), default=list(SUBSETS)[:1])
    parser.add_argument(
        "--final", action="store_true", help="the maps kept for released weights, run once each"
    )
    return parser.parse_args()


def list_persons(scans: Sequence[str], seeds: int) -> list[Person]:
    """All persons; every map serves as often with microbleeds as without."""
    return [
        Person(scan=scan, seed=seed, with_microbleeds=(number + seed) % 2 == 0)
        for seed in range(seeds)
        for number, scan in enumerate(scans)
    ]


# ---- scans -----------------------------------------------------------------


def make_missing(person: Person, options: argparse.Namespace) -> None:
    """Insert a person's findings and write scans, truth and what was drawn, once."""
    done = person.file(options.out, "drawn.json")
    if done.exists():
        return
    started = time.monotonic()
    real = read_real(options.shared, person.scan)
    rng = np.random.default_rng([int(person.scan[1:]), person.seed])
    settings = sample_settings(rng)
    deposits = draw_deposits(real, rng, with_microbleeds=person.with_microbleeds)
    insertion = insert(real, deposits, settings, rng)
    keep = {
        "swi": (insertion.scans.swi, np.float32),
        "Chimap": (insertion.scans.chi_ppm, np.float32),
        "nuclei": (real.nuclei, np.uint8),
        "cores": (deposit_cores(insertion), np.uint8),
    }
    drawn: dict[str, object] = {"settings": asdict(settings)}
    voxel_mm3 = float(np.prod(SPACING_MM))
    seen = {}
    for subset, contrasts in SUBSETS.items():
        truth, seen[subset] = truth_of(
            insertion, deposits, voxel_mm3, swi="swi" in contrasts, chimap="qsm" in contrasts
        )
        keep[truth_name(subset)] = (truth, np.uint8)
    like = Volume(real.chi_ppm, np.diag([*SPACING_MM, 1.0]), Modality.CHIMAP, "ppm")
    for name, (image, kind) in keep.items():
        write_map(image, like, person.file(options.out, f"{name}.nii.gz"), dtype=kind)
    drawn["deposits"] = [
        {
            **asdict(deposit),
            "moment_ppm_mm3": deposit.moment_ppm_mm3,
            "visibility": {
                subset: None if seen[subset][n] is None else asdict(seen[subset][n])
                for subset in SUBSETS
            },
            "seen": {
                subset: seen[subset][n] is not None and seen[subset][n].seen for subset in SUBSETS
            },
        }
        for n, deposit in enumerate(deposits)
    ]
    write_text(done, json.dumps(drawn, indent=1) + "\n")
    print(f"made {person.label}: {len(deposits)} findings, {time.monotonic() - started:.0f} s",
          flush=True)  # fmt: skip


def read_real(shared: Path, scan: str) -> RealMap:
    """Read one map with the labels of its nuclei."""
    folder = shared / "qsm_real"
    chi = np.asarray(nib.load(folder / "QSM" / f"{scan}_QSM.nii.gz").dataobj, dtype=np.float32)
    labels = nib.load(folder / "Label" / f"{scan}_Q_QSM_SyNAggro_moved_ROIs.nii.gz")
    return cut_to_brain(chi, np.asarray(labels.dataobj).astype(np.uint8), SPACING_MM)


def truth_name(subset: str) -> str:
    """Name of the truth that belongs to some contrasts."""
    return "truth-" + subset.replace(" + ", "").lower()


def read_labels(person: Person, out: Path, name: str) -> IntMap:
    """Read one label map of a person."""
    return read_label_map(person.file(out, f"{name}.nii.gz")).data.astype(np.int32)


# ---- network ---------------------------------------------------------------


def score_subset(persons: list[Person], subset: str, options: argparse.Namespace) -> dict:
    """Predict what is missing and score all persons on some of the contrasts."""
    started = time.monotonic()
    scores, seen, false = [], [], []
    for person in persons:
        found = predicted(person, subset, options)
        truth = read_labels(person, options.out, truth_name(subset))
        scores.append(evaluate_person(found, truth, connectivity=26, rule="any-overlap"))
        seen += seen_findings(person, found, truth, subset, options.out)
        false += false_findings(person, found, truth, options.out)
        print(person.label, line_of(scores[-1]), flush=True)
    pooled = pool(scores)
    peaks = by_peak(seen)
    print(f"\n## {subset}\n\n{format_score(pooled)}\n\n{peak_table(peaks)}", flush=True)
    return {
        "weights": load_weights(options.weights).sha256,
        "seconds": round(time.monotonic() - started),
        "score": asdict(pooled),
        "derived": {
            f.name: {
                "sensitivity": pooled.of(f).sensitivity,
                "precision": pooled.of(f).precision,
                "f1": pooled.of(f).f1,
                "false_per_person": pooled.of(f).false_per_person,
                "false_per_person_without": pooled.of(f).false_per_person_without,
            }
            for f in Finding
        },
        "by_peak": peaks,
        "false": false,
    }


def predicted(person: Person, subset: str, options: argparse.Namespace) -> IntMap:
    """Segment a person on some of the contrasts, once for each set of weights."""
    weights = load_weights(options.weights)
    folder = options.out / "found" / weights.sha256[:12] / truth_name(subset)
    path = folder / f"{person.label}.nii.gz"
    if not path.exists():
        scans = {"swi": person.file(options.out, "swi.nii.gz"),
                 "qsm": person.file(options.out, "Chimap.nii.gz")}  # fmt: skip
        given = {name: scans[name] for name in SUBSETS[subset]}
        result = segment(**given, weights=options.weights, subject=person.label)
        write_map(result.findings(), result.prepared.reference, path, dtype=np.uint8)
    return read_label_map(path).data.astype(np.int32)


def seen_findings(
    person: Person, found: IntMap, truth: IntMap, subset: str, out: Path
) -> list[Seen]:
    """Tell of each inserted finding that a rater could see whether it was found."""
    drawn = json.loads(person.file(out, "drawn.json").read_text(encoding="utf-8"))
    cores = read_labels(person, out, "cores")
    rows = []
    for number, deposit in enumerate(drawn["deposits"], start=1):
        finding = FINDING_OF_KIND[Kind(deposit["kind"])]
        if finding is None or not deposit["seen"][subset]:
            continue
        extent = extent_of(cores == number, truth == finding)
        peak = abs(deposit["visibility"]["SWI + QSM"]["peak_chi_ppm"])
        hit = bool((found[extent] == finding).any())
        rows.append(Seen(finding=finding, peak_ppm=peak, found=hit))
    return rows


def extent_of(core: BoolMap, truth: BoolMap) -> BoolMap:
    """Components of the truth that touch a deposit's substance, one voxel of slack."""
    instances = label_instances(truth, connectivity=26)
    near = ndimage.binary_dilation(core, structure=np.ones((3, 3, 3)))
    touching = np.unique(instances[near])
    return np.isin(instances, touching[touching > 0])


def false_findings(person: Person, found: IntMap, truth: IntMap, out: Path) -> list[dict]:
    """Place, size and χ of each predicted finding that is wrong, for the analysis of errors."""
    chi = read_volume(person.file(out, "Chimap.nii.gz"), Modality.CHIMAP)[0].data
    swi = read_volume(person.file(out, "swi.nii.gz"), Modality.SWI)[0].data
    nuclei = read_labels(person, out, "nuclei")
    median = float(np.median(swi[swi > 0]))
    rows = []
    for finding in Finding:
        instances = label_instances(found == finding, connectivity=26)
        for number in range(1, int(instances.max(initial=0)) + 1):
            inside = instances == number
            under = set(np.unique(truth[inside]).tolist()) - {0}
            if int(finding) in under or under == {IGNORE}:
                continue
            centre = np.argwhere(inside).mean(axis=0)
            rows.append(
                {
                    "person": person.label,
                    "finding": finding.name,
                    "on": sorted(under),
                    "voxel": [round(float(x), 1) for x in centre],
                    "volume_mm3": round(float(inside.sum() * np.prod(SPACING_MM)), 1),
                    "peak_chi_ppm": round(float(chi[inside][np.abs(chi[inside]).argmax()]), 3),
                    "least_swi": round(float(swi[inside].min() / median), 2),
                    "in_nuclei": bool((nuclei[inside] > 0).mean() > 0.5),
                }
            )
    return rows


def line_of(score: Score) -> str:
    """One person's counts in one line: detected / reference, false."""
    parts = []
    for finding in Finding:
        one = score.of(finding)
        parts.append(f"{finding.name} {one.n_detected}/{one.n_reference} +{one.n_false}")
    return ", ".join(parts)


# ---- by conspicuity ----------------------------------------------------------


def by_peak(seen: Sequence[Seen]) -> dict[str, dict[str, dict[str, object]]]:
    """Sensitivity by the peak χ that a finding adds to the map, with 95 % intervals (Wilson)."""
    table: dict[str, dict[str, dict[str, object]]] = {}
    for finding in Finding:
        rows = {}
        for number, name in enumerate(PEAK_NAMES):
            hits = [
                one.found
                for one in seen
                if one.finding is finding
                and int(np.searchsorted(PEAKS_PPM, one.peak_ppm, side="right")) == number
            ]
            interval = stats.binomtest(sum(hits), len(hits)).proportion_ci(method="wilson") if (
                hits) else None  # fmt: skip
            rows[name] = {
                "n": len(hits),
                "found": sum(hits),
                "interval": None if interval is None else [interval.low, interval.high],
            }
        table[finding.name] = rows
    return table


def peak_table(peaks: dict[str, dict[str, dict[str, object]]]) -> str:
    """Sensitivity by peak as a Markdown table."""
    lines = [f"| finding | {' | '.join(f'{name} ppm' for name in PEAK_NAMES)} |", "|---" * 4 + "|"]
    for finding, rows in peaks.items():
        cells = [cell_text(rows[name]) for name in PEAK_NAMES]
        lines.append(f"| {finding} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell_text(row: dict[str, object]) -> str:
    """Sensitivity, its counts and its interval."""
    if not row["n"]:
        return "n/a"
    low, high = row["interval"]
    return f"{row['found'] / row['n']:.2f} ({row['found']}/{row['n']}; {low:.2f} to {high:.2f})"


# ---- plain threshold ---------------------------------------------------------


def best_thresholds(persons: list[Person], out: Path) -> dict[str, dict[str, object]]:
    """Best F1 that a plain χ threshold reaches for each finding, chosen on these very persons."""
    totals: dict[str, np.ndarray] = {}
    for person in persons:
        for key, counts in threshold_counts(person, out).items():
            totals[key] = totals.get(key, np.zeros(4, dtype=int)) + np.array(counts)
    best: dict[str, dict[str, object]] = {}
    for finding in Finding:
        options = {key: row for key, row in totals.items() if key.startswith(finding.name)}
        key = max(options, key=lambda name: f1_of(*totals[name]))
        reference, detected, predicted_, correct = (int(n) for n in totals[key])
        _, threshold, low, high = key.split()
        best[finding.name] = {
            "threshold_ppm": float(threshold),
            "volume_mm3": [float(low), None if high == "inf" else float(high)],
            "n_reference": reference,
            "n_detected": detected,
            "n_predicted": predicted_,
            "n_correct": correct,
            "sensitivity": detected / max(reference, 1),
            "precision": correct / max(predicted_, 1),
            "f1": f1_of(reference, detected, predicted_, correct),
        }
    return best


def threshold_counts(person: Person, out: Path) -> dict[str, list[int]]:
    """Count reference, detected, predicted and correct at every threshold, once a person."""
    kept = person.file(out, "threshold.json")
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    chi = read_volume(person.file(out, "Chimap.nii.gz"), Modality.CHIMAP)[0].data
    nuclei = read_labels(person, out, "nuclei")
    truth = read_labels(person, out, truth_name("SWI + QSM"))
    counts = {}
    for finding in Finding:
        for threshold in THRESHOLDS_PPM:
            instances = above_threshold(chi, nuclei, finding, threshold)
            for low, high in VOLUMES_MM3:
                match = match_lesions(
                    of_volume(instances, low, high),
                    truth == finding,
                    connectivity=26,
                    rule="any-overlap",
                    ignore=truth == IGNORE,
                    never_ignored=(truth != 0) & (truth != IGNORE),
                )
                counts[f"{finding.name} {threshold} {low} {high}"] = [
                    match.n_reference, match.tp_reference, match.n_prediction, match.tp_prediction
                ]  # fmt: skip
    write_text(kept, json.dumps(counts, indent=1) + "\n")
    return counts


def above_threshold(
    chi_ppm: FloatMap, nuclei: IntMap, finding: Finding, threshold_ppm: float
) -> IntMap:
    """Components beyond a threshold: iron where most of one lies in the basal ganglia.

    A component that lies mostly in nigra or red nucleus is neither.
    """
    sign = -1 if finding is Finding.CALCIFICATION else 1
    instances = label_instances(sign * chi_ppm > threshold_ppm, connectivity=26)
    if finding is Finding.CALCIFICATION:
        return instances
    inside = np.isin(nuclei, BASAL_GANGLIA) if finding is Finding.IRON else nuclei > 0
    n = int(instances.max(initial=0)) + 1
    share = np.bincount(instances[inside], minlength=n) / np.maximum(
        np.bincount(instances.ravel(), minlength=n), 1
    )
    wanted = share > 0.5 if finding is Finding.IRON else share <= 0.5
    return np.where(wanted[instances], instances, 0)


def of_volume(instances: IntMap, low_mm3: float, high_mm3: float) -> BoolMap:
    """Mask of the components whose volume lies in a range."""
    volume = np.bincount(instances.ravel()) * np.prod(SPACING_MM)
    wanted = (volume >= low_mm3) & (volume <= high_mm3)
    wanted[0] = False
    return wanted[instances]


def threshold_seen(
    persons: list[Person], best: dict[str, dict[str, object]], out: Path
) -> list[Seen]:
    """Tell of each inserted finding whether its best threshold finds it."""
    seen = []
    for person in persons:
        chi = read_volume(person.file(out, "Chimap.nii.gz"), Modality.CHIMAP)[0].data
        nuclei = read_labels(person, out, "nuclei")
        truth = read_labels(person, out, truth_name("SWI + QSM"))
        for finding in Finding:
            chosen = best[finding.name]
            instances = above_threshold(chi, nuclei, finding, chosen["threshold_ppm"])
            low, high = chosen["volume_mm3"]
            found = np.where(of_volume(instances, low, high or np.inf), int(finding), 0)
            rows = seen_findings(person, found, truth, "SWI + QSM", out)
            seen += [row for row in rows if row.finding is finding]
    return seen


def f1_of(reference: int, detected: int, predicted_: int, correct: int) -> float:
    """Harmonic mean of sensitivity and precision; 0 where nothing was hit."""
    sensitivity, precision = detected / max(reference, 1), correct / max(predicted_, 1)
    total = sensitivity + precision
    return 2 * sensitivity * precision / total if total else 0.0


def baseline_table(best: dict[str, dict[str, object]]) -> str:
    """Return the best plain thresholds as a Markdown table."""
    lines = [
        "| best plain threshold | ppm | volume, mm³ | sensitivity | precision | F1 |",
        "|---" * 6 + "|",
    ]
    for finding, row in best.items():
        low, high = row["volume_mm3"]
        lines.append(
            f"| {finding} | {row['threshold_ppm']:g} | {low:g} to {high or np.inf:g} | "
            f"{row['sensitivity']:.2f} | {row['precision']:.2f} | {row['f1']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
