"""Environments with vendors' packages, for the tests marked ``vendor``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.child.environment import Environment
from backends.child.managed import managed_interpreter
from backends.plugins import PluginUnusable

__all__ = ["environment_or_skip"]

_NAMED = os.environ.get("VENDOR_ENVIRONMENTS", "~/.local/state/hpcqc/environments")


def environment_or_skip(backend: str) -> Environment:
    """Return a backend's managed environment; skips the module that calls it where there is none."""
    folder = Path(_NAMED).expanduser().absolute()
    try:
        return Environment(interpreter=str(managed_interpreter(folder, backend)))
    except PluginUnusable as error:
        reason = f"{error}, or name a folder of such with VENDOR_ENVIRONMENTS"
        pytest.skip(reason, allow_module_level=True)
