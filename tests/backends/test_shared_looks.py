"""Many tasks of a site with a list of them: one request in a pause tells the states of all."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from backends import warden
from backends.analog.builder import RydbergPulse, rydberg_sequence
from backends.analog.devices import shipped_device
from backends.analog.waveforms import Waveform
from backends.api import QpuUnavailable, TaskState
from backends.payloads import AnalogPayload
from backends.shared_looks import SharedLooks
from tests.patience import PATIENCE_S

TASKS = 64


class Site:
    """States by job, and how often they were listed, on a clock of its own."""

    def __init__(self) -> None:
        self.now_s, self.lists, self.is_broken = 0.0, 0, False
        self.states: dict[str, str] = {}
        self.looks: SharedLooks[str] = SharedLooks(self.read, clock=lambda: self.now_s)

    def read(self, jobs: Sequence[str]) -> Mapping[str, str]:
        self.lists += 1
        if self.is_broken:
            raise QpuUnavailable("no list")
        return {job: self.states[job] for job in jobs if job in self.states}


def test_all_tasks_cost_one_request_in_a_pause() -> None:
    site, jobs = Site(), [str(number) for number in range(TASKS)]
    site.states = dict.fromkeys(jobs, "running")
    assert site.looks.look("0", "queued") is None, "one task is not worth a list"
    for job in jobs[1:]:
        site.looks.look(job, "queued")
    for _ in range(400):
        before, pause_s = site.lists, site.looks.pause_s
        for job in jobs:
            assert site.looks.look(job, "queued") in ("queued", "running")
        assert site.lists <= before + 1
        site.now_s += pause_s / 4
    assert site.lists <= 102
    site.now_s += 10
    site.states["7"] = "completed"
    assert [site.looks.look(job, "?") for job in jobs].count("completed") == 1


def test_what_a_list_does_not_say() -> None:
    site = Site()
    site.states = {"a": "running", "b": "running"}
    site.looks.look("a", "queued")
    assert site.looks.look("b", "queued") == "running"
    assert site.looks.look("c", "queued") == "queued", "it was started since the last list"
    site.now_s += 10
    assert site.looks.look("c", "queued") is None, "it is not listed, so it is asked for"
    site.looks.forget("b")
    site.looks.forget("c")
    assert site.looks.look("a", "running") is None


def test_without_a_list_tasks_are_asked_for_alone() -> None:
    site = Site()
    site.is_broken = True
    for _ in range(50):
        assert [site.looks.look(job, "queued") for job in "abc"] == [None] * 3
        site.now_s += 1
    assert site.lists == 1
    site.is_broken, site.states = False, dict.fromkeys("abc", "running")
    site.now_s += 60
    assert [site.looks.look(job, "queued") for job in "abc"] == ["running"] * 3


@contextmanager
def wardens_jobs(ends_after: int) -> Iterator[tuple[str, Counter[str]]]:
    """Serve a Warden whose jobs all end when they were listed so often; count its requests."""
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path).path.strip("/").split("/")
            with lock:
                call = (
                    parts[0] if len(parts) > 1 else {"GET": "list", "POST": "submit"}[self.command]
                )
                seen[call] += 1
                has_ended = seen["list"] >= ends_after
            if parts == ["qpu", "specs"]:
                body: object = {"specs": shipped_device("analog").specification}
            elif call == "submit":
                body = {"id": seen["submit"]}
            elif call == "list":
                body = [job(number, has_ended) for number in range(1, TASKS + 1)]
            else:
                body = job(int(parts[1]), has_ended)
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - as the handler names methods

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Requests) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()


def job(number: int, has_ended: bool) -> Mapping[str, object]:
    if not has_ended:
        return {"id": number, "status": "RUNNING"}
    return {"id": number, "status": "DONE", "results": json.dumps({"counter": {"00": 10}})}


@pytest.mark.slow  # 64 threads wait
def test_64_tasks_at_a_warden_are_listed_and_not_asked_for_one_by_one(tmp_path: Path) -> None:
    device = shipped_device("analog")
    pulse = RydbergPulse(
        amplitude=Waveform.constant(400, 1.0), detuning=Waveform.constant(400, 0.0)
    )
    payload = AnalogPayload.coerce([rydberg_sequence([(0, 0), (6, 0)], [pulse], device)], shots=10)
    with wardens_jobs(ends_after=5) as (url, seen):
        options = {"url": url, "session": "s", "device": "analog", "token": "secret"}
        backend = warden.create(options, state_dir=tmp_path)
        session = backend.acquire()
        tasks = [backend.start(session, payload, f"t{number}") for number in range(TASKS)]

        def waited(task: str) -> TaskState:
            while True:
                state = backend.wait(task, PATIENCE_S)
                if state.is_final:
                    return state

        with ThreadPoolExecutor(TASKS) as threads:
            assert set(threads.map(waited, tasks)) == {TaskState.COMPLETED}
        assert backend.result(tasks[-1]).native[0].counts == {"00": 10}
        backend.close()
    assert seen["list"] >= 5
    assert seen["jobs"] <= TASKS + 1, "once each, for its end, and the first alone"
