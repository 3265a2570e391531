"""The token with which a browser sees the agent's broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from orchestrator.agent.plan import page_token
from orchestrator.broker.api.tokens import TokenFile

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_token_is_the_operators_and_is_kept_while_it_is_valid(tmp_path):
    (tmp_path / "agent").mkdir()
    secret = page_token(tmp_path, NOW)
    identity = TokenFile(tmp_path / "tokens.json").find(secret, NOW)
    assert identity is not None
    assert identity.role == "operator"
    assert (tmp_path / "agent" / "broker-token").stat().st_mode & 0o077 == 0
    assert page_token(tmp_path, NOW + timedelta(days=20)) == secret
    renewed = page_token(tmp_path, NOW + timedelta(days=29, hours=12))
    assert renewed != secret
    assert page_token(tmp_path, NOW + timedelta(days=40)) == renewed


def test_a_token_that_was_revoked_is_replaced(tmp_path):
    (tmp_path / "agent").mkdir()
    secret = page_token(tmp_path, NOW)
    tokens = TokenFile(tmp_path / "tokens.json")
    tokens.revoke(tokens.entries()[0].id)
    assert page_token(tmp_path, NOW) != secret
