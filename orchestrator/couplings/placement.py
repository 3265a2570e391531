"""What a run's coupling does where stages begin and end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from orchestrator.couplings.policies import (
    RunSituation,
    Wanted,
    decide,
    gives_way,
    submits_shared,
    useful_nodes,
)

if TYPE_CHECKING:
    from orchestrator.compute.api import Demand

__all__ = [
    "Coupled",
    "CoupledWorkers",
    "StagePlacement",
    "Uncoupled",
    "WorkerBounds",
    "at_first",
]

_GATE_LOOKS_EVERY_S = 2.0


class StagePlacement(Protocol):
    """The borders of a run's stages; calls may come from any thread, and stages overlap."""

    def classical(self, name: str, demand: Demand) -> AbstractContextManager[None]:
        """Return a context for a classical stage, from when it is ready to its end.

        Args:
            name: The stage's compute.
            demand: What the stage asks of it.
        """
        ...

    def quantum(self, name: str, qpu: str) -> AbstractContextManager[None]:
        """Return a context for a quantum stage, from when it is ready to its end.

        Args:
            name: The key of the stage.
            qpu: The QPU that it uses.
        """
        ...

    def close(self) -> None:
        """End what runs for the placement alone; closing twice does nothing."""
        ...


class CoupledWorkers(Protocol):
    """A compute's workers, as far as a coupling decides about them."""

    def start(self) -> None:
        """Begin to start the workers, and return at once."""
        ...

    def want(self, workers: int, *, held: bool = False) -> None:
        """Say how many worker jobs the stages share, and whether new ones wait held."""
        ...

    def shares(self, demand: Demand) -> bool:
        """Whether a stage runs on the shared worker jobs, and not in an allocation of its own."""
        ...

    def on_own_waiting(self, react: Callable[[bool], None]) -> None:
        """Call a function when allocations of stages' own begin or cease to wait for nodes.

        Args:
            react: Called from any thread with whether one waits.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBounds:
    """Bounds of a compute's shared workers, and how many stages of one node a node runs."""

    nodes_min: int = 0
    nodes_max: int = 1
    stages_per_node: int = 1


def at_first(coupling: str, bounds: WorkerBounds, *, gated: bool) -> Wanted:
    """Return what a coupling wants before the first stage. gated: whether its gate can be shut."""
    return decide(
        coupling,
        RunSituation(
            nodes_min=bounds.nodes_min,
            nodes_max=bounds.nodes_max,
            qpu_free_in_s=math.inf if gated else None,
        ),
    )


