"""Metrics of the service for Prometheus: work that waits and runs, use, and response times."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.broker.api.budgets import limited_projects, project_budgets
from orchestrator.broker.api.endpoints import Operator
from orchestrator.broker.api.problems import declared
from orchestrator.broker.core import events as ev
from orchestrator.broker.runtime.broker import Broker
from orchestrator.broker.runtime.event_loop import Commit
from orchestrator.identity import JobId

__all__ = ["BrokerMetrics", "RequestCount", "install_metrics", "router"]

_LAG_PAUSE_S = 0.1
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_COMMIT_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS")
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
    registry = request.app.state.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def install_metrics(app: FastAPI, broker: Broker) -> BrokerMetrics:
    """Count the broker's commits and the application's answers; `watch_lag` is the caller's task."""
    metrics = app.state.metrics = BrokerMetrics(broker)
    broker.observers.append(metrics.observe)
    app.include_router(router)
    app.add_middleware(RequestCount, requests=metrics.requests)
    return metrics


class BrokerMetrics:
    """The metrics of one application; counters begin at 0 with the process, as in Prometheus."""

    def __init__(self, broker: Broker) -> None:
        self.registry = CollectorRegistry()
        self._broker = broker
        made: dict[str, Any] = {"registry": self.registry, "namespace": "hpcqc"}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, **made)  # the client library adds _total

        self.requests = counter("http_requests", "Requests answered.", "method", "route", "status")
        self._submissions = counter("submissions", "Jobs accepted.", "qpu", "project")
        self._ended = counter("jobs_ended", "Jobs that ended.", "qpu", "state")
        self._starts = counter("task_starts", "Tasks on a QPU: started, or adopted.", "qpu", "how")
        self._uncertain = counter("tasks_uncertain", "Tasks that became uncertain.", "qpu")
        self._qpu_seconds = counter("qpu_seconds", "QPU time used.", "qpu", "project")
        self._events = counter("events", "Events written to the ledger.")
        self._failures = counter("commit_failures", "Commits the ledger refused.")
        text = "Time to make events durable."
        self._commits = Histogram("commit_duration_seconds", text, buckets=_COMMIT_S, **made)
        text = f"How late a timer of {_LAG_PAUSE_S} s was."
        self._lag = Histogram("event_loop_lag_seconds", text, buckets=_LAG_S, **made)
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the gauges at each scrape of the registry; costs time for open work alone."""
        jobs = _gauge("jobs", "Jobs that have not ended.", "qpu", "state")
        queue = _gauge("queue_length", "Jobs with work that waits for the QPU.", "qpu")
        tasks = _gauge("open_tasks", "Tasks planned, running or uncertain.", "qpu")
        states = _gauge("qpu_state", "1 for the state the QPU is in.", "qpu", "state")
        works = _gauge("qpu_operational", "1 if the QPU works, 0 if not, NaN if unknown.", "qpu")
        room = _gauge(
            "qpu_has_room", "1 if a job would start now, 0 if not, NaN if unknown.", "qpu"
        )
        age = _gauge("qpu_answer_age_seconds", "Since the broker heard of the QPU.", "qpu")
        slots = _gauge("qpu_slots", "Tasks that the QPU takes at once, NaN if unknown.", "qpu")
        ages = _gauge("qpu_fact_age_seconds", "Since a fact was obtained.", "qpu", "fact")
        left = _gauge("budget_left", "What a project may still spend.", "project", "unit")
        for qpu in self._broker.qpus:
            for state, number in self._open_jobs(qpu).items():
                jobs.add_metric((qpu, state), number)
            status = self._broker.status(qpu)
            queue.add_metric((qpu,), status.queued)
            tasks.add_metric((qpu,), status.open)
            for state in _STATES:
                states.add_metric((qpu, state), status.state == state)
            ready = self._broker.readiness(qpu)
            for gauge, answer in ((works, ready.operational), (room, ready.has_room)):
                gauge.add_metric((qpu,), float("nan") if answer is None else float(answer))
            age.add_metric((qpu,), float("nan") if ready.age_s is None else ready.age_s)
            slots.add_metric((qpu,), float("nan") if ready.slots is None else ready.slots)
            for fact in ready.sources:
                fact_age_s = ready.age_of(fact)
                ages.add_metric((qpu, fact), float("nan") if fact_age_s is None else fact_age_s)
        for project in limited_projects(self._broker):
            for budget in project_budgets(self._broker, project):
                if budget.left is not None:
                    left.add_metric((project, budget.unit), budget.left)
        return (jobs, queue, tasks, states, works, room, age, slots, ages, left)

    def observe(self, commit: Commit) -> None:
        """Count a commit, its events and the jobs that ended with it."""
        self._commits.observe(commit.duration_s)
        if commit.error is not None:
            self._failures.inc()
            return
        self._events.inc(len(commit.events))
        jobs = dict.fromkeys(job for event in commit.events for job in self._count(event))
        for job in jobs:
            record = self._broker.events.state.jobs.get(job)
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
        state = self._broker.events.state
        task = state.tasks.get(getattr(event, "tag", ""))
        qpu = "" if task is None else task.planned.qpu
        match event:
            case ev.JobSubmitted(job=job):
                self._submissions.labels(event.qpu, event.project).inc()
                return (job,)  # one that reuses a result ends at once
            case (
                ev.JobResumed(job=job)
                | ev.JobRefused(job=job)
                | ev.JobFailedOver(job=job)
                | ev.JobCancelRequested(job=job)
            ):
                return (job,)
            case ev.QpuRecalibrated() | ev.GrantEnded():
                return tuple(j for j, one in state.jobs.items() if one.submitted.qpu == event.qpu)
            case ev.TaskStarted():
                self._starts.labels(qpu, "started").inc()
            case ev.TaskAdopted():
                self._starts.labels(qpu, "adopted").inc()
            case ev.TaskUncertain():
                self._uncertain.labels(qpu).inc()
            case ev.TaskCompleted() | ev.TaskResolved() if task is not None:
                for job in task.jobs:
                    record = state.jobs.get(job)
                    project = "" if record is None else record.submitted.project
                    used_s = max(event.usage.qpu_seconds * task.share(job), 0.0)
                    self._qpu_seconds.labels(qpu, project).inc(used_s)
        return () if task is None else task.jobs

    def _open_jobs(self, qpu: str) -> Tally[str]:
        state = self._broker.events.state
        jobs = set(state.queued(qpu))
        jobs.update(job for tag in state.open_tasks(qpu) for job in state.tasks[tag].jobs)
        numbers = Tally({"queued": 0, "running": 0, "uncertain": 0})
        numbers.update(state.jobs[job].state.value for job in jobs if job in state.jobs)
        return numbers


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"hpcqc_{name}", text, labels=labels)


class RequestCount:
    """Counts answers by method, route and status, outside everything else of the application."""

    def __init__(self, app: ASGIApp, requests: Counter) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0  # the client disconnected before an answer

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except BaseException:
            status = status or 500
            raise
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._requests.labels(method, _route(scope), str(status)).inc()


def _route(scope: Scope) -> str:
    """Return the pattern of the route, never the path: a client must not name our series."""
    path = getattr(scope.get("route"), "path_format", None)
    if path is not None:
        return str(path)
    top = "/" + str(scope["path"]).lstrip("/").partition("/")[0]
    return top if top in ("/static", "/swagger") else "unmatched"
