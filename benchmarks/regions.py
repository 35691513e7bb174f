"""Brain, regions and nuclei on simulated persons whose heads the network never saw.

    python benchmarks/regions.py --scans work/detection/scans --out work/regions.json

SCANS are folders that benchmarks/detection.py has simulated. Each person is prepared as `deepmir
segment` does, with some of the contrasts; nothing is segmented. Prints Dice with the nuclei part
and, beside it, with the anatomy part alone; sides apart, mean over persons. ``--picture`` draws
some persons with the first contrasts.
"""

import argparse
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from deepmir.config import Config, SegmentConfig
from deepmir.io.bids import SubjectOutputs, raw_scan
from deepmir.io.nifti import read_label_map, read_volume
from deepmir.labels import REGIONS, Region
from deepmir.model.predict import open_network
from deepmir.model.weights import load_weights
from deepmir.preprocessing.anatomy import find_anatomy
from deepmir.preprocessing.nuclei import BASES, with_nuclei
from deepmir.preprocessing.run import align_scans, scaled_channels
from deepmir.simulation.cohort import TRUTH_FOLDER
from deepmir.volume import Modality, Scans

SUBSETS = {
    "SWI + QSM + T2w": (True, True, True),
    "SWI + QSM": (False, True, True),
    "QSM": (False, False, True),
    "SWI": (False, True, False),
}
SUFFIX = {Modality.T2W: "T2w", Modality.SWI: "swi", Modality.CHIMAP: "Chimap"}
Dice = dict[str, float]
PUTAMEN = 22
COLOURS = ("magenta", "tab:orange", "tab:green", "tab:cyan")  # thalamus, caudate, putamen, pallidum
PERSONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One person with some of the contrasts."""

    scans: Path
    label: str
    subset: str
    weights: Path | None


def main() -> None:
    """Prepare all, print and write."""
    options = read_options()
    persons = [path for folder in options.scans for path in sorted(folder.glob("sub-*"))]
    result = {}
    for subset in options.subsets:
        jobs = [job_of(path, subset, options) for path in persons]
        with ProcessPoolExecutor(options.workers) as pool:
            rows = list(pool.map(measure, jobs))
        result[subset] = {
            name: {key: mean([row[name][key] for row in rows]) for key in rows[0][name]}
            for name in rows[0]
        }
        print(f"\n## {subset}, {len(rows)} persons\n")
        print(table(result[subset]), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if options.picture is not None:
        shown = [job_of(path, options.subsets[0], options) for path in persons[:PERSONS_SHOWN]]
        draw([outlines_of(job) for job in shown], options.picture)


def job_of(person: Path, subset: str, options: argparse.Namespace) -> Job:
    """Person in a folder of scans."""
    return Job(person.parent, person.name.removeprefix("sub-"), subset, options.weights)


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subsets", nargs="+", choices=list(SUBSETS), default=list(SUBSETS)[:2])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="PNG of three persons' outlines")
    return parser.parse_args()


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """What was found in one person, beside the truth."""

    image: np.ndarray  # (I, J, K), the Chimap as the network sees it, else the first scan there is
    spacing_mm: tuple[float, float, float]
    brain_mask: np.ndarray
    true_brain: np.ndarray
    regions: dict[str, np.ndarray]  # truth, anatomy part, nuclei part if there is one


def measure(job: Job) -> dict[str, Dice]:
    """Dice of one person, with the nuclei part (if there is one) and without."""
    found = outlines_of(job)
    brain = dice_of(found.brain_mask, found.true_brain)
    truth = found.regions["truth"]
    return {
        part: {"brain": brain, **dice_of_regions(regions, truth)}
        for part, regions in found.regions.items()
        if part != "truth"
    }


def outlines_of(job: Job) -> Outlines:
    """Prepare one person."""
    weights, config = load_weights(job.weights), Config(segment=SegmentConfig(threads=1))
    scans = read_scans(job)
    aligned, _, _ = align_scans(scans, config.preprocess)
    anatomy = find_anatomy(aligned, open_network(weights, "anatomy", config.segment))
    channels = scaled_channels(aligned, anatomy.brain_mask, config.preprocess)
    truth, names = job.scans / TRUTH_FOLDER, SubjectOutputs(job.label)
    regions = {
        "truth": read_label_map(truth / names.regions).data,
        "anatomy part": anatomy.regions,
    }
    spacing_mm = aligned.reference.grid.spacing_mm
    if weights.has("nuclei"):
        outlines = open_network(weights, "nuclei", config.segment)
        drawn = with_nuclei(anatomy, channels, scans.present, spacing_mm, outlines)
        regions["nuclei part"] = drawn.regions
    return Outlines(
        image=channels[2 if scans.present[2] else scans.present.index(True)],
        spacing_mm=spacing_mm,
        brain_mask=anatomy.brain_mask,
        true_brain=read_label_map(truth / names.brain_mask).data > 0,
        regions=regions,
    )


def read_scans(job: Job) -> Scans:
    """Read the contrasts of a person that are asked for."""
    t2w, swi, chimap = (
        read_volume(job.scans / raw_scan(job.label, SUFFIX[modality]), modality)[0]
        if given
        else None
        for modality, given in zip(SUFFIX, SUBSETS[job.subset], strict=True)
    )
    return Scans(t2w=t2w, swi=swi, chimap=chimap)


def dice_of_regions(found: np.ndarray, truth: np.ndarray) -> Dice:
    """Dice of each region, the mean of both sides; no number where the scan does not show it."""
    return {
        region.name: mean([dice_of(found == n, truth == n) for n in numbers_of(region)])
        for region in REGIONS
    }


def numbers_of(region: Region) -> Iterator[int]:
    """Numbers of a region in a map: one a side."""
    for offset in (100, 200) if region.paired else (0,):
        yield region.base + offset


def dice_of(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two masks; no number where the second is empty."""
    n = int(second.sum())
    return 2 * int((first & second).sum()) / (int(first.sum()) + n) if n else float("nan")


