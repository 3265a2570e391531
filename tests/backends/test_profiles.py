import dataclasses
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import qiskit.transpiler
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping

from backends.error_rates import Coherence, depolarising_parameter
from backends.gates import MoveGate
from backends.profiles import Profile, ProfileError, load_profile, shipped
from backends.profiles.files import lattice_pairs
from backends.profiles.profile import GATE_QUBITS
from tests.backends.profile_files import thermal_error
from tests.errors import naming

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = """
name = "bench"
title = "two qubits on a bench"

[device]
qubits = 2
coupling = [[0, 1]]

[gates]
r = { duration_s = 1e-8, error = 0.001 }
cz = { duration_s = 1e-7, error = 0.01 }

[readout]
zero_as_one = 0.01
one_as_zero = 0.02

[calibration]
taken_at = 2026-11-01T00:00:00Z
"""
each_shipped = pytest.mark.parametrize("name", shipped())


def written(tmp_path, *changes):
    text = MINIMAL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(tmp_path, *changes):
    with pytest.raises(ProfileError) as caught:
        load_profile(written(tmp_path, *changes))
    return str(caught.value)


def test_these_devices_are_shipped():
    assert shipped() == (
        "aalto-q20",
        "euro-q-exa",
        "helmi",
        "ibex-q1",
        "ibm-fez",
        "piast-q",
        "vlq",
        "vtt-q50",
    )


@each_shipped
def test_every_value_has_a_source_or_is_marked_assumed(name):
    sources = load_profile(name).sources
    assert "not stated" not in sources.values()
    assert all(len(text) > 8 for text in sources.values())
    assumed = [text for text in sources.values() if text.startswith("assumed")]
    assert all(re.match(r"assumed: \w", text) for text in assumed)


@each_shipped
def test_a_shipped_file_leaves_nothing_to_defaults_that_decide_results(name):
    stated = set(load_profile(name).sources)
    needed = {
        "device.site_transpiles",
        "device.mid_circuit_measurement",
        "coherence.t1_s",
        "coherence.t2_s",
        "readout.duration_s",
        "limits.payloads",
        "limits.precision",
        "limits.shots_per_task",
        "limits.circuits_per_task",
        "limits.concurrent_tasks",
        "limits.coalesces",
        "timing.init_s",
        "timing.shot_s",
        "metering.kind",
        "metering.unit",
    }
    assert needed <= stated


@each_shipped
def test_the_target_says_what_the_profile_says(name):
    profile = load_profile(name)
    target = profile.target()
    assert (target.name, target.num_qubits) == (name, profile.num_qubits)
    assert target.payload_kinds == {"sampler"}
    assert target.native_gates == tuple(gate.name for gate in profile.gates)
    assert target.calibration == profile.calibration
    assert target.calibration.taken_at == profile.taken_at
    assert target.timing is profile.timing
    assert target.metering is profile.metering
    assert profile.target("other").name == "other"


@each_shipped
def test_qiskit_sees_the_gates_on_usable_qubits_only(name):
    profile = load_profile(name)
    native = profile.target().native
    assert isinstance(native, qiskit.transpiler.Target)
    for gate in profile.gates:
        for qubits, properties in native[gate.name].items():
            assert properties.error == gate.error
            assert properties.duration == gate.duration_s
            assert not set(qubits) & set(profile.unusable_qubits)
    assert ("reset" in native.operation_names) == profile.mid_circuit_measurement


def test_euro_q_exa():
    profile = load_profile("euro-q-exa")
    assert profile.site_transpiles
    assert (profile.num_qubits, len(profile.unusable_qubits)) == (54, 1)
    assert len(profile.coupling) == 90
    charge = profile.metering.charge(qpu_seconds=2.0, shots=100, num_qubits=5)
    assert (charge.amount, charge.unit) == (10.0, "eqs")


