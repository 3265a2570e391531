"""IQM's fake devices, which IQM's own client simulates in an environment of its own."""

from __future__ import annotations

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.lowering import NativeCompiler
from backends.plugins import PluginUnusable
from backends.testing import BackendConformance
from orchestrator.transpile.moves import insert_moves
from tests.errors import naming
from tests.flat_devices import sampled
from tests.vendors.environments import environment_or_skip

pytestmark = [pytest.mark.vendor, pytest.mark.slow]
ENVIRONMENT = environment_or_skip("iqm")


def native(circuit, target):
    compiled, layout = NativeCompiler(target).compile(circuit)
    return compiled if target.resonator is None else insert_moves(
        compiled, target.resonator
    ), layout


class TestFakeStar(BackendConformance):
    takes = frozenset({"sampler"})
    noise = 0.25
    fake = "deneb"

    @classmethod
    def make_backend(cls, state_dir):
        options = {"fake": cls.fake}
        return registry.create("iqm", options, state_dir=state_dir, environment=ENVIRONMENT)

    def native(self, circuit, target):
        return native(circuit, target)


@pytest.mark.campaign  # the bit order below is read on both
class TestFakeLattice(TestFakeStar):
    fake = "adonis"


@pytest.mark.parametrize(("fake", "qubits"), [("deneb", 6), ("adonis", 5)])
def test_a_flipped_qubit_0_of_three_is_001(tmp_path, fake, qubits) -> None:
    options = {"fake": fake}
    target = registry.describe("iqm", options, environment=ENVIRONMENT)
    assert target.num_qubits == qubits
    backend = registry.create("iqm", options, state_dir=tmp_path, environment=ENVIRONMENT)
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.measure_all()
    counts = sampled(backend, [native(circuit, target)[0]], shots=200)[0].data.meas.get_counts()
    backend.close()
    assert max(counts, key=counts.get) == "001"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"fake": "denebb"}, ["denebb", "deneb"]),
        ({"fake": "deneb", "url": "https://h"}, ["deneb", "fake"]),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, named) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        registry.create("iqm", options, state_dir=tmp_path)
