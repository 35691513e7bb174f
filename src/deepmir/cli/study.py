"""``deepmir study``: the paper's study, resumable in pieces."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from deepmir.cli import options
from deepmir.cli.train import training_part

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "deepmir study --out paper --version small --anatomy heads/01.nii.gz --anatomy heads/02.nii.gz "
    "--anatomy heads/03.nii.gz --anatomy heads/04.nii.gz --minutes 10\n\n"
    "deepmir study --out paper --version full --data study --device gpu"
)


def run(
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Cohort, runs, tables and the page.")],
    version: Annotated[
        Literal["full", "small"],
        typer.Option(
            help="`full`: single and multi, four combinations of contrasts, leave one head out "
            "(needs a GPU); `small`: multi, SWI and SWI+QSM, 4 folds, fewer epochs (CPU)."
        ),
    ] = "small",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="BIDS data set in place of the simulated cohort (see train)."
        ),
    ] = None,
    labels: options.Labels = None,
    group_by: options.GroupBy = "auto",
    anatomy: Annotated[
        list[Path] | None,
        typer.Option(
            help="Head of the simulated cohort (label map or anatomy); repeat: at least one a fold."
        ),
    ] = None,
    persons: Annotated[int, typer.Option(min=3, help="Size of the simulated cohort.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated cohort.")] = 2021,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; the next call goes on.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice.")] = 0,
    device: options.Device = None,
    weights: options.WeightsFolder = None,
    config: options.ConfigFile = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    r"""Repeat the paper's study on data that can be shared, beside the released recipe.

    Simulates a cohort like the paper's, cross-validates its recipe for every combination of
    contrasts with the same folds by head, scores it by the paper's rule, and writes the paper's
    tables and ours as one page. Stopped at any time, the same command goes on. Needs the part
    `train` (pip install 'deepmir\[train]').
    """
    _, training = training_part()
    from deepmir.study.arms import SIZES
    from deepmir.study.page import write_study
    from deepmir.study.run import StudyPlan, run_study

    size = SIZES[version]
    plan = StudyPlan(
        size=size,
        data=None
        if data is None
        else training.DataChoice(data=data, labels=labels, group_by=group_by),
        persons=persons,
        seed=seed,
        anatomies=tuple(anatomy or ()),
        weights=weights,
        config=options.resolve_config(config, device=device),
    )
    how = training.RunOptions(minutes=minutes, threads=threads, device=device or "auto")
    state = run_study(plan, out, options=how, progress=_ignore if quiet else _print_line)
    if state is None:
        print("the cohort is not whole yet; the same command goes on")
        return
    page = write_study(state, size.text, out)
    ending = "finished" if state.finished else "the same command goes on"
    print(f"{state.n_runs_done} of {state.n_runs} runs, {ending}: {page}")


def _print_line(line: str) -> None:
    print(line, flush=True)


def _ignore(line: str) -> None:
    """Show nothing."""
