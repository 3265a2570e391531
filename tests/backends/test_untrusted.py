"""Bytes from strangers: good payloads come back as they were, all others are refused with a reason."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, qpy
from qiskit.circuit import Parameter, ParameterVector
from qiskit.circuit.classical import expr
from qiskit.circuit.library import (
    DiagonalGate,
    MCPhaseGate,
    PauliEvolutionGate,
    PermutationGate,
    QFTGate,
    UCRYGate,
    XGate,
    efficient_su2,
)
from qiskit.circuit.random import random_circuit
from qiskit.quantum_info import SparsePauliOp, random_unitary
from qiskit.synthesis import LieTrotter

from backends.api import PayloadRejected
from backends.circuits import FrozenCircuit
from backends.frames import pack, unpack
from backends.payloads import (
    EstimatorPayload,
    Payload,
    PayloadLimits,
    SamplerPayload,
    payload_from_untrusted,
)
from backends.qpy_outline import Bounds, check_qpy
from tests.errors import naming

LIMITS = PayloadLimits()


def read(data: bytes) -> Payload:
    return payload_from_untrusted(data, limits=LIMITS)


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def rich(*, variables: bool = False) -> QuantumCircuit:
    """A circuit with nearly everything that Qiskit writes into QPY."""
    qubits, bits = QuantumRegister(3, "q"), ClassicalRegister(3, "a")
    circuit = QuantumCircuit(qubits, bits)
    vector, angle = ParameterVector("v", 5), Parameter("p")
    circuit.rx(vector[0] * 2 + angle, 0)
    circuit.u(angle, vector[2] ** 2, 0.3, 1)
    circuit.unitary(random_unitary(4, seed=1).data, [0, 1])
    circuit.delay(100_000_000, 0)
    with circuit.if_test((bits, 3)) as other:
        circuit.x(0)
    with other, circuit.for_loop(range(3)):
        circuit.h(1)
    with circuit.while_loop((bits[0], 1)):
        circuit.measure(0, bits[0])
    with circuit.switch(bits) as case, case(1, 2):
        circuit.z(0)
    block = QuantumCircuit(2, name="QFT")
    block.h(0)
    block.cx(0, 1)
    circuit.append(block.to_gate(), [0, 1])
    circuit.append(block.to_gate().control(1, ctrl_state=0), [0, 1, 2])
    circuit.append(XGate().control(2, annotated=True), [0, 1, 2])
    circuit.append(PauliEvolutionGate(SparsePauliOp(["XX", "ZI"]), time=angle), [0, 1])
    circuit.append(QFTGate(3), [0, 1, 2])
    circuit.append(PermutationGate([2, 0, 1]), [0, 1, 2])
    circuit.append(MCPhaseGate(angle, 2), [0, 1, 2])
    circuit.append(DiagonalGate([1, -1, 1, 1]), [0, 1])
    circuit.append(UCRYGate([0.1, 0.2]), [0, 1])
    circuit.initialize([1, 0, 0, 0], [0, 1])
    flag = circuit.add_var("x", expr.lift(bits[0])) if variables else bits[0]
    with circuit.if_test(expr.logic_and(flag, bits[1])):
        circuit.x(0)
    circuit.measure(qubits, bits)
    return circuit


def goods() -> list[Payload]:
    turned = efficient_su2(2, reps=1)
    values = np.linspace(0, 1, 2 * turned.num_parameters).reshape(2, -1)
    terms = SparsePauliOp(["ZZ", "XI"], [0.5, -1])
    return [
        SamplerPayload.coerce([bell()], shots=100, seed=1),
        SamplerPayload.coerce([(rich(), [0.1, 0.2, 0.3]), bell()], shots=7),
        EstimatorPayload.coerce([(turned, [terms, "0+"], values)], precision=0.1, seed=3),
        EstimatorPayload.coerce([(turned, [[terms], ["lr"]], values)]),
    ]


GOODS = goods()
BYTES = [payload.to_bytes() for payload in GOODS]


@pytest.mark.parametrize("payload", GOODS)
def test_a_good_payload_is_what_it_was(payload: Payload) -> None:
    copy = read(payload.to_bytes())
    assert type(copy) is type(payload)
    assert copy.digest == payload.digest


@pytest.mark.parametrize("version", [17, 18])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_qiskit_writes_is_walked_through(version: int, seed: int) -> None:
    made = random_circuit(4, 6, measure=True, conditional=bool(seed % 2), reset=True, seed=seed)
    for circuit in (made, rich(variables=True)):
        whole = dumped(circuit, version)
        check_qpy(whole, Bounds())
        with pytest.raises(PayloadRejected):
            check_qpy(whole[: len(whole) // 2], Bounds())


def dumped(circuit: QuantumCircuit, version: int = qpy.common.QPY_VERSION) -> bytes:
    file = io.BytesIO()
    qpy.dump(circuit, file, version=version)
    return file.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(BYTES), st.data())
def test_mutated_bytes_raise_nothing_but_rejection(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["set", "ones", "cut", "insert", "double"])):
            case "set":
                damaged[at] = data.draw(st.integers(0, 255))
            case "ones":
                damaged[at : at + 4] = b"\xff" * 4
            case "cut":
                del damaged[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                damaged[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case _:
                damaged[at:at] = damaged[at : at + 64]
        if not damaged:
            break
    rejected_or_whole(bytes(damaged))


def rejected_or_whole(data: bytes) -> None:
    try:
        payload = read(data)
    except PayloadRejected:
        return
    assert payload.digest
    assert payload.circuits


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(BYTES), st.data())
def test_lies_in_the_header_raise_nothing_but_rejection(whole: bytes, data: st.DataObject) -> None:
    header, frames = unpack(whole)
    lie = data.draw(
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats()
        | st.text(max_size=3)
        | st.just([])
        | st.just({})
        | st.lists(st.integers(0, 9), max_size=3)
    )
    place, key = data.draw(st.sampled_from(places(header)))
    place[key] = lie
    rejected_or_whole(pack(header, frames))


def places(value: Any) -> list[tuple[Any, Any]]:
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = [(value, key) for key, _ in inside]
    for _, part in list(inside) if isinstance(value, dict) else enumerate(found and value):
        found += places(part)
    return found


def lied(payload: Payload, **fields: Any) -> bytes:
    header, frames = unpack(payload.to_bytes())
    entry = header["pubs"][0]
    for name, value in fields.items():
        (entry if name in entry else entry["fields"])[name] = value
    return pack(header, frames)


@pytest.mark.parametrize(
    ("payload", "fields", "message"),
    [
        (GOODS[0], {"shots": 0}, "shots 0"),
        (GOODS[0], {"shots": True}, "shots True"),
        (GOODS[0], {"shots": 1.5}, "shots 1.5"),
        (GOODS[0], {"shots": 10**18}, naming("shots", 10**18)),
        (GOODS[0], {"seed": -1}, "seed -1"),
        (GOODS[0], {"circuit": 1}, naming("circuit", 1)),
        (GOODS[0], {"circuit": -1}, naming("circuit", -1)),
        (GOODS[0], {"values": {"dtype": "<f8", "shape": [10**9, 0]}}, "points"),
        (GOODS[0], {"values": {"dtype": "<f8", "shape": [0, 0]}}, "empty"),
        (GOODS[0], {"values": {"dtype": "O", "shape": [0]}}, "float64"),
        (GOODS[0], {"values": {"dtype": "<f8", "shape": [1] * 40}}, "dimensions"),
        (GOODS[0], {"values": {"dtype": "<f8", "shape": [0, -1]}}, "shape"),
        (GOODS[2], {"precision": -1}, "precision -1"),
        (GOODS[2], {"precision": float("nan")}, "precision nan"),
        (GOODS[3], {"observables": [[]]}, "empty|broadcast"),
        (GOODS[2], {"observables": [{}, {}]}, "1"),
        (GOODS[2], {"observables": [{"ZZZ": 1.0}]}, "qubit"),
        (GOODS[2], {"observables": [{"AB": 1.0}]}, "qubit"),
        (GOODS[2], {"observables": [{"ZZ": float("inf")}]}, "finite"),
        (GOODS[2], {"observables": [{"ZZ": [1, 1]}]}, "finite"),
        (GOODS[2], {"observables": [[{"ZZ": 1.0}], []]}, "length"),
        (GOODS[2], {"observables": [{"ZZ": 1.0}] * 3}, "damaged payload"),  # does not broadcast
    ],
)
def test_what_a_client_could_lie_about(
    payload: Payload, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(PayloadRejected, match=message):
        read(lied(payload, **fields))


def test_headers_that_exhaust_a_parser() -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    for head in (deep, b'{"a":' * 100_000, b"1" * 100_000):
        with pytest.raises(PayloadRejected):
            read(b"HQC1" + struct.pack("<I", 1) + struct.pack("<Q", len(head)) + head)
    with pytest.raises(PayloadRejected, match="frames"):
        read(b"HQC1" + struct.pack("<I", 2**32 - 1) + bytes(80_000))
    nested: Any = {"ZZ": 1.0}
    for _ in range(200):
        nested = [nested]
    with pytest.raises(PayloadRejected, match="lists"):
        read(lied(GOODS[2], observables=nested))
    with pytest.raises(PayloadRejected, match="header"):
        read(b"HQC1" + struct.pack("<IQ", 1, 1 << 40) + json.dumps({}).encode())


def with_circuit(circuit: bytes) -> bytes:
    header, frames = unpack(BYTES[0])
    return pack(header, [circuit, *frames[1:]])


def refused(circuit: bytes, message: str | None = None) -> None:
    with pytest.raises(PayloadRejected, match=message):
        read(with_circuit(circuit))


def test_old_files_whose_loader_evaluates_expressions_are_refused() -> None:
    """CVE-2025-2000: Qiskit's reader of versions below 13 can be made to run code."""
    whole = bytearray(FrozenCircuit.of(bell()).qpy)
    for version in (1, 7, 10, 12):
        whole[6] = version
        refused(bytes(whole), naming("version", version))


