"""Vendors' software in environments of its own: SDKs that backends use, and clients that judge us."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

from backends.child.environment import Environment
from backends.child.managed import managed_interpreter
from backends.plugins import PluginUnusable
from backends.registry import packages_of

__all__ = ["environment_or_skip", "interpreter_or_skip", "judge"]

SCRIPTS = Path(__file__).with_name("scripts")
_INSTALL_S, _RUN_S = 900, 600
_NAMED = os.environ.get("VENDOR_ENVIRONMENTS", "~/.local/state/hpcqc/environments")


def environment_or_skip(backend: str) -> Environment:
    """Return where a backend's SDK is: here, or in its managed environment.

    Skips the module that calls it where it is in neither.
    """
    if all(map(_is_here, packages_of(backend).imports)):
        return Environment.current()
    folder = Path(_NAMED).expanduser().absolute()
    try:
        return Environment(interpreter=str(managed_interpreter(folder, backend)))
    except PluginUnusable as error:
        reason = f"{error}, or name a folder of such with VENDOR_ENVIRONMENTS"
        pytest.skip(reason, allow_module_level=True)


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def interpreter_or_skip(cache: Any, requirement: str) -> Path:
    """Return the interpreter of an environment with a vendor's client, made once; skip without one.

    cache: pytest's, so that the next session finds the environment again.
    """
    folder = Path(cache.mkdir("vendors")) / re.sub(r"[^A-Za-z0-9.]+", "-", requirement).strip("-")
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    uv = find_uv_bin()
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
