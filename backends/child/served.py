"""What a child serves: a backend with payloads as bytes, or a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.api import Backend
    from backends.devices.api import FlatDevice, PayloadDevice

__all__ = ["Answer", "Call", "Served", "serve_backend", "serve_device", "serve_payload_device"]

Answer = tuple[dict[str, Any], list[bytes]]
Call = Callable[[Mapping[str, Any], list[bytes]], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Calls by name. about: what hpcqc is told of it once."""

    about: Mapping[str, Any]
    calls: Mapping[str, Call]
    close: Callable[[], None]

    def call(self, name: str, header: Mapping[str, Any], frames: list[bytes]) -> Answer:
        """Make a call; raises what the backend raises, and ``LookupError`` for an unknown name."""
        return self.calls[name](header, frames)


def serve_backend(backend: Backend) -> Served:
    """Serve a backend. Payloads and results travel as hpcqc stores them, circuits in QPY."""
    from backends.api import Leasing, QpuTaskId, SessionId, Waitable, start_with_labels
    from backends.latest import LatestTasks
    from backends.payloads import payload_from_bytes
    from backends.results import result_to_bytes
    from backends.targets import target_to_json

    kinds: LatestTasks[str] = LatestTasks()  # of the tasks started here

    def release(header: Mapping[str, Any], _frames: list[bytes]) -> Answer:
        backend.release(SessionId(header["session"]))
        return {}, []

    def stop(header: Mapping[str, Any], _frames: list[bytes]) -> Answer:
        backend.stop(QpuTaskId(header["task"]))
        return {}, []

    def start(header: Mapping[str, Any], frames: list[bytes]) -> Answer:
        payload = payload_from_bytes(frames[0])
        session, labels = SessionId(header["session"]), tuple(header.get("labels", ()))
        task = start_with_labels(backend, session, payload, header["tag"], labels)
        kinds.note(task, payload.kind)
        return {"task": task}, []

    def result(header: Mapping[str, Any], _frames: list[bytes]) -> Answer:
        task = QpuTaskId(header["task"])
        found = backend.result(task)
        kind = kinds.get(task) or header["kind"] or min(backend.target().payload_kinds)
        return {}, [result_to_bytes(found, kind)]

    calls: dict[str, Call] = {
        "target": lambda _header, _frames: ({"target": target_to_json(backend.target())}, []),
        "acquire": lambda _header, _frames: ({"session": backend.acquire()}, []),
        "release": release,
        "start": start,
        "find": lambda h, _frames: ({"task": backend.find(h["tag"])}, []),
        "status": lambda h, _frames: ({"state": backend.status(QpuTaskId(h["task"]))}, []),
        "result": result,
        "stop": stop,
    }
    waitable = isinstance(backend, Waitable)
    if isinstance(backend, Waitable):
        wait = backend.wait
        calls["wait"] = lambda h, _frames: (
            {"state": wait(QpuTaskId(h["task"]), h["timeout_s"])},
            [],
        )
    if isinstance(backend, Leasing):
        acquire_lease = backend.acquire_lease
        calls["acquire_lease"] = lambda h, _frames: (
            {"session": acquire_lease(h["lease"], h["longest_s"])},
            [],
        )
    return Served(
        about={
            "waitable": waitable,
            "leasing": isinstance(backend, Leasing),
            "flat": False,
            "labels": True,
        },
        calls=calls,
        close=backend.close,
    )


def serve_device(device: FlatDevice) -> Served:
    """Serve a device. Circuits travel as lists of gates, and results as counts."""
    from backends.devices.coding import job_from_frames, result_to_json

    return _served(
        device,
        start=job_from_frames,
        result=lambda found: (result_to_json(found), []),
        about={"flat": True},
    )


def serve_payload_device(device: PayloadDevice) -> Served:
    """Serve a device for other payloads, which travel as their bytes state them."""
    from backends.devices.coding import payload_from_frames, plain_result_to_frames

    return _served(
        device,
        start=payload_from_frames,
        result=plain_result_to_frames,
        about={"flat": False, "plain": True},
    )


def _served(
    device: Any,
    *,
    start: Callable[[Mapping[str, Any], list[bytes]], Any],
    result: Callable[[Any], Answer],
    about: Mapping[str, Any],
) -> Served:
    """Serve a device. start: reads its jobs; result: writes its results."""

    def stop(header: Mapping[str, Any], _frames: list[bytes]) -> Answer:
        device.stop(header["task"])
        return {}, []

    calls: dict[str, Call] = {
        "target": lambda _header, _frames: ({"target": dict(device.target())}, []),
        "start": lambda h, frames: ({"task": device.start(start(h, frames), h["tag"])}, []),
        "find": lambda h, _frames: ({"task": device.find(h["tag"])}, []),
        "status": lambda h, _frames: ({"state": device.status(h["task"])}, []),
        "result": lambda h, _frames: result(device.result(h["task"])),
        "stop": stop,
    }
    wait = getattr(device, "wait", None)
    if wait is not None:
        calls["wait"] = lambda h, _frames: ({"state": wait(h["task"], h["timeout_s"])}, [])
    return Served(about={"waitable": wait is not None, **about}, calls=calls, close=device.close)
