"""Requests to a vendor's server: over kept connections, authorised, and each sent once."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from pydantic_core import from_json, to_json

from backends.api import Heard
from backends.connection_limit import ConnectionLimit
from backends.errors import AccessDenied, QpuBusy, QpuUnavailable, TokenExpired
from backends.http_rules import NOT_NOW, is_loopback, retry_after_s
from backends.links import Link, LinkError
from backends.site_access import Token, TokenSource
from backends.unix_sockets import UNIX, UnixSocketError

__all__ = [
    "Answer",
    "SiteConnection",
    "bearer",
    "path_part",
    "read_bounded",
]

_CONNECT_S = 10.0
_ANSWER_S = 30.0
# Servers close idle connections after a minute or so. A request that meets such a close gets no
# answer, and then nobody knows whether a task was started: leave the connection long before.
_KEPT_S = 5.0
_MOST_CONNECTIONS = 64
# More than any answer but a result; JSON of that size may take twenty times the memory when read.
_LARGEST_ANSWER_BYTES = 1 << 24
# Longer than a slow network needs for the largest result.
_WHOLE_ANSWER_S = 600.0
_PIECE_BYTES = 1 << 20
_GZIP = zlib.MAX_WBITS | 16
_LONGEST_REASON = 300
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "hpcqc"}
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


def bearer(token: str) -> Mapping[str, str]:
    """Return the header that carries a token (RFC 6750); none for no token."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def path_part(name: str) -> str:
    """Return what a server or a site file calls something as one part of a path.

    >>> path_part("a/b"), path_part("..")
    ('a%2Fb', '%2E%2E')
    """
    quoted = quote(name, safe="")
    return quoted.replace(".", "%2E") if name in (".", "..") else quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered. content: of the body.

    retry_after_s, content_digest: where it states them.
    """

    status: int
    content: bytes = field(repr=False)
    retry_after_s: float | None = None
    content_digest: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether the server did what was asked."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the body as JSON. Raises ``ValueError``."""
        return from_json(self.content)

    @property
    def error(self) -> Mapping[str, Any]:
        """The body of an error where it is a JSON object, else nothing."""
        try:
            found = self.json()
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def reason(self) -> str:
        """What the server says about an error, in a line."""
        stated = self.error
        texts = [stated.get(key) for key in ("error_code", "message", "detail", "title")]
        words = ": ".join(" ".join(str(text).split()) for text in texts if text)
        return f"HTTP {self.status}{' ' * bool(words)}{words}"[:_LONGEST_REASON]


@dataclass(frozen=True, slots=True)
class _Excess:
    """How much longer an answer may take, and how much larger it may be, than usual."""

    longer_s: float = 0.0
    larger_bytes: int = 0


