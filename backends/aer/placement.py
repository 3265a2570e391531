"""How simulations share the cores: processes or threads, by width and load (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.aer.methods import Traits

__all__ = [
    "SPLIT_S",
    "WIDE_LOG2",
    "Load",
    "Placement",
    "place",
    "pub_seconds",
    "state_log2",
    "threads_for",
]

# From 2^16 amplitudes on, OpenMP threads inside one simulation beat simulations beside each
# other, but only on cores that nobody else wants: threads that wait for one another become up
# to five times slower when one of them is not scheduled.
WIDE_LOG2 = 16
# Splitting costs a second round trip and start of a thread; less work than this stays together.
SPLIT_S = 0.004
_CALL_S = 3e-4
_GATE_S = 4e-7
_AMPLITUDE_S = 1.5e-9
_SHOT_S = 4e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What there is to run on now.

    cores: of the machine. busy: of them, wanted by others. idle_workers: could start at once.
    waiting_tasks: would take those workers too.
    """

    cores: int
    idle_workers: int
    busy: int = 0
    waiting_tasks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Into how many parts a task's PUBs are split, and the threads each part may use."""

    parts: int
    threads: int

    @property
    def is_wide(self) -> bool:
        """Whether the task wants the cores for itself."""
        return self.threads > 1


def threads_for(cores: int, busy: int) -> int:
    """Return the threads one simulation may use while others want ``busy`` cores."""
    return max(1, cores - busy)


def pub_seconds(method: str, traits: Traits, points: int, shots: int) -> float:
    """Estimate one PUB's single-threaded simulation time, in seconds, to within a factor 3."""
    log2 = state_log2(method, traits)
    gate_s = _GATE_S + _AMPLITUDE_S * 2.0**log2
    return points * (_CALL_S + traits.gates * gate_s + shots * _SHOT_S)


def state_log2(method: str, traits: Traits) -> int:
    """Return log2 of the amplitudes a simulation holds; 0 where it holds no vector."""
    match method:
        case "statevector":
            return traits.num_qubits
        case "density_matrix":
            return 2 * traits.num_qubits
        case _:
            return 0


def place(widest_log2: int, seconds: Sequence[float], load: Load) -> Placement:
    """Choose parts and threads for one task.

    widest_log2: log2 of its largest state. seconds: estimated time of each PUB.
    Wide states get one process with as many threads as cores are free. Narrow ones, and all
    where others keep the cores busy, run single-threaded, split over the workers that are
    idle unless other tasks wait for those.
    """
    threads = threads_for(load.cores, load.busy)
    if widest_log2 >= WIDE_LOG2 and threads > 1:
        return Placement(parts=1, threads=threads)
    total = sum(seconds)
    share = load.idle_workers - load.waiting_tasks
    worth = int(total / SPLIT_S)
    parts = max(1, min(len(seconds), share, worth, load.cores))
    return Placement(parts=parts, threads=1)
