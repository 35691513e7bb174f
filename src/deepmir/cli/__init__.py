"""The command line: a thin skin over the library, one small file a verb.

Exit codes: 0 all went well; 1 something unforeseen, or some persons of many failed; 2 the
usage or an input was wrong; 130 interrupted by Ctrl-C. One message on standard error names
the file concerned; a traceback appears only with ``--verbose``.
"""

import inspect
import io
import sys
import traceback
from collections.abc import Sequence

import typer

from deepmir.cli import (
    demo,
    evaluate,
    export_nnunet,
    info,
    measure,
    predict,
    reconstruct,
    segment,
    simulate,
    study,
    train,
)
from deepmir.errors import DeepmirError

_FAILED, _WRONG_INPUT, _INTERRUPTED = 1, 2, 130


def _reflow(text: str) -> str:
    """Join the lines of each paragraph, so that the terminal's width breaks them."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


app = typer.Typer(
    name="deepmir",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Find, measure and locate cerebral microbleeds, iron deposits and calcifications on SWI, "
        "QSM and T2w scans. For research only, not for diagnosis."
    ),
    epilog=(
        "New here? [bold]deepmir demo[/bold] simulates a person, finds the findings and writes a "
        "report to look at. Then: [bold]deepmir segment --help[/bold]."
    ),
)

for _verb in (
    segment, measure, reconstruct, demo, simulate, evaluate, train, predict, export_nnunet, study,
    info,
):  # fmt: skip
    app.command(
        _verb.__name__.rpartition(".")[2].replace("_", "-"),
        help=_reflow(_verb.run.__doc__ or ""),
        epilog=_verb.EXAMPLES,
    )(_verb.run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing is raised.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after ``deepmir``; those of the process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _print_any_file_name()
    try:
        app(args=words, prog_name="deepmir")
    except SystemExit as ended:
        return _exit_code(ended)
    except KeyboardInterrupt:
        return _exit_code(SystemExit(_INTERRUPTED))
    except DeepmirError as error:
        _complain(error, verbose="--verbose" in words, hint="")
        return _WRONG_INPUT
    except Exception as error:  # noqa: BLE001 - the last net: one line instead of a traceback
        hint = "" if "--verbose" in words else " (--verbose shows where)"
        _complain(error, verbose="--verbose" in words, hint=hint)
        return _FAILED
    return 0


def _exit_code(ended: SystemExit) -> int:
    code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    if code == _INTERRUPTED:
        print("deepmir: interrupted; nothing half-written was left behind", file=sys.stderr)
    return code


def _complain(error: Exception, *, verbose: bool, hint: str) -> None:
    if verbose:
        traceback.print_exception(error)
    text = str(error) if isinstance(error, DeepmirError) else f"{type(error).__name__}: {error}"
    print(f"deepmir: {_one_line(text)}{hint}", file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())


def _print_any_file_name() -> None:
    """Let a file name that is no valid text be printed, escaped, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
