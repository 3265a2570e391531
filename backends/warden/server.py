"""A Warden rehearsed: the server before a machine of Pasqal at a site, over a simulated device.

It follows the routes of Warden's public source (github.com/pasqal-io/warden, 2026), and shares no code
with the backend that speaks to it: qrmi runs against it unchanged (tests/vendors).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from backends.api import PayloadRejected, TaskState
from backends.payloads import AnalogPayload
from backends.rehearsal import RehearsedDevice, RehearsedJob, Simulator

__all__ = ["SESSION", "RehearsedWarden", "warden"]

# The session of the user who rehearses; others are opened by POST /sessions.
SESSION = "5e551000-0000-4000-8000-000000000001"

_STATUS = {
    TaskState.QUEUED: "PENDING",
    TaskState.RUNNING: "RUNNING",
    TaskState.COMPLETED: "DONE",
    TaskState.FAILED: "ERROR",
    TaskState.CANCELLED: "CANCELED",
}
_UNMUNGE_S = 10.0
_UID = re.compile(r"^UID:.*\((\d+)\)\s*$", re.MULTILINE)
_REMEMBERED = 10_000


class _Refused(Exception):
    """A request that the server refuses, with its status."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(str(detail))
        self.status, self.detail = status, detail


class _Munge:
    """Checks credentials by the program ``unmunge``, where there is one; each is good once.

    Munge vouches for every user of the machine, and only the one who rehearses is let in.
    """

    def __init__(self) -> None:
        self._used: dict[str, None] = {}
        self._lock = threading.Lock()

    def accepts(self, credential: str) -> bool:
        program = shutil.which("unmunge")
        if program is None or not credential.startswith("MUNGE:"):
            return False
        with self._lock:
            if credential in self._used:
                return False  # replayed
            self._used[credential] = None
            while len(self._used) > _REMEMBERED:
                del self._used[next(iter(self._used))]
        try:
            done = subprocess.run(
                [program, "--output=/dev/null", "--metadata=-", "--keys=UID"],
                input=credential,
                text=True,
                capture_output=True,
                timeout=_UNMUNGE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        user = _UID.search(done.stdout)
        return done.returncode == 0 and user is not None and int(user[1]) == os.geteuid()


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedWarden:
    """A site with a Warden. can_cancel: whether it is newer than release 0.1."""

    profile: Simulator
    assumed: tuple[str, ...]
    can_cancel: bool = True
    backend: str = "warden"
    munge: _Munge = field(default_factory=_Munge)

    def accepts(self, credential: str) -> bool:
        """Whether Munge vouches for a credential that was not used before."""
        return self.munge.accepts(credential)

    def is_public(self, method: str, path: str) -> bool:
        """Whether a request needs no credential."""
        return method == "GET" and path in ("/accessible", "/qpu-slots")

    def call(self, method: str, path: str) -> str | None:
        """See `Dialect.call`."""
        match method, path.strip("/").split("/"):
            case "POST", ["jobs"]:
                return "submit"
            case "GET", ["jobs", _]:
                return "status"
            case "POST", ["jobs", _, "cancel"]:
                return "cancel"
            case "GET", ["qpu", "specs"]:
                return "target"
            case _:
                return "other"

    def error(self, status: int, reason: str) -> dict[str, Any]:
        """See `Dialect.error`."""
        del status
        return {"detail": reason}

    def options(self, url: str, token_file: Path, clock_scale: float) -> Mapping[str, Any]:
        """See `Dialect.options`."""
        return {
            "url": url,
            "session": SESSION,
            "token": {"file": str(token_file)},
            "device": self.profile.options["device"],
            "time_scale": clock_scale,
        }

    def router(self, device: RehearsedDevice) -> APIRouter:
        """See `Dialect.router`."""
        return _Server(self, device).router()


@dataclass(slots=True)
class _Server:
    """The routes, each a method that returns JSON or raises `_Refused`."""

    site: RehearsedWarden
    device: RehearsedDevice
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[int, RehearsedJob] = field(default_factory=dict)
    accessible: dict[str, Any] = field(
        default_factory=lambda: {"is_accessible": True, "message": ""}
    )
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.sessions[SESSION] = {"id": SESSION, "user_id": "0", "slurm_job_id": "0"}

    def router(self) -> APIRouter:
        router = APIRouter()
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("POST", "/sessions", self.open_session),
            ("DELETE", "/sessions", self.close_session),
            ("DELETE", "/sessions/{session}", self.close_session),
            ("POST", "/jobs", self.submit),
            ("GET", "/jobs", self.list),
            ("GET", "/jobs/{job}", self.job),
            ("GET", "/qpu/specs", self.specs),
            ("GET", "/accessible", self.read_accessible),
            ("POST", "/accessible", self.write_accessible),
        ]
        if self.site.can_cancel:
            routes.append(("POST", "/jobs/{job}/cancel", self.cancel))
            routes.append(("GET", "/jobs/{job}/logs", self.logs))
        for method, path, answer in routes:
            router.add_api_route(path, _endpoint(answer), methods=[method])
        return router

    async def open_session(self, request: Request) -> dict[str, Any]:
        body = _object(await request.json())
        scheduler_job = body.get("scheduler_job_id", body.get("slurm_job_id"))
        if "user_id" not in body or scheduler_job is None:
            raise _Refused(422, [{"loc": ["body", "user_id"], "msg": "Field required"}])
        name = str(uuid.uuid4())
        made = {
            "id": name,
            "user_id": str(body["user_id"]),
            "slurm_job_id": str(scheduler_job),
            "created_at": _iso(time.time()),
            "revoked_at": None,
        }
        self.sessions[name] = made
        return made

    async def close_session(self, request: Request) -> dict[str, Any]:
        name = str(request.path_params.get("session") or request.headers.get("x-warden-session"))
        found = self.sessions.get(name)
        if found is None:
            raise _Refused(404, "Session not found.")
        found["revoked_at"] = _iso(time.time())
        return found

    async def submit(self, request: Request) -> dict[str, Any]:
        session = self._session(request)
        body = _object(await request.json())
        sequence, shots = body.get("sequence"), body.get("shots")
        if not isinstance(sequence, str) or type(shots) is not int:
            raise _Refused(422, [{"loc": ["body"], "msg": "give a sequence and shots"}])
        if not self.accessible["is_accessible"]:
            raise _Refused(503, self.accessible["message"] or "QPU is not accessible.")
        try:
            payload = AnalogPayload.coerce([sequence], shots=shots)
            number = next(self.numbers)
            job = self.device.submit(
                payload,
                label=session["id"],
                details={"number": number, "user_id": session["user_id"]},
                fate=request.state.fate,
            )
        except PayloadRejected as error:
            raise _Refused(422, str(error)) from None
        self.jobs[number] = job
        return _described(job)

    async def list(self, request: Request) -> list[dict[str, Any]]:
        del request
        return [_described(job) for job in self.jobs.values()]

    async def job(self, request: Request) -> dict[str, Any]:
        return _described(self._job(request))

    async def cancel(self, request: Request) -> dict[str, Any]:
        job = self._job(request)
        if job.state.is_final:
            raise _Refused(409, f"Job with status '{_STATUS[job.state]}' can't be canceled")
        if self.device.position(job) is not None:
            self.device.cancel(job)
        else:  # one that is running ends when the machine looks
            job.stopped.set()
        return _described(job)

    async def logs(self, request: Request) -> dict[str, Any]:
        return {"logs": self._job(request).error or "There are no logs for this job"}

    async def specs(self, request: Request) -> dict[str, Any]:
        del request
        rydberg = self.device.target.rydberg
        assert rydberg is not None  # as of every simulator of atoms
        return {"specs": rydberg.specification}

    async def read_accessible(self, request: Request) -> dict[str, Any]:
        del request
        return self.accessible

    async def write_accessible(self, request: Request) -> dict[str, Any]:
        body = _object(await request.json())
        self.accessible = {
            "is_accessible": bool(body.get("is_accessible")),
            "message": str(body.get("message", "")),
        }
        return self.accessible

    def _session(self, request: Request) -> dict[str, Any]:
        name = request.headers.get("x-warden-session")
        if name is None:
            raise _Refused(403, "Missing 'X-Warden-Session' header.")
        found = self.sessions.get(name)
        if found is None:
            raise _Refused(403, "Invalid session.")
        if found.get("revoked_at") is not None:
            raise _Refused(403, "Session has been revoked.")
        return found

    def _job(self, request: Request) -> RehearsedJob:
        name = request.path_params["job"]
        if not name.isdecimal():
            raise _Refused(422, [{"loc": ["path", "id"], "msg": "give a whole number"}])
        found = self.jobs.get(int(name))
        if found is None:
            raise _Refused(404, "Job not found")
        return found


