"""A QPU of a few qubits that multiplies matrices with NumPy, in a thread of its own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult
from qiskit.quantum_info import Operator

from backends.api import (
    Calibration,
    PayloadRejected,
    QpuTaskId,
    Result,
    SessionId,
    Target,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    TaskState,
    UnknownSession,
    UnknownTask,
    Usage,
)
from backends.metering import Metering
from backends.payloads import FrozenSamplerPub, Payload, SamplerPayload
from backends.validate import check

__all__ = ["Factory", "PlainVector", "create"]

WIDEST = 12


class Factory:
    """Makes QPUs, and describes them. options: ``qubits``, at most 12."""

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> PlainVector:  # noqa: ARG002
        """Return the QPU, which keeps nothing in ``state_dir``."""
        return PlainVector(self.describe(options))

    def describe(self, options: Mapping[str, Any]) -> Target:
        """Return what the QPU will publish."""
        unknown = set(options) - {"qubits"}
        qubits = options.get("qubits", WIDEST)
        if unknown or not (isinstance(qubits, int) and 1 <= qubits <= WIDEST):
            raise ValueError(f"options {dict(options)}; the only one is qubits, from 1 to {WIDEST}")
        return Target(
            name="plainvector",
            num_qubits=qubits,
            payload_kinds=frozenset({"sampler"}),
            mid_circuit_measurement=False,
            max_shots=100_000,
            max_concurrent_tasks=None,
            calibration=Calibration(id="exact", taken_at=datetime(2026, 1, 1, tzinfo=UTC)),
            metering=Metering(),
        )


create = Factory()


@dataclass(eq=False)
class Task:
    """One simulation: the payload, what will come of it, and whether it was stopped."""

    payload: SamplerPayload
    outcome: Future[list[SamplerPubResult]] = field(default_factory=Future)
    stopped: threading.Event = field(default_factory=threading.Event)


class PlainVector:
    """Samples circuits that measure once, at the end. Its tasks end with the process."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sessions: set[SessionId] = set()
        self._tasks: dict[QpuTaskId, Task] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plainvector")

    def target(self) -> Target:
        return self._target

    def acquire(self) -> SessionId:
        session = SessionId(uuid.uuid4().hex)
        self._sessions.add(session)
        return session

    def release(self, session: SessionId) -> None:
        self._sessions.discard(session)

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        if session not in self._sessions:
            raise UnknownSession(f"session {session!r} is not open; call acquire() first")
        check(payload, self._target)  # raises PayloadRejected with value, expectation, remedy
        name = QpuTaskId(f"plainvector:{tag}")
        with self._lock:  # two starts with one tag must not both begin
            if name not in self._tasks:
                self._tasks[name] = Task(payload)
                self._pool.submit(self._work, self._tasks[name])
        return name

    def find(self, tag: str) -> QpuTaskId | None:
        name = QpuTaskId(f"plainvector:{tag}")
        return name if name in self._tasks else None

    def status(self, task: QpuTaskId) -> TaskState:
        known = self._known(task)
        if not known.outcome.done():
            return TaskState.RUNNING if known.outcome.running() else TaskState.QUEUED
        if known.outcome.cancelled():
            return TaskState.CANCELLED
        error = known.outcome.exception()
        if error is None:
            return TaskState.COMPLETED
        return TaskState.CANCELLED if isinstance(error, TaskCancelled) else TaskState.FAILED

    def result(self, task: QpuTaskId) -> Result:
        known, state = self._known(task), self.status(task)
        if not state.is_final:
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        if state is TaskState.CANCELLED:
            raise TaskCancelled(f"{task} was cancelled")
        if state is TaskState.FAILED:
            raise TaskFailed(f"{task} failed: {known.outcome.exception()}")
        payload = known.payload
        usage = Usage(shots=payload.shots, circuits=payload.circuits, tasks=1)
        native = PrimitiveResult(known.outcome.result())
        return Result(native=native, usage=usage, metadata={"method": "plainvector"})

    def stop(self, task: QpuTaskId) -> None:
        known = self._known(task)
        known.stopped.set()  # for one that runs
        known.outcome.cancel()  # for one that waits; an ended one stays as it is

    def close(self) -> None:
        for task in list(self._tasks):
            self.stop(task)
        self._pool.shutdown()

    def _known(self, task: QpuTaskId) -> Task:
        if task not in self._tasks:
            raise UnknownTask(f"no task {task!r} was ever started here")
        return self._tasks[task]

    def _work(self, task: Task) -> None:
        if not task.outcome.set_running_or_notify_cancel():
            return
        try:
            task.outcome.set_result([sample(pub, task.stopped) for pub in task.payload.pubs])
        except Exception as error:  # noqa: BLE001  # only this task fails
            task.outcome.set_exception(error)


def sample(pub: FrozenSamplerPub, stopped: threading.Event) -> SamplerPubResult:
    """Run one PUB; raises ``TaskCancelled`` when it is stopped."""
    circuit, shape = pub.circuit.circuit, pub.values.shape[:-1]
    random = np.random.default_rng(pub.seed)
    outcomes = np.empty((*shape, pub.shots, circuit.num_clbits), dtype=bool)
    for point in np.ndindex(*shape):
        chances, measured = probabilities(circuit.assign_parameters(pub.values[point]), stopped)
        drawn = random.choice(chances.size, size=pub.shots, p=chances.ravel())
        qubits = np.array(np.unravel_index(drawn, chances.shape))
        outcomes[point] = False
        for qubit, clbit in measured.items():
            outcomes[(*point, slice(None), clbit)] = qubits[qubit]
    place = {bit: index for index, bit in enumerate(circuit.clbits)}
    registers = {
        register.name: BitArray.from_bool_array(
            outcomes[..., [place[bit] for bit in register]], order="little"
        )
        for register in circuit.cregs
    }
    return SamplerPubResult(DataBin(**registers, shape=shape))


def probabilities(
    circuit: QuantumCircuit, stopped: threading.Event
) -> tuple[np.ndarray, dict[int, int]]:
    """Return the chance of each outcome, one axis per qubit, and the clbit each goes to."""
    state = np.zeros((2,) * circuit.num_qubits, dtype=complex)
    state.flat[0] = 1
    measured = {}
    for step in circuit.data:
        if stopped.is_set():
            raise TaskCancelled("stopped")
        qubits = [circuit.find_bit(qubit).index for qubit in step.qubits]
        if step.operation.name == "measure":
            measured[qubits[0]] = circuit.find_bit(step.clbits[0]).index
        elif step.operation.name != "barrier":
            state = applied(step.operation, state, qubits)
    chances = np.abs(state) ** 2
    return chances / chances.sum(), measured


def applied(operation: Any, state: np.ndarray, qubits: list[int]) -> np.ndarray:
    """Multiply a gate's matrix into the axes of its qubits; Qiskit counts the lowest last."""
    try:
        matrix = Operator(operation).data
    except Exception as error:
        raise PayloadRejected(f"{operation.name!r} has no matrix: {error}") from error
    count = len(qubits)
    axes = qubits[::-1]
    tensor = matrix.reshape((2,) * (2 * count))
    state = np.tensordot(tensor, state, axes=(range(count, 2 * count), axes))
    return np.moveaxis(state, range(count), axes)
