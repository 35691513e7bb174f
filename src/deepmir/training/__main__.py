"""``python -m deepmir.training``: train and release without the command line of the package."""

import argparse
import sys
from pathlib import Path

from deepmir.errors import DeepmirError
from deepmir.training.fit import RunOptions
from deepmir.training.recipes import read_recipe
from deepmir.training.run import train


def main(arguments: list[str] | None = None) -> int:
    """Parse arguments, train, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deepmir.training", description=main.__doc__)
    parser.add_argument("recipe", help="release-anatomy, release-findings or a TOML file")
    parser.add_argument("data", type=Path, help="folder of anatomies or of simulated cases")
    parser.add_argument("out", type=Path, help="folder of checkpoint and log")
    parser.add_argument("--init", type=Path, help="folder of released weights to start from")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args(arguments)
    options = RunOptions(
        minutes=given.minutes,
        steps=given.steps,
        resume=given.resume,
        threads=given.threads,
        device=given.device,
    )
    try:
        result = train(
            read_recipe(given.recipe), given.data, given.out,
            init=given.init, options=options, progress=_say,
        )  # fmt: skip
    except DeepmirError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    _say(f"stopped at step {result.step} of {result.steps}: {result.checkpoint}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
