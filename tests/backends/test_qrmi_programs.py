"""Flat circuits as IQM's JSON for QRMI, and QRMI's answers as counts; nothing of qrmi is needed."""

from __future__ import annotations

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.devices.api import FlatJob, FlatPub
from backends.devices.backend import stated_target
from backends.errors import PayloadRejected, TaskFailed
from backends.plugins import PluginUnusable
from backends.qrmi import create
from backends.qrmi.programs import (
    counts_of,
    program_of,
    recipes_of,
    seconds_between,
    stated_architecture,
)

STATED = {
    "dynamic_quantum_architecture": {
        "calibration_set_id": "c-1",
        "qubits": ["QB1", "QB2", "QB3"],
        "computational_resonators": ["CR1"],
        "gates": {
            "prx": {"implementations": {"drag": {"loci": [["QB1"], ["QB2"], ["QB3"]]}}},
            "cz": {"implementations": {"t": {"loci": [["QB1", "CR1"], ["QB2", "CR1"]]}}},
            "move": {"implementations": {"t": {"loci": [["QB1", "CR1"], ["QB2", "CR1"]]}}},
            "measure": {"implementations": {"m": {"loci": [["QB1"], ["QB2"], ["QB3"]]}}},
        },
    },
    "quality_metrics": {"created_timestamp": "2026-11-29T17:00:05.807Z"},
}


def pub(*steps, clbits: int, shots: int = 3, angles=((),)) -> FlatPub:
    return FlatPub(
        num_qubits=4,
        num_clbits=clbits,
        steps=tuple(steps),
        angles=tuple(array("d", row) for row in angles),
        shots=shots,
    )


def answer(*circuits) -> str:
    return json.dumps({"measurements": [{} if one is None else {"m": one} for one in circuits]})


def test_the_target_is_what_the_resource_states() -> None:
    _, stated = stated_architecture("vlq", STATED)
    target = stated_target(stated)
    assert (target.name, target.num_qubits, target.resonator) == ("vlq", 3, 3)
    assert target.native_gates == ("r", "cz", "move")
    assert target.unusable_qubits == (2,)
    assert target.calibration.id == "c-1"
    assert target.calibration.taken_at.isoformat() == "2026-11-29T17:00:05.807000+00:00"
    assert not target.can_find


@pytest.mark.parametrize("stated", [{}, {"dynamic_quantum_architecture": {"qubits": []}}])
def test_what_is_no_architecture_is_refused(stated) -> None:
    with pytest.raises(ValueError, match=r"states|lacks|has"):
        stated_architecture("vlq", stated)


def test_a_circuit_is_written_with_one_measurement_at_its_end() -> None:
    architecture, _ = stated_architecture("vlq", STATED)
    steps = [
        ("r", (0,), (), 2),
        ("measure", (1,), (0,), 0),
        ("move", (0, 3), (), 0),
        ("barrier", (0, 1), (), 0),
        ("measure", (0,), (2,), 0),
    ]
    job = FlatJob(pubs=(pub(*steps, clbits=3, angles=[(0.5, 0.25), (1.5, 0.25)]),))
    program = json.loads(program_of(job, architecture))
    assert program["calibration_set_id"] == "c-1"
    assert program["shots"] == 3
    first, second = (one["instructions"] for one in program["circuits"])
    assert first[0] == {"name": "prx", "locus": ["QB1"], "args": {"angle": 0.5, "phase": 0.25}}
    assert second[0]["args"]["angle"] == 1.5
    assert first[1]["locus"] == ["QB1", "CR1"]
    assert first[-1] == {"name": "measure", "locus": ["QB1", "QB2"], "args": {"key": "m"}}
    assert [one["name"] for one in first].count("measure") == 1
    table = [[1, 0], [1, 0], [0, 1]]
    (counts,) = counts_of(recipes_of(job), answer(table, table))
    assert counts[0] == {"100": 2, "001": 1}


def test_a_gate_after_a_measurement_is_refused() -> None:
    architecture, _ = stated_architecture("vlq", STATED)
    job = FlatJob(pubs=(pub(("measure", (0,), (0,), 0), ("cz", (0, 1), (), 0), clbits=1),))
    with pytest.raises(PayloadRejected):
        program_of(job, architecture)


def test_a_circuit_without_measurements_reads_zeros() -> None:
    job = FlatJob(pubs=(pub(clbits=2),))
    assert counts_of(recipes_of(job), answer(None)) == (({"00": 3},),)


@given(
    st.integers(1, 5).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.just(n))), st.data()
)
def test_each_bit_is_that_of_its_qubit(order_and_width, data) -> None:
    order, width = order_and_width
    steps = [("measure", (qubit,), (bit,), 0) for bit, qubit in enumerate(order)]
    shot = data.draw(st.lists(st.integers(0, 1), min_size=width, max_size=width))
    job = FlatJob(pubs=(pub(*steps, clbits=width, shots=1),))
    ((counts,),) = counts_of(recipes_of(job), answer([shot]))
    (outcome,) = counts
    assert [int(outcome[width - 1 - bit]) for bit in range(width)] == [shot[q] for q in order]


@pytest.mark.parametrize(
    "value",
    [
        "no JSON",
        "[]",
        '{"measurements": 7}',
        answer(),
        answer(None),
        answer([[0], [1]]),
        answer([[0], [1], [2]]),
        answer([[0], [1], [True]]),
        answer([[0], [1], [0, 1]]),
        answer([0, 1, 0]),
        answer([[0], [1], [0]], [[0], [1], [0]]),
    ],
)
def test_a_result_that_was_not_asked_for_is_refused(value) -> None:
    job = FlatJob(pubs=(pub(("measure", (0,), (0,), 0), clbits=1),))
    with pytest.raises(TaskFailed):
        counts_of(recipes_of(job), value)


def test_logs_without_a_timeline_state_no_time() -> None:
    assert seconds_between("Messages   : (none)") is None
    assert seconds_between("2026-11-29 17:00:06.990 [a] execution_started") is None


@pytest.mark.parametrize(
    "options",
    [
        {"type": "alice-bob-felis"},
        {"resource": ""},
        {"token": 7},
        {"url": "http://other.example.org"},
        {"tasks": 0},
        {"colour": "red"},
    ],
)
def test_a_wrong_option_is_named(tmp_path, options) -> None:
    given_options = {"url": "https://host", "resource": "vlq", "token": "t"} | options
    with pytest.raises(PluginUnusable, match=next(iter(options))):
        create(given_options, state_dir=tmp_path)
