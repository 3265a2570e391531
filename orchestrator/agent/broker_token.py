"""The agent's own token at its broker: a browser has no Unix user that the broker could see."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.config.private import write_private

__all__ = ["page_token"]

_VALID = timedelta(days=30)
_SPARE = timedelta(days=1)


def page_token(state_dir: Path, now: datetime | None = None) -> str:
    """Return a token for the broker's page, the one of last time while it is valid.

    It stands for the user who runs the agent, who is the broker's operator anyway. Its secret
    is in the agent's folder, which no other user can enter. Raises ``TokenError`` if the
    broker's file of tokens is damaged.
    """
    from orchestrator.broker.api.tokens import TokenFile

    moment = now or datetime.now(UTC)
    tokens = TokenFile(state_dir / "tokens.json")
    place = state_dir / "agent" / "broker-token"
    if place.exists():
        secret = place.read_text(encoding="ascii").strip()
        if tokens.find(secret, moment + _SPARE) is not None:
            return secret
    user = pwd.getpwuid(os.geteuid()).pw_name
    _, secret = tokens.add(user, "operator", ["default"], now=moment, expires_at=moment + _VALID)
    write_private(place, secret)
    return secret
