"""Numbers of the service for Prometheus: what waits, runs and was used, and how quick it is."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.broker.api.endpoints import Operator
from orchestrator.broker.api.problems import declared
from orchestrator.broker.core import events as ev
from orchestrator.broker.runtime.billing import limited_projects, project_budgets
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.event_loop import Commit
from orchestrator.identity import JobId

__all__ = ["BrokerMetrics", "RequestCount", "install_metrics", "router"]

_LAG_PAUSE_S = 0.1
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_COMMIT_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_STATES = ("online", "drained", "unavailable")

router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus's text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **declared(401, 403, 429, 503),
    },
)
async def metrics(_caller: Operator, request: Request) -> Response:
    """Return the numbers of this process in Prometheus's text format; for operators."""
    found: BrokerMetrics = request.app.state.metrics
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)


def install_metrics(app: FastAPI, broker: Broker) -> BrokerMetrics:
    """Count what the broker commits and the application answers; `Metrics.watch_lag` is extra."""
    found = BrokerMetrics(broker)
    broker.observers.append(found.observe)
    app.state.metrics = found
    app.include_router(router)
    app.add_middleware(RequestCount, requests=found.requests)
    return found


class BrokerMetrics:
    """The numbers of one application. Counters begin at 0 with the process, as Prometheus expects.

    What is open is read off the broker's state when it is asked for; that costs time for open
    work alone, however long the ledger is.
    """

    def __init__(self, broker: Broker) -> None:
        """Name all series in a registry of their own."""
        self.registry = CollectorRegistry()
        self._broker = broker
        made: dict[str, Any] = {"registry": self.registry, "namespace": "hpcqc"}
        self.requests = Counter(
            "http_requests", "Requests answered.", ("method", "route", "status"), **made
        )
        self._submissions = Counter("submissions", "Jobs taken in.", ("qpu", "project"), **made)
        self._ended = Counter("jobs_ended", "Jobs that ended.", ("qpu", "state"), **made)
        self._starts = Counter(
            "task_starts", "Tasks on a QPU: started, or found again.", ("qpu", "how"), **made
        )
        self._uncertain = Counter(
            "tasks_uncertain", "Tasks of which it was not known whether they ran.", ("qpu",), **made
        )
        self._qpu_seconds = Counter(
            "qpu_seconds", "QPU time used.", ("qpu", "project"), **made
        )  # the client library adds _total
        self._commits = Histogram(
            "commit_duration_seconds", "Time to make events durable.", buckets=_COMMIT_S, **made
        )
        self._events = Counter("events", "Events written to the ledger.", **made)
        self._failures = Counter("commit_failures", "Commits the ledger refused.", **made)
        self._lag = Histogram(
            "event_loop_lag_seconds",
            f"How late a timer of {_LAG_PAUSE_S} s was.",
            buckets=_LAG_S,
            **made,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is true at this moment; called by the registry."""
        jobs = GaugeMetricFamily("hpcqc_jobs", "Jobs that have not ended.", labels=("qpu", "state"))
        queue = GaugeMetricFamily(
            "hpcqc_queue_length", "Jobs with work that waits for the QPU.", labels=("qpu",)
        )
        tasks = GaugeMetricFamily(
            "hpcqc_open_tasks", "Tasks planned, running or uncertain.", labels=("qpu",)
        )
        states = GaugeMetricFamily(
            "hpcqc_qpu_state", "1 for the state the QPU is in.", labels=("qpu", "state")
        )
        for qpu in self._broker.qpus:
            for state, number in self._open_jobs(qpu).items():
                jobs.add_metric((qpu, state), number)
            status = self._broker.status(qpu)
            queue.add_metric((qpu,), status.queued)
            tasks.add_metric((qpu,), status.open)
            for state in _STATES:
                states.add_metric((qpu, state), status.state == state)
        yield from (jobs, queue, tasks, states, self._budgets())

    def _budgets(self) -> GaugeMetricFamily:
        left = GaugeMetricFamily(
            "hpcqc_budget_left", "What a project may still spend.", labels=("project", "unit")
        )
        for project in limited_projects(self._broker):
            for budget in project_budgets(self._broker, project):
                if budget.left is not None:
                    left.add_metric((project, budget.unit), budget.left)
        return left

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield nothing: what `collect` gives is not known before the broker is open."""
        yield from ()

    def observe(self, commit: Commit) -> None:
        """Count a commit and what it holds."""
        self._commits.observe(commit.duration_s)
        if commit.error is not None:
            self._failures.inc()
            return
        self._events.inc(len(commit.events))
        touched: dict[JobId, None] = {}
        for event in commit.events:
            touched |= dict.fromkeys(self._count(event))
        jobs = self._broker.service.state.jobs
        for job in touched:
            record = jobs.get(job)
            if record is not None and record.ended_at == commit.at:
                self._ended.labels(record.submitted.qpu, record.state.value).inc()

    async def watch_lag(self) -> None:
        """Measure the event loop until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_PAUSE_S
            await asyncio.sleep(_LAG_PAUSE_S)
            self._lag.observe(max(0.0, loop.time() - due))

    def _count(self, event: ev.Event) -> tuple[JobId, ...]:
        """Count an event; return the jobs that may have ended with it."""
        match event:
            case ev.JobSubmitted():
                self._submissions.labels(event.qpu, event.project).inc()
                return ()
            case ev.JobCancelRequested(job=job):
                return (job,)
            case ev.TaskStarted(tag=tag) | ev.TaskAdopted(tag=tag):
                how = "started" if isinstance(event, ev.TaskStarted) else "adopted"
                self._starts.labels(self._qpu(tag), how).inc()
                return ()
            case ev.TaskUncertain(tag=tag):
                self._uncertain.labels(self._qpu(tag)).inc()
                return ()
            case ev.TaskCompleted():
                return self._charge(event)
            case ev.TaskErred(tag=tag) | ev.TaskStopped(tag=tag) | ev.TaskResolved(tag=tag):
                task = self._broker.service.state.tasks.get(tag)
                return () if task is None else task.jobs
            case _:
                return ()

    def _charge(self, event: ev.TaskCompleted) -> tuple[JobId, ...]:
        state = self._broker.service.state
        task = state.tasks.get(event.tag)
        if task is None:
            return ()
        for job in task.jobs:
            record = state.jobs.get(job)
            project = "" if record is None else record.submitted.project
            used = event.usage.qpu_seconds * task.share(job)
            self._qpu_seconds.labels(task.planned.qpu, project).inc(max(used, 0.0))
        return task.jobs

    def _qpu(self, tag: str) -> str:
        task = self._broker.service.state.tasks.get(tag)
        return "" if task is None else task.planned.qpu

    def _open_jobs(self, qpu: str) -> Tally[str]:
        state = self._broker.service.state
        jobs = set(state.queued(qpu))
        jobs.update(job for tag in state.open_tasks(qpu) for job in state.tasks[tag].jobs)
        found = Tally({"queued": 0, "running": 0, "uncertain": 0})
        found.update(state.jobs[job].state.value for job in jobs if job in state.jobs)
        return found


class RequestCount:
    """Counts answers by method, route and status, outside everything else of the application."""

    def __init__(self, app: ASGIApp, requests: Counter) -> None:
        """Stand before an application."""
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0  # the client went away before an answer

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        except BaseException:
            status = status or 500
            raise
        finally:
            self._requests.labels(_method(scope), _route(scope), str(status)).inc()


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS") else "other"


def _route(scope: Scope) -> str:
    """Return the pattern of the route, never the address: a stranger must not name our series."""
    path = getattr(scope.get("route"), "path_format", None)
    if path is not None:
        return str(path)
    top = "/" + str(scope["path"]).lstrip("/").partition("/")[0]
    return top if top in ("/static", "/swagger") else "unmatched"
