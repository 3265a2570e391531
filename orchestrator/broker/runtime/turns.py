"""Turns: what each user may do only so many times at once, while further calls wait in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

__all__ = ["Turns"]


@dataclass(slots=True)
class _User:
    places: asyncio.Semaphore
    calls: int = 0


@dataclass(eq=False)
class Turns:
    """Places for a kind of work, ``most`` for each user. Lives on one event loop."""

    most: int = 1
    _users: dict[str, _User] = field(default_factory=dict)

    @asynccontextmanager
    async def take(self, name: str) -> AsyncIterator[None]:
        """Wait for a place of a user's, and hold it."""
        user = self._users.setdefault(name, _User(asyncio.Semaphore(self.most)))
        user.calls += 1
        try:
            async with user.places:
                yield
        finally:
            user.calls -= 1
            if not user.calls:
                del self._users[name]
