"""A broker service as a client sees it: the same calls as the embedded one, over HTTP."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from backends import api
from backends.api import BackendError, PayloadRejected, Target, TaskCancelled
from backends.http_rules import is_loopback
from backends.links import Link, LinkError, LinkFacts
from backends.unix_sockets import UnixSocketError, check_path
from backends.unix_transport import unix_transport
from orchestrator.broker.client.content_digest import content_digest
from orchestrator.broker.client.models import Cancelled, Health, ProjectBudget, ProjectUse, Whoami
from orchestrator.broker.client.protocol import AllocationEnded, DataRefused, JobUncertain
from orchestrator.broker.client.status import QpuReadiness, QpuStatus
from orchestrator.broker.core.budgets import BudgetExhausted, StatementLine
from orchestrator.broker.core.codec import to_plain
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.metered import NOTHING_METERED, Metered
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.config.proxies import proxy_variable
from orchestrator.data_labels import all_labels, labels_of_project
from orchestrator.identity import JobId, is_job_id

if TYPE_CHECKING:
    # At run time a client that only asks about jobs is spared Qiskit.
    from backends.links.streams import LinkDialer
    from backends.payloads import Payload
    from orchestrator.broker.core.choice import ChoiceRequest, QpuChoice
    from orchestrator.broker.core.explain import Explanation

__all__ = ["BrokerRefused", "BrokerUnreachable", "Exchange", "RemoteBroker"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
_POLL_S, _SHORT_POLL_S = 30.0, 1.0
# A service gives a user 256 at most (a quarter); further requests of one client wait for their turn.
_MOST_CONNECTIONS = 128
_SLACK_S = 20.0
# A broker that is being restarted, or a site's maintenance, must not end a flow.
_PATIENCE_S = 900.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
# What one listing may hold; the service's own bound.
_MOST_JOBS = 10000
_TOO_MANY = 429
_LATER = (_TOO_MANY, 502, 503, 504)


class BrokerRefused(ValueError):
    """The service refused what was asked: the token, the project, the QPU or the request."""


class BrokerUnreachable(RuntimeError):
    """No service answered for longer than a client waits; what was accepted is not lost."""


class Exchange:
    """Requests to a service and answers from it, sent again until one counts."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        patience_s: float,
        most_connections: int = _MOST_CONNECTIONS,
        link: Link | None = None,
    ) -> None:
        """Store the arguments. Raises `BrokerRefused` for an unusable proxy, path or link."""
        self._url, self._patience_s = url, patience_s
        self._dialer: LinkDialer | None = None
        path = url.removeprefix("unix:") if url.startswith("unix:") else None
        limits = httpx.Limits(max_connections=most_connections, max_keepalive_connections=64)
        parts = urlsplit(url)
        # Proxies of the environment serve other machines only.
        proxied = path is None and link is None and not is_loopback(parts.hostname or "")
        self._proxy = proxy_variable(parts.scheme) if proxied else None
        self._authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        if path is not None:
            try:
                check_path(Path(path))
            except UnixSocketError as error:
                raise BrokerRefused(f"broker {url} cannot be asked: {error}") from None
        try:
            self._http = httpx.Client(
                base_url="http://localhost" if path or link else url,
                transport=None if proxied else self._transport(path, limits, link),
                limits=limits,
                timeout=httpx.Timeout(_POLL_S + _SLACK_S, pool=None),
                trust_env=proxied,
            )
        except LinkError as error:
            raise BrokerRefused(str(error)) from None
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            if self._proxy is None:
                raise
            raise BrokerRefused(f"broker {url} cannot be asked: {self._proxy}: {error}") from None

    def _transport(
        self, path: str | None, limits: httpx.Limits, link: Link | None
    ) -> httpx.HTTPTransport:
        if link is None:
            return (
                httpx.HTTPTransport(limits=limits) if path is None else unix_transport(path, limits)
            )
        from backends.links.streams import LinkDialer, link_transport

        self._dialer = LinkDialer(link)
        return link_transport(self._dialer, limits)

    @property
    def link_facts(self) -> LinkFacts | None:
        """What the latest handshake of the link agreed on, None where there was none."""
        return None if self._dialer is None else self._dialer.facts

    def ask(
        self,
        method: str,
        path: str,
        *,
        any_status: bool = False,
        anonymous: bool = False,
        headers: Mapping[str, str] = {},
        **options: Any,
    ) -> httpx.Response:
        """Send until there is an answer that counts; raise what it says if it is an error.

        anonymous: send no token. Raises `BrokerUnreachable`, `BrokerRefused`, or an error of ``backends.api``.
        """
        patience = _Patience(self._patience_s, self._url, self._proxy)
        sent = {**headers} if anonymous else {**headers, **self._authorization}
        while True:
            try:
                answer = self._http.request(method, path, headers=sent, **options)
            except httpx.RequestError as error:
                patience.spend(str(error) or type(error).__name__)
                continue
            except (LinkError, UnixSocketError) as error:
                raise BrokerRefused(str(error)) from None
            except RuntimeError as error:  # httpx's word for a closed client
                raise TaskCancelled("the client of the broker is closed") from error
            if any_status:
                return answer
            if answer.status_code in _LATER:
                refused = BrokerRefused(
                    f"the broker at {self._url} refused for {self._patience_s:g} s: "
                    f"{_detail(answer)}"
                )
                patience.spend(
                    _detail(answer),
                    answer.headers.get("retry-after"),
                    refused if answer.status_code == _TOO_MANY else None,
                )
                continue
            if answer.is_error:
                raise _error(answer)
            return answer

    def close(self) -> None:
        """Close all connections."""
        self._http.close()


