"""Braket's state vector simulator, whose SDK cannot be installed beside hpcqc."""

from __future__ import annotations

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.braket.openqasm import GATES
from backends.plugins import PluginUnusable
from backends.testing import BackendConformance
from tests.errors import naming
from tests.flat_devices import check_bit_order, check_gate, sampled
from tests.vendors.environments import environment_or_skip

pytestmark = pytest.mark.vendor
ENVIRONMENT = environment_or_skip("braket")


class TestBraketInChild(BackendConformance):
    takes = frozenset({"sampler"})

    @classmethod
    def make_backend(cls, state_dir):
        return registry.create("braket", {}, state_dir=state_dir, environment=ENVIRONMENT)


@pytest.fixture(scope="module", params=["braket_sv", "braket_dm"])
def simulator(tmp_path_factory, request):
    backend = registry.create(
        "braket",
        {"simulator": request.param},
        state_dir=tmp_path_factory.mktemp("braket"),
        environment=ENVIRONMENT,
    )
    yield backend
    backend.close()


@pytest.mark.parametrize("name", GATES)
def test_each_gate_means_what_qiskit_means(simulator, name) -> None:
    check_gate(simulator, name)


def test_bits_come_in_qiskits_order(simulator) -> None:
    check_bit_order(simulator)


def test_idle_qubits_take_no_memory(simulator) -> None:
    circuit = QuantumCircuit(simulator.target().num_qubits, 1)
    circuit.x(circuit.num_qubits - 1)
    circuit.measure(circuit.num_qubits - 1, 0)
    assert sampled(simulator, [circuit], shots=10)[0].data.c.get_counts() == {"1": 10}


def test_an_unknown_simulator_is_refused(tmp_path) -> None:
    options = {"simulator": "braket_ahs"}
    with pytest.raises(PluginUnusable, match=naming("braket_ahs", "braket_sv")):
        registry.create("braket", options, state_dir=tmp_path, environment=ENVIRONMENT)