def test_absurd_registers_are_refused_before_they_are_made() -> None:
    whole = dumped(QuantumCircuit(QuantumRegister(3, "q")))
    register = struct.pack("!c?IH?B", b"q", True, 3, 1, True, 1)
    assert register in whole
    huge = whole.replace(register, struct.pack("!c?IH?B", b"q", True, 2**32 - 1, 1, True, 1))
    refused(huge, naming(4294967295))


def test_absurd_vectors_of_parameters_are_refused_before_they_are_made() -> None:
    circuit = QuantumCircuit(1)
    circuit.rx(ParameterVector("v", 3)[0], 0)
    for version in (17, 18):
        whole = dumped(circuit, version)
        size = struct.pack("!HQ", 1, 3)
        assert size in whole
        refused(whole.replace(size, struct.pack("!HQ", 1, 2**40)), "vectors")


@pytest.mark.parametrize("name", ["NLocal", "OrGate", "_utils", "random", "System"])
def test_only_operations_are_looked_up_by_name(name: str) -> None:
    circuit = QuantumCircuit(2)
    circuit.ch(0, 1)
    renamed = dumped(circuit).replace(b"CHGate", name.encode())
    refused(renamed)


def test_a_gate_that_does_not_fit_its_wires_is_refused() -> None:
    circuit = QuantumCircuit(2)
    circuit.ch(0, 1)
    refused(dumped(circuit).replace(b"CHGate", b"SXGate"), naming("sx"))


