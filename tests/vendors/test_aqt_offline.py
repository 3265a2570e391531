"""AQT's offline simulators, which AQT's own provider runs in an environment of its own."""

from __future__ import annotations

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.lowering import NativeCompiler
from backends.plugins import PluginUnusable
from backends.testing import BackendConformance
from tests.errors import naming
from tests.flat_devices import sampled
from tests.vendors.environments import environment_or_skip

pytestmark = [pytest.mark.vendor, pytest.mark.slow]
ENVIRONMENT = environment_or_skip("aqt")


class TestOfflineIdeal(BackendConformance):
    takes = frozenset({"sampler"})
    offline = "ideal"

    @classmethod
    def make_backend(cls, state_dir):
        options = {"offline": cls.offline}
        return registry.create("aqt", options, state_dir=state_dir, environment=ENVIRONMENT)


class TestOfflineNoisy(TestOfflineIdeal):
    offline = "noisy"
    noise = 0.1


@pytest.mark.parametrize("offline", ["ideal", "noisy"])
def test_a_flipped_qubit_0_of_three_is_001(tmp_path, offline) -> None:
    options = {"offline": offline}
    target = registry.describe("aqt", options, environment=ENVIRONMENT)
    assert (target.num_qubits, target.max_shots) == (20, 2000)
    backend = registry.create("aqt", options, state_dir=tmp_path, environment=ENVIRONMENT)
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.measure_all()
    native, _ = NativeCompiler(target).compile(circuit)
    counts = sampled(backend, [native], shots=200)[0].data.meas.get_counts()
    backend.close()
    assert max(counts, key=counts.get) == "001"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"offline": "noisey"}, ["noisey", "noisy"]),
        ({"offline": "noisy", "url": "https://h"}, ["noisy", "offline"]),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, named) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        registry.create("aqt", options, state_dir=tmp_path)
