"""A job's request travels whole: as JSON to a service, and as part of the event to the ledger."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from backends.metering import Charge
from orchestrator.broker.core import events as ev
from orchestrator.broker.core.codec import to_json
from orchestrator.broker.core.job_request import InvalidRequest, JobRequest, LeaseWish
from tests.broker.embedded_rooms import Open, bell, call, counts_of, die

WISH = LeaseWish(id="loop", longest_s=60.0, idle_s=2.0)
FULL = JobRequest(
    run="r",
    qpu="vlq",
    stage="Grundzustand für H₂",
    call=2,
    seed=7,
    project="chem",
    priority=-1,
    lease=WISH,
    calibration="c1",
    may_reuse=True,
    slurm_job=17,
    flow="Näherung",
    coupling="split",
)
# As brokers wrote it when a request was a part of each event.
STORED = (
    '{"job": "j1", "run": "r", "stage": null, "call": 2, "qpu": "vlq", "backend": "aer", '
    '"payload_kind": "sampler", "digest": "d", "pubs": [{"points": 1, "shots": 10}], '
    '"num_qubits": 2, "seed": 7, "project": "", "user": "", "lease": '
    '{"id": "ada/loop", "longest_s": 60.0, "idle_s": 2.0}, "calibration": "c1", '
    '"reuse": {"key": "k", "calibration": "c1", "source": null}}'
)


@pytest.mark.parametrize("asked", [FULL, JobRequest(run="r", qpu="q")])
def test_a_service_reads_what_a_client_writes(asked: JobRequest) -> None:
    text = asked.to_json()
    assert text.isascii()
    assert TypeAdapter(JobRequest).validate_json(text) == asked


def test_every_option_is_in_the_event_and_in_the_ledger() -> None:
    event = ev.event_from_json("job-submitted", STORED)
    assert isinstance(event, ev.JobSubmitted)
    assert (event.call, event.lease, event.may_reuse) == (2, LeaseWish(**vars_of(WISH)), False)
    for option in dataclasses.fields(JobRequest):
        changed = dataclasses.replace(event, **{option.name: getattr(FULL, option.name)})
        kind, text = changed.kind, to_json(changed)
        assert ev.event_from_json(kind, text) == changed


def vars_of(wish: LeaseWish) -> dict[str, object]:
    return dataclasses.asdict(wish) | {"id": "ada/loop"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"more": 1},
        {"run": ""},
        {"call": -1},
        {"seed": 2**63},
        {"priority": 101},
        {"lease": {"id": "loop", "longest_s": 0, "idle_s": 1}},
        {"lease": {"id": "loop", "longest_s": 1, "idle_s": 1, "more": 1}},
        {"lease": {"id": "loop", "longest_s": math.inf, "idle_s": 1}},
        {"call": True},
        {"call": "3"},
        {"may_reuse": "yes"},
    ],
)
def test_what_is_out_of_bounds_or_not_known_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(JobRequest).validate_json(json.dumps({"run": "r", "qpu": "q"} | wrong))


def lease(**changed: Any) -> LeaseWish:
    return LeaseWish(**{"id": "loop", "longest_s": 60.0, "idle_s": 2.0} | changed)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"stage": "x" * 300}, "invalid stage 'xxx.* at most 200 characters"),
    ({"stage": "a\nb"}, "invalid stage .* one line of text"),
    ({"stage": "\ud800"}, "invalid stage .* valid string"),
    ({"call": -1}, "invalid call -1 .* greater than or equal to 0"),
    ({"seed": -1}, "invalid seed -1 .* greater than or equal to 0"),
    ({"seed": 2**64}, "invalid seed 1844.* less than"),
    ({"seed": True}, "invalid seed True .* valid integer"),
    ({"priority": 500}, "invalid priority 500 .* less than or equal to 100"),
    ({"calibration": "x" * 201}, "invalid calibration .* at most 200 characters"),
    ({"project": "a b"}, "invalid project 'a b' .* use 1-64 ASCII letters"),
    ({"lease": lease(id="a\nb")}, r"invalid lease\.id .* one line of text"),
    ({"lease": lease(longest_s=math.inf)}, r"invalid lease\.longest_s inf .* finite"),
    ({"lease": lease(idle_s=0)}, r"invalid lease\.idle_s 0 .* greater than 0"),
]


def test_a_broker_refuses_a_request_out_of_bounds_and_goes_on(opened: Open) -> None:
    broker = opened()
    for wrong, words in WRONG:
        with pytest.raises(InvalidRequest, match=words):
            broker.submit(dataclasses.replace(call(), **wrong), bell())
    counts_of(broker, broker.submit(call(), bell()))
    broker.close()
    assert [event.kind for event in events_of(opened)].count("job-submitted") == 1


def events_of(opened: Open) -> list[ev.Event]:
    """Read the whole ledger with another broker."""
    ledger = opened()._ledger
    assert ledger is not None
    return [event for event, _ in ledger.events("run")]


def test_a_lease_may_be_given_in_numpy_numbers(opened: Open) -> None:
    broker = opened()
    wish: Any = lease(longest_s=np.float32(30), idle_s=np.float32(2))
    job = broker.submit(dataclasses.replace(call(), lease=wish), bell())
    assert sum(counts_of(broker, job).values()) == 100


TEXTS = st.text(max_size=5) | st.sampled_from(["", "ada", "x" * 201, "a\nb", "\ud800", "x" * 301])
NUMBERS = st.integers() | st.floats() | st.booleans() | st.sampled_from([2**63 - 1, np.int64(3)])
WISHES = st.builds(LeaseWish, id=TEXTS, longest_s=NUMBERS, idle_s=NUMBERS)


@given(
    base=st.just(JobRequest(run="r", qpu="q")),
    changed=st.fixed_dictionaries(
        {},
        optional={
            "run": TEXTS,
            "qpu": TEXTS,
            "stage": TEXTS | st.none(),
            "call": NUMBERS,
            "seed": NUMBERS | st.none(),
            "project": TEXTS,
            "priority": st.integers(-200, 200) | NUMBERS,
            "lease": WISHES | st.none(),
            "calibration": TEXTS,
            "may_reuse": st.booleans() | st.integers(0, 1),
        },
    ),
)
def test_the_ledger_keeps_every_admitted_request(base: JobRequest, changed: dict[str, Any]) -> None:
    try:
        request = dataclasses.replace(base, **changed).checked()
    except InvalidRequest:
        return
    fields = {one.name: getattr(request, one.name) for one in dataclasses.fields(JobRequest)}
    reserved = Charge(amount=math.inf, unit="s")
    stored = json.loads(STORED) | {"pubs": (), "reuse": None, "reserved": reserved}
    event = ev.JobSubmitted(**stored | fields)
    assert ev.event_from_json(event.kind, to_json(event)) == event


def test_events_out_of_bounds_that_an_earlier_broker_wrote_are_read() -> None:
    old = json.loads(STORED) | {
        "stage": "sweep over\n" + "x" * 300,
        "qpu": "q" * 300,
        "seed": 2**64,
        "priority": 500,
        "calibration": "c\n" * 200,
        "lease": {"id": "a\nb" * 200, "longest_s": 1e9, "idle_s": 0},
    }
    event = ev.event_from_json("job-submitted", json.dumps(old))
    assert isinstance(event, ev.JobSubmitted)
    assert (event.stage, event.qpu, event.seed) == (old["stage"], old["qpu"], 2**64)
    assert ev.event_from_json(event.kind, to_json(event)) == event


def test_an_earlier_run_with_a_long_stage_goes_on(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = dataclasses.replace(call(), stage="x" * 300)
    with monkeypatch.context() as patched:  # an earlier broker checked nothing
        patched.setattr(JobRequest, "checked", lambda self: self)
        broker = opened()
        job = broker.submit(long, bell())
        found = counts_of(broker, job)
    die(broker)
    again = opened()
    assert again.submit(long, bell()) == job
    assert counts_of(again, job) == found
