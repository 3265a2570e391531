"""Accounting of a service's jobs: everybody's for operators, one's own for users."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.accounting.join import Accounting
from orchestrator.application.accounting import accounting
from orchestrator.broker.client.http import BrokerUnreachable, RemoteBroker
from orchestrator.config.errors import ConfigError
from tests.service.calls import bell, call
from tests.service.conftest import Service

CALLERS = ("ada", "bob", "olga")


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the service answers: there are no programs of Slurm's on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def sites(service: Service, tmp_path: Path) -> dict[str, Path]:
    """A site file for each caller. Ada submitted two jobs, Bob one."""
    found = {}
    for name in CALLERS:
        role = "operator" if name == "olga" else "user"
        _, token = service.tokens.add(name, role, ["chem"], now=datetime.now(UTC))
        (tmp_path / f"{name}.token").write_text(token)
        found[name] = tmp_path / f"{name}.toml"
        found[name].write_text(
            f'[broker]\nurl = "{service.url}"\ntoken = {{ file = "{tmp_path / name}.token" }}\n'
            '[qpu.fake]\nbackend = "fake"\n'
        )
        for number in range({"ada": 2, "bob": 1}.get(name, 0)):
            with closing(RemoteBroker(service.url, token=token).open()) as broker:
                broker.result(broker.submit(call(number, run=f"night-{name}"), bell()))
    return found


def jobs_by(found: Accounting) -> dict[str, int | None]:
    return {row.group: row.quantum_jobs for row in found.rows}


def test_operators_see_everybody_and_users_themselves(sites: dict[str, Path]) -> None:
    everybody = accounting(by="user", everyone=True, site=sites["olga"])
    assert jobs_by(everybody) == {"ada": 2, "bob": 1}
    assert (everybody.total.quantum_jobs, everybody.total.node_s) == (3, None)
    assert jobs_by(accounting(by="run", site=sites["ada"])) == {"night-ada": 2}
    assert jobs_by(accounting(by="project", site=sites["bob"])) == {"chem": 1}
    assert jobs_by(accounting(by="run", site=sites["olga"])) == {}


def test_a_user_is_refused_the_jobs_of_everybody(sites: dict[str, Path]) -> None:
    with pytest.raises(ConfigError):
        accounting(everyone=True, site=sites["ada"])


def test_without_both_books_there_is_nothing_to_state(
    service: Service, sites: dict[str, Path]
) -> None:
    service.stop()
    with pytest.raises(BrokerUnreachable):
        accounting(site=sites["ada"])
