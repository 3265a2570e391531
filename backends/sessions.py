"""Sessions of a backend whose device has no notion of them."""

from __future__ import annotations

import uuid

from backends.api import SessionId, UnknownSession

__all__ = ["Sessions"]


class Sessions:
    """The open sessions; any thread may call.

    >>> from backends.api import SessionId
    >>> sessions = Sessions()
    >>> session = sessions.open()
    >>> sessions.check(session)
    >>> sessions.close(session)
    >>> sessions.check(SessionId("other"))
    Traceback (most recent call last):
    backends.errors.UnknownSession: session 'other' is not open; call acquire() first
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._open: set[SessionId] = set()

    def open(self) -> SessionId:
        """Return a new session; as many as are asked for."""
        session = SessionId(uuid.uuid4().hex)
        self._open.add(session)
        return session

    def close(self, session: SessionId) -> None:
        """Forget a session; one that is not open is left."""
        self._open.discard(session)

    def check(self, session: SessionId) -> None:
        """Raise ``UnknownSession`` unless the session is open."""
        if session not in self._open:
            raise UnknownSession(f"session {session!r} is not open; call acquire() first")
