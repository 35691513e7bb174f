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
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from deepmir.evaluation.detection import Score, evaluate_person, pool
from deepmir.evaluation.tables import format_score
from deepmir.io.atomic import write_text
from deepmir.io.bids import SubjectOutputs, raw_scan
from deepmir.io.nifti import read_label_map, write_map
from deepmir.io.raw import find_raw_scan
from deepmir.labels import Finding
from deepmir.lesions import label_instances
from deepmir.model.weights import load_weights
from deepmir.pipeline import segment
from deepmir.reconstruction.person import reconstruct
from deepmir.simulation.cohort import TRUTH_FOLDER, person_label, simulate_cohort
from deepmir.simulation.lesions import FINDING_OF_KIND, Kind
from deepmir.volume import Volume

SUBSETS = {
    "SWI + QSM + T2w": ("swi", "qsm", "t2w"),
    "SWI + QSM": ("swi", "qsm"),
    "SWI": ("swi",),
    "QSM": ("qsm",),
    "raw": (),  # magnitude and phase of all echoes: SWI and QSM by `deepmir reconstruct`
}
SUFFIX = {"swi": "swi", "qsm": "Chimap", "t2w": "T2w"}
REGIONS_SCORED = {"caudate": 21, "putamen": 22, "pallidum": 23, "thalamus": 4}
LIMIT_PPM, LIMIT_FALL = 0.2, 0.5
"""A finding that neither reaches is near the limit of what can be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One true finding that a rater could see, what it was like, and whether it was found."""

    finding: str
    found: bool
    peak_ppm: float
    swi_fall: float
    extent_mm3: float
    place: str
    b0_t: float
    in_plane_mm: float
    slice_mm: float
    inversion: str

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that it belongs to."""
        clear = self.peak_ppm >= LIMIT_PPM or self.swi_fall >= LIMIT_FALL
        return (
            "clear" if clear else "near the limit",
            f"peak {_range(self.peak_ppm, (0.2, 0.4))} ppm",
            f"extent {_range(self.extent_mm3, (20, 60, 150))} mm³",
            self.place,
            f"{self.b0_t:g} T",
            f"in plane {_range(self.in_plane_mm, (0.8,))} mm",
            f"slices {_range(self.slice_mm, (1.6, 3.3))} mm",
            f"map by {self.inversion}",
        )


def main() -> None:
    """Simulate what is missing, segment, score, print and write."""
    options = read_options()
    persons = simulate_missing(options)
    results: dict[str, object] = {}
    for name in options.subsets:
        started = time.monotonic()
        scored = [score_person(label, name, options) for label in persons]
        pooled = pool([one.score for one in scored])
        seen = [row for one in scored for row in one.seen]
        dice = {
            key: round(float(np.nanmean([d for one in scored for d in one.dice[key]])), 3)
            for key in ("brain", *REGIONS_SCORED)
        }
        groups = sensitivity_by_group(seen)
        results[name] = {
            "persons": len(scored),
            "seconds": round(time.monotonic() - started),
            "score": asdict(pooled),
            "derived": {f.name: derived(pooled, f) for f in Finding},
            "region_dice": dice,
            "by_group": groups,
        }
        print(f"\n## {name}\n\n{format_score(pooled)}\n")
        print(intervals_text(pooled))
        print("Dice:", dice, "\n")
        print(group_table(groups), flush=True)
        write_text(options.out / "detection.json", json.dumps(results, indent=1) + "\n")


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


@dataclass(frozen=True, slots=True)
class Scored:
    """What one person's result is worth."""

    score: Score
    dice: dict[str, list[float]]
    seen: tuple[Seen, ...]


def score_person(label: str, subset: str, options: argparse.Namespace) -> Scored:
    """Segment a person on some of the contrasts, once for each set of weights, and score it."""
    scans_folder = options.out / "scans"
    truth, names = scans_folder / TRUTH_FOLDER, SubjectOutputs(label)
    weights = load_weights(options.weights)
    kept = options.out / "found" / weights.sha256[:12] / subset.replace(" + ", "-").lower() / label
    if not (kept / "brain.nii.gz").exists():
        scans = scans_of(label, subset, scans_folder, options.weights)
        result = segment(**scans, weights=options.weights, subject=label)
        like = result.prepared.reference
        write_map(result.findings(), like, kept / "findings.nii.gz", dtype=np.uint8)
        write_map(result.prepared.regions, like, kept / "regions.nii.gz", dtype=np.uint8)
        write_map(result.prepared.brain_mask, like, kept / "brain.nii.gz", dtype=np.uint8)
    found, regions, brain = (
        read_label_map(kept / f"{name}.nii.gz").data.astype(np.int32)
        for name in ("findings", "regions", "brain")
    )
    reference = read_label_map(truth / names.findings).data.astype(np.int32)
    drawn = json.loads((truth / parameters_name(label)).read_text(encoding="utf-8"))
    scored = Scored(
        evaluate_person(found, reference, connectivity=26, rule="any-overlap"),
        dice_of_regions(regions, brain, truth, names),
        tuple(seen_findings(drawn, found, reference)),
    )
    print(label, line_of(scored.score), flush=True)
    return scored


