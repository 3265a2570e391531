"""How much later a trivial flow ends under ``hpcqc run`` than as a plain Prefect script."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from benchmarks.rows import Row, timed
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
from orchestrator import classical

@classical
def one():
    return 1

@flow
def staged():
    return one()
"""
_ROUNDS = 5


def measure() -> list[Row]:
    """Run both in turn, on an empty Prefect home and on a used one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trivial.py").write_text(_TRIVIAL)
        (folder / "staged.py").write_text(_STAGED)
        cold = [_pair(folder, home=folder / f"cold-{n}") for n in range(3)]
        warm = [_pair(folder, home=folder / "warm") for n in range(_ROUNDS + 1)][1:]
        rows = [_row("cold Prefect home", cold), _row("warm Prefect home", warm)]
        firsts = [_first_stage(folder, f"first-{n}") for n in range(3)]
    rows.append(
        Row(
            name="`hpcqc run` to the first classical stage's start, warm",
            ours=f"{statistics.median(firsts):.2f} s",
            against="–",
            what="stated",
            ratio=None,
            goal="stated",
            met=None,
        )
    )
    return rows


def _row(name: str, pairs: list[tuple[float, float]]) -> Row:
    ours = statistics.median(pair[0] for pair in pairs)
    plain = statistics.median(pair[1] for pair in pairs)
    more = statistics.median(pair[0] - pair[1] for pair in pairs)
    return Row(
        name=f"trivial flow, {name}",
        ours=f"{ours:.2f} s",
        against=f"{plain:.2f} s",
        what="python trivial.py (plain Prefect)",
        ratio=ours / plain,
        goal=f"≤ 1 s more (is {more:+.2f} s)",
        met=more <= 1.0,
    )


def _pair(folder: Path, home: Path) -> tuple[float, float]:
    hpcqc = [sys.executable, "-m", "orchestrator.cli", "run", "trivial.py:trivial"]
    ours = timed(lambda: _run(folder, home / "ours", hpcqc))
    plain = timed(lambda: _run(folder, home / "plain", [sys.executable, "trivial.py"]))
    return ours, plain


def _first_stage(folder: Path, out: str) -> float:
    started = datetime.now().astimezone()
    command = [sys.executable, "-m", "orchestrator.cli", "run", "staged.py", "--out", out]
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
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    variables.pop("PREFECT_API_URL", None)
    ended = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {ended.stderr}")
