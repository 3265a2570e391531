"""An annealer of D-Wave's cloud, over HTTP to a server on this machine."""

from __future__ import annotations

import gzip
import logging
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("dwave.cloud.api", reason="the dwave extra is not installed")
pytest.importorskip("minorminer", reason="the dwave extra is not installed")
pytest.importorskip("dwave.samplers", reason="the annealing extra is not installed")

from backends import registry
from backends.annealing import cloud
from backends.annealing import sapi as sapi_client
from backends.annealing.embedding import chain_strength, embedded, find_chains, unembedded
from backends.api import (
    AccessDenied,
    Backend,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskCancelled,
    TaskFailed,
    TaskState,
)
from backends.child.environment import Environment
from backends.payloads import AnnealingPayload, BinaryQuadraticModel
from backends.plugins import PluginUnusable
from backends.testing import BackendConformance
from backends.testing.annealing import all_samples, random_model
from tests.errors import naming
from tests.patience import until
from tests.vendors.sapi_server import TOKEN, Sapi, chimera, serving

QUBITS, COUPLERS = chimera(4)
RING = BinaryQuadraticModel.of([0.1] * 5, {(i, (i + 1) % 5): 1.0 for i in range(5)}, vartype="SPIN")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Sapi]]:
    with serving() as found:
        yield found


@pytest.fixture
def sapi(served: tuple[str, Sapi]) -> Sapi:
    _, found = served
    found.faults.clear()
    found.unlisted.clear()
    found.requests.clear()
    found.falsified, found.raw = {}, None
    return found


def options_for(url: str, **more: Any) -> dict[str, Any]:
    return {"solver": "Chip4", "url": url, "token": TOKEN, **more}


@pytest.fixture
def annealer(served: tuple[str, Sapi], tmp_path: Path) -> Iterator[Backend]:
    backend = registry.create("annealing", options_for(served[0]), state_dir=tmp_path)
    yield backend
    backend.close()


class TestSapi(BackendConformance):
    takes = frozenset({"annealing"})
    finish_s = 60.0
    # An anneal of chains may end a little above the lowest energy.
    noise = 0.1

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, served: tuple[str, Sapi]) -> None:
        cls.url = served[0]

    @classmethod
    def make_backend(cls, state_dir: Path) -> Any:
        return registry.create("annealing", options_for(cls.url), state_dir=state_dir)


class TestSapiInChild(TestSapi):
    @classmethod
    def make_backend(cls, state_dir: Path) -> Any:
        where = Environment.current()
        options = options_for(cls.url)
        return registry.create("annealing", options, state_dir=state_dir, environment=where)


def payload(model: BinaryQuadraticModel = RING, reads: int = 20) -> AnnealingPayload:
    return AnnealingPayload.coerce([model], reads=reads)


def ended(backend: Backend, task: Any) -> TaskState:
    state = backend.status(task)
    while not state.is_final:
        threading.Event().wait(0.01)
        state = backend.status(task)
    return state


def test_a_label_is_the_tag_and_its_qubits_are_paid_for(annealer: Backend, sapi: Sapi) -> None:
    task = annealer.start(annealer.acquire(), payload(), "label-1")
    assert sapi.problems[task]["label"] == "label-1"
    assert ended(annealer, task) is TaskState.COMPLETED
    result = annealer.result(task)
    (found,) = result.native
    assert found.energies[0] == pytest.approx(RING.energies(all_samples(RING)).min())
    assert result.usage.qpu_seconds == pytest.approx(0.022)
    assert result.metadata["longest_chain"] >= 2
    assert result.metadata["timing_us"]["qpu_sampling_time"] == 2000
    calls = [request.split()[0] for request in sapi.requests]
    assert calls.count("POST") == 1