def test_vlq():
    profile = load_profile("vlq")
    target = profile.target()
    assert (target.num_qubits, target.resonator, target.coupling) == (24, 24, None)
    assert target.native_gates == ("r", "cz", "move")
    assert target.coalesces
    assert target.credential_lifetime_s == 6 * 3600
    assert profile.metering.charge(qpu_seconds=9, shots=1000, num_qubits=2).amount == 0.9
    billed = profile.metering.charge(qpu_seconds=9, shots=10_000, num_qubits=2)
    assert billed.amount == pytest.approx(4.0)
    assert set(target.native["cz"]) == {(q, 24) for q in range(23)}
    assert isinstance(target.native.operation_from_name("move"), MoveGate)


def test_piast_q():
    target = load_profile("piast-q").target()
    assert (target.num_qubits, target.coupling, target.resonator) == (20, None, None)
    assert (target.max_shots, target.max_circuits, target.max_concurrent_tasks) == (200, 1, 4)
    assert not target.mid_circuit_measurement
    assert target.quality_windows
    assert 60 <= target.timing.duration_s(circuits=1, shots=200, num_qubits=20) <= 145


def test_fiqci_devices():
    assert load_profile("helmi").coupling == ((0, 2), (1, 2), (2, 3), (2, 4))
    assert load_profile("aalto-q20").num_qubits == 20
    assert load_profile("vtt-q50").num_qubits == 53


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ProfileError, match=naming("VLQ2", "vlq")) as caught:
        load_profile("VLQ2")
    assert all(name in str(caught.value) for name in shipped())


def test_a_path_is_read_and_its_missing_parts_have_defaults(tmp_path):
    profile = load_profile(written(tmp_path))
    assert profile.coupling == ((0, 1),)
    assert profile.coherence is None
    assert profile.payloads == {"sampler"}
    assert profile.precision == "sampled"
    assert profile.max_concurrent_tasks == 1
    assert profile.sources["readout.zero_as_one"] == "not stated"
    assert profile.taken_at == datetime(2026, 11, 1, tzinfo=UTC)


def test_a_profile_may_take_estimator_payloads(tmp_path):
    limits = '[limits]\npayloads = ["sampler", "estimator"]\nprecision = "exact"\n[readout]'
    profile = load_profile(written(tmp_path, ("[readout]", limits)))
    assert profile.target().payload_kinds == {"sampler", "estimator"}
    assert profile.precision == "exact"


def test_a_missing_file_is_explained():
    with pytest.raises(ProfileError, match=naming("nowhere.toml")):
        load_profile("nowhere.toml")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("qubits = 2", "qbits = 2", "device.qubits: is missing"),
        ("qubits = 2", "qubits = 2\nunusable_qubit = [1]", "did you mean 'unusable_qubits'"),
        ("[readout]", "[timings]\n[readout]", "did you mean 'timing'"),
        ("[readout]", "[limits]\nshot_per_task = 1\n[readout]", "did you mean 'shots_per_task'"),
        ("qubits = 2", 'qubits = "two"', "'two'; expected a whole number"),
        ("qubits = 2", "qubits = 3.5", "3.5; expected a whole number"),
        ("qubits = 2", "qubits = 0", "0; expected a whole number ≥ 1"),
        ("qubits = 2", "qubits = true", "True; expected a whole number"),
        ("error = 0.01 ", 'error = "1 %" ', "gates.cz.error: '1 %'; expected a number"),
        ("error = 0.01 ", "error = 1.5 ", "expected a number from 0 to 1"),
        ("error = 0.01 ", "error = nan ", "expected a number from 0 to 1"),
        ("error = 0.01 ", "error = -0.5 ", "gates.cz.error: -0.5; expected a number ≥ 0"),
        ("[readout]", "[timing]\nshot_s = -1\n[readout]", "timing.shot_s: -1; expected a number"),
        (
            "[readout]",
            "[timing]\nshot_s = true\n[readout]",
            "timing.shot_s: True; expected a number",
        ),
        ("[readout]", "[timing]\nshots_s = 1\n[readout]", "timing.shots_s: no such key; did you"),
        ("[readout]", "coherence = 1\n[readout]", "1; expected a table"),
        ("error = 0.01 ", "errors = 0.01 ", "gates.cz.error: is missing"),
        ("cz = {", "zz = {", "no such gate"),
        ("[[0, 1]]", "[[0, 2]]", "pairs of different qubits below 2"),
        ("[[0, 1]]", "[[1, 1]]", "pairs of different qubits below 2"),
        ("[[0, 1]]", '["ooo"]', "draws 3 qubits"),
        ("[[0, 1]]", '"ring"', "'ring'; expected"),
        ("[[0, 1]]", '"star"', "need each other"),
        ("[readout]", "[coherence]\nt1_s = 1e-5\nt2_s = 3e-5\n[readout]", "0 < T2"),
        ("[readout]", "[coherence]\nt1_s = 1e-6\nt2_s = 1e-6\n[readout]", "relaxation alone"),
        ("[readout]", '[metering]\nkind = "per-shot"\n[readout]', "expected one of qpu-seconds"),
        ("[readout]", "[limits]\ncoalesces = 1\n[readout]", "1; expected true or false"),
        ("[readout]", '[limits]\npayloads = ["pulse"]\n[readout]', "'sampler' or 'estimator'"),
        ("[readout]", '[[quality_windows]]\nstart = "8h"\nend = "9h"\n[readout]', "HH:MM"),
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00", "date and time with offset"),
        ("[readout]", '[sources]\n"gates.rz" = "a paper"\n[readout]', "did you mean 'gates.r'"),
        ("[device]", "[device", "is not TOML"),
        ("[gates]", "[gates_]", "gates: is missing"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, old, new, told):
    message = refusal(tmp_path, (old, new))
    assert told in message
    assert "mine.toml" in message


