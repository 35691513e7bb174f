"""All or nothing: what is left behind after success, failure, Ctrl-C and a full disk."""

import errno
from pathlib import Path

import pytest

from deepmir.errors import InputError, OutputError
from deepmir.io import atomic
from deepmir.io.atomic import stage_outputs, write_bytes, write_text

OWN = (Path("sub-01/anat/a.txt"), Path("sub-01.html"), Path("sub-01/anat/done.json"))


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text; a folder without files shows up as well."""
    return {
        path.relative_to(folder).as_posix(): path.read_text() if path.is_file() else "(folder)"
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


def write_result(staging: Path, text: str, names: tuple[Path, ...] = OWN) -> None:
    for name in (*names, Path("dataset_description.json")):
        write_text(staging / name, "shared" if name.stem.startswith("dataset") else text)


def finish(out: Path, text: str, names: tuple[Path, ...] = OWN, *, overwrite: bool = False) -> None:
    with stage_outputs(out, own=OWN, overwrite=overwrite) as staging:
        write_result(staging, text, names)


def fail_after_writing(out: Path, failure: BaseException, *, overwrite: bool) -> None:
    with stage_outputs(out, own=OWN, overwrite=overwrite) as staging:
        write_result(staging, "half")
        raise failure


def complete(text: str) -> dict[str, str]:
    return {"dataset_description.json": "shared"} | {name.as_posix(): text for name in OWN}


# ---- one file --------------------------------------------------------------


def test_a_file_is_written_with_its_folders(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"\x00\x01")
    write_text(tmp_path / "d.txt", "χ µ\n")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"\x00\x01"
    assert (tmp_path / "d.txt").read_bytes() == "χ µ\n".encode()


def test_a_file_may_have_the_longest_name_the_disk_allows(tmp_path):
    write_text(tmp_path / ("x" * 255), "text")
    assert (tmp_path / ("x" * 255)).read_text() == "text"


def test_an_undecodable_file_name_can_be_written_down(tmp_path):
    write_text(tmp_path / "names.json", '"scan\udcff.nii"')
    assert (tmp_path / "names.json").read_text() == r'"scan\udcff.nii"'


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")

    def interrupted(_self, _target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "new")
    assert tree(tmp_path) == {"a.txt": "old"}


def test_a_full_device_is_told():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(OutputError, match=r"cannot write /dev/full: No space left"),
        atomic.writing(full),
    ):
        full.write_bytes(b"x")


# ---- success ---------------------------------------------------------------


def test_a_result_appears_whole(tmp_path):
    out = tmp_path / "new" / "out"
    with stage_outputs(out, own=OWN, overwrite=False) as staging:
        assert staging.parent == out
        write_result(staging, "first")
        assert [path.name for path in out.iterdir()] == [staging.name]
    assert tree(out) == complete("first")


def test_two_persons_share_a_folder(tmp_path):
    finish(tmp_path, "first")
    before = (tmp_path / "dataset_description.json").stat()
    own = (Path("sub-02/anat/a.txt"), Path("sub-02.html"))
    with stage_outputs(tmp_path, own=own, overwrite=False) as staging:
        write_result(staging, "second", own)
    assert tree(tmp_path) == complete("first") | {str(name): "second" for name in own}
    assert (tmp_path / "dataset_description.json").stat().st_ino == before.st_ino


def test_overwriting_replaces_this_person_only(tmp_path):
    finish(tmp_path, "first")
    others = {"sub-02.html": "other", "sub-01/anat/by-hand.txt": "kept"}
    for name, text in others.items():
        write_text(tmp_path / name, text)
    finish(tmp_path, "second", OWN[1:], overwrite=True)
    expected = complete("second") | others
    del expected["sub-01/anat/a.txt"]  # not part of the new result
    assert tree(tmp_path) == expected


def test_overwriting_where_nothing_is_works(tmp_path):
    finish(tmp_path, "first", overwrite=True)
    assert tree(tmp_path) == complete("first")


def test_the_mark_of_completeness_goes_first_and_comes_last(tmp_path, monkeypatch):
    finish(tmp_path, "first")
    moved: list[str] = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        moved.append(target.name)
        return replace(self, target)

    with stage_outputs(tmp_path, own=OWN, overwrite=True) as staging:
        write_result(staging, "second")
        monkeypatch.setattr(Path, "replace", spy)
    assert (moved[0], moved[-1]) == ("done.json", "done.json")
    assert len(moved) == 6


# ---- refusal and failure ---------------------------------------------------


@pytest.mark.parametrize("name", OWN)
def test_an_existing_result_is_refused(tmp_path, name):
    write_text(tmp_path / name, "old")
    with pytest.raises(OutputError, match=rf"{name} is there already.*--overwrite"):
        finish(tmp_path, "new")
    assert tree(tmp_path) == {name.as_posix(): "old"}


@pytest.mark.parametrize(
    "failure", [InputError("bad scan"), KeyboardInterrupt(), RuntimeError("bug"), SystemExit(1)]
)
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_failure_leaves_no_trace(tmp_path, failure, overwrite):
    out = tmp_path / "deep" / "out"
    with pytest.raises(type(failure)):
        fail_after_writing(out, failure, overwrite=overwrite)
    assert tree(tmp_path) == {}


def test_a_failure_keeps_the_old_result(tmp_path):
    finish(tmp_path, "first")
    with pytest.raises(KeyboardInterrupt):
        fail_after_writing(tmp_path, KeyboardInterrupt(), overwrite=True)
    assert tree(tmp_path) == complete("first")


@pytest.mark.parametrize("n_moves", range(7))
@pytest.mark.parametrize("late", [False, True])
def test_a_failure_while_moving_restores_the_old_result(tmp_path, monkeypatch, n_moves, late):
    finish(tmp_path, "first")
    replace, count = Path.replace, iter(range(100))

    def failing(self: Path, target: Path) -> Path:
        at = next(count)
        if at == n_moves and not late:
            raise KeyboardInterrupt
        moved = replace(self, target)
        if at == n_moves:
            raise KeyboardInterrupt
        return moved

    def finish_interrupted() -> None:
        with stage_outputs(tmp_path, own=OWN, overwrite=True) as staging:
            write_result(staging, "second")
            write_text(staging / "new" / "shared.txt", "new")
            monkeypatch.setattr(Path, "replace", failing)

    with pytest.raises(KeyboardInterrupt):
        finish_interrupted()
    assert tree(tmp_path) == complete("first")


def test_a_full_disk_in_the_block_is_told(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match=r"cannot write .*out: No space left.*--out"):
        fail_after_writing(tmp_path / "out", full, overwrite=False)
    assert tree(tmp_path) == {}


def test_a_read_only_folder_is_told(tmp_path, monkeypatch):
    def read_only(_self, *_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OutputError, match=r"cannot write .*Permission denied"):
        finish(tmp_path, "first")
    assert tree(tmp_path) == {}


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="is a file; wanted a folder"):
        finish(tmp_path / "out", "first")
    with pytest.raises(OutputError, match=r"cannot write|is a file"):
        finish(tmp_path / "out" / "below", "first")


def test_a_path_that_no_disk_can_hold_is_told(tmp_path):
    with pytest.raises(OutputError, match="too long"):
        finish(tmp_path / ("x" * 300), "first")
