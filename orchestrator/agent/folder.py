"""The agent's folder: its lock, its state, its children's logs, the records of its flow runs."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.agent.processes import ProcessIdentity
from orchestrator.config.private import close_to_others, write_private

__all__ = ["AgentError", "AgentFolder", "AgentRunning", "FlowRecords", "replace_json"]

_LARGEST_LOG_BYTES = 10 * 2**20
_LOCK_S = 0.3


class AgentError(ValueError):
    """The agent refuses a request; nothing was changed."""


class AgentRunning(AgentError):
    """Another agent has locked the folder; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFolder:
    """The files of one agent, in ``<state folder>/agent``. Only the owner of the lock writes here."""

    path: Path

    @property
    def state_path(self) -> Path:
        """The file with the last state of the agent and its children."""
        return self.path / "state.json"

    @property
    def lock_path(self) -> Path:
        """The lock's file; it names the process that locked it last."""
        return self.path / "lock"

    @property
    def dask_credentials_path(self) -> Path:
        """The PEM file that admits this user to the agent's Dask; new at each start of it."""
        return self.path / "dask.pem"

    @property
    def flow_environment_path(self) -> Path:
        """The variables that point a flow at this agent's services."""
        return self.path / "flow-environment.json"

    def prefect_password(self) -> str:
        """Return the password of the agent's Prefect server; the first call makes one."""
        path = self.path / "prefect-password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text(encoding="ascii")

    def log_path(self, name: str) -> Path:
        """The log of a child, or of the ``supervisor``."""
        return self.path / "logs" / f"{name}.log"

    def prepare(self) -> None:
        """Make the folders, readable by this user alone. Raises `AgentError`."""
        try:
            close_to_others(self.path.parent)
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            for name in ("logs", "flows"):
                (self.path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise AgentError(
                f"the agent's folder {self.path} cannot be used: {error.strerror}; name another "
                "state folder with HPCQC_STATE_DIR"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for the block. Raises `AgentRunning` if another process has locked it."""
        descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _lock(descriptor):
                raise AgentRunning(self._owner_sentence())
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(ProcessIdentity.own())).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def is_locked(self) -> bool:
        """Whether an agent is running here."""
        try:
            descriptor = os.open(self.lock_path, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def owner(self) -> ProcessIdentity | None:
        """Return the process that locked the folder last; it may have ended."""
        return ProcessIdentity.read(self.lock_path)

    def read_state(self) -> dict[str, Any]:
        """Return the last state, empty if there is none that can be read."""
        try:
            found = json.loads(self.state_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def turn_logs(self) -> None:
        """Rotate long logs; one earlier generation of each stays."""
        for path in (self.path / "logs").glob("*.log"):
            if path.stat().st_size > _LARGEST_LOG_BYTES:
                path.replace(path.with_suffix(".log.1"))

    def _owner_sentence(self) -> str:
        owner = self.owner()
        who = f"process {owner.pid} on {owner.host}" if owner else "another process"
        return (
            f"an agent is already running on {self.path}: {who}; `hpcqc agent status` shows it, "
            "`hpcqc agent stop` ends it"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecords:
    """Which process works on which flow run. folder: holds a file for each, which it writes itself."""

    folder: Path

    def add(self, flow_run: str, process: ProcessIdentity) -> None:
        """Record that a process works on a flow run."""
        replace_json(self._path(flow_run), asdict(process))

    def remove(self, flow_run: str) -> None:
        """Remove the record of a flow run that has ended in order."""
        self._path(flow_run).unlink(missing_ok=True)

    def process_of(self, flow_run: str) -> ProcessIdentity | None:
        """Return the process that began to work on a flow run, dead or alive; None if none did."""
        return ProcessIdentity.read(self._path(flow_run))

    def alive(self) -> list[ProcessIdentity]:
        """Return the processes that are still running."""
        found = [ProcessIdentity.read(path) for path in self.folder.glob("*.json")]
        return [process for process in found if process is not None and process.is_alive()]

    def _path(self, flow_run: str) -> Path:
        return self.folder / f"{flow_run}.json"


def _lock(descriptor: int) -> bool:
    """Take the lock; try for a moment, because a call of `is_locked` has it for an instant."""
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def replace_json(path: Path, document: Any) -> None:
    """Write a JSON file in one step, so that a reader sees the old one or the new one."""
    write_private(path, json.dumps(document, indent=1))
