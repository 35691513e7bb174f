"""The paper's study in pieces of ten minutes, until it is finished.

    python benchmarks/paper_study.py --shared ../shared/data --out work/paper --version small

Every piece is a process of its own, so that a machine that is taken away costs ten minutes at
most; the same command goes on where it stopped. Heads are the label maps 01 to 12, so that two
persons share one and a fold leaves out a head. Prints the table that the page shows, too.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from deepmir.io.tables import read_table

HEADS = tuple(range(1, 13))
PIECE_MINUTES = 10


def main() -> None:
    """Run pieces until one says that the study is finished."""
    given = read_options()
    while True:
        piece = subprocess.run(command(given), check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
        print(piece.stdout, end="", flush=True)
        if ", finished: " in piece.stdout or given.once:
            break
    table = read_table(given.out / "tables.tsv")
    for row in (table.columns, *table.rows):
        print("\t".join(str(value) for value in row))


def command(given: argparse.Namespace) -> list[str]:
    """Return the words of one piece."""
    heads = [given.shared / "anatomy_labels" / f"anatomy_{n:02d}.nii.gz" for n in HEADS]
    words = [
        sys.executable, "-m", "deepmir.cli", "study", "--out", str(given.out),
        "--version", given.version, "--minutes", str(PIECE_MINUTES), "--device", given.device,
    ]  # fmt: skip
    if given.data is not None:
        return [*words, "--data", str(given.data)]
    return [*words, *(word for head in heads for word in ("--anatomy", str(head)))]


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--data", type=Path, help="BIDS data set in place of the simulated cohort")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--version", choices=("full", "small"), default="small")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--once", action="store_true", help="one piece only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
