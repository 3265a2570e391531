"""Text files as programs and editors write them: marks, encodings, line ends, compression."""

from __future__ import annotations

import gzip
from importlib.resources import files
from pathlib import Path

import pytest

from backends.profiles import load_profile
from flows._fcidump import from_fcidump
from flows._graphs import from_file
from flows._inputs import InputError
from flows._molecules import from_xyz
from orchestrator.application.circuit_files import CircuitFileError, read_circuit
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import SecretRef
from orchestrator.simulation.sources import QuantumRule, read_swf
from orchestrator.simulation.workload import WorkloadError
from orchestrator.text_files import TextFileError, lines_of, read_text
from tests.errors import naming

TEXT = "one α\ntwo\n"
FORMS = {
    "plain": lambda text: text.encode(),
    "byte-order mark": lambda text: text.encode("utf-8-sig"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "no last line end": lambda text: text.rstrip("\n").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "gzip under another name": lambda text: gzip.compress(text.encode()),
    "gzip of CRLF with a mark": lambda text: gzip.compress(
        text.replace("\n", "\r\n").encode("utf-8-sig")
    ),
}
XYZ = "2\nhydrogen\nH 0 0 0\nH 0 0 0.74\n"
FCIDUMP = "&FCI NORB=1,NELEC=2\n&END\n0.5 1 1 1 1\n-1.0 1 1 0 0\n0.7 0 0 0 0\n"
GRAPH = "a b 1\nb c 2\n"
QASM = 'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[2];\nh q[0];\n'
SWF = "; UnixStartTime: 1000000\n1 0 0 60 4 -1 -1 4 60 -1 1 2 3 -1 1 -1 -1 -1\n"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_text_is_the_same_text(tmp_path: Path, form: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(FORMS[form](TEXT))
    assert lines_of(read_text(path)) == ["one α", "two"]


@pytest.mark.parametrize("form", FORMS)
def test_every_reader_takes_every_form(tmp_path: Path, form: str) -> None:
    path = tmp_path / "file"

    def write(text: str) -> Path:
        path.write_bytes(FORMS[form](text))
        return path

    (frame,) = from_xyz(str(write(XYZ)))
    assert (frame.symbols, frame.positions[1]) == (("H", "H"), (0.0, 0.0, 0.74))
    found = from_fcidump(str(write(FCIDUMP)))
    assert (found.constant, found.one_body.item()) == (0.7, -1.0)
    assert from_file(str(write(GRAPH))).edges == ((0, 1, 1.0), (1, 2, 2.0))
    assert read_circuit(write(QASM)).count_ops() == {"h": 1}
    (arrival,) = read_swf(write(SWF), QuantumRule()).arrivals
    assert arrival.at.timestamp() == 1000000
    assert arrival.job.user == "user2"


def test_only_ends_of_lines_end_lines() -> None:
    text = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\nlast"
    assert lines_of(text) == [text[:-5], "last"]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"fine\nf\xe9e\n", naming("line 2", "byte 6", "UTF-8")),
        ("a b\nb c\n".encode("utf-16-le"), naming("line 1", "NUL")),
        (b"\xff\xfea", naming("line 1", "byte 2", "UTF-16-LE")),
        (b"text\n\0\n", naming("line 2", "NUL")),
        (gzip.compress(b"text" * 100)[:-9], naming("gzip")),
        (b"\x1f\x8bnot really", naming("gzip")),
    ],
)
def test_what_is_no_text_is_refused_by_every_reader(
    tmp_path: Path, data: bytes, named: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TextFileError, match=named):
        read_text(path)
    for read in (from_xyz, from_fcidump, from_file):
        with pytest.raises(InputError, match=named):
            read(str(path))
    if b"\xe9" not in data:  # comments of older circuits and workloads are in Latin-1
        with pytest.raises(CircuitFileError):
            read_circuit(path)
        with pytest.raises(WorkloadError):
            read_swf(path, QuantumRule())


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, Path("a\0b"), Path("~nobody-of-this-name/x")):
        with pytest.raises(TextFileError) as caught:
            read_text(path)
        assert str(caught.value).startswith(str(path))


def test_files_that_configure_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    site, token = tmp_path / "hpcqc.toml", tmp_path / "token"
    text = '[qpu.q]\nbackend = "aer"\nprofile = "own.toml"\n'
    site.write_text(text, encoding="utf-8-sig")
    assert load_site(site).qpu("q").backend == "aer"
    shipped = files("backends.profiles").joinpath("helmi.toml").read_text(encoding="utf-8")
    (tmp_path / "own.toml").write_text(shipped, encoding="utf-8-sig")
    assert load_profile(str(tmp_path / "own.toml")) == load_profile("helmi")
    token.write_text("secret\r\n", encoding="utf-8-sig")
    assert SecretRef(source="file", where=str(token)).resolve() == "secret"
