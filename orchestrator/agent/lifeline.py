"""Ends this process when the one it works for is gone, however that one ended."""

from __future__ import annotations

import os
import select
import signal
import threading
import time

__all__ = ["PARENT", "end_with"]

# Under which a process tells those it starts whom they work for.
PARENT = "HPCQC_AGENT_PARENT"
_LOOK_EVERY_S = 0.2


def end_with(parent: int, grace_s: float) -> None:
    """Watch a process from a thread; when it is gone, end this one.

    parent: the number of this process's parent, as that one told it. This process gets SIGTERM
    and, if it is still there after ``grace_s``, SIGKILL, with its group if it leads one. Without
    a grace there is no SIGTERM: nothing more is said or done.
    """
    handle = _open(parent)
    if os.getppid() != parent:  # gone already: orphans are given another parent
        _end(grace_s)
        return
    threading.Thread(
        target=_watch, args=(parent, handle, grace_s), name="lifeline", daemon=True
    ).start()


def _open(parent: int) -> int | None:
    try:
        return os.pidfd_open(parent)
    except OSError:  # a kernel without them, or no such process
        return None


def _watch(parent: int, handle: int | None, grace_s: float) -> None:
    if handle is not None:
        select.select([handle], [], [])  # readable once the process has ended: pidfd_open(2)
    else:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
    _end(grace_s)


def _end(grace_s: float) -> None:
    if grace_s > 0:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
