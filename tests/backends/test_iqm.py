"""IQM's protocol: what is sent, how measurements become bits, what an architecture says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit import ClassicalRegister, QuantumCircuit, qasm3
from qiskit.circuit import Parameter

from backends.api import PayloadRejected, QpuUnavailable, TaskFailed
from backends.gates import MoveGate
from backends.iqm import create
from backends.iqm.architecture import read_architecture
from backends.iqm.components import Components
from backends.iqm.jobs import PubRecipe, circuits_of, recipes_of, result_of
from backends.iqm.openqasm import openqasm_of
from backends.payloads import SamplerPayload
from backends.plugins import PluginUnusable
from tests.answering import Raw, answering
from tests.errors import naming

STAR = Components(num_qubits=3, resonator="CR1")
OPTIONS = {"url": "https://iqm.site", "token": "secret", "profile": "vlq"}


def star() -> QuantumCircuit:
    circuit = QuantumCircuit(4, 2)
    circuit.r(math.pi, Parameter("φ"), 0)
    circuit.append(MoveGate(), [0, 3])
    circuit.cz(1, 3)
    circuit.append(MoveGate(), [0, 3])
    circuit.delay(40, 2, unit="ns")
    circuit.barrier(0, 1)
    circuit.measure([1, 0], [0, 1])
    return circuit


def test_qiskit_reads_staged_files_as_the_circuit_on_physical_qubits() -> None:
    payload = SamplerPayload.coerce([(star(), [[0.25], [-1e-9]])], shots=10)
    first, second = (qasm3.loads(text) for text in openqasm_of(payload))
    steps = [
        (step.name, [first.find_bit(qubit).index for qubit in step.qubits]) for step in first.data
    ]
    assert steps == [
        ("r", [0]),
        *[("move", [0, 3]), ("cz", [1, 3]), ("move", [0, 3])],
        *[("delay", [2]), ("barrier", [0, 1])],
        *[("measure", [1]), ("measure", [0])],
    ]
    assert first.layout is not None, "the qubits are physical ones"
    assert [float(one.data[0].operation.params[1]) for one in (first, second)] == [0.25, -1e-9]
    delay = first.data[4].operation
    assert (delay.duration, delay.unit) == (pytest.approx(40), "ns")
    assert [(one.name, one.size) for one in first.cregs] == [("m0", 2)]


STAGED = {"access": "staged", "cluster": "VLQ", "project": "mine", "resource": "VLQ-CZ"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"access": "stage"}, ("stage", "staged")),
        ({"access": "staged", "cluster": "VLQ", "project": "mine"}, ("resource",)),
        ({"cluster": "VLQ"}, ("cluster", "staged")),
        ({**STAGED, "use_timeslot": True}, ("use_timeslot", "server")),
    ],
)
def test_options_of_the_other_access_are_refused(options, named) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        create.describe({**OPTIONS, **options})


def test_only_staged_jobs_can_be_looked_up() -> None:
    assert not create.describe(OPTIONS).can_find
    assert create.describe({**OPTIONS, **STAGED}).can_find


def test_a_circuit_is_written_in_names_and_radians() -> None:
    payload = SamplerPayload.coerce([(star(), [[0.25], [0.5]])], shots=10)
    first, second = circuits_of(payload, STAR)
    assert [i["name"] for i in first["instructions"]] == [
        *("prx", "move", "cz", "move", "delay", "barrier", "measure")
    ]
    prx, move, cz, _, delay, barrier, measure = first["instructions"]
    assert prx["args"] == pytest.approx({"angle": math.pi, "phase": 0.25})
    assert second["instructions"][0]["args"]["phase"] == pytest.approx(0.5)
    assert (move["locus"], cz["locus"]) == (["QB1", "CR1"], ["QB2", "CR1"])
    assert delay["args"]["duration"] == pytest.approx(40e-9)
    assert barrier["locus"] == ["QB1", "QB2"]
    assert measure == {
        "name": "measure",
        "locus": ["QB2", "QB1"],
        "args": {"key": "m0"},
        "implementation": None,
    }


def test_a_gate_that_the_protocol_lacks_is_refused() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.h(0)
    circuit.measure(0, 0)
    with pytest.raises(PayloadRejected, match="'h'"):
        circuits_of(SamplerPayload.coerce([circuit], shots=1), STAR)


@given(data=st.data())
def test_measurements_come_back_in_the_bits_of_their_registers(data) -> None:
    """Whatever order bits are measured in, into whichever registers, last one wins."""
    width = data.draw(st.integers(1, 4))
    circuit = QuantumCircuit(width)
    sizes = data.draw(st.lists(st.integers(1, 11), min_size=1, max_size=3))
    for number, size in enumerate(sizes):
        circuit.add_register(ClassicalRegister(size, f"c{number}"))
    pairs = data.draw(
        st.lists(
            st.tuples(st.integers(0, width - 1), st.integers(0, circuit.num_clbits - 1)),
            min_size=1,
            max_size=6,
        )
    )
    for qubit, bit in pairs:
        circuit.measure(qubit, bit)
    shots = data.draw(st.integers(1, 5))
    payload = SamplerPayload.coerce([circuit], shots=shots)
    (recipe,) = [
        PubRecipe.from_json(json.loads(json.dumps(r.to_json()))) for r in recipes_of(payload)
    ]
    (sent,) = circuits_of(payload, Components(num_qubits=width))
    # The device gives each qubit a bit of its own at each measurement.
    rng = np.random.default_rng(0)
    answer, expected, position = {}, np.zeros((shots, circuit.num_clbits), dtype=int), 0
    frozen = payload.pubs[0].circuit.circuit
    order = [
        (frozen.find_bit(s.qubits[0]).index, frozen.find_bit(s.clbits[0]).index)
        for s in frozen.data
    ]
    for instruction in sent["instructions"]:
        assert len(set(instruction["locus"])) == len(instruction["locus"])
        table = rng.integers(0, 2, (shots, len(instruction["locus"])))
        answer[instruction["args"]["key"]] = table.tolist()
        for column, name in enumerate(instruction["locus"]):
            qubit, bit = order[position]
            assert name == f"QB{qubit + 1}"
            expected[:, bit] = table[:, column]
            position += 1
    assert position == len(pairs)
    found = result_of([recipe], [answer])[0].data
    offset = 0
    for number, size in enumerate(sizes):
        texts = found[f"c{number}"].get_bitstrings()
        wanted = ["".join(map(str, row[offset : offset + size][::-1])) for row in expected]
        assert texts == wanted
        offset += size


def test_points_keep_their_shape() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.r(Parameter("θ"), 0.0, 0)
    circuit.measure(0, 0)
    payload = SamplerPayload.coerce([(circuit, np.zeros((2, 3, 1)))], shots=4)
    answers = [{"m0": [[point % 2]] * 4} for point in range(6)]
    data = result_of(recipes_of(payload), answers)[0].data
    assert data.c.shape == (2, 3)
    assert data.c[1, 0].get_counts() == {"1": 4}
    assert data.c[1, 1].get_counts() == {"0": 4}


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [{}],
        [{"m0": None}],
        [{"m0": [[0], [1], [0]]}],
        [{"m0": [[0, 1], [1, 0]]}],
        [{"m0": [[0], [2]]}],
        [{"m0": [[0], [-1]]}],
        [{"m0": [[0], ["x"]]}],
        [{"m0": [[0], [0, 1]]}],
        [{"m0": [[0], [0.9]]}],
        [{"m0": [[0], ["1"]]}],
        [{"m0": [[0], [math.nan]]}],
        {"m0": [[0], [1]]},
        None,
    ],
)
def test_measurements_of_another_job_are_refused(answer) -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    payload = SamplerPayload.coerce([circuit], shots=2)
    with pytest.raises(TaskFailed):
        result_of(recipes_of(payload), answer)


def architecture(**changes):
    qubits = [f"QB{n}" for n in range(1, 25) if n != 5]
    alone = [[q] for q in qubits]
    pairs = [[q, "CR1"] for q in qubits]

    def gate(loci):
        return {"implementations": {"a": {"loci": loci}}, "default_implementation": "a"}

    gates = {"prx": alone, "measure": alone, "cz": pairs, "move": pairs}
    return {
        "calibration_set_id": "c1",
        "qubits": qubits,
        "computational_resonators": ["CR1"],
        "gates": {name: gate(loci) for name, loci in (gates | changes).items()},
    }


def test_qubits_without_gates_are_out_of_use() -> None:
    described = create.describe(OPTIONS)
    stated = architecture(move=[[f"QB{n}", "CR1"] for n in range(1, 24)])
    found = read_architecture(stated, described)
    assert found.target(described).unusable_qubits == (4, 23)
    assert found.components.name(24) == "CR1"


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"gates": 3},
        {**architecture(), "computational_resonators": []},
        {**architecture(), "computational_resonators": ["CR1", "CR2"]},
        architecture(prx=[["QB25"]]),
        architecture(prx=[["alice"]]),
    ],
)
def test_an_architecture_that_does_not_fit_the_profile_is_refused(broken) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_architecture(broken, create.describe(OPTIONS))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": None}, ("url",)),
        ({"profile": "nowhere"}, ("nowhere",)),
        ({"profile": "piast-q"}, ("piast-q", "rxx")),
        ({"use_timeslot": "yes"}, ("use_timeslot", "yes")),
        ({"time_scale": -1}, ("time_scale", -1)),
        ({"quantum_computer": ""}, ("quantum_computer",)),
        ({"tokn": "x"}, ("tokn", "token")),
    ],
)
def test_wrong_options_are_named(changes, words) -> None:
    options = {k: v for k, v in (OPTIONS | changes).items() if v is not None}
    with pytest.raises(ValueError, match=naming(*words)):
        create.describe(options)


def test_a_target_needs_no_server() -> None:
    target = create.describe(OPTIONS)
    assert (target.num_qubits, target.resonator, target.can_find) == (24, 24, False)
    assert target.uniform_shots


def server(**answers):
    """Serve a QPU of one qubit, with other answers by the end of a path."""
    gate = {"implementations": {"a": {"loci": [["QB1"]]}}}
    return answering(
        {
            "dynamic-quantum-architecture": {
                "calibration_set_id": "c1",
                "qubits": ["QB1"],
                "computational_resonators": [],
                "gates": {
                    "prx": gate,
                    "measure": gate,
                    "cz": {"implementations": {"a": {"loci": []}}},
                },
            },
            "quantum-computers": {"quantum_computers": [{"alias": "q"}]},
            "circuit": {"id": "j1"},
            "j1": {"id": "j1", "status": "completed"},
            "measurements": [{"m0": [[1]]}],
        }
        | answers
    )


def one_shot() -> SamplerPayload:
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    return SamplerPayload.coerce([circuit], shots=1)


def test_a_start_whose_answer_is_damaged_is_not_repeated(tmp_path) -> None:
    with server(circuit=Raw(b"this is no gzip", headers={"Content-Encoding": "gzip"})) as (
        url,
        seen,
    ):
        backend = create({"url": url, "token": "secret"}, state_dir=tmp_path)
        session = backend.acquire()
        for _ in range(2):
            with pytest.raises(QpuUnavailable):
                backend.start(session, one_shot(), "tag")
        backend.close()
    assert [path.rpartition("/")[2] for path in seen].count("circuit") == 1


@pytest.mark.parametrize("stated", [math.nan, math.inf, -5000, 10**400, "5", None])
def test_a_runtime_that_is_none_is_modelled(tmp_path, stated) -> None:
    with server(j1={"id": "j1", "status": "completed", "runtime_ms": stated}) as (url, _):
        backend = create({"url": url, "token": "secret"}, state_dir=tmp_path)
        task = backend.start(backend.acquire(), one_shot(), "tag")
        usage = backend.result(task).usage
        backend.close()
    assert (usage.qpu_seconds, usage.charges[0].amount) == (0.0, 0.0)


@pytest.mark.parametrize(
    "answers",
    [
        {"quantum-computers": {"quantum_computers": 5}},
        {"quantum-computers": {"quantum_computers": ["q"]}},
        {"dynamic-quantum-architecture": {**architecture(), "qubits": ["QB1", "QB1000000000"]}},
        {
            "dynamic-quantum-architecture": {
                **architecture(),
                "gates": {"prx": {"implementations": {}}},
            }
        },
    ],
)
def test_what_describes_no_qpu_is_refused(tmp_path, answers) -> None:
    with server(**answers) as (url, _):
        backend = create({"url": url, "token": "secret"}, state_dir=tmp_path)
        with pytest.raises(QpuUnavailable):
            backend.target()
        backend.close()


def test_a_name_that_a_server_states_is_one_part_of_a_path(tmp_path) -> None:
    with server(**{"quantum-computers": {"quantum_computers": [{"alias": "../../x?y"}]}}) as (
        url,
        seen,
    ):
        backend = create({"url": url, "token": "secret"}, state_dir=tmp_path)
        assert backend.target().num_qubits == 1
        backend.close()
    assert all(path.startswith("/api/v1/") for path in seen)