def test_a_star_that_transpiles_at_its_site_is_refused(tmp_path):
    star = ("[[0, 1]]", '"star"\nsite_transpiles = true')
    move = ("[readout]", "[gates.move]\nduration_s = 1e-8\nerror = 0.001\n[readout]")
    assert "site_transpiles" in refusal(tmp_path, star, move)


def test_a_change_of_noise_is_another_calibration(tmp_path):
    before = load_profile(written(tmp_path))
    louder = load_profile(written(tmp_path, ("error = 0.01 ", "error = 0.02 ")))
    slower = load_profile(written(tmp_path, ("1e-7", "2e-7")))
    blurred = load_profile(written(tmp_path, ("zero_as_one = 0.01", "zero_as_one = 0.03")))
    ids = {one.calibration.id for one in (before, louder, slower, blurred)}
    assert len(ids) == 4
    assert all(one.startswith("bench-") for one in ids)


def test_what_is_no_noise_keeps_the_calibration(tmp_path):
    before = load_profile(written(tmp_path))
    limit = "[limits]\nshots_per_task = 7\n[readout]"
    after = load_profile(written(tmp_path, ("[readout]", limit)))
    assert after.calibration.id == before.calibration.id
    assert load_profile("vlq").calibration.id == load_profile("vlq").calibration.id


def test_gate_names_and_sizes_are_qiskits():
    known = get_standard_gate_name_mapping()
    assert {n: known[n].num_qubits for n in GATE_QUBITS if n != "move"} == {
        n: q for n, q in GATE_QUBITS.items() if n != "move"
    }


def test_a_lattice_is_read_row_by_row():
    assert lattice_pairs([".o", "oo", "o."]) == (4, ((0, 2), (1, 2), (1, 3)))


def test_depolarising_makes_up_what_relaxation_leaves():
    coherence = Coherence(t1_s=35e-6, t2_s=33e-6)
    floor = thermal_error(120e-9, [coherence] * 2)
    assert depolarising_parameter(floor, 120e-9, [coherence] * 2) == pytest.approx(0, abs=1e-9)
    assert depolarising_parameter(0.015, 1.0, [None, None]) == pytest.approx(0.02)
    with pytest.raises(ValueError, match="relaxation"):
        depolarising_parameter(floor / 2, 120e-9, [coherence] * 2)


def test_a_profile_is_a_value():
    profile = load_profile("helmi")
    assert profile == load_profile("helmi")
    assert hash(profile) == hash(load_profile("helmi"))
    assert isinstance(profile, Profile)
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.num_qubits = 6
