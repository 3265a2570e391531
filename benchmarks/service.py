"""What the broker costs as a service: submissions a second, a call's way, a queue's pauses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backends.fake import create
from backends.payloads import SamplerPayload
from benchmarks.bell import bell
from benchmarks.rows import Row, interleaved
from benchmarks.setting import ROOT, scratch_run
from orchestrator import open_qpu
from orchestrator.broker.client import Call
from orchestrator.broker.operator import OperatorClient
from orchestrator.broker.remote import RemoteBroker

__all__ = ["measure"]

_CLIENTS = 8
_SUBMISSIONS = 150
_JOBS = 100
_RUN_S = 0.02
_MS = 1e3
_SERVE = (sys.executable, "-m", "orchestrator.cli", "broker", "serve")

_SITE = """
[site]
default_qpu = "aer"

[qpu.aer]
backend = "aer"

[qpu.device]
backend = "fake"
options = {{ run_s = {run_s} }}
"""


def measure() -> list[Row]:
    """Measure a service in a process of its own over a Unix socket, with clients in others."""
    with _service() as url:
        client = RemoteBroker(url).open()
        with OperatorClient(url, token=None) as operator:
            operator.change_qpu("device", "drain", {"reason": "only submissions"})
            rate = _spread(url, "submit", _SUBMISSIONS)
            operator.change_qpu("device", "resume", None)
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
            _back_to_back(url),
        ]
        client.close()
    return rows


@contextmanager
def _service() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as name:
        folder = Path(name)
        (folder / "site.toml").write_text(_SITE.format(run_s=_RUN_S))
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
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HPCQC_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(ROOT)}


def _payload() -> SamplerPayload:
    return SamplerPayload.coerce([bell()], shots=100, seed=1)


def _back_to_back(url: str) -> Row:
    """Compare the rate through the service with the device's own, one task after another."""
    with tempfile.TemporaryDirectory() as folder:
        backend = create({"run_s": _RUN_S}, state_dir=Path(folder))
        session, payload = backend.acquire(), _payload()
        start = time.perf_counter()
        for number in range(_JOBS):
            task = backend.start(session, payload, f"t{number}")
            while not backend.status(task).is_final:
                time.sleep(0.0005)
            backend.result(task)
        own = _JOBS / (time.perf_counter() - start)
    rate = _spread(url, "result", _JOBS // _CLIENTS)
    return Row(
        name=f"{_JOBS // _CLIENTS * _CLIENTS} small jobs from {_CLIENTS} clients, to their results",
        ours=f"{rate:.1f}/s",
        against=f"{own:.1f}/s",
        what=f"the device itself, {_RUN_S * _MS:.0f} ms a task, back to back",
        ratio=rate / own,
        goal="≥ 0.95 of it",
        met=rate >= 0.95 * own,
    )


def _warm_call(url: str) -> Row:
    client = RemoteBroker(url).open()
    payload, number = SamplerPayload.coerce([bell()], shots=1024), iter(range(10**6))

    def through() -> None:
        call = Call(run="warm", stage=None, occurrence=next(number), qpu="aer")
        client.result(client.submit(call, payload))

    with scratch_run("service"):
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


def _spread(url: str, verb: str, each: int) -> float:
    """Return jobs per second of several client processes that begin together."""
    command = [sys.executable, "-m", "benchmarks.service", url, verb, str(each)]
    clients = [
        subprocess.Popen(
            [*command, str(n)],
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

    def run(self) -> None:
        client, payload = RemoteBroker(self.url).open(), _payload()
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.time()
        for n in range(self.each):
            run = f"{self.verb}-{self.number}"
            job = client.submit(Call(run=run, stage=None, occurrence=n, qpu="device"), payload)
            if self.verb == "result":
                client.result(job)
        print(json.dumps([start, time.time()]), flush=True)


if __name__ == "__main__":
    _Client(url=sys.argv[1], verb=sys.argv[2], each=int(sys.argv[3]), number=int(sys.argv[4])).run()