class RemoteBroker:
    """The client of a broker service (see `BrokerClient` for the calls). Any thread may call.

    A request whose answer is lost is sent again: equal calls are one job, so nothing is
    doubled. url: ``http://…``, ``unix:PATH``, or ``link:NAME`` with its link. project: who pays; None
    for the user's first. labels: of the data of all jobs, by project as `labels_of_project` has them,
    besides those that the service knows.
    patience_s: how long a service may be away before `BrokerUnreachable` is raised.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        project: str | None = None,
        labels: Mapping[str, tuple[str, ...]] | None = None,
        patience_s: float = _PATIENCE_S,
        link: Link | None = None,
    ) -> None:
        """Take note of the arguments; `open` connects."""
        self.url = url
        self._labels = labels or {}
        self._project = project
        self._exchange = Exchange(url, token=token, patience_s=patience_s, link=link)
        self._ask = self._exchange.ask
        self._open_jobs: set[JobId] = set()
        self._lock = threading.Lock()

    def open(self) -> RemoteBroker:
        """Check the service and the caller's token. Raises `BrokerUnreachable`, `BrokerRefused`."""
        try:
            projects = self.whoami().projects
        except Exception:
            self._exchange.close()
            raise
        if self._project is None and projects:
            self._project = projects[0]  # who pays, from now on, is whose labels hold
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """See `BrokerClient.labels`."""
        return labels_of_project(self._project or "", self._labels)

    @property
    def link_facts(self) -> LinkFacts | None:
        """What the link to the service agreed on, None without one, or before the first request."""
        return self._exchange.link_facts

    def target(self, qpu: str) -> Target:
        """See `BrokerClient.target`; raises `BrokerRefused` for a QPU the service does not have."""
        from backends.targets import target_from_json

        return target_from_json(self._ask("GET", f"/v1/qpus/{qpu}/target").json())

    def prewarm(self, qpu: str) -> None:
        """See `BrokerClient.prewarm`; the service has its QPUs ready."""

    def submit(self, request: JobRequest, payload: Payload) -> JobId:
        """See `BrokerClient.submit`."""
        if self._project is not None:
            request = replace(request, project=self._project)
        if self.labels:
            request = replace(request, labels=all_labels(request.labels, self.labels))
        body = payload.to_bytes()
        answer = self._ask(
            "POST",
            "/v1/jobs",
            content=body,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Digest": content_digest(body),
                "Job-Request": request.to_json(),
            },
        )
        job = JobId(answer.json()["id"])
        with self._lock:
            self._open_jobs.add(job)
        return job

    def choose(self, request: ChoiceRequest) -> QpuChoice:
        """See `BrokerClient.choose`."""
        from orchestrator.broker.core.choice import QpuChoice, with_labels

        if self._project is not None:
            request = replace(request, project=self._project)
        request = with_labels(request, self.labels)
        return self._post(QpuChoice, "/v1/choices", to_plain(request))

    def limit_run(self, run: str, unit: str, amount: float | None) -> None:
        """Limit the cost of this user's jobs of a run; None lifts it. Raises `BrokerRefused`."""
        body = {"run": run, "unit": unit, "amount": amount}
        self._ask("POST", "/v1/budgets/runs", json=body)

    def result(self, job: JobId, timeout_s: float | None = None) -> Any:
        """See `BrokerClient.result`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = _POLL_S if deadline is None else max(0.0, deadline - time.monotonic())
            wait_s = min(self._poll_s(), left)
            try:
                answer = self._ask("GET", f"/v1/jobs/{job}/result", params={"wait_s": wait_s})
            except BackendError:
                self._settle(job)
                raise
            if answer.status_code == 200:
                self._settle(job)
                return _native(answer)
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"quantum job {job} has not ended within {timeout_s:g} s")

    def cancel(self, job: JobId) -> bool:
        """See `BrokerClient.cancel`."""
        return not self.cancel_named(job).too_late

    def cancel_named(self, job: str) -> Cancelled:
        """Cancel a job by its id or the unambiguous start of it. Raises `BrokerRefused`."""
        whole = self._whole_id(job)
        self._settle(whole)
        return self._post(Cancelled, f"/v1/jobs/{whole}/cancel")

    def resolve(
        self,
        job: str,
        verdict: Literal["failed", "not-started"],
        reason: str,
        metered: Metered = NOTHING_METERED,
    ) -> JobView:
        """Settle an uncertain job by its id or the unambiguous start of it."""
        body: dict[str, Any] = {"verdict": verdict, "reason": reason}
        if metered.used_s:  # what is not said, an earlier broker need not know
            body["used_s"] = metered.used_s
        if metered.charged is not None:
            body["charged"] = metered.charged
        return self._post(JobView, f"/v1/jobs/{self._whole_id(job)}/resolve", body)

    def release(self, qpu: str, lease: str) -> None:
        """See `BrokerClient.release`."""
        self._ask("DELETE", "/v1/leases", params={"qpu": qpu, "lease": lease})

    def why(self, job: str) -> Explanation:
        """Return why a job waits, or went when it did. Raises `BrokerRefused`."""
        from orchestrator.broker.core.explain import Explanation

        return self._get(Explanation, f"/v1/jobs/{self._whole_id(job)}/why")

    def view(self, job: JobId) -> JobView:
        """See `BrokerClient.view`."""
        return self._get(JobView, f"/v1/jobs/{job}")

    def jobs(
        self, run: str | None = None, *, qpu: str | None = None, state: JobState | None = None
    ) -> list[JobView]:
        """Return the visible jobs of a run, on a QPU and in a state, in order of submission."""
        asked = {"limit": _MOST_JOBS, "run": run, "qpu": qpu, "state": state}
        return self._get(list[JobView], "/v1/jobs", **asked)

    def queue(self, qpu: str | None = None) -> list[JobView]:
        """Return the jobs that have not ended, in order of submission."""
        states = [state for state in JobState if not state.is_final]
        found = [job for state in states for job in self.jobs(qpu=qpu, state=state)]
        latest = {job.id: job for job in found}  # one may change its state between two requests
        return sorted(latest.values(), key=lambda job: job.submitted_at)

    def whoami(self) -> Whoami:
        """Return the caller as the service knows them."""
        return self._get(Whoami, "/v1/whoami")

    def health(self) -> Health:
        """Return the service's own report, also where it is failing; the token is not sent."""
        answer = self._ask("GET", "/health", any_status=True, anonymous=True)
        return self._read(Health, answer)

    def qpus(self) -> list[QpuStatus]:
        """Return the status of each QPU of the service."""
        return self._get(list[QpuStatus], "/v1/qpus")

    def readiness(self, qpu: str, *, qubits: int = 1, seconds: float = 0.0) -> QpuReadiness:
        """Return whether a QPU works, and has room for a job of this size; nothing is reserved."""
        place = f"/v1/qpus/{qpu}/readiness"
        return self._get(QpuReadiness, place, qubits=qubits, seconds=seconds)

    def drain(self, qpu: str, reason: str) -> QpuStatus:
        """Start nothing further on a QPU."""
        return self._post(QpuStatus, f"/v1/qpus/{qpu}/drain", {"reason": reason})

    def resume(self, qpu: str) -> QpuStatus:
        """Let a drained QPU take work again."""
        return self._post(QpuStatus, f"/v1/qpus/{qpu}/resume")

    def projects(self) -> list[ProjectUse]:
        """Return what each project used."""
        return self._get(list[ProjectUse], "/v1/projects")

    def limit_project(self, project: str, unit: str, amount: float | None) -> ProjectBudget:
        """Set a project's budget in one unit; None lifts it."""
        body = {"project": project, "unit": unit, "amount": amount}
        return self._post(ProjectBudget, "/v1/budgets/projects", body)

    def statement(
        self, project: str | None = None, month: str | None = None
    ) -> list[StatementLine]:
        """Return what projects were charged in a month such as ``2026-11``; None is this month."""
        return self._get(list[StatementLine], "/v1/statement", project=project, month=month)

    def named(self, job: str) -> JobView:
        """Return a job by its id or the unambiguous start of it. Raises `BrokerRefused`."""
        if is_job_id(job):
            return self.view(JobId(job))
        found = [known for known in self.jobs() if known.id.startswith(job)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise BrokerRefused(f"no job {job!r} that this user may see")
        listed = ", ".join(known.id for known in found[:5])
        raise BrokerRefused(f"job {job!r} is ambiguous: {listed}")

    def cancel_all(self) -> int:
        """Cancel the jobs this client still waits for; return how many were open."""
        with self._lock:
            jobs = sorted(self._open_jobs)
        return sum(self.cancel(job) for job in jobs)

    def close(self, *, resuming_s: float | None = None) -> None:
        """Cancel what this client still waits for, unless it resumes, and close its connections."""
        try:
            if resuming_s is None:
                self.cancel_all()
        except (BrokerRefused, BrokerUnreachable, BackendError) as error:
            _log.warning("open quantum jobs could not be cancelled: %s", error)
        self._exchange.close()

    def _whole_id(self, job: str) -> JobId:
        return JobId(job) if is_job_id(job) else self.named(job).id

    def _get(self, kind: type[_T], path: str, **params: Any) -> _T:
        given = {name: value for name, value in params.items() if value is not None}
        return self._read(kind, self._ask("GET", path, params=given))

    def _post(self, kind: type[_T], path: str, body: Mapping[str, Any] | None = None) -> _T:
        return self._read(kind, self._ask("POST", path, json=body))

    def _read(self, kind: type[_T], answer: httpx.Response) -> _T:
        try:
            found: _T = _adapter(kind).validate_json(answer.content)
        except ValidationError as error:
            raise BrokerRefused(
                f"the broker at {self.url} gave an answer that this version cannot read: "
                f"{error.errors()[0]['msg']}; use the same version of hpcqc on both sides"
            ) from None
        return found

    def _poll_s(self) -> float:
        """Return how long one request may wait: less where more jobs than connections wait."""
        with self._lock:
            waiting = len(self._open_jobs)
        share = _MOST_CONNECTIONS / 2 / max(1, waiting)
        return _POLL_S if share >= 1 else max(_SHORT_POLL_S, share * _POLL_S)

    def _settle(self, job: JobId) -> None:
        with self._lock:
            self._open_jobs.discard(job)


class _Patience:
    """How long to go on asking, and how often."""

    def __init__(self, seconds: float, url: str, proxy: str | None) -> None:
        self._until = time.monotonic() + seconds
        self._seconds, self._url = seconds, url
        self._hint = "" if proxy is None else f", or add its host to NO_PROXY ({proxy} is set)"
        self._pause_s = _FIRST_PAUSE_S

    def spend(
        self, reason: str, retry_after: str | None = None, refused: Exception | None = None
    ) -> None:
        """Sleep; after the deadline raise ``refused`` if it is given, else `BrokerUnreachable`."""
        pause_s = self._pause_s
        if retry_after is not None and retry_after.isdigit():
            pause_s = max(pause_s, float(retry_after))
        if time.monotonic() + pause_s > self._until:
            if refused is not None:
                raise refused
            raise BrokerUnreachable(
                f"no answer from the broker at {self._url} for {self._seconds:g} s ({reason}); "
                f"start it, or correct [broker] url{self._hint}. What it had accepted is not "
                "lost: run again with the same run id"
            )
        if self._pause_s >= 1.0:
            _log.warning("waiting for the broker at %s: %s", self._url, reason)
        time.sleep(pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)


def _error(answer: httpx.Response) -> Exception:
    detail, name = _detail(answer), str(_problem(answer).get("error_type") or "")
    if name == BudgetExhausted.__name__:
        return BudgetExhausted(detail)
    for kind in (AllocationEnded, DataRefused, JobUncertain):
        if name == kind.__name__:
            return kind(detail)
    error_type = getattr(api, name, None)
    if isinstance(error_type, type) and issubclass(error_type, BackendError):
        return error_type(detail)
    if answer.status_code == 413:
        return PayloadRejected(detail)
    return BrokerRefused(f"the broker refused: {detail}")


def _detail(answer: httpx.Response) -> str:
    problem = _problem(answer)
    return str(problem.get("detail") or f"HTTP {answer.status_code}")


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _native(answer: httpx.Response) -> Any:
    stated = answer.headers.get("content-digest")
    if stated is not None and stated != content_digest(answer.content):
        raise BrokerRefused("a result arrived damaged: it is not what its Content-Digest says")
    from backends.results import result_from_bytes

    return result_from_bytes(answer.content).native
