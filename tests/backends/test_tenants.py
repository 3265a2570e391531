"""Two tenants whose circuits look alike get their own results from the same workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.aer import create
from backends.aer.backend import AerBackend
from backends.payloads import payload_from_bytes
from tests.backends.lookalikes import PAIRS, payloads
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def aer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AerBackend]:
    """A backend of one worker, which caches the circuits of all users."""
    backend = create({"processes": 1}, state_dir=tmp_path_factory.mktemp("aer"))
    yield backend
    backend.close()


@pytest.mark.parametrize("raw", [False, True], ids=["canonical", "raw"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_workers_memory_does_not_hand_one_circuit_to_another(
    aer: AerBackend, tmp_path: Path, pair: str, raw: bool
) -> None:
    session = aer.acquire()
    for turn, (payload, expected) in enumerate(payloads(pair, raw=raw)):
        task = aer.start(session, payload, f"{pair}-{raw}-{turn}")
        aer.wait(task, PATIENCE_S)
        assert aer.result(task).native[0].data.meas.get_counts() == {expected: 20}


@pytest.mark.parametrize("raw", [False, True], ids=["canonical", "raw"])
@pytest.mark.parametrize("pair", PAIRS)
def test_payloads_that_look_alike_have_their_own_digests(pair: str, raw: bool) -> None:
    (one, _), (other, _) = payloads(pair, raw=raw)
    assert one.digest != other.digest
    assert payload_from_bytes(one.to_bytes()).digest == one.digest
