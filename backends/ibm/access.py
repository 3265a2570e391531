"""Tokens of IBM's service: an API key is exchanged for a token that lasts an hour."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from backends.connection import read_bounded
from backends.errors import AccessDenied, QpuUnavailable
from backends.http_rules import is_loopback
from backends.site_access import TokenSource

__all__ = ["AccessTokens"]

_GRANT = "urn:ibm:params:oauth:grant-type:apikey"
_ANSWER_S = 20.0
_LARGEST_ANSWER_BYTES = 1 << 20
# A token is replaced so long before its end that no request arrives after it.
_EARLY_S = 60.0
_LEAST_S = 1.0


class AccessTokens:
    """Access tokens made of an API key, which is read again when its file changes.

    The one of IBM's SDK makes later callers sleep for up to a minute after one failure.
    """

    def __init__(
        self, url: str, key: TokenSource, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Store the arguments; nothing connects before the first token is needed.

        Args:
            url: Of IBM's identity service.
            key: Where the API key is found.
            clock: Seconds that only grow.
        """
        self._url, self._key, self._clock = url, key, clock
        self._lock = threading.Lock()
        self._made_of = ""
        self._token = ""
        self._until_s = 0.0

    def get(self) -> str:
        """Return a valid token.

        Raises:
            AccessDenied: The identity service refused the key.
            QpuUnavailable: It cannot be asked.
        """
        key = self._key.read().text
        with self._lock:
            if key != self._made_of or self._clock() >= self._until_s:
                stated = self._exchanged(key)
                self._token, lifetime_s = stated
                self._made_of = key
                self._until_s = self._clock() + max(lifetime_s - _EARLY_S, _LEAST_S)
            return self._token

    def forget(self, token: str) -> bool:
        """Give up a token that the service refused; return whether another one may help."""
        with self._lock:
            if token == self._token:
                self._until_s = 0.0
        try:
            return self.get() != token
        except (AccessDenied, QpuUnavailable):
            return False

    def _exchanged(self, key: str) -> tuple[str, float]:
        host = urlsplit(self._url).hostname or ""
        try:
            with httpx.stream(
                "POST",
                f"{self._url}/identity/token",
                data={"grant_type": _GRANT, "apikey": key},
                headers={"Accept": "application/json", "Accept-Encoding": "gzip"},
                timeout=_ANSWER_S,
                trust_env=not is_loopback(host),
            ) as answer:
                content = read_bounded(
                    answer, largest_bytes=_LARGEST_ANSWER_BYTES, longest_s=_ANSWER_S
                )
        except httpx.HTTPError as error:
            raise QpuUnavailable(f"{self._url} cannot be asked for a token: {error}") from error
        if answer.status_code in (400, 401, 403):
            raise AccessDenied(
                f"{self._url} refused the API key: HTTP {answer.status_code}; renew the key"
            )
        try:
            answer.raise_for_status()
            stated: Any = json.loads(content)
            return str(stated["access_token"]), float(stated["expires_in"])
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            raise QpuUnavailable(
                f"{self._url} answered HTTP {answer.status_code} without a token"
            ) from error
