"""What a piece of code does to the world: processes, connections, written files."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["effects_of_block"]

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.mkdir", "os.posix_spawn", "os.rename", "os.system",
    "socket.bind", "socket.connect", "socket.getaddrinfo", "subprocess.Popen",
})  # fmt: skip
_watched: dict[int, list[str]] = {}


@contextmanager
def effects_of_block() -> Iterator[list[str]]:
    """Collect what this thread starts, connects to and writes within the block."""
    _hook_in()
    here = threading.get_ident()
    seen = _watched[here] = []
    try:
        yield seen
    finally:
        del _watched[here]


@cache
def _hook_in() -> None:
    sys.addaudithook(_note)  # stays for the life of the process; there is no way to remove it


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    seen = _watched.get(threading.get_ident())
    if seen is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
    if writes or event in _EVENTS:
        seen.append(f"{event} {arguments[:1]!r}")
