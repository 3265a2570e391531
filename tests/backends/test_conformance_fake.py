"""The fake QPU passes the suite that third parties' backends must pass."""

from __future__ import annotations

import pytest

from backends.api import TaskState
from backends.fake import create
from backends.testing import BackendConformance
from backends.testing.watched import Watched


class TestFake(BackendConformance):
    @classmethod
    def make_backend(cls, state_dir):
        return create({"queue_s": 0.01, "run_s": 0.02, "max_shots": 5000}, state_dir=state_dir)


class TestDurableFake(BackendConformance):
    @classmethod
    def make_backend(cls, state_dir):
        options = {"durable": True, "max_concurrent_tasks": None, "payload_kinds": ["sampler"]}
        return create(options, state_dir=state_dir)


class Broken:
    """Forwards to a backend but for what a test takes away from it."""

    def __init__(self, inner, **calls) -> None:
        self._inner, self._calls = inner, calls

    def __getattr__(self, name):
        return self._calls.get(name) or getattr(self._inner, name)


def test_the_suite_sees_that_too_many_tasks_are_open(tmp_path) -> None:
    limited = create({"max_concurrent_tasks": 2}, state_dir=tmp_path)
    endless = create({"max_concurrent_tasks": None, "stuck": [1, 2, 3]}, state_dir=tmp_path)
    backend = Watched(Broken(endless, target=limited.target), 1.0)
    with pytest.raises(AssertionError, match="3 tasks are open, and 2 may be"):
        TestFake().test_a_full_qpu_is_busy_not_broken(backend, backend.acquire())


def test_the_suite_sees_a_result_that_comes_too_early(tmp_path) -> None:
    inner = create({"stuck": [2]}, state_dir=tmp_path)
    session, suite = inner.acquire(), TestFake()
    done = inner.start(session, suite.smallest(inner), "done")
    assert suite.finished(inner, done) is TaskState.COMPLETED
    hasty = Watched(Broken(inner, result=lambda _task: inner.result(done)), 1.0)
    with pytest.raises(AssertionError, match="there is a result, and the task is running"):
        suite.test_an_early_result_is_refused(hasty, session)
