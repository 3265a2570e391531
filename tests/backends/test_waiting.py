"""What happens to qubits that wait: decay against theory, stated times and idle ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Delay, Parameter
from qiskit.quantum_info import DensityMatrix, state_fidelity

from backends.aer import create
from backends.api import PayloadRejected
from backends.delays import check_delays, delay_seconds, with_idle_times
from backends.error_rates import Coherence
from backends.noise import device_noise
from backends.payloads import EstimatorPayload, SamplerPayload
from backends.profiles import load_profile, shipped
from tests.patience import PATIENCE_S

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9, "ps": 1e12}


def relaxing_only(t1_s, t2_s, **changes):
    """A device whose gates are perfect, so that waiting is all that errs."""
    profile = load_profile("helmi")
    gates = tuple(dataclasses.replace(gate, error=0.0) for gate in profile.gates)
    coherence = Coherence(t1_s=t1_s, t2_s=t2_s)
    return dataclasses.replace(profile, gates=gates, coherence=coherence, **changes)


def state_after(circuit, profile):
    return DensityMatrix.from_instruction(device_noise(profile).waited(circuit))


def random_times(seed):
    rng = np.random.default_rng(seed)
    t1_s = 10 ** rng.uniform(-5, -3)
    t2_s = t1_s * rng.uniform(0.1, 2.0)
    unit = str(rng.choice(list(UNITS)))
    return t1_s, t2_s, t1_s * rng.uniform(0.05, 3.0), unit


@pytest.mark.parametrize("seed", range(8))
def test_an_excited_qubit_decays_with_t1(seed):
    t1_s, t2_s, time_s, unit = random_times(seed)
    circuit = QuantumCircuit(2)
    circuit.x(1)
    circuit.delay(time_s * UNITS[unit], 1, unit=unit)
    excited = state_after(circuit, relaxing_only(t1_s, t2_s)).probabilities([1])[1]
    assert excited == pytest.approx(np.exp(-time_s / t1_s))


@pytest.mark.parametrize("echo", [False, True], ids=["Ramsey", "Hahn"])
@pytest.mark.parametrize("seed", range(8))
def test_a_superposition_decays_with_t2(seed, echo):
    t1_s, t2_s, time_s, unit = random_times(seed)
    circuit = QuantumCircuit(1)
    circuit.h(0)
    for _ in range(2):
        circuit.delay(time_s / 2 * UNITS[unit], 0, unit=unit)
        if echo:
            circuit.x(0)
    circuit.h(0)
    back = state_after(circuit, relaxing_only(t1_s, t2_s)).probabilities()[0]
    assert back == pytest.approx((1 + np.exp(-time_s / t2_s)) / 2)


@pytest.mark.parametrize("seed", range(6))
def test_a_ghz_state_that_waits_loses_fidelity_as_its_qubits_relax(seed):
    t1_s, t2_s, time_s, _ = random_times(seed)
    width = 4
    ghz = QuantumCircuit(width)
    ghz.h(0)
    for qubit in range(1, width):
        ghz.cx(0, qubit)
    ideal = DensityMatrix.from_instruction(ghz)
    for qubit in range(width):
        ghz.delay(time_s, qubit, unit="s")
    kept = np.exp(-time_s / t1_s)
    ends = (1 + (1 - kept) ** width + kept**width) / 4
    expected = ends + np.exp(-width * time_s / t2_s) / 2
    found = state_fidelity(ideal, state_after(ghz, relaxing_only(t1_s, t2_s)))
    assert found == pytest.approx(expected)


def test_the_resonator_waits_with_its_own_times():
    star = load_profile("vlq")
    circuit = QuantumCircuit(25)
    circuit.delay(3.0, 24, unit="us")
    circuit.delay(3.0, 7, unit="us")
    kraus = [step.operation.params for step in device_noise(star).waited(circuit).data]
    kept = [abs(operators[0][1, 1]) ** 2 for operators in kraus]
    assert kept[0] == pytest.approx(np.exp(-3e-6 / star.resonator_coherence.t1_s))
    assert len(kraus[1]) > len(kraus[0])  # with T2 = 2·T1 there is damping and nothing else


@pytest.mark.parametrize("unit", UNITS)
def test_a_delay_lasts_as_long_in_any_unit(unit):
    assert delay_seconds(Delay(2.5e-7 * UNITS[unit], unit)) == pytest.approx(2.5e-7)


@pytest.mark.parametrize(
    "delay",
    [
        Delay(100, "dt"),
        Delay(Parameter("t"), "us"),
        Delay(float("nan"), "s"),
        Delay(float("inf"), "s"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", shipped())
def test_a_delay_of_no_known_length_is_refused_before_anything_runs(name, delay, nested):
    circuit = QuantumCircuit(1, 1)
    if nested:
        circuit.measure(0, 0)
        with circuit.if_test((circuit.clbits[0], 1)):
            circuit.append(delay, [0])
    else:
        circuit.append(delay, [0])
        circuit.measure(0, 0)
    target = load_profile(name).target()
    with pytest.raises(PayloadRejected, match="delay"):
        check_delays(circuit, target)
    check_delays(circuit, dataclasses.replace(target, native=None))  # an ideal simulator


def random_native(rng, width):
    circuit = QuantumCircuit(width, width)
    for _ in range(25):
        match rng.integers(4):
            case 0:
                circuit.cz(*(int(q) for q in rng.choice(width, 2, replace=False)))
            case 1:
                circuit.barrier()
            case 2:
                circuit.delay(float(rng.uniform(0, 3)), int(rng.integers(width)), unit="us")
            case _:
                circuit.r(0.1, 0.2, int(rng.integers(width)))
    circuit.measure(range(width), range(width))
    return circuit


@pytest.mark.parametrize("seed", range(10))
def test_with_idle_times_the_qubits_of_an_instruction_are_there_together(seed):
    durations = {"r": 4e-8, "cz": 1.2e-7, "measure": 1e-6}
    plain = random_native(np.random.default_rng(seed), 4)
    timed = with_idle_times(plain, durations)
    left = dict.fromkeys(timed.qubits, 0.0)
    for step in reversed(timed.data):
        ends = [left[qubit] for qubit in step.qubits]
        assert max(ends) - min(ends) < 1e-12
        waits = step.name == "delay"
        seconds = delay_seconds(step.operation) if waits else durations.get(step.name, 0.0)
        left.update(dict.fromkeys(step.qubits, max(ends) + seconds))
    gates = [step for step in timed.data if step.name != "delay"]
    assert gates == [step for step in plain.data if step.name != "delay"]


@pytest.mark.parametrize("idle", [False, True])
def test_idle_qubits_relax_where_the_profile_says_so(idle):
    t1_s, gates = 30e-6, 40
    profile = relaxing_only(t1_s, t1_s, idle_relaxation=idle)
    circuit = QuantumCircuit(3)
    circuit.r(np.pi, 0.0, 0)
    circuit.cz(0, 1)
    for _ in range(gates):
        circuit.r(np.pi, 0.0, 1)
    circuit.barrier()
    circuit.r(np.pi, 0.0, 2)
    waited_s = gates * profile.durations_s["r"]
    # Nothing comes after the barrier on qubit 0 but the pulse that qubit 2 has then.
    waited_s += profile.durations_s["r"]
    excited = state_after(circuit, profile).probabilities([0])[1]
    assert excited == pytest.approx(np.exp(-waited_s / t1_s) if idle else 1.0)


def test_idle_relaxation_is_another_calibration():
    profile = load_profile("vlq")
    other = dataclasses.replace(profile, idle_relaxation=True)
    assert other.calibration.id != profile.calibration.id


def bench(folder, *, site_transpiles):
    file = folder / "bench.toml"
    file.write_text(
        f"""
