"""What is known of tasks takes bounded memory."""

from __future__ import annotations

from backends.latest import LatestTasks


def test_the_first_are_forgotten() -> None:
    known: LatestTasks[int] = LatestTasks(3)
    for number in range(10):
        known.note(f"task-{number}", number)
        assert known.get(f"task-{number}") == number
    assert [known.get(f"task-{number}") for number in range(6, 10)] == [None, 7, 8, 9]


def test_a_value_is_replaced() -> None:
    known: LatestTasks[int] = LatestTasks(2)
    for value in range(5):
        known.note("task", value)
    known.note("other", 7)
    assert (known.get("task"), known.get("other"), known.get("none")) == (4, 7, None)
