"""How a command's process ends: every exit handler runs, and nothing is taken apart after them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.cli.interrupts import interrupt_behind

_SCRIPT = """
import atexit, os, sys

class Part:
    def __del__(self, write=os.write):
        write(1, b"taken apart\\n")

class Late:
    # registers a handler when the command imports its first module
    def find_spec(self, name, path=None, target=None):
        if name == "orchestrator.cli.streams":
            atexit.register(print, "late handler")

part = Part()
sys.meta_path.insert(0, Late())
sys.argv = ["hpcqc", *sys.argv[1:]]
{before}
from orchestrator.cli import main
main()
"""


def _end(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    script = _SCRIPT.format(before=before)
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("arguments", "code"), [(("--version",), 0), (("--nosuch",), 2)])
def test_exit_handlers_run_and_nothing_is_taken_apart(
    arguments: tuple[str, ...], code: int
) -> None:
    ended = _end(*arguments)
    assert ended.returncode == code
    assert "late handler" in ended.stdout
    assert "taken apart" not in ended.stdout


def test_a_tool_that_watches_the_process_gets_its_end() -> None:
    ended = _end("--version", before='atexit.register(print, "watcher")')
    assert ended.stdout.splitlines()[-3:] == ["late handler", "watcher", "taken apart"]
    assert ended.returncode == 0


def test_errors_that_refer_to_each_other_hide_no_interrupt_and_stop_nothing() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__context__ = other, one
    assert interrupt_behind(one) is None
    stopped = KeyboardInterrupt()
    other.__cause__ = stopped
    assert interrupt_behind(one) is stopped
