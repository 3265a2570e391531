"""A job's request travels whole: as JSON to a service, and as part of the event to the ledger."""

from __future__ import annotations

import dataclasses
import json

import pytest
from pydantic import TypeAdapter, ValidationError

from orchestrator.broker.core import events as ev
from orchestrator.broker.core.codec import to_json
from orchestrator.broker.core.job_request import JobRequest, LeaseWish

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
    ],
)
def test_what_is_out_of_bounds_or_not_known_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(JobRequest).validate_json(json.dumps({"run": "r", "qpu": "q"} | wrong))
