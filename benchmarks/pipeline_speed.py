"""Time and memory of ``deepmir segment``, cold start and report included.

    python benchmarks/pipeline_speed.py --scans demo/scans --out speed.json

takes a person of a simulated data set (or simulates one), pads or crops SWI and QSM to
256 × 256 × 128 voxels, and runs the command line in a fresh process on two cores. Prints a table
and writes JSON: wall-clock seconds, seconds per stage, peak memory.
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

import nibabel as nib
import numpy as np

from deepmir.io.bids import SubjectOutputs
from deepmir.simulation.cohort import simulate_cohort

SHAPE = (256, 256, 128)
MAX_SECONDS, MAX_GIGABYTES = 60.0, 3.0
SUBJECT = "speed"
SUFFIXES = {"swi": "swi", "qsm": "Chimap", "t2w": "T2w"}


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took."""

    wall_seconds: float
    cpu_seconds: float
    peak_gigabytes: float
    stages: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; exit code 1 where a limit is exceeded."""
    given = _parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        scans = given.scans or _simulated(Path(folder) / "scans")
        files = _prepare(scans, Path(folder))
        runs = [
            measure(files, Path(folder) / f"out{n}", cores=given.cores, weights=given.weights)
            for n in range(given.runs)
        ]
    _print(runs, given.cores)
    record = {
        "shape": SHAPE,
        "cores": given.cores,
        "load_before": os.getloadavg()[0],
        "limits": {"seconds": MAX_SECONDS, "gigabytes": MAX_GIGABYTES},
        "runs": [asdict(run) for run in runs],
    }
    given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    best = min(runs, key=lambda run: run.wall_seconds)
    return int(best.wall_seconds > MAX_SECONDS or best.peak_gigabytes > MAX_GIGABYTES)


def measure(files: dict[str, Path], out: Path, *, cores: int, weights: Path | None) -> Run:
    """Run ``deepmir segment`` once in a process of its own on the first `cores` cores."""
    words = [sys.executable, "-m", "deepmir.cli", "segment", "--out", str(out), "--quiet"]
    words += ["--subject", SUBJECT, "--device", "cpu"]
    words += [word for name, path in files.items() for word in (f"--{name}", str(path))]
    words += [] if weights is None else ["--weights", str(weights)]
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:cores])  # the child inherits it
    begin = time.perf_counter()
    process = subprocess.Popen(words)  # noqa: S603 - our own command line
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    os.sched_setaffinity(0, allowed)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("deepmir segment failed")
    provenance = json.loads((out / SubjectOutputs(SUBJECT).provenance).read_text(encoding="utf-8"))
    return Run(
        wall_seconds=round(wall, 2),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        peak_gigabytes=round(usage.ru_maxrss / 2**20, 3),  # Linux counts in KiB
        stages={stage["stage"]: stage["seconds"] for stage in provenance["stages"]},
    )


def fit_to(data: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pad with zeros or crop evenly to `shape`; also return where its first voxel was."""
    start = (np.array(data.shape) - shape) // 2
    source = tuple(
        slice(max(first, 0), min(first + wanted, have))
        for first, wanted, have in zip(start, shape, data.shape, strict=True)
    )
    target = tuple(
        slice(part.start - first, part.stop - first)
        for part, first in zip(source, start, strict=True)
    )
    fitted = np.zeros(shape, dtype=data.dtype)
    fitted[target] = data[source]
    return fitted, start


def _prepare(scans: Path, folder: Path) -> dict[str, Path]:
    """Write SWI and QSM of the first person on the benchmark's grid; T2w stays as it is."""
    files = {}
    for name, suffix in SUFFIXES.items():
        source = next(iter(sorted(scans.glob(f"sub-*/anat/*_{suffix}.nii.gz"))))
        image = nib.load(source)
        data, affine = image.get_fdata(dtype=np.float32), image.affine.copy()
        if name != "t2w":
            data, start = fit_to(data, SHAPE)
            affine[:3, 3] += affine[:3, :3] @ start
        files[name] = folder / f"{suffix}.nii.gz"
        nib.Nifti1Image(data, affine).to_filename(files[name])
    return files


def _simulated(folder: Path) -> Path:
    simulate_cohort(folder, subjects=1, seed=44, protocol="mesa-like")
    return folder


def _print(runs: Sequence[Run], cores: int) -> None:
    print(f"deepmir segment, {' x '.join(map(str, SHAPE))} voxels, {cores} cores")
    for number, run in enumerate(runs, start=1):
        print(f"run {number}")
        for stage, seconds in run.stages.items():
            print(f"  {stage:<12}{seconds:8.1f} s")
        rest = run.wall_seconds - sum(run.stages.values())
        print(f"  {'start, end':<12}{rest:8.1f} s")
        print(f"  {'all':<12}{run.wall_seconds:8.1f} s   limit {MAX_SECONDS:.0f} s")
        print(f"  {'CPU time':<12}{run.cpu_seconds:8.1f} s")
        print(f"  {'peak memory':<12}{run.peak_gigabytes:8.2f} GB  limit {MAX_GIGABYTES:.0f} GB")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of deepmir segment.")
    parser.add_argument("--scans", type=Path, help="simulated data set; default: simulate one")
    parser.add_argument("--out", type=Path, default=Path("pipeline_speed.json"))
    parser.add_argument("--weights", type=Path, help="another network than the released one")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
