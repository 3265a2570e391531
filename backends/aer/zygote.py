"""The process that imports Aer once and forks a worker whenever one is asked for.

A fork takes milliseconds where the import takes seconds, and workers share its memory. It
runs no simulation itself, so no OpenMP thread exists when it forks.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import traceback

from backends.aer.wire import send
from backends.aer.worker import Worker, load_libraries
from backends.frames import pack

__all__ = ["main"]

_STDERR = 2
_REQUEST_BYTES = 1 << 16


def main() -> None:
    """Fork workers until the parent is gone. Standard input is the line to the parent.

    A request is the worker's settings as JSON, and comes with two file descriptors: the worker's
    line to the parent and where its errors go. The answer is its process id.
    """
    os.umask(0o077)  # what it writes is its owner's alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    load_libraries()
    gc.collect()
    gc.freeze()  # what is imported stays shared between the workers
    bell, ring = socket.socketpair()
    ring.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring.fileno())
    control = socket.socket(fileno=0)
    send(control, pack({"op": "up"}))
    while True:
        readable, _, _ = select.select([control, bell], [], [])
        if bell in readable:
            bell.recv(4096)
            _report_dead(control)
        if control in readable:
            message, descriptors, _, _ = socket.recv_fds(control, _REQUEST_BYTES, 2)
            if not message:
                return
            _fork(control, json.loads(message), descriptors, (bell, ring))


def _fork(
    control: socket.socket,
    settings: dict[str, object],
    descriptors: list[int],
    bells: tuple[socket.socket, socket.socket],
) -> None:
    line, errors = descriptors
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (control, *bells):
                end.close()
            os.setsid()
            os.dup2(errors, _STDERR)
            os.close(errors)
            with socket.socket(fileno=line) as connection:
                Worker(connection, settings).serve()
            status = 0
        except BaseException:  # noqa: BLE001  # the traceback is its last words
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(line)
    os.close(errors)
    send(control, pack({"op": "forked", "pid": pid}))


def _report_dead(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        try:
            send(control, pack({"op": "ended", "pid": pid, "code": code}))
        except OSError:  # the parent is gone; the next read says so
            return
