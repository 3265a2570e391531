"""Circuits for a target, compiled once and remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from qiskit import QuantumCircuit

from backends.api import Target
from backends.circuits import FrozenCircuit
from backends.lowering import NativeCompiler
from orchestrator.transpile.conformity import conforms
from orchestrator.transpile.moves import insert_moves
from orchestrator.transpile.unrolling import AER_GATES, knows_all, standard_gates, unroll

__all__ = ["Transpiled", "Transpiler"]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_CACHED_CIRCUITS = 512
_CACHED_TARGETS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Transpiled:
    """A circuit a target takes, and where the qubits of the original are in it.

    layout: wire of each original qubit at the end, after routing; None where wires are as
    they were. columns: of the original's parameter values, those that are left, in order;
    parameters that cannot matter may be gone.
    """

    circuit: FrozenCircuit
    layout: tuple[int, ...] | None
    columns: tuple[int, ...]

    @classmethod
    def of(
        cls, original: FrozenCircuit, made: QuantumCircuit, layout: tuple[int, ...] | None = None
    ) -> Transpiled:
        """Take what was made of a circuit; one that was made of nothing is the original."""
        if made is original.circuit:
            columns = tuple(range(made.num_parameters))
            return cls(circuit=original, layout=layout, columns=columns)
        column = {parameter: i for i, parameter in enumerate(original.circuit.parameters)}
        columns = tuple(column[parameter] for parameter in made.parameters)
        return cls(circuit=FrozenCircuit.of(made), layout=layout, columns=columns)


class Transpiler:
    """Makes circuits fit targets; any thread may ask, equal questions are answered once.

    A circuit is compiled anew when its content, the target's gates, coupling or usable
    qubits, or the target's calibration differ. Equal questions give circuits of equal digest
    in every process. The least recently used of ``capacity`` circuits is forgotten.
    """

    def __init__(self, *, capacity: int = _CACHED_CIRCUITS) -> None:
        self._circuits: _Once[tuple[str, tuple[object, ...]], Transpiled] = _Once(capacity)
        self._compilers: _Once[tuple[object, ...], NativeCompiler] = _Once(_CACHED_TARGETS)

    def transpile(self, circuit: FrozenCircuit, target: Target) -> Transpiled:
        """Return the circuit as the target takes it.

        An ideal simulator (no native gates) and a site that transpiles get the circuit on its
        own wires, with only what they do not know unrolled. Any other target gets native
        gates on its physical qubits, on a star with MOVEs; a circuit that is so already is
        left alone. May take up to seconds the first time. Raises `PayloadRejected` for a
        circuit that is too wide or holds what the target cannot do.
        """
        if target.native_gates is None or target.site_transpiles:
            known = AER_GATES if target.native_gates is None else standard_gates()
            if knows_all(circuit.circuit, known):
                return Transpiled.of(circuit, circuit.circuit)
            unrolled = (circuit.digest, ("unrolled", target.site_transpiles))
            return self._circuits.get(
                unrolled, lambda: Transpiled.of(circuit, unroll(circuit.circuit, known))
            )
        fingerprint = _fingerprint(target)
        return self._circuits.get(
            (circuit.digest, fingerprint), lambda: self._native(circuit, target, fingerprint)
        )

    def _native(
        self, circuit: FrozenCircuit, target: Target, fingerprint: tuple[object, ...]
    ) -> Transpiled:
        if conforms(circuit.circuit, target):
            return Transpiled.of(circuit, circuit.circuit)
        compiler = self._compilers.get(fingerprint, lambda: NativeCompiler(target))
        native, layout = compiler.compile(circuit.circuit)
        if target.resonator is not None:
            native = insert_moves(native, target.resonator)
        return Transpiled.of(circuit, native, layout)


def _fingerprint(target: Target) -> tuple[object, ...]:
    """Return all of a target that a compiled circuit depends on."""
    return (
        target.name,
        target.num_qubits,
        target.native_gates,
        target.coupling,
        target.resonator,
        target.unusable_qubits,
        target.mid_circuit_measurement,
        target.calibration.id,
    )


class _Once(Generic[_Key, _Value]):
    """A bounded memory in which a value is made once, while others who want it wait.

    A value whose making failed is forgotten; those who waited get the same error.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._futures: OrderedDict[_Key, Future[_Value]] = OrderedDict()

    def get(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        with self._lock:
            future = self._futures.get(key)
            mine = future is None
            if future is None:
                future = self._futures[key] = Future()
                if len(self._futures) > self._capacity:
                    self._futures.popitem(last=False)
            else:
                self._futures.move_to_end(key)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    if self._futures.get(key) is future:
                        del self._futures[key]
                future.set_exception(error)
                raise
        return future.result()
