"""Values as users write them: read for what they mean, or refused with value and example."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from backends.api import PayloadRejected
from backends.payloads import EstimatorPayload, SamplerPayload
from orchestrator.application.parameters import ParameterError, bound_parameters
from orchestrator.cli import app
from orchestrator.doctor import missing_extra
from orchestrator.wording import counted

LIBRARIES = (
    "unable to parse",
    "Input should",
    "Python",
    "alphabet",
    "float()",
    "https:",
    "object is",
)


def takes(x: float = 0.0, n: int = 0, xs: list[float] = [], c: complex = 0, b: bool = True) -> None:  # noqa: B006
    """Stand for a flow."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x=[1j]", "-p x=[1j]: expected float; it is '[1j]', not a number such as 0.5"),
        ("x=", "it is '', not a number such as 0.5"),
        ("n=1.5", "it is 1.5, not a whole number such as 3"),
        ("n=many", "it is 'many', not a whole number such as 3"),
        ("xs=[1, 'a']", "entry 2 is 'a', not a number such as 0.5"),
        ("c=abc", "it is 'abc', not a number such as 0.5 or 1+2j"),
        ("b=perhaps", "it is 'perhaps', not true or false"),
    ],
)
def test_a_parameter_of_another_type_is_named_with_what_is_expected(text: str, said: str) -> None:
    name, _, value = text.partition("=")
    with pytest.raises(ParameterError) as caught:
        bound_parameters(takes, {name: value})
    message = str(caught.value)
    assert said in message
    assert not any(words in message for words in LIBRARIES)


def circuit() -> QuantumCircuit:
    made = QuantumCircuit(2)
    made.rx(Parameter("a"), 0)
    return made


@pytest.mark.parametrize(
    ("pub", "said"),
    [
        ((circuit(), "ZZ", [1j]), "PUB 0: invalid parameter value 1j; give real numbers"),
        ((circuit(), "ZZ", ["x"]), "PUB 0: invalid parameter value 'x'; give real numbers"),
        ((circuit(), "ZZ", {"b": 1.0}), "PUB 0: the circuit has no parameter 'b'; it has: a"),
        ((circuit(), "ZQ", [1.0]), "PUB 0: invalid observable 'ZQ'; use I, X, Y and Z"),
        ((circuit(), {"ZZ": 1, "zz": 1}, [1.0]), "PUB 0: invalid observable 'zz'"),
        ((circuit(), ["ZZ", "Z"], [1.0]), "one letter for each qubit; the circuit has 2 qubits"),
        ((circuit(), "ZZ", [1.0], "fine"), "PUB 0: invalid precision 'fine'; give a number"),
        ((5, "ZZ"), "PUB 0: got 5 where a circuit is expected"),
        (7, "PUB 0: got 7 where a circuit is expected"),
    ],
)
def test_a_wrong_value_in_a_pub_is_named_with_what_is_expected(pub: object, said: str) -> None:
    with pytest.raises(PayloadRejected) as caught:
        EstimatorPayload.coerce([pub])
    message = str(caught.value)
    assert said in message
    assert not any(words in message for words in LIBRARIES)


def test_a_sampler_says_the_same(tmp_path: Path) -> None:
    measured = circuit()
    measured.measure_all()
    for pubs, said in (
        ([(measured, [1j])], "PUB 0: invalid parameter value 1j"),
        ([(measured, {"b": 1.0})], "PUB 0: the circuit has no parameter 'b'"),
        (5, "got int where a list of PUBs is expected"),
    ):
        with pytest.raises(PayloadRejected, match=said):
            SamplerPayload.coerce(pubs, shots=10)  # type: ignore[arg-type]
    assert SamplerPayload.coerce([(measured, {"a": 0.5})], shots=10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sample", "c.qasm", "--shots", "many"), "'many' is not a whole number; give one such as"),
        (("sample", "c.qasm", "--shots", "1.5"), "'1.5' is not a whole number"),
        (("sample", "c.qasm", "--seed", "1_0"), "'1_0' is not a whole number"),
        (("simulate", "--mix", "1", "--noise", "loud"), "'loud' is not a number"),
        (("simulate", "--mix", "1", "--limit", "0"), "0 is too small; give a whole number ≥ 1"),
        (("agent", "start", "--prefect-port", "70000"), "70000 is too large"),
    ],
)
def test_an_option_of_another_type_is_named_with_an_example(hpcqc, arguments, said) -> None:
    told = hpcqc(*arguments)
    assert told.code == 2
    assert said in " ".join(told.err.split())
    assert not any(words in told.err for words in LIBRARIES)


def test_numbers_may_have_an_exponent(hpcqc, tmp_path) -> None:
    done = hpcqc("simulate", "--mix", "1", "--limit", "1e1", "--profile", "vlq", "--policy", "fifo")
    assert done.code == 0, done.err
    assert "10 jobs of" in done.out


def test_a_home_folder_that_the_shell_left_is_the_home_folder(
    hpcqc, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    (home / "site.toml").write_text('[qpu.q]\nbackend = "fake"\n')
    assert hpcqc("config", "check", "~/site.toml").code == 0
    assert hpcqc("qpu", "list", "--site", "~/site.toml").code == 0
    done = hpcqc(
        "simulate", "--mix", "1", "--limit", "5", "--profile", "vlq", "--report", "~/r.html"
    )
    assert done.code == 0, done.err
    assert (home / "r.html").is_file()
    assert not list(work.glob("~*"))
    assert hpcqc("sample", "~nobody-of-this-name/c.qasm").code == 2


def test_every_path_and_number_of_the_command_line_is_read_in_one_way() -> None:
    found = []
    for file in Path(str(app.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated":
                kind, *rest = node.slice.elts  # type: ignore[attr-defined]
                typed = ast.unparse(kind).removesuffix(" | None") in ("Path", "int", "float")
                if (
                    typed
                    and "typer." in ast.unparse(rest[0])
                    and "parser=" not in ast.unparse(rest[0])
                ):
                    found.append(f"{file.name}:{node.lineno}")
    assert found == []


def test_nobody_is_sent_to_install_a_package_of_that_name() -> None:
    assert "pip install" not in missing_extra("notthere")
    assert "check its spelling" in missing_extra("notthere.inner")
    assert "pip install 'hpcqc[chemistry]'" in missing_extra("pyscf.gto")


def test_one_is_singular() -> None:
    assert [counted(n, "job") for n in (0, 1, 2, 1000)] == [
        "0 jobs",
        "1 job",
        "2 jobs",
        "1,000 jobs",
    ]
    assert counted(1, "try", "tries") == "1 try"
    assert counted(3, "try", "tries") == "3 tries"
