import dataclasses
import warnings

import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import SuperOp, average_gate_fidelity

from backends.error_rates import Coherence, depolarising_parameter
from backends.gates import MoveGate, without_moves
from backends.lowering import NativeCompiler
from backends.noise import noise_model
from backends.profiles import NativeGate, Readout, load_profile, shipped

SHOTS = 40_000
# Five standard errors of a mean of ±1 values.
TOLERANCE = 5 / SHOTS**0.5


def aer(noise):
    from qiskit_aer import AerSimulator

    return AerSimulator(noise_model=noise, method="density_matrix", seed_simulator=11)


def parity(circuit, noise):
    """Mean of the product of all measured signs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Aer's own, of names Qiskit will rename
        counts = aer(noise).run(circuit, shots=SHOTS).result().get_counts()
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
    noise = noise_model(profile)
    for gate in profile.gates:
        error = noise._default_quantum_errors.get(gate.name)
        if gate.error == 0:
            assert error is None
            continue
        assert 1 - average_gate_fidelity(SuperOp(error)) == pytest.approx(gate.error, rel=1e-6)


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
    measured = parity(native_bell(), noise_model(profile))
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
    measured = parity(without_moves(star_bell()), noise_model(profile))
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = aer(noise_model(profile)).run(native, shots=SHOTS).result().get_counts()
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
    noise = noise_model(relaxing_nothing(load_profile("vlq"), gates=free, readout=perfect))
    assert noise.is_ideal()
    assert parity(without_moves(star_bell()), noise) == 1.0


def test_the_resonator_relaxes_with_its_own_times():
    long, short = Coherence(t1_s=1.0, t2_s=1.0), Coherence(t1_s=1e-6, t2_s=1e-6)
    star = load_profile("vlq")
    gates = tuple(
        dataclasses.replace(gate, error=0.1) if gate.num_qubits > 1 else gate for gate in star.gates
    )
    profile = dataclasses.replace(star, gates=gates, coherence=long, resonator_coherence=short)
    channel = SuperOp(noise_model(profile)._default_quantum_errors["cz"])
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
    noise = noise_model(profile)
    assert parity(idle, noise) == pytest.approx(0.8, abs=TOLERANCE)
    assert parity(flipped, noise) == pytest.approx(-0.4, abs=TOLERANCE + 2 * 0.00108)


def test_a_swap_labelled_move_errs_as_much_and_not_twice():
    from qiskit.circuit.library import SwapGate

    noise = noise_model(load_profile("vlq"))
    plain, labelled = QuantumCircuit(2), QuantumCircuit(2)
    for circuit in (plain, labelled):
        circuit.r(3.141592653589793, 0.0, 0)
    for _ in range(20):
        plain.append(SwapGate(), [0, 1])
        labelled.append(SwapGate(label="move"), [0, 1])
    plain.measure_all()
    labelled.measure_all()
    assert parity(plain, noise) == pytest.approx(parity(labelled, noise), abs=TOLERANCE)
    readout_alone = (1 - 2 * 0.02) ** 2
    assert abs(parity(plain, noise)) < readout_alone - 5 * TOLERANCE
