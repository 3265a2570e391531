"""`hpcqc sample` on real simulators: counts, or a refusal that says why."""

from __future__ import annotations

import numpy as np
import pytest
from qiskit import QuantumCircuit, qpy
from qiskit.circuit import Clbit, Qubit

from hpcqc import CircuitFileError, CircuitRefused, sample
from orchestrator.broker.client.protocol import DataRefused
from tests.errors import naming

QELIB = 'OPENQASM 2.0;\ninclude "qelib1.inc";\n'
BELL = QELIB + (
    "qreg q[3]; creg a[2]; creg b[1];\nh q[0]; cx q[0],q[1]; x q[2];\n"
    "measure q[0]->a[0]; measure q[1]->a[1]; measure q[2]->b[0];\n"
)


@pytest.fixture
def bell(tmp_path):
    path = tmp_path / "bell.qasm"
    path.write_text(BELL)
    return path


def test_counts_with_a_seed_are_the_same_twice(hpcqc, bell) -> None:
    first = hpcqc("sample", bell, "--shots", 400, "--seed", 3, "--json")
    assert first.code == 0
    document = first.document
    assert set(document["counts"]) == {"1 00", "1 11"}  # the last register first, as Qiskit has it
    assert sum(document["counts"].values()) == 400
    assert list(document["counts"].values()) == sorted(document["counts"].values(), reverse=True)
    assert (document["job"]["state"], document["job"]["seed"]) == ("completed", 3)
    again = hpcqc("sample", bell, "--shots", 400, "--seed", 3)
    assert f"{document['counts']['1 00']}" in again.out
    assert "400 shots on QPU aer in 1 task, method" in again.out
    listed = hpcqc("jobs", "--json").document
    assert listed[0]["id"] == document["job"]["id"]
    shown = hpcqc("jobs", document["job"]["id"][:8])
    assert shown.code == 0
    assert document["job"]["run"] in shown.out
    assert hpcqc("jobs", "--run", document["job"]["run"], "--json").document == listed[:1]
    assert hpcqc("jobs", "jffff").code == 2


def test_a_site_with_a_limit_slices_and_merges(hpcqc, bell) -> None:
    document = hpcqc("sample", bell, "--qpu", "piast-q", "--shots", 500, "--json").document
    assert [task["shots"] for task in document["job"]["tasks"]] == [200, 200, 100]
    assert sum(document["counts"].values()) == 500
    assert document["job"]["slices"] == 3
    assert set(document["job"]["usage"]["charges"]) == {"device-s"}


def test_a_qpu_that_the_broker_chose_is_explained(hpcqc, bell) -> None:
    chosen = hpcqc("sample", bell, "--qpu", "any", "--shots", 10, "--json")
    assert chosen.code == 0
    told = [line for line in chosen.err.splitlines() if chosen.document["qpu"] in line]
    assert len(told) == 1
    assert hpcqc("sample", bell, "--shots", 10, "--json").err == ""


QASM3 = 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'
SCATTERED = {
    "loose": ("bit left; bit right; left = measure q[0]; right = measure q[1];", "0 1"),
    "declared where measured": ("bit left = measure q[0]; bit right = measure q[1];", "0 1"),
    "loose and registered": (
        "bit flag; bit[2] word; flag = measure q[0]; word = measure q;",
        "1 01",
    ),
    "of the older form": (
        "creg flag; creg word[2]; flag = measure q[0]; word = measure q;",
        "1 01",
    ),
    "in two registers": (
        "bit[2] word; let low = word[0:0]; word[0] = measure q[0]; word[1] = measure q[1];",
        "1 01",
    ),
}


@pytest.mark.usefixtures("one_zygote")
@pytest.mark.parametrize("declared", SCATTERED)
def test_bits_outside_registers_are_shown(hpcqc, tmp_path, declared) -> None:
    text, outcome = SCATTERED[declared]
    path = tmp_path / "bits.qasm"
    path.write_text(f"{QASM3}qubit[2] q; x q[0]; {text}")
    document = hpcqc("sample", path, "--shots", 20, "--json").document
    assert document["counts"] == {outcome: 20}
    assert len(document["registers"]) == 2
    if declared == "loose and registered":
        names = " ".join(document["registers"])
        assert f"outcome ({names})" in hpcqc("sample", path, "--shots", 20).out


