"""What a backend may raise: one tree, whose classes say whether to try again."""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessDenied",
    "BackendError",
    "CalibrationChanged",
    "InsufficientMemory",
    "PayloadRejected",
    "QpuBusy",
    "QpuUnavailable",
    "TaskCancelled",
    "TaskFailed",
    "TaskNotFinished",
    "TokenExpired",
    "UnknownSession",
    "UnknownTask",
]


class BackendError(Exception):
    """Any failure a backend reports; the only exceptions a backend may raise.

    ``retryable`` belongs to the class: it says whether the same call, unchanged,
    may succeed later. Messages give the value, what was expected, and the remedy.
    """

    retryable: ClassVar[bool] = False


class QpuBusy(BackendError):
    """The QPU takes no further session or task now, and has started nothing; try again later.

    retry_after_s: when, where the device says so (HTTP 429 or 503 with ``Retry-After``).
    """

    retryable: ClassVar[bool] = True

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TokenExpired(QpuBusy):
    """The token for the site is known to have expired, so nothing was sent; it can be renewed."""


class QpuUnavailable(BackendError):
    """The QPU cannot be reached or is offline; whether the call took effect is unknown.

    retry_after_s: when to look again, where the device says so.
    """

    retryable: ClassVar[bool] = True

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AccessDenied(BackendError):
    """The site refuses the credentials, or what they may do; nothing was started."""


class CalibrationChanged(BackendError):
    """The QPU was calibrated anew since the payload was prepared for it; nothing was started.

    Prepared for the target as it is now, the same call may go on.
    """

    retryable: ClassVar[bool] = True


class PayloadRejected(BackendError, ValueError):
    """The payload can never run on this target as it is; nothing was started."""


class InsufficientMemory(PayloadRejected):
    """The simulation needs more memory than it may use; nothing was started."""


class UnknownSession(BackendError):
    """The session id was never granted, or it was released."""


class UnknownTask(BackendError):
    """The backend knows no qpu_task with this id."""


class TaskNotFinished(BackendError):
    """A result was asked for before the qpu_task reached a final state."""

    retryable: ClassVar[bool] = True


class TaskFailed(BackendError):
    """The qpu_task ended in FAILED; the message carries the backend's reason."""


class TaskCancelled(BackendError):
    """The qpu_task ended in CANCELLED, so it has no result."""
