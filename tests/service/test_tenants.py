"""Two tenants whose circuits look alike, at one service: each gets the counts of their own."""

from __future__ import annotations

import hashlib
from contextlib import closing
from datetime import UTC, datetime

import pytest

from orchestrator.broker.client.http import RemoteBroker
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.ledger import Ledger
from tests.backends.lookalikes import PAIRS, payloads
from tests.patience import PATIENCE_S
from tests.service.conftest import Service

pytestmark = pytest.mark.slow  # starts a service


@pytest.mark.parametrize("raw", [False, True], ids=["canonical", "raw"])
def test_the_second_tenant_gets_their_own_counts(service: Service, raw: bool) -> None:
    tenants = [client_of(service, user) for user in ("ada", "bob")]
    digests: set[str] = set()
    own: dict[RemoteBroker, set[str | None]] = {tenant: {None} for tenant in tenants}
    for pair in PAIRS:
        sent = []
        for tenant, (payload, expected) in zip(tenants, payloads(pair, raw=raw), strict=True):
            call = JobRequest(run=pair, stage=None, call=0, qpu="aer", may_reuse=True)
            job = tenant.submit(call, payload)
            sent.append((tenant, job, expected))
            digests.add(payload.digest)
            own[tenant].add(job)
        for tenant, job, expected in sent:
            result = tenant.result(job, timeout_s=PATIENCE_S)
            assert result[0].data.meas.get_counts() == {expected: 20}, pair
            assert tenant.view(job).source in own[tenant], "results of one's own project alone"
    for tenant in tenants:
        tenant.close()
    assert service.stop() == 0
    with closing(Ledger.open(service.state / "ledger.sqlite")) as ledger:
        stored = {digest: ledger.payload(digest) for digest in digests}
    for digest, data in stored.items():
        assert hashlib.sha256(data).hexdigest() == digest


def client_of(service: Service, user: str) -> RemoteBroker:
    _, secret = service.tokens.add(user, "user", [f"of-{user}"], now=datetime.now(UTC))
    return RemoteBroker(service.url, token=secret).open()
