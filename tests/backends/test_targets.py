"""Targets over the wire: a client compiles for what it reads as the broker's own process would."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from qiskit import QuantumCircuit
from qiskit.providers.fake_provider import GenericBackendV2

from backends import registry
from backends.circuits import FrozenCircuit
from backends.targets import target_from_json, target_to_json
from orchestrator.config.loading import load_site
from orchestrator.transpile import Transpiler


def target_of(name: str, folder: Path):
    settings = load_site().qpu(name)
    backend = registry.create(settings.backend, settings.options, state_dir=folder)
    try:
        return backend.target()
    finally:
        backend.close()


@pytest.mark.parametrize("name", sorted(load_site().qpus))
def test_a_target_is_the_same_after_the_wire(name: str, tmp_path: Path) -> None:
    target = target_of(name, tmp_path)
    again = target_from_json(json.loads(json.dumps(target_to_json(target))))
    assert again == target
    circuit = QuantumCircuit(4)
    circuit.h(0)
    for other in (1, 2, 3):
        circuit.cx(0, other)
    circuit.measure_all()
    frozen = FrozenCircuit.of(circuit)
    ours, theirs = (Transpiler().transpile(frozen, seen) for seen in (target, again))
    assert theirs.circuit.digest == ours.circuit.digest
    assert theirs.layout == ours.layout


@pytest.mark.parametrize("damage", [{"native": 3}, {"metering": {"kind": 1, "x": 2}}, {"extra": 1}])
def test_anything_else_is_refused(damage: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target"):
        target_from_json(target_to_json(target_of("vlq", tmp_path)) | damage)
    with pytest.raises(ValueError, match="target"):
        target_from_json({"name": "x"})


def test_control_flow_and_the_sample_length_cross_the_wire(tmp_path: Path) -> None:
    device = GenericBackendV2(3, control_flow=True, seed=1).target
    target = replace(target_of("aer", tmp_path), num_qubits=3, native=device)
    again = target_from_json(json.loads(json.dumps(target_to_json(target)))).native
    branches = {"for_loop", "if_else", "switch_case", "while_loop"}
    assert branches <= set(again.operation_names)
    no_places = {name for name in device.operation_names if device[name] in (None, {None: None})}
    assert set(again.operation_names) - branches == set(device.operation_names) - no_places
    assert again.dt == device.dt


@pytest.mark.parametrize("where", ["num_qubits", "native"])
def test_a_target_of_more_qubits_than_there_are_is_none(tmp_path: Path, where: str) -> None:
    stated = target_to_json(target_of("vlq", tmp_path))
    stated[where] = (
        {**(stated["native"] or {}), "num_qubits": 10**12} if where == "native" else 10**12
    )
    with pytest.raises(ValueError, match="1000000000000 qubits"):
        target_from_json(stated)
