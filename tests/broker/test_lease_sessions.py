"""What a backend keeps for a lease: opened with its first task, released at its end, also after a death."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backends.api import QpuBusy, QpuUnavailable, SessionId
from backends.fake import FakeBackend
from orchestrator.broker.core.job_request import JobRequest, LeaseWish
from orchestrator.broker.runtime import qpu_sessions
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from tests.broker.embedded_rooms import Open, bell, call, counts_of, die, fake_of, starts
from tests.patience import until

LONG = {"schedule": {"lease": {"longest_s": 3600, "idle_s": 1800}}}


def in_loop(number: int) -> JobRequest:
    return replace(call(number), lease=LeaseWish(id="loop", longest_s=3600, idle_s=1800))


@dataclass
class Kept:
    """What the device of all instances keeps: sessions by lease, and in which each task started."""

    by_lease: dict[str, str] = field(default_factory=dict)
    longest_s: list[float] = field(default_factory=list)
    started_for: dict[str, str] = field(default_factory=dict)  # by tag: a lease, or nothing
    faults: int = 0  # of the next releases


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """One home of the ledger: the other makes no difference here."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Let fake QPUs keep something for leases, as one with a vendor's sessions does."""
    kept, leases = Kept(), dict[SessionId, str]()
    start, release = FakeBackend.start, FakeBackend.release

    def acquire_lease(self: FakeBackend, lease: str, longest_s: float) -> SessionId:
        session = self.acquire()
        leases[session] = lease
        if longest_s:
            kept.longest_s.append(longest_s)
        return session

    def start_in(self: FakeBackend, session: SessionId, payload: Any, tag: str) -> Any:
        task = start(self, session, payload, tag)
        kept.started_for[tag] = leases.get(session, "")
        if session in leases:
            kept.by_lease[leases[session]] = session
        return task

    def released(self: FakeBackend, session: SessionId) -> None:
        if session in leases and kept.faults:
            kept.faults -= 1
            raise QpuUnavailable("nobody knows whether it was released")
        release(self, session)
        kept.by_lease.pop(leases.pop(session, ""), None)

    monkeypatch.setattr(FakeBackend, "acquire_lease", acquire_lease, raising=False)
    monkeypatch.setattr(FakeBackend, "start", start_in)
    monkeypatch.setattr(FakeBackend, "release", released)
    return kept


def run(broker: EmbeddedBroker, request: JobRequest, seed: int) -> str:
    """Run a job; return the tag of its task."""
    job = broker.submit(request, bell(seed=seed))
    counts_of(broker, job)
    (task,) = broker.view(job).tasks
    return task.tag


def test_tasks_of_a_lease_share_a_session_that_ends_with_it(opened: Open, kept: Kept) -> None:
    broker = opened(LONG, max_concurrent_tasks=2)
    tags = [run(broker, in_loop(number), number) for number in range(2)]
    outside = run(broker, call(2), 2)
    assert [kept.started_for[tag] for tag in (*tags, outside)] == ["loop", "loop", ""]
    assert len(kept.longest_s) == 1
    assert 3000 < kept.longest_s[0] <= 3600
    assert set(kept.by_lease) == {"loop"}
    broker.release("q", "loop")
    assert until(lambda: not kept.by_lease)
    after = run(broker, call(3), 3)
    assert kept.started_for[after] == ""
    again = run(broker, in_loop(4), 4)
    assert kept.started_for[again] == "loop"
    broker.close()
    assert not kept.by_lease


def test_a_release_that_fails_is_tried_again(
    opened: Open, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qpu_sessions, "_PAUSES_S", (0.0, 0.01, 0.01))
    broker = opened(LONG)
    run(broker, in_loop(0), 0)
    kept.faults = 2
    broker.release("q", "loop")
    assert until(lambda: not kept.by_lease)


@pytest.mark.parametrize("goes_on", [False, True])
def test_what_a_dead_broker_kept_is_used_on_and_released(
    opened: Open, kept: Kept, goes_on: bool
) -> None:
    first = opened(LONG, durable=True)
    run(first, in_loop(0), 0)
    die(first)
    assert set(kept.by_lease) == {"loop"}
    second = opened(LONG, durable=True)
    if goes_on:
        assert kept.started_for[run(second, in_loop(1), 1)] == "loop"
    second.release("q", "loop")
    counts_of(second, second.submit(call(2), bell(seed=2)))  # attaches the QPU, too
    assert until(lambda: not kept.by_lease)
    assert set(starts(second).values()) == {1}


def test_a_task_whose_lease_ends_before_it_starts_keeps_nothing(
    opened: Open, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = opened(LONG)
    start: Callable[..., Any] = FakeBackend.start

    def busy(self: FakeBackend, session: SessionId, payload: Any, tag: str) -> Any:
        if not self.calls["release"]:  # of the lease's session
            raise QpuBusy("another lease has it")
        return start(self, session, payload, tag)

    monkeypatch.setattr(FakeBackend, "start", busy)
    job = broker.submit(in_loop(0), bell())
    assert until(lambda: fake_of(broker).calls["acquire"])
    broker.release("q", "loop")
    counts_of(broker, job)
    assert list(kept.started_for.values()) == [""]
    assert not kept.by_lease
    assert set(starts(broker).values()) == {1}
