"""IBM's sessions and batches: which session of ours has which, and which are still to be closed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from backends.api import AccessDenied, QpuUnavailable, SessionId
from backends.durable import replace_durably
from backends.ibm.factory import SESSION_ID, ServiceOptions
from backends.ibm.service import IbmService, Refused
from backends.sessions import Sessions

__all__ = ["ServiceSessions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """One of IBM's. lease: that it is for, empty for none; until_s: since the epoch, over then."""

    id: str
    lease: str
    until_s: float
    is_over: bool = False

    def may_be_closed(self) -> bool:
        return self.is_over or time.time() >= self.until_s


class ServiceSessions:
    """Sessions of a backend; tasks of a lease run in a dedicated one of IBM's, others in a batch.

    IBM bills a dedicated session from its first job to its end. So each is on disk before a task
    runs in it, and is closed, or used on, by a later process if this one dies. One whose opening got
    no answer has no job, costs nothing and ends by itself.
    """

    def __init__(self, options: ServiceOptions, service: IbmService, folder: Path) -> None:
        self._options, self._service, self._folder = options, service, folder
        self._sessions = Sessions()
        self._leases: dict[SessionId, tuple[str, float]] = {}  # with their ends, since the epoch
        self._lock = threading.Lock()  # for the whole time in which one of IBM's is opened
        self._ours: dict[SessionId, _Opened] = {}

    def open(self, lease: str = "", longest_s: float = 0.0) -> SessionId:
        """Return a new session, for a lease or for none; IBM is asked with its first task."""
        session = self._sessions.open()
        if lease:
            self._leases[session] = (lease, time.time() + longest_s)
            with self._lock:
                for one in self._read():
                    if one.lease == lease and not one.may_be_closed():
                        self._ours[session] = one
        return session

    def close(self, session: SessionId) -> None:
        """Close a session, and IBM's. Raises as `close_left`, which is then to be called again."""
        self._sessions.close(session)
        self._leases.pop(session, None)
        with self._lock:
            found = self._ours.pop(session, None)
            if found is not None:
                self._write(replace(found, is_over=True))
        self.close_left()

    def check(self, session: SessionId) -> None:
        """Raise ``UnknownSession`` unless the session is open."""
        self._sessions.check(session)

    def of_tasks(self, session: SessionId) -> str | None:
        """Return IBM's session or batch that tasks run in, opened if need be; None to run them alone.

        Raises what `IbmService.submitting` raises, and ``UnknownSession``.
        """
        given = self._options.session
        if given is not None:
            if self._accepts_jobs(given):
                return given
            raise AccessDenied(
                f"session {given!r} of IBM's takes no jobs any more, and nothing was started; give "
                "one that is open, such as that of another Slurm job, or leave out the option"
            )
        lease, until_s = self._leases.get(session, ("", math.inf))
        dedicated = bool(lease) and self._options.session_s is not None
        longest_s = self._options.session_s if dedicated else self._options.batch_s
        if longest_s is None:
            return None
        with self._lock:  # or starts at the same time would open one each, and all are billed
            found = self._ours.get(session)
            if found is not None and self._accepts_jobs(found.id):
                return found.id
            self._sessions.check(session)  # it may have been closed meanwhile
            if found is not None:
                self._write(replace(found, is_over=True))
            left_s = max(1, math.ceil(min(longest_s, until_s - time.time())))
            opened = _Opened(
                id=self._opened(left_s, "dedicated" if dedicated else "batch"),
                lease=lease,
                until_s=time.time() + left_s,
            )
            self._write(opened)
            self._ours[session] = opened
            return opened.id

    def close_left(self) -> None:
        """Close what nobody needs at IBM, also of processes that died.

        Raises `AccessDenied` or `QpuUnavailable` for what stays open.
        """
        with self._lock:
            in_use = {one.id for one in self._ours.values()}
            left = [one for one in self._read() if one.may_be_closed() and one.id not in in_use]
        for one in left:
            # One that was closed for being idle, or too old, is refused.
            with contextlib.suppress(Refused):
                self._service.asking(self._service.client.close_session, one.id)
            self._path(one.id).unlink(missing_ok=True)

    def _opened(self, longest_s: int, mode: str) -> str:
        answer = self._service.submitting(
            self._service.client.create_session,
            self._options.device,
            self._options.instance,
            longest_s,
            mode,
        )
        made = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(made, str) or not SESSION_ID.fullmatch(made):
            raise QpuUnavailable(f"the service opened a session and calls it {made!r:.100}")
        return made

    def _accepts_jobs(self, session: str) -> bool:
        try:
            details = self._service.asking(self._service.client.session_details, session)
        except Refused:
            return False
        return bool(details.get("accepting_jobs")) and details.get("state") != "closed"

    def _read(self) -> Iterator[_Opened]:
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                # A draft of a process that was killed, or the file of another version, is left.
                with contextlib.suppress(OSError, ValueError, TypeError):
                    if entry.name.endswith(".json"):
                        yield _Opened(**json.loads(Path(entry.path).read_bytes()))

    def _write(self, one: _Opened) -> None:
        replace_durably(self._path(one.id), json.dumps(asdict(one)).encode())

    def _path(self, session: str) -> Path:
        return self._folder / f"{session}.json"
