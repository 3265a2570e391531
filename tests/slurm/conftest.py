"""What the tests of faults show besides passing: starts on the QPU, and what is left in the queue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.private_slurm import SlurmForTests
from tests.slurm.demo import starts_of

_STARTS, _LEFT = "quantum starts", "left in squeue"


@pytest.fixture
def count(
    slurm: SlurmForTests, record_property: Callable[[str, object], None]
) -> Callable[[Path], None]:
    """Record how often each quantum job of a state folder was started, and what squeue lists."""

    def look(state: Path) -> None:
        listed = ", ".join(str(number) for number in starts_of(state).values())
        record_property(_STARTS, listed or "none")
        record_property(_LEFT, len(slurm.queue()))

    return look


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table of faults, where they were asked for by their marker."""
    if "fault" not in config.option.markexpr:
        return
    outcomes = {
        report.nodeid: report.outcome
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.stats.get(outcome, ())
    }
    # Reports of the phase after a test are in the category without a name.
    reports = [*terminalreporter.stats.get("", ()), *terminalreporter.stats.get("error", ())]
    rows = [
        (_title(report.nodeid), outcomes.get(report.nodeid, ""), dict(report.user_properties))
        for report in reports
        if report.when == "teardown" and _STARTS in dict(report.user_properties)
    ]
    if not rows:
        return
    width = max(len(title) for title, _, _ in rows)
    terminalreporter.section("faults of Slurm")
    terminalreporter.line(
        f"{'fault':{width}}  {'test':6}  {'starts of each quantum job':26}  {_LEFT}"
    )
    for title, outcome, found in rows:
        terminalreporter.line(f"{title:{width}}  {outcome:6}  {found[_STARTS]:26}  {found[_LEFT]}")


def _title(nodeid: str) -> str:
    return nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
