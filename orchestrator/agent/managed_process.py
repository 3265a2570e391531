"""One child in the supervisor's care: started, asked, started again, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.agent.children import Child
from orchestrator.agent.lifeline import PARENT
from orchestrator.agent.policy import RestartPolicy
from orchestrator.agent.probes import answers

__all__ = ["ManagedProcess", "Surroundings"]

_PATIENCE_S = 60.0
_AGAIN_S = 0.05
_CHECK_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every child shares. environment: the whole of it."""

    environment: Mapping[str, str]
    logs: Path
    policy: RestartPolicy


class ManagedProcess:
    """A child that runs again whenever it has died, until it is told to end."""

    def __init__(self, child: Child, around: Surroundings) -> None:
        """Take note; `step` starts it."""
        self.child = child
        self._around = around
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
        """Notice a death, start what is due, kill what has been silent for too long."""
        if self._process is not None:
            code = self._process.poll()
            if code is not None:
                self._on_exit(code, now)
            elif self._silent_s(now) > self.child.hung_after_s:
                self._signal(signal.SIGKILL)
        elif self._not_before is not None and now >= self._not_before:
            self._start(now)

    def begin_end(self) -> None:
        """Ask the process to end, and start it no more."""
        self._not_before = None
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def finish_end(self) -> None:
        """Return when the process and its group are gone."""
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self.child.stop_s)
        self._signal(signal.SIGKILL)
        self._last_exit = self._process.wait()
        self._process = None

    def document(self) -> dict[str, Any]:
        """Return what can be said of it as a JSON object."""
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

    def _silent_s(self, now: float) -> float:
        return now - (self._started if self._answered_at is None else self._answered_at)

    def _start(self, now: float) -> None:
        child, around = self.child, self._around
        numbers = {name: str(number) for name, number in child.sockets.items()}
        arguments = [argument.format_map(numbers) for argument in child.arguments]
        command = [sys.executable, "-P", "-m", "orchestrator.agent.launch"]
        command += [str(os.getpid()), str(child.stop_s), child.module, *arguments]
        environment = {**around.environment, **child.environment, PARENT: str(os.getpid())}
        self._started, self._started_at, self._answered_at = now, time.time(), None
        with (around.logs / f"{child.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=tuple(child.sockets.values()),
                start_new_session=True,
            )
        asking = threading.Thread(target=self._ask, args=(self._process,), daemon=True)
        asking.start()

    def _ask(self, process: subprocess.Popen[bytes]) -> None:
        """Ask this process how it is, until it has ended."""
        while process.poll() is None:
            began = time.monotonic()
            patience = _PATIENCE_S if self._answered_at is None else _CHECK_EVERY_S
            if answers(self.child.probe, patience, self._started_at) and self._process is process:
                self._answered_at = time.monotonic()
            pause = _AGAIN_S if self._answered_at is None else _CHECK_EVERY_S
            time.sleep(max(0.0, pause - (time.monotonic() - began)))

    def _on_exit(self, code: int, now: float) -> None:
        """Note a death, end what is left of the child's group, decide when to start again."""
        self._signal(signal.SIGKILL)
        self._process, self._last_exit = None, code
        self._deaths.append(now)
        delay = self._around.policy.delay_s(self._deaths, now)
        self._not_before = None if delay is None else now + delay

    def _signal(self, number: int) -> None:
        """Signal the whole group: the child leads a session of its own."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return
