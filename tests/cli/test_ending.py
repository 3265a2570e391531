"""How a command's process ends: every exit handler runs, and nothing is taken apart after them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.cli.interrupts import interrupt_behind
from tests.architecture.source import ROOT

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


def test_an_interrupted_run_is_closed_although_nobody_reads_its_errors(tmp_path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.cli.interrupts import end_after\n"
        "end_after(KeyboardInterrupt(), 'ending', Path('closed').touch, Path('recorded').touch,\n"
        "          left=lambda: 'a job is left')\n"
    )
    # As in `hpcqc run … 2>&1 | tee log`: Ctrl-C ends tee, too.
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as stderr:
        ended = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=stderr,
            check=False,
        )
    assert ended.returncode == 130
    assert {path.name for path in tmp_path.iterdir()} == {"closed", "recorded"}
