"""Another user of this machine: uid nobody, in processes of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

NOBODY = 65534
INTRUDER = Path(__file__).with_name("intruder.py")


def as_stranger(arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as nobody, in ``/``, with an empty environment."""
    # setpriv keeps root's rights up to the exec, so an interpreter in a closed folder can be run.
    identity = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return subprocess.run(
        ["setpriv", *identity, *arguments],
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def need_strangers() -> None:
    """Skip where this user may not be another."""
    if os.geteuid() != 0:
        pytest.skip("needs root: only root can be another user as well")
    try:
        tried = as_stranger([sys.executable, "-c", "import distributed"])
    except OSError as error:
        pytest.skip(f"user nobody cannot run {sys.executable}: {error}")
    if tried.returncode != 0:
        pytest.skip(f"user nobody cannot run {sys.executable}: {tried.stderr[-200:]}")


def answers(ports: Iterable[int]) -> dict[int, list[str]]:
    """Return what these ports answer to a stranger."""
    source = INTRUDER.read_text()  # the checkout may be closed to others
    done = as_stranger([sys.executable, "-I", "-c", source, *map(str, ports)])
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["uid"] == NOBODY
    return {int(port): found for port, found in said["answers"].items()}


def listening(roots: Iterable[int]) -> tuple[dict[int, list[str]], list[str]]:
    """Return the TCP ports, with their processes' commands, and the named Unix sockets of trees."""
    ports: dict[int, list[str]] = {}
    named: list[str] = []
    for root in roots:
        process = psutil.Process(root)
        for each in (process, *process.children(recursive=True)):
            for connection in each.net_connections("all"):
                if connection.family == socket.AF_UNIX:
                    named += [connection.laddr] if connection.laddr else []
                elif connection.status == psutil.CONN_LISTEN:
                    assert connection.laddr.ip in ("127.0.0.1", "::1"), connection
                    ports[connection.laddr.port] = each.cmdline()
    return ports, named
