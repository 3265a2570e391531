"""What primitives need of a broker, embedded or remote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from backends import api
from backends.api import BackendError, Target, TaskCancelled, TaskFailed, TaskNotFinished
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState, JobView, advice_in_doubt
from orchestrator.identity import JobId

if TYPE_CHECKING:
    # At run time a client that only asks about jobs is spared Qiskit.
    from backends.payloads import Payload
    from orchestrator.broker.core.choice import ChoiceRequest, QpuChoice
    from orchestrator.broker.core.explain import Explanation

__all__ = [
    "AllocationEnded",
    "BrokerClient",
    "DataRefused",
    "JobUncertain",
    "NoQpuFits",
    "WalltimeTooShort",
    "job_error",
]


class JobUncertain(BackendError):
    """Whether the job runs, or ran, on the QPU cannot be known; it is not started again."""

    retryable: ClassVar[bool] = False


class AllocationEnded(BackendError):
    """The Slurm job that held the QPU for a job ended, or does not hold it; the work was stopped."""

    retryable: ClassVar[bool] = True


class WalltimeTooShort(BackendError, ValueError):
    """A quantum task takes longer than any Slurm job that hpcqc submits holds the QPU for it."""

    retryable: ClassVar[bool] = False


class DataRefused(BackendError):
    """The labels of a job's data keep it from the QPU; nothing was sent there."""

    retryable: ClassVar[bool] = False


class NoQpuFits(BackendError):
    """No QPU of the site meets what a stage needs; nothing was started."""

    retryable: ClassVar[bool] = False


def job_error(view: JobView) -> Exception:
    """Return what a client is to raise for a job that ended, or stands, without a result."""
    match view.state:
        case JobState.CANCELLED:
            return TaskCancelled(f"quantum job {view.id} was cancelled")
        case JobState.UNCERTAIN:
            reasons = "; ".join(f"{task.tag}: {task.error}" for task in view.tasks if task.error)
            advice = advice_in_doubt(view.id, view.run, view.user)
            return JobUncertain(f"quantum job {view.id} is uncertain: {reasons}; {advice}")
        case JobState.FAILED:
            for kind in (AllocationEnded, DataRefused):
                if view.error_type == kind.__name__:
                    return kind(view.error)
            error_type = getattr(api, view.error_type or "", TaskFailed)
            known = isinstance(error_type, type) and issubclass(error_type, BackendError)
            return (error_type if known else TaskFailed)(view.error)
        case _:
            return TaskNotFinished(f"quantum job {view.id} is {view.state}")


class BrokerClient(Protocol):
    """Hand in quantum jobs and wait for them; calls may come from any thread."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the data of all jobs that are handed in here, by who pays for them."""
        ...

    def target(self, qpu: str) -> Target:
        """Return what a QPU accepts now. Raises ``ConfigError`` if there is none of this name."""
        ...

    def prewarm(self, qpu: str) -> None:
        """Let a QPU get ready for its first task, if it is slow to start; returns at once."""
        ...

    def submit(self, request: JobRequest, payload: Payload) -> JobId:
        """Hand in a job and return once it is durable.

        A request that was handed in before, by this process or one that died, is the same job:
        it is not started again while it runs or once it is completed. A failed or cancelled
        one is tried again with what is missing.
        """
        ...

    def choose(self, request: ChoiceRequest) -> QpuChoice:
        """Return the QPU for work that names none, and why; its ``qpu`` is empty if none fits."""
        ...

    def result(self, job: JobId, timeout_s: float | None = None) -> Any:
        """Wait for the job and return its result.

        Raises ``TaskFailed`` or the backend's own error class with the reason,
        ``TaskCancelled``, `JobUncertain`, or ``TimeoutError``.
        """
        ...

    def cancel(self, job: JobId) -> bool:
        """Ask for the job's end; return whether it was still open."""
        ...

    def release(self, qpu: str, lease: str) -> None:
        """Let a lease go before its time; one that has ended stays as it is."""
        ...

    def view(self, job: JobId) -> JobView:
        """Return the job as it is now."""
        ...

    def why(self, job: str) -> Explanation:
        """Return why a job waits, or ran when it did."""
        ...

    def close(self, *, resuming_s: float | None = None) -> None:
        """Cancel what is open and let go of all processes; closing twice does nothing.

        resuming_s: The run goes on in another process: a service keeps its jobs, and a broker that
        ends with this process lets tasks that are on a QPU go on for so long before.
        """
        ...
