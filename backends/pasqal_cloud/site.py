"""The protocol of Pasqal's cloud, spoken as a client: each job is a batch with a tag."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from backends.analog.device import DeviceError, RydbergDevice, rydberg_device
from backends.analog.remote import SiteJob
from backends.api import Heard, TaskState
from backends.connection import Answer, SiteConnection
from backends.coupling_class import CouplingClass
from backends.errors import BackendError, PayloadRejected, QpuUnavailable, UnknownTask
from backends.payloads import AnalogItem
from backends.plugins import PluginUnusable
from backends.site_access import FixedToken, Token, TokenSource, checked_url

__all__ = ["PasqalCloudSite"]

_STATES = {
    "PENDING": TaskState.QUEUED,
    "PAUSED": TaskState.QUEUED,
    "RUNNING": TaskState.RUNNING,
    "DONE": TaskState.COMPLETED,
    "ERROR": TaskState.FAILED,
    "TIMED_OUT": TaskState.FAILED,
    "CANCELED": TaskState.CANCELLED,
}
_ID = re.compile(r"[0-9A-Za-z-]{1,100}")
_MOST_FOUND = 100
_LARGER_BYTES = 1 << 28  # of results: one number for each outcome


class PasqalCloudSite:
    """See ``backends.analog.remote.AnalogSite``. Batches are found again by their tag."""

    prefix = "pasqal"
    can_find = True
    coupling_class: CouplingClass = "batch"

    def __init__(self, url: str, token: TokenSource, *, project: str, device_type: str) -> None:
        """Store the arguments; nothing connects yet.

        Args:
            url: Of the service for batches.
            token: Where the access token is found at each request.
            project: Id of the user's project.
            device_type: Name of the machine or emulator.
        """
        self._project, self._device_type = project, device_type
        self._connection = SiteConnection(url, token)
        self._stores: dict[str, SiteConnection] = {}
        self._lock = threading.Lock()

    @property
    def heard(self) -> Heard:
        """When the server last answered."""
        return self._connection.heard

    def device(self) -> RydbergDevice:
        """Read the device's description among those of all devices."""
        stated = self._data(self._connection.read("GET", "/api/v1/devices/specs"), "the devices")
        found = stated.get(self._device_type) if isinstance(stated, dict) else None
        if not isinstance(found, str):
            names = ", ".join(map(str, stated)) if isinstance(stated, dict) else "none"
            raise QpuUnavailable(
                f"{self._connection.url} has no device {self._device_type!r}; it has: {names:.300}"
            )
        try:
            return rydberg_device(found)
        except DeviceError as error:
            raise QpuUnavailable(
                f"the description of {self._device_type} cannot be read: {error}"
            ) from error

    def submit(self, item: AnalogItem, tag: str) -> str:
        """Send a closed batch of one job, with the tag."""
        body = {
            "sequence_builder": item.data.decode(),
            "webhook": None,
            "jobs": [{"runs": item.shots}],
            "open": False,
            "device_type": self._device_type,
            "project_id": self._project,
            "tags": [tag],
        }
        answer = self._connection.submit("/api/v1/batches", body)
        if not answer.is_success:
            raise PayloadRejected(f"Pasqal's cloud refused the batch: {_reason(answer)}")
        data = answer.error.get("data")
        batch = data.get("id") if isinstance(data, dict) else None
        if not isinstance(batch, str):
            raise QpuUnavailable(f"Pasqal's cloud accepted a batch and calls it {batch!r:.100}")
        return batch

    def find(self, tag: str) -> str | None:
        """Return the oldest batch that has a tag, and cancel all others.

        There is more than one if something between here and the cloud sent a request twice.
        """
        params = {"tag": tag, "project_id": self._project, "offset": 0, "limit": _MOST_FOUND}
        answer = self._connection.read("GET", "/api/v1/batches", params=params)
        listed = self._data(answer, "the batches")
        batches = [
            one
            for one in (listed if isinstance(listed, list) else [])
            if isinstance(one, dict) and tag in (one.get("tags") or ())
        ]
        if not all(isinstance(one.get("id"), str) and _ID.fullmatch(one["id"]) for one in batches):
            raise QpuUnavailable(f"the batches with tag {tag} cannot be read: {listed!r:.200}")
        batches.sort(key=lambda one: (str(one.get("created_at")), one["id"]))
        for surplus in batches[1:]:
            with contextlib.suppress(BackendError):  # it is found again at the next search
                self.cancel(surplus["id"])
        return batches[0]["id"] if batches else None

    def look(self, job: str) -> SiteJob:
        """Read a batch and, at its end, its job."""
        answer = self._connection.read("GET", f"/api/v2/batches/{job}")
        if answer.status == 404:
            raise UnknownTask(f"Pasqal's cloud does not know batch {job}: {_reason(answer)}")
        batch = self._data(answer, f"batch {job}")
        state = _STATES.get(str(batch.get("status"))) if isinstance(batch, dict) else None
        if state is None:
            raise QpuUnavailable(
                f"the state of batch {job} cannot be read: {batch!r:.100}; expected one of "
                f"{', '.join(_STATES)}"
            )
        facts = {name: batch.get(name) for name in ("created_at", "start_datetime", "end_datetime")}
        if state not in (TaskState.COMPLETED, TaskState.FAILED):
            return SiteJob(state=state, facts=facts)
        done = self._job(job)
        ended = _STATES.get(str(done.get("status")), state)
        if ended is not TaskState.COMPLETED:
            reasons = done.get("errors") or [batch.get("status")]
            return SiteJob(state=ended, reason="; ".join(map(str, reasons))[:500], facts=facts)
        return SiteJob(state=ended, counts=self._counts(str(done.get("id"))), facts=facts)

    def states(self, jobs: Sequence[str]) -> Mapping[str, TaskState]:
        """Raise `QpuUnavailable`: a batch says more than a list of batches does."""
        raise QpuUnavailable(f"{len(jobs)} batches are looked at one by one")

    def cancel(self, job: str) -> None:
        """Cancel a batch."""
        answer = self._connection.read("PATCH", f"/api/v2/batches/{job}/cancel")
        # What has ended cannot be cancelled, and which status says so is not documented.
        if not answer.is_success and not self._has_ended(job):
            raise QpuUnavailable(f"batch {job} cannot be cancelled: {_reason(answer)}")

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()
        for store in list(self._stores.values()):
            store.close()

    def _has_ended(self, batch: str) -> bool:
        found = self._data(self._connection.read("GET", f"/api/v2/batches/{batch}"), batch)
        state = _STATES.get(str(found.get("status"))) if isinstance(found, dict) else None
        return state is not None and state.is_final

    def _job(self, batch: str) -> Mapping[str, Any]:
        params = {"batch_id": batch, "order_by": "creation_order", "order_by_direction": "ASC"}
        answer = self._connection.read("GET", "/api/v2/jobs", params=params)
        listed = self._data(answer, f"the jobs of batch {batch}")
        if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
            raise QpuUnavailable(f"batch {batch} has the jobs {listed!r:.200}; one was sent")
        return listed[0]

    def _counts(self, job: str) -> Mapping[str, int]:
        """Read the counts of a job from where the cloud stores results."""
        if not _ID.fullmatch(job):
            raise QpuUnavailable(f"a job is called {job!r:.100}")
        answer = self._connection.read("GET", f"/api/v1/jobs/{job}/results_link")
        data = self._data(answer, f"the results of job {job}")
        link = data.get("results_link") if isinstance(data, dict) else None
        if not isinstance(link, str):
            raise QpuUnavailable(f"the results of job {job} are not there yet")
        stored = self._stored(link)
        counter = stored.error.get("counter") if stored.is_success else None
        if not isinstance(counter, dict) or not all(
            set(outcome) <= {"0", "1"} and type(n) is int and n >= 0
            for outcome, n in counter.items()
        ):
            raise QpuUnavailable(
                f"the results of job {job} cannot be read: HTTP {stored.status}, counts "
                f"{counter!r:.100}"
            )
        return counter

    def _stored(self, link: str) -> Answer:
        """Read a link that is signed by itself: the token is for the cloud alone."""
        try:
            parts = urlsplit(link)
            host = checked_url({"url": f"{parts.scheme}://{parts.netloc}"}, "pasqal-cloud")
        except (PluginUnusable, ValueError) as error:
            raise QpuUnavailable(f"the results are stored at {link!r:.200}: {error}") from error
        with self._lock:
            if host not in self._stores:
                nothing = FixedToken(Token(text=""))
                self._stores[host] = SiteConnection(host, nothing, authorise=lambda _: {})
            store = self._stores[host]
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        return store.read("GET", path, larger_bytes=_LARGER_BYTES)

    def _data(self, answer: Answer, what: str) -> Any:
        """Return what an answer holds in its envelope."""
        if not answer.is_success or "data" not in answer.error:
            raise QpuUnavailable(f"{what} cannot be read: {_reason(answer)}")
        return answer.error["data"]


def _reason(answer: Answer) -> str:
    """Return an error in words: the envelope has a code, a message and a description."""
    data = answer.error.get("data")
    described = data.get("description") if isinstance(data, dict) else None
    return f"{answer.reason}{': ' * bool(described)}{described or ''}"[:300]