@pytest.mark.parametrize("fault", ["lost", "500", "garbage"])
def test_a_lost_answer_is_found_by_its_label(annealer: Backend, sapi: Sapi, fault: str) -> None:
    before = len(sapi.problems)
    sapi.faults.append(fault)
    session, tag = annealer.acquire(), f"fault-{fault}"
    with pytest.raises(QpuUnavailable):
        annealer.start(session, payload(), tag)
    task = annealer.find(tag)
    assert task is not None
    assert annealer.start(session, payload(), tag) == task
    assert len(sapi.problems) == before + 1
    assert ended(annealer, task) is TaskState.COMPLETED
    assert annealer.result(task).native[0].reads == 20


def test_a_problem_that_is_not_listed_yet_is_waited_for(
    annealer: Backend, sapi: Sapi, monkeypatch: Any
) -> None:
    session, before = annealer.acquire(), len(sapi.problems)
    sapi.faults.append("lost")
    sapi.unlisted.add("late")
    with pytest.raises(QpuUnavailable):
        annealer.start(session, payload(), "late")
    for again in (annealer.find, lambda tag: annealer.start(session, payload(), tag)):
        with pytest.raises(QpuUnavailable) as caught:
            again("late")
        assert caught.value.retry_after_s
    sapi.unlisted.clear()
    task = annealer.find("late")
    assert task == annealer.start(session, payload(), "late")
    assert len(sapi.problems) == before + 1
    sapi.unlisted.add("late")
    monkeypatch.setattr(cloud, "_SETTLES_S", 0.0)
    assert annealer.find("late") is None


def test_a_refused_repetition_keeps_what_the_first_answer_is_read_by(
    annealer: Backend, sapi: Sapi, monkeypatch: Any
) -> None:
    """The first request arrived late: its problem is found, and its model was not forgotten."""
    session = annealer.acquire()
    sapi.faults.append("lost")
    sapi.unlisted.add("slow")
    with pytest.raises(QpuUnavailable):
        annealer.start(session, payload(), "slow")
    monkeypatch.setattr(cloud, "_SETTLES_S", 0.0)
    sapi.faults.append("429")
    with pytest.raises(QpuBusy):
        annealer.start(session, payload(), "slow")
    sapi.unlisted.clear()
    task = annealer.find("slow")
    assert ended(annealer, task) is TaskState.COMPLETED
    assert annealer.result(task).native[0].reads == 20


def test_what_a_gateway_doubled_is_cancelled(annealer: Backend, sapi: Sapi) -> None:
    release = threading.Event()
    sapi.work.submit(release.wait)
    sapi.faults.append("doubled")
    with pytest.raises(QpuUnavailable):
        annealer.start(annealer.acquire(), payload(), "twice")
    task = annealer.find("twice")
    ours = [one for one in sapi.problems.values() if one["label"] == "twice"]
    assert [one["status"] for one in ours] == ["PENDING", "CANCELLED"]
    assert task == ours[0]["id"]
    release.set()
    assert ended(annealer, task) is TaskState.COMPLETED


@pytest.mark.parametrize(
    ("fault", "error", "after_s"),
    [
        *(("408", QpuBusy, 7.0), ("429", QpuBusy, 7.0), ("503", QpuBusy, 7.0)),
        ("400", PayloadRejected, None),
    ],
)
def test_a_refusal_starts_nothing(annealer, sapi, fault, error, after_s) -> None:
    before = len(sapi.problems)
    sapi.faults.append(fault)
    session = annealer.acquire()
    with pytest.raises(error) as caught:
        annealer.start(session, payload(), f"refused-{fault}")
    assert getattr(caught.value, "retry_after_s", None) == after_s
    assert len(sapi.problems) == before
    assert annealer.find(f"refused-{fault}") is None


def test_a_task_is_stopped_while_it_waits(annealer: Backend, sapi: Sapi) -> None:
    release = threading.Event()
    sapi.work.submit(release.wait)
    task = annealer.start(annealer.acquire(), payload(), "stopped")
    assert annealer.status(task) is TaskState.QUEUED
    annealer.stop(task)
    release.set()
    with pytest.raises(TaskCancelled):
        annealer.result(task)


