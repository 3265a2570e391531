"""A call of a primitive as a quantum job, over calibrations and Slurm jobs that come between."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from qiskit.primitives import BasePrimitiveJob
from qiskit.providers import JobStatus

from backends.api import CalibrationChanged
from backends.payloads import Payload
from orchestrator.broker.client.protocol import AllocationEnded
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState, JobView, QpuTaskState
from orchestrator.compute.remote_call import yield_worker_slot
from orchestrator.identity import JobId
from orchestrator.qpu_errors import naming_qpu

if TYPE_CHECKING:
    from orchestrator.qpu import Qpu

__all__ = ["QpuJob"]

_ResultT = TypeVar("_ResultT")

# A QPU that is calibrated anew so often while one call waits is not waited for any longer.
_MOST_TRANSPILATIONS = 10
# So many Slurm jobs in a row take the place of one that ended under a call without a completed task,
# until something must be wrong.
_MOST_ALLOCATIONS = 3
_STATUS = {
    JobState.QUEUED: JobStatus.QUEUED,
    JobState.RUNNING: JobStatus.RUNNING,
    JobState.COMPLETED: JobStatus.DONE,
    JobState.CANCELLED: JobStatus.CANCELLED,
    JobState.FAILED: JobStatus.ERROR,
    JobState.UNCERTAIN: JobStatus.ERROR,
}

_log = logging.getLogger(__name__)


class QpuJob(BasePrimitiveJob[_ResultT, JobState]):
    """One call of a primitive, as the broker runs it.

    If its QPU is calibrated anew before it begins, the next request for its state or result
    transpiles it again and submits it as another job. If the Slurm job ends that hpcqc submitted to
    hold the QPU, the next request for its result lets it go on under another one, as often as a
    task of it completed since.
    """

    def __init__(
        self,
        qpu: Qpu,
        prepare: Callable[[Qpu], Payload],
        finish: Callable[[Any], _ResultT] | None = None,
        **options: Any,
    ) -> None:
        """Submit what ``prepare`` transpiles for the QPU; ``finish`` converts its result."""
        self._qpu, self._prepare, self._finish, self._options = qpu, prepare, finish, options
        self._client = qpu.broker
        self._lock = threading.Lock()
        self._attempts_left = _MOST_TRANSPILATIONS
        self._allocations_left = _MOST_ALLOCATIONS
        self._completed = 0  # tasks, when the job went on last
        self._request: JobRequest | None = None
        self._digest = ""
        self._result: _ResultT | None = None
        with naming_qpu(qpu.name):
            try:
                self._job = self._submit()
            except CalibrationChanged as error:
                self._job = self._submit_again(error)
        super().__init__(self._job)

    def __repr__(self) -> str:
        """Name the job: a stage may return it in place of its result."""
        return f"<quantum job {self.job_id()}; call result() for its result>"

    @property
    def qpu(self) -> str:
        """The QPU's name."""
        return self._qpu.name

    def result(self, timeout: float | None = None) -> _ResultT:
        """Wait for the result, at most ``timeout`` seconds; may be called again.

        Raises the backend's error with its reason, or ``TimeoutError``.
        """
        if self._result is None:
            with yield_worker_slot(), naming_qpu(self.qpu):
                result = self._wait(timeout)
            self._result = result if self._finish is None else self._finish(result)
        return self._result

    def view(self) -> JobView:
        """Return what the ledger knows of the job: tasks, usage, times."""
        view = self._client.view(self._job)
        if view.error_type == CalibrationChanged.__name__:
            self._replace_job(view.id, CalibrationChanged(view.error))
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

    def _wait(self, timeout_s: float | None) -> Any:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job, rest_s = self._job, None if until is None else max(0.0, until - time.monotonic())
            try:
                return self._client.result(job, rest_s)
            except CalibrationChanged as error:
                self._replace_job(job, error)
            except AllocationEnded as error:
                self._go_on(job, error)

    def _go_on(self, job: JobId, error: AllocationEnded) -> None:
        """Submit a job again under the next Slurm job that holds the QPU, or raise the error."""
        with self._lock:
            view = self._client.view(job)
            if self._job != job or view.state is not JobState.FAILED:
                return
            ended = None if self._request is None else self._request.slurm_job
            if self._request is None or ended is None:
                raise error
            completed = sum(task.state is QpuTaskState.COMPLETED for task in view.tasks)
            if completed > self._completed:
                self._completed, self._allocations_left = completed, _MOST_ALLOCATIONS
            if not self._allocations_left:
                raise error
            self._qpu.check_stopped(view)
            self._allocations_left -= 1
            slurm_job = self._qpu.next_slurm_job(ended)
            if slurm_job is None:
                raise error
            _log.warning("%s; quantum job %s goes on under Slurm job %d", error, job, slurm_job)
            self._request = replace(self._request, slurm_job=slurm_job)
            try:
                self._job = self._job_id = self._submit()
            except CalibrationChanged as newer:
                self._job = self._job_id = self._submit_again(newer)

    def _replace_job(self, job: JobId, error: CalibrationChanged) -> None:
        with self._lock:
            if self._job == job and self._client.view(job).state is JobState.FAILED:
                self._job = self._job_id = self._submit_again(error)

    def _submit_again(self, error: CalibrationChanged) -> JobId:
        while self._attempts_left:
            self._attempts_left -= 1
            self._qpu.refresh()
            try:
                return self._submit()
            except CalibrationChanged as newer:
                error = newer
        raise error

    def _submit(self) -> JobId:
        payload = self._prepare(self._qpu)
        self._qpu.check_fits_walltime(payload)
        if self._request is None or payload.digest != self._digest:
            self._request = self._qpu.request(payload, **self._options)
            self._digest = payload.digest
        else:  # the circuits suit the new calibration, too: it is the same job
            self._request = replace(self._request, calibration=self._qpu.calibration)
        return self._client.submit(self._request, payload)
