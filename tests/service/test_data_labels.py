"""Tenants who leave labels of their data out, or write others: at a service, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from orchestrator.broker.client.content_digest import content_digest
from orchestrator.broker.client.http import RemoteBroker
from orchestrator.broker.client.protocol import DataRefused
from orchestrator.broker.core.views import JobState
from tests.patience import PATIENCE_S
from tests.service.calls import bell, call
from tests.service.conftest import Service, Start

pytestmark = pytest.mark.slow  # starts a service

PROJECTS = """
[project.chem]
labels = ["embargoed"]
jurisdiction = "EU"
"""


@pytest.fixture
def service(start_service: Start) -> Service:
    """One whose QPU ``fake`` is abroad and accepts one label; ``aer`` accepts none."""
    return start_service(rules='accepts = ["personal"]\njurisdictions = ["US"]', broker=PROJECTS)


def secret_of(service: Service, user: str, *projects: str) -> str:
    _, secret = service.tokens.add(user, "user", list(projects), now=datetime.now(UTC))
    return secret


@pytest.fixture
def post(service: Service) -> Iterator[Any]:
    secret, body = secret_of(service, "ada", "chem", "bio"), bell().to_bytes()
    with httpx.Client(base_url=service.url, timeout=PATIENCE_S) as http:

        def send(stated: str) -> httpx.Response:
            return http.post(
                "/v1/jobs",
                content=body,
                headers={
                    "Authorization": f"Bearer {secret}",
                    "Content-Type": "application/octet-stream",
                    "Content-Digest": content_digest(body),
                    "Job-Request": stated,
                },
            )

        yield send


LEFT_OUT = (
    "",
    '"labels": []',
    '"labels": ["personal"]',
    '"labels": ["jurisdiction:US"]',
    '"labels": ["embargoed"], "labels": []',
    '"labels": ["EMBARGOED"]',
    '"may_reuse": true',
    '"lease": {"id": "l", "wanted_s": 1}',
)
NO_LABELS = (
    "null", '""', '"personal"', "{}", "[null]", "[[]]", '[""]', '["personal "]',
    '["personal\\n"]', '["personal\\u0000"]', '["p\\u0435rsonal"]', '["personal\\u200b"]',
    '["\\uff50ersonal"]', "[1]", '["-personal"]', json.dumps(["a"] * 33), json.dumps(["a" * 101]),
)  # fmt: skip
REFUSED = ("Personal", "jurisdiction:EU", "jurisdiction:us", "jurisdiction:", "project:chem")


def test_labels_decide_whatever_a_request_says(service: Service, post: Any) -> None:
    for stated in LEFT_OUT:
        more = f", {stated}" if stated else ""
        answer = post(f'{{"run": "r", "qpu": "fake", "project": "chem"{more}}}')
        refused = answer.status_code == 403 and answer.json()["error_type"] == "DataRefused"
        assert refused or answer.status_code == 422, stated
    for labels in NO_LABELS:
        answer = post(f'{{"run": "r", "qpu": "fake", "project": "bio", "labels": {labels}}}')
        assert answer.status_code == 422, labels
    for label in REFUSED:
        asked = {"run": "r", "qpu": "fake", "project": "bio", "labels": ["personal", label]}
        answer = post(json.dumps(asked))
        assert (answer.status_code, answer.json()["error_type"]) == (403, "DataRefused"), label
    assert service.starts() == {}
    asked["labels"] = ["personal", "jurisdiction:US", "personal"]
    answer = post(json.dumps(asked))
    assert (answer.status_code, answer.json()["labels"]) == (201, ["jurisdiction:US", "personal"])


def test_labels_of_the_users_site_file_go_along_to_a_service_without_them(
    service: Service,
) -> None:
    secret = secret_of(service, "ada", "bio")
    for labels, is_accepted in ((("embargoed",), False), (("personal",), True)):
        client = RemoteBroker(service.url, token=secret, project="bio", labels={"": labels})
        with closing(client.open()):
            if is_accepted:
                job = client.submit(call(), bell())
                assert client.result(job, timeout_s=PATIENCE_S)
                assert (client.view(job).state, client.view(job).labels) == (
                    JobState.COMPLETED,
                    labels,
                )
            else:
                with pytest.raises(DataRefused):
                    client.submit(call(), bell())
                assert service.starts() == {}


def test_labels_of_the_project_that_pays_go_along_whoever_chose_it(service: Service) -> None:
    """A token's first project pays where none is named, and the user's site file has its labels."""
    secret = secret_of(service, "ada", "bio", "optics")
    ours = {"bio": ("personal",), "optics": ("embargoed",)}
    with closing(RemoteBroker(service.url, token=secret, labels=ours).open()) as client:
        assert client.labels == ("personal",)
        job = client.submit(call(), bell())
        assert client.result(job, timeout_s=PATIENCE_S)
        view = client.view(job)
        assert (view.project, view.labels) == ("bio", ("personal",))
    named = RemoteBroker(service.url, token=secret, labels=ours, project="optics")
    with closing(named.open()) as client, pytest.raises(DataRefused, match="embargoed"):
        client.submit(call(1), bell())
