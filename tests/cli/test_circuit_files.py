"""Circuits from files: what public collections hold is read, or refused with its place."""

from __future__ import annotations

import io
import struct

import pytest
from qiskit import QuantumCircuit, qpy

from orchestrator.application.circuit_files import CircuitFileError, read_circuit
from tests.errors import naming

QELIB = 'OPENQASM 2.0;\ninclude "qelib1.inc";\n'
STD = 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'


def write(folder, text, name="c.qasm"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "qubits", "gates"),
    [
        (QELIB + "qreg q[2];creg c[2];h q[0];cx q[0],q[1];measure q->c;", 2, {"h", "cx"}),
        ("qreg q[1];creg c[1];U(0,0,pi) q[0];measure q->c;", 1, {"u"}),
        ('include "qelib1.inc";qreg q[1];creg c[1];h q[0];measure q->c;', 1, {"h"}),
        (QELIB + "qreg q[2];creg c[2];sx q[0];rzz(0.1) q[0],q[1];measure q->c;", 2, {"rzz"}),
        (QELIB + "qreg q[4];creg c[4];c3x q[0],q[1],q[2],q[3];measure q->c;", 4, {"mcx"}),
        (QELIB + "qreg q[1];creg c[1];measure q->c;if(c==1) x q[0];reset q[0];", 1, {"reset"}),
        (QELIB + "gate my(a) q,r {rx(a/2) q; cx q,r;} qreg q[2];my(0.3) q[0],q[1];", 2, {"my"}),
        (QELIB + "opaque magic(a) q; qreg q[1]; magic(1) q[0];", 1, {"magic"}),
        (QELIB + "qreg q[1];creg c[1];rz(sin(pi/4)^2) q[0];barrier q;measure q->c;", 1, {"rz"}),
        ("// OPENQASM 3\n" + QELIB + "qreg q[1];creg c[1];measure q->c;", 1, {"measure"}),
        (STD + "qubit[2] q;bit[2] c;h q[0];cx q[0],q[1];c=measure q;", 2, {"h", "cx"}),
        ("/* by hand */ OPENQASM 3;\nqubit q;bit c;c=measure q;", 1, {"measure"}),
        (STD + "qubit q;bit c;c=measure q;if(c==true){x q;}", 1, {"if_else"}),
        ("\ufeff" + QELIB + "qreg q[1];", 1, set()),
        (QELIB.replace("\n", "\r\n") + "qreg q[1];\r\nh q[0];\r\n", 1, {"h"}),
        (QELIB + "qreg\tq [ 1 ] ;;h  q [0];// end", 1, {"h"}),
        (QELIB + "qreg q[2];gate c3x a,b {x b;} c3x q[0],q[1];", 2, {"c3x"}),
        (QELIB + "opaque delay(t) a;qreg q[1];delay(100) q[0];", 1, {"delay"}),
    ],
)
def test_what_collections_hold_is_read(tmp_path, text, qubits, gates) -> None:
    circuit = read_circuit(write(tmp_path, text))
    assert circuit.num_qubits == qubits
    assert gates <= set(circuit.count_ops())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (QELIB + "qreg q[2];\nh q[0]\ncx q[0],q[1];", ["OpenQASM 2", "line 5, column 1", "';'"]),
        (QELIB + "qreg q[2];\n  foo q[0];", ["line 4, column 3", "'foo'"]),
        (QELIB + "qreg q[2];\ncx q[0],q[5];", ["line 4", "out-of-range"]),
        (QELIB + "qreg q[1];\nrz(1/0) q[0];", ["line 4", "divide by zero"]),
        ('OPENQASM 2.0;\ninclude "nope.inc";', ["line 2, column 9", "'nope.inc'"]),
        (STD + "qubit[2] q;\nh q[0]\ncx q[0],q[1];", ["OpenQASM 3", "line 5, column 1", "'cx'"]),
        (STD + "qubit[2] q;\nfoo q[0];", ["line 4, column 1", "'foo'"]),
        (STD + "qubit q;\nint[32] i = 5;", ["line 4, column 1", "'int'"]),
        ("OPENQASM 3;\nqubit q;\n\xa7", ["OpenQASM 3", "line 3"]),
        (QELIB + "qreg q[1];rz(1e999) q[0];", ["'rz'", "(inf)", "finite"]),
        (STD + "qubit q;U(0,0,1e999) q;", ["'u'", "inf)", "finite"]),
        (QELIB + "gate store a {x a;} qreg q[1];store q[0];", ["IndexError"]),
        (QELIB + "gate h a {x a;}", ["line 3, column 1", "defined"]),
        ("<!DOCTYPE html>", ["line 1, column 1"]),
        (QELIB + f"qreg q[{10**20}];", ["line 3, column 8", "100000"]),
        (QELIB + "qreg q[1000000000];", ["line 3, column 8", "100000"]),
        (QELIB + "qreg a[99999];\ncreg b[2];", ["line 4, column 8", "100000"]),
        (QELIB + f"qreg q[1];/* [\n{10**20}] */\nx q[{10**20}];", ["line 5, column 5", "range"]),
        (QELIB + f"qreg q[1];\nx q[{'1' * 5000}];", ["line 4, column 5", "5000 digits"]),
        (f"OPENQASM {10**20}.0;", ["line 1, column 10", "out of range"]),
        (STD + f"qubit[{10**20}] q;", ["OpenQASM 3", "line 3, column 7", "100000"]),
        (STD + "bit[0xFF_FF_FF_FF] b;", ["OpenQASM 3", "line 3, column 5", "100000"]),
        ("", ["OpenQASM", "QPY"]),
        ("\0\1\2", ["OpenQASM", "QPY"]),
        ("some words", ["line 1, column 1"]),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, text, words) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CircuitFileError) as caught:
        read_circuit(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert all(word in message for word in words), message
    assert "<input>" not in message


def test_a_gate_that_a_program_defines_is_what_the_program_says(tmp_path) -> None:
    text = QELIB + "gate sx a { x a; }\nqreg q[1];\nsx q[0];\n"
    circuit = read_circuit(write(tmp_path, text))
    assert [step.name for step in circuit.decompose().data] == ["x"]


def test_an_include_beside_the_file(tmp_path) -> None:
    write(tmp_path, "// made by hand\ngate own q {\n  U(0,0,0) q;\n}\n", "own.inc")
    write(tmp_path, 'include "own.inc";\n', "all.inc")
    text = 'OPENQASM 2.0;\ninclude "all.inc";\nqreg q[1];\nown q[0];\n'
    assert set(read_circuit(write(tmp_path, text)).count_ops()) == {"own"}
    with pytest.raises(CircuitFileError, match="line 5, column 1"):
        read_circuit(write(tmp_path, text + "nothing q[0];"))


@pytest.mark.parametrize("version", ["2.0", "3.0"])
def test_an_include_of_itself_ends(tmp_path, version) -> None:
    write(tmp_path, 'include "loop.inc";', "loop.inc")
    with pytest.raises(CircuitFileError, match=naming("loop.inc", "itself")):
        read_circuit(write(tmp_path, f'OPENQASM {version};include "loop.inc";'))


def test_includes_that_multiply_end(tmp_path) -> None:
    for depth in range(20):
        write(tmp_path, f'include "{depth + 1}.inc";' * 2, f"{depth}.inc")
    write(tmp_path, "// the end\n", "20.inc")
    with pytest.raises(CircuitFileError, match=naming(100)):
        read_circuit(write(tmp_path, 'OPENQASM 2.0;include "0.inc";qreg q[1];'))


GATE = "gate own q { U(0,0,0) q; }"
WHOLE = {
    "2.0": 'OPENQASM 2.0;\ninclude "qelib1.inc";\ninclude "{}";\nqreg q[1];\nown q[0];\n',
    "3.0": 'OPENQASM 3.0;\ninclude "stdgates.inc";\ninclude "{}";\nqubit[1] q;\nown q[0];\n',
}


@pytest.mark.parametrize("version", WHOLE)
def test_an_include_reads_only_beside_the_circuit(tmp_path, monkeypatch, version) -> None:
    circuits, elsewhere = tmp_path / "circuits", tmp_path / "circuits-2"
    for folder in (circuits / "below", elsewhere):
        folder.mkdir(parents=True)
    for path in (elsewhere / "g.inc", circuits / "below/g.inc", circuits / "in.inc"):
        path.write_text(GATE)
    (circuits / "link.inc").symlink_to(elsewhere / "g.inc")
    (circuits / "away").symlink_to(elsewhere)
    (circuits / "inner.inc").symlink_to("below/g.inc")
    (circuits / "sly.inc").write_text('include "../circuits-2/g.inc";')
    (circuits / "loop.inc").symlink_to("loop.inc")
    for name in ("below/g.inc", "in.inc", "inner.inc", "./in.inc"):
        circuit = read_circuit(write(circuits, WHOLE[version].format(name)))
        assert set(circuit.count_ops()) == {"own"}
    monkeypatch.chdir(elsewhere)  # the working folder is not beside the circuit
    for name, words in (
        (str(elsewhere / "g.inc"), "its own folder only"),
        (str(circuits / "in.inc"), "its own folder only"),
        ("../circuits-2/g.inc", "its own folder only"),
        ("below/../in.inc", "no such file|its own folder only"),
        ("link.inc", "its own folder only"),
        ("away/g.inc", "its own folder only"),
        ("sly.inc", r"sly\.inc, line 1, column 9: .*its own folder only"),
        ("/etc/passwd", "its own folder only"),
        ("g.inc", "no such file"),
        ("below", "no such file"),
        ("loop.inc", "own folder only|no such file"),
        ("nothing.inc", "no such file"),
        ("", "no such file"),
        ("x" * 300, "no such file|its own folder only"),
    ):
        path = write(circuits, WHOLE[version].format(name))
        with pytest.raises(CircuitFileError, match=words) as caught:
            read_circuit(path)
        if name != "sly.inc":
            assert str(caught.value).startswith(f"{path}, line 3, column 9: include {name!r}: ")


def test_an_include_that_is_commented_out_is_not_read(tmp_path) -> None:
    text = QELIB + '// include "none.inc";\n/* include "../x";\n*/ qreg q[1];\nfoo q[0];'
    with pytest.raises(CircuitFileError, match="line 6, column 1"):
        read_circuit(write(tmp_path, text))


def test_an_included_file_may_have_a_mark_or_an_older_encoding(tmp_path) -> None:
    text = 'OPENQASM 2.0;include "g.inc";qreg q[1];own q[0];'
    for head in (b"\xef\xbb\xbf", b"// caf\xe9\n"):
        (tmp_path / "g.inc").write_bytes(head + GATE.encode())
        assert set(read_circuit(write(tmp_path, text)).count_ops()) == {"own"}


def test_comments_in_an_older_encoding(tmp_path) -> None:
    path = tmp_path / "c.qasm"
    path.write_bytes(b"// caf\xe9\n" + QELIB.encode() + b"qreg q[1];")
    assert read_circuit(path).num_qubits == 1


def test_qpy_by_its_content_or_its_name(tmp_path) -> None:
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    for name in ("bell.qpy", "bell.qasm"):
        with (tmp_path / name).open("wb") as file:
            qpy.dump(bell, file)
        assert read_circuit(tmp_path / name) == bell


@pytest.mark.parametrize("content", [b"", b"QISKIT\x00damaged", b"OPENQASM 2.0;"])
def test_damaged_qpy(tmp_path, content) -> None:
    path = tmp_path / "c.qpy"
    path.write_bytes(content)
    with pytest.raises(CircuitFileError, match=naming("c.qpy", "QPY")):
        read_circuit(path)


def qpy_of(circuit, version) -> bytes:
    file = io.BytesIO()
    qpy.dump(circuit, file, version=version)
    return file.getvalue()


@pytest.mark.parametrize("version", [13, 15, 16, 17])
def test_qpy_of_other_versions_cut_short_or_with_sizes_it_cannot_have(tmp_path, version) -> None:
    circuit = QuantumCircuit(7, 3)
    circuit.h(0)
    whole, path = qpy_of(circuit, version), tmp_path / "c.qpy"
    path.write_bytes(whole)
    assert read_circuit(path) == circuit
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CircuitFileError, match=naming("c.qpy")):
            read_circuit(path)
    sizes = struct.pack("!II", 7, 3)
    assert whole.count(sizes) == 1
    path.write_bytes(whole.replace(sizes, struct.pack("!II", 2**32 - 1, 3)))
    with pytest.raises(CircuitFileError, match=naming(4294967295, 100000)):
        read_circuit(path)


def test_a_panic_of_the_parser_is_a_refusal(tmp_path, monkeypatch) -> None:
    from qiskit import qasm2

    class PanicException(BaseException):
        """What Qiskit's Rust code raises; it cannot be made from Python."""

    def panic(*_arguments, **_options):
        raise PanicException("index out of bounds")

    monkeypatch.setattr(qasm2, "loads", panic)
    monkeypatch.setattr(qpy, "load", panic)
    for name, data in (("c.qasm", QELIB.encode()), ("c.qpy", qpy_of(QuantumCircuit(1), 17))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CircuitFileError, match=r"index out of bounds"):
            read_circuit(tmp_path / name)


def test_several_circuits_in_one_file(tmp_path) -> None:
    with (tmp_path / "two.qpy").open("wb") as file:
        qpy.dump([QuantumCircuit(1), QuantumCircuit(2)], file)
    with pytest.raises(CircuitFileError, match=naming("two.qpy", "one")):
        read_circuit(tmp_path / "two.qpy")


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(CircuitFileError, match=naming("none.qasm")):
        read_circuit(tmp_path / "none.qasm")
    with pytest.raises(CircuitFileError, match=naming(tmp_path)):
        read_circuit(tmp_path)
