r"""The release in one command that goes on where it stopped: data, training, thresholds, export.

    python benchmarks/release.py --heads FOLDER --out work/release --minutes 9

    anatomies   heads with regions and nuclei                      (benchmarks/release_data.py)
    cases       training cases of heads 1 to 12
    anatomy     recipe release-anatomy, from the weights that the package holds; half of its
                samples are made of the cases
    nuclei      recipe release-nuclei, on the cases as this anatomy part sees them
    findings    recipe release-findings-hard, likewise
    mined       what this network gets wrong on the training cases (mine_false_findings.py)
    second      recipe release-findings-hard once more, with those places
    validation  whole persons of heads 13 and 14                   (detection.py)
    chosen      thresholds and calibration on these                (choose_thresholds.py)
    weights     the folder to put in the package's place, if the other benchmarks say it is better

Each stage has a folder of that name under OUT, and a file ``done`` in it when it is finished. On a
machine that is lent for minutes, call it again and again and fetch OUT in between; a GPU is used
where torch finds one. With ``--fresh 0.7`` the findings part takes that share of its patches from
cases that are simulated while it trains, and the rest from those of the stage ``cases``. Stages
that need not wait for each other may run side by side, each by a call with ``--only``:

    python benchmarks/release.py … --only anatomies
    python benchmarks/release.py … --only anatomy --anatomy-recipe release-anatomy-gpu \
                                   --case-share 0 &
    python benchmarks/release.py … --only cases findings --findings-recipe release-findings-gpu
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from deepmir.model.weights import MANIFEST_FILE, RELEASED, Part
from deepmir.simulation.cases import write_cases
from deepmir.training.export import ReleaseNotes, export_release
from deepmir.training.fit import CHECKPOINT_NAME
from deepmir.training.recipes import read_recipe
from deepmir.training.run import Mix, RunOptions, train
from release_data import (
    TRAIN_HEADS,
    TRAIN_SEED,
    VALIDATION_HEADS,
    finished_anatomy,
)
from release_weights import calibration_of, thresholds_of

HERE = Path(__file__).parent
LAST_MINUTE_S = 60.0
"""Stages that cannot be cut short are not begun with less time left."""


def main() -> int:
    """Go through the stages until all are done or the time is over."""
    options = read_options()
    deadline = time.monotonic() + 60 * options.minutes
    for name in options.only or STAGES:
        folder = options.out / name
        if (folder / "done").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        print(f"==> {name}", flush=True)
        if not STAGES[name](options, deadline):
            print(f"time is over in stage {name}; the same command goes on", flush=True)
            return 0
        (folder / "done").touch()
    print(f"done: {', '.join(options.only or STAGES)} in {options.out}")
    return 0


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(STAGES), help="these stages")
    parser.add_argument("--cases", type=int, default=96)
    parser.add_argument("--first-case", type=int, default=0, help="number of the first of them")
    parser.add_argument("--minutes", type=float, default=1e6, help="of this call")
    parser.add_argument(
        "--fresh", type=float, default=0.0, help="share of the patches of cases simulated meanwhile"
    )
    parser.add_argument(
        "--case-share", type=float, default=0.5,
        help="share of the anatomy part's samples that the stage `cases` gives",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--makers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU")
    parser.add_argument("--semi-real", type=Path, help="persons for choose_thresholds.py")
    parser.add_argument("--anatomy-recipe", default="release-anatomy")
    parser.add_argument("--findings-recipe", default="release-findings-hard")
    parser.add_argument("--anatomy-steps", type=int, help="in place of the recipe's")
    parser.add_argument("--findings-steps", type=int, help="in place of the recipe's")
    return parser.parse_args()


def make_anatomies(options: argparse.Namespace, deadline: float) -> bool:
    """Make the anatomies, one by one, until the time is over."""
    for number in (*TRAIN_HEADS, *VALIDATION_HEADS):
        if time.monotonic() > deadline:
            return False
        anatomy_of(options, number)
    return True


def anatomy_of(options: argparse.Namespace, number: int) -> Path:
    """Anatomy of a head; made where it is not there yet."""
    return finished_anatomy(options.heads, options.out / "data" / "anatomies", number)


def make_cases(options: argparse.Namespace, deadline: float) -> bool:
    """Make the training cases, some at a time, until the time is over."""
    numbers = range(options.first_case, options.first_case + options.cases)
    return simulate(options, deadline, heads=TRAIN_HEADS, numbers=numbers, seed=TRAIN_SEED)


def make_validation(options: argparse.Namespace, deadline: float) -> bool:
    """Simulate the persons that thresholds are chosen on."""
    if time.monotonic() > deadline - LAST_MINUTE_S:
        return False
    for head in VALIDATION_HEADS:
        anatomy_of(options, head)
    call(
        "detection.py", "--anatomies", options.out / "data" / "anatomies",
        "--out", options.out / "validation", "--persons", "12", "--seed", "91000",
        "--heads", *map(str, VALIDATION_HEADS), "--protocol", "random", "--simulate-only",
    )  # fmt: skip
    return True


def simulate(
    options: argparse.Namespace, deadline: float, *, heads: range, numbers: range, seed: int
) -> bool:
    """Simulate cases of some heads; says whether all are there."""
    anatomies = [anatomy_of(options, head) for head in heads]
    for start in range(0, len(numbers), options.workers):
        if time.monotonic() > deadline - LAST_MINUTE_S:
            return False
        some = numbers[start : start + options.workers]
        write_cases(
            anatomies, options.out / "data" / "cases", numbers=some, seed=seed,
            workers=options.workers,
        )  # fmt: skip
    return True


def run_training(  # noqa: PLR0913 - one keyword for each thing that the parts differ by
    options: argparse.Namespace,
    deadline: float,
    *,
    name: str,
    recipe: str,
    init: Path,
    data: str,
    mix: tuple[str, float] = ("", 0.0),
    steps: int | None = None,
) -> bool:
    """Train one part until its schedule ends or the time is over."""
    folder = options.out / "data"
    beside, share = mix
    result = train(
        read_recipe(recipe),
        folder / data,
        options.out / name,
        init=init,
        mixes=(Mix(folder / beside, share),) if share > 0 else (),
        options=RunOptions(
            minutes=max((deadline - time.monotonic() - LAST_MINUTE_S) / 60, 0.1),
            steps=steps,
            threads=options.threads,
            workers=options.workers,
            makers=options.makers,
        ),
        progress=lambda line: print(line, flush=True),
    )
    return result.finished


def train_anatomy(options: argparse.Namespace, deadline: float) -> bool:
    """Train the coarse part."""
    return run_training(
        options, deadline, name="anatomy", recipe=options.anatomy_recipe, init=RELEASED,
        data="anatomies", mix=("cases", options.case_share), steps=options.anatomy_steps,
    )  # fmt: skip


def train_nuclei(options: argparse.Namespace, deadline: float) -> bool:
    """Train the outlines of the nuclei, on boxes cut where the anatomy part finds them."""
    base = options.out / "nuclei" / "base"
    if not (base / MANIFEST_FILE).exists():
        checkpoint = options.out / "anatomy" / CHECKPOINT_NAME
        export_release({"anatomy": checkpoint}, base, ReleaseNotes(), base=RELEASED)
    return run_training(
        options, deadline, name="nuclei", recipe="release-nuclei", init=base, data="cases"
    )


def train_findings(
    options: argparse.Namespace, deadline: float, *, name: str = "findings", init: Path = RELEASED
) -> bool:
    """Train the fine part."""
    return run_training(
        options, deadline, name=name, recipe=options.findings_recipe, init=init,
        data="cases", mix=("anatomies", options.fresh), steps=options.findings_steps,
    )  # fmt: skip


def mine(options: argparse.Namespace, deadline: float) -> bool:
    """Mark the false findings of the fine part in the training cases."""
    if time.monotonic() > deadline - LAST_MINUTE_S:
        return False
    export(options, options.out / "mined", findings="findings")
    cases = options.out / "data" / "cases"
    call("mine_false_findings.py", "--cases", cases, "--weights", options.out / "mined")
    return True


def train_second(options: argparse.Namespace, deadline: float) -> bool:
    """Train the fine part once more, from the first look's weights."""
    return train_findings(options, deadline, name="second", init=options.out / "mined")


