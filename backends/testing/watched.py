"""A backend under observation: how long its calls take and what they raise."""

from __future__ import annotations

import time
from typing import Any

from backends.api import (
    Backend,
    BackendError,
    QpuTaskId,
    Result,
    SessionId,
    Target,
    TaskState,
)
from backends.payloads import Payload

__all__ = ["ContractBroken", "Watched"]


class ContractBroken(AssertionError):
    """A call took too long or raised something that is not a ``BackendError``."""


class Watched:
    """Forwards every call of ``Backend`` and checks that it is prompt and raises rightly.

    prompt_s: longest a call may take.
    """

    def __init__(self, backend: Backend, prompt_s: float) -> None:
        self._backend = backend
        self._prompt_s = prompt_s

    @property
    def inner(self) -> Backend:
        """The backend itself, unwatched."""
        return self._backend

    def target(self) -> Target:
        """Forward."""
        return self._call("target")  # type: ignore[no-any-return]

    def acquire(self) -> SessionId:
        """Forward."""
        return self._call("acquire")  # type: ignore[no-any-return]

    def release(self, session: SessionId) -> None:
        """Forward."""
        self._call("release", session)

    def start(self, session: SessionId, payload: Payload, tag: str) -> QpuTaskId:
        """Forward."""
        return self._call("start", session, payload, tag)  # type: ignore[no-any-return]

    def find(self, tag: str) -> QpuTaskId | None:
        """Forward."""
        return self._call("find", tag)  # type: ignore[no-any-return]

    def status(self, task: QpuTaskId) -> TaskState:
        """Forward."""
        return self._call("status", task)  # type: ignore[no-any-return]

    def result(self, task: QpuTaskId) -> Result:
        """Forward."""
        return self._call("result", task)  # type: ignore[no-any-return]

    def stop(self, task: QpuTaskId) -> None:
        """Forward."""
        self._call("stop", task)

    def close(self) -> None:
        """Forward, however long it takes."""
        self._backend.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        started = time.monotonic()
        try:
            return getattr(self._backend, name)(*arguments)
        except BackendError:
            raise
        except Exception as error:
            raise ContractBroken(
                f"{name}() raised {type(error).__name__}: {error}; only BackendErrors may come out"
            ) from error
        finally:
            took_s = time.monotonic() - started
            if took_s > self._prompt_s:
                raise ContractBroken(
                    f"{name}() took {took_s:.2f} s; every call must return within "
                    f"{self._prompt_s} s and leave the work to run by itself"
                )
