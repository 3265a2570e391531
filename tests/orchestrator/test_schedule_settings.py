"""Each mistake in a QPU's schedule is one error, raised before anything starts."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from orchestrator.broker.runtime.site_rules import check_schedules
from orchestrator.cli.site.config import config_check
from orchestrator.config.bounds import LeaseBounds
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from tests.patience import PATIENCE_S

HEAD = '[qpu.q]\nbackend = "fake"\n[qpu.q.schedule]\n'
WINDOW = "[[qpu.q.schedule.window]]\n"


def told(text: str, folder: Path) -> str:
    path = folder / "hpcqc.toml"
    path.write_text(HEAD + text)
    with pytest.raises(ConfigError) as error:
        check_schedules(load_site(path).qpus.values(), datetime(2026, 11, 2, tzinfo=UTC))
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('polcy = "fifo"', ("polcy", "did you mean 'policy'?")),
        ("rate = { start = 1, per_s = 2 }", ("start", "did you mean 'starts'?")),
        ("lease = { longest = 1 }", ("longest", "did you mean 'longest_s'?")),
        (WINDOW + 'dayly = "08:00-09:00"', ("dayly", "did you mean 'daily'?")),
        ('policy = "fair-shares"', ("fair-shares", "fair-share")),
        ('policy = "fifo"\nparameters = { ageing = 1 }', ("ageing", "[qpu.q.schedule]")),
        ("rate = { starts = 1001, per_s = 2 }", ("1001", "less than or equal to 1000")),
        (WINDOW + 'title = "x"', ("give either start and end, or daily",)),
        (WINDOW + "start = 2026-01-01T08:00:00Z", ("give either start and end, or daily",)),
        (
            WINDOW + "start = 2026-01-02T08:00:00Z\nend = 2026-01-01T08:00:00Z",
            ("end must come after start",),
        ),
        (WINDOW + "start = 2026-01-01T08:00:00\nend = 2026-01-02T08:00:00", ("time zone",)),
        (WINDOW + 'daily = "8-9"', ("'8-9'", "'08:00-09:30'")),
        (WINDOW + 'daily = "08:00-09:00"\nzone = "Europe/Parague"', ("Europe/Parague",)),
        ("lease = true", ("lease = true; it should be a table, such as { longest_s = 60, idle_s",)),
        ("slice_s = true", ("slice_s = true; it should be", "number, such as 10")),
        (
            "lease = { longest_s = -1 }",
            ("longest_s = -1; it should be greater than 0, such as 60",),
        ),
        ("lease = { longest_s = 9, idle_s = 10 }", ("idle_s = 10", "at most 9")),
        ("slice_s = -1", ("slice_s = -1; it should be greater than or equal to 0, such as 10",)),
        ("rate = 3", ("rate = 3; it should be a table, such as { starts = 10, per_s = 60 }",)),
        ("shares = { a = -1 }", ("a = -1", "such as { chemistry = 2 }")),
        ("window = { daily = '01:00-02:00' }", ("valid list", "[[qpu.NAME.schedule.window]]")),
        (WINDOW + 'daily = "03:00-03:00"', ("daily = '03:00-03:00'", "two hours", "weekdays")),
        (
            WINDOW + "daily = '03:00-03:00'\nweekdays = "
            "['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun']",
            ("all day, every day",),
        ),
        ("[broker]\nledger = 3", ("[broker.ledger]: 3", "SQLAlchemy URL")),
        ('[broker]\nurl = "ftp:x"', ("'ftp:x'; give one such as 'http://localhost:8700'",)),
        ('calendar = "none.ics"', ("none.ics", "no such file")),
    ],
)
def test_a_mistake_names_what_was_given_and_what_was_expected(
    text: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    message = told(text, tmp_path)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message
    assert not any(word in message for word in ("Section", "iteral[", "dict[")), message


@pytest.mark.parametrize(
    ("text", "lease"),
    [("lease = { longest_s = 1 }", LeaseBounds(longest_s=1.0)), ("lease = false", None)],
)
def test_leases_may_be_short_or_none(text: str, lease: LeaseBounds | None, tmp_path: Path) -> None:
    (tmp_path / "hpcqc.toml").write_text(HEAD + text)
    assert load_site(tmp_path / "hpcqc.toml").qpu().schedule.lease == lease


@pytest.mark.parametrize("command", [["run", "flows.dissociation"], ["broker", "serve"]])
def test_a_misspelt_policy_is_told_before_anything_starts(
    command: list[str], tmp_path: Path
) -> None:
    site = tmp_path / "hpcqc.toml"
    site.write_text(HEAD + 'policy = "shortes"')
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *command, "--site", str(site)],
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "'shortest'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [site]


def test_checking_a_file_sees_its_schedules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "hpcqc.toml"
    site.write_text(HEAD + 'policy = "shortes"')
    with pytest.raises(typer.Exit) as caught:
        config_check(site)
    assert caught.value.exit_code == 2
    assert "'shortest'" in capsys.readouterr().err
