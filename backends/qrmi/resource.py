"""Calls of QRMI's Python API, with its errors as ours. Each call may block for half a minute."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import qrmi

from backends.errors import (
    AccessDenied,
    BackendError,
    CalibrationChanged,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    UnknownTask,
)
from backends.qrmi.factory import QrmiOptions
from backends.site_access import Token

__all__ = ["QrmiCalls"]

_T = TypeVar("_T")
_TYPES = {"iqm-server": qrmi.ResourceType.IQMServer}
_STATES = {
    qrmi.TaskStatus.Queued: "queued",
    qrmi.TaskStatus.Running: "running",
    qrmi.TaskStatus.Completed: "completed",
    qrmi.TaskStatus.Failed: "failed",
    qrmi.TaskStatus.Cancelled: "cancelled",
}
_STATUS = re.compile(r"status code (\d{3})")
_LONGEST_REASON = 300


class QrmiCalls:
    """One resource. Any thread may call; QRMI's own objects take one call at a time each."""

    def __init__(self, options: QrmiOptions) -> None:
        self._options = options
        self._idle: list[tuple[Token, Any]] = []
        self._lock = threading.Lock()

    def target(self) -> Mapping[str, Any]:
        """Return what the resource states of itself. Raises ``ValueError``, too."""
        stated = json.loads(self._read(lambda one: one.target().value))
        if not isinstance(stated, dict):
            raise ValueError("expected a JSON object")
        return stated

    def acquire(self) -> str:
        """Acquire the resource; this waits for as long as the resource makes callers wait."""
        token: str = self._read(lambda one: one.acquire())
        return token

    def release(self, token: str) -> None:
        """Release what was acquired."""
        self._read(lambda one: one.release(token))

    def start(self, program: str, tag: str) -> str:
        """Start a task and return its id; `QpuUnavailable` leaves open whether it was started."""
        payload = qrmi.Payload.IQMServer(program, "circuit", False, tag)
        try:
            job: str = self._asked(lambda one: one.task_start(payload))
        except qrmi.QrmiError as error:
            raise _start_error(error) from error
        return job

    def state(self, job: str) -> str:
        """Return a task's state as a value of ``TaskState``; may wait for its end."""
        return _STATES[self._read(lambda one: one.task_status(job))]

    def result(self, job: str) -> str:
        """Return a completed task's result as the resource's type writes it."""
        text: str = self._read(lambda one: one.task_result(job).value)
        return text

    def logs(self, job: str) -> str:
        """Return what a task's resource says of its course."""
        text: str = self._read(lambda one: one.task_logs(job))
        return text

    def stop(self, job: str) -> None:
        """Cancel a task."""
        self._read(lambda one: one.task_stop(job))

    def _read(self, call: Callable[[Any], _T]) -> _T:
        try:
            return self._asked(call)
        except qrmi.QrmiError as error:
            raise _read_error(error) from error

    def _asked(self, call: Callable[[Any], _T]) -> _T:
        """Make a call, and again if its token was refused and its file has a newer one."""
        token = self._options.token.read()
        try:
            with self._one(token) as one:
                return call(one)
        except qrmi.AuthenticationFailedError:
            newer = self._options.token.read()
            if newer == token:
                raise
        with self._one(newer) as one:
            return call(one)

    @contextlib.contextmanager
    def _one(self, token: Token) -> Iterator[Any]:
        """Yield an object of QRMI's that has the token and no other thread uses now."""
        one = None
        with self._lock:
            self._idle = [found for found in self._idle if found[0] == token]
            if self._idle:
                _, one = self._idle.pop()
        if one is None:
            options = self._options
            one = qrmi.QuantumResource.from_config(
                options.resource,
                _TYPES[options.type],
                {"QRMI_IQM_ISA_ENDPOINT": options.url, "QRMI_IQM_ISA_TOKEN": token.text},
            )
        try:
            yield one
        finally:
            with self._lock:
                self._idle.append((token, one))


def _start_error(error: Exception) -> BackendError:
    """Return what an error of a start means. QRMI states no more than a class and a text."""
    reason = _reason(error)
    known = _known_error(error, reason)
    if known is not None:
        return known
    status = _status(reason)
    if status == 429:
        return QpuBusy(f"the resource takes no task now: {reason}")
    if 400 <= status < 500 and status not in (408, 425):
        return PayloadRejected(f"the resource refused the task: {reason}")
    return QpuUnavailable(f"the answer to a start was lost or unclear: {reason}")


def _read_error(error: Exception) -> BackendError:
    reason = _reason(error)
    if isinstance(error, qrmi.TaskNotFoundError):
        return UnknownTask(reason)
    return _known_error(error, reason) or QpuUnavailable(f"the resource cannot be asked: {reason}")


def _known_error(error: Exception, reason: str) -> BackendError | None:
    if isinstance(error, qrmi.ResourceNotFoundError):
        if "calibration" in reason:
            return CalibrationChanged(reason)
        return AccessDenied(f"the server has no such resource: {reason}")
    if isinstance(error, qrmi.AuthenticationFailedError) or _status(reason) in (401, 402, 403):
        return AccessDenied(f"the server refused the token: {reason}")
    if isinstance(error, (qrmi.UnsupportedPayloadError, qrmi.InvalidInputError)):
        return PayloadRejected(reason)
    return None


def _status(reason: str) -> int:
    found = _STATUS.search(reason)
    return int(found[1]) if found else 0


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
