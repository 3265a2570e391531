"""The second environment, in which the tools we compare with live: they need other versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

__all__ = ["run_other"]

ROOT = Path(__file__).resolve().parents[1]
_FOLDER = ROOT / ".bench-venv"
_PACKAGES = ("prefect-qiskit==0.2.1", "prefect-dask", "qiskit-aer", "fastapi<0.155", "prefect<3.9")


def run_other(script: str, *arguments: str) -> dict[str, Any]:
    """Run ``benchmarks/others/SCRIPT`` there and return the JSON object it prints last.

    The environment is made at first use. Raises ``RuntimeError`` with the end of the output
    if the script fails.
    """
    python = _environment()
    with tempfile.TemporaryDirectory() as home:
        variables = os.environ | {
            "PREFECT_HOME": home,
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
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
        raise RuntimeError(f"{script} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _environment() -> Path:
    python = _FOLDER / "bin" / "python"
    if not (_FOLDER / "complete").exists():
        print(f"making {_FOLDER} for the tools we compare with …", file=sys.stderr)
        venv.create(_FOLDER, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *_PACKAGES], check=True)
        (_FOLDER / "complete").touch()
    return python
