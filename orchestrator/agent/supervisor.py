"""The supervisor: keeps the agent's children running until it gets a signal to stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.agent.folder import AgentFolder, replace_json
from orchestrator.agent.lifeline import start_module
from orchestrator.agent.plan import AgentPlan, Child
from orchestrator.agent.processes import MARKER, ProcessIdentity, end_marked
from orchestrator.config.environment import process_environment
from orchestrator.wording import counted, visible

__all__ = ["ManagedProcess", "RestartPolicy", "Supervisor", "end_leftovers", "notify"]

_BUSY_STEP_S = 0.05
_CALM_STEP_S = 0.25
_LEFTOVERS_S = 3.0
_FIRST_ANSWER_S = 60.0
_RETRY_S = 0.05
_CHECK_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """A delay that doubles from ``first_s`` with each death within ``window_s``."""

    first_s: float = 0.1
    longest_s: float = 30.0
    window_s: float = 300.0
    limit: int | None = None  # deaths within the window; None never gives up

    def delay_s(self, deaths: Sequence[float], now: float) -> float | None:
        """Return the seconds to wait after the last of these deaths, None to give up.

        deaths, now: on one clock, in seconds.

        >>> policy = RestartPolicy(first_s=1.0, longest_s=5.0, window_s=60.0, limit=5)
        >>> [policy.delay_s([10.0] * count, now=20.0) for count in (1, 2, 3, 4, 5)]
        [1.0, 2.0, 4.0, 5.0, None]
        >>> policy.delay_s([10.0, 10.0, 10.0, 100.0], now=100.0)
        1.0
        """
        recent = sum(1 for death in deaths if now - death <= self.window_s)
        if self.limit is not None and recent >= self.limit:
            return None
        doublings = min(max(recent - 1, 0), 32)
        return float(min(self.first_s * 2**doublings, self.longest_s))


class ManagedProcess:
    """A child that is started again whenever it has died, until `begin_end`."""

    def __init__(self, child: Child, environment: Mapping[str, str], log: Path) -> None:
        """Start nothing yet. environment: all variables but the child's own."""
        self.child = child
        self._environment, self._log = {**environment, **child.environment}, log
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._started_at = 0.0
        self._answered_at: float | None = None
        self._deaths: list[float] = []
        self._last_exit: int | None = None
        self._not_before: float | None = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether the process that runs now has answered."""
        return self._process is not None and self._answered_at is not None

    def step(self, now: float) -> None:
        """Notice a death, start what is due, kill a process that was silent for too long."""
        if self._process is not None:
            code = self._process.poll()
            last = self._started if self._answered_at is None else self._answered_at
            if code is not None:
                self._on_exit(code, now)
            elif now - last > self.child.hung_after_s:
                self._kill_group()
        elif self._not_before is not None and now >= self._not_before:
            self._start(now)

    def begin_end(self) -> None:
        """Send the process SIGTERM, and do not start it again."""
        self._not_before = None
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def finish_end(self) -> None:
        """Return when the process and its group are gone."""
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self.child.stop_s)
        self._kill_group()
        self._last_exit = self._process.wait()
        self._process = None

    def document(self) -> dict[str, Any]:
        """Return its state as a JSON object."""
        return {
            "title": self.child.title,
            "state": self._state(),
            "pid": self._process.pid if self._process else None,
            "started_at": self._started_at or None,
            "restarts": len(self._deaths),
            "last_exit": self._last_exit,
        }

    def _state(self) -> str:
        if self._process is None:
            return "stopped" if self._not_before is None else "waiting"
        if self._answered_at is None:
            return "starting"
        silent = time.monotonic() - self._answered_at > 6 * _CHECK_EVERY_S
        return "silent" if silent else "ready"

    def _start(self, now: float) -> None:
        child = self.child
        self._started, self._started_at, self._answered_at = now, time.time(), None
        with self._log.open("ab") as log:
            self._process = start_module(
                child.module,
                child.arguments,
                environment=self._environment,
                output=log,
                sockets=child.sockets,
                grace_s=child.stop_s,
            )
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Probe this process until it has ended."""
        while process.poll() is None:
            began = time.monotonic()
            timeout_s = _FIRST_ANSWER_S if self._answered_at is None else _CHECK_EVERY_S
            answered = self.child.probe.answers(timeout_s, self._started_at)
            if answered and self._process is process:
                self._answered_at = time.monotonic()
            pause = _RETRY_S if self._answered_at is None else _CHECK_EVERY_S
            time.sleep(max(0.0, pause - (time.monotonic() - began)))

    def _on_exit(self, code: int, now: float) -> None:
        """Note a death, end the rest of the child's group, plan the next start."""
        self._kill_group()
        self._process, self._last_exit = None, code
        self._deaths.append(now)
        delay = RestartPolicy().delay_s(self._deaths, now)
        self._not_before = None if delay is None else now + delay

    def _kill_group(self) -> None:
        """Kill the child and its group; it leads a session of its own."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Supervisor:
    """Starts the children, starts again those that die, ends all of them in reverse order."""

    def __init__(self, folder: AgentFolder, plan: AgentPlan) -> None:
        """Prepare; `run` does the work. The caller has locked the folder."""
        self._folder, self._plan = folder, plan
        shared = {**process_environment(), **plan.environment, MARKER: str(folder.path)}
        self._processes = [
            ManagedProcess(child, shared, folder.log_path(child.name)) for child in plan.children
        ]
        self._stop = threading.Event()
        self._since = datetime.now(UTC)
        self._written: dict[str, Any] = {}
        self._was_ready = False

    def run(self) -> None:
        """Keep everything running until SIGTERM or SIGINT, then end it; leaves no process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        replace_json(self._folder.flow_environment_path, dict(self._plan.flow_environment))
        try:
            while not self._stop.is_set():
                self._step()
                self._stop.wait(_CALM_STEP_S if self._was_ready else _BUSY_STEP_S)
        finally:
            self._end()

    def _step(self) -> None:
        now = time.monotonic()
        for process in self._processes:
            process.step(now)
        ready = self._was_ready or all(process.is_ready for process in self._processes)
        self._write("ready" if ready else "starting")
        if ready and not self._was_ready:
            self._was_ready = True
            _log("ready")
            notify("READY=1\nSTATUS=ready")

    def _end(self) -> None:
        notify("STOPPING=1")
        self._write("stopping")
        for process in reversed(self._processes):
            process.begin_end()
            process.finish_end()
        end_marked(self._folder.path, 0.5)
        self._write("stopped")
        _log("stopped")

    def _write(self, phase: str) -> None:
        document = {
            "phase": phase,
            "supervisor": asdict(ProcessIdentity.own()),
            "since": self._since.isoformat(),
            **self._plan.about,
            "addresses": dict(self._plan.addresses),
            "children": {process.child.name: process.document() for process in self._processes},
        }
        if document != self._written:
            replace_json(self._folder.state_path, document)
            self._written = document


def end_leftovers(folder: AgentFolder) -> None:
    """End the processes of a killed supervisor, which may still have its sockets."""
    left = end_marked(folder.path, _LEFTOVERS_S, spare_backends=True)
    if left:
        _log(f"ended {counted(left, 'process', 'processes')} that an earlier agent had left")


def notify(text: str) -> None:
    """Report to systemd, if it asked for reports: sd_notify(3)."""
    address = process_environment().get("NOTIFY_SOCKET")
    if not address:
        return
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        suppress(OSError),
    ):
        out.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        out.sendall(text.encode())


def _log(text: str) -> None:
    line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} | {os.getpid()} | {text}"
    sys.stderr.write(f"{visible(line, lines=False)}\n")
    sys.stderr.flush()