def test_many_tasks_are_asked_for_together(annealer: Backend, sapi: Sapi) -> None:
    free = threading.Event()
    sapi.work.submit(free.wait)  # the annealer is at work on something else
    session = annealer.acquire()
    payload = AnnealingPayload.coerce([RING], reads=10)
    try:
        tasks = [annealer.start(session, payload, f"together-{number}") for number in range(8)]
        sapi.requests.clear()
        seen = {annealer.status(task) for _ in range(20) for task in tasks}
        assert seen == {TaskState.QUEUED}
        alone = [request for request in sapi.requests if "id=" not in request]
        assert len(alone) <= 1, "the first one, as long as it was known alone"
        assert len(sapi.requests) < len(tasks)
    finally:
        free.set()
    for task in tasks:
        assert until(lambda task=task: annealer.status(task) is TaskState.COMPLETED)


def test_no_server_and_a_wrong_token_are_told_apart(served: Any, tmp_path: Path) -> None:
    wrong = registry.create(
        "annealing", options_for(served[0], token="DEV-wrong"), state_dir=tmp_path
    )
    with pytest.raises(AccessDenied) as caught:
        wrong.start(wrong.acquire(), payload(), "denied")
    assert "DEV-wrong" not in str(caught.value)
    nobody = registry.create(
        "annealing", options_for("http://127.0.0.1:9/sapi/v2/"), state_dir=tmp_path
    )
    with pytest.raises(QpuUnavailable):
        nobody.target()