@pytest.mark.usefixtures("one_zygote")
def test_loose_bits_of_qpy_are_shown(hpcqc, tmp_path) -> None:
    circuit = QuantumCircuit([Qubit(), Qubit()], [Clbit(), Clbit()])
    circuit.x(1)
    circuit.measure([0, 1], [0, 1])
    path = tmp_path / "bits.qpy"
    with path.open("wb") as file:
        qpy.dump(circuit, file)
    document = hpcqc("sample", path, "--shots", 20, "--qpu", "vlq", "--json").document
    assert document["registers"] == ["c1", "c0"]
    assert max(document["counts"], key=document["counts"].get) == "1 0"


@pytest.mark.usefixtures("one_zygote")
@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (QELIB + "qreg q[2];creg c[2];h q[0];", [], ["measures nothing", "measure_all"]),
        (QELIB + "qreg q[1];\nh q[0]", [], ["line 4, column"]),
        (BELL, ["--shots", 0], ["shots 0", "at least 1"]),
        (BELL, ["--shots", -5], ["shots -5"]),
        (BELL, ["--seed", -1], ["seed -1"]),
        (BELL, ["--qpu", "vql"], ["no QPU 'vql'", "mean 'vlq'"]),
        (
            QELIB + "qreg q[7];creg c[7];h q;measure q->c;",
            ["--qpu", "helmi"],
            ["7 qubits", "helmi"],
        ),
        (
            QELIB + "opaque magic q;qreg q[1];creg c[1];magic q[0];measure q->c;",
            [],
            ['"magic"'],
        ),
        (QELIB + "qreg q[1];creg shape[1];measure q->shape;", [], ["'shape'", "another name"]),
        (
            QELIB + "opaque ryy a,b;qreg q[2];creg c[2];ryy q[0],q[1];measure q->c;",
            ["--qpu", "vlq"],
            ["'ryy'", "define it"],
        ),
        (
            QELIB
            + "gate g0 a {x a;}\n"
            + "".join(f"gate g{i} a {{ g{i - 1} a; }}\n" for i in range(1, 2000))
            + "qreg q[1];creg c[1];g1999 q[0];measure q->c;",
            [],
            ["too many levels"],
        ),
        (
            'OPENQASM 3;include "stdgates.inc";input float a;qubit q;bit c;rx(a) q;c=measure q;',
            [],
            ["free parameters (a)"],
        ),
    ],
)
def test_what_cannot_run_is_refused(hpcqc, tmp_path, text, options, words) -> None:
    (tmp_path / "c.qasm").write_text(text)
    said = hpcqc("sample", "c.qasm", *options)
    assert said.code == 2
    assert said.out == ""
    assert all(word in said.paragraph for word in words), said.paragraph


@pytest.mark.usefixtures("one_zygote")
@pytest.mark.parametrize("qpu", ["aer", "piast-q"])
def test_gates_of_collections_are_what_they_are_defined_as(hpcqc, tmp_path, qpu) -> None:
    """Qiskit writes ``unitary``, ``mcx`` and others as gates of the file, under those names."""
    (tmp_path / "c.qasm").write_text(
        QELIB
        + "gate unitary q0 { u3(pi,0,pi) q0; }\ngate mcx a,b { unitary b; }\n"
        + "gate circuit_140 q0,q1 { mcx q1,q0; }\n"
        + "qreg q[3];creg c[3];\nunitary q[0];circuit_140 q[1],q[2];mcx q[0],q[2];\n"
        + "barrier q;\nmeasure q->c;\n"
    )
    counts = hpcqc("sample", "c.qasm", "--qpu", qpu, "--shots", 100, "--json").document["counts"]
    assert next(iter(counts)) == "111"


