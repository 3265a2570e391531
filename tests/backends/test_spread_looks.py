"""Looks at many tasks of a site: none at the same time, and each task in turn."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit

from backends import iqm
from backends.api import TaskState
from backends.aqt import create
from backends.payloads import SamplerPayload
from backends.spread_looks import SpreadLooks, pause_s
from tests.answering import answering
from tests.patience import PATIENCE_S

TASKS = 64
SHORTEST_S = pause_s(0)
ROUNDING_S = 1e-9


class Slept(Exception):
    """How long a caller wants to sleep."""


class Looking:
    """Callers on a clock of their own, each of which looks, pauses, and looks again."""

    def __init__(self, pauses, slice_s=math.inf) -> None:
        self.now_s = 0.0
        self.looks: list[tuple[float, int]] = []
        self._pauses, self._slice_s = pauses, slice_s
        self._spread = SpreadLooks(clock=lambda: self.now_s, sleep=self._sleep)

    @staticmethod
    def _sleep(seconds: float) -> None:
        raise Slept(seconds)

    def run(self, until_s: float):
        """Look until a time; return the times and tasks of all looks."""
        due = [(0.0, task, self._slice_s) for task in range(len(self._pauses))]
        while due[0][0] <= until_s:
            self.now_s, task, deadline_s = heapq.heappop(due)
            if self.now_s >= deadline_s:  # the call before has returned without a look
                deadline_s = self.now_s + self._slice_s
            try:
                self._spread.await_turn(task, deadline_s)
            except Slept as slept:
                heapq.heappush(due, (self.now_s + slept.args[0], task, deadline_s))
                continue
            self.looks.append((self.now_s, task))
            self._spread.put_off(task, self._pauses[task])
            heapq.heappush(due, (self.now_s, task, self.now_s + self._slice_s))
        return self.looks


@pytest.mark.parametrize("age_s", [0, 1, 10, 60, 600])
def test_one_task_is_looked_at_after_each_pause(age_s) -> None:
    pause = pause_s(age_s)
    times = [at for at, _ in Looking([pause]).run(10.5 * pause)]
    assert times == pytest.approx([number * pause for number in range(11)])


@pytest.mark.parametrize("age_s", [0, 1, 10, 60, 600])
def test_many_tasks_are_looked_at_in_turn_and_never_in_a_burst(age_s) -> None:
    pause = pause_s(age_s)
    gap = max(SHORTEST_S, pause / 8)
    looks = Looking([pause] * TASKS).run(TASKS * (SHORTEST_S + 3 * gap))
    later = [at for at, _ in looks[TASKS:]]  # each task was looked at once
    assert min(b - a for a, b in itertools.pairwise(later)) >= gap - ROUNDING_S
    numbers = Counter(task for _, task in looks)
    assert len(numbers) == TASKS
    assert max(numbers.values()) - min(numbers.values()) <= 1


@given(
    st.lists(st.floats(0, 1000).map(pause_s), min_size=1, max_size=TASKS),
    st.sampled_from([0.5, 5.0, math.inf]),
)
def test_no_task_waits_for_ever_and_no_two_are_looked_at_at_once(pauses, slice_s) -> None:
    """slice_s: callers come back after this time without a look, and call again."""
    longest_s = max(pauses) + len(pauses) * max(SHORTEST_S, max(pauses) / 8)
    looks = Looking(pauses, slice_s).run(3 * longest_s)
    first = {looks.index(next(look for look in looks if look[1] == task)) for _, task in looks}
    times = [at for number, (at, _) in enumerate(looks) if number not in first]
    assert all(b - a >= SHORTEST_S - ROUNDING_S for a, b in itertools.pairwise(times))
    for task in range(len(pauses)):
        own = [at for at, looked in looks if looked == task]
        gaps = [b - a for a, b in itertools.pairwise(own)]
        assert own
        assert max(gaps, default=0) <= longest_s + ROUNDING_S
        assert min(gaps, default=math.inf) >= pauses[task] - ROUNDING_S


def one_shot() -> SamplerPayload:
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    return SamplerPayload.coerce([circuit], shots=1)


class Jobs:
    """A server's jobs that never end; counts the requests that wait for that."""

    def __init__(self) -> None:
        self._number, self._waiting, self.most_waiting = 0, 0, 0
        self._lock, self._hold = threading.Lock(), threading.Event()

    def accepted(self, _query):
        with self._lock:
            self._number += 1
            return {"id": f"j{self._number}", "job": {"job_id": f"j{self._number}"}}

    def state(self, query):
        if "wait_until_terminal" in query:
            with self._lock:
                self._waiting += 1
                self.most_waiting = max(self.most_waiting, self._waiting)
            self._hold.wait(0.01)
            with self._lock:
                self._waiting -= 1
        return {"status": "processing", "response": {"status": "ongoing"}}


def cloud(jobs):
    described = {"status": "online", "available_qubits": 1}
    states = {f"result/j{number}": jobs.state for number in range(1, TASKS + 1)}
    options = {"workspace": "w", "resource": "r"}
    return {"resources/r": described, "submit/w/r": jobs.accepted, **states}, options, create


def iqm_server(jobs):
    gate = {"implementations": {"a": {"loci": [["QB1"]]}}}
    none = {"implementations": {"a": {"loci": []}}}
    architecture = {
        "calibration_set_id": "c1",
        "qubits": ["QB1"],
        "computational_resonators": [],
        "gates": {"prx": gate, "measure": gate, "cz": none},
    }
    states = {f"jobs/j{number}": jobs.state for number in range(1, TASKS + 1)}
    answers = {"dynamic-quantum-architecture": architecture, "circuit": jobs.accepted, **states}
    return answers, {"quantum_computer": "q"}, iqm.create


class Turns:
    """Gives as many turns as it was made with."""

    def __init__(self, number) -> None:
        self.left, self.pauses = number, []

    def await_turn(self, _task, _deadline_s) -> bool:
        self.left -= 1
        return self.left >= 0

    def put_off(self, _task, pause_s) -> None:
        self.pauses.append(pause_s)


@pytest.mark.parametrize("site", [cloud, iqm_server])
def test_a_task_that_is_awaited_is_looked_at_in_its_turns_alone(tmp_path, site) -> None:
    answers, options, factory = site(Jobs())
    with answering(answers) as (url, seen):
        backend = factory({"url": url, "token": "secret", **options}, state_dir=tmp_path)
        task = backend.start(backend.acquire(), one_shot(), "tag")
        asked = len(seen)
        backend._looks = Turns(3)
        assert backend.wait(task, PATIENCE_S) is TaskState.RUNNING
        assert len(seen) == asked + 3
        assert len(backend._looks.pauses) == 3
        assert min(backend._looks.pauses) >= SHORTEST_S
        backend.close()


def test_a_server_holds_the_requests_of_some_of_many_tasks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("backends.started_jobs.StartedJobs.check_room", lambda *_: None)
    jobs = Jobs()
    answers, options, factory = iqm_server(jobs)
    with answering(answers) as (url, seen):
        backend = factory({"url": url, "token": "secret", **options}, state_dir=tmp_path)
        session = backend.acquire()
        tasks = [backend.start(session, one_shot(), f"t{number}") for number in range(TASKS)]
        asked = len(seen)
        with ThreadPoolExecutor(TASKS) as threads:
            states = list(threads.map(lambda task: backend.wait(task, 0.5), tasks))
        backend.close()
    assert set(states) == {TaskState.RUNNING}
    assert len(set(seen[asked:])) == TASKS, "each was looked at"
    assert 1 <= jobs.most_waiting <= 8
