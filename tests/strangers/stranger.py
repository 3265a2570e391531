"""Another user of this machine: processes of the user nobody."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
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
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has ended meanwhile
            process = psutil.Process(root)
            for each in (process, *process.children(recursive=True)):
                for connection in each.net_connections("all"):
                    if connection.family == socket.AF_UNIX:
                        named += [connection.laddr] if connection.laddr else []
                    elif connection.status == psutil.CONN_LISTEN:
                        assert connection.laddr.ip in ("127.0.0.1", "::1"), connection
                        ports[connection.laddr.port] = each.cmdline()
    return ports, named


_SPY = """
import os, sys
for top in sys.argv[1:]:
    for folder, _, names in os.walk(top):
        print(folder)
        for name in names:
            try:
                open(os.path.join(folder, name), "rb").close()
            except OSError:
                continue
            print(os.path.join(folder, name))
"""


def readable(*tops: Path) -> list[str]:
    """Return the folders and files of these trees that a stranger can list or read."""
    done = as_stranger([sys.executable, "-I", "-c", _SPY, *map(str, tops)])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def open_to_others(*tops: Path) -> list[str]:
    """Return what in these trees has rights for others, whatever folder it is in.

    No sockets, and not the pages of Prefect's UI, which it copies with the modes of its package.
    """
    found = []
    for top in tops:
        for path in (top, *top.rglob("*")):
            state = path.lstat()
            special = stat.S_ISLNK(state.st_mode) or stat.S_ISSOCK(state.st_mode)
            special = special or "/agent/prefect/ui/" in f"{path}/"
            if not special and stat.S_IMODE(state.st_mode) & 0o077:
                found.append(f"{stat.S_IMODE(state.st_mode):04o} {path}")
    return found
