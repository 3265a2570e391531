"""Flat circuits: what a payload states comes to the device, and counts come back as bits."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.quantum_info import Operator

from backends.api import PayloadRejected
from backends.devices.api import FlatResult, bound_steps, point_seed
from backends.devices.coding import (
    job_from_frames,
    job_to_frames,
    result_from_json,
    result_to_json,
)
from backends.devices.flatten import PubLayout, flat_job, layouts, native_result
from backends.frames import pack, unpack
from backends.payloads import SamplerPayload
from backends.payloads.sampler import SEED_STRIDE
from backends.qdmi.openqasm import GATES, openqasm
from tests.errors import naming

GATE = get_standard_gate_name_mapping()
ANGLE = st.floats(-10, 10, allow_nan=False)


@st.composite
def circuits(draw):
    """A circuit of native gates with up to two parameters, not measured."""
    free = [Parameter("a"), Parameter("b")]
    angle = ANGLE | st.sampled_from([*free, 2 * free[0], free[0] - free[1] / 3])
    circuit = QuantumCircuit(3)
    for name in draw(st.lists(st.sampled_from(GATES), max_size=8)):
        known = GATE[name]
        params = [draw(angle) for _ in known.params]
        qubits = draw(st.permutations(range(3)))[: known.num_qubits]
        circuit.append(known.base_class(*params), qubits)
    return circuit


def travelled(job):
    header, frames = job_to_frames(job)
    return job_from_frames(*unpack(pack(header, frames)))


@given(circuits(), st.lists(st.tuples(ANGLE, ANGLE), min_size=1, max_size=3))
def test_flat_steps_are_the_circuit_at_each_point(circuit, rows) -> None:
    measured = circuit.copy()
    measured.measure_all()
    values = np.array(rows)[:, : circuit.num_parameters]
    if circuit.num_parameters == 1 and circuit.parameters[0].name == "b":
        values = np.array(rows)[:, :1]
    payload = SamplerPayload.coerce([(measured, values)], shots=1)
    (pub,) = travelled(flat_job(payload)).pubs
    for point, row in enumerate(values):
        rebuilt = QuantumCircuit(3)
        for name, qubits, _, angles in bound_steps(pub, point):
            if name not in ("barrier", "measure"):
                rebuilt.append(GATE[name].base_class(*angles), qubits)
        bound = circuit.assign_parameters(row) if circuit.num_parameters else circuit
        assert Operator(rebuilt).equiv(Operator(bound))


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 20),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_counts_come_back_in_their_registers(sizes, shots, points, random) -> None:
    circuit = QuantumCircuit(1)
    for number, size in enumerate(sizes):
        circuit.add_register(ClassicalRegister(size, f"r{number}"))
    width = sum(sizes)
    for bit in range(width):
        circuit.measure(0, bit)
    angle = Parameter("a")
    circuit.rx(angle, 0)
    payload = SamplerPayload.coerce([(circuit, [[float(p)] for p in range(points)])], shots=shots)
    outcomes = [
        Counter("".join(random.choice("01") for _ in range(width)) for _ in range(shots))
        for _ in range(points)
    ]
    sent = travelled(flat_job(payload)).layouts  # and stored by the device, for a later process
    found = FlatResult(counts=(tuple(outcomes),), layouts=json.loads(json.dumps(sent)))
    result = result_from_json(result_to_json(found))
    read = tuple(map(PubLayout.from_json, result.layouts))
    assert read == layouts(payload)
    (pub,) = native_result(result, read)
    bounds = [0, *np.cumsum(sizes)]
    for point, counts in enumerate(outcomes):
        for number, (first, last) in enumerate(pairwise(bounds)):
            expected: Counter[str] = Counter()
            for outcome, times in counts.items():
                expected[outcome[::-1][first:last][::-1]] += times
            assert pub.data[f"r{number}"].get_counts(point) == dict(expected)
    assert pub.data.shape == (points,)


@pytest.mark.parametrize(
    "counts", [{"0": 9}, {"00": 10}, {"2": 10}, {"0": 11, "1": -1}, {}, {"": 10}]
)
def test_counts_that_do_not_fit_are_an_error(counts) -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    payload = SamplerPayload.coerce([circuit], shots=10)
    with pytest.raises(ValueError, match=r"(?s)."):
        native_result(FlatResult(counts=((counts,),)), layouts(payload))


@pytest.mark.parametrize(
    "stated", [{}, {"shape": 1}, {"shape": [], "num_qubits": 1, "registers": [1]}, [], None]
)
def test_a_layout_that_is_none_is_an_error(stated) -> None:
    with pytest.raises(ValueError, match="layout"):
        PubLayout.from_json(stated)


def test_control_flow_is_refused() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    with circuit.if_test((0, 1)):
        circuit.x(0)
    with pytest.raises(PayloadRejected, match=naming("if_else", 0)):
        flat_job(SamplerPayload.coerce([circuit], shots=1))


def test_a_delay_travels_in_seconds() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.delay(50, 0, unit="ns")
    circuit.measure(0, 0)
    (pub,) = flat_job(SamplerPayload.coerce([circuit], shots=1)).pubs
    name, _, _, (length,) = next(bound_steps(pub, 0))
    assert name == "delay"
    assert math.isclose(length, 50e-9)


def test_seeds_follow_the_payloads_rule() -> None:
    angle = Parameter("a")
    circuit = QuantumCircuit(1, 1)
    circuit.rx(angle, 0)
    circuit.measure(0, 0)
    (pub,) = flat_job(SamplerPayload.coerce([(circuit, [[0.0], [1.0]])], shots=1, seed=5)).pubs
    assert [point_seed(pub, point) for point in range(2)] == [5, 5 + SEED_STRIDE]


@pytest.mark.parametrize("drop", [1, 8])
def test_angles_that_do_not_fit_the_steps_are_an_error(drop) -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.rx(0.5, 0)
    circuit.measure(0, 0)
    header, (frame,) = job_to_frames(flat_job(SamplerPayload.coerce([circuit], shots=1)))
    with pytest.raises(ValueError, match=naming(8 - drop)):
        job_from_frames(header, [frame[:-drop]])


def test_a_gate_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(PayloadRejected, match=naming("ccx")):
        openqasm(3, [("ccx", (0, 1, 2), (), ())], {})
