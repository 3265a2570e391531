"""The agent's folder: its lock, what it says of itself, its children's logs."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.agent.processes import ProcessIdentity
from orchestrator.config.private import close_to_others, write_private

__all__ = ["AgentError", "AgentFolder", "AgentRunning", "replace_json"]

_LARGEST_LOG_BYTES = 10 * 2**20
_LOCK_S = 0.3


class AgentError(ValueError):
    """The agent cannot do what it was asked to; nothing was changed."""


class AgentRunning(AgentError):
    """Another agent holds the folder; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFolder:
    """Where one agent keeps everything: ``<state folder>/agent``.

    One agent at a time: whoever holds the lock may write here.
    """

    path: Path

    @property
    def state_path(self) -> Path:
        """What the agent last said of itself and its children."""
        return self.path / "state.json"

    @property
    def lock_path(self) -> Path:
        """The lock's file; its text says who holds it."""
        return self.path / "lock"

    @property
    def dask_credentials_path(self) -> Path:
        """The PEM file that admits this user to the agent's Dask; new at each start of it."""
        return self.path / "dask.pem"

    @property
    def flow_environment_path(self) -> Path:
        """The variables that point a flow at this agent's services."""
        return self.path / "flow-environment.json"

    @property
    def prefect_password_path(self) -> Path:
        """The file with what Prefect's server asks of its clients."""
        return self.path / "prefect-password"

    def prefect_password(self) -> str:
        """Return the password of the agent's Prefect server, made when it is first asked for."""
        path = self.prefect_password_path
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text(encoding="ascii")

    def log_path(self, name: str) -> Path:
        """The log of a child, or of the ``supervisor``."""
        return self.path / "logs" / f"{name}.log"

    def prepare(self) -> None:
        """Make the folders, for this user's eyes only. Raises `AgentError`."""
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
    def held(self) -> Iterator[None]:
        """Hold the folder for the block. Raises `AgentRunning` if somebody else does."""
        descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _locked(descriptor):
                raise AgentRunning(self._holder_sentence())
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(ProcessIdentity.own().document()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def is_held(self) -> bool:
        """Whether an agent is at work here."""
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

    def holder(self) -> ProcessIdentity | None:
        """Return who wrote itself into the lock last; it may be gone."""
        try:
            return ProcessIdentity.from_document(
                json.loads(self.lock_path.read_text(encoding="utf-8"))
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_state(self, document: dict[str, Any]) -> None:
        """Replace what is said of the agent, at once and as a whole."""
        replace_json(self.state_path, document)

    def read_state(self) -> dict[str, Any]:
        """Return what was said last, empty if nothing was, or nothing that can be read."""
        try:
            found = json.loads(self.state_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def turn_logs(self) -> None:
        """Put long logs aside, one generation each."""
        for path in (self.path / "logs").glob("*.log"):
            if path.stat().st_size > _LARGEST_LOG_BYTES:
                path.replace(path.with_suffix(".log.1"))

    def _holder_sentence(self) -> str:
        holder = self.holder()
        who = f"process {holder.pid} on {holder.host}" if holder else "another process"
        return (
            f"an agent is already running on {self.path}: {who}; `hpcqc agent status` shows it, "
            "`hpcqc agent stop` ends it"
        )


def _locked(descriptor: int) -> bool:
    """Take the lock; try for a moment, because who asks `is_held` has it for an instant."""
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
    """Write a JSON file so that a reader sees the old one or the new one, never a part."""
    write_private(path, json.dumps(document, indent=1))
