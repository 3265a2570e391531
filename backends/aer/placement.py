"""How simulations share the cores: processes or threads, by width and load (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.aer.methods import Traits

__all__ = ["SPLIT_S", "WIDE_LOG2", "Load", "Placement", "place", "pub_seconds", "state_log2"]

# From this many state amplitudes (2^n) on, OpenMP threads inside one simulation win over
# simulations beside each other; Aer itself starts threads at 2^14.
WIDE_LOG2 = 17
# Splitting costs a second round trip and start of a thread; less work than this stays together.
SPLIT_S = 0.004
_CALL_S = 3e-4
_GATE_S = 4e-7
_AMPLITUDE_S = 1.5e-9
_SHOT_S = 4e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is there to run on now: cores, workers that could start at once, tasks waiting."""

    cores: int
    idle_workers: int
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
    Wide states get one process with all cores as threads. Narrow ones run single-threaded,
    split over the workers that are idle unless other tasks wait for those.
    """
    if widest_log2 >= WIDE_LOG2:
        return Placement(parts=1, threads=load.cores)
    total = sum(seconds)
    share = load.idle_workers - load.waiting_tasks
    worth = int(total / SPLIT_S)
    parts = max(1, min(len(seconds), share, worth, load.cores))
    return Placement(parts=parts, threads=1)
