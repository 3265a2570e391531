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


def _row(name: str, pairs: list[tuple[float, float | None]]) -> Row:
    name, what = f"trivial flow, {name}", "python trivial.py (plain Prefect)"
    ours = statistics.median(pair[0] for pair in pairs)
    both = [(mine, theirs) for mine, theirs in pairs if theirs is not None]
    if not both:
        return peer_failed(name, f"{ours:.2f} s", what)
    plain = statistics.median(theirs for _, theirs in both)
    more = statistics.median(mine - theirs for mine, theirs in both)
    return Row(
        name=name,
        ours=f"{ours:.2f} s",
        against=f"{plain:.2f} s",
        what=what,
        ratio=ours / plain,
        goal=f"≤ 1 s more (is {more:+.2f} s)",
        met=more <= 1.0,
    )


def _pair(folder: Path, home: Path) -> tuple[float, float | None]:
    """Time both once; None for plain Prefect where it failed."""
    hpcqc = [sys.executable, "-m", "orchestrator.cli", "run", "trivial.py:trivial"]
    ours = timed(lambda: _run(folder, home / "ours", hpcqc))
    try:
        return ours, timed(lambda: _run(folder, home / "plain", [sys.executable, "trivial.py"]))
    except RuntimeError as error:
        print(f"plain Prefect {str(error)[-2000:]}", file=sys.stderr)
        return ours, None


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
        **PATIENT,
    }
    variables.pop("PREFECT_API_URL", None)
    ended = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {ended.stderr}")
