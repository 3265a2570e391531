"""Environments of the tools we compare with, which need other versions than ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PATIENT", "PeerFailed", "other_interpreter", "run_other"]

ROOT = Path(__file__).resolve().parents[1]
_FOLDER = ROOT / ".bench-venv"
_PACKAGES = ("prefect-qiskit==0.2.1", "prefect-dask", "qiskit-aer", "fastapi<0.155", "prefect<3.9")

# On a slow day Prefect's temporary server takes longer than the 20 s that it has by default.
PATIENT = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


class PeerFailed(RuntimeError):
    """What we compare with did not run to its end; the message is the last line it printed."""


def run_other(script: str, *arguments: str) -> dict[str, Any]:
    """Run ``benchmarks/others/SCRIPT`` there and return the JSON object it prints last.

    The environment is made at first use. Raises `PeerFailed` if the script fails, and
    prints the end of its output.
    """
    python = other_interpreter(_FOLDER, _PACKAGES)
    with tempfile.TemporaryDirectory() as home:
        variables = os.environ | {
            "PREFECT_HOME": home,
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            **PATIENT,
        }
        variables.pop("PYTHONPATH", None)
        done = subprocess.run(
            [str(python), str(ROOT / "benchmarks" / "others" / script), *arguments],
            capture_output=True,
            text=True,
            env=variables,
            cwd=home,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"{script} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise PeerFailed(told[-1][:120])
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def other_interpreter(folder: Path, packages: Sequence[str]) -> Path:
    """Return the interpreter of an environment with these packages, made at first use."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"making {folder} for the tools we compare with …", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "complete").touch()
    return python
