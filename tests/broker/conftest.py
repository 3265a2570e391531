"""A ledger's two homes, so that each test of it runs in both; and an embedded broker on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.fake import create
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime import embedded
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.broker.runtime.pacing import STANDARD_PACING, Pacing
from orchestrator.config.qpu_tables import QpuSettings
from tests.broker.embedded_rooms import Open


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a ledger may be made: a file, then an empty database of a real server."""
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def opened(where: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open brokers on one ledger, in a file and in PostgreSQL, and on one state folder.

    The second broker is what follows a death of the first.
    """
    monkeypatch.setattr(embedded, "Ledger", SimpleNamespace(open=lambda _: Ledger.open(where)))
    brokers: list[EmbeddedBroker] = []

    def open_broker(
        rules: dict[str, Any] | None = None, pacing: Pacing = STANDARD_PACING, **options: Any
    ) -> EmbeddedBroker:
        folder = tmp_path / "q"
        folder.mkdir(exist_ok=True)
        settings = QpuSettings(name="q", backend="fake", options=options, **(rules or {}))
        broker = EmbeddedBroker(
            run="run",
            state_dir=tmp_path,
            open_backend=lambda name: create(options, state_dir=folder),
            qpus={"q": settings},
            pacing=pacing,
        )
        brokers.append(broker)
        return broker.open()

    yield open_broker
    for broker in brokers:
        broker.close()
