"""The supervisor: keeps the agent's children running until it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

from orchestrator.agent.folder import AgentFolder, replace_json
from orchestrator.agent.managed_process import ManagedProcess, Surroundings
from orchestrator.agent.plan import AgentPlan
from orchestrator.agent.policy import RestartPolicy
from orchestrator.agent.processes import MARKER, ProcessIdentity, end_marked
from orchestrator.config.environment import process_environment
from orchestrator.visible_text import visible
from orchestrator.wording import counted

__all__ = ["Supervisor", "end_leftovers", "notify"]

_BUSY_STEP_S = 0.05
_CALM_STEP_S = 0.25
_LEFTOVERS_S = 3.0


class Supervisor:
    """Starts the children, starts again what dies, ends all of them in reverse order."""

    def __init__(self, folder: AgentFolder, plan: AgentPlan) -> None:
        """Prepare; `run` does the work. The caller holds the folder."""
        self._folder, self._plan = folder, plan
        around = Surroundings(
            environment={
                **process_environment(),
                **plan.environment,
                MARKER: str(folder.path),
            },
            logs=folder.log_path("supervisor").parent,
            policy=RestartPolicy(),
        )
        self._processes = [ManagedProcess(child, around) for child in plan.children]
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
            _say("ready")
            notify("READY=1\nSTATUS=ready")

    def _end(self) -> None:
        notify("STOPPING=1")
        self._write("stopping")
        for process in reversed(self._processes):
            process.begin_end()
            process.finish_end()
        end_marked(self._folder.path, 0.5)
        self._write("stopped")
        _say("stopped")

    def _write(self, phase: str) -> None:
        document = {
            "phase": phase,
            "supervisor": ProcessIdentity.own().document(),
            "since": self._since.isoformat(),
            **self._plan.about,
            "addresses": dict(self._plan.addresses),
            "children": {process.child.name: process.document() for process in self._processes},
        }
        if document != self._written:
            self._folder.write_state(document)
            self._written = document


def end_leftovers(folder: AgentFolder) -> None:
    """End what a killed supervisor left, which may still have its sockets.

    It ends by itself; a worker may need a moment for it.
    """
    left = end_marked(folder.path, _LEFTOVERS_S, spare_backends=True)
    if left:
        _say(f"ended {counted(left, 'process', 'processes')} that an earlier agent had left")


def _say(text: str) -> None:
    line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} | {os.getpid()} | {text}"
    sys.stderr.write(f"{visible(line, lines=False)}\n")
    sys.stderr.flush()


def notify(text: str) -> None:
    """Tell systemd, if it asked to be told: sd_notify(3)."""
    address = process_environment().get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        try:
            out.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            out.sendall(text.encode())
        except OSError:
            return
