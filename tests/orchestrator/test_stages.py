"""Classical stages on real Dask workers, inside real Prefect flows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.states import State

from hpcqc import classical, fan_out, quantum
from orchestrator.compute.cluster_process import WORKER_ENVIRONMENT
from orchestrator.compute.fanout import FanOutError
from orchestrator.identity import Occurrences
from orchestrator.runs import Run
from orchestrator.stages import stage_needs
from tests.errors import naming
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.usefixtures("prefect_server")

HERE = os.getpid()


@classical
def where_am_i(value: int) -> dict[str, Any]:
    # What the process began with: glibc reads it then, and never again.
    began = dict(
        word.split("=", 1) for word in Path("/proc/self/environ").read_text().split("\0") if word
    )
    return {"value": value, "pid": os.getpid(), "prefect": "prefect" in sys.modules, "began": began}


@classical
def dies_once(marks: str) -> str:
    """Kill the worker the first time, as the kernel would for memory."""
    first = not list(Path(marks).iterdir())
    (Path(marks) / uuid.uuid4().hex).touch()
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@classical
def leaves_a_mark(marks: str, value: int) -> int:
    (Path(marks) / uuid.uuid4().hex).touch()
    return value * 10


@classical(retries=2, name="flaky-stage", tags={"night"})
def fails_twice(marks: str) -> int:
    (Path(marks) / uuid.uuid4().hex).touch()
    tries = len(list(Path(marks).iterdir()))
    if tries < 3:
        raise RuntimeError(f"try {tries}")
    return tries


def square(item: int) -> int:
    return item * item


def marked_square(item: tuple[str, int]) -> int:
    marks, value = item
    (Path(marks) / uuid.uuid4().hex).touch()
    if (Path(marks).parent / "broken").exists() and value == 3:
        raise RuntimeError("unit 3 is broken")
    return value * value


def test_the_function_runs_on_a_worker_without_prefect_and_with_one_thread(run: Run) -> None:
    @flow
    def spread() -> list[dict[str, Any]]:
        return [future.result() for future in where_am_i.map(range(6))]

    results = spread()
    assert [result["value"] for result in results] == list(range(6))
    assert HERE not in {result["pid"] for result in results}
    assert len({result["pid"] for result in results}) <= 2
    assert not any(result["prefect"] for result in results)
    assert all(result["began"].items() >= WORKER_ENVIRONMENT.items() for result in results)
    spans = [span for span in run.spans() if span.name.startswith("where_am_i")]
    assert len(spans) == 6
    assert all(span.state == "completed" and span.ended_at is not None for span in spans)


@classical
def plus(first: int, second: int = 0) -> int:
    return first + second


@task
def passes(value: int) -> int:
    """Stand between two stages, as no stage."""
    return value


@flow
def graph() -> None:
    """Fan out, join, and take a result that went through something else."""
    left, right = plus.map([1, 2])
    joined = plus.submit(left, right)
    awaited = plus(joined.result())
    plus(passes.submit(joined))
    plus(awaited, wait_for=[left])


def test_a_stage_knows_when_it_was_submitted_and_whose_results_it_takes(run: Run) -> None:
    before = len(run.spans())
    graph()
    left, right, joined, awaited, unclear, last = run.spans()[before:]
    assert [left.after, right.after] == [(), ()]
    assert joined.after == tuple(sorted((left.key, right.key)))
    assert awaited.after is not None  # Prefect does not follow a number; the time of the call does
    assert unclear.after is None
    assert last.after in {(left.key,), (right.key,)}  # which of two began first is open
    assert joined.asked_at is not None
    assert joined.asked_at <= joined.started_at
    assert awaited.asked_at is not None
    assert joined.ended_at is not None
    assert joined.ended_at <= awaited.asked_at


def test_a_killed_worker_costs_only_time(run: Run, marks: Path) -> None:
    @flow
    def risky() -> str:
        return dies_once(str(marks))

    assert risky() == "survived"
    assert len(list(marks.iterdir())) == 2


def test_prefects_own_options_work(run: Run, marks: Path) -> None:
    assert stage_needs(fails_twice) is not None
    assert (fails_twice.name, fails_twice.retries) == ("flaky-stage", 2)

    @flow
    def stubborn() -> tuple[int, str]:
        state: State[int] = fails_twice.with_options(name="renamed")(str(marks), return_state=True)
        return state.result(), state.name

    assert stubborn() == (3, "Completed")


def test_equal_calls_in_one_run_both_run_and_a_rerun_runs_neither(run: Run, marks: Path) -> None:
    @flow
    def twice() -> list[int]:
        return [leaves_a_mark(str(marks), 4), leaves_a_mark(str(marks), 4)]

    assert twice() == [40, 40]
    assert len(list(marks.iterdir())) == 2
    # A process that takes the run up again begins to count its calls anew.
    run._stages = Occurrences()
    assert twice() == [40, 40]
    assert len(list(marks.iterdir())) == 2
    assert [s.state for s in run.spans() if s.name.startswith("leaves")][-2:] == ["cached"] * 2


def test_errors_of_the_function_come_back(run: Run) -> None:
    @classical
    def divides(value: int) -> float:
        return 1 / value

    @flow
    def wrong() -> None:
        divides(0)

    with pytest.raises(ZeroDivisionError):
        wrong()
    assert run.spans()[-1].state == "failed"


def test_a_stage_may_name_its_parameters_as_dask_names_its_own(run: Run) -> None:
    @classical
    def tells(key: str, *, workers: int, pure: bool, retries: int = 0) -> tuple[Any, ...]:
        return key, workers, pure, retries

    @flow
    def named() -> tuple[Any, ...]:
        return tells(key="k", workers=7, pure=True, retries=2)

    assert named() == ("k", 7, True, 2)


def test_calls_outside_tasks_are_stages_of_their_own(run: Run, marks: Path) -> None:
    before = len(run.spans())
    assert [leaves_a_mark.fn(str(marks), 1) for _ in range(5)] == [10] * 5
    assert leaves_a_mark.fn(str(marks), 2) == 20
    keys = [span.key for span in run.spans()[before:]]
    assert len(keys) == len(set(keys)) == 6
    assert len({key.partition("-")[0] for key in keys}) == 2


def test_stages_called_inside_a_task_keep_their_keys_when_it_is_retried(
    run: Run, marks: Path
) -> None:
    tries: list[int] = []

    @task(retries=1)
    def gathers() -> list[int]:
        found = [leaves_a_mark.fn(str(marks), value) for value in (7, 7, 8)]
        tries.append(len(tries))
        if len(tries) == 1:
            raise RuntimeError("once more")
        return found

    @flow
    def outer() -> list[int]:
        return gathers()

    before = len(run.spans())
    assert outer() == [70, 70, 80]
    keys = [span.key for span in run.spans()[before:]]
    assert keys[:3] == keys[3:]
    assert len(set(keys)) == 3


def test_units_keep_their_order_and_report_progress(run: Run) -> None:
    @classical
    def sums() -> int:
        values = fan_out(square, range(300))
        assert values == [n * n for n in range(300)]
        return sum(values)

    @flow
    def wide() -> int:
        return sums()

    assert wide() == sum(n * n for n in range(300))
    until(lambda: run.spans()[-1].units == (300, 300), lambda: run.spans()[-1])


def test_units_may_be_spread_from_the_flow_itself(run: Run) -> None:
    @flow
    def direct() -> list[int]:
        return fan_out(square, range(40))

    assert direct() == [n * n for n in range(40)]


def test_finished_units_are_not_computed_again(run: Run, marks: Path) -> None:
    (marks.parent / "broken").touch()
    items = [(str(marks), value) for value in range(8)]

    @classical
    def gathers() -> list[int]:
        return fan_out(marked_square, items, retries=1)

    @flow
    def wide() -> list[int]:
        return gathers()

    with pytest.raises(FanOutError, match=naming(1, 8, 2, "unit 3 is broken")):
        wide()
    assert len(list(marks.iterdir())) == 9
    (marks.parent / "broken").unlink()
    run._stages = Occurrences()
    assert wide() == [n * n for n in range(8)]
    assert len(list(marks.iterdir())) == 10


@pytest.mark.parametrize(
    ("declare", "complaint"),
    [
        (lambda: classical(cores=0), "cores=0"),
        (lambda: quantum(lambda: None), "argument"),
    ],
)
def test_impossible_stages_are_refused_where_they_are_declared(
    declare: Any, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        declare()


def test_a_stage_silences_prefects_telemetry_unless_it_is_wanted(monkeypatch) -> None:
    monkeypatch.delenv("PREFECT_SERVER_ANALYTICS_ENABLED", raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "0")

    @classical
    def one() -> int:
        return 1

    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["DO_NOT_TRACK"] == "0"


def test_async_functions_are_refused() -> None:
    with pytest.raises(ValueError, match="async"):

        @classical
        async def later() -> None:
            """Never awaited."""


@pytest.mark.slow
def test_a_script_without_a_main_guard_works(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        textwrap.dedent(
            """
            from prefect import flow
            from hpcqc import classical, shutdown

            FACTOR = 3

            def times(value):
                return value * FACTOR

            @classical
            def scaled(value):
                return times(value)

            @flow
            def main():
                return scaled(14)

            print("answer", main())
            shutdown()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "answer 42" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("run")
def test_a_generator_is_a_list_when_it_leaves_its_stage() -> None:
    @classical
    def squares(n):
        for i in range(n):
            yield i * i

    @classical
    def shifted(n):
        return (i + 1 for i in range(n))

    @quantum(qpu="fake")
    def names(qpu, n):
        for _ in range(n):
            yield qpu.name

    assert squares.fn(3) == [0, 1, 4]
    assert shifted.fn(2) == [1, 2]
    assert names.fn(2) == ["fake", "fake"]


def test_an_async_generator_is_refused() -> None:
    with pytest.raises(ValueError, match=naming("later", "async")):

        @classical
        async def later():
            yield 1


def test_a_qpu_that_the_caller_passes_is_explained() -> None:
    @quantum
    def share(qpu, angle):
        return angle

    with pytest.raises(TypeError, match=naming("hpcqc")):
        share(object(), 0.5)