def _described(job: RehearsedJob) -> dict[str, Any]:
    results = None
    if job.result is not None:
        (counts,) = job.result.native
        results = json.dumps({"counter": dict(counts.counts)})
    return {
        "id": job.details["number"],
        "user_id": job.details["user_id"],
        "created_at": _iso(job.received_at),
        "status": _STATUS[job.state],
        "results": results,
    }


def _object(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise _Refused(422, [{"loc": ["body"], "msg": "give an object"}])
    return body


def _endpoint(answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> JSONResponse:
        try:
            return JSONResponse(await answer(request))
        except _Refused as refused:
            return JSONResponse({"detail": refused.detail}, refused.status)
        except ValueError as error:  # a body that is not JSON
            return JSONResponse({"detail": str(error)}, 422)

    return endpoint


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


warden = RehearsedWarden(
    profile=Simulator(
        title="A machine of Pasqal with up to 14 atoms, without noise",
        backend="rydberg",
        options={"device": "analog"},
    ),
    assumed=(
        (
            "Warden passes the machine's results on as they come; that they hold the counts under "
            "'counter' is what qrmi's adapter for Pulser reads"
        ),
        (
            "the status of a submission while the machine is not accessible is taken to be 503; jobs "
            "are taken in the order in which they come"
        ),
        "where no Munge runs, the server takes the token of its token file in X-Munge-Cred",
    ),
)
