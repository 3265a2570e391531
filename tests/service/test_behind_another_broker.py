"""A QPU behind another site's broker, a real process, which is killed, paused and cut off."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from backends.api import AccessDenied, QpuUnavailable, TaskCancelled, TaskFailed
from backends.hpcqc import create
from backends.plugins import PluginUnusable
from backends.secret_text import SecretText
from orchestrator.broker.client.protocol import JobUncertain
from orchestrator.broker.core.views import JobState
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.broker.runtime.pacing import STANDARD_PACING, Pacing
from orchestrator.config.qpu_tables import QpuSettings
from tests.patience import PATIENCE_S, until
from tests.service.calls import bell, call, counts
from tests.service.conftest import Service, Start

pytestmark = pytest.mark.slow  # each test starts a service


class Line:
    """What lies between two sites: it passes requests on, to whichever port the far broker has.

    lose: how many answers to submissions get lost after the far broker gave them. drop: likewise,
    of submissions that never arrive. starts: submissions that arrived.
    """

    def __init__(self, far: Service) -> None:
        self.far, self.lose, self.drop, self.starts = far, 0, 0, 0
        self.url = ""

    def passed_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> httpx.Response | None:
        starts = handler.command == "POST" and handler.path == "/v1/jobs"
        if starts and self.drop > 0:
            self.drop -= 1
            return None
        kept = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "connection")}
        try:
            answer = httpx.request(
                handler.command,
                self.far.url + handler.path,
                content=body,
                headers=kept,
                timeout=PATIENCE_S,
                trust_env=False,
            )
        except (httpx.RequestError, httpx.UnsupportedProtocol):
            return None
        if starts:
            self.starts += 1
            if self.lose > 0:
                self.lose -= 1
                return None
        return answer


@contextmanager
def line_to(far: Service) -> Iterator[Line]:
    line = Line(far)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = line.passed_on(self, body)
            if answer is None:
                return  # and the connection is closed without a word
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        line.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield line
        finally:
            server.shutdown()


class Sites:
    """A broker of this site, whose QPU q is the far broker's fake."""

    def __init__(self, far: Service, line: Line, folder: Path) -> None:
        self.far, self.line = far, line
        self._folder = folder
        self._near: list[EmbeddedBroker] = []
        self.token = folder / "token"
        self.entry = self.renewed()
        self.options = {
            "url": line.url,
            "token": SecretText.read_from(str(self.token), "unused"),
            "qpu": "fake",
        }

    def renewed(self):
        entry, secret = self.far.tokens.add("site-a", "user", ["partners"], now=datetime.now(UTC))
        self.token.write_text(secret)
        self.token.chmod(0o600)
        return entry

    def near(
        self, pacing: Pacing = STANDARD_PACING, accepts: Sequence[str] = (), **options
    ) -> EmbeddedBroker:
        options = {**self.options, **options}
        folder = self._folder / "q"
        folder.mkdir(exist_ok=True)
        broker = EmbeddedBroker(
            run="run",
            state_dir=self._folder,
            open_backend=lambda name: create(options, state_dir=folder),
            qpus={"q": QpuSettings(name="q", backend="hpcqc", options=options, accepts=[*accepts])},
            pacing=pacing,
        )
        self._near.append(broker)
        return broker.open()

    def backend(self, **options):
        folder = self._folder / "alone"
        folder.mkdir(exist_ok=True)
        return create({**self.options, **options}, state_dir=folder)

    def far_jobs(self):
        operator = self.far.client()
        found = operator.jobs()
        operator.close()
        return found

    def close(self) -> None:
        for broker in self._near:
            broker.close()


@contextmanager
def sites(start: Start, tmp_path: Path, **far_options: str) -> Iterator[Sites]:
    far = start("far", **far_options)
    with line_to(far) as line:
        both = Sites(far, line, tmp_path)
        try:
            yield both
        finally:
            both.close()


def job_of(number: int = 0):
    return call(number, qpu="q", run="run")


def test_a_job_runs_once_and_is_charged_alike_at_both_sites(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path) as both:
        near = both.near()
        job = near.submit(job_of(), bell())
        assert sum(counts(near.result(job, PATIENCE_S)).values()) == 100
        here, (there,) = near.view(job), both.far_jobs()
        assert set(both.far.starts().values()) == {1}
        assert (there.project, there.user) == ("partners", "site-a")
        assert here.usage == there.usage
        assert here.tasks[0].qpu_task == f"hpcqc:{there.id}"
        assert here.tasks[0].metadata["remote_job"] == there.id


def test_a_lost_answer_is_looked_up(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path) as both:
        both.line.lose = 1
        near = both.near()
        job = near.submit(job_of(), bell())
        assert sum(counts(near.result(job, PATIENCE_S)).values()) == 100
        assert both.line.starts == 1
        assert list(both.far.starts().values()) == [1]
        assert len(both.far_jobs()) == 1


