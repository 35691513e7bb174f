"""Time and memory of ``deepmir evaluate`` on a cohort of whole heads.

    python benchmarks/evaluation.py --persons 100 --out work/evaluation_speed.json

makes label maps of 256 × 256 × 128 voxels for both sides (and maps of probability with
``--probabilities``), and runs the command line in a fresh process on two cores. Prints a table and
writes JSON: wall-clock and CPU seconds, peak memory, and the same for a quarter of the persons, as
memory must not grow with the cohort. Exit code 1 where a limit is exceeded.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from deepmir.io.nifti import write_map
from deepmir.volume import Modality, Volume

SHAPE = (256, 256, 128)
SPACING_MM = (0.9, 0.9, 1.5)
MAX_SECONDS, MAX_GIGABYTES = 120.0, 1.5
LESIONS_PER_PERSON = {1: 4.6, 2: 3.0, 3: 2.5}
"""Mean number of microbleeds, iron deposits and calcifications."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took."""

    persons: int
    wall_seconds: float
    cpu_seconds: float
    peak_gigabytes: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the cohort, measure, print, write."""
    given = _parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        make_cohort(Path(folder), given.persons, with_probabilities=given.probabilities)
        runs = [
            measure(Path(folder), persons, cores=given.cores, probabilities=given.probabilities)
            for persons in (max(given.persons // 4, 1), given.persons)
        ]
    print(f"deepmir evaluate, {' x '.join(map(str, SHAPE))} voxels a person, {given.cores} cores")
    print("persons  wall-clock s  CPU s  peak memory GB")
    for run in runs:
        print(
            f"{run.persons:7d}  {run.wall_seconds:12.1f}  {run.cpu_seconds:5.1f}  "
            f"{run.peak_gigabytes:14.2f}"
        )
    print(f"limits: {MAX_SECONDS:.0f} s for 100 persons, {MAX_GIGABYTES} GB")
    record = {
        "shape": SHAPE,
        "cores": given.cores,
        "probabilities": given.probabilities,
        "load_before": os.getloadavg()[0],
        "limits": {"seconds_100_persons": MAX_SECONDS, "gigabytes": MAX_GIGABYTES},
        "runs": [asdict(run) for run in runs],
    }
    given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    last = runs[-1]
    too_slow = last.wall_seconds > MAX_SECONDS * last.persons / 100
    return int(too_slow or last.peak_gigabytes > MAX_GIGABYTES)


def make_cohort(folder: Path, persons: int, *, with_probabilities: bool) -> None:
    """Write prediction and reference of each person; most lesions are on both sides."""
    random = np.random.default_rng(0)
    affine = np.diag([*SPACING_MM, 1.0])
    like = Volume(np.zeros(SHAPE, dtype=np.uint8), affine, Modality.DSEG)
    for number in range(persons):
        sides = {name: np.zeros(SHAPE, dtype=np.uint8) for name in ("reference", "prediction")}
        for finding, mean in LESIONS_PER_PERSON.items():
            for _ in range(random.poisson(mean)):
                place = _ball(random)
                for side in sides.values():
                    if random.random() < 0.85:
                        side[place] = finding
        name = f"sub-{number:03d}"
        for side, labels in sides.items():
            path = folder / side / f"{name}_desc-findings_dseg.nii.gz"
            write_map(labels, like, path, dtype=np.uint8)
        if with_probabilities:
            values = np.where(sides["prediction"] == 1, random.uniform(0.5, 1), 0.001)
            path = folder / "prediction" / f"{name}_desc-CMB_probseg.nii.gz"
            write_map(values.astype(np.float32), like, path, dtype=np.float32)


def measure(folder: Path, persons: int, *, cores: int, probabilities: bool) -> Run:
    """Run ``deepmir evaluate`` once on the first `persons` in a process of its own."""
    sides = []
    for side in ("prediction", "reference"):
        chosen = folder / f"{side}-{persons}"
        chosen.mkdir(exist_ok=True)
        for number in range(persons):
            for path in (folder / side).glob(f"sub-{number:03d}_*"):
                (chosen / path.name).symlink_to(path)
        sides.append(str(chosen))
    words = [sys.executable, "-m", "deepmir.cli", "evaluate", *sides, "--quiet"]
    words += ["--out", str(folder / f"out-{persons}")]
    words += ["--probabilities", sides[0]] if probabilities else []
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:cores])  # the child inherits it
    begin = time.perf_counter()
    process = subprocess.Popen(words)  # noqa: S603 - our own command line
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    os.sched_setaffinity(0, allowed)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("deepmir evaluate failed")
    return Run(
        persons=persons,
        wall_seconds=round(wall, 2),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        peak_gigabytes=round(usage.ru_maxrss / 2**20, 3),  # Linux counts in KiB
    )


def _ball(random: np.random.Generator) -> tuple[slice, ...]:
    """Box of a lesion of 1 to 6 voxels across, anywhere in the middle half of the head."""
    size = random.integers(1, 7, size=3)
    start = [int(random.integers(length // 4, 3 * length // 4)) for length in SHAPE]
    return tuple(slice(at, at + int(across)) for at, across in zip(start, size, strict=True))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of deepmir evaluate.")
    parser.add_argument("--persons", type=int, default=100)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--probabilities", action="store_true", help="with maps of probability")
    parser.add_argument("--out", type=Path, default=Path("work/evaluation_speed.json"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
