"""What classes the stages of a run need, from its jobs and declarations."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.application.coupling_classes import (
    NeededClass,
    loops,
    needed_classes,
    queue_wait_s,
    too_loose,
)
from orchestrator.broker.core.choice import QpuNeeds
from orchestrator.provenance.schema import RecordedJob
from orchestrator.stages import StageNeeds
from tests.application.ran import at_s, job, stage


def ran(key: str, submitted_s: float, ended_s: float, waited_s: float = 0.5) -> RecordedJob:
    return job(
        key,
        1.0,
        submitted_at=at_s(submitted_s),
        started_at=at_s(submitted_s + waited_s),
        ended_at=at_s(ended_s),
    )


def loop(key: str, rounds: int, waited_s: float = 0.5) -> list[RecordedJob]:
    return [ran(key, 10 * turn, 10 * turn + 5, waited_s) for turn in range(rounds)]


def test_rounds_are_jobs_that_come_after_all_before_have_ended() -> None:
    beside = [ran("a-0", 0, 5), ran("a-0", 1, 9), ran("a-0", 6, 7)]
    assert loops(beside) == 1
    assert loops([*beside, ran("a-0", 9, 10), ran("a-0", 9.5, 12)]) == 2
    assert loops(reversed(loop("a-0", 4))) == 4
    assert loops([job("a-0", 1.0)]) == 0  # it has not ended


def needed(jobs: Sequence[RecordedJob], **declared: QpuNeeds) -> dict[str, NeededClass]:
    stages = [stage(name, "quantum", 0, 100) for name in ("a", "b")]
    needs = {name: StageNeeds(kind="quantum", of_qpu=one) for name, one in declared.items()}
    return {one.stage: one for one in needed_classes(stages, jobs, needs)}


def test_a_loop_wants_an_interactive_qpu_and_two_jobs_do_not() -> None:
    found = needed([*loop("a-0", 3), *loop("b-0", 2)])
    assert list(found) == ["a"]
    assert (found["a"].coupling_class, found["a"].rounds) == ("interactive", 3)


def test_calls_of_a_stage_one_after_the_other_are_a_loop() -> None:
    stages = [stage("a", "quantum", 0, 100, key=f"a-{number}") for number in range(4)]
    jobs = [ran(f"a-{number}", 10 * number, 10 * number + 5) for number in range(4)]
    (found,) = needed_classes(stages, jobs, {})
    assert found.rounds == 4


def test_what_a_stage_declares_counts_whatever_it_does() -> None:
    found = needed(
        loop("a-0", 9), a=QpuNeeds(coupling_class="batch"), b=QpuNeeds(coupling_class="realtime")
    )
    assert {name: one.coupling_class for name, one in found.items()} == {
        "a": "batch",
        "b": "realtime",
    }


def test_a_warning_says_how_often_a_loop_waits_and_for_how_long() -> None:
    jobs = loop("a-0", 60, waited_s=40.0)
    found = list(needed(jobs).values())
    assert queue_wait_s(jobs) == 40.0
    (words,) = too_loose(found, "far", "batch", 40.0)
    for word in ("far", "batch", "interactive", "60", "40 s", "40 min"):
        assert word in words
    (dry,) = too_loose(found, "far", "batch", None)
    assert "not known" in dry
    assert too_loose(found, "near", "interactive", 40.0) == []
    assert too_loose(found, "dark", None, 40.0) == []


def test_a_declared_class_that_is_not_there_is_said_to_fail() -> None:
    found = list(needed([], b=QpuNeeds(coupling_class="realtime")).values())
    (words,) = too_loose(found, "near", "interactive", None)
    assert "realtime" in words
    assert "fail" in words