def test_a_request_that_never_arrived_is_sent_again(start_service, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("backends.hpcqc.backend._IN_FLIGHT_S", 0.2)
    with sites(start_service, tmp_path) as both:
        both.line.drop = 1
        near = both.near()
        job = near.submit(job_of(), bell())
        assert sum(counts(near.result(job, PATIENCE_S)).values()) == 100
        assert list(both.far.starts().values()) == [1]


def test_a_start_that_may_still_arrive_is_not_said_to_be_none(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path) as both:
        backend = both.backend()
        both.line.drop = 1
        session = backend.acquire()
        with pytest.raises(QpuUnavailable):
            backend.start(session, bell(), "t")
        with pytest.raises(QpuUnavailable):
            backend.find("t")
        task = backend.start(session, bell(), "t")
        assert backend.find("t") == task
        backend.close()


def test_the_far_broker_is_killed_and_started_again(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path, options="run_s = 1.0") as both:
        near = both.near()
        job = near.submit(job_of(), bell())
        until(both.far.starts)
        both.far.kill()
        both.far.start()
        assert sum(counts(near.result(job, PATIENCE_S)).values()) == 100
        assert list(both.far.starts().values()) == [1]
        assert near.view(job).usage == both.far_jobs()[0].usage


def test_this_broker_dies_and_finds_its_task_again(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path, options="run_s = 1.0") as both:
        first = both.backend()
        task = first.start(first.acquire(), bell(), "t")
        first.close()
        second = both.backend()
        assert second.find("t") == task
        assert second.start(second.acquire(), bell(), "t") == task
        until(lambda: second.status(task).is_final)
        assert sum(counts(second.result(task).native).values()) == 100
        assert list(both.far.starts().values()) == [1]
        second.close()


def test_a_token_that_is_revoked_and_replaced(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path, options="run_s = 1.0") as both:
        near = both.near()
        job = near.submit(job_of(), bell())
        until(both.far.starts)
        both.far.tokens.revoke(both.entry.id)
        with pytest.raises(AccessDenied):  # at once, or when the broker starts it
            near.result(near.submit(job_of(1), bell()), PATIENCE_S)
        both.renewed()
        assert sum(counts(near.result(job, PATIENCE_S)).values()) == 100
        assert list(both.far.starts().values()) == [1]


def test_a_drained_far_queue_keeps_work_waiting(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path) as both:
        near = both.near()
        operator = both.far.client()
        operator.drain("fake", "maintenance")
        job = near.submit(job_of(), bell())
        until(both.far_jobs)
        until(lambda: near.view(job).tasks)
        assert both.far.starts() == {}
        assert not near.view(job).state.is_final
        operator.resume("fake")
        operator.close()
        assert sum(counts(near.result(job, PATIENCE_S)).values()) == 100


def test_cancelling_here_cancels_there(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path, options="run_s = 600.0") as both:
        near = both.near()
        job = near.submit(job_of(), bell())
        until(both.far.starts)
        assert near.cancel(job)
        with pytest.raises(TaskCancelled):
            near.result(job, PATIENCE_S)
        assert both.far_jobs()[0].state is JobState.CANCELLED


def test_a_spent_budget_of_the_far_site_is_said(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path) as both:
        operator = both.far.client()
        operator.limit_project("partners", "qpu-s", 0.0)
        operator.close()
        near = both.near()
        job = near.submit(job_of(), bell())
        with pytest.raises((AccessDenied, TaskFailed), match="budget"):
            near.result(job, PATIENCE_S)
        assert both.far.starts() == {}


def test_labels_travel_and_hold_at_the_far_site(start_service, tmp_path) -> None:
    with sites(start_service, tmp_path, rules='jurisdictions = ["EU"]') as both:
        near = both.near(accepts=["jurisdiction:EU", "personal"])
        done = near.submit(replace(job_of(), labels=("jurisdiction:EU",)), bell())
        assert sum(counts(near.result(done, PATIENCE_S)).values()) == 100
        (there,) = both.far_jobs()
        assert there.labels == near.view(done).labels == ("jurisdiction:EU",)
        job = near.submit(replace(job_of(1), labels=("jurisdiction:EU", "personal")), bell())
        with pytest.raises(AccessDenied, match="personal"):
            near.result(job, PATIENCE_S)
        assert len(both.far.starts()) == 1
        assert both.line.starts == 1, "nothing was sent"


def test_what_the_far_site_does_not_know_is_uncertain_here(start_service, tmp_path) -> None:
    far = 'can_find = false, faults = [{ call = "start", kind = "lost", on = [1] }]'
    with sites(start_service, tmp_path, options=far) as both:
        near = both.near(pacing=Pacing(unread_looks=3, doubtful_s=0.05))
        job = near.submit(job_of(), bell())
        with pytest.raises(JobUncertain):
            near.result(job, PATIENCE_S)
        operator = both.far.client()
        operator.resolve(both.far_jobs()[0].id, "not-started", "the log says so")
        operator.close()
        until(lambda: near.view(job).state.is_final)
        assert sum(counts(near.result(job, PATIENCE_S)).values()) == 100


def test_a_broker_of_the_same_machine_is_reached_by_its_socket(start_service, tmp_path) -> None:
    far = start_service("far")
    (tmp_path / "q").mkdir()
    backend = create({"url": far.socket, "qpu": "fake"}, state_dir=tmp_path / "q")
    task = backend.start(backend.acquire(), bell(), "t")
    until(lambda: backend.status(task).is_final)
    assert sum(counts(backend.result(task).native).values()) == 100
    backend.close()
    assert list(far.starts().values()) == [1]
    with pytest.raises(PluginUnusable, match="url"):
        create({"url": "unix:broker.sock", "qpu": "fake"}, state_dir=tmp_path / "q")