def test_the_token_is_in_no_log(annealer: Backend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    annealer.start(annealer.acquire(), payload(), "logged")
    assert "problems/" in caplog.text
    assert TOKEN not in caplog.text


def test_a_server_that_went_away_started_nothing(tmp_path: Path) -> None:
    with serving() as (url, _):
        backend = registry.create("annealing", options_for(url), state_dir=tmp_path)
        session = backend.acquire()
        backend.target()
    with pytest.raises(QpuBusy):
        backend.start(session, payload(), "gone")


def test_what_fits_nowhere_is_refused(annealer: Backend, monkeypatch: Any) -> None:
    monkeypatch.setattr(cloud, "_EMBEDDING_S", 1.0)
    full = random_model(np.random.default_rng(1), 40, "SPIN")
    with pytest.raises(PayloadRejected, match=naming(40)):
        annealer.start(annealer.acquire(), payload(full), "too-dense")


def test_the_token_follows_no_redirection(served: tuple[str, Sapi], tmp_path: Path) -> None:
    with serving() as (url, stranger):
        backend = registry.create("annealing", options_for(url), state_dir=tmp_path)
        session = backend.acquire()
        backend.target()
        stranger.redirect = served[0].partition("/sapi")[0]
        served[1].requests.clear()
        with pytest.raises(QpuUnavailable):
            backend.start(session, payload(), "elsewhere")
        with pytest.raises(QpuUnavailable):
            backend.find("elsewhere")
        assert served[1].requests == []


@pytest.mark.parametrize(
    "falsified",
    [
        {"timing": {"qpu_access_time": "1"}},
        {"timing": {"qpu_access_time": None}},
        {"timing": {"qpu_access_time": -5}},
        {"timing": {"qpu_access_time": 1e308}},
        {"timing": {"qpu_access_time": 10**400}},
        {"num_variables": 10**12},
        {"num_variables": 0},
        {"energies": b64encode(bytes(8 * 21)).decode()},
        {"energies": ""},
        {"num_occurrences": b64encode(b"\xff\xff\xff\xff" * 2).decode()},
        {"num_occurrences": ""},
        {"active_variables": b64encode(b"\xff\xff\xff\x7f" * 10).decode()},
        {"solutions": "AAAA"},
    ],
)
def test_an_answer_that_no_annealer_gives_fails_its_task(
    annealer: Backend, sapi: Sapi, falsified: dict[str, Any]
) -> None:
    task = annealer.start(annealer.acquire(), payload(), "false")
    assert ended(annealer, task) is TaskState.COMPLETED
    sapi.falsified = falsified
    with pytest.raises((TaskFailed, QpuUnavailable)):
        annealer.result(task)
    sapi.falsified = {}
    assert annealer.result(task).native[0].reads == 20


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_bound_is_not_read_to_its_end(
    annealer: Backend, sapi: Sapi, monkeypatch: Any, packed: bool
) -> None:
    monkeypatch.setattr(sapi_client, "_LARGEST_ANSWER_BYTES", 1 << 20)
    body, headers = b" " * (1 << 24), {"Content-Type": "application/json"}
    if packed:
        body, headers = gzip.compress(body), headers | {"Content-Encoding": "gzip"}
    sapi.raw = headers, body
    with pytest.raises(QpuUnavailable, match=naming(1 << 20)):
        annealer.find("large")
    sapi.raw = headers, body[:1000]
    with pytest.raises(QpuUnavailable):
        annealer.find("cut-off")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"solver": ""}, ["solver"]),
        ({"url": "https://example.org"}, ["url", "solver"]),
        ({"solver": "Chip4"}, ["url"]),
        ({"solver": "Chip4", "url": "http://example.org", "token": TOKEN}, ["https"]),
        ({"solver": "Chip4", "url": "https://example.org"}, ["token"]),
        (options_for("https://example.org", parameters={"num_reads": 5}), ["num_reads"]),
        (options_for("https://example.org", parameters=5), ["parameters"]),
    ],
)
def test_options_are_checked(options: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    with pytest.raises(PluginUnusable, match=naming(*named)):
        registry.create("annealing", options, state_dir=tmp_path)


def test_the_vendors_own_client_runs_on_the_server(served: tuple[str, Sapi], sapi: Sapi) -> None:
    base = pytest.importorskip("dwave.cloud.client.base")
    url, _ = served
    with base.Client(endpoint=url, token=TOKEN) as client:
        solver = client.get_solver(name="Chip4")
        assert solver.graph_id == "01a"
        found = solver.sample_ising({0: 0.0, 4: 0.5}, {(0, 4): -1.0}, num_reads=30, label="theirs")
        assert min(found.energies) == -1.5
        assert sum(found.num_occurrences) == 30
        assert (found.samples[0][0], found.samples[0][4]) == (-1, -1)
    assert [one["status"] for one in sapi.problems.values() if one["label"] == "theirs"] == [
        "COMPLETED"
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_whole_chains_have_the_energies_of_the_model(seed: int, variables: int) -> None:
    model = random_model(np.random.default_rng(seed), variables, "SPIN")
    chains = find_chains(model, QUBITS, COUPLERS, timeout_s=20)
    assert len({qubit for chain in chains for qubit in chain}) == sum(map(len, chains))
    fields, couplings = embedded(model, chains, COUPLERS)
    inside = sum(1 for a, b in couplings if any(a in chain and b in chain for chain in chains))
    samples = all_samples(model)
    qubits = np.zeros((len(samples), 8 * 16), dtype=np.int8)
    for variable, chain in enumerate(chains):
        qubits[:, list(chain)] = samples[:, [variable]]
    energies = np.zeros(len(samples))
    for qubit, field in fields.items():
        energies += field * qubits[:, qubit]
    for (a, b), strength in couplings.items():
        energies += strength * qubits[:, a] * qubits[:, b]
    expected = model.energies(samples) - model.offset - inside * chain_strength(model)
    np.testing.assert_allclose(energies, expected, atol=1e-9)
    back, broken = unembedded(qubits, chains)
    assert broken == 0
    np.testing.assert_array_equal(back, samples)


def test_a_broken_chain_decides_by_majority() -> None:
    spins = np.array([[1, 1, -1, 1], [-1, -1, 1, -1], [1, -1, 1, 1]], dtype=np.int8)
    found, broken = unembedded(spins, ((0, 1, 2), (3,)))
    assert found.tolist() == [[1, 1], [-1, -1], [1, 1]]
    assert broken == 0.5
