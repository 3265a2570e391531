"""The oldest packages that hpcqc allows still import and run a Bell circuit."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.analog.builder import RydbergPulse, rydberg_sequence
from backends.analog.devices import shipped_device
from backends.analog.waveforms import Waveform
from backends.api import TaskState, Waitable
from backends.child import installation
from backends.child.environment import Environment
from backends.child.installation import InstallationFailed, install
from backends.child.managed import managed_interpreter
from backends.lowering import NativeCompiler
from backends.payloads import AnalogPayload, AnnealingPayload, BinaryQuadraticModel
from backends.registry import packages_of
from orchestrator.transpile.moves import insert_moves
from tests.flat_devices import sampled

# What is newest runs in the other tests of vendors' software; what is oldest changes seldom.
pytestmark = [pytest.mark.vendor, pytest.mark.slow, pytest.mark.campaign]


def at_floor(requirement: str) -> str:
    name, floor = re.match(r"([^>]+)>=([^,]+)", requirement).groups()
    return f"{name}~={floor}" + ".0" * (floor.count(".") < 2)


def installed(tmp_path, monkeypatch, backend, oldest, **options):
    """Return a backend in an environment made for it."""
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
    return registry.create(backend, options, state_dir=tmp_path, environment=where)


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("aqt", {"offline": "ideal"}),
        ("braket", {}),
        ("ibm", {"device": "fake_manila", "noise": False}),
        ("iqm", {"fake": "deneb"}),
        ("qdmi", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("oldest", [True, False], ids=["oldest", "newest"])
def test_a_bell_circuit_runs(tmp_path, monkeypatch, backend, options, oldest) -> None:
    qpu = installed(tmp_path, monkeypatch, backend, oldest, **options)
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    bell.measure_all()
    target = qpu.target()
    native, _ = NativeCompiler(target).compile(bell)
    if target.resonator is not None:
        native = insert_moves(native, target.resonator)
    counts = sampled(qpu, [native], shots=100)[0].data.meas.get_counts()
    qpu.close()
    noisy = 20 if backend == "iqm" else 0  # a fake device alone has noise that cannot be left out
    assert counts.get("00", 0) + counts.get("11", 0) >= 100 - noisy
    assert min(counts.get("00", 0), counts.get("11", 0)) > 20


@pytest.mark.parametrize("oldest", [True, False], ids=["oldest", "newest"])
def test_a_pulse_of_pi_runs(tmp_path, monkeypatch, oldest) -> None:
    qpu = installed(tmp_path, monkeypatch, "pasqal", oldest)
    pulse = RydbergPulse(
        amplitude=Waveform.constant(1000, math.pi), detuning=Waveform.constant(1000, 0.0)
    )
    sequence = rydberg_sequence([(0, 0)], [pulse], shipped_device("analog"))
    task = qpu.start(qpu.acquire(), AnalogPayload.coerce([sequence], shots=100), "pi")
    assert isinstance(qpu, Waitable)
    assert qpu.wait(task, 60.0) is TaskState.COMPLETED
    (counts,) = qpu.result(task).native
    qpu.close()
    assert counts.counts.get("1", 0) > 90


@pytest.mark.parametrize("oldest", [True, False], ids=["oldest", "newest"])
def test_a_pair_of_spins_is_annealed(tmp_path, monkeypatch, oldest) -> None:
    qpu = installed(tmp_path, monkeypatch, "annealing", oldest)
    pair = BinaryQuadraticModel.of([0.5, 0.0], {(0, 1): -1.0}, vartype="SPIN")
    task = qpu.start(qpu.acquire(), AnnealingPayload.coerce([pair], reads=50), "pair")
    assert isinstance(qpu, Waitable)
    assert qpu.wait(task, 60.0) is TaskState.COMPLETED
    (found,) = qpu.result(task).native
    qpu.close()
    assert found.lowest.tolist() == [-1, -1]
    assert found.energies[0] == -1.5
