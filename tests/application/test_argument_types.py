"""Arguments of a wrong type: refused with the parameter's name and value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from qiskit import QuantumCircuit

import hpcqc
from tests.errors import naming

WRONG: Any = 3
FAKE = '[site]\ndefault_qpu = "f"\n[qpu.f]\nbackend = "fake"\n'


@flow
def nothing() -> None: ...


def measured() -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    return circuit


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpcqc.toml").write_text(FAKE)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: hpcqc.Sampler(WRONG).run([measured()]), ["qpu", 3]),
        (lambda: hpcqc.open_qpu(WRONG), ["qpu", 3]),
        (lambda: hpcqc.sample(WRONG), ["circuit", 3]),
        (lambda: hpcqc.sample(measured(), shots="10"), ["shots", "'10'"]),
        (lambda: hpcqc.sample(measured(), seed=1.5), ["seed", 1.5]),
        (lambda: hpcqc.sample(measured(), settings="qpu.f.a=1"), ["settings", "qpu.f.a=1"]),
        (lambda: hpcqc.why(WRONG), ["job", 3]),
        (lambda: hpcqc.job(WRONG), ["job", 3]),
        (lambda: hpcqc.run_flow(nothing, [1]), ["parameters", "[1]"]),
        (lambda: hpcqc.run_flow(nothing, budgets=[1]), ["budgets", "[1]"]),
        (lambda: hpcqc.estimate(nothing, [1]), ["parameters", "[1]"]),
        (lambda: hpcqc.simulate(mix=1, policies="fifo"), ["policies", "'fifo'"]),
        (lambda: hpcqc.simulate(mix=1, load="0.5"), ["load", "'0.5'"]),
    ],
)
def test_a_wrong_type_is_refused_by_the_parameter_s_name(
    call: Callable[[], object], named: list[object]
) -> None:
    try:
        with pytest.raises(TypeError, match=naming(*named)):
            call()
    finally:
        hpcqc.shutdown()


def test_a_circuit_where_a_payload_is_expected_is_refused() -> None:
    try:
        with pytest.raises(hpcqc.PayloadRejected, match=naming("QuantumCircuit", "payload")):
            hpcqc.open_qpu().run(measured())  # type: ignore[arg-type]
    finally:
        hpcqc.shutdown()
