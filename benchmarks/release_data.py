"""Data that the released network trains on: finished anatomies, then simulated cases.

    python benchmarks/release_data.py --heads FOLDER --out cache --cases 60

FOLDER holds label maps ``anatomy_01.nii.gz`` … with FreeSurfer numbers. Heads 1 to 12 make the
training cases, 13 and 14 the validation cases; 15 and 16 are only brought into the form that
benchmarks/detection.py reads. Resumes: what is there is kept. Then:

    deepmir train --recipe release-anatomy --data cache/anatomies --out runs/anatomy
    deepmir train --recipe release-findings --data cache/cases --out runs/findings
    python benchmarks/release_weights.py --runs runs --out src/deepmir/weights/released
"""

import argparse
from pathlib import Path

from deepmir.simulation.anatomy import read_anatomy, save_anatomy
from deepmir.simulation.cases import write_cases

TRAIN_HEADS, VALIDATION_HEADS, TEST_HEADS = range(1, 13), range(13, 15), range(15, 17)
TRAIN_SEED, VALIDATION_SEED, FIRST_VALIDATION = 1000, 0, 90000
N_VALIDATION = 24


def main() -> None:
    """Make anatomies, then cases."""
    options = read_options()
    anatomies = {
        number: finished_anatomy(options.heads, options.out / "anatomies", number)
        for number in (*TRAIN_HEADS, *VALIDATION_HEADS, *TEST_HEADS)
    }
    write_cases(
        [anatomies[number] for number in VALIDATION_HEADS],
        options.out / "cases",
        numbers=range(FIRST_VALIDATION, FIRST_VALIDATION + N_VALIDATION),
        seed=VALIDATION_SEED,
        workers=options.workers,
        progress=print_progress,
    )
    write_cases(
        [anatomies[number] for number in TRAIN_HEADS],
        options.out / "cases",
        numbers=range(options.cases),
        seed=TRAIN_SEED,
        workers=options.workers,
        progress=print_progress,
    )


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def finished_anatomy(heads: Path, out: Path, number: int) -> Path:
    """Anatomy of a head with regions and nuclei; made once."""
    path = out / f"head_{number:02d}.npz"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        save_anatomy(read_anatomy(heads / f"anatomy_{number:02d}.nii.gz"), path)
        print(f"head {number}", flush=True)
    return path


def print_progress(done: int, total: int) -> None:
    """Say how far it is."""
    print(f"case {done} of {total}", flush=True)


if __name__ == "__main__":
    main()
