"""Analog sequences through the broker: cut between shots, merged, reused, refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qiskit import QuantumCircuit

from backends.api import PayloadRejected
from hpcqc import AnalogSampler, Qpu, RydbergPulse, Waveform, open_qpu, rydberg_sequence
from orchestrator import runs
from orchestrator.config.loading import load_site
from orchestrator.resources import shutdown
from orchestrator.runs import Run
from tests.errors import naming

SITE = """
[site]
default_qpu = "atoms"

[qpu.atoms]
backend = "rydberg"
"""


@pytest.fixture
def qpu(tmp_path: Path) -> Iterator[Qpu]:
    site, state = tmp_path / "hpcqc.toml", tmp_path / "state"
    site.write_text(SITE)
    state.mkdir()
    runs.activate(Run(id="analog", site=load_site(site, environ={"HPCQC_STATE_DIR": str(state)})))
    yield open_qpu()
    shutdown()
    runs.activate(None)


def pair(qpu: Qpu, duration_ns: int = 1000) -> str:
    assert qpu.target.rydberg is not None
    pulse = RydbergPulse(
        amplitude=Waveform.interpolated(duration_ns, [0.0, 6.0, 0.0]),
        detuning=Waveform.ramp(duration_ns, -10.0, 10.0),
    )
    return rydberg_sequence({"a": (0, 0), "b": (6, 0)}, [pulse], qpu.target.rydberg)


def test_a_job_is_cut_between_its_shots_and_merged(qpu: Qpu) -> None:
    job = AnalogSampler(qpu, seed=5).run([(pair(qpu), 5000), pair(qpu, 400)], shots=30)
    first, second = job.result()
    assert first.atoms == second.atoms == ("a", "b")
    assert (first.shots, second.shots) == (5000, 30)
    view = job.view()
    assert view.kind == "analog"
    assert len(view.tasks) >= 3  # the device takes 2000 shots
    assert (view.usage.shots, view.num_qubits) == (5030, 2)
    assert view.usage.qpu_seconds > 1000  # 0.2 s for each shot
    assert qpu.target.timing is not None
    predicted_s = qpu.target.timing.duration_s(circuits=2, shots=5030, num_qubits=2)
    assert view.usage.qpu_seconds == pytest.approx(predicted_s, rel=1e-3)


def test_equal_jobs_share_a_result(qpu: Qpu) -> None:
    sampler = qpu.analog_sampler(reuse=True, default_shots=70)
    assert sampler.default_shots == 70
    first = sampler.run([pair(qpu)]).result()
    assert sampler.run([pair(qpu)]).result() == first
    assert first[0].shots == 70


def test_what_cannot_run_is_refused_before_it_is_submitted(qpu: Qpu) -> None:
    with pytest.raises(PayloadRejected, match=naming(60, 70)):
        qpu.analog_sampler().run([pair(qpu).replace('"rydberg_level":60', '"rydberg_level":70')])
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    with pytest.raises(PayloadRejected, match=naming("sampler", "analog")):
        qpu.sampler().run([circuit])


def test_circuits_machines_refuse_sequences(qpu: Qpu, tmp_path: Path) -> None:
    sequence = pair(qpu)
    shutdown()
    site = tmp_path / "hpcqc.toml"
    site.write_text('[qpu.atoms]\nbackend = "fake"\n')
    state = {"HPCQC_STATE_DIR": str(tmp_path / "other")}
    runs.activate(Run(id="circuits", site=load_site(site, environ=state)))
    with pytest.raises(PayloadRejected, match=naming("analog", "sampler")):
        open_qpu("atoms").analog_sampler().run([sequence])