class Uncoupled:
    """A `StagePlacement` where workers stay as they are, and the QPU is held in quantum stages.

    hold_qpu: returns a context in which the run holds a QPU; None where the broker alone shares it.
    """

    def __init__(
        self, hold_qpu: Callable[[str], AbstractContextManager[object]] | None = None
    ) -> None:
        self._hold_qpu = hold_qpu

    def classical(self, name: str, demand: Demand) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        del name, demand
        return nullcontext()

    @contextmanager
    def quantum(self, name: str, qpu: str) -> Iterator[None]:
        """Hold the QPU meanwhile."""
        del name
        with nullcontext() if self._hold_qpu is None else self._hold_qpu(qpu):
            yield

    def close(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class _Pool:
    """What is known of one compute.

    classical: demands of the active stages. is_shared: whether a stage shared its workers. started:
    whether they were told to start. own_waits: whether an allocation of a stage's own waits for nodes.
    """

    workers: CoupledWorkers
    bounds: WorkerBounds
    classical: list[Demand] = field(default_factory=list)
    wanted: Wanted | None = None
    is_shared: bool = False
    started: bool = False
    own_waits: bool = False
    gives_way: bool = False


class Coupled:
    """A `StagePlacement` that lets a coupling decide, on computes whose workers can change.

    The workers begin as `at_first` has them.

    Args:
        coupling: A key of `orchestrator.couplings.policies.COUPLINGS`.
        pool: Returns the workers of a compute with their bounds; None for one that is as it is.
        hold_qpu: Returns a context in which the run holds a QPU; entering it blocks until it does.
        default: The compute and the QPU of an exclusive job.
        qpu_free_in_s: Asks how long a QPU is busy with others; None if that is not known.
        quantum_after_s: How long the run works before it needs the QPU first, None if not known.
    """

    def __init__(
        self,
        coupling: str,
        *,
        pool: Callable[[str], tuple[CoupledWorkers, WorkerBounds] | None],
        hold_qpu: Callable[[str], AbstractContextManager[object]],
        default: tuple[str, str],
        qpu_free_in_s: Callable[[str], float | None] | None = None,
        quantum_after_s: float | None = None,
    ) -> None:
        self._coupling, self._find, self._hold_qpu = coupling, pool, hold_qpu
        self._default_compute, self._default_qpu = default
        self._qpu_free_in_s, self._quantum_after_s = qpu_free_in_s, quantum_after_s
        self._pools: dict[str, _Pool | None] = {}
        self._quantum = 0
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._gate: threading.Thread | None = None
        self._released = False
        self._busy_s: float | None = None
        self._gated_since_s: float | None = None

    @contextmanager
    def classical(self, name: str, demand: Demand) -> Iterator[None]:
        """Have nodes for the stage, and let them go afterwards where the coupling says so."""
        with self._lock:
            pool = self._pool(name)
            if pool is not None:
                pool.classical.append(demand)
                pool.is_shared = pool.is_shared or pool.workers.shares(demand)
                self._watch_gate()
                self._apply(pool)
        try:
            yield
        finally:
            with self._lock:
                if pool is not None:
                    pool.classical.remove(demand)
                    self._apply(pool)

    @contextmanager
    def quantum(self, name: str, qpu: str) -> Iterator[None]:
        """Hold the QPU for the stage, and let nodes go meanwhile where the coupling says so."""
        del name
        with self._lock:
            self._quantum += 1
            if self._coupling == "exclusive":
                self._pool(self._default_compute)
            self._apply_all()
        try:
            with self._hold_qpu(qpu):
                yield
        finally:
            with self._lock:
                self._quantum -= 1
                self._apply_all()

    def close(self) -> None:
        """End the watch at the gate; the workers end with their compute."""
        self._closed.set()

    def _pool(self, name: str) -> _Pool | None:
        if name not in self._pools:
            found = self._find(name)
            pool = self._pools[name] = None if found is None else _Pool(*found)
            if pool is not None:
                pool.workers.on_own_waiting(partial(self._on_own_waiting, pool))
        return self._pools[name]

    def _on_own_waiting(self, pool: _Pool, waits: bool) -> None:
        with self._lock:
            pool.own_waits = waits
            self._apply(pool)

    def _apply_all(self) -> None:
        for pool in self._pools.values():
            if pool is not None:
                self._apply(pool)

    def _apply(self, pool: _Pool) -> None:
        # Between two stages nothing is active for a moment; workers that went then would come back.
        if not pool.classical and not self._quantum and pool.wanted is not None:
            return
        wanted = decide(self._coupling, self._situation(pool))
        self._released |= not wanted.held
        if wanted != pool.wanted:
            pool.wanted = wanted
            pool.workers.want(wanted.workers, held=wanted.held)
        if submits_shared(wanted, [pool.is_shared]) and not pool.started:
            pool.started = True
            pool.workers.start()

    def _situation(self, pool: _Pool) -> RunSituation:
        sharing = [demand for demand in pool.classical if pool.workers.shares(demand)]
        most = [demand.nodes_max for demand in sharing]
        since_s = self._gated_since_s
        pool.gives_way = gives_way(pool.gives_way, len(sharing), pool.own_waits)
        return RunSituation(
            classical=len(sharing),
            quantum=self._quantum,
            useful_nodes=useful_nodes(most, pool.bounds.stages_per_node),
            nodes_min=pool.bounds.nodes_min,
            nodes_max=pool.bounds.nodes_max,
            qpu_free_in_s=self._busy_s,
            quantum_in_s=self._quantum_after_s,
            released=self._released,
            waited_s=0.0 if since_s is None else time.monotonic() - since_s,
            gives_way=pool.gives_way,
        )

    def _watch_gate(self) -> None:
        """Look when the QPU will be free: once now, then now and then until the gate opens."""
        if self._coupling != "gated" or self._gate is not None or self._qpu_free_in_s is None:
            return
        self._gated_since_s = time.monotonic()
        self._busy_s = self._qpu_free_in_s(self._default_qpu)
        self._gate = threading.Thread(target=self._look, name="hpcqc-gate", daemon=True)
        self._gate.start()

    def _look(self) -> None:
        assert self._qpu_free_in_s is not None
        while not self._released and not self._closed.wait(_GATE_LOOKS_EVERY_S):
            busy_s = self._qpu_free_in_s(self._default_qpu)
            with self._lock:
                self._busy_s = busy_s
                self._apply_all()
