"""Signals to a command at any moment: one line, its exit code, and never a traceback."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.architecture.source import ROOT
from tests.patience import PATIENCE_S, until

FLOW = """
from prefect import flow
from hpcqc import classical

@classical
def one(number):
    return number + 1

@flow
def small(number: int = 1):
    return one.submit(number).result()
"""
SLURM_SITE = """
[site]
name = "batch"
[compute.nodes]
kind = "slurm"
options = { partition = "p" }
"""
# It sends itself a signal when it looks for the n-th module.
AT_AN_IMPORT = """
import os, sys
from pathlib import Path

at, number = int(sys.argv.pop(1)), int(sys.argv.pop(1))

class Sender:
    looked_for = 0

    def find_spec(self, name, path=None, target=None):
        Sender.looked_for += 1
        if Sender.looked_for == at:
            Path("sent").write_text(name)
            os.kill(os.getpid(), number)

from orchestrator.cli import main
sys.argv[0] = "hpcqc"
sys.meta_path.insert(0, Sender())
main()
"""
# Python drops what is raised where an object is destroyed, and prints it.
IN_A_DESTRUCTOR = """
import os, signal, sys
from pathlib import Path
from orchestrator.cli import run_alone

Path("module_that_ends.py").write_text('''
import os, signal

class Part:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000):
            pass

part = Part()
del part
print("imported", flush=True)
''')
sys.path.insert(0, ".")

def command():
    import module_that_ends
    import time
    for _ in range(1000):
        time.sleep(0.01)
    return 0

run_alone(command)
"""


# A second signal comes while the first one waits for the end of an import.
LONG_MODULE = """
import os, signal
print("first", flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("second", flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("third", flush=True)
"""
TWICE = """
import sys
sys.path.insert(0, ".")
from orchestrator.cli import run_alone

def command():
    import long_module
    return 0

run_alone(command)
"""


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "HPCQC_STATE_DIR": str(folder / "state")}


def prepared(folder: Path) -> Path:
    (folder / "small.py").write_text(FLOW)
    (folder / "site.toml").write_text(SLURM_SITE)
    return folder


def line_of(number: signal.Signals) -> str:
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    return f"Error: {words[number]}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("command", "at"),
    [
        *(("qpu list", at) for at in (1, 7, 40, 150)),
        *(pytest.param("run small.py", at, marks=pytest.mark.slow) for at in (400, 900, 1500)),
    ],
)
def test_a_signal_during_an_import_ends_the_command(tmp_path, command, at, number) -> None:
    prepared(tmp_path)
    ended = ended_process(tmp_path, "-c", AT_AN_IMPORT, str(at), str(int(number)), *command.split())
    assert (tmp_path / "sent").exists(), "the command imports less than that"
    assert ended.returncode == 128 + number, ended.stderr
    assert one_line(ended.stderr).startswith(line_of(number))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_python_would_lose_in_an_import_is_raised_after_it(tmp_path, name) -> None:
    ended = ended_process(tmp_path, "-c", IN_A_DESTRUCTOR.replace("{name}", name))
    number = signal.Signals[name]
    assert ended.returncode == 128 + number
    assert ended.stdout == "imported\n"
    assert ended.stderr == f"{line_of(number)}\n"


def test_a_second_signal_ends_an_import_that_takes_long(tmp_path) -> None:
    (tmp_path / "long_module.py").write_text(LONG_MODULE)
    ended = ended_process(tmp_path, "-c", TWICE)
    assert ended.returncode == 130
    assert ended.stdout == "first\nsecond\n"
    assert ended.stderr == "Error: interrupted\n"


def test_a_signal_that_is_ignored_stays_ignored(tmp_path) -> None:
    code = (
        "import os, signal\n"
        "for n in (signal.SIGINT, signal.SIGHUP): signal.signal(n, signal.SIG_IGN)\n"
        "from orchestrator.cli import run_alone\n"
        "def command():\n"
        "    for n in (signal.SIGINT, signal.SIGHUP): os.kill(os.getpid(), n)\n"
        "    return 3\n"
        "run_alone(command)\n"
    )
    ended = ended_process(tmp_path, "-c", code)
    assert (ended.returncode, ended.stderr) == (3, "")


# Bounded: 60 starts in all. The delay begins where the command can have handlers at all.
@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["qpu list", "config show --json", "plan small.py --site site.toml", "run small.py", "runs"],
)
def test_ctrl_c_at_any_moment(tmp_path, command) -> None:
    prepared(tmp_path)
    undisturbed = ended_process(tmp_path, "-m", "orchestrator.cli", *command.split())
    delays = random.Random(command)  # the same in each session
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", *command.split()],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda p=process: p.poll() is not None or handles_sigterm(p.pid), pause_s=0.001)
        time.sleep(delays.uniform(0.0, 1.5))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (130, undisturbed.returncode), err
        assert "Traceback" not in out + err
        assert "Exception ignored" not in err
        if process.returncode == 130:
            *said, last = err.strip().splitlines()
            assert last.startswith("Error: interrupted")
            # The signal may come when the command has said why it fails, and is about to end.
            assert said in ([], undisturbed.stderr.strip().splitlines())


def handles_sigterm(process: int) -> bool:
    """Whether a process has a handler for SIGTERM, which Python alone does not set."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def ended_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def one_line(err: str) -> str:
    (line,) = err.strip().splitlines()
    return line