class SiteConnection:
    """A client of one server. Nothing is sent twice, but after a token was replaced in its file."""

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        authorise: Callable[[str], Mapping[str, str]] = bearer,
        answer_s: float = _ANSWER_S,
        limit: ConnectionLimit | None = None,
        clock: Callable[[], float] = time.time,
        link: Link | None = None,
    ) -> None:
        """Store the arguments; nothing connects before the first request.

        Args:
            url: Of the server; its path is put before that of each request.
            token: Where the token is found.
            authorise: Returns the headers that carry a token.
            answer_s: Longest that an answer may take.
            limit: Of connections, beyond which the server may answer a start with an error and
                carry it out nevertheless. Further requests wait for a connection.
            clock: The time in seconds since the epoch.
            link: Over which all requests go, wherever the URL leads.
        """
        self.url = url
        self._token, self._authorise, self._clock = token, authorise, clock
        self._answer_s, self._limit, self._link = answer_s, limit, link
        self._most_connections = _MOST_CONNECTIONS if limit is None else limit.most
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._base = ""  # of URLs, once there is a client
        self._heard = Heard()
        self._closed = False

    def read(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        longer_s: float = 0.0,
        held: bool = False,
        larger_bytes: int = 0,
    ) -> Answer:
        """Send what may be sent again: a question, or a cancellation.

        Args:
            method: Of HTTP.
            path: Below the URL, with a slash first.
            params: Of the query.
            body: JSON types, sent as such; None sends none.
            longer_s: How much longer than usual the answer may take.
            larger_bytes: How much larger than usual, 16 MiB, the answer may be.
            held: Whether the server holds its answer back until there is one. That it does not come
                in time is then no fault, and neither is a gateway that gives up before.

        Returns:
            An answer of status 2xx or 4xx, except those that are raised. If it is held back still,
            one of status 504.

        Raises:
            AccessDenied: 401, 402 and 403.
            QpuUnavailable: There was no answer, or one of status 408, 425, 429 or 5xx.
        """
        try:
            answer = self._send(method, path, params, body, _Excess(longer_s, larger_bytes))
        except httpx.RequestError as error:
            if held and isinstance(error, httpx.ReadTimeout):
                return Answer(status=504, content=b"")
            raise QpuUnavailable(f"{self.url} cannot be asked: {_words(error)}") from error
        if held and answer.status == 504:
            return answer
        if answer.status in NOT_NOW or answer.status >= 500:
            raise QpuUnavailable(
                f"{self.url} does not answer now: {answer.reason}",
                retry_after_s=answer.retry_after_s,
            )
        return answer

    def submit(
        self,
        path: str,
        body: Any,
        *,
        params: Mapping[str, Any] | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send what starts a task, which must happen once.

        Args:
            path: Below the URL, with a slash first.
            body: JSON types, sent as such; bytes are sent as they are.
            params: Of the query.
            method: Of HTTP.
            headers: Further ones; bytes need their ``Content-Type`` here.

        Returns:
            An answer of status 2xx whose body is JSON, or 4xx, except those that are raised.

        Raises:
            AccessDenied: 401, 402 and 403; nothing was started.
            QpuBusy: The request was not sent, or the server refused it for now: 408, 425, 429, or 503
                with ``Retry-After`` or an error in JSON. A 503 without either may be of a gateway.
                With a limit of connections only answers with ``Retry-After`` mean this, and those only
                while the limit is surely kept.
            QpuUnavailable: Nobody knows whether a task was started.
        """
        was_kept = self._is_limit_kept()
        try:
            answer = self._send(method, path, params, body, _Excess(), headers or {})
        except _UNSENT as error:
            raise QpuBusy(
                f"{self.url} cannot be reached, so nothing was started: {_words(error)}"
            ) from error
        except httpx.RequestError as error:
            raise QpuUnavailable(
                f"the answer of {self.url} was lost: {_words(error)}; a task may have been started"
            ) from error
        stated = answer.retry_after_s is not None or bool(answer.error)
        refused = answer.status in NOT_NOW or (answer.status == 503 and stated)
        if refused and self._limit is not None:
            refused = answer.retry_after_s is not None and was_kept and self._is_limit_kept()
        if refused:
            raise QpuBusy(
                f"{self.url} takes no task now: {answer.reason}", retry_after_s=answer.retry_after_s
            )
        not_done = answer.status in NOT_NOW or 300 <= answer.status < 400
        if not_done or answer.status < 200 or answer.status >= 500:
            raise QpuUnavailable(
                f"{self.url} answered a start with {answer.reason}; a task may have been started",
                retry_after_s=answer.retry_after_s,
            )
        if answer.is_success:
            try:
                answer.json()
            except ValueError:
                raise QpuUnavailable(
                    f"{self.url} answered a start with {len(answer.content)} bytes that are not "
                    "JSON; a task may have been started"
                ) from None
        return answer

    @property
    def heard(self) -> Heard:
        """When the server last answered."""
        return self._heard

    def close(self) -> None:
        """Close all connections; further requests raise `QpuUnavailable`."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()
        if self._limit is not None:
            self._limit.close()

    def _is_limit_kept(self) -> bool:
        return self._limit is None or self._limit.is_kept()

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: Any,
        excess: _Excess,
        headers: Mapping[str, str] = {},
    ) -> Answer:
        token = self._valid_token()
        asked_at_s = self._clock()
        try:
            answer = self._once(method, path, params, body, excess, headers, token)
        except httpx.RequestError as error:
            if not isinstance(error, httpx.ReadTimeout):  # such an answer may be held back
                self._note_heard(asked_at_s, answered=False)
            raise
        self._note_heard(asked_at_s, answered=answer.status < 500)
        if answer.status == 401:  # the server did nothing, so it may be asked again
            newer = self._valid_token()
            if newer != token:
                answer = self._once(method, path, params, body, excess, headers, newer)
        if answer.status in (401, 402, 403):
            remedy = "renew the token" if answer.status == 401 else "ask the site for access"
            raise AccessDenied(f"{self.url} refused {method} {path}: {answer.reason}; {remedy}")
        return answer

    def _note_heard(self, asked_at_s: float, *, answered: bool) -> None:
        with self._lock:
            if answered:
                self._heard = Heard(at_s=self._clock())
            elif self._heard.silent_since_s is None:
                self._heard = Heard(at_s=self._heard.at_s, silent_since_s=asked_at_s)

    def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: Any,
        excess: _Excess,
        more: Mapping[str, str],
        token: Token,
    ) -> Answer:
        headers = {**_HEADERS, **self._authorise(token.text), **more}
        content = body if body is None or isinstance(body, bytes) else to_json(body)
        if content is not None:
            headers.setdefault("Content-Type", "application/json")
        given = {k: v for k, v in (params or {}).items() if v is not None}
        timeout = httpx.Timeout(
            self._answer_s + excess.longer_s, connect=_CONNECT_S, pool=_CONNECT_S
        )
        try:
            client = self._open()
            # What the client would make costs a third of a whole call: it parses the URL four times.
            request = httpx.Request(
                method,
                f"{self._base}{path}{'?' * bool(given)}{httpx.QueryParams(given)}",
                content=content,
                headers=headers,
                extensions={"timeout": timeout.as_dict()},
            )
            if client.cookies:  # of what balances load
                client.cookies.set_cookie_header(request)
            with closing(client.send(request, stream=True)) as response:
                return Answer(
                    status=response.status_code,
                    content=read_bounded(
                        response,
                        largest_bytes=_LARGEST_ANSWER_BYTES + excess.larger_bytes,
                        longest_s=_WHOLE_ANSWER_S + excess.longer_s,
                    ),
                    retry_after_s=retry_after_s(response.headers.get("retry-after")),
                    content_digest=response.headers.get("content-digest"),
                )
        except httpx.InvalidURL as error:  # made of what the server called something
            raise httpx.UnsupportedProtocol(f"{path!r:.200} is no path: {error}") from error
        except (_Broken, httpx.ReadTimeout, httpx.WriteTimeout):
            if self._limit is not None:
                self._limit.note_left()
            raise
        except LinkError as error:
            raise AccessDenied(str(error)) from None
        except UnixSocketError as error:
            raise AccessDenied(str(error)) from None
        except RuntimeError as error:  # httpx's word for a closed client
            raise httpx.ConnectError("it is closed") from error

    def _valid_token(self) -> Token:
        token = self._token.read()
        if token.expires_at_s is not None and token.expires_at_s <= self._clock():
            ended = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(token.expires_at_s))
            raise TokenExpired(f"the token for {self.url} expired at {ended} UTC; renew it")
        return token

    def _open(self) -> httpx.Client:
        with self._lock:
            if self._closed:
                raise httpx.ConnectError("it is closed")
            if self._client is None:
                if self._limit is not None:
                    self._limit.join()
                limits = httpx.Limits(
                    max_connections=self._most_connections,
                    max_keepalive_connections=self._most_connections,
                    keepalive_expiry=_KEPT_S,
                )
                self._client = (
                    self._direct(limits) if self._link is None else self._linked(self._link, limits)
                )
                self._base = str(self._client.base_url).rstrip("/")
            return self._client

    def _direct(self, limits: httpx.Limits) -> httpx.Client:
        if self.url.startswith(UNIX):
            from backends.unix_transport import unix_transport

            transport = unix_transport(self.url.removeprefix(UNIX), limits)
            return httpx.Client(base_url="http://localhost", transport=transport, trust_env=False)
        host = urlsplit(self.url).hostname or ""
        # Proxies of the environment serve other machines only.
        return httpx.Client(base_url=self.url, limits=limits, trust_env=not is_loopback(host))

    def _linked(self, link: Link, limits: httpx.Limits) -> httpx.Client:
        from backends.links.streams import BASE_URL, LinkDialer, link_transport

        transport = link_transport(LinkDialer(link), limits)
        return httpx.Client(base_url=BASE_URL, transport=transport, trust_env=False)