@pytest.mark.usefixtures("one_zygote")
def test_counts_join_registers_of_any_width(hpcqc, tmp_path) -> None:
    (tmp_path / "wide.qasm").write_text(
        f"{QELIB}qreg q[12];creg a[9];creg none[1];creg b[2];x q[0];x q[8];x q[11];h q[3];"
        + "".join(f"measure q[{i}]->a[{i}];" for i in range(9))
        + "measure q[10]->b[0];measure q[11]->b[1];"
    )
    counts = hpcqc("sample", "wide.qasm", "--shots", 200, "--json").document["counts"]
    assert set(counts) == {"10 0 100000001", "10 0 100001001"}
    assert sum(counts.values()) == 200


def test_counts_of_registers_belong_together_shot_by_shot() -> None:
    from types import SimpleNamespace

    from qiskit import ClassicalRegister, QuantumCircuit
    from qiskit.primitives import BitArray

    from orchestrator.application.sample import _counts

    circuit = QuantumCircuit(ClassicalRegister(2, "a"), ClassicalRegister(10, "b"))
    rng = np.random.default_rng(1)
    data = {
        "a": BitArray(rng.integers(0, 4, size=(1000, 1), dtype=np.uint8), 2),
        "b": BitArray(np.full((1000, 2), (2, 1), dtype=np.uint8), 10),
    }
    counts = _counts(circuit, SimpleNamespace(data=data))
    assert {bits: counts[bits] for bits in sorted(counts)} == {
        f"1000000001 {value:02b}": int(np.sum(data["a"].array == value)) for value in range(4)
    }


@pytest.mark.usefixtures("one_zygote")
def test_more_shots_than_there_is_memory_for(hpcqc, tmp_path) -> None:
    # A thousand bytes of outcomes for each shot are more than any machine has.
    (tmp_path / "wide.qasm").write_text(f"{QELIB}qreg q[128];creg c[8000];measure q[0]->c[0];")
    said = hpcqc("sample", "wide.qasm", "--shots", 10**9)
    assert said.code == 2
    assert "1000000000 shots need" in said.paragraph
    assert "fewer shots" in said.paragraph


@pytest.mark.usefixtures("one_zygote")
@pytest.mark.parametrize("seed", [(), ("--seed", 1)])
def test_a_seed_does_not_lift_the_bound_on_shots(hpcqc, bell, seed) -> None:
    said = hpcqc("sample", bell, "--shots", 10**12, *seed)
    assert said.code == 2
    assert all(word in said.paragraph for word in ("1000000000000", "1000000000"))


@pytest.mark.usefixtures("one_zygote")
def test_more_memory_than_there_is(hpcqc, tmp_path) -> None:
    entangled = "".join(f"cx q[{i}],q[{i + 1}];t q[{i}];" for i in range(49))
    (tmp_path / "wide.qasm").write_text(
        f"{QELIB}qreg q[50];creg c[50];h q;{entangled}measure q->c;"
    )
    said = hpcqc("sample", "wide.qasm")
    assert said.code == 2
    assert "50 qubits" in said.paragraph
    assert "memory" in said.paragraph


@pytest.mark.usefixtures("one_zygote")
def test_a_backend_that_is_not_installed(hpcqc, bell, tmp_path) -> None:
    (tmp_path / "hpcqc.toml").write_text('[qpu.real]\nbackend = "vendor"\n')
    said = hpcqc("sample", bell)
    assert said.code == 2
    assert "no backend 'vendor'; installed are: aer" in said.paragraph


@pytest.mark.usefixtures("one_zygote")
def test_a_circuit_in_memory_is_sampled(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    first = sample(circuit, shots=100, seed=7)
    assert set(first.counts) <= {"00", "11"}
    assert sum(first.counts.values()) == first.job.shots == 100
    assert (first.registers, first.qpu) == (["meas"], "aer")
    assert sample(circuit, shots=100, seed=7).counts == first.counts
    with pytest.raises(CircuitRefused, match=naming("shots", 0)):
        sample(circuit, shots=0)
    with pytest.raises(DataRefused, match="embargoed"):
        sample(circuit, labels=["embargoed"])
    accepts = ['qpu.aer.accepts=["embargoed"]']
    assert sample(circuit, labels=["embargoed"], settings=accepts).job.labels == ("embargoed",)
    with pytest.raises(TypeError, match="labels"):
        sample(circuit, labels="embargoed")
    with pytest.raises(CircuitFileError, match=naming("none.qasm")):
        sample("none.qasm")