def scans_of(
    label: str, subset: str, folder: Path, weights: Path | None
) -> dict[str, Path | Volume]:
    """Find what `segment` is given of a person: files, or what is made of the raw echoes."""
    if subset == "raw":
        made = reconstruct(find_raw_scan(folder, label), subject=label, weights=weights)
        return {"swi": made.swi, "qsm": made.chimap}
    return {name: folder / raw_scan(label, SUFFIX[name]) for name in SUBSETS[subset]}


def parameters_name(label: str) -> Path:
    """File that describes how a person was simulated."""
    return Path(f"sub-{label}", "anat", f"sub-{label}_desc-simulation_parameters.json")


def dice_of_regions(
    regions: np.ndarray, brain: np.ndarray, truth: Path, names: SubjectOutputs
) -> dict[str, list[float]]:
    """Dice of a person's brain mask and of each nucleus, sides apart."""
    true_brain = read_label_map(truth / names.brain_mask).data > 0
    true_regions = read_label_map(truth / names.regions).data
    dice = {"brain": [dice_of(brain > 0, true_brain)]}
    for name, base in REGIONS_SCORED.items():
        numbers = (base + 100, base + 200)
        dice[name] = [dice_of(regions == number, true_regions == number) for number in numbers]
    return dice


def seen_findings(drawn: dict, found: np.ndarray, reference: np.ndarray) -> list[Seen]:
    """Tell of each true finding that a rater could see whether it was found."""
    protocol = drawn["protocol"]
    in_plane, _, slice_mm = protocol["spacing_mm"]
    components = {f: label_instances(reference == f, connectivity=26) for f in Finding}
    rows = []
    for deposit in drawn["deposits"]:
        finding, shown = FINDING_OF_KIND[Kind(deposit["kind"])], deposit["visibility"]
        if finding is None or shown is None or not (shown["seen_on_swi"] or shown["seen_on_qsm"]):
            continue
        if "voxel" not in shown:
            continue  # simulated by an earlier version, which did not keep it
        number = component_near(components[finding], tuple(shown["voxel"]))
        if number == 0:
            continue  # hidden by another finding that was drawn over it
        rows.append(
            Seen(
                finding=finding.name,
                found=bool((found[components[finding] == number] == finding).any()),
                peak_ppm=abs(shown["peak_chi_ppm"]),
                swi_fall=shown["swi_fall"],
                extent_mm3=shown["extent_mm3"],
                place=deposit["place"],
                b0_t=protocol["b0_t"],
                in_plane_mm=in_plane,
                slice_mm=slice_mm,
                inversion=protocol["chimap"]["method"],
            )
        )
    return rows


def component_near(components: np.ndarray, voxel: tuple[int, ...]) -> int:
    """Find the component at a voxel, or at most two voxels off; 0 where there is none."""
    box = tuple(slice(max(at - 2, 0), at + 3) for at in voxel)
    near = components[box]
    if not near.any():
        return 0
    middle = [at - part.start for at, part in zip(voxel, box, strict=True)]
    places = np.argwhere(near > 0)
    nearest = places[int(((places - middle) ** 2).sum(axis=1).argmin())]
    return int(near[tuple(nearest)])


def sensitivity_by_group(seen: list[Seen]) -> dict[str, dict[str, dict[str, object]]]:
    """Sensitivity of each finding in each group, with a 95 % interval (Wilson)."""
    table: dict[str, dict[str, dict[str, object]]] = {}
    for finding in Finding:
        hits: dict[str, list[bool]] = {}
        for row in seen:
            if row.finding == finding.name:
                for group in row.groups:
                    hits.setdefault(group, []).append(row.found)
        table[finding.name] = {
            group: {"n": len(h), "found": sum(h), "interval": wilson(sum(h), len(h))}
            for group, h in sorted(hits.items())
        }
    return table


def wilson(hits: int, n: int) -> tuple[float, float] | None:
    """95 % interval of a share."""
    if n == 0:
        return None
    interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return round(float(interval.low), 2), round(float(interval.high), 2)


def group_table(groups: dict[str, dict[str, dict[str, object]]]) -> str:
    """Sensitivity by group as a Markdown table, a column for each finding."""
    names = list(dict.fromkeys(group for of_one in groups.values() for group in of_one))
    lines = [f"| sensitivity | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    for name in names:
        cells = [cell_text(of_one.get(name)) for of_one in groups.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell_text(cell: dict[str, object] | None) -> str:
    """Found of all, with the interval."""
    if cell is None:
        return "-"
    low, high = cell["interval"]
    return f"{cell['found'] / cell['n']:.2f} ({cell['found']}/{cell['n']}; {low:.2f} to {high:.2f})"


def intervals_text(score: Score) -> str:
    """95 % intervals (Wilson) of sensitivity and precision, a line for each finding."""
    lines = []
    for finding in Finding:
        one = score.of(finding)
        lines.append(
            f"{finding.name}: sensitivity {wilson(one.n_detected, one.n_reference)}, "
            f"precision {wilson(one.n_correct, one.n_predicted)}"
        )
    return "\n".join(lines) + "\n"


def _range(value: float, borders: tuple[float, ...]) -> str:
    """Name of the range between borders that a value lies in."""
    above = [border for border in borders if value >= border]
    below = [border for border in borders if value < border]
    if not above:
        return f"below {below[0]:g}"
    return f"{above[-1]:g} to {below[0]:g}" if below else f"from {above[-1]:g}"


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