class _Broken(httpx.ReadError):
    """The client reads no further in an answer that is none."""


def read_bounded(response: httpx.Response, *, largest_bytes: int, longest_s: float) -> bytes:
    """Read the body of a response that is being streamed, which a faulty server may never end.

    Raises ``httpx.ReadError`` for one that is larger, takes longer, or is no identity or gzip.
    """
    deadline = time.monotonic() + longest_s
    content = bytearray()
    for chunk in _decoded(response, deadline):
        content += chunk
        if len(content) > largest_bytes:
            raise _Broken(f"it answers with more than {largest_bytes} bytes")
    return bytes(content)


def _decoded(response: httpx.Response, deadline: float) -> Iterator[bytes]:
    """Yield a body in pieces of bounded size, empty ones too. Raises ``httpx.ReadError``.

    httpx's own decoders unpack a piece as a whole, several times if the server says so, and yield
    nothing while a header of gzip goes on.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip"):
        raise _Broken(f"it answers in the coding {coding!r:.40}; it was asked for gzip")
    unpacker = zlib.decompressobj(_GZIP)
    for piece in response.iter_raw():
        if time.monotonic() > deadline:
            raise _Broken("its answer has not ended in time")
        if coding == "identity":
            yield piece
            continue
        rest = piece
        while rest and not unpacker.eof:
            try:
                yield unpacker.decompress(rest, _PIECE_BYTES)
            except zlib.error as error:
                raise _Broken(f"its answer is no gzip: {error}") from None
            rest = unpacker.unconsumed_tail
    if coding == "gzip" and not unpacker.eof:
        raise _Broken("its answer is cut off")


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
