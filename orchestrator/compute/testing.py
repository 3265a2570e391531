"""What every kind of compute must do, as tests to subclass; needs pytest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any, ClassVar

import pytest

from orchestrator.compute.api import Compute, ComputeError, ComputeKind, Demand
from orchestrator.compute.fanout import FanOutError, Spread, fan_out_on
from orchestrator.compute.remote_call import (
    RemoteFunction,
    RemoteResult,
    StageContext,
    dump_by_value,
    stage_context,
)
from orchestrator.config.compute_tables import ComputeSettings

__all__ = ["ComputeConformance"]

_MUCH = 1 << 21  # bytes; a pipe holds 1 MiB at most, where nobody has changed the limit


class ComputeConformance:
    """Subclass this, name your kind and its settings, and pytest tells you when it is right.

    kind: what the entry point names. settings: with two workers, if the kind counts them.
    """

    kind: ClassVar[ComputeKind]
    settings: ClassVar[ComputeSettings]

    @pytest.fixture(scope="class")
    @classmethod
    def compute(cls) -> Iterator[Compute]:
        """The compute under test, one for all tests of the class."""
        compute = cls.kind(cls.settings)
        compute.start()
        yield compute
        compute.close()

    def test_a_function_runs_in_another_process(self, compute: Compute) -> None:
        """The answer says where and when the function ran."""
        ran = _ran(compute, os.getpid)
        assert ran.value != os.getpid()
        assert ran.worker
        assert ran.started_at.tzinfo is not None
        assert ran.started_at <= ran.ended_at

    def test_arguments_arrive_as_they_are(self, compute: Compute) -> None:
        """No name of an argument means anything to the compute."""
        named = {"retries": 2, "workers": "x", "key": 1, "pure": None, "resources": {"a": 1}}
        assert _ran(compute, lambda *a, **k: (a, k), 1, (2,), **named).value == ((1, (2,)), named)

    def test_an_error_of_the_function_comes_back(self, compute: Compute) -> None:
        """With its type and text, and the workers go on."""
        with pytest.raises(ZeroDivisionError, match="division"):
            _ran(compute, lambda: 1 // 0)
        with pytest.raises(OSError, match="disk"):
            _ran(compute, _raise, OSError("disk"))
        assert _ran(compute, sum, [1, 2]).value == 3

    def test_a_generator_comes_back_as_a_list(self, compute: Compute) -> None:
        """Generators do not leave their process."""
        assert _ran(compute, lambda: (n for n in range(3))).value == [0, 1, 2]

    def test_a_function_knows_what_its_stage_demands(self, compute: Compute) -> None:
        """The context of the stage travels with the function."""
        demand = Demand(cores=2)
        remote = RemoteFunction(dump_by_value(_demand), _context(demand))
        assert compute.run(remote, (), {}).value == demand

    def test_output_of_a_function_blocks_nothing(self, compute: Compute) -> None:
        """A worker's stdout and stderr take more than a pipe that nobody reads."""
        for stream in (1, 2):
            assert _ran(compute, _written_to, stream).value == _MUCH

    def test_calls_come_from_many_threads(self, compute: Compute) -> None:
        """Each thread gets its own answer."""
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda n: _ran(compute, abs, -n).value, range(24)))
        assert found == list(range(24))

    def test_a_function_that_kills_its_worker_fails_alone(self, compute: Compute) -> None:
        """Others run afterwards."""
        with pytest.raises(ComputeError):
            _ran(compute, os._exit, 1)
        assert _ran(compute, sum, [1, 2]).value == 3

    def test_units_keep_their_order(self, compute: Compute) -> None:
        """Progress is told up to the last unit."""
        told: list[tuple[int, int]] = []
        spread = _spread(progress=lambda done, total: told.append((done, total)))
        assert compute.fan_out(lambda n: n * n, range(40), spread) == [n * n for n in range(40)]
        assert told[-1] == (40, 40)

    def test_a_failing_unit_does_not_stop_the_others(self, compute: Compute) -> None:
        """The error names the first that failed, once all were tried."""
        with pytest.raises(FanOutError, match="2 of 6 units failed") as caught:
            compute.fan_out(lambda n: 1 // (n % 3), range(6), _spread())
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_a_function_may_fan_out_itself(self, compute: Compute) -> None:
        """On the workers of the compute that it runs on, as ``hpcqc.fan_out`` does there."""
        spread = _spread()

        def total() -> int:
            from distributed import worker_client

            with worker_client() as client:
                return sum(fan_out_on(client, lambda n: 2 * n, range(10), spread))

        assert _ran(compute, total).value == 90

    def test_a_closed_compute_runs_nothing(self) -> None:
        """Closing twice does nothing, and nothing starts again."""
        compute = type(self).kind(type(self).settings)
        compute.close()
        compute.close()
        with pytest.raises(ComputeError):
            _ran(compute, sum, [1])

    def test_the_least_demand_is_met(self) -> None:
        """A stage that asks for nothing runs everywhere."""
        assert not self.kind.lacks(self.settings, Demand())

    def test_what_is_lacking_has_a_reason(self) -> None:
        """By the name of the field in the demand."""
        much = Demand(cores=1 << 20, memory=1 << 60, gpus=1 << 20, nodes=1 << 20)
        lacking = self.kind.lacks(self.settings, much)
        assert set(lacking) <= {field.name for field in fields(Demand)}
        assert all(lacking.values())


def _ran(compute: Compute, function: Callable[..., Any], *args: Any, **kwargs: Any) -> RemoteResult:
    return compute.run(RemoteFunction(dump_by_value(function), _context()), args, kwargs)


def _context(demand: Demand | None = None) -> StageContext:
    return StageContext(
        run="conformance",
        key="stage",
        site=None,
        qpu=None,
        keep_dir=None,
        demand=demand or Demand(),
    )


def _spread(progress: Callable[[int, int], None] | None = None) -> Spread:
    turns: dict[str, int] = {}

    def turn_of(content: str) -> int:
        turns[content] = turns.get(content, -1) + 1
        return turns[content]

    return Spread(context=_context(), turn_of=turn_of, progress=progress)


def _written_to(stream: int) -> int:
    """Write more than a pipe holds; a full one is an error instead of a wait."""
    is_blocking = os.get_blocking(stream)
    os.set_blocking(stream, False)
    try:
        return sum(os.write(stream, b" " * 4096) for _ in range(_MUCH // 4096))
    finally:
        os.set_blocking(stream, is_blocking)


def _raise(error: Exception) -> None:
    raise error


def _demand() -> Demand | None:
    here = stage_context()
    return None if here is None else here.demand
