"""Jobs read while another process writes them: all of a run, and only new ones."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import hpcqc as api
from backends.api import Usage
from backends.shapes import ItemShape
from orchestrator.application.jobs import JobsOfRun, jobs_of, ledger_path
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import Entries, Ledger, LedgerError
from orchestrator.broker.ledger.reader import Reader
from orchestrator.cli.run.progress import Progress
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site
from orchestrator.identity import JobId

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(number: int, run: str) -> list[ev.Event]:
    name = JobId(f"j{number}")
    part = ev.Part(job=name, pub=0, first_point=0, end_point=1, first_shot=0, end_shot=9)
    submitted = ev.JobSubmitted(
        job=name,
        run=run,
        stage=None,
        call=number,
        qpu="q",
        backend="aer",
        payload_kind="sampler",
        digest=str(number),
        pubs=(ItemShape(points=1, shots=9),),
        num_qubits=2,
        seed=None,
    )
    return [
        submitted,
        ev.TaskPlanned(tag=f"{name}.0", qpu="q", parts=(part,)),
        ev.TaskCompleted(tag=f"{name}.0", usage=Usage()),
    ]


def append(ledger: Ledger, scope: str, events: list[ev.Event], second: int) -> None:
    at = NOW + timedelta(seconds=second)
    ledger.append(scope, Entries(events=[(event, at) for event in events]))


@pytest.fixture
def site(isolated_state: Path) -> Site:
    return load_site()


CLOSED = """
[qpu.q]
backend = "fake"
[[qpu.q.schedule.window]]
title = "cables"
start = 2026-01-01T00:00:00Z
end = 2999-01-01T00:00:20Z
"""
WORDS = "q is closed for maintenance (cables) until 2999-01-01 00:00:20 UTC"


def test_who_waits_is_told_of_a_closure(site: Site, tmp_path: Path) -> None:
    (tmp_path / "hpcqc.toml").write_text(CLOSED)
    ledger = Ledger.open(ledger_path(site.state_dir))
    jobs, shown = JobsOfRun(load_site(tmp_path / "hpcqc.toml"), "r"), io.StringIO()
    progress = Progress(list, jobs.read, jobs.standstills, shown)
    progress.tick()
    assert shown.getvalue() == ""  # there is nothing that waits
    append(ledger, "r", job(1, "r")[:1], 1)
    progress = Progress(list, jobs.read, jobs.standstills, shown)
    progress.tick()
    assert shown.getvalue() == f"QPU q: 1 queued, 0 running, 0 done; {WORDS}\n"
    jobs.close()
    ledger.close()


def test_a_line_of_progress_is_of_one_moment() -> None:
    """What happened while one counter was read is not in it and in the other not."""
    reads: list[str] = []
    progress = Progress(
        lambda: reads.append("stages") or [],
        lambda: reads.append("jobs") or [],
        list,
        io.StringIO(),
    )
    progress.tick()
    progress._plain_due = 0.0  # the jobs were read this moment, and are read again
    progress.tick()
    assert reads == ["stages", "jobs"] * 2


def test_a_calendar_that_is_gone_meanwhile_ends_nothing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "hpcqc.toml").write_text(
        '[qpu.q]\nbackend = "fake"\nschedule = { calendar = "none.ics" }\n'
    )
    assert JobsOfRun(load_site(tmp_path / "hpcqc.toml"), "r").standstills(["q"]) == []


def test_why_says_that_the_place_in_an_embedded_queue_is_known_elsewhere(site: Site, hpcqc) -> None:
    ledger = Ledger.open(ledger_path(site.state_dir))
    append(ledger, "r", job(1, "r")[:1], 1)
    ledger.close()
    (reason,) = hpcqc("why", "j1", "--json").document["waits_for"]
    assert "known only to the process that its broker lives in" in reason
    assert reason in hpcqc("why", "j1").out


def test_a_run_is_followed_from_before_its_ledger_is_there(site: Site) -> None:
    jobs = JobsOfRun(site, "r")
    assert jobs.read() == jobs_of(site, "r") == []
    ledger = Ledger.open(ledger_path(site.state_dir))
    assert jobs.read() == []
    append(ledger, "r", job(1, "r")[:2], 1)
    assert [one.state for one in jobs.read()] == [JobState.RUNNING]
    append(ledger, "r", job(1, "r")[2:], 2)
    append(ledger, "other", job(7, "other"), 3)
    append(ledger, "r~stage", job(2, "r"), 4)
    append(ledger, "rr", job(8, "rr"), 5)
    assert jobs.read() == jobs_of(site, "r")
    assert [one.id for one in jobs.read()] == ["j1", "j2"]
    assert all(one.state is JobState.COMPLETED for one in jobs.read())
    jobs.close()
    assert jobs.read() == jobs_of(site, "r")
    jobs.close()
    jobs.close()
    ledger.close()


def test_what_was_read_once_is_not_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(ledger_path(site.state_dir))
    for number in range(20):
        append(ledger, "r", job(number, "r"), number)
    jobs, seen = JobsOfRun(site, "r"), []
    read = Reader.numbered_events

    def counted(self: Reader, scope: str, after: int = 0):
        for event in read(self, scope, after):
            seen.append(event)
            yield event

    assert len(jobs.read()) == 20
    monkeypatch.setattr(Reader, "numbered_events", counted)
    append(ledger, "r", job(20, "r"), 20)
    assert len(jobs.read()) == 21
    assert jobs.read() is jobs.read()
    assert len(seen) == 3
    jobs.close()
    ledger.close()


def test_jobs_that_a_service_kept_for_the_run_are_among_them(site: Site) -> None:
    ledger = Ledger.open(ledger_path(site.state_dir))
    append(ledger, "service", job(1, "r") + job(2, "other"), 1)
    assert [one.id for one in jobs_of(site, "r")] == ["j1"]
    ledger.checkpoint("service", ledger.restore("service"))
    append(ledger, "r", job(3, "r"), 2)
    append(ledger, "service", job(4, "r"), 3)
    jobs = JobsOfRun(site, "r")
    assert [one.id for one in jobs.read()] == ["j1", "j3", "j4"]
    assert jobs.read() == jobs_of(site, "r")
    assert [one.id for one in jobs_of(site, limit=2)] == ["j3", "j4"]
    assert [one.id for one in jobs_of(site, "service")] == ["j1", "j2", "j4"]
    jobs.close()
    ledger.close()


def test_jobs_and_reasons_are_typed(site: Site) -> None:
    ledger = Ledger.open(ledger_path(site.state_dir))
    append(ledger, "r", job(1, "r"), 1)
    append(ledger, "other", job(2, "other")[:1], 2)
    ledger.close()
    assert [one.id for one in api.jobs()] == ["j1", "j2"]
    assert [one.id for one in api.jobs("r")] == ["j1"]
    (latest,) = api.jobs(limit=1)
    assert latest == api.job("j2")
    assert latest.state is JobState.QUEUED
    found = api.why(latest)
    assert found == api.why("j2")
    assert found.state is JobState.QUEUED
    assert "known only to the process" in found.waits_for[0]
    (task,) = api.why("j1").tasks
    assert task.tag == "j1.0"
    with pytest.raises(LedgerError, match="'j3'"):
        api.job("j3")


def test_jobs_are_those_of_the_site_that_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        api.jobs(site=tmp_path / "none.toml")
