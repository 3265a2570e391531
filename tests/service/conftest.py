"""A broker service in a process of its own, on a Unix socket and a port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.broker.api.tokens import TokenFile
from orchestrator.broker.client.http import RemoteBroker
from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]

SITE = """
[site]
default_qpu = "fake"
default_compute = "local"

[compute.local]
workers = 1

[qpu.fake]
backend = "fake"
options = {{ durable = true, {options} }}
{rules}

[qpu.aer]
backend = "aer"

[qpu.vlq]
backend = "aer"
profile = "vlq"
time_scale = 0

[broker]
{broker}
"""


class ServiceEnded(Exception):
    """The process ended before it was ready; what it wrote."""


@dataclass(eq=False)
class Service:
    """A broker service under test.

    state: its folder; url: over TCP, which asks for tokens; place: of its socket, if another.
    files: how many descriptors the process may have. more: arguments of its command.
    packages: a folder of packages that it can import, too.
    """

    state: Path
    site: Path
    process: subprocess.Popen[str] | None = None
    url: str = ""
    log: list[str] = field(default_factory=list)
    place: Path | None = None
    files: int | None = None
    more: Sequence[str] = ()
    packages: Path | None = None

    @property
    def socket(self) -> str:
        return f"unix:{self.place or self.state / 'broker.sock'}"

    @property
    def tokens(self) -> TokenFile:
        return TokenFile(self.state / "tokens.json")

    def start(self) -> Service:
        arguments = ["--site", str(self.site), "--listen", self.socket, "--listen", "127.0.0.1:0"]
        arguments += self.more
        path = os.pathsep.join(map(str, filter(None, (ROOT, self.packages))))
        limited = ["prlimit", f"--nofile={self.files}"] if self.files else []
        self.process = subprocess.Popen(
            [*limited, sys.executable, "-m", "orchestrator.cli", "broker", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "HPCQC_STATE_DIR": str(self.state)},
        )
        assert self.process.stdout is not None
        while not self.url or "ready" not in self.log[-1]:
            line = self.process.stdout.readline()
            if not line:
                self.process.communicate(timeout=PATIENCE_S)
                raise ServiceEnded("".join(self.log))
            self.log.append(line)
            if " at http://" in line:
                self.url = line.split(" at ")[1].strip()
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE_S)
        self.url = ""

    def stop(self) -> int:
        """End it as an operator would; return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        self.log += out.splitlines(keepends=True)
        self.url = ""
        return self.process.returncode

    def client(self, **options: object) -> RemoteBroker:
        return RemoteBroker(self.socket, **options).open()  # type: ignore[arg-type]

    def starts(self) -> dict[str, int]:
        """Return how often each tag really began on the fake QPU."""
        log = self.state / "qpus" / "fake" / "fake" / "starts.log"
        return dict(Counter(log.read_text().split())) if log.exists() else {}


Start = Callable[..., Service]


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Start]:
    """Start services, each on a state folder; the same name again is the same folder."""
    started: list[Service] = []

    def start(
        name: str = "service",
        *,
        options: str = "run_s = 0.0",
        rules: str = "",
        broker: str = "",
        files: int | None = None,
        more: Sequence[str] = (),
    ) -> Service:
        state = tmp_path / name
        state.mkdir(exist_ok=True)
        site = tmp_path / f"{name}.toml"
        site.write_text(SITE.format(options=options, rules=rules, broker=broker))
        service = Service(state=state, site=site, files=files, more=more).start()
        started.append(service)
        return service

    yield start
    for service in started:
        if service.process is not None and service.process.poll() is None:
            service.stop()


@pytest.fixture
def service(start_service: Start) -> Service:
    """A service whose fake QPU answers at once."""
    return start_service()
