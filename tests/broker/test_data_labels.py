"""Labelled data never reaches a QPU that does not accept it, by whatever path."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backends.api import BackendError
from orchestrator.broker.client.http import RemoteBroker
from orchestrator.broker.client.protocol import DataRefused
from orchestrator.broker.core.job_request import JobRequest, LeaseWish
from orchestrator.broker.core.views import JobState
from orchestrator.broker.ledger import JobFilter, Ledger
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.checked_payload import CheckedPayload
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.data_labels import accepted_labels, labels_of_project, refusal
from tests.broker.labelled_lab import (
    FAR_QPUS,
    LABELS,
    PROJECTS,
    Far,
    Lab,
    far_site,
    payload,
    request,
    site,
)
from tests.patience import PATIENCE_S, until


async def hand_in(broker: Broker, asked: JobRequest, number: int) -> str:
    target = await broker.target(asked.qpu)
    view, _ = await broker.submit(asked, "ada", CheckedPayload.of(payload(number), target))
    return view.id


def test_a_refused_job_is_in_the_ledger_with_the_reason_and_without_its_payload(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path)

    async def check() -> None:
        async with lab.broker({"home": ["embargoed"]}) as broker:
            asked = request("abroad", ["embargoed"])
            with pytest.raises(DataRefused, match="embargoed"):
                await hand_in(broker, asked, 1)
            with pytest.raises(DataRefused):
                await hand_in(broker, asked, 1)
            job = broker.labelled(asked).job_id(payload(1).digest)
            seen = await broker.view(job)
            assert (seen.state, seen.error_type) == (JobState.FAILED, "DataRefused")
            assert seen.labels == ("embargoed",)
            done = await hand_in(broker, request("home", ["embargoed"]), 2)
            assert (await broker.wait(done, PATIENCE_S)).state is JobState.COMPLETED
        with closing(Ledger.open(tmp_path / "ledger.sqlite")) as ledger:
            assert ledger.job(job).error_type == "DataRefused"
            with pytest.raises(Exception, match="payload"):
                ledger.payload(payload(1).digest)
        # The operator has heard of the label meanwhile: the same call runs now.
        async with lab.broker({"abroad": ["embargoed"]}) as broker:
            assert await hand_in(broker, asked, 1) == job
            assert (await broker.wait(job, PATIENCE_S)).state is JobState.COMPLETED
        assert [(qpu, number) for qpu, number, _ in lab.got] == [("home", 2), ("abroad", 1)]

    asyncio.run(check())


def test_waiting_work_is_given_up_when_the_site_no_longer_accepts_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path)

    async def check() -> None:
        async with lab.broker({"home": ["personal"]}) as broker:
            await broker.drain("home", "ops", "cooling")
            job = await hand_in(broker, request("home", ["personal"]), 1)
            plain = await hand_in(broker, request("home"), 2)
        async with lab.broker({}) as broker:
            seen = await broker.wait(job, PATIENCE_S)
            assert (seen.state, seen.error_type) == (JobState.FAILED, "DataRefused")
            await broker.resume("home", "ops")
            assert (await broker.wait(plain, PATIENCE_S)).state is JobState.COMPLETED
            with pytest.raises(DataRefused):
                await hand_in(broker, request("home", ["personal"]), 1)
        assert [number for _, number, _ in lab.got] == [2]

    asyncio.run(check())


def test_waiting_work_gets_the_labels_that_its_project_has_now(tmp_path: Path) -> None:
    lab, labels = Lab(tmp_path), {"chem": ("jurisdiction:EU",)}

    async def check() -> None:
        async with lab.broker({}) as broker:
            await broker.drain("home", "ops", "cooling")
            job = await hand_in(broker, request("home"), 1)
            other = await hand_in(broker, request("home", project="bio"), 2)
        async with lab.broker({}, labels=labels) as broker:
            seen = await broker.wait(job, PATIENCE_S)
            assert (seen.state, seen.error_type) == (JobState.FAILED, "DataRefused")
            await broker.resume("home", "ops")
            assert (await broker.wait(other, PATIENCE_S)).state is JobState.COMPLETED
        assert [number for _, number, _ in lab.got] == [2]

    asyncio.run(check())


def test_labels_of_a_site_hold_for_projects_that_its_file_does_not_list(tmp_path: Path) -> None:
    lab, labels = Lab(tmp_path), {"": ("jurisdiction:EU",), "chem": ()}

    async def check() -> None:
        async with lab.broker({}, labels=labels) as broker:
            with pytest.raises(DataRefused, match="EU"):
                await hand_in(broker, request("home", project="bio"), 1)
            await hand_in(broker, request("home", project="chem"), 2)

    asyncio.run(check())


def test_a_project_labels_all_its_jobs_whatever_they_say(tmp_path: Path) -> None:
    lab, labels = Lab(tmp_path), {"chem": ("jurisdiction:EU", "project:chem")}

    async def check() -> None:
        accepts = {"home": ["jurisdiction:EU", "project:chem"], "cloud": ["project:chem"]}
        async with lab.broker(accepts, labels=labels) as broker:
            with pytest.raises(DataRefused):
                await hand_in(broker, request("cloud"), 1)
            with pytest.raises(DataRefused, match="bio"):
                await hand_in(broker, request("home", ["project:chem"], project="bio"), 2)
            await hand_in(broker, request("cloud", project="bio"), 3)
            job = await hand_in(broker, request("home"), 4)
            assert (await broker.wait(job, PATIENCE_S)).labels == labels["chem"]

    asyncio.run(check())
    assert {number for _, number, _ in lab.got} == {3, 4}


def test_results_of_labelled_data_are_not_for_others(tmp_path: Path) -> None:
    lab = Lab(tmp_path)

    async def check() -> None:
        async with lab.broker({"home": ["personal"]}, sharing=frozenset(PROJECTS)) as broker:
            first = await hand_in(broker, request("home", ["personal"], may_reuse=True), 1)
            await broker.wait(first, PATIENCE_S)
            same = request("home", ["personal"], may_reuse=True, call=1)
            assert (await broker.view(await hand_in(broker, same, 1))).source == first
            other = request("home", may_reuse=True, project="bio")
            assert (await broker.view(await hand_in(broker, other, 1))).source is None

    asyncio.run(check())


def test_the_broker_of_a_run_refuses_too(tmp_path: Path) -> None:
    lab = Lab(tmp_path, accepts={"home": ["personal"]})
    broker = EmbeddedBroker(
        run="r",
        state_dir=tmp_path,
        open_backend=lab.open_backend,
        qpus=site(lab.accepts),
        labels=("personal",),
    ).open()
    try:
        with pytest.raises(DataRefused):
            broker.submit(JobRequest(run="r", qpu="cloud"), payload(1))
        job = broker.submit(JobRequest(run="r", qpu="home"), payload(2))
        assert broker.result(job, PATIENCE_S)
        assert broker.view(job).labels == ("personal",)
    finally:
        broker.close()
    assert [(qpu, number) for qpu, number, _ in lab.got] == [("home", 2)]


def test_what_is_not_accepted_by_name_is_refused() -> None:
    accepted = accepted_labels(["embargoed"], ["DE", "EU"])
    assert refusal((), (), qpu="q") is None
    assert refusal(("embargoed", "jurisdiction:DE"), accepted, qpu="q") is None
    for label in ("Embargoed", "embargo", "jurisdiction:US", "DE", "export-controlled"):
        assert refusal((label,), accepted, qpu="q") is not None


label_sets = st.lists(st.sampled_from(LABELS), max_size=3, unique=True).map(tuple)
NAMED = ("home", "abroad", "beyond")
acceptances = st.fixed_dictionaries(dict.fromkeys(NAMED, label_sets))
submissions = st.tuples(
    st.sampled_from(NAMED),
    label_sets,
    st.sampled_from(PROJECTS),
    st.booleans(),
    st.sampled_from(["", "abroad", "cloud", "beyond"]),
    st.booleans(),
)
# A site file, what is submitted under it, and whether the broker then closes or dies; in turn.
histories = st.lists(
    st.tuples(
        acceptances, st.sampled_from(sorted(FAR_QPUS)),
        st.dictionaries(st.sampled_from(["", "chem"]), label_sets), st.booleans(),
        st.lists(st.one_of(submissions, st.integers(0, 9)), min_size=1, max_size=6),
    ),
    min_size=2,
    max_size=3,
)  # fmt: skip
scripts = st.sampled_from(
    [
        {},
        {"run_s": 0.05, "max_concurrent_tasks": 1},
        {"run_s": 0.02, "durable": True},
        {"fail": [1]},
        {"faults": [{"call": "start", "kind": "refused", "on": [1, 2, 3]}]},
        {"faults": [{"call": "start", "kind": "busy", "on": [1, 2, 3, 4, 5]}]},
        {"faults": [{"call": "start", "kind": "lost", "on": [1, 3]}], "durable": True},
        {"faults": [{"call": "start", "kind": "lost", "on": [1]}], "can_find": False},
    ]
)


@dataclass
class Campaign:
    """Calls at brokers of changing site files, and the labels that held for each payload."""

    lab: Lab
    reuse: bool
    asked: list[JobRequest] = field(default_factory=list)  # by number of the payload
    inherited: dict[int, set[tuple[str, ...]]] = field(default_factory=dict)  # of its project

    async def live(
        self,
        accepts: Any,
        beyond: str,
        projects: Any,
        drains: bool,
        todo: Sequence[Any],
        waits: bool = False,
    ) -> None:
        """Hand work in at a broker, then let it close with whatever is under way.

        beyond: the far site's QPU that has this name here.
        """
        self.lab.beyond = beyond
        sharing = frozenset(PROJECTS)
        async with self.lab.broker(accepts, labels=projects, sharing=sharing) as broker:
            # What waits at a drained QPU waits for the next broker, with another site file.
            if drains:
                await broker.drain("home", "ops", "cooling")
            else:
                await broker.resume("home", "ops")
            for what in todo:
                await self.act(broker, what)
            for view in await broker.jobs(JobFilter()):
                if view.state is JobState.UNCERTAIN:
                    await broker.resolve(view.id, "not-started", "ops", "looked at the device")
                elif waits:
                    await broker.wait(view.id, PATIENCE_S)
            await asyncio.sleep(0.02)

    async def act(self, broker: Broker, what: Any) -> None:
        if not isinstance(what, int):
            qpu, labels, project, again, failover, holds = what
            options = {"project": project, "may_reuse": self.reuse and again}
            lease = LeaseWish(id="r", longest_s=1.0, idle_s=0.01) if holds else None
            if failover == qpu:
                failover = ""
            self.asked.append(request(qpu, labels, **options, failover=failover, lease=lease))
            await self.submit(broker, len(self.asked) - 1)
        elif self.asked:  # the same call again, under the site file of now
            await self.submit(broker, what % len(self.asked))

    async def submit(self, broker: Broker, number: int) -> None:
        one = self.asked[number]
        more = labels_of_project(one.project, broker.labels)
        self.inherited.setdefault(number, set()).add(more)
        with suppress(DataRefused, BackendError):
            job = await hand_in(broker, one, number)
            if number % 3 == 0:
                await broker.wait(job, 0.1)
            if number % 5 == 4:
                await broker.cancel(job)

    def may_have(self, qpu: str, number: int, accepted: frozenset[str]) -> bool:
        """Whether a QPU may have got a payload while it accepted these labels."""
        one = self.asked[number]
        return any(
            refusal((*one.labels, *more), accepted, qpu=qpu, project=one.project) is None
            for more in self.inherited[number]
        )


_WAITING = (
    {"home": ("embargoed",), "abroad": ()},
    "far0",
    {},
    True,
    [("home", ("embargoed",), "bio", False, "", False)],
)
_WITHDRAWN = ({"home": (), "abroad": ("embargoed",)}, "far0", {}, False, [0])
# What this site's file lets out, and the other site's does not let in.
_SENT_ON = (
    {"beyond": ("embargoed", "jurisdiction:EU")},
    "far1",
    {"": ("jurisdiction:EU",)},
    False,
    [("beyond", ("embargoed",), "chem", False, "", False)],
)
_THERE = (_SENT_ON[0], "far3", {"chem": ("jurisdiction:EU",)}, *_SENT_ON[3:])


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    with far_site(tmp_path_factory.mktemp("far")) as opened:
        yield opened


@pytest.mark.slow  # brokers come and go
@settings(max_examples=30, deadline=None)
@example(histories=[_WAITING, _WITHDRAWN], script={}, reuse=False)
@example(histories=[_SENT_ON, _THERE], script={}, reuse=False)
@given(histories=histories, script=scripts, reuse=st.booleans())
def test_no_path_leads_labelled_data_to_a_qpu_that_does_not_accept_it(
    far: Far, histories: list[Any], script: dict[str, Any], reuse: bool
) -> None:
    folder = Path(tempfile.mkdtemp())
    campaign = Campaign(Lab(folder, script, far=far), reuse)
    far.lab.got.clear()
    try:
        for history in histories:
            asyncio.run(campaign.live(*history))
        settle(far)
    finally:
        shutil.rmtree(folder)
    for qpu, number, accepted in [*campaign.lab.got, *far.lab.got]:
        assert campaign.may_have(qpu, number, accepted)


def test_what_both_sites_accept_is_sent_on(far: Far, tmp_path: Path) -> None:
    far.lab.got.clear()
    campaign = Campaign(Lab(tmp_path, far=far), reuse=False)
    asyncio.run(campaign.live(*_THERE, waits=True))
    assert far.lab.got == [("far3", 0, frozenset(FAR_QPUS["far3"]))]


def settle(far: Far) -> None:
    """Return when nothing is left of an example at the other site."""
    with closing(RemoteBroker(far.url, token=far.token)) as client:
        until(lambda: not client.queue())
