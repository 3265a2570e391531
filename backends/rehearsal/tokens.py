"""Tokens of a rehearsed site: made here, kept in a private file, and replaced in time."""

from __future__ import annotations

import base64
import json
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["RehearsedTokens"]

# A client that reads the file before each request never meets an expired token.
_RENEWED_AT = 0.9
_UNENDING_S = 365 * 86400.0


class RehearsedTokens:
    """The valid tokens, in the form of JSON web tokens, of which the newest is in a file."""

    def __init__(self, file: Path, *, lifetime_s: float | None, clock: Callable[[], float]) -> None:
        """Make the first token and write it. lifetime_s: None for tokens that last."""
        self.file = file
        self._lifetime_s = _UNENDING_S if lifetime_s is None else lifetime_s
        self._clock = clock
        self._valid: dict[str, float] = {}
        self._lock = threading.Lock()
        self._made_at = 0.0
        self.renew()

    def renew(self, *, revoke: bool = False) -> None:
        """Put a new token into the file. revoke: the earlier ones are invalid from now on."""
        with self._lock:
            self._made_at = self._clock()
            expires_at = self._made_at + self._lifetime_s
            token = _token(self._made_at, expires_at)
            if revoke:
                self._valid.clear()
            self._valid[token] = expires_at
            stated = {"access_token": token, "refresh_status": "SUCCESS", "auth_server_url": ""}
            _write_private(self.file, json.dumps(stated))

    def admit(self, token: str) -> None:
        """Accept a client's own token, too, which does not expire here."""
        with self._lock:
            self._valid[token] = float("inf")

    def revoke(self) -> None:
        """Make all tokens invalid; the one in the file stays there."""
        with self._lock:
            self._valid.clear()
            self._made_at = float("inf")

    def accepts(self, token: str) -> bool:
        """Whether a token is valid now; renews the one in the file if its end is near."""
        now = self._clock()
        if now >= self._made_at + _RENEWED_AT * self._lifetime_s:
            self.renew()
        with self._lock:
            found = next(
                (
                    end
                    for known, end in self._valid.items()
                    if secrets.compare_digest(known.encode(), token.encode())
                ),
                None,
            )
        return found is not None and now < found


def _token(made_at: float, expires_at: float) -> str:
    times = {"iat": int(made_at), "exp": int(expires_at)}
    claims = {**times, "sub": "rehearsal", "jti": secrets.token_urlsafe(16)}
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    encoded = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, secrets.token_urlsafe(32)])


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
