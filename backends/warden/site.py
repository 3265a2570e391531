"""Warden's protocol, spoken as a client."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from backends.analog.device import DeviceError, RydbergDevice, rydberg_device
from backends.analog.remote import SiteJob
from backends.api import Heard, TaskState
from backends.connection import Answer, SiteConnection
from backends.coupling_class import CouplingClass
from backends.errors import PayloadRejected, QpuUnavailable, UnknownTask
from backends.payloads import AnalogItem
from backends.site_access import TokenSource

__all__ = ["WardenSite"]

_STATES = {
    "PENDING": TaskState.QUEUED,
    "RUNNING": TaskState.RUNNING,
    "DONE": TaskState.COMPLETED,
    "ERROR": TaskState.FAILED,
    "CANCELED": TaskState.CANCELLED,
}
# The first release has no cancellation.
_UNKNOWN_ROUTE = (404, 405)


class WardenSite:
    """See ``backends.analog.remote.AnalogSite``. A job cannot be searched: it states no sequence."""

    prefix = "warden"
    can_find = False
    coupling_class: CouplingClass = "interactive"

    def __init__(self, url: str, credentials: TokenSource, *, session: str) -> None:
        """Store the arguments; nothing connects yet.

        Args:
            url: Of the server.
            credentials: Where a credential is found at each request.
            session: Id of the session that was opened for the user's job.
        """

        def authorise(credential: str) -> Mapping[str, str]:
            return {"X-Munge-Cred": credential, "X-Warden-Session": session}

        self._connection = SiteConnection(url, credentials, authorise=authorise)

    @property
    def heard(self) -> Heard:
        """When the server last answered."""
        return self._connection.heard

    def device(self) -> RydbergDevice:
        """Read the device's description."""
        answer = self._connection.read("GET", "/qpu/specs")
        try:
            return rydberg_device(str(answer.error["specs"]))
        except (KeyError, DeviceError) as error:
            raise QpuUnavailable(
                f"the device's description cannot be read: {answer.reason}: {error}"
            ) from error

    def submit(self, item: AnalogItem, tag: str) -> str:
        """Send a job; Warden takes no tag."""
        del tag
        body = {"sequence": item.data.decode(), "shots": item.shots}
        answer = self._connection.submit("/jobs", body)
        if not answer.is_success:
            raise PayloadRejected(f"Warden refused the job: {_reason(answer)}")
        job = answer.error.get("id")
        if type(job) not in (int, str):
            raise QpuUnavailable(f"Warden accepted a job and calls it {job!r:.100}")
        return str(job)

    def find(self, tag: str) -> str | None:
        """Return nothing: there are no tags."""
        del tag
        return None

    def look(self, job: str) -> SiteJob:
        """Read a job."""
        answer = self._connection.read("GET", f"/jobs/{job}")
        if answer.status == 404:
            raise UnknownTask(f"Warden does not know job {job}: {_reason(answer)}")
        stated = answer.error if answer.is_success else {}
        state = _STATES.get(str(stated.get("status")))
        if state is None:
            raise QpuUnavailable(
                f"the state of job {job} cannot be read: HTTP {answer.status}, status "
                f"{stated.get('status')!r:.40}; expected one of {', '.join(_STATES)}"
            )
        facts = {"created_at": stated.get("created_at")}
        if state is TaskState.FAILED:
            return SiteJob(state=state, reason=self._log(job, stated), facts=facts)
        counts = _counts(job, stated.get("results")) if state is TaskState.COMPLETED else {}
        return SiteJob(state=state, counts=counts, facts=facts)

    def states(self, jobs: Sequence[str]) -> Mapping[str, TaskState]:
        """Read the list of the user's jobs."""
        answer = self._connection.read("GET", "/jobs")
        try:
            listed = answer.json() if answer.is_success else None
            stated = {str(one["id"]): str(one["status"]) for one in listed or ()}
        except (ValueError, TypeError, KeyError):
            listed = None
        if listed is None:
            raise QpuUnavailable(f"the jobs cannot be listed: {_reason(answer)}")
        return {job: _STATES[stated[job]] for job in jobs if stated.get(job) in _STATES}

    def cancel(self, job: str) -> None:
        """Ask for a job's end; a Warden that has no such route lets it run."""
        answer = self._connection.read("POST", f"/jobs/{job}/cancel")
        if answer.is_success or answer.status == 409:  # 409: it has ended, or is being cancelled
            return
        if answer.status in _UNKNOWN_ROUTE:
            raise QpuUnavailable(
                f"job {job} cannot be cancelled by this Warden, and runs to its end: "
                f"{_reason(answer)}"
            )
        raise QpuUnavailable(f"job {job} cannot be cancelled: {_reason(answer)}")

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _log(self, job: str, stated: Mapping[str, Any]) -> str:
        """Return why a job failed, as well as Warden knows."""
        answer = self._connection.read("GET", f"/jobs/{job}/logs")
        log = answer.error.get("logs") if answer.is_success else None
        return " ".join(str(log or stated.get("results") or "").split())[:500]


def _counts(job: str, results: Any) -> Mapping[str, int]:
    """Return the counts of a completed job, whose results are JSON in a text."""
    try:
        counter = json.loads(results)["counter"]
        counts = {str(outcome): number for outcome, number in counter.items()}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise QpuUnavailable(
            f"the results of job {job} cannot be read: {results!r:.100}: {error}"
        ) from error
    if not all(
        set(outcome) <= {"0", "1"} and type(n) is int and n >= 0 for outcome, n in counts.items()
    ):
        raise QpuUnavailable(f"the results of job {job} are no counts: {counts!r:.100}")
    return counts


def _reason(answer: Answer) -> str:
    """Return an error in words, without the values of the request that FastAPI repeats."""
    detail = answer.error.get("detail")
    if isinstance(detail, list):
        words = [str(one.get("msg")) for one in detail if isinstance(one, dict)]
        return f"HTTP {answer.status}: {'; '.join(words)}"[:300]
    return answer.reason