def draw(persons: list[Outlines], path: Path) -> None:
    """Draw true and found outlines, a row each person, where putamina are largest."""
    columns = len(persons[0].regions)
    size = (4 * columns, 4 * len(persons))
    figure, axes = plt.subplots(len(persons), columns, figsize=size, squeeze=False)
    for row, person in zip(axes, persons, strict=True):
        putamen = person.regions["truth"] % 100 == PUTAMEN
        nuclei = np.argwhere(np.isin(person.regions["truth"] % 100, BASES))
        low, high = np.maximum(nuclei.min(axis=0) - 12, 0), nuclei.max(axis=0) + 12
        cut = (slice(low[0], high[0]), slice(low[1], high[1]), int(putamen.sum((0, 1)).argmax()))
        image = person.image[cut].T
        step_i, step_j, _ = person.spacing_mm
        for axis, (name, regions) in zip(row, person.regions.items(), strict=True):
            low_grey, high_grey = np.percentile(image, (1, 99))
            axis.imshow(
                image, cmap="gray", origin="lower", vmin=low_grey, vmax=high_grey,
                aspect=step_j / step_i,
            )  # fmt: skip
            for base, colour in zip(BASES, COLOURS, strict=True):
                axis.contour((regions[cut] % 100 == base).T, [0.5], colors=colour, linewidths=1)
            axis.set_title(name)
            axis.axis("off")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60)


def mean(values: list[float]) -> float:
    """Mean of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return round(float(np.mean(known)), 3) if known else float("nan")


def table(result: dict[str, Dice]) -> str:
    """Return a line a region, a column a part of the network."""
    nuclei = [region.name for region in REGIONS if region.base in BASES]
    order = ["brain", *nuclei, *(r.name for r in REGIONS if r.name not in nuclei)]
    lines = [f"| Dice | {' | '.join(result)} |", "|---|" + "---|" * len(result)]
    lines += [
        f"| {key} | {' | '.join(f'{row[key]:.3f}' for row in result.values())} |" for key in order
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
