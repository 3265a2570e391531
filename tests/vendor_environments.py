"""Environments with vendors' packages, for the tests marked ``vendor``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.child.environment import Environment
from backends.child.managed import managed_interpreter
from backends.plugins import PluginUnusable

__all__ = ["vendor_environment"]

_FOLDER = Path(os.environ.get("VENDOR_ENVIRONMENTS", "~/.local/state/hpcqc/environments"))


def vendor_environment(backend: str) -> Environment:
    """Return a backend's managed environment; skips the test where there is none."""
    try:
        interpreter = managed_interpreter(_FOLDER.expanduser().absolute(), backend)
    except PluginUnusable as error:
        pytest.skip(f"{error}, or name a folder with VENDOR_ENVIRONMENTS")
    return Environment(interpreter=str(interpreter))
