"""A primitive call on its way through the broker, as Qiskit's job, handed in anew if it must be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qiskit.primitives import BasePrimitiveJob, PrimitiveResult
from qiskit.providers import JobStatus

from backends.api import CalibrationChanged
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState, JobView
from orchestrator.compute.remote_call import yield_worker_slot
from orchestrator.identity import JobId

if TYPE_CHECKING:
    from orchestrator.primitives import Qpu

__all__ = ["Finish", "QpuJob", "Submission"]

# A QPU that is calibrated anew so often while one call waits is not waited for any longer.
_PREPARED_AT_MOST = 10

Finish = Callable[[PrimitiveResult[Any]], PrimitiveResult[Any]]
_STATUS = {
    JobState.QUEUED: JobStatus.QUEUED,
    JobState.RUNNING: JobStatus.RUNNING,
    JobState.COMPLETED: JobStatus.DONE,
    JobState.CANCELLED: JobStatus.CANCELLED,
    JobState.FAILED: JobStatus.ERROR,
    JobState.UNCERTAIN: JobStatus.ERROR,
}


@dataclass(eq=False)
class Submission:
    """One primitive call, prepared for its QPU as it is, and anew when it has been calibrated."""

    qpu: Qpu
    seed: int | None
    prepare: Callable[[Qpu], Any]
    reuse: bool = False
    left: int = _PREPARED_AT_MOST
    request: JobRequest | None = None
    digest: str = ""

    def first(self) -> JobId:
        """Hand it in; return its job once it is durable."""
        try:
            return self._submit()
        except CalibrationChanged as error:
            return self.again(error)

    def again(self, given_back: CalibrationChanged) -> JobId:
        """Hand it in once more. Raises the error if that was done too often."""
        while self.left:
            self.left -= 1
            self.qpu.look()
            try:
                return self._submit()
            except CalibrationChanged as error:
                given_back = error
        raise given_back

    def _submit(self) -> JobId:
        payload = self.prepare(self.qpu)
        if self.request is None or payload.digest != self.digest:
            self.request = self.qpu.request(payload, seed=self.seed, may_reuse=self.reuse)
            self.digest = payload.digest
        else:  # the circuits are good for the new calibration, too: it is the same job
            self.request = replace(self.request, calibration=self.qpu.calibration)
        return self.qpu.broker.submit(self.request, payload)


class QpuJob(BasePrimitiveJob[PrimitiveResult[Any], JobState]):
    """One primitive call on its way through the broker.

    Where its QPU is calibrated anew before it begins, it is transpiled and handed in again, as
    another job, when somebody asks for it.
    """

    def __init__(self, submission: Submission, finish: Finish | None = None) -> None:
        """Hand a call in; ``finish`` turns the QPU's result into the primitive's."""
        self._submission = submission
        self._job = submission.first()
        super().__init__(self._job)
        self._client = submission.qpu.broker
        self._lock = threading.Lock()
        self._finish = finish
        self._result: PrimitiveResult[Any] | None = None

    def __repr__(self) -> str:
        """Say which job it is, where a stage returns it in place of its result."""
        return f"<quantum job {self.job_id()}; call result() for its result>"

    def result(self, timeout: float | None = None) -> PrimitiveResult[Any]:
        """Wait for the result, at most ``timeout`` seconds; may be called again.

        Raises the backend's error with its reason, or ``TimeoutError``.
        """
        if self._result is None:
            with yield_worker_slot():
                result = self._wait(timeout)
            self._result = result if self._finish is None else self._finish(result)
        return self._result

    def view(self) -> JobView:
        """Return what the ledger knows of the job: tasks, usage, times."""
        view = self._client.view(self._job)
        if view.error_type == CalibrationChanged.__name__:
            self._hand_in_again(view.id, CalibrationChanged(view.error))
            view = self._client.view(self._job)
        return view

    def status(self) -> JobStatus:
        """Return the state in Qiskit's words."""
        return _STATUS[self.view().state]

    def done(self) -> bool:
        """Whether the job completed."""
        return self.status() is JobStatus.DONE

    def running(self) -> bool:
        """Whether the job runs on the QPU."""
        return self.status() is JobStatus.RUNNING

    def cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return self.status() is JobStatus.CANCELLED

    def in_final_state(self) -> bool:
        """Whether the job will not change any more."""
        return self.view().state.is_final

    def cancel(self) -> None:
        """Ask for the job's end; a completed one stays as it is."""
        self._client.cancel(self._job)

    def _wait(self, timeout_s: float | None) -> PrimitiveResult[Any]:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job, left_s = self._job, None if until is None else until - time.monotonic()
            try:
                return self._client.result(job, left_s if left_s is None else max(0.0, left_s))
            except CalibrationChanged as error:
                self._hand_in_again(job, error)

    def _hand_in_again(self, job: JobId, error: CalibrationChanged) -> None:
        with self._lock:
            if self._job == job and self._client.view(job).state is JobState.FAILED:
                self._job = self._job_id = self._submission.again(error)