def choose(options: argparse.Namespace, deadline: float) -> bool:
    """Calibrate and choose thresholds."""
    if time.monotonic() > deadline - LAST_MINUTE_S:
        return False
    folder = options.out / "chosen"
    export(options, folder, findings="second")
    persons = options.out / "validation" / "scans"
    semi_real = [] if options.semi_real is None else ["--semi-real", options.semi_real]
    call(
        "choose_thresholds.py", "--persons", persons, "--weights", folder, "--out", folder,
        "--subsets", "swi+Chimap", "swi", "Chimap", *semi_real,
    )  # fmt: skip
    return True


def release(options: argparse.Namespace, _deadline: float) -> bool:
    """Write the weights folder with what was chosen."""
    chosen = options.out / "chosen" / "thresholds.json"
    export(options, options.out / "weights", findings="second", chosen=chosen)
    return True


def export(
    options: argparse.Namespace, out: Path, *, findings: str, chosen: Path | None = None
) -> None:
    """Write a weights folder of the present checkpoints."""
    notes = ReleaseNotes(
        code_version=version("deepmir"),
        thresholds=thresholds_of(chosen),
        calibration=calibration_of(chosen),
    )
    folders: dict[Part, str] = {"anatomy": "anatomy", "nuclei": "nuclei", "findings": findings}
    checkpoints = {part: options.out / name / CHECKPOINT_NAME for part, name in folders.items()}
    there = {part: path for part, path in checkpoints.items() if path.exists()}
    export_release(there, out, notes, base=RELEASED)


def call(program: str, *words: str | Path) -> None:
    """Run another benchmark."""
    subprocess.run([sys.executable, HERE / program, *words], check=True)  # noqa: S603


STAGES: dict[str, Callable[[argparse.Namespace, float], bool]] = {
    "anatomies": make_anatomies,
    "cases": make_cases,
    "anatomy": train_anatomy,
    "nuclei": train_nuclei,
    "findings": train_findings,
    "mined": mine,
    "second": train_second,
    "validation": make_validation,
    "chosen": choose,
    "weights": release,
}

if __name__ == "__main__":
    sys.exit(main())
