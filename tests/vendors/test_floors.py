"""The oldest packages that hpcqc allows still import and run a Bell circuit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.child import installation
from backends.child.environment import Environment
from backends.child.installation import InstallationFailed, install
from backends.child.managed import managed_interpreter
from backends.registry import packages_of
from tests.flat_devices import sampled

pytestmark = [pytest.mark.vendor, pytest.mark.slow]


def at_floor(requirement: str) -> str:
    return re.sub(r">=([^,]+).*", r"~=\1.0", requirement)


@pytest.mark.parametrize("backend", ["qdmi", "braket"])
@pytest.mark.parametrize("oldest", [True, False], ids=["oldest", "newest"])
def test_a_bell_circuit_runs(tmp_path, monkeypatch, backend, oldest) -> None:
    packages = packages_of(backend)
    if oldest:
        floors = tuple(map(at_floor, packages.requirements))
        packages = replace(packages, requirements=floors)
    monkeypatch.setattr(installation, "packages_of", lambda _name: packages)
    try:
        install(backend, tmp_path / "environments")
    except InstallationFailed as error:
        if "cannot be reached" in str(error):
            pytest.skip(str(error))
        raise
    where = Environment(interpreter=str(managed_interpreter(tmp_path / "environments", backend)))
    qpu = registry.create(backend, {}, state_dir=tmp_path, environment=where)
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    bell.measure_all()
    counts = sampled(qpu, [bell], shots=100)[0].data.meas.get_counts()
    qpu.close()
    assert set(counts) == {"00", "11"}
