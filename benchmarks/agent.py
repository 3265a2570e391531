"""How long the agent takes from ``start`` to ready, beside a Prefect server alone."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.rows import Row, timed
from benchmarks.setting import ROOT

__all__ = ["measure"]

_ROUNDS = 3
_SERVER_S = 180.0


def measure() -> list[Row]:
    """Start both in turn: on an empty folder, and on one that was used before."""
    with tempfile.TemporaryDirectory(prefix="hpcqc-bench-") as name:
        cold = [_pair(Path(name) / f"cold-{n}") for n in range(_ROUNDS)]
        warm = [_pair(Path(name) / "warm") for _ in range(_ROUNDS + 1)][1:]
        flow = _submitted(Path(name) / "warm")
    return [
        _row("agent from `start` to ready, empty folder", cold),
        _row("agent from `start` to ready, used folder", warm),
        Row(
            name="`hpcqc submit --wait` of a flow that does nothing, deployed before",
            ours=f"{flow:.2f} s",
            against="–",
            what="stated",
            ratio=None,
            goal="stated",
            met=None,
        ),
    ]


def _row(name: str, pairs: list[tuple[float, float]]) -> Row:
    ours = statistics.median(pair[0] for pair in pairs)
    server = statistics.median(pair[1] for pair in pairs)
    more = statistics.median(pair[0] - pair[1] for pair in pairs)
    return Row(
        name=name,
        ours=f"{ours:.2f} s",
        against=f"{server:.2f} s",
        what="prefect server start, until it answers",
        ratio=ours / server,
        goal=f"stated ({more:+.2f} s)",
        met=None,
    )


def _pair(home: Path) -> tuple[float, float]:
    state = home / "agent"
    ours = timed(lambda: _hpcqc(state, "agent", "start"))
    _hpcqc(state, "agent", "stop")
    return ours, _server_s(home / "prefect")


def _submitted(home: Path) -> float:
    state = home / "agent"
    (home / "nothing.py").write_text(
        "from prefect import flow\n\n@flow\ndef nothing():\n    return 1\n"
    )
    _hpcqc(state, "agent", "start")
    try:
        _hpcqc(state, "deploy", str(home / "nothing.py"))
        submit = [timed(lambda: _hpcqc(state, "submit", "nothing", "--wait")) for _ in range(3)]
    finally:
        _hpcqc(state, "agent", "stop")
    return statistics.median(submit)


def _hpcqc(state: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *arguments],
        env=_environment() | {"HPCQC_STATE_DIR": str(state), "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )


def _server_s(home: Path) -> float:
    """Return how long Prefect's own command takes until its server answers."""
    port = "4259"
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", port]
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        env=_environment() | {"PREFECT_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            while time.perf_counter() - began < _SERVER_S:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=60):
                        return time.perf_counter() - began
                except (urllib.error.URLError, OSError):
                    time.sleep(0.05)
            raise RuntimeError(f"Prefect's server did not answer within {_SERVER_S:.0f} s")
        finally:
            server.terminate()


def _environment() -> dict[str, str]:
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    mine = ("PREFECT_", "HPCQC_")
    return {name: value for name, value in os.environ.items() if not name.startswith(mine)} | quiet
