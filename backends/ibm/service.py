"""IBM's service through its own client, without the client's repetitions.

The client sends a POST again after an answer of 5xx, up to five times, although the job may have
been stored. Here each request is sent once; what may be repeated, the caller repeats.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import requests
from qiskit_ibm_runtime.api.client import RuntimeClient
from qiskit_ibm_runtime.api.client_parameters import ClientParameters
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.exceptions import IBMNotAuthorizedError
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from backends.errors import (
    AccessDenied,
    BackendError,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
)
from backends.http_rules import NOT_NOW, retry_after_s
from backends.ibm.access import AccessTokens
from backends.plugins import PluginUnusable
from backends.restrained_sessions import restrain

__all__ = ["IbmService", "Refused"]

_CONNECT_S = 10.0
_ANSWER_S = 30.0
_LONGEST_REASON = 300
_UNSENT = (ConnectTimeoutError, NewConnectionError)
# More than the samples of any job that the service takes.
_LARGEST_ANSWER_BYTES = 1 << 29


class Refused(Exception):
    """The service answered a question with 4xx. status: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _OnceAdapter(HTTPAdapter):
    """Sends each request once, and waits for its answer for a bounded time."""

    def __init__(self) -> None:
        super().__init__(max_retries=0)

    def send(self, request: Any, **given: Any) -> Any:  # type: ignore[override]
        """See ``HTTPAdapter.send``; the client itself would wait for ever."""
        return super().send(request, **{**given, "timeout": (_CONNECT_S, _ANSWER_S)})


class _Bearer(AuthBase):
    """Puts the token into a request."""

    def __init__(self, tokens: AccessTokens, instance: str) -> None:
        self.sent = threading.local()
        self._tokens, self._instance = tokens, instance

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the headers of the service."""
        self.sent.token = self._tokens.get()
        request.headers["Service-CRN"] = self._instance
        request.headers["Authorization"] = f"Bearer {self.sent.token}"
        return request


class IbmService:
    """The client of one instance; nothing connects before the first call.

    client: IBM's own. Make its calls through `asking`, or `submitting` if they start something.
    """

    def __init__(self, instance: str, url: str | None, tokens: AccessTokens) -> None:
        self._tokens = tokens
        self._bearer = _Bearer(tokens, instance)
        self.client = RuntimeClient(
            ClientParameters(
                channel="ibm_quantum_platform",
                token="replaced",  # below
                url="https://cloud.ibm.com",
                instance=instance,
                url_resolver=None if url is None else lambda *_: url,
            )
        )
        session = getattr(self.client, "_session", None)
        if not isinstance(session, requests.Session):
            raise PluginUnusable(
                "this release of qiskit-ibm-runtime hides its connection, so hpcqc cannot keep it "
                "from starting jobs twice; install one from 0.51 on, below 0.52"
            )
        self._session = session
        self.url = str(session.base_url)  # type: ignore[attr-defined]
        session.auth = self._bearer
        for scheme in ("http://", "https://"):
            session.mount(scheme, _OnceAdapter())
        restrain(session, self.url, largest_bytes=_LARGEST_ANSWER_BYTES)

    def asking(self, call: Any, *given: Any, **named: Any) -> Any:
        """Make a call that may be repeated.

        Raises:
            Refused: The service answered 4xx, except 401, 403 and `NOT_NOW`.
            AccessDenied: 401 and 403, also with a new token.
            QpuUnavailable: There was no answer that can be read, or one of `NOT_NOW` or 5xx.
        """
        try:
            return self._authorised(call, *given, **named)
        except BackendError:
            raise
        except Exception as error:  # of requests, of IBM's client, of its parsers
            answer = _answer(error)
            if answer is None or answer.status_code in NOT_NOW or answer.status_code >= 500:
                raise QpuUnavailable(
                    f"{self.url} does not answer now: {_reason(error, answer)}",
                    retry_after_s=_retry_after_s(answer),
                ) from error
            raise Refused(answer.status_code, _reason(error, answer)) from error

    def submitting(self, call: Any, *given: Any, **named: Any) -> Any:
        """Make a call that starts something, once.

        Raises:
            PayloadRejected: The service refused it for good.
            AccessDenied: 401 and 403, also with a new token.
            QpuBusy: It was not sent, or refused for now.
            QpuUnavailable: Nobody knows whether it was carried out.
        """
        try:
            self._tokens.get()
        except QpuUnavailable as error:
            raise QpuBusy(f"nothing was started: {error}") from error
        try:
            return self._authorised(call, *given, **named)
        except BackendError:
            raise
        except Exception as error:  # noqa: BLE001  # of requests, of IBM's client, of its parsers
            self._raise_for_start(error)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _authorised(self, call: Any, *given: Any, **named: Any) -> Any:
        """Make a call; once more with another token after 401, which has no effect."""
        for last in (False, True):
            try:
                return call(*given, **named)
            except (IBMNotAuthorizedError, RequestsApiError) as error:
                answer = _answer(error)
                status = 0 if answer is None else answer.status_code
                token = getattr(self._bearer.sent, "token", "")
                if status == 401 and not last and self._tokens.forget(token):
                    continue
                if status in (401, 403):
                    remedy = "renew the API key" if status == 401 else "ask for access"
                    raise AccessDenied(
                        f"{self.url} refused: {_reason(error, answer)}; {remedy}"
                    ) from error
                raise
        raise AssertionError("unreachable")

    def _raise_for_start(self, error: Exception) -> NoReturn:
        answer, reason = _answer(error), _reason(error, _answer(error))
        if answer is None and any(isinstance(one, _UNSENT) for one in _chain(error)):
            raise QpuBusy(
                f"{self.url} cannot be reached, so nothing was started: {reason}"
            ) from error
        status, after_s = 0 if answer is None else answer.status_code, _retry_after_s(answer)
        refused = after_s is not None or (answer is not None and bool(_stated(answer)))
        if status in NOT_NOW or (status == 503 and refused):
            raise QpuBusy(
                f"{self.url} takes no job now: {reason}", retry_after_s=after_s
            ) from error
        if 400 <= status < 500:
            raise PayloadRejected(f"{self.url} refused the job: {reason}") from error
        raise QpuUnavailable(
            f"the answer of {self.url} to a start is unknown: {reason}; a job may have been started",
            retry_after_s=after_s,
        ) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was raised for, reasons of urllib3 included."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _answer(error: BaseException) -> requests.Response | None:
    """Return the response that an error of IBM's client is about."""
    for one in _chain(error):
        found = getattr(one, "response", None)
        if isinstance(found, requests.Response):
            return found
    return None


def _stated(answer: requests.Response) -> Mapping[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(error: BaseException, answer: requests.Response | None) -> str:
    """Return in a line what the service says, else what the client says."""
    if answer is None:
        return " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
    listed = _stated(answer).get("errors")
    texts = [
        f"{one.get('message', '')} (code {one.get('code', '?')})"
        for one in (listed if isinstance(listed, list) else ())
        if isinstance(one, dict)
    ]
    words = " ".join("; ".join(texts).split())
    return f"HTTP {answer.status_code}{': ' * bool(words)}{words}"[:_LONGEST_REASON]


def _retry_after_s(answer: requests.Response | None) -> float | None:
    return None if answer is None else retry_after_s(answer.headers.get("Retry-After"))
