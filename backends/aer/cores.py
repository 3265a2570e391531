"""How busy the machine's cores are with other work, from the kernel's own counters."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["runnable_elsewhere"]

_LOOKS = 3
_PAUSE_S = 2e-4


def runnable_elsewhere() -> int:
    """Return how many threads of other processes run or want to run now; 0 where not known.

    The least of three looks within half a millisecond: what wakes up only to fall asleep again
    does not count. Takes that long; reads Linux's ``/proc``.
    """
    least = _look()
    for _ in range(_LOOKS - 1):
        if least == 0:
            break
        time.sleep(_PAUSE_S)
        least = min(least, _look())
    return least


def _look() -> int:
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    running = next((int(line.split()[1]) for line in lines if line.startswith("procs_running")), 0)
    return max(0, running - _own_runnable())


def _own_runnable() -> int:
    count = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            state = (task / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:  # it ended
            continue
        count += state == b"R"
    return count
