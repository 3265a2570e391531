"""Bodies that anyone on the machine may send to a rehearsed site are small."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest

from tests.patience import PATIENCE_S
from tests.rehearsed import rehearsed

pytest.importorskip("qiskit_ibm_runtime", reason="the ibm extra is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.vendor]


def test_who_has_no_token_sends_no_large_body(tmp_path) -> None:
    with rehearsed("ibm-fez", tmp_path / "ibm-fez") as site:
        url = site.rehearsal.url
        with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S) as stranger:
            answer = stranger.post("/identity/token", data={"apikey": quote("k" * 100)})
            assert answer.json()["access_token"] == "k" * 100
            assert stranger.post("/identity/token", content=bytes(1 << 17)).status_code == 413
            pieces = (bytes(1 << 16) for _ in range(64))  # whose sum the head does not state
            assert stranger.post("/identity/token", content=pieces).status_code == 413
