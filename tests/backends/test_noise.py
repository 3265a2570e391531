import dataclasses
import warnings

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import SuperOp, average_gate_fidelity

from backends.error_rates import Coherence, depolarising_parameter, relaxation
from backends.gates import MoveGate
from backends.lowering import NativeCompiler
from backends.noise import device_noise
from backends.profiles import NativeGate, Readout, load_profile, shipped
from tests.backends.profile_files import thermal_error

SHOTS = 40_000
# Five standard errors of a mean of ±1 values.
TOLERANCE = 5 / SHOTS**0.5


def counts_of(circuit, profile, method="density_matrix"):
    from qiskit_aer import AerSimulator

    noise = device_noise(profile)
    simulator = AerSimulator(noise_model=noise.model, method=method, seed_simulator=11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Aer's own, of names Qiskit will rename
        return simulator.run(noise.damped(circuit), shots=SHOTS).result().get_counts()


def channel_of(profile, name):
    """The whole error of a gate: what Aer draws, and the damping that follows."""
    noise = device_noise(profile)
    error = noise.model._default_quantum_errors.get(name)
    if error is None:
        return None
    damping = QuantumCircuit(error.num_qubits)
    for qubit, instruction in enumerate(noise.dampings.get(name, ())):
        if instruction is not None:
            damping.append(instruction, [qubit])
    return SuperOp(error).compose(SuperOp(damping))


def parity(circuit, profile):
    """Mean of the product of all measured signs."""
    counts = counts_of(circuit, profile)
    return sum(n * (-1) ** bits.count("1") for bits, n in counts.items()) / SHOTS


def relaxing_nothing(profile, **changes):
    return dataclasses.replace(profile, coherence=None, resonator_coherence=None, **changes)


def native_bell():
    bell = QuantumCircuit(2, 2)
    bell.r(1.5707963267948966, 1.5707963267948966, [0, 1])
    bell.cz(0, 1)
    bell.r(-1.5707963267948966, 1.5707963267948966, 1)
    bell.measure([0, 1], [0, 1])
    return bell


def star_bell():
    bell = QuantumCircuit(3, 2)
    bell.r(1.5707963267948966, 1.5707963267948966, [0, 1])
    bell.append(MoveGate(), [0, 2])
    bell.cz(1, 2)
    bell.append(MoveGate(), [0, 2])
    bell.r(-1.5707963267948966, 1.5707963267948966, 1)
    bell.measure([0, 1], [0, 1])
    return bell


def fades(profile):
    """By how much each gate's depolarising shrinks an observable on its qubits."""
    return {
        gate.name: 1 - depolarising_parameter(gate.error, 0.0, [None] * gate.num_qubits)
        for gate in profile.gates
    }


@pytest.mark.parametrize("name", shipped())
def test_every_gate_errs_on_average_as_stated(name):
    profile = load_profile(name)
    for gate in profile.gates:
        error = channel_of(profile, gate.name)
        if gate.error == 0:
            assert error is None
            continue
        assert 1 - average_gate_fidelity(error) == pytest.approx(gate.error, rel=1e-6)


def test_a_bell_pair_fades_as_its_gates_predict():
    # Followed back from the end, ZZ sees the last r, the cz and the first r on qubit 1, and
    # each measurement: every one shrinks it by its own factor.
    readout = Readout(zero_as_one=0.03, one_as_zero=0.03, duration_s=0.0)
    gates = (
        NativeGate(name="r", duration_s=0.0, error=0.01),
        NativeGate(name="cz", duration_s=0.0, error=0.05),
    )
    profile = relaxing_nothing(load_profile("helmi"), gates=gates, readout=readout)
    fade = fades(profile)
    predicted = fade["r"] ** 2 * fade["cz"] * (1 - 2 * 0.03) ** 2
    assert predicted < 0.82
    measured = parity(native_bell(), profile)
    assert measured == pytest.approx(predicted, abs=TOLERANCE)


def test_on_a_star_the_move_has_its_own_error():
    # Here ZZ sees, besides, the MOVE back, but not the MOVE in.
    gates = (
        NativeGate(name="r", duration_s=0.0, error=0.01),
        NativeGate(name="cz", duration_s=0.0, error=0.03),
        NativeGate(name="move", duration_s=0.0, error=0.08),
    )
    perfect = Readout(zero_as_one=0.0, one_as_zero=0.0, duration_s=0.0)
    profile = relaxing_nothing(load_profile("vlq"), gates=gates, readout=perfect)
    fade = fades(profile)
    predicted = fade["r"] ** 2 * fade["cz"] * fade["move"]
    measured = parity(star_bell(), profile)
    assert measured == pytest.approx(predicted, abs=TOLERANCE)
    without = fade["r"] ** 2 * fade["cz"]
    assert abs(measured - without) > TOLERANCE


def test_a_ghz_state_on_a_device_is_near_the_product_of_its_fidelities():
    profile = load_profile("helmi")
    ghz = QuantumCircuit(3)
    ghz.h(0)
    ghz.cx(0, 1)
    ghz.cx(0, 2)
    ghz.measure_all()
    native, layout = NativeCompiler(profile.target()).compile(ghz)
    assert len(set(layout)) == 3
    counts = counts_of(native, profile)
    agreeing = (counts.get("000", 0) + counts.get("111", 0)) / SHOTS
    error = {gate.name: gate.error for gate in profile.gates}
    survival = 1.0
    for name, number in native.count_ops().items():
        survival *= (1 - error.get(name, 0.0)) ** number
    survival *= (1 - 0.021) ** 3
    # The product counts every error as fatal; some leave both outcomes as they are.
    assert survival - 0.01 < agreeing < survival + 0.5 * (1 - survival)


def test_noise_off_is_ideal():
    perfect = Readout(zero_as_one=0.0, one_as_zero=0.0, duration_s=0.0)
    free = tuple(
        dataclasses.replace(gate, duration_s=0.0, error=0.0) for gate in load_profile("vlq").gates
    )
    profile = relaxing_nothing(load_profile("vlq"), gates=free, readout=perfect)
    assert device_noise(profile).model.is_ideal()
    assert parity(star_bell(), profile) == 1.0


def test_the_resonator_relaxes_with_its_own_times():
    long, short = Coherence(t1_s=1.0, t2_s=1.0), Coherence(t1_s=1e-6, t2_s=1e-6)
    star = load_profile("vlq")
    gates = tuple(
        dataclasses.replace(gate, error=0.1) if gate.num_qubits > 1 else gate for gate in star.gates
    )
    profile = dataclasses.replace(star, gates=gates, coherence=long, resonator_coherence=short)
    channel = channel_of(profile, "cz")
    from qiskit.quantum_info import DensityMatrix

    after = DensityMatrix.from_label("11").evolve(channel).probabilities_dict()
    # Bits read (resonator, qubit): the resonator decays; what depolarises hits both alike.
    assert after["01"] > 3 * after["10"]


def test_readout_errors_are_the_stated_ones():
    profile = dataclasses.replace(
        load_profile("helmi"),
        readout=Readout(zero_as_one=0.1, one_as_zero=0.3, duration_s=0.0),
    )
    idle, flipped = QuantumCircuit(1, 1), QuantumCircuit(1, 1)
    idle.measure(0, 0)
    flipped.r(3.141592653589793, 0.0, 0)
    flipped.measure(0, 0)
    assert parity(idle, profile) == pytest.approx(0.8, abs=TOLERANCE)
    assert parity(flipped, profile) == pytest.approx(-0.4, abs=TOLERANCE + 2 * 0.00108)


def test_a_swap_labelled_move_errs_as_much_and_not_twice():
    from qiskit.circuit.library import SwapGate

    profile = load_profile("vlq")
    plain, labelled = QuantumCircuit(2), QuantumCircuit(2)
    for circuit in (plain, labelled):
        circuit.r(3.141592653589793, 0.0, 0)
    for _ in range(20):
        plain.append(SwapGate(), [0, 1])
        labelled.append(SwapGate(label="move"), [0, 1])
    plain.measure_all()
    labelled.measure_all()
    assert parity(plain, profile) == pytest.approx(parity(labelled, profile), abs=TOLERANCE)
    readout_alone = (1 - 2 * 0.02) ** 2
    assert abs(parity(plain, profile)) < readout_alone - 5 * TOLERANCE


def reference_channel(profile, gate):
    """Aer's own relaxation of each operand, then its own depolarisation."""
    from qiskit_aer.noise import depolarizing_error, pauli_error, thermal_relaxation_error

    coherences = profile.gate_coherences(gate)
    relaxing = [
        pauli_error([("I", 1.0)])
        if one is None
        else thermal_relaxation_error(one.t1_s, one.t2_s, gate.duration_s)
        for one in coherences
    ]
    error = relaxing[0]
    for other in relaxing[1:]:
        error = error.expand(other)
    parameter = depolarising_parameter(gate.error, gate.duration_s, coherences)
    return SuperOp(error.compose(depolarizing_error(parameter, gate.num_qubits)))


def random_device(rng):
    """A device whose qubits and resonator relax anyhow, T2 up to 2·T1, and err a little more."""

    def coherence():
        t1_s = 10 ** rng.uniform(-6, -4)
        return Coherence(t1_s=t1_s, t2_s=t1_s * rng.choice([rng.uniform(0.05, 2.0), 1.0, 2.0]))

    star = dataclasses.replace(
        load_profile("vlq"), coherence=coherence(), resonator_coherence=coherence()
    )
    gates = []
    for gate in star.gates:
        duration_s = rng.uniform(1e-9, 4e-7)
        floor = thermal_error(duration_s, star.gate_coherences(gate))
        error = floor + rng.uniform(0, 0.5) * (0.5 - floor)
        gates.append(dataclasses.replace(gate, duration_s=duration_s, error=error))
    return dataclasses.replace(star, gates=tuple(gates))


@pytest.mark.parametrize("seed", range(12))
def test_the_errors_are_aers_own_channels_in_another_form(seed):
    profile = random_device(np.random.default_rng(seed))
    for gate in profile.gates:
        difference = channel_of(profile, gate.name).data - reference_channel(profile, gate).data
        assert np.abs(difference).max() < 1e-12


@pytest.mark.parametrize("name", shipped())
def test_nothing_in_a_shipped_model_makes_aer_use_kraus_operators(name):
    errors = device_noise(load_profile(name)).model._default_quantum_errors
    assert errors
    for error in errors.values():
        names = {step.operation.name for circuit in error.circuits for step in circuit.data}
        assert names <= {"id", "x", "y", "z", "reset"}


@pytest.mark.parametrize("seed", range(6))
def test_relaxation_is_the_exponential_decay_it_is_defined_by(seed):
    rng = np.random.default_rng(seed)
    t1_s = 10 ** rng.uniform(-6, 0)
    one = Coherence(t1_s=t1_s, t2_s=t1_s * rng.uniform(0.05, 2.0))
    time_s = t1_s * rng.uniform(0, 3)
    found = relaxation(time_s, one)
    excited = (1 - found.reset) * (1 - found.damping)
    coherent = (1 - found.reset - 2 * found.phase_flip) * np.sqrt(1 - found.damping)
    assert excited == pytest.approx(np.exp(-time_s / one.t1_s))
    assert coherent == pytest.approx(np.exp(-time_s / one.t2_s))


@pytest.mark.slow
def test_trajectories_sample_what_the_density_matrix_says():
    ghz = QuantumCircuit(4, 3)
    ghz.r(np.pi / 2, np.pi / 2, range(3))
    ghz.append(MoveGate(), [0, 3])
    for qubit in (1, 2):
        ghz.cz(qubit, 3)
        ghz.r(-np.pi / 2, np.pi / 2, qubit)
    ghz.append(MoveGate(), [0, 3])
    ghz.measure(range(3), range(3))
    profile = load_profile("vlq")
    gates = tuple(
        dataclasses.replace(gate, duration_s=5 * gate.duration_s, error=0.15)
        for gate in profile.gates
    )
    profile = dataclasses.replace(profile, gates=gates)
    exact, drawn = (counts_of(ghz, profile, method) for method in ("density_matrix", "statevector"))
    for outcome in exact:
        spread = (2 * exact[outcome]) ** 0.5
        assert abs(exact[outcome] - drawn.get(outcome, 0)) < 5 * spread + 5


@pytest.mark.parametrize("seed", range(4))
def test_on_a_star_every_gate_errs_on_the_wires_it_acts_on(seed):
    """Compared with Aer's own channels, applied one by one to a density matrix of the device."""
    from qiskit.quantum_info import DensityMatrix
    from qiskit_aer import AerSimulator

    rng = np.random.default_rng(seed)
    profile = random_device(rng)
    channels = {gate.name: reference_channel(profile, gate) for gate in profile.gates}
    star = QuantumCircuit(4)
    for _ in range(12):
        qubit = int(rng.integers(3))
        star.r(*rng.uniform(0, 3, 2), int(rng.integers(3)))
        star.cz(qubit, 3) if rng.random() < 0.5 else star.append(MoveGate(), [qubit, 3])
    state = DensityMatrix.from_label("0000")
    for step in star.data:
        wires = [star.find_bit(qubit).index for qubit in step.qubits]
        state = state.evolve(step.operation, wires).evolve(channels[step.name], wires)
    star.save_density_matrix()
    noise = device_noise(profile)
    simulator = AerSimulator(noise_model=noise.model, method="density_matrix")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = simulator.run(noise.damped(star), shots=1).result().data()["density_matrix"]
    assert np.abs(np.asarray(saved) - state.data).max() < 1e-9
