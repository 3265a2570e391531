"""What the backend of AQT's machines makes of answers that no server should give."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import ClassVar

import pytest
from qiskit import QuantumCircuit

from backends.api import (
    AccessDenied,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskFailed,
    TaskState,
    UnknownTask,
)
from backends.aqt import create
from backends.aqt.samples import largest_bytes, recipes_of
from backends.payloads import SamplerPayload
from tests.answering import Raw, answering
from tests.patience import PATIENCE_S

SHOTS = 2
FLIPPED = [[1, 0, 0]] * SHOTS
HTML = Raw(b"<h1>It works!</h1>")
CLOUD = {"workspace": "w", "resource": "r"}


class Direct:
    """Direct access: where it states what, and an answer in its form."""

    options: ClassVar = {}
    target, submit, result = "status/ions", "circuit", "result/j1"
    answers: ClassVar = {"system/name": "m", "status/ions": {"num_ions": 3}, "circuit": "j1"}

    @staticmethod
    def described(ions):
        return {"status/ions": {"num_ions": ions}}

    @staticmethod
    def accepted(job):
        return {"circuit": job}

    @staticmethod
    def ended(samples, **others):
        return {"result/j1": {"payload": {"status": "finished", "result": samples, **others}}}

    @staticmethod
    def stated(status):
        return {"result/j1": {"job_id": "j1", "payload": {"status": status}}}


class Cloud:
    """The same of the cloud."""

    options: ClassVar = CLOUD
    target, submit, result = "resources/r", "submit/w/r", "result/j1"
    answers: ClassVar = {
        "resources/r": {"name": "m", "status": "online", "available_qubits": 3},
        "submit/w/r": {"job": {"job_id": "j1"}, "response": {"status": "queued"}},
    }

    @staticmethod
    def described(ions):
        return {"resources/r": {"status": "online", "available_qubits": ions}}

    @staticmethod
    def accepted(job):
        return {"submit/w/r": {"job": {"job_id": job}}}

    @staticmethod
    def ended(samples, **others):
        response = {"status": "finished", "result": {"0": samples}, **others}
        return {"result/j1": {"response": response}}

    @staticmethod
    def stated(status):
        return {"result/j1": {"response": {"status": status}}}


both = pytest.mark.parametrize("way", [Direct, Cloud])


def flipped() -> SamplerPayload:
    circuit = QuantumCircuit(3)
    circuit.r(math.pi, 0, 0)
    circuit.measure_all()
    return SamplerPayload.coerce([circuit], shots=SHOTS)


class Client:
    """A backend at a server with prepared answers."""

    def __init__(self, way, state_dir, answers) -> None:
        self._served = answering({**way.answers, **answers})
        self._way, self._state_dir = way, state_dir

    def __enter__(self):
        url, self.seen = self._served.__enter__()
        options = {"url": url, "token": "secret", **self._way.options}
        self.backend = create(options, state_dir=self._state_dir)
        return self

    def __exit__(self, *error):
        self.backend.close()
        self._served.__exit__(*error)

    def start(self, tag="tag"):
        return self.backend.start(self.backend.acquire(), flipped(), tag)

    def asked(self, end) -> int:
        return sum(path.endswith(end) for path in self.seen)


@both
@pytest.mark.parametrize(
    "ions", [0, -1, True, "3", 3.0, math.nan, math.inf, 10**9, 10**400, None, [3], {}], ids=str
)
def test_what_is_no_number_of_ions_is_refused(tmp_path, way, ions) -> None:
    with Client(way, tmp_path, way.described(ions)) as client:
        with pytest.raises(QpuUnavailable):
            client.backend.target()
        with pytest.raises(QpuBusy):  # nothing was started
            client.start()
        assert client.asked(way.submit) == 0


@both
@pytest.mark.parametrize("answer", [HTML, Raw(b"[" * 100_000), Raw(b"9" * 9_999), Raw(), [], "m"])
def test_an_answer_of_another_kind_describes_nothing(tmp_path, way, answer) -> None:
    with Client(way, tmp_path, {way.target: answer}) as client, pytest.raises(QpuUnavailable):
        client.backend.target()


@both
@pytest.mark.parametrize(
    "job", [None, 5, "", "a b", "../result/j2", "a" * 200, {"id": "j1"}, [], math.nan], ids=str
)
def test_a_start_whose_job_has_no_id_is_in_doubt(tmp_path, way, job) -> None:
    with Client(way, tmp_path, way.accepted(job)) as client:
        for _ in range(2):
            with pytest.raises(QpuUnavailable):
                client.start()
        assert client.asked(way.submit) == 1
        assert client.backend.find("tag") is None


@both
@pytest.mark.parametrize(
    ("status", "raised"),
    [(400, PayloadRejected), (401, AccessDenied), (403, AccessDenied), (422, PayloadRejected)]
    + [(408, QpuBusy), (425, QpuBusy), (429, QpuBusy)]
    + [(status, QpuUnavailable) for status in (204, 302, 500, 502, 503, 504, 520)],
)
def test_a_start_is_sent_again_only_if_it_was_surely_refused(tmp_path, way, status, raised) -> None:
    with Client(way, tmp_path, {way.submit: Raw(b"", status)}) as client:
        for _ in range(2):
            with pytest.raises(raised):
                client.start()
        assert client.asked(way.submit) == (1 if raised is QpuUnavailable else 2)


@both
@pytest.mark.parametrize("status", ["paused", None, 5, [], {"status": "finished"}, math.nan])
def test_a_state_of_another_version_is_none(tmp_path, way, status) -> None:
    with Client(way, tmp_path, way.stated(status)) as client:
        task = client.start()
        with pytest.raises(QpuUnavailable):
            client.backend.wait(task, PATIENCE_S)
        assert client.asked(way.submit) == 1


@both
def test_a_job_that_the_server_forgot_is_unknown(tmp_path, way) -> None:
    with Client(way, tmp_path, {}) as client:
        task = client.start()
        with pytest.raises(UnknownTask):
            client.backend.wait(task, PATIENCE_S)


@both
def test_fields_of_a_later_version_are_ignored(tmp_path, way) -> None:
    timing = [{"timestamp": text} for text in ("0001-01-01T00:00:00+14:00", "tomorrow", None)]
    more = {"message": "well done", "timing_data": timing, "quality": {"good": True}}
    with Client(way, tmp_path, way.ended(FLIPPED, **more)) as client:
        task = client.start()
        assert client.backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
        data = client.backend.result(task).native[0].data
    assert data.meas.get_counts() == {"001": SHOTS}


@both
@pytest.mark.parametrize(
    "samples",
    [
        None,
        [],
        {},
        "100100",
        FLIPPED[:1],
        FLIPPED + FLIPPED[:1],
        [[1, 0]] * SHOTS,
        [[1, 0, 0, 0]] * SHOTS,
        [[1, 0, 0], [1, 0]],
        [[1, 0, 0], [1, 0, math.nan]],
        [[1, 0, 0], [1, 0, math.inf]],
        [[1, 0, 0], [1, 0, 0.9]],
        [[1, 0, 0], [1, 0, 10**400]],
        [[1, 0, 0], [1, 0, -1]],
        [[1, 0, 0], [1, 0, None]],
        [[1, 0, 0], [1, 0, [0]]],
        [["1", "0", "0"]] * SHOTS,
        [[1] * 100] * 1000,
    ],
    ids=lambda samples: str(samples)[:40],
)
def test_samples_of_another_job_are_one_clear_error(tmp_path, way, samples) -> None:
    with Client(way, tmp_path, way.ended(samples)) as client:
        task = client.start()
        assert client.backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
        for _ in range(2):
            with pytest.raises(TaskFailed, match="the server returned"):
                client.backend.result(task)
        assert (client.asked(way.submit), client.asked(way.result)) == (1, 1)
    sizes = [path.stat().st_size for path in tmp_path.rglob("tag*")]
    assert sum(sizes) < 4096, "what a server sends in addition is not stored"


@both
def test_far_more_than_the_samples_of_a_job_is_not_even_read(tmp_path, way) -> None:
    content = json.dumps(way.ended([[1, 0, 0]] * 3_000_000)[way.result]).encode()
    with Client(way, tmp_path, {way.result: Raw(content)}) as client:
        task = client.start()
        tracemalloc.start()
        with pytest.raises(QpuUnavailable, match="bytes"):
            client.backend.wait(task, PATIENCE_S)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 3 * len(content)


def test_samples_may_be_indented() -> None:
    recipes = recipes_of(flipped()) * 500
    text = json.dumps({"response": {"result": {"0": FLIPPED * 500}}}, indent=4)
    assert len(text) < largest_bytes(recipes) < 2 * len(text)


@pytest.mark.parametrize(
    "result",
    [[FLIPPED], {"1": FLIPPED}, {"0": FLIPPED, "1": FLIPPED}, {"00": FLIPPED}, "0", math.nan, None],
    ids=str,
)
def test_results_of_other_circuits_are_one_clear_error(tmp_path, result) -> None:
    ended = {"result/j1": {"response": {"status": "finished", "result": result}}}
    with Client(Cloud, tmp_path, ended) as client:
        task = client.start()
        assert client.backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
        with pytest.raises(TaskFailed, match="the server returned"):
            client.backend.result(task)


def test_the_reason_of_a_failure_is_one_short_line(tmp_path) -> None:
    response = {"status": "error", "message": "laser\n\x1b[2J" + "x" * 1_000_000}
    with Client(Cloud, tmp_path, {"result/j1": {"response": response}}) as client:
        task = client.start()
        with pytest.raises(TaskFailed, match="laser") as caught:
            client.backend.result(task)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_names_in_the_site_file_are_one_part_of_a_path(tmp_path) -> None:
    class Odd(Cloud):
        options: ClassVar = {"workspace": "../a", "resource": "r?x=1"}

    answers: ClassVar = {"resources/r%3Fx%3D1": Cloud.answers["resources/r"]}
    with Client(Odd, tmp_path, answers) as client:
        client.backend.target()
        with pytest.raises(PayloadRejected):  # 404
            client.start()
        assert client.seen[-1].endswith("/submit/..%2Fa/r%3Fx%3D1")
