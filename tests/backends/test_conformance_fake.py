"""The fake QPU passes the suite that third parties' backends must pass."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from backends.api import TaskState
from backends.fake import create
from backends.testing import BackendConformance
from backends.testing.watched import Watched
from tests.errors import naming


class TestFake(BackendConformance):
    takes = frozenset({"sampler"})
    options: ClassVar = {"queue_s": 0.01, "run_s": 0.02, "max_shots": 5000}

    @classmethod
    def make_backend(cls, state_dir):
        return create(cls.options, state_dir=state_dir)

    @classmethod
    def describe(cls):
        return create.describe(cls.options)


class TestDurableFake(TestFake):
    options: ClassVar = {
        "durable": True,
        "max_concurrent_tasks": None,
        "payload_kinds": ["sampler"],
    }


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
    with pytest.raises(AssertionError, match=naming(3, 2)):
        TestFake().test_a_full_qpu_is_busy_not_broken(backend, backend.acquire())


def test_the_suite_sees_a_result_that_comes_too_early(tmp_path) -> None:
    inner = create({"stuck": [2]}, state_dir=tmp_path)
    session, suite = inner.acquire(), TestFake()
    done = inner.start(session, suite.smallest(inner), "done")
    assert suite.finished(inner, done) is TaskState.COMPLETED
    hasty = Watched(Broken(inner, result=lambda _task: inner.result(done)), 1.0)
    with pytest.raises(AssertionError, match=naming("result", "running")):
        suite.test_an_early_result_is_refused(hasty, session)


def test_the_suite_sees_that_the_description_is_another(tmp_path) -> None:
    class Other(TestFake):
        @classmethod
        def describe(cls):
            return replace(super().describe(), max_shots=1)

    with pytest.raises(AssertionError, match="max_shots=1,"):
        Other().test_describe_is_the_target_without_a_backend(create({}, state_dir=tmp_path))


def test_the_suite_sees_that_describing_touches_something(tmp_path) -> None:
    class Busy(TestFake):
        @classmethod
        def describe(cls):
            (tmp_path / "note").write_text("was here")
            return super().describe()

    with pytest.raises(AssertionError, match=naming("describe()", "note")):
        Busy().test_describe_is_the_target_without_a_backend(create({}, state_dir=tmp_path))
