"""The child's side: opens one backend and answers calls until its standard input is closed."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import resource
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from backends.child.served import Served, serve_backend, serve_device, serve_payload_device
from backends.child.wire import PROTOCOL, Line, LineClosed, LineGarbled, LineStuck
from backends.errors import BackendError
from backends.secret_text import SecretText

__all__ = ["main"]

_STDIN, _STDOUT, _STDERR = 0, 1, 2
# Calls at a time; most of them wait for the end of a task.
_THREADS = 128
_SEND_S = 600.0
_PAGE_BYTES = resource.getpagesize()


def main() -> None:
    """Serve on standard input and output; returns when the other end is gone."""
    line = _take_line()
    os.umask(0o077)  # what it writes is its owner's alone
    _send(line, {"protocols": [PROTOCOL], "python": platform.python_version(), "pid": os.getpid()})
    try:
        opening, _ = line.receive()
    except (LineClosed, LineGarbled):
        return
    served = _opened(line, opening)
    if served is None:
        return
    calls = ThreadPoolExecutor(_THREADS, thread_name_prefix="call")
    try:
        while True:
            header, frames = line.receive()
            if header.get("call") == "ping":
                _send(line, {"id": header["id"], **_memory()})
            elif header.get("call") == "close":
                break
            else:
                calls.submit(_answer, line, served, header, frames)
    except (LineClosed, LineGarbled):
        pass
    with contextlib.suppress(Exception):
        served.close()
    sys.stderr.flush()
    os._exit(0)  # a thread that hangs in an SDK must not keep the process


def _take_line() -> Line:
    """Keep the pipe for messages alone: whatever else prints goes to the standard error."""
    line = Line(os.dup(_STDIN), os.dup(_STDOUT))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    os.dup2(_STDERR, _STDOUT)
    sys.stdout = sys.stderr
    return line


def _opened(line: Line, opening: Mapping[str, Any]) -> Served | None:
    """Import and open the backend; send how it is served, or why it is not."""
    try:
        if opening.get("protocol") != PROTOCOL:
            raise ValueError(f"protocol {opening.get('protocol')!r}; spoken here is {PROTOCOL}")
        _bound_memory(int(opening["memory_bytes"]))
        served = _open(opening)
    except Exception as error:  # noqa: BLE001 - an SDK may raise anything; hpcqc reports it
        kind = "import" if isinstance(error, ImportError) else type(error).__name__
        _send(line, {"refused": kind, "message": f"{error}"})
        return None
    _send(line, {"opened": True, **served.about})
    return served


def _open(opening: Mapping[str, Any]) -> Served:
    module, _, attribute = opening["factory"].partition(":")
    factory: Any = importlib.import_module(module)
    for name in attribute.split("."):
        factory = getattr(factory, name)
    options, state_dir = dict(opening["options"]), Path(opening["state_dir"])
    for name, path in opening.get("secret_files", {}).items():
        options[name] = SecretText.read_from(path, options[name])
    device = getattr(factory, "device", None)
    opened = None if device is None else device(options, state_dir=state_dir)
    if opened is not None:
        return serve_device(opened)
    payload_device = getattr(factory, "payload_device", None)
    if payload_device is not None:
        return serve_payload_device(payload_device(options, state_dir=state_dir))
    return serve_backend(factory(options, state_dir=state_dir))


def _bound_memory(most: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _answer(line: Line, served: Served, header: Mapping[str, Any], frames: list[bytes]) -> None:
    try:
        answer, attached = served.call(header["call"], header, frames)
    except BackendError as error:
        retry_after_s = getattr(error, "retry_after_s", None)
        answer = {
            "error": type(error).__name__,
            "message": str(error),
            "retry_after_s": retry_after_s,
        }
        attached = []
    except MemoryError:
        answer, attached = {"error": "MemoryError", "message": ""}, []
    except BaseException as error:  # noqa: BLE001 - an SDK may raise anything; hpcqc reports it
        answer = {"error": "unexpected", "message": f"{type(error).__name__}: {error}"}
        attached = []
    with contextlib.suppress(LineClosed, LineStuck):
        line.send({"id": header["id"], **answer}, attached, timeout_s=_SEND_S)


def _send(line: Line, header: Mapping[str, Any]) -> None:
    with contextlib.suppress(LineClosed, LineStuck):
        line.send(header, timeout_s=_SEND_S)


def _memory() -> dict[str, int]:
    resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_bytes": int(resident) * _PAGE_BYTES, "peak_memory_bytes": peak * 1024}
