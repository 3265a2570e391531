"""What a server states is asked for once while it is fresh, and kept while it does not answer."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest

from backends.errors import QpuUnavailable
from backends.recent import Recent

_AWAY = QpuUnavailable("it is away")


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr("backends.recent.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_fresh_value_is_not_asked_for_again(clock) -> None:
    read = Mock(side_effect=["old", "new"])
    value: Recent[str] = Recent(read, 10.0)
    assert value.last is None
    assert [value.get(), value.get_or_last(), value.last] == ["old"] * 3
    clock(11.0)
    assert [value.get_or_last(), value.get()] == ["new"] * 2
    assert [call.args for call in read.call_args_list] == [(None,), ("old",)]


def test_the_last_value_serves_while_none_can_be_read(clock) -> None:
    read = Mock(side_effect=["old", _AWAY, _AWAY, "new"])
    value: Recent[str] = Recent(read, 10.0)
    value.get()
    clock(11.0)
    assert [value.get_or_last() for _ in range(5)] == ["old"] * 5
    assert read.call_count == 2, "a server that does not answer is not asked at each call"
    with pytest.raises(QpuUnavailable):
        value.get()
    clock(11.0)
    assert value.get_or_last() == "new"


def test_without_a_value_there_is_none_to_give(clock) -> None:
    value: Recent[str] = Recent(Mock(side_effect=_AWAY), 10.0)
    with pytest.raises(QpuUnavailable):
        value.get_or_last()
    value.suppose("stated elsewhere")
    assert value.get_or_last() == "stated elsewhere"


def test_a_wrong_value_is_forgotten(clock) -> None:
    value: Recent[str] = Recent(Mock(side_effect=["old", "new"]), 10.0)
    value.get()
    value.forget()
    assert value.get_or_last() == "new"
