"""How simulations share the cores: processes or threads, by width, load and measured speed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from backends.aer.methods import Traits, gate_seconds

__all__ = [
    "SPLIT_S",
    "WIDE_LOG2",
    "MachineLoad",
    "Placement",
    "ThreadingHeuristic",
    "place",
    "pub_seconds",
    "runnable_elsewhere",
    "threads_for",
]

# From 2^16 amplitudes on, OpenMP threads inside one simulation may beat simulations beside each
# other, but only on cores that nobody else wants: threads that wait for one another become up
# to five times slower when one of them is not scheduled.
WIDE_LOG2 = 16
# One in so many tasks of a width runs the way that was slower, in case it no longer is.
_TRY_AGAIN = 16
_WEIGHT_OF_NEW = 0.3
# Splitting costs a second round trip and start of a thread; less work than this stays together.
SPLIT_S = 0.004
_CALL_S = 3e-4
_SHOT_S = 4e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLoad:
    """The machine's cores, how many of them others use, and the most workers that may run."""

    cores: int
    workers: int
    busy: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Into how many parts a task is split, and the threads each part may use."""

    parts: int
    threads: int

    @property
    def is_wide(self) -> bool:
        """Whether the task wants the cores for itself."""
        return self.threads > 1


def threads_for(cores: int, busy: int) -> int:
    """Return the threads one simulation may use while others want ``busy`` cores."""
    return max(1, cores - busy)


def pub_seconds(method: str, traits: Traits, *, points: int, shots: int, runs: int) -> float:
    """Estimate a PUB's single-threaded time, to a factor 3; ``runs`` is evolutions per point."""
    evolved_s = runs * traits.gates * gate_seconds(method, traits.num_qubits)
    return points * (_CALL_S + evolved_s + shots * _SHOT_S)


def place(
    widest_log2: int,
    pieces: int,
    seconds: float,
    load: MachineLoad,
    heuristic: ThreadingHeuristic | None = None,
) -> Placement:
    """Choose parts and threads for one task.

    widest_log2: log2 of its largest state. pieces: most parts. seconds: estimated total.
    Without a heuristic, parts run side by side.
    """
    worth = int(seconds / SPLIT_S)
    parts = max(1, min(pieces, load.workers, worth, load.cores))
    threads = threads_for(load.cores, load.busy)
    if widest_log2 < WIDE_LOG2 or threads == 1:
        return Placement(parts=parts, threads=1)
    idle_cores = 2 * parts <= threads
    if idle_cores or (
        heuristic is not None and heuristic.prefers_threads(widest_log2, parts, threads)
    ):
        return Placement(parts=1, threads=threads)
    return Placement(parts=parts, threads=1)


@dataclass(slots=True)
class ThreadingHeuristic:
    """Learns from finished tasks which way a machine runs wide states faster.

    Where cores share a cache or a memory channel one simulation with threads wins from 2^16
    amplitudes on; elsewhere simulations side by side win at every width.
    """

    _cost: dict[tuple[int, bool], float] = field(default_factory=dict)
    _asked: dict[int, int] = field(default_factory=dict)

    def prefers_threads(self, log2: int, parts: int, threads: int) -> bool:
        """Whether to run one simulation with threads; tries both ways, the slower one rarely."""
        asked = self._asked[log2] = self._asked.get(log2, -1) + 1
        split, threaded = self._cost.get((log2, False)), self._cost.get((log2, True))
        if split is None or threaded is None:
            return split is not None
        return (threaded / threads < split / parts) != (asked % _TRY_AGAIN == _TRY_AGAIN - 1)

    def note(self, log2: int, placement: Placement, estimated_s: float, took_s: float) -> None:
        """Take in how long a part of a task took. estimated_s: of the part's PUBs."""
        if estimated_s <= 0:
            return
        cost, key = took_s * placement.threads / estimated_s, (log2, placement.is_wide)
        known = self._cost.get(key, cost)
        self._cost[key] = known + _WEIGHT_OF_NEW * (cost - known)


_LOOKS = 3
_PAUSE_S = 2e-4


def runnable_elsewhere() -> int:
    """Return the runnable threads of other processes from Linux's ``/proc``, 0 where there is none.

    The least of three samples within half a millisecond, so that brief wake-ups do not count.
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
