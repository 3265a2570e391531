"""Runs a module as a child of the agent: it ends when the supervisor does.

``python -m orchestrator.agent.launch PARENT GRACE_S MODULE [ARGUMENT …]``
"""

from __future__ import annotations

import os
import runpy
import sys

from orchestrator.agent.lifeline import end_with

__all__ = ["main"]


def main() -> None:
    """Hold on to the parent, then become the module."""
    os.umask(0o077)  # what it writes is its owner's alone
    parent, grace_s, module, *arguments = sys.argv[1:]
    end_with(int(parent), float(grace_s))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
