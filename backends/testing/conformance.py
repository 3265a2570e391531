"""What every backend must do, as tests to subclass."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from qiskit import QuantumCircuit

from backends.api import (
    Backend,
    BackendError,
    Leasing,
    PayloadRejected,
    QpuBusy,
    QpuTaskId,
    Result,
    SessionId,
    Target,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    TaskState,
    UnknownSession,
    UnknownTask,
    Waitable,
)
from backends.payloads import (
    Payload,
    SamplerPayload,
    kind_names,
    payload_from_bytes,
    payload_kind,
)
from backends.profiles import Profile
from backends.results import result_from_bytes, result_to_bytes
from backends.testing.agreement import counts_follow_probabilities, kinds_for, values_are_exact
from backends.testing.cases import compiled, scattered_bits
from backends.testing.effects import effects_of_block
from backends.testing.kinds import PayloadCases, cases_of, checks
from backends.testing.physics import NotApplicable, Trial
from backends.testing.random_circuits import Kinds
from backends.testing.watched import Watched

__all__ = ["BackendConformance"]

_ORDER = [TaskState.QUEUED, TaskState.RUNNING]


class BackendConformance:
    """Subclass this, say how your backend is made, and pytest tells you when it is right.

    Attributes to override where the defaults do not fit:

    noise: how far expectation values may be from the ideal ones, on top of shot noise.
    finish_s: longest that a small task may take. prompt_s: longest that any call may take.
    shots: shots of the physics tests.
    profile: of the device whose noise the backend simulates exactly, if it does; with it, or
    without ``noise``, the results of random circuits are compared with what they must be.
    examples: how many such circuits of each kind.
    takes: payload kinds that the target must take; the checks of any other are skipped without it.

    >>> from backends.fake import create
    >>> class TestMine(BackendConformance):
    ...     finish_s = 10.0
    ...
    ...     @classmethod
    ...     def make_backend(cls, state_dir):
    ...         return create({}, state_dir=state_dir)
    """

    noise: float = 0.0
    finish_s: float = 300.0
    prompt_s: float = 30.0
    shots: int = 1000
    profile: Profile | None = None
    examples: int = 20
    takes: frozenset[str] = frozenset()

    @classmethod
    def make_backend(cls, state_dir: Path) -> Backend:
        """Build the backend as a site would; called again, with the same options and folder."""
        raise NotImplementedError(f"{cls.__name__} must say how its backend is made")

    @classmethod
    def describe(cls) -> Target | None:
        """Return the factory's ``describe`` for the options of `make_backend`; None if it has none."""
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def factory(cls, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Backend]:
        """Return what builds instances on one state folder."""
        state_dir = tmp_path_factory.mktemp("backend-state")
        return lambda: cls.make_backend(state_dir)

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, factory: Callable[[], Backend]) -> Iterator[Watched]:
        """The backend under test, one for all tests of the class."""
        backend = factory()
        yield Watched(backend, cls.prompt_s)
        backend.close()

    @pytest.fixture
    def session(self, backend: Backend) -> Iterator[SessionId]:
        """An open session."""
        session = backend.acquire()
        yield session
        backend.release(session)

    def native(
        self, circuit: QuantumCircuit, target: Target
    ) -> tuple[QuantumCircuit, Sequence[int] | None]:
        """Return a circuit the target accepts, and the physical qubit of each of its qubits.

        None for the qubits means that they stay as they are.
        """
        return compiled(circuit, target)

    def smallest(self, backend: Backend) -> Payload:
        """Return the least work that the backend accepts."""
        target = backend.target()
        return _cases(target).smallest(target, self.native, 20)

    def lengthy(self, backend: Backend) -> Payload:
        """Return work that is still under way when the next call comes, if that can be."""
        target = backend.target()
        return _cases(target).lengthy(target, self.native)

    def finished(self, backend: Backend, task: QpuTaskId) -> TaskState:
        """Poll until the task has ended; checks that states only move forward."""
        deadline = time.monotonic() + self.finish_s
        seen = [backend.status(task)]
        while not seen[-1].is_final:
            assert time.monotonic() < deadline, f"{task} is still {seen[-1]}"
            time.sleep(0.005)
            seen.append(backend.status(task))
        open_states = [state for state in seen if not state.is_final]
        assert open_states == sorted(open_states, key=_ORDER.index), seen
        return seen[-1]

    def ran(self, backend: Backend, session: SessionId, payload: Payload) -> Result:
        """Run a payload to its end and return its result."""
        task = backend.start(session, payload, _tag())
        self.finished(backend, task)
        return backend.result(task)

    def test_target_describes_the_qpu(self, backend: Backend) -> None:
        """The target is complete and makes sense."""
        target = backend.target()
        assert target.name
        assert target.payload_kinds
        assert target.payload_kinds <= set(kind_names())
        assert self.takes <= target.payload_kinds, "its physics would not be checked"
        assert target.num_qubits is None or target.num_qubits >= 1
        assert target.calibration.id
        assert target.calibration.taken_at.tzinfo is not None, "times carry their zone"
        assert target.max_shots is None or target.max_shots >= 1
        assert target.clock_scale >= 0
        assert target.max_circuits is None or target.max_circuits >= 1
        assert target.max_concurrent_tasks is None or target.max_concurrent_tasks >= 1

    def test_describe_is_the_target_without_a_backend(self, backend: Backend) -> None:
        """The factory tells the target, all but the calibration, and touches nothing for it."""
        if self.describe() is None:
            pytest.skip("the factory has no describe")
        with effects_of_block() as effects:
            described = self.describe()
        assert not effects, f"describe() did: {effects}"
        assert described is not None
        target = backend.target()
        described = replace(described, calibration=target.calibration)
        assert described == target, f"describe() returned {described}, target() {target}"

    def test_a_task_lives_from_start_to_result(self, backend: Backend, session: SessionId) -> None:
        """States move forward to COMPLETED; the result is the same as often as it is read."""
        payload = self.smallest(backend)
        task = backend.start(session, payload, _tag())
        assert isinstance(task, str)
        assert self.finished(backend, task) is TaskState.COMPLETED
        result = backend.result(task)
        assert len(payload_kind(payload.kind).items(result.native)) == len(payload.shapes)
        assert backend.status(task) is TaskState.COMPLETED
        again = backend.result(task)
        assert _same(again, result, payload), "a result is read, not made anew"

    def test_usage_tells_what_ran(self, backend: Backend, session: SessionId) -> None:
        """Usage counts one task, its circuits and its shots."""
        payload = self.smallest(backend)
        usage = self.ran(backend, session, payload).usage
        assert usage.tasks == 1
        assert usage.circuits == sum(shape.points for shape in payload.shapes)
        assert usage.qpu_seconds >= 0
        assert all(charge.amount >= 0 and charge.unit for charge in usage.charges)
        if all(shape.shots for shape in payload.shapes):
            assert usage.shots == sum(shape.points * shape.shots for shape in payload.shapes)

    def test_a_result_survives_serialisation(self, backend: Backend, session: SessionId) -> None:
        """Results and metadata can travel between processes."""
        payload = self.smallest(backend)
        result = self.ran(backend, session, payload)
        json.dumps(dict(result.metadata))
        copy = result_from_bytes(result_to_bytes(result, payload.kind))
        assert _same(copy, result, payload)

    def test_a_payload_that_travelled_runs_too(self, backend: Backend, session: SessionId) -> None:
        """A payload read back from bytes is as good as the first."""
        payload = payload_from_bytes(self.smallest(backend).to_bytes())
        assert payload.digest == self.smallest(backend).digest
        self.ran(backend, session, payload)

    def test_every_measured_bit_is_returned(self, backend: Backend, session: SessionId) -> None:
        """Bits of several registers, and of none, are in the result."""
        target = backend.target()
        if SamplerPayload.kind not in target.payload_kinds:
            pytest.skip("the target takes no sampler payloads")
        circuit, layout = self.native(scattered_bits(), target)
        payload = SamplerPayload.coerce([circuit], shots=50)
        assert layout is None or len(layout) == 2
        data = self.ran(backend, session, payload).native[0].data
        assert set(data) == {"c0", "word", "again"}
        ones = {name: sum(int(bits) for bits in data[name].get_bitstrings()) for name in data}
        assert ones["c0"] > 25
        assert ones["word"] < 25
        assert ones["again"] == ones["word"]

    def test_the_same_tag_starts_once(self, backend: Backend, session: SessionId) -> None:
        """A second start with a tag returns the first task."""
        tag, payload = _tag(), self.smallest(backend)
        task = backend.start(session, payload, tag)
        assert backend.start(session, payload, tag) == task
        self.finished(backend, task)
        assert backend.start(session, payload, tag) == task
        assert backend.status(task) is TaskState.COMPLETED

    def test_find_returns_what_was_started(self, backend: Backend, session: SessionId) -> None:
        """A tag leads to its task from the start on, and an unused one to None."""
        if not backend.target().can_find:
            pytest.skip("the target says that it cannot find")
        tag = _tag()
        assert backend.find(tag) is None
        task = backend.start(session, self.smallest(backend), tag)
        assert backend.find(tag) == task
        self.finished(backend, task)
        assert backend.find(tag) == task
        assert backend.find(_tag()) is None

    def test_stop_ends_a_task_and_leaves_an_ended_one(
        self, backend: Backend, session: SessionId
    ) -> None:
        """Stopping is final, and does not undo what has ended."""
        task = backend.start(session, self.smallest(backend), _tag())
        backend.stop(task)
        state = self.finished(backend, task)
        backend.stop(task)
        assert backend.status(task) is state
        if state is TaskState.CANCELLED:
            with pytest.raises(TaskCancelled):
                backend.result(task)
        else:
            assert state is TaskState.COMPLETED, "it was quicker than the stop"
            backend.result(task)

    def test_release_twice_does_nothing(self, backend: Backend) -> None:
        """A released session, or one never granted, may be released; none starts tasks."""
        session = backend.acquire()
        backend.release(session)
        backend.release(session)
        backend.release(SessionId("never-granted"))
        with pytest.raises(UnknownSession):
            backend.start(session, self.smallest(backend), _tag())

    def test_a_task_outlives_its_session(self, backend: Backend) -> None:
        """Releasing a session does not lose its tasks."""
        session = backend.acquire()
        task = backend.start(session, self.smallest(backend), _tag())
        backend.release(session)
        if self.finished(backend, task) is not TaskState.CANCELLED:
            backend.result(task)

    @pytest.mark.parametrize("call", ["status", "result", "stop"])
    def test_an_unknown_task_is_said_to_be_unknown(self, backend: Backend, call: str) -> None:
        """An id that was never given out, or is hostile, raises ``UnknownTask``."""
        with pytest.raises(UnknownTask):
            getattr(backend, call)(QpuTaskId(f"no-such-{uuid.uuid4().hex}"))
        with pytest.raises(UnknownTask):
            getattr(backend, call)(QpuTaskId("../../etc/passwd"))

    def test_a_foreign_payload_is_rejected(self, backend: Backend, session: SessionId) -> None:
        """Something that is no payload is refused before anything starts."""
        tag = _tag()
        with pytest.raises(PayloadRejected):
            backend.start(session, {"pulses": []}, tag)  # type: ignore[arg-type]
        assert backend.find(tag) is None

    def test_what_can_never_run_is_rejected(self, backend: Backend, session: SessionId) -> None:
        """A circuit wider than the device is refused for good."""
        target, tag = backend.target(), _tag()
        if target.num_qubits is None or SamplerPayload.kind not in target.payload_kinds:
            pytest.skip("the target has no widest circuit")
        circuit = QuantumCircuit(target.num_qubits + 2)
        circuit.measure_all()
        with pytest.raises(PayloadRejected) as caught:
            backend.start(session, SamplerPayload.coerce([circuit], shots=10), tag)
        assert not caught.value.retryable
        assert backend.find(tag) is None

    def test_more_than_the_limit_is_rejected(self, backend: Backend, session: SessionId) -> None:
        """More shots than a task may have are refused."""
        target = backend.target()
        if target.max_shots is None:
            pytest.skip("the target has no limit of shots")
        payload = _cases(target).smallest(target, self.native, target.max_shots + 1)
        with pytest.raises(PayloadRejected):
            backend.start(session, payload, _tag())

    def test_an_early_result_is_refused(self, backend: Backend, session: SessionId) -> None:
        """A result before the end raises ``TaskNotFinished``, never something half done."""
        payload = self.lengthy(backend)
        task = backend.start(session, payload, _tag())
        early: Result | None = None
        try:
            early = backend.result(task)
        except TaskNotFinished:
            assert self.finished(backend, task) is TaskState.COMPLETED
        else:
            state = backend.status(task)
            assert state is TaskState.COMPLETED, f"there is a result, and the task is {state}"
        final = backend.result(task)
        assert early is None or _same(early, final, payload)

    def test_two_threads_may_poll(self, backend: Backend, session: SessionId) -> None:
        """Calls may come from several threads at once."""
        task = backend.start(session, self.smallest(backend), _tag())
        ends: list[TaskState | BaseException] = []

        def poll() -> None:
            try:
                ends.append(self.finished(backend, task))
                backend.result(task)
            except BaseException as error:  # noqa: BLE001  # shown below
                ends.append(error)

        threads = [threading.Thread(target=poll) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.finish_s)
        assert ends == [TaskState.COMPLETED] * len(threads)

    def test_a_full_qpu_is_busy_not_broken(self, backend: Backend, session: SessionId) -> None:
        """Past the concurrent tasks there is ``QpuBusy``, and those inside complete."""
        most = backend.target().max_concurrent_tasks
        if most is None or most > 8:
            pytest.skip("the target takes any number of tasks")
        payload = self.lengthy(backend)
        tasks: list[QpuTaskId] = []
        with contextlib.suppress(QpuBusy):  # none comes where tasks end as fast as they start
            for _ in range(most + 2):
                tasks.append(backend.start(session, payload, _tag()))
                still_open = sum(not backend.status(task).is_final for task in tasks)
                assert still_open <= most, f"{still_open} tasks are open, and {most} may be"
        assert len(tasks) >= most
        for task in tasks:
            assert self.finished(backend, task) is TaskState.COMPLETED

    def test_waiting_is_told_of_the_end(self, backend: Watched, session: SessionId) -> None:
        """A ``Waitable`` returns at the end, and at once after it."""
        inner = backend.inner
        if not isinstance(inner, Waitable):
            pytest.skip("the backend is polled")
        task = backend.start(session, self.smallest(backend), _tag())
        assert inner.wait(task, self.finish_s) is TaskState.COMPLETED
        assert inner.wait(task, 0.0) is TaskState.COMPLETED, "an ended task is not waited for"

    def test_a_lease_has_a_session_until_it_is_released(self, backend: Watched) -> None:
        """A ``Leasing`` backend runs tasks in the session of a lease, and none after its release."""
        inner = backend.inner
        if not isinstance(inner, Leasing):
            pytest.skip("the backend keeps nothing for leases")
        leased = inner.acquire_lease("conformance", 60.0)
        assert self.finished(backend, backend.start(leased, self.smallest(backend), _tag())) is (
            TaskState.COMPLETED
        )
        inner.release(leased)
        with pytest.raises(UnknownSession):
            inner.start(leased, self.smallest(backend), _tag())
        inner.release(leased)

    def test_a_restart_reads_the_same_ids(
        self, factory: Callable[[], Backend], backend: Backend, session: SessionId
    ) -> None:
        """A new instance knows the tasks of an ended one, if the target is durable."""
        if not backend.target().durable:
            pytest.skip("the target does not say that its tasks outlive it")
        tag = _tag()
        payload = self.smallest(backend)
        task = backend.start(session, payload, tag)
        self.finished(backend, task)
        other = factory()
        try:
            assert other.find(tag) == task
            assert other.status(task) is TaskState.COMPLETED
            assert _same(other.result(task), backend.result(task), payload)
            session = other.acquire()
            assert other.start(session, self.smallest(backend), tag) == task
        finally:
            other.close()

    def test_closing_twice_does_nothing(self, factory: Callable[[], Backend]) -> None:
        """Closing is safe, also when nothing was ever run."""
        backend = factory()
        backend.close()
        backend.close()

    def trial(self, backend: Backend, session: SessionId) -> Trial:
        """Return what the physics tests need to know of the backend."""
        return Trial(
            target=backend.target(),
            native=self.native,
            run=lambda payload: self.ran(backend, session, payload),
            shots=self.shots,
            noise=self.noise,
            profile=self.profile,
        )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run the checks of every installed payload kind."""
        if "kind" in metafunc.fixturenames:
            found = checks()
            names = [check.__name__ for _, check in found]
            metafunc.parametrize(("kind", "check"), found, ids=names)

    def test_physics(
        self, backend: Backend, session: SessionId, kind: str, check: Callable[[Trial], None]
    ) -> None:
        """Known states give what quantum mechanics says, within shot noise and ``noise``."""
        if kind not in backend.target().payload_kinds:
            pytest.skip(f"the target takes no {kind} payloads")
        try:
            check(self.trial(backend, session))
        except NotApplicable as reason:
            pytest.skip(str(reason))

    @pytest.mark.parametrize(
        "check",
        [values_are_exact, counts_follow_probabilities],
        ids=lambda check: check.__name__,
    )
    def test_random_circuits(
        self, backend: Backend, session: SessionId, check: Callable[[Trial, int, Kinds], None]
    ) -> None:
        """Random circuits, with all that the target takes, give what quantum mechanics says."""
        kinds = kinds_for(backend.target())
        try:
            check(self.trial(backend, session), self.examples, kinds)
        except NotApplicable as reason:
            pytest.skip(str(reason))

    def test_only_backend_errors_come_out(self, backend: Backend, session: SessionId) -> None:
        """Whatever is handed in, the caller has one kind of error to expect."""
        payload = self.smallest(backend)
        strange = ["", "a/b", "..", "x" * 5000, "\x00", "tag with spaces"]
        for tag in strange:
            try:
                task = backend.start(session, payload, tag)
            except BackendError:
                continue
            assert self.finished(backend, task) in (TaskState.COMPLETED, TaskState.FAILED)
            assert backend.find(tag) in (task, None)
        with pytest.raises((UnknownSession, TaskFailed)):
            backend.start(SessionId("never-granted"), payload, _tag())


def _tag() -> str:
    return f"conformance-{uuid.uuid4().hex}"


def _cases(target: Target) -> PayloadCases:
    """Return the cases of the first kind that a target takes."""
    return cases_of(next(kind for kind in kind_names() if kind in target.payload_kinds))


def _same(one: Result, other: Result, payload: Payload) -> bool:
    return result_to_bytes(one, payload.kind) == result_to_bytes(other, payload.kind)
