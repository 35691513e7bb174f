"""What is shown on a terminal and what in a pipe."""

import io
import sys

import pytest

from deepmir.cli import _reflow, console
from deepmir.cli.options import resolve_config
from deepmir.errors import ConfigError


class Terminal(io.StringIO):
    """A text that says it is a terminal."""

    def isatty(self):
        """Say so."""
        return True


def test_plain_lines_name_each_stage_once(capsys):
    with console.show_progress(quiet=False) as progress:
        for stage, fraction in (("read", 0.0), ("read", 0.5), ("segment", 0.1), ("segment", 1.0)):
            progress(stage, fraction)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("] ")[1] for line in lines] == ["read", "segment"]


def test_quiet_shows_nothing(capsys):
    with console.show_progress(quiet=True) as progress:
        progress("read", 0.5)
    assert capsys.readouterr() == ("", "")


def test_bars_move_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.show_progress(quiet=False) as progress:
        progress("read", 0.5)
        progress("segment", 0.2)
    shown = terminal.getvalue()
    assert "read" in shown
    assert "segment" in shown
    assert "\x1b[" in shown


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_table_holds_every_cell_literally(stream, monkeypatch):
    shown = stream()
    monkeypatch.setattr(sys, "stdout", shown)
    console.show_table("title", ("what", "n"), [("part [train]", "3"), ("longer name", "n/a")])
    for words in ("title", "what", "part [train]", "3", "longer name", "n/a"):
        assert words in shown.getvalue()


def test_a_piped_table_is_aligned(capsys):
    console.show_table("t", ("finding", "n"), [("CMB", "12")])
    assert capsys.readouterr().out == "t\nfinding  n\nCMB      12\n"


def test_the_command_line_goes_over_the_file(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("[segment]\ndevice = 'gpu'\noverlap = 0.5\n")
    assert resolve_config(path, device=None).segment.device == "gpu"
    resolved = resolve_config(path, device="cpu")
    assert (resolved.segment.device, resolved.segment.overlap) == ("cpu", 0.5)
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        resolve_config(tmp_path / "absent.toml", device=None)


def test_paragraphs_are_joined_and_kept_apart():
    assert _reflow("One\n    two.\n\n    Three.\n") == "One two.\n\nThree."
