"""Tokens of users and operators, kept as hashes in a file that only the broker's owner reads."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from orchestrator.broker.core.access import Identity, Role
from orchestrator.config.private import close_to_others
from orchestrator.names import EXPECTED, PROJECT, is_name

__all__ = ["TokenEntry", "TokenError", "TokenFile"]

_PREFIX = "hpcqc_"


class TokenError(ValueError):
    """A token cannot be made, read or revoked as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEntry:
    """What is kept of a token. id: its public name. sha256: of the secret, which is not kept.

    A secret has 256 random bits, so a plain hash cannot be guessed back. Times are ISO 8601.
    """

    id: str
    user: str
    role: Role
    projects: tuple[str, ...]
    sha256: str
    created_at: str
    expires_at: str | None = None

    def identity(self) -> Identity:
        """Return who comes with this token."""
        return Identity(user=self.user, role=self.role, projects=self.projects)

    def is_valid(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < datetime.fromisoformat(self.expires_at)


class TokenFile:
    """The tokens of one broker. A running broker notices changes at the next request."""

    def __init__(self, path: Path) -> None:
        """Take note of the file; it is made with the first token, readable by its owner alone."""
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._entries: dict[str, TokenEntry] = {}

    def entries(self) -> list[TokenEntry]:
        """Return all tokens, the oldest first. Raises `TokenError` if the file is damaged."""
        return list(self._by_hash().values())

    def find(self, secret: str, now: datetime) -> Identity | None:
        """Return who a secret belongs to, None if it is unknown, revoked or expired."""
        entry = self._by_hash().get(_hash(secret))
        return entry.identity() if entry is not None and entry.is_valid(now) else None

    def add(
        self,
        user: str,
        role: Role,
        projects: Sequence[str],
        *,
        now: datetime,
        expires_at: datetime | None = None,
    ) -> tuple[TokenEntry, str]:
        """Make a token; return its entry and its secret, which is shown this once.

        Raises `TokenError` for a name that is no name.
        """
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
        found = [entry for entry in self.entries() if entry.id == token]
        if not found:
            listed = ", ".join(entry.id for entry in self.entries()) or "none"
            raise TokenError(f"no token {token!r}; there are: {listed}")
        self._write([entry for entry in self.entries() if entry.id != token])
        return found[0]

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

    def _write(self, entries: Sequence[TokenEntry]) -> None:
        close_to_others(self.path.parent)
        draft = self.path.with_suffix(f".{os.getpid()}.draft")
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump([asdict(entry) for entry in entries], file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
