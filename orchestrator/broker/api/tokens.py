"""Tokens of users and operators, as hashes in a file that only the broker's owner reads."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from orchestrator.broker.core.access import Identity, Role
from orchestrator.config.private import close_to_others, write_private
from orchestrator.names import EXPECTED, PROJECT, is_name

__all__ = ["TokenEntry", "TokenError", "TokenFile"]

_PREFIX = "hpcqc_"


class TokenError(ValueError):
    """A token cannot be made, read or revoked as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEntry:
    """What the file has of a token; times are ISO 8601."""

    id: str  # its public name
    user: str
    role: Role
    projects: tuple[str, ...]
    sha256: str  # of the secret, whose 256 random bits cannot be guessed back from it
    created_at: str
    expires_at: str | None = None


class TokenFile:
    """The tokens of one broker. A running broker notices changes at the next request."""

    def __init__(self, path: Path) -> None:
        """Take the path; `add` makes the file, readable by its owner alone."""
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._entries: dict[str, TokenEntry] = {}

    def entries(self) -> list[TokenEntry]:
        """Return all tokens, the oldest first. Raises `TokenError` if the file is damaged."""
        return list(self._by_hash().values())

    def find(self, secret: str, now: datetime) -> Identity | None:
        """Return the caller with a secret, None if it is unknown, revoked or expired."""
        entry = self._by_hash().get(_hash(secret))
        if entry is None or (entry.expires_at and datetime.fromisoformat(entry.expires_at) <= now):
            return None
        return Identity(user=entry.user, role=entry.role, projects=entry.projects)

    def add(
        self,
        user: str,
        role: Role,
        projects: Sequence[str],
        *,
        now: datetime,
        expires_at: datetime | None = None,
    ) -> tuple[TokenEntry, str]:
        """Make a token; return its entry and its secret, stored nowhere. Raises `TokenError`."""
        for name in (user, *projects):
            if not is_name(name, PROJECT):
                raise TokenError(f"invalid name of a user or project {name!r}: {EXPECTED[PROJECT]}")
        if not projects:
            raise TokenError(f"user {user!r} needs at least one project")
        secret = _PREFIX + secrets.token_urlsafe(32)
        entry = TokenEntry(
            id=secrets.token_hex(4),
            user=user,
            role=role,
            projects=tuple(projects),
            sha256=_hash(secret),
            created_at=now.isoformat(timespec="seconds"),
            expires_at=None if expires_at is None else expires_at.isoformat(timespec="seconds"),
        )
        self._write([*self.entries(), entry])
        return entry, secret

    def revoke(self, token: str) -> TokenEntry:
        """Remove a token by its id. Raises `TokenError` if there is none."""
        entries = {entry.id: entry for entry in self.entries()}
        if token not in entries:
            listed = ", ".join(entries) or "none"
            raise TokenError(f"no token {token!r}; there are: {listed}")
        revoked = entries.pop(token)
        self._write(entries.values())
        return revoked

    def _by_hash(self) -> dict[str, TokenEntry]:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp != self._stamp:
            try:
                listed = json.loads(self.path.read_text(encoding="utf-8"))
                entries = [TokenEntry(**{**e, "projects": tuple(e["projects"])}) for e in listed]
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise TokenError(f"{self.path} cannot be read: {error}") from error
            self._entries = {entry.sha256: entry for entry in entries}
            self._stamp = stamp
        return self._entries

    def _write(self, entries: Iterable[TokenEntry]) -> None:
        close_to_others(self.path.parent)
        write_private(self.path, json.dumps([asdict(entry) for entry in entries], indent=1))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
