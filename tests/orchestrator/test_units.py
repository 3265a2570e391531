"""Units of a fan-out: whose results they get back, what they ask of a QPU, how they may die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from qiskit import QuantumCircuit

from hpcqc import classical, fan_out, open_qpu, quantum
from orchestrator import resources
from orchestrator.broker.core.views import JobView
from orchestrator.broker.ledger import Ledger
from orchestrator.compute.digests import value_digest
from orchestrator.compute.fanout import FanOutError, Spread, fan_out_on
from orchestrator.compute.remote_call import StageContext
from orchestrator.identity import Occurrences
from orchestrator.runs import Run
from tests.errors import naming

pytestmark = pytest.mark.usefixtures("prefect_server")


def scaled(factor: int, item: int) -> int:
    return factor * item


def scaling(factor: int) -> Callable[[int], int]:
    return lambda item: factor * item


def shifting(shift: int) -> Callable[[int], int]:
    def shifted(item: int, by: int = shift) -> int:
        return item + by

    return shifted


class Power:
    def __init__(self, exponent: int) -> None:
        self.exponent = exponent

    def of(self, item: int) -> int:
        return int(item**self.exponent)


def number(item: int) -> int:
    return item


def throw(item: object) -> str:
    return f"{item}-{uuid.uuid4().hex}"


def ask(shots: int) -> tuple[str, str, str]:
    """Ask the default QPU; return the job, its stage, and where the site's state is."""
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    qpu = open_qpu("fake")
    job = qpu.sampler().run([circuit], shots=shots)
    job.result()
    site = resources.resources().run.site
    return str(job.job_id()), str(job.view().stage), str(site.state_dir)


def ask_and_break(item: tuple[str, int]) -> str:
    marks, shots = item
    job = ask(shots)[0]
    if (Path(marks).parent / "broken").exists():
        raise RuntimeError("broken after its job")
    return job


def spread_further(items: list[int]) -> tuple[list[int], str]:
    site = resources.resources().run.site
    return fan_out(number, items), str(site.state_dir)


def mark(item: tuple[str, int]) -> int:
    marks, value = item
    with (Path(marks) / str(value)).open("a") as file:
        file.write("x")
    return value


