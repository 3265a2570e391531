"""DDSIM and the described machines of QDMI, in a managed environment."""

from __future__ import annotations

import math

import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from backends import registry
from backends.api import PayloadRejected
from backends.lowering import NativeCompiler
from backends.payloads import SamplerPayload
from backends.plugins import PluginUnusable
from backends.qdmi.openqasm import GATES
from backends.testing import BackendConformance
from tests.errors import naming
from tests.flat_devices import check_bit_order, check_gate, sampled
from tests.vendors.environments import environment_or_skip

pytestmark = pytest.mark.vendor
ENVIRONMENT = environment_or_skip("qdmi")


class TestDdsimInChild(BackendConformance):
    takes = frozenset({"sampler"})

    @classmethod
    def make_backend(cls, state_dir):
        return registry.create("qdmi", {}, state_dir=state_dir, environment=ENVIRONMENT)


@pytest.fixture(scope="module")
def ddsim(tmp_path_factory):
    backend = registry.create(
        "qdmi",
        {},
        state_dir=tmp_path_factory.mktemp("qdmi"),
        environment=ENVIRONMENT,
    )
    yield backend
    backend.close()


@pytest.mark.parametrize("name", GATES)
def test_each_gate_means_what_qiskit_means(ddsim, name) -> None:
    check_gate(ddsim, name)


def test_bits_come_in_qiskits_order(ddsim) -> None:
    check_bit_order(ddsim)


def test_parameters_are_bound_at_each_point(ddsim) -> None:
    angle = Parameter("a")
    circuit = QuantumCircuit(2)
    circuit.rx(angle, 0)
    circuit.rx(math.pi - angle, 1)
    circuit.measure_all()
    (pub,) = sampled(ddsim, [(circuit, [[0.0], [math.pi]])], shots=10)
    assert pub.data.meas.get_counts(0) == {"10": 10}
    assert pub.data.meas.get_counts(1) == {"01": 10}


def test_a_seed_gives_the_same_counts(ddsim) -> None:
    circuit = QuantumCircuit(3)
    circuit.h(range(3))
    circuit.measure_all()
    first, second = (
        sampled(ddsim, [circuit], shots=4000, seed=7)[0].data.meas.get_counts() for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("device", "qubits"), [("mqt.sc.iqm.garnet", 20), ("mqt.sc.ibm.heron", 156)]
)
def test_a_described_machine_is_a_target_and_runs_nothing(tmp_path, device, qubits) -> None:
    where = ENVIRONMENT
    target = registry.describe("qdmi", {"device": device}, environment=where)
    assert target.num_qubits == qubits
    assert target.coupling
    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.cx(1, 2)
    circuit.measure_all()
    native, _ = NativeCompiler(target).compile(circuit)
    backend = registry.create("qdmi", {"device": device}, state_dir=tmp_path, environment=where)
    with pytest.raises(PayloadRejected, match=naming(device)):
        backend.start(backend.acquire(), SamplerPayload.coerce([native], shots=1), "t")
    backend.close()


def test_an_unknown_device_is_refused(tmp_path) -> None:
    options = {"device": "mqt.ddsim.defualt"}
    with pytest.raises(PluginUnusable, match=naming("mqt.ddsim.defualt", "mqt.ddsim.default")):
        registry.create("qdmi", options, state_dir=tmp_path, environment=ENVIRONMENT)
