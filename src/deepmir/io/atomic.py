"""Writing all or nothing: a result is complete under its final name, or it is not there.

    with stage_outputs(out, own=names, overwrite=False) as staging:
        ...                       # write staging / "sub-01" / ...; then all is moved into `out`

Names are kept relative to the output folder. Files that the caller does not own are never
touched, except data-set files (such as ``dataset_description.json``) that were staged too.
"""

import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deepmir.errors import OutputError

TEMPORARY_PREFIX = ".deepmir-"
"""Start of every temporary name; whatever bears it may be deleted when nothing runs."""


def temporary_name() -> str:
    """Short unused name; short because the final one may be as long as the disk allows."""
    return TEMPORARY_PREFIX + secrets.token_hex(6)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into one clear error.

    Raises
    ------
    OutputError
        If the disk is full, the folder is read-only, or the name is too long.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; free space or choose another folder with --out"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it; parent folders are made.

    Raises
    ------
    OutputError
        If the file cannot be written; nothing is left then.
    """
    temporary = path.parent / temporary_name()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as :func:`write_bytes` does.

    Raises
    ------
    OutputError
        If the file cannot be written; nothing is left then.
    """
    # a file name that is no valid Unicode reaches us as lone surrogates: show them escaped
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


@contextmanager
def stage_outputs(out: Path, *, own: Sequence[Path], overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder whose content is moved into `out` when the block succeeds.

    Parameters
    ----------
    out : Path
        Folder of the results; made when absent.
    own : sequence of Path
        Every file that this result may consist of, relative to `out`; the last one is the
        mark of completeness: it is removed first and put in place last.
    overwrite : bool
        Replace an earlier result: all of `own` that exists goes, also what is not written
        anew. The earlier result comes back if anything fails.

    Yields
    ------
    Path
        The temporary folder, inside `out` so that moving is renaming.

    Raises
    ------
    OutputError
        If part of the result exists and `overwrite` is false, or writing fails. As on any
        other exception, Ctrl-C included, the temporary folder is gone then.
    """
    if not overwrite:
        _refuse_existing(out, own)
    made = _make_folder(out)
    staging = out / temporary_name()
    try:
        with writing(out):
            staging.mkdir()
            yield staging
            _commit(staging, out, own)
    except BaseException:
        _remove(staging)
        _remove_empty(made)
        raise
    _remove(staging)


def _refuse_existing(out: Path, own: Sequence[Path]) -> None:
    with writing(out):
        existing = [name for name in own if (out / name).exists()]
    if existing:
        raise OutputError(
            f"{out / existing[0]} is there already ({len(existing)} files of this result); "
            "use --overwrite to replace them, or choose another folder with --out"
        )


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and its parents; return those that were new, the innermost first."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; wanted a folder for the results: choose another")
    with writing(folder):
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    return new


@dataclass(slots=True)
class _Moves:
    """Renames done so far, so that they can be undone in reverse."""

    done: list[tuple[Path, Path]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def move(self, source: Path, target: Path) -> None:
        self.folders += reversed(_make_folder(target.parent))
        # noted first: an interrupt may fall between the rename and the next line
        self.done.append((source, target))
        source.replace(target)

    def undo(self) -> None:
        for source, target in reversed(self.done):
            # a move that was noted but did not happen has its source still
            if not source.exists():
                with suppress(OSError):
                    target.replace(source)
        _remove_empty(reversed(self.folders))


def _commit(staging: Path, out: Path, own: Sequence[Path]) -> None:
    """Move the earlier result aside and the staged files in; on failure undo both."""
    staged = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    aside = staging / temporary_name()
    moves = _Moves()
    try:
        for name in [*reversed(own), *(name for name in staged if name not in own)]:
            if (out / name).exists() and not _same(staging / name, out / name):
                moves.move(out / name, aside / name)
        for name in sorted(staged, key=lambda name: name in own[-1:]):
            if not (out / name).exists():
                moves.move(staging / name, out / name)
    except BaseException:
        moves.undo()
        raise


def _same(new: Path, old: Path) -> bool:
    """Tell whether a small data-set file would not change, so that it can stay in place."""
    if not new.exists() or new.stat().st_size != old.stat().st_size:
        return False
    return new.stat().st_size < 100_000 and new.read_bytes() == old.read_bytes()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