def kill_at_seven(item: tuple[str, int]) -> int:
    marks, value = item
    (Path(marks) / str(value)).touch()
    if value == 7 and not (Path(marks).parent / "mended").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def kill(_item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def quantum_jobs(run: Run) -> dict[str, JobView]:
    ledger = Ledger.open(run.site.state_dir / "ledger.sqlite")
    try:
        return {view.id: view for view in ledger.jobs()}
    finally:
        ledger.close()


def test_functions_of_one_name_get_their_own_results(run: Run) -> None:
    functions: list[Callable[[int], int]] = [
        partial(scaled, 1),
        partial(scaled, 2),
        scaling(3),
        scaling(4),
        shifting(1),
        shifting(2),
        Power(2).of,
        Power(3).of,
    ]

    @classical
    def all_of_them() -> list[list[int]]:
        return [fan_out(function, [5, 6]) for function in functions]

    @flow
    def several() -> list[list[int]]:
        return all_of_them()

    expected = [[function(5), function(6)] for function in functions]
    assert several() == expected
    run._stages = Occurrences()
    assert several() == expected


def test_equal_units_are_separate_until_the_run_is_taken_up_again(run: Run) -> None:
    @classical(retries=1)
    def throws(marks: str) -> list[list[str]]:
        found = [fan_out(throw, ["a", "a", "b"]) for _ in range(2)]
        mark = Path(marks) / "once"
        if not mark.exists():
            mark.write_text(repr(found))
            raise RuntimeError("once more")
        return found

    @flow
    def twice(marks: str) -> list[list[str]]:
        return throws(marks)

    marks = run.site.state_dir / "thrown"
    marks.mkdir()
    found = twice(str(marks))
    assert len({name for names in found for name in names}) == 6
    assert (marks / "once").read_text() == repr(found)


def test_a_functions_digest_is_the_same_in_every_process() -> None:
    script = textwrap.dedent(
        """
        from dataclasses import dataclass
        from enum import Enum
        from functools import partial
        from orchestrator.compute.digests import value_digest

        def outer(step, names={"b", "c", "d"}):
            def count(item, *, label="x"):
                return count(item - step) if item in {"one", "two", "three", None} else names
            return partial(count, label="y")

        class Colour(Enum):
            RED = 1

        @dataclass
        class Pair:
            left: object
            right: object

        class Power:
            def __init__(self, exponent):
                self.exponent = exponent

            def of(self, item):
                return item**self.exponent

        values = [Pair(1, Colour.RED), {"a": Power(2)}, (Pair([Power(2)], None),)]
        print(*map(value_digest, values), value_digest(Power(2).of))
        print(value_digest(outer(1)), value_digest(outer(2)), value_digest(len))
        """
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    (digests,) = found
    assert len(set(digests.split())) == 7


def test_digests_see_code_constants_defaults_and_what_is_closed_over() -> None:
    variants: list[Callable[..., Any]] = [
        lambda x: x + 1,
        lambda x: x + 2,
        lambda x, y=1: x + y,
        lambda x, y=2: x + y,
        lambda x, *, y=2: x + y,
        lambda x: [z + 1 for z in x],
        lambda x: [z + 2 for z in x],
        lambda x: x.real,
        lambda x: x.imag,
        scaling(1),
        scaling(2),
        Power(1).of,
        Power(2).of,
        partial(scaled, 1),
        partial(scaled, factor=1),
        number,
    ]
    assert len({value_digest(variant) for variant in variants}) == len(variants)
    assert value_digest(scaling(1)) == value_digest(scaling(1))


def test_units_ask_the_stages_site_each_for_itself_and_once(run: Run) -> None:
    @classical
    def asks() -> list[tuple[str, str, str]]:
        return fan_out(ask, [20, 20, 21])

    @flow
    def spread() -> list[tuple[str, str, str]]:
        return asks()

    found = spread()
    (key,) = {span.key for span in run.spans() if span.name.startswith("asks")}
    assert {place for _, _, place in found} == {str(run.site.state_dir)}
    assert all(stage.startswith(f"{key}~") for _, stage, _ in found)
    assert len({job for job, _, _ in found}) == 3
    assert {job for job, _, _ in found} <= set(quantum_jobs(run))


@pytest.mark.parametrize("kind", ["classical", "quantum", "flow"])
def test_a_unit_that_is_tried_again_meets_its_job(run: Run, marks: Path, kind: str) -> None:
    items = [(str(marks), shots) for shots in (40, 40)]

    def spread() -> list[str]:
        return fan_out(ask_and_break, items)

    def lent(_qpu: object) -> list[str]:
        return spread()

    staged = {"classical": classical(spread), "quantum": quantum(lent), "flow": spread}[kind]

    @flow
    def call() -> list[str]:
        return staged()

    (marks.parent / "broken").touch()
    before = set(quantum_jobs(run))
    with pytest.raises(Exception, match="broken after its job"):
        call()
    made = set(quantum_jobs(run)) - before
    assert len(made) == 2
    (marks.parent / "broken").unlink()
    run._stages = Occurrences()
    resources.resources()._calls.clear()  # as in another process
    assert set(call()) == made
    assert set(quantum_jobs(run)) - before == made


@pytest.mark.slow
def test_a_unit_that_kills_its_worker_fails_alone(run: Run, marks: Path) -> None:
    @quantum(
        qpu="fake"
    )  # waits in the flow's process; a classical one may wait on the worker that dies
    def risky(_qpu: object) -> list[int]:
        return fan_out(kill_at_seven, [(str(marks), value) for value in range(40)])

    @flow
    def wide() -> list[int]:
        return risky()

    with pytest.raises(FanOutError, match=naming(1, 40, 7, "ComputeError")):
        wide()
    assert {path.name for path in marks.iterdir()} == {str(value) for value in range(40)}
    run._stages = Occurrences()
    (marks.parent / "mended").touch()
    for path in marks.iterdir():
        path.unlink()
    assert wide() == list(range(40))
    assert {path.name for path in marks.iterdir()} == {"7"}


@pytest.mark.slow
def test_where_every_unit_kills_its_worker_not_each_is_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.compute.fanout._MOST_KILLERS", 1)

    @flow
    def wide() -> list[None]:
        return fan_out(kill, range(4))

    with pytest.raises(FanOutError, match=naming(4, 0, "ComputeError")):
        wide()


@pytest.mark.parametrize("cut", [1, 5, 9, 20])
def test_a_torn_record_costs_only_itself(run: Run, marks: Path, cut: int) -> None:
    folder = run.site.state_dir / "units" / run.id
    before = set(folder.glob("*")) if folder.exists() else set()
    context = StageContext(run=run.id, key=f"torn-{cut}", site=None, qpu=None, keep_dir=folder)
    client = resources.resources().compute().client()

    def spread() -> list[int]:
        turns: dict[str, int] = {}

        def turn_of(content: str) -> int:
            turns[content] = turns.get(content, -1) + 1
            return turns[content]

        items = [(str(marks), value) for value in range(3)]
        return fan_out_on(client, mark, items, Spread(context=context, turn_of=turn_of))

    assert spread() == [0, 1, 2]
    (path,) = set(folder.glob("*")) - before
    path.write_bytes(path.read_bytes()[:-cut])
    assert spread() == spread() == [0, 1, 2]
    runs_of_each = sorted(len(path.read_text()) for path in marks.iterdir())
    assert runs_of_each == [1, 1, 2]


def test_units_may_spread_units(run: Run) -> None:
    @classical
    def outer() -> list[tuple[list[int], str]]:
        return fan_out(spread_further, [[1, 2], [3], []])

    @flow
    def wide() -> list[tuple[list[int], str]]:
        return outer()

    place = str(run.site.state_dir)
    assert wide() == [([1, 2], place), ([3], place), ([], place)]
