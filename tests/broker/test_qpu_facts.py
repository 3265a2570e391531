"""What a broker says of a QPU has a time and an owner, and what it does not know is not a no."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backends.api import Backend, QpuUnavailable, Target
from backends.fake import FakeBackend, create
from backends.iqm import create as iqm
from orchestrator.broker.ledger import Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.pacing import STANDARD_PACING
from orchestrator.cli.broker.qpus import readiness_facts
from orchestrator.config.private import login_name
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.secrets import SecretRef
from tests.patience import PATIENCE_S
from tests.rehearsed import rehearsed

_TOKEN = {"token": SecretRef(source="env", where="VLQ_TOKEN")}
_QUICK = replace(STANDARD_PACING, watch_s=0.02)


@asynccontextmanager
async def opened(folder: Path, backend: Callable[[], Backend]) -> AsyncIterator[Broker]:
    ledger = Ledger.open(folder / "ledger.sqlite")
    broker = Broker(
        qpus={"q": QpuSettings(name="q", backend="fake", options=_TOKEN)},
        ledger=ledger,
        clock=lambda: datetime.now(UTC),
        open_backend=lambda _: backend(),
        pacing=_QUICK,
    )
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()
        ledger.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_each_fact_has_a_time_and_credentials(tmp_path: Path) -> None:
    async def check() -> None:
        async with opened(tmp_path, lambda: create({}, state_dir=tmp_path)) as broker:
            found = broker.readiness("q")
            assert (found.operational, found.slots, found.open, found.has_room) == (
                True,
                1,
                0,
                True,
            )
            for fact in ("status", "capacity", "readiness"):
                source = found.sources[fact]
                assert source.at == found.read_at is not None
                assert source.credentials == f"user {login_name()}, env VLQ_TOKEN"
            await broker.drain("q", "ada", "cooling")
            drained = broker.readiness("q")
            assert (drained.operational, drained.has_room) == (False, False)
            assert drained.sources["status"].credentials == "broker", "nobody else said so"
            assert drained.sources["capacity"].credentials != "broker"

    asyncio.run(check())


def test_a_qpu_that_stops_answering_is_unknown_with_the_last_facts_time(tmp_path: Path) -> None:
    class Silent(FakeBackend):
        is_silent = False

        def target(self) -> Target:
            if self.is_silent:
                raise QpuUnavailable("no route")
            return super().target()

    made = create({}, state_dir=tmp_path)
    made.__class__ = Silent

    async def check() -> None:
        async with opened(tmp_path, lambda: made) as broker:
            Silent.is_silent = True
            await until(lambda: broker.readiness("q").operational is None)
            silent = broker.readiness("q")
            assert silent.has_room is None
            assert silent.sources["status"].at == silent.read_at
            assert readiness_facts(silent)["status"].startswith("not known")
            Silent.is_silent = False
            await until(lambda: broker.readiness("q").operational is True)

    asyncio.run(check())


def test_a_qpu_that_never_opened_has_facts_that_were_never_obtained(tmp_path: Path) -> None:
    def broken() -> Backend:
        raise QpuUnavailable("no route")

    async def check() -> None:
        async with opened(tmp_path, broken) as broker:
            found = broker.readiness("q")
            assert (found.operational, found.has_room, found.slots) == (False, None, None)
            tried = found.sources["status"].at
            assert tried is not None
            assert datetime.now(UTC) - tried < timedelta(seconds=PATIENCE_S)
            assert found.sources["readiness"].at is None
            assert found.age_of("readiness") is None

    asyncio.run(check())


def test_what_is_known_of_before_is_no_news(tmp_path: Path) -> None:
    """A server is away: its backend goes on with the target as it was, and says since when."""
    with rehearsed("vlq", tmp_path / "site") as site:
        options = site.options

        async def check() -> None:
            async with opened(tmp_path, lambda: iqm(options, state_dir=tmp_path)) as broker:
                before = broker.readiness("q")
                assert before.operational is True
                site.misbehave("503:target")
                await until(lambda: broker.readiness("q").operational is None)
                silent = broker.readiness("q")
                await until(lambda: broker.readiness("q").asked_at > silent.asked_at)
                assert broker.readiness("q").read_at == silent.read_at, "it was not heard of since"
                assert "has not answered since" in str(silent.operational_reason)
                site.behave()
                await until(lambda: broker.readiness("q").operational is True)
                after = broker.readiness("q")
                assert after.read_at is not None
                assert silent.read_at is not None
                assert after.read_at > silent.read_at

        asyncio.run(check())
