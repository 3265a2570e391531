"""How long small work takes from the shell: a trivial flow and one circuit, beside plain scripts."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from benchmarks.environments import PATIENT
from benchmarks.rows import Row, peer_failed, timed
from benchmarks.setting import ROOT

__all__ = ["measure"]

_TRIVIAL = """
from prefect import flow

@flow
def trivial():
    return 1

if __name__ == "__main__":
    trivial()
"""
_STAGED = """
from prefect import flow
from hpcqc import classical

@classical
def one():
    return 1

@flow
def staged():
    return one()
"""
_BELL = """
OPENQASM 2.0;
include "qelib1.inc";
qreg q[2];
creg c[2];
h q[0];
cx q[0], q[1];
measure q -> c;
"""
_PLAIN_BELL = """
from qiskit import qasm2
from qiskit_aer.primitives import SamplerV2

circuit = qasm2.load("bell.qasm")
print(SamplerV2(seed=1).run([circuit], shots=1024).result()[0].data.c.get_counts())
"""
_CLI = (sys.executable, "-m", "orchestrator.cli")
_ROUNDS = 5
_COLD_ROUNDS = 3


def measure() -> list[Row]:
    """Run each in turn with what a user would run instead."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = {"trivial.py": _TRIVIAL, "staged.py": _STAGED}
        texts |= {"bell.qasm": _BELL, "bell.py": _PLAIN_BELL}
        for file, text in texts.items():
            (folder / file).write_text(text)
        cold = [_flow_pair(folder, folder / f"cold-{n}") for n in range(_COLD_ROUNDS)]
        warm = [_flow_pair(folder, folder / "warm") for _ in range(_ROUNDS + 1)][1:]
        rows = [
            _row("trivial flow, cold Prefect home", cold, _PREFECT, 0.5),
            _row("trivial flow, warm Prefect home", warm, _PREFECT, 0.5),
            _beside_agent(folder),
            _row("one circuit", [_sample_pair(folder) for _ in range(_ROUNDS + 1)][1:], _AER, 1.3),
        ]
        helps = [
            timed(lambda: _run(folder, folder / "help", [*_CLI, "--help"])) for _ in range(_ROUNDS)
        ]
        firsts = [_first_stage(folder, f"first-{n}") for n in range(_COLD_ROUNDS)]
    rows.append(_stated("`hpcqc --help`", helps))
    rows.append(_stated("`hpcqc run` to the first classical stage's start, warm", firsts))
    return rows


def _stated(name: str, times: list[float]) -> Row:
    return Row(
        name=name,
        ours=f"{statistics.median(times):.2f} s",
        against="–",
        what="stated",
        ratio=None,
        goal="stated",
        met=None,
    )


_PREFECT = "python trivial.py (plain Prefect)"
_AER = "python bell.py (Qiskit and Aer)"


def _row(name: str, pairs: list[tuple[float, float | None]], what: str, most: float) -> Row:
    ours = statistics.median(pair[0] for pair in pairs)
    both = [(mine, theirs) for mine, theirs in pairs if theirs is not None]
    if not both:
        return peer_failed(name, f"{ours:.2f} s", what)
    ratio = statistics.median(mine / theirs for mine, theirs in both)
    return Row(
        name=name,
        ours=f"{ours:.2f} s",
        against=f"{statistics.median(theirs for _, theirs in both):.2f} s",
        what=what,
        ratio=ratio,
        goal=f"≤ {most:g}",
        met=ratio <= most,
    )


def _flow_pair(folder: Path, home: Path) -> tuple[float, float | None]:
    """Time both once; None for plain Prefect where it failed."""
    ours = timed(lambda: _run(folder, home / "ours", [*_CLI, "run", "trivial.py:trivial"]))
    try:
        return ours, timed(lambda: _run(folder, home / "plain", [sys.executable, "trivial.py"]))
    except RuntimeError as error:
        print(f"plain Prefect {str(error)[-2000:]}", file=sys.stderr)
        return ours, None


def _sample_pair(folder: Path) -> tuple[float, float | None]:
    sample = [*_CLI, "sample", "bell.qasm", "--seed", "1"]
    ours = timed(lambda: _run(folder, folder / "samples", sample))
    return ours, timed(lambda: _run(folder, folder / "samples", [sys.executable, "bell.py"]))


def _beside_agent(folder: Path) -> Row:
    home = folder / "agent" / "ours"
    _run(folder, home, [*_CLI, "agent", "start"])
    try:
        pairs = [_flow_pair(folder, home.parent) for _ in range(_ROUNDS + 1)][1:]
    finally:
        _run(folder, home, [*_CLI, "agent", "stop"])
    return _row("trivial flow, beside a running agent", pairs, _PREFECT, 0.25)


def _first_stage(folder: Path, out: str) -> float:
    started = datetime.now().astimezone()
    command = [*_CLI, "run", "staged.py", "--out", out]
    _run(folder, folder / "warm" / "ours", command)
    record = json.loads((folder / out / "run.json").read_text())
    stages = record["stages"]
    return (datetime.fromisoformat(stages[-1]["started_at"]) - started).total_seconds()


def _run(folder: Path, home: Path, command: list[str]) -> None:
    home.parent.mkdir(exist_ok=True)  # Prefect makes its home, but no folders above
    variables = os.environ | {
        "PREFECT_HOME": str(home),
        "HPCQC_STATE_DIR": str(home / "hpcqc"),
        "PYTHONPATH": str(ROOT),
        **PATIENT,
    }
    variables.pop("PREFECT_API_URL", None)
    ended = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {ended.stderr}")
