"""What the broker costs as a service: submissions a second, a call's way, a queue's pauses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from backends.fake import create
from backends.payloads import SamplerPayload
from benchmarks.bell import bell
from benchmarks.rows import Row, interleaved
from benchmarks.setting import ROOT, scratch_run
from hpcqc import open_qpu
from orchestrator.broker.client.http import Exchange, RemoteBroker
from orchestrator.broker.core.job_request import JobRequest

__all__ = ["measure"]

_CLIENTS = 8
_SUBMISSIONS = 150
# Seconds a task takes on each device, and how many jobs of it are measured.
_DEVICES = {"device": (0.02, 96), "slower": (0.2, 48)}
_MS = 1e3
_WAITING = 64
_WAIT_S = 10
_STALL_S = 0.05
_SERVE = (sys.executable, "-m", "orchestrator.cli", "broker", "serve")

_SITE = """
[site]
default_qpu = "aer"

[qpu.aer]
backend = "aer"

"""
_DEVICE = """
[qpu.{name}]
backend = "fake"
options = {{ run_s = {run_s} }}
"""


def measure() -> list[Row]:
    """Measure a service in a process of its own over a Unix socket, with clients in others."""
    with _service() as (url, pid):
        waiting = _waiting(url, pid)  # first: later its memory would be what others have left
        client = RemoteBroker(url).open()
        with closing(RemoteBroker(url)) as operator:
            operator.drain("device", "only submissions")
            rate = _spread(url, "submit", _SUBMISSIONS)
            operator.resume("device")
        _wait_until_done(client)
        rows = [
            Row(
                name=f"durable submissions over HTTP, {_CLIENTS} clients",
                ours=f"{rate:.0f}/s",
                against="–",
                what="SQLite, group commit, synced",
                ratio=None,
                goal="≥ 600/s",
                met=rate >= 600,
            ),
            _warm_call(url),
            *(_back_to_back(url, device) for device in _DEVICES),
        ]
        client.close()
    return rows + waiting


@contextmanager
def _service() -> Iterator[tuple[str, int]]:
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as name:
        folder = Path(name)
        devices = (_DEVICE.format(name=name, run_s=run_s) for name, (run_s, _) in _DEVICES.items())
        (folder / "site.toml").write_text(_SITE + "".join(devices))
        url = f"unix:{folder / 'b.sock'}"
        process = subprocess.Popen(
            [*_SERVE, "--listen", url, "--site", str(folder / "site.toml")],
            env=_environment(folder),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
        try:
            yield url, process.pid
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HPCQC_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(ROOT)}


def _payload() -> SamplerPayload:
    return SamplerPayload.coerce([bell()], shots=100, seed=1)


def _back_to_back(url: str, device: str) -> Row:
    """Compare the rate through the service with the device's own, one task after another."""
    run_s, jobs = _DEVICES[device]
    with tempfile.TemporaryDirectory() as folder:
        backend = create({"run_s": run_s}, state_dir=Path(folder))
        session, payload = backend.acquire(), _payload()
        start = time.perf_counter()
        for number in range(jobs):
            task = backend.start(session, payload, f"t{number}")
            while not backend.status(task).is_final:
                time.sleep(0.0005)
            backend.result(task)
        own = jobs / (time.perf_counter() - start)
    rate = _spread(url, "result", jobs // _CLIENTS, device)
    lost_ms = (1 / rate - 1 / own) * _MS
    return Row(
        name=f"{jobs} small jobs from {_CLIENTS} clients, to their results",
        ours=f"{rate:.1f}/s",
        against=f"{own:.1f}/s",
        what=f"the device itself, {run_s * _MS:.0f} ms a task, back to back ({lost_ms:.1f} ms more a task)",
        ratio=rate / own,
        goal="≥ 0.95 of it",
        met=rate >= 0.95 * own,
    )


def _warm_call(url: str) -> Row:
    client = RemoteBroker(url).open()
    payload, number = SamplerPayload.coerce([bell()], shots=1024), iter(range(10**6))

    def through() -> None:
        call = JobRequest(run="warm", stage=None, call=next(number), qpu="aer")
        client.result(client.submit(call, payload))

    with scratch_run("warm-call"):
        sampler = open_qpu("aer").sampler()
        served_s, own_s = interleaved(
            [through, lambda: sampler.run([bell()], shots=1024).result()], rounds=150, warmup=20
        )
    client.close()
    over_ms = (served_s - own_s) * _MS
    return Row(
        name="warm Bell sampler call through the service",
        ours=f"{served_s * _MS:.2f} ms",
        against=f"{own_s * _MS:.2f} ms",
        what="the embedded broker",
        ratio=served_s / own_s,
        goal=f"≤ 6 ms more (is {over_ms:+.2f} ms)",
        met=over_ms <= 6,
    )


def _waiting(url: str, pid: int) -> list[Row]:
    """Let many calls wait at once; look at the event loop's pauses and at the process's memory."""
    client, process = RemoteBroker(url).open(), psutil.Process(pid)
    with closing(RemoteBroker(url)) as operator, ThreadPoolExecutor(_WAITING) as threads:
        operator.drain("device", "calls are to wait")
        payload = _payload()
        calls = (JobRequest(run="wait", stage=None, call=n, qpu="device") for n in range(_WAITING))
        jobs = [client.submit(call, payload) for call in calls]
        memory, before = process.memory_info().rss, _pauses(url)
        results = [threads.submit(client.result, job) for job in jobs]
        time.sleep(_WAIT_S)
        memory, after = process.memory_info().rss - memory, _pauses(url)
        operator.resume("device")
        for result in results:
            result.result(60)
    client.close()
    longer = [bound for bound in after if after[bound] > before[bound]]
    stalled = sum(after[bound] - before[bound] for bound in longer if bound > _STALL_S)
    return [
        Row(
            name=f"pauses of the event loop over 50 ms in {_WAIT_S} s with {_WAITING} waiting calls",
            ours=f"{stalled:.0f} (all below {max(longer) * _MS:g} ms)",
            against="–",
            what="looked at ten times a second",
            ratio=None,
            goal="none",
            met=stalled == 0,
        ),
        Row(
            name="memory of the service per waiting call",
            ours=f"{memory / _WAITING / 1024:.0f} KiB",
            against="–",
            what="its connection included",
            ratio=None,
            goal="stated",
            met=None,
        ),
    ]


def _pauses(url: str) -> dict[float, float]:
    """Return how often the event loop was late, by the upper bound of how late, in seconds."""
    exchange = Exchange(url, token=None, patience_s=10)
    told = exchange.ask("GET", "/metrics").text
    exchange.close()
    counts, lower = {}, 0.0
    for family in text_string_to_metric_families(told):
        for sample in family.samples:
            if sample.name == "hpcqc_event_loop_lag_seconds_bucket":
                counts[float(sample.labels["le"])] = sample.value - lower
                lower = sample.value
    return counts


def _spread(url: str, verb: str, each: int, qpu: str = "device") -> float:
    """Return jobs per second of several client processes that begin together."""
    command = [sys.executable, "-m", "benchmarks.service", url, verb, str(each)]
    clients = [
        subprocess.Popen(
            [*command, str(n), qpu],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(_CLIENTS)
    ]
    for process in clients:
        assert process.stdout is not None
        process.stdout.readline()  # it is ready
    for process in clients:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    spans = [json.loads(process.communicate()[0].splitlines()[-1]) for process in clients]
    whole = max(end for _, end in spans) - min(start for start, _ in spans)
    return each * _CLIENTS / whole


def _wait_until_done(client: RemoteBroker) -> None:
    """Wait until the jobs that were only submitted are done."""
    while any(not job.state.is_final for job in client.jobs()):
        time.sleep(0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Client:
    url: str
    verb: str
    each: int
    number: int
    qpu: str

    def run(self) -> None:
        client, payload = RemoteBroker(self.url).open(), _payload()
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.time()
        for n in range(self.each):
            run = f"{self.verb}-{self.number}"
            job = client.submit(JobRequest(run=run, stage=None, call=n, qpu=self.qpu), payload)
            if self.verb == "result":
                client.result(job)
        print(json.dumps([start, time.time()]), flush=True)


if __name__ == "__main__":
    address, what, count, which, device = sys.argv[1:]
    _Client(url=address, verb=what, each=int(count), number=int(which), qpu=device).run()