name = "bench"
title = "three qubits that relax"
[device]
qubits = 3
coupling = ["ooo"]
site_transpiles = {str(site_transpiles).lower()}
[gates]
r = {{ duration_s = 0.0, error = 0.0 }}
cz = {{ duration_s = 0.0, error = 0.0 }}
[coherence]
t1_s = 30e-6
t2_s = 40e-6
[readout]
zero_as_one = 0.0
one_as_zero = 0.0
[limits]
payloads = ["sampler", "estimator"]
precision = "exact"
[calibration]
taken_at = 2026-11-01T00:00:00Z
"""
    )
    return str(file)


def run(folder, payload, options):
    backend = create(options, state_dir=folder)
    try:
        task = backend.start(backend.acquire(), payload, "task")
        backend.wait(task, PATIENCE_S)
        return backend.result(task).native
    finally:
        backend.close()


def excited_for(time_us, measured):
    circuit = QuantumCircuit(1)
    circuit.r(np.pi, 0.0, 0)
    circuit.delay(time_us, 0, unit="us")
    if measured:
        circuit.measure_all()
    return circuit


@pytest.mark.slow
@pytest.mark.parametrize("site_transpiles", [False, True])
def test_sampler_and_estimator_see_the_decay(tmp_path, site_transpiles):
    options = {"profile": bench(tmp_path, site_transpiles=site_transpiles)}
    times_us, shots = [0.0, 10.0, 45.0], 4000
    expected = np.exp(-np.array(times_us) / 30)
    for kind, pubs in (
        ("estimator", [(excited_for(t, False), "Z") for t in times_us]),
        ("sampler", [(excited_for(t, True), None, shots) for t in times_us]),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        if kind == "estimator":
            native = run(folder, EstimatorPayload.coerce(pubs), options)
            found = [(1 - float(pub.data.evs)) / 2 for pub in native]
            assert found == pytest.approx(expected, abs=1e-9)
            continue
        native = run(folder, SamplerPayload.coerce(pubs, seed=3), options)
        found = [pub.data.meas.get_counts().get("1", 0) / shots for pub in native]
        assert found == pytest.approx(expected, abs=5 * 0.5 / shots**0.5)


@pytest.mark.slow
def test_a_delay_in_a_branch_relaxes_its_qubit(tmp_path):
    options = {"profile": bench(tmp_path, site_transpiles=False), "method": "statevector"}
    circuit = QuantumCircuit(2, 2)
    circuit.r(np.pi, 0.0, [0, 1])
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.delay(30.0, 1, unit="us")
    circuit.measure(1, 1)
    shots = 4000
    payload = SamplerPayload.coerce([(circuit, None, shots)], seed=4)
    (pub,) = run(tmp_path, payload, options)
    counts = pub.join_data().get_counts()
    assert counts.get("11", 0) / shots == pytest.approx(np.exp(-1), abs=5 * 0.5 / shots**0.5)


@pytest.mark.slow
def test_an_ideal_simulator_takes_delays_and_does_not_change(tmp_path):
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.delay(100, 0, unit="dt")
    circuit.delay(1.0, 0, unit="s")
    circuit.measure_all()
    (pub,) = run(tmp_path, SamplerPayload.coerce([(circuit, None, 50)]), {})
    assert pub.data.meas.get_counts() == {"1": 50}
