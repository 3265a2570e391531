"""Sampler payloads as flat jobs, and counts as Qiskit's results."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterExpression
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult

from backends.devices.api import FlatJob, FlatPub, FlatResult, Step
from backends.errors import PayloadRejected
from backends.payloads import FrozenSamplerPub, SamplerPayload

__all__ = ["PubLayout", "flat_job", "layouts", "native_result"]

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}
_ZERO = ord("0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PubLayout:
    """What of a PUB is needed to read its counts, and to charge it.

    registers: name, and its classical bits. shots: for each point.
    """

    shape: tuple[int, ...]
    num_qubits: int
    num_clbits: int
    shots: int
    registers: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> PubLayout:
        """Rebuild a layout from `to_json`. Raises ``ValueError`` for what is none."""
        try:
            return cls(
                shape=tuple(map(int, stated["shape"])),
                num_qubits=int(stated["num_qubits"]),
                num_clbits=int(stated["num_clbits"]),
                shots=int(stated["shots"]),
                registers=tuple(
                    (str(name), tuple(map(int, clbits))) for name, clbits in stated["registers"]
                ),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no layout of a PUB's counts: {error!r}") from error

    @property
    def points(self) -> int:
        """How many circuits with bound parameters the PUB has."""
        return math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Return the layout as JSON types."""
        return {
            "shape": list(self.shape),
            "num_qubits": self.num_qubits,
            "num_clbits": self.num_clbits,
            "shots": self.shots,
            "registers": [[name, list(clbits)] for name, clbits in self.registers],
        }


def flat_job(payload: SamplerPayload) -> FlatJob:
    """Write a payload's circuits as lists of gates. Raises `PayloadRejected` for control flow."""
    return FlatJob(
        pubs=tuple(_flat_pub(pub, index) for index, pub in enumerate(payload.pubs)),
        layouts=tuple(layout.to_json() for layout in layouts(payload)),
    )


def layouts(payload: SamplerPayload) -> tuple[PubLayout, ...]:
    """Return how the counts of each PUB are read."""
    return tuple(_layout(pub) for pub in payload.pubs)


def native_result(result: FlatResult, known: Sequence[PubLayout]) -> PrimitiveResult[Any]:
    """Return counts as Qiskit's sampler would. Raises ``ValueError`` if they do not fit."""
    pubs = [
        _pub_result(points, layout) for points, layout in zip(result.counts, known, strict=True)
    ]
    return PrimitiveResult(pubs, metadata={"version": 2})


def _flat_pub(pub: FrozenSamplerPub, index: int) -> FlatPub:
    circuit = pub.circuit.circuit
    steps, parameters = _steps(circuit, index)
    rows = pub.values.reshape(pub.points, pub.values.shape[-1])
    return FlatPub(
        num_qubits=circuit.num_qubits,
        num_clbits=circuit.num_clbits,
        steps=steps,
        angles=_angles(parameters, circuit, rows),
        shots=pub.shots,
        seed=pub.seed,
    )


def _steps(circuit: QuantumCircuit, index: int) -> tuple[tuple[Step, ...], list[Any]]:
    """Return the steps, and the angles of all of them as numbers or expressions."""
    qubits = {qubit: number for number, qubit in enumerate(circuit.qubits)}
    clbits = {clbit: number for number, clbit in enumerate(circuit.clbits)}
    steps: list[Step] = []
    angles: list[Any] = []
    for step in circuit.data:
        if step.is_control_flow():
            raise PayloadRejected(
                f"PUB {index}: {step.name!r} is control flow, which this device does not take"
            )
        params = [_delay_s(step.operation)] if step.name == "delay" else list(step.params)
        steps.append(
            (
                step.name,
                tuple([qubits[qubit] for qubit in step.qubits]),
                tuple([clbits[clbit] for clbit in step.clbits]),
                len(params),
            )
        )
        angles += params
    return tuple(steps), angles


def _delay_s(delay: Any) -> float:
    if delay.unit not in _SECONDS:
        raise PayloadRejected(f"a delay in {delay.unit!r}; give it in one of {', '.join(_SECONDS)}")
    return float(delay.duration) * _SECONDS[delay.unit]


def _angles(
    stated: Sequence[Any], circuit: QuantumCircuit, rows: NDArray[np.float64]
) -> tuple[array[float], ...]:
    free = [
        (place, angle)
        for place, angle in enumerate(stated)
        if isinstance(angle, ParameterExpression) and angle.parameters
    ]
    numbers = np.array(
        [0.0 if isinstance(a, ParameterExpression) and a.parameters else float(a) for a in stated]
    )
    if not free:
        return (array("d", numbers.tobytes()),) * len(rows)
    points = np.tile(numbers, (len(rows), 1))
    columns = {parameter: column for column, parameter in enumerate(circuit.parameters)}
    for place, angle in free:
        if isinstance(angle, Parameter):
            points[:, place] = rows[:, columns[angle]]
            continue
        used = [(parameter, columns[parameter]) for parameter in angle.parameters]
        for point, row in enumerate(rows):
            bound = angle.bind({parameter: float(row[column]) for parameter, column in used})
            points[point, place] = float(bound)
    return tuple(array("d", row.tobytes()) for row in points)


def _layout(pub: FrozenSamplerPub) -> PubLayout:
    circuit = pub.circuit.circuit
    clbits = {clbit: number for number, clbit in enumerate(circuit.clbits)}
    return PubLayout(
        shape=pub.values.shape[:-1],
        num_qubits=circuit.num_qubits,
        num_clbits=circuit.num_clbits,
        shots=pub.shots,
        registers=tuple(
            (register.name, tuple(clbits[clbit] for clbit in register))
            for register in circuit.cregs
        ),
    )


def _pub_result(points: Sequence[Mapping[str, int]], layout: PubLayout) -> SamplerPubResult:
    bits = np.stack([_shots(counts, layout) for counts in points])  # (points, shots, clbits)
    fields = {
        name: BitArray.from_bool_array(
            bits[..., list(clbits)].reshape(*layout.shape, layout.shots, len(clbits)),
            order="little",
        )
        for name, clbits in layout.registers
    }
    data = DataBin(**fields, shape=layout.shape)
    return SamplerPubResult(data, metadata={"shots": layout.shots})


def _shots(counts: Mapping[str, int], layout: PubLayout) -> NDArray[np.bool_]:
    """Return a row of bits for each shot, bit 0 first."""
    width, numbers = layout.num_clbits, np.fromiter(counts.values(), dtype=np.int64)
    if numbers.sum() != layout.shots or (numbers < 0).any():
        raise ValueError(f"counts of {numbers.sum()} shots, {layout.shots} were asked for")
    text = "".join(counts)
    if len(text) != width * len(counts) or text.strip("01"):
        raise ValueError(f"outcomes {list(counts)[:3]} are not {width} bits each")
    outcomes = np.frombuffer(text.encode(), dtype=np.uint8).reshape(len(counts), width) - _ZERO
    shots: NDArray[np.bool_] = np.repeat(outcomes[:, ::-1].astype(np.bool_), numbers, axis=0)
    return shots
