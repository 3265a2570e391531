"""Vendors' own software in environments of its own, as judges of what we built."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).with_name("scripts")
_INSTALL_S, _RUN_S = 900, 600


def environment(cache: Any, requirement: str) -> Path:
    """Return the interpreter of an environment with a package, made once; skip without one.

    cache: pytest's, so that the next session finds the environment again.
    """
    folder = Path(cache.mkdir("vendors")) / re.sub(r"[^A-Za-z0-9.]+", "-", requirement).strip("-")
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip(f"no uv, which makes the environment for {requirement}")
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), requirement],
    ):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
        if done.returncode:
            pytest.skip(f"{requirement} cannot be installed: {done.stderr.strip()[-300:]}")
    (folder / "complete").touch()
    return python


def judge(python: Path, script: str, *arguments: str) -> Any:
    """Run a script of this folder with a vendor's software; return the JSON that it prints last."""
    done = subprocess.run(
        [python, SCRIPTS / script, *arguments],
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
