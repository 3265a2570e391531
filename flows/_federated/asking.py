"""Questions to sites over their links: bounded in time and size, whatever a site answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import httpcore
import httpx

from backends.links import Link, LinkError, LinkFacts
from backends.links.streams import BASE_URL, LinkDialer, link_transport
from flows._federated.masking import MaskingError

__all__ = ["QUICK_S", "Sites"]

_Answer = TypeVar("_Answer")

QUICK_S = 20.0
_AGAIN_S = 3.0  # for a site that was silent the last time
_MOST_BYTES = 1 << 20


class Sites:
    """The sites of a federation, which are asked at the same time."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        """Prepare the clients; they connect when they ask."""
        limits = httpx.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=60.0)
        self._dialers = {name: _Dialer(link) for name, link in links.items()}
        self._stack = ExitStack()
        self._clients = {
            name: self._stack.enter_context(
                httpx.Client(
                    base_url=BASE_URL, transport=link_transport(dialer, limits), trust_env=False
                )
            )
            for name, dialer in self._dialers.items()
        }
        self._pool = self._stack.enter_context(ThreadPoolExecutor(max(1, len(links))))
        self._silent: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self._stack.close()

    def facts(self) -> dict[str, LinkFacts]:
        """Return what the links agreed on, by site."""
        found = {name: dialer.facts for name, dialer in self._dialers.items()}
        return {name: facts for name, facts in found.items() if facts is not None}

    def ask(
        self,
        phase: str,
        messages: Mapping[str, Mapping[str, Any]],
        check: Callable[[str, Mapping[str, Any]], _Answer],
        gone: dict[str, str],
        patience_s: float,
    ) -> dict[str, _Answer]:
        """Return what is made of the answers, by site; note why others gave none of use.

        check: makes something of a site's answer. Raises `MaskingError` for one that is wrong.
        """

        def ask(site: str) -> _Answer | None:
            known_silent = site in self._silent
            patient_s = min(_AGAIN_S, patience_s) if known_silent else patience_s
            try:
                answer = check(site, self._asked(site, phase, messages[site], patient_s))
            except (httpx.RequestError, LinkError, MaskingError) as error:
                with self._lock:
                    gone[site] = " ".join(str(error).split())[:300] or type(error).__name__
                    if isinstance(error, httpx.TimeoutException):
                        self._silent.add(site)
                return None
            with self._lock:
                self._silent.discard(site)
            return answer

        found = dict(zip(messages, self._pool.map(ask, messages), strict=True))
        return {site: answer for site, answer in found.items() if answer is not None}

    def _asked(
        self, site: str, phase: str, message: Mapping[str, Any], patience_s: float
    ) -> dict[str, Any]:
        deadline = self._dialers[site].deadline = time.monotonic() + patience_s
        try:
            status, content = self._posted(site, phase, message, patience_s)
        except (httpx.ConnectError, httpx.TimeoutException):
            raise
        except httpx.TransportError:
            # A connection that broke, perhaps when it was idle; sites answer a message again.
            status, content = self._posted(site, phase, message, deadline - time.monotonic())
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise MaskingError(f"{site} answers {phase} with what is no JSON object")
        if status != 200:
            raise MaskingError(f"{site} refuses: {found.get('detail', status)}")
        return found

    def _posted(
        self, site: str, phase: str, message: Mapping[str, Any], patience_s: float
    ) -> tuple[int, bytes]:
        timeout = httpx.Timeout(patience_s, connect=min(patience_s, QUICK_S))
        with self._clients[site].stream(
            "POST", f"/{phase}", json=dict(message), timeout=timeout
        ) as answer:
            content = bytearray()
            for piece in answer.iter_raw():
                content += piece
                if len(content) > _MOST_BYTES:
                    raise MaskingError(f"{site} answers with more than {_MOST_BYTES} bytes")
        return answer.status_code, bytes(content)


class _Dialer(LinkDialer):
    """deadline: of the question, which a site that answers drop by drop does not put off."""

    deadline = float("inf")

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Timed(super().connect_tcp(host, port, timeout, local_address, socket_options), self)


class _Timed(httpcore.NetworkStream):
    """A stream whose waiting ends at its dialer's deadline."""

    def __init__(self, stream: httpcore.NetworkStream, dialer: _Dialer) -> None:
        self._stream, self._dialer = stream, dialer

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _left(self, timeout: float | None, late: type[Exception]) -> float:
        left = self._dialer.deadline - time.monotonic()
        if left <= 0:
            raise late(f"{self._dialer.link.address} did not answer in time")
        return left if timeout is None else min(timeout, left)