def test_gates_made_of_gates_are_counted_as_often_as_they_occur() -> None:
    inner = QuantumCircuit(1, name="g")
    inner.x(0)
    for level in range(4):
        outer = QuantumCircuit(1, name=f"g{level}")
        gate = inner.to_gate()
        for _ in range(4):
            outer.append(gate, [0])
        inner = outer
    check_qpy(dumped(inner), Bounds(steps=1000))
    with pytest.raises(PayloadRejected, match=naming(300)):
        check_qpy(dumped(inner), Bounds(steps=300))


def test_loops_are_counted_as_often_as_they_turn() -> None:
    circuit = bell()
    with circuit.for_loop(range(10**12)):
        circuit.x(0)
    refused(dumped(circuit), "counted as often as they occur")


def test_control_flow_is_not_followed_into_the_deep() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    for _ in range(30):
        outer = QuantumCircuit(1, 1)
        outer.if_test((outer.clbits[0], 1), circuit, [0], [0])
        circuit = outer
    refused(dumped(circuit), "deep in each other")


def test_a_time_evolution_in_a_million_steps_is_refused() -> None:
    circuit = QuantumCircuit(2)
    gate = PauliEvolutionGate(SparsePauliOp(["XX"]), time=1, synthesis=LieTrotter(reps=10**6))
    circuit.append(gate, [0, 1])
    circuit.measure_all()
    refused(dumped(circuit), "time evolution")
