"""IBM's fake devices, simulated in this process by IBM's own client."""

from __future__ import annotations

import json

import numpy as np
import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.api import PayloadRejected
from backends.child.environment import Environment
from backends.circuits import FrozenCircuit
from backends.lowering import NativeCompiler
from backends.payloads import SamplerPayload
from backends.plugins import PluginUnusable
from backends.targets import target_from_json, target_to_json
from backends.testing import BackendConformance
from tests.errors import naming
from tests.flat_devices import sampled

pytest.importorskip("qiskit_ibm_runtime")
pytestmark = pytest.mark.vendor


class TestManila(BackendConformance):
    takes = frozenset({"sampler"})
    noise = 0.2

    @classmethod
    def make_backend(cls, state_dir):
        return registry.create("ibm", {"device": "fake_manila"}, state_dir=state_dir)


class TestManilaWithoutNoise(BackendConformance):
    takes = frozenset({"sampler"})

    @classmethod
    def make_backend(cls, state_dir):
        options = {"device": "fake_manila", "noise": False}
        return registry.create("ibm", options, state_dir=state_dir)


@pytest.mark.slow
class TestManilaInChild(TestManilaWithoutNoise):
    """The same in a process of its own, to which circuits go as payloads, branches included."""

    @classmethod
    def make_backend(cls, state_dir):
        options = {"device": "fake_manila", "noise": False}
        return registry.create(
            "ibm", options, state_dir=state_dir, environment=Environment.current()
        )


@pytest.fixture(scope="module")
def manila(tmp_path_factory):
    options = {"device": "fake_manila", "noise": False}
    backend = registry.create("ibm", options, state_dir=tmp_path_factory.mktemp("ibm"))
    yield backend
    backend.close()


def flipped() -> QuantumCircuit:
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.measure_all()
    return circuit


def test_a_flipped_qubit_0_of_three_is_001(manila) -> None:
    native, _ = NativeCompiler(manila.target()).compile(flipped())
    assert sampled(manila, [native], shots=20)[0].data.meas.get_counts() == {"001": 20}


def test_points_without_parameters_are_sampled_each(manila) -> None:
    """IBM's client alone would sample such a PUB once, and drop its shape."""
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    native, _ = NativeCompiler(manila.target()).compile(circuit)
    (pub,) = sampled(manila, [(native, np.empty((2, 3, 0)))], shots=50, seed=3)
    assert pub.data.shape == (2, 3)
    ones = [pub.data.meas.get_counts(at).get("1", 0) for at in np.ndindex(2, 3)]
    assert len(set(ones)) > 1, "each has a seed of its own"


def test_pubs_have_shots_of_their_own(manila) -> None:
    native, _ = NativeCompiler(manila.target()).compile(flipped())
    found = sampled(manila, [(native, None, 5), (native, None, 7)], shots=None)
    assert [pub.data.meas.num_shots for pub in found] == [5, 7]


def test_a_seed_gives_the_same_counts(tmp_path) -> None:
    backend = registry.create("ibm", {"device": "fake_manila"}, state_dir=tmp_path)
    native, _ = NativeCompiler(backend.target()).compile(flipped())
    first, second = (
        sampled(backend, [native], shots=4000, seed=7)[0].data.meas.get_counts() for _ in range(2)
    )
    backend.close()
    assert first == second


@pytest.mark.parametrize("device", ["fake_sherbrooke", "fake_fez", "fake_melbourne"])
def test_circuits_are_compiled_alike_on_both_sides_of_a_border(tmp_path, device) -> None:
    target = registry.create("ibm", {"device": device}, state_dir=tmp_path).target()
    again = target_from_json(json.loads(json.dumps(target_to_json(target))))
    assert again == target
    assert set(again.native.operation_names) == set(target.native.operation_names)
    assert again.native.dt == target.native.dt
    circuit = QuantumCircuit(4)
    circuit.h(0)
    for other in (1, 2, 3):
        circuit.cx(0, other)
    circuit.measure_all()
    ours, theirs = (NativeCompiler(known).compile(circuit)[0] for known in (target, again))
    assert FrozenCircuit.of(theirs).digest == FrozenCircuit.of(ours).digest


@pytest.mark.parametrize(
    ("device", "qubits", "shots", "circuits", "dynamic", "year"),
    [
        ("fake_sherbrooke", 127, 100_000, 300, True, 2025),
        ("fake_melbourne", 15, 8192, 75, False, 2021),
    ],
)
def test_the_target_is_that_of_the_snapshot(
    tmp_path, device, qubits, shots, circuits, dynamic, year
) -> None:
    target = registry.describe("ibm", {"device": device})
    assert target.num_qubits == qubits
    assert (target.max_shots, target.max_circuits) == (shots, circuits)
    assert target.mid_circuit_measurement is dynamic
    assert target.calibration.taken_at.year == year
    assert target.native.operation_names


def test_branches_that_the_device_lacks_are_refused(tmp_path) -> None:
    backend = registry.create("ibm", {"device": "fake_melbourne"}, state_dir=tmp_path)
    circuit = QuantumCircuit(1, 2)
    circuit.h(0)
    circuit.measure(0, 0)
    circuit.x(0)
    circuit.measure(0, 1)
    with pytest.raises(PayloadRejected, match=naming("fake_melbourne")):
        backend.start(backend.acquire(), SamplerPayload.coerce([circuit], shots=1), "t")
    backend.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, ["device"]),
        ({"device": "fake_manilla"}, ["fake_manilla", "fake_manila"]),
        ({"device": "fake_manila", "nois": False}, ["nois", "noise"]),
        ({"device": "fake_manila", "noise": "no"}, ["noise", "no"]),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, named) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        registry.create("ibm", options, state_dir=tmp_path)
