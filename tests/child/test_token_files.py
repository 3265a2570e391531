"""A backend in a process of its own reads the file of its token again, as one in this process does."""

from __future__ import annotations

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.api import TaskState
from backends.child.environment import Environment
from backends.lowering import NativeCompiler
from backends.payloads import SamplerPayload
from tests.patience import until
from tests.rehearsed import rehearsed

pytestmark = pytest.mark.slow


def test_a_token_that_was_renewed_in_its_file_is_used(tmp_path) -> None:
    with rehearsed("euro-q-exa", tmp_path / "site") as site:
        backend = registry.create(
            "iqm",
            site.options,
            state_dir=tmp_path / "state",
            environment=Environment.current(),
        )
        circuit = QuantumCircuit(1)
        circuit.x(0)
        circuit.measure_all()
        native, _ = NativeCompiler(backend.target()).compile(circuit)
        work = SamplerPayload.coerce([native], shots=10)
        site.misbehave("renew:submit:1", "renew:status:1")
        task = backend.start(backend.acquire(), work, "renewed")
        assert until(lambda: backend.status(task) is TaskState.COMPLETED)
        backend.close()
