"""D-Wave's Solver API (SAPI), by the package dwave-cloud-client: one request for each call.

Its retries are off. What it makes of an error is replaced: it takes the error's code from the body,
and whether a problem was submitted follows from the status of HTTP alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import requests
import urllib3
from dwave.cloud.api import Problems, Solvers, models

from backends.errors import AccessDenied, PayloadRejected, QpuBusy, QpuUnavailable, UnknownTask
from backends.http_rules import NOT_NOW, retry_after_s
from backends.restrained_sessions import restrain
from backends.site_access import TokenSource

__all__ = ["SapiClient"]

_ResultT = TypeVar("_ResultT")

_TIMEOUT_S = (10, 30)
_MOST_FOUND = 100
_LONGEST_REASON = 300
# More than the answer of the largest annealer to the most reads.
_LARGEST_ANSWER_BYTES = 1 << 26
# The vendor's code takes the form of an answer for granted.
_FAULTS = (requests.RequestException, ValueError, LookupError, TypeError, AttributeError)


class SapiClient:
    """Calls to one endpoint. Any thread may call: each has a connection of its own."""

    def __init__(self, url: str, token: TokenSource) -> None:
        self.url = url
        self._token = token

    def solver(self, name: str) -> models.SolverConfiguration:
        """Return a solver. Raises `PayloadRejected` if there is none of that name."""
        with self._reading(Solvers) as solvers:
            return solvers.get_solver(name)

    def problems(self, label: str) -> list[models.ProblemStatus]:
        """Return the problems of a label, the first that was submitted first."""
        with self._reading(Problems) as problems:
            found = problems.list_problems(label=label, max_results=_MOST_FOUND)
        ours = [one for one in found if one.label == label]
        return sorted(ours, key=lambda one: (one.submitted_on, one.id))

    def status(self, problem: str) -> models.ProblemStatus:
        """Return the state of a problem. Raises `UnknownTask`."""
        with self._reading(Problems) as problems:
            return problems.get_problem_status(problem)

    def statuses(self, problems: Sequence[str]) -> list[models.ProblemStatus]:
        """Return the states of problems, by one request, those that the service knows."""
        with self._reading(Problems) as opened:
            found: list[models.ProblemStatus] = opened.get_problem_statuses(list(problems))
        return found

    def answer(self, problem: str) -> models.ProblemAnswer:
        """Return the answer of a completed problem. Raises `UnknownTask`."""
        with self._reading(Problems) as problems:
            return problems.get_problem_answer(problem)

    def cancel(self, problem: str) -> None:
        """Ask for the end of a problem; one that has ended stays as it is. Raises `UnknownTask`."""
        try:
            with self._open(Problems) as problems:
                problems.cancel_problem(problem)
        except _FAULTS as error:
            if _status(error) != 409:
                raise self._read_error(error) from error

    def submit(self, job: models.ProblemJob) -> str:
        """Submit a problem and return its id.

        Raises:
            AccessDenied, PayloadRejected: It was refused for good.
            QpuBusy: It was not sent, or refused for now.
            QpuUnavailable: Nobody knows whether it was submitted.
        """
        try:
            with self._open(Problems) as problems:
                answer = problems.submit_problem(job)
        except _FAULTS as error:
            raise self._submit_error(error) from error
        if isinstance(answer, models.ProblemSubmitError):
            raise PayloadRejected(f"{self.url} refused the problem: {answer.error_msg}")
        return str(answer.id)

    @contextmanager
    def _reading(self, resource: Callable[..., _ResultT]) -> Iterator[_ResultT]:
        try:
            with self._open(resource) as opened:
                yield opened
        except _FAULTS as error:
            raise self._read_error(error) from error

    @contextmanager
    def _open(self, resource: Callable[..., Any]) -> Iterator[Any]:
        opened = resource(
            endpoint=self.url,
            timeout=_TIMEOUT_S,
            retry={"total": 0, "redirect": 0},
            on_deprecation={"log": True, "warn": False, "store": False},
        )
        # Not as its argument, which the SDK writes into the log.
        opened.client.session.headers["X-Auth-Token"] = self._token.read().text
        restrain(opened.client.session, self.url, largest_bytes=_LARGEST_ANSWER_BYTES)
        try:
            yield opened
        finally:
            opened.close()

    def _read_error(self, error: Exception) -> Exception:
        status = _status(error)
        if status in (401, 402, 403):
            return self._denied(error)
        if status == 404 or isinstance(error, IndexError):  # a list without the problem
            return UnknownTask(f"{self.url} knows no such problem or solver: {_words(error)}")
        return QpuUnavailable(
            f"{self.url} cannot be asked: {_words(error)}", retry_after_s=_retry_after_s(error)
        )

    def _submit_error(self, error: Exception) -> Exception:
        status = _status(error)
        if status in (401, 402, 403):
            return self._denied(error)
        if status in NOT_NOW or (status == 503 and _retry_after_s(error) is not None):
            return QpuBusy(
                f"{self.url} takes no problem now: {_words(error)}",
                retry_after_s=_retry_after_s(error),
            )
        if status is not None and 400 <= status < 500:
            return PayloadRejected(f"{self.url} refused the problem: {_words(error)}")
        if _is_unsent(error):
            return QpuBusy(
                f"{self.url} cannot be reached, so nothing was submitted: {_words(error)}"
            )
        return QpuUnavailable(
            f"{self.url} did not say what became of a problem: {_words(error)}",
            retry_after_s=_retry_after_s(error),
        )

    def _denied(self, error: Exception) -> AccessDenied:
        return AccessDenied(f"{self.url} refused the token: {_words(error)}; renew the token")


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _retry_after_s(error: Exception) -> float | None:
    response = getattr(error, "response", None)
    return None if response is None else retry_after_s(response.headers.get("Retry-After"))


def _is_unsent(error: BaseException | None) -> bool:
    """Whether a connection failed before anything was sent."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, requests.ConnectTimeout):
            return True
        reason = getattr(error.args[0], "reason", None) if error.args else None
        unsent = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
        if isinstance(error, unsent) or isinstance(reason, unsent):
            return True
        error = error.__cause__ or error.__context__
    return False


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
