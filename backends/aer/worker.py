"""The processes that simulate: a zygote that imports Aer once, and the workers that it forks.

A fork takes milliseconds where the import takes seconds, and workers share its memory. The zygote
runs no simulation itself, so no OpenMP thread exists when it forks.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import OrderedDict
from pathlib import Path
from typing import Any

import qiskit_aer.library
import qiskit_aer.noise  # noqa: F401  # loaded before workers are forked
from qiskit.primitives import PrimitiveResult

from backends.aer.blocks import PubBlock
from backends.aer.engine import Engine, SimulationFailed
from backends.aer.pubs import PubRunner, Work
from backends.aer.spool import Spool
from backends.aer.wire import receive, send
from backends.api import Result, TaskState, Usage
from backends.circuits import FrozenCircuit, load_qpy
from backends.frames import pack, unpack
from backends.payloads import (
    EstimatorPayload,
    FrozenEstimatorPub,
    FrozenSamplerPub,
    SamplerPayload,
)
from backends.payloads.pubs import pubs_from_frames
from backends.profiles import load_profile
from backends.results import result_to_bytes

__all__ = ["Worker", "main"]

_CIRCUITS = 512
_STDERR = 2
_REQUEST_BYTES = 1 << 16


class Worker:
    """One worker process: its engine, the circuits it holds, the line to its parent."""

    def __init__(self, connection: socket.socket, settings: dict[str, Any]) -> None:
        self._connection = connection
        self._spool = Spool(Path(settings["spool"]))
        self._circuits: OrderedDict[str, FrozenCircuit] = OrderedDict()
        name = settings["profile"]
        profile = None if name is None else load_profile(name)
        engine = Engine(profile, noisy=not settings["noiseless"])
        readout = profile.readout if profile is not None and not settings["noiseless"] else None
        self._runner = PubRunner(engine, readout)
        self._orphan = False

    def serve(self) -> None:
        """Run tasks until the parent is gone, then the rest of the last one."""
        last: tuple[dict[str, Any], bytes] | None = None
        self._send({"op": "ready", "pid": os.getpid()})
        while not self._orphan and (message := receive(self._connection)) is not None:
            header, (payload,) = unpack(message)
            last = header, payload
            self._run_part(header, payload, header["part"])
        if last is not None:
            self._run_the_rest(*last)

    def _run_the_rest(self, header: dict[str, Any], payload: bytes) -> None:
        """Run the parts of the last task that its parent, now dead, sent to no worker."""
        for part in range(len(header["blocks"])):
            record = self._spool.read(header["tag"])
            if record is not None and record.state is TaskState.RUNNING:
                self._run_part(header, payload, part)

    def _pubs(self, payload: bytes) -> tuple[Any, ...]:
        """Read a payload; its circuits may be there from an earlier one."""
        header, frames = unpack(payload)
        estimator = header["kind"] == EstimatorPayload.kind
        pub_type = FrozenEstimatorPub if estimator else FrozenSamplerPub
        pubs = pubs_from_frames(pub_type, header, frames, self._circuit)
        while len(self._circuits) > _CIRCUITS:
            self._circuits.popitem(last=False)
        return pubs

    def _circuit(self, qpy: bytes) -> FrozenCircuit:
        digest = hashlib.sha256(qpy).hexdigest()
        if digest not in self._circuits:
            circuit = self._circuits[digest] = FrozenCircuit(load_qpy(qpy))
            circuit.__dict__["digest"] = digest  # so that the bytes need not be kept
        self._circuits.move_to_end(digest)
        return self._circuits[digest]

    def _run_part(self, header: dict[str, Any], payload: bytes, part: int) -> None:
        tag, parts = header["tag"], len(header["blocks"])
        report = {"tag": tag, "part": part}
        if not self._spool.claim(tag, part, parts):
            self._send({"op": "taken", **report})
            return
        try:
            data = self._simulate(header, self._pubs(payload), part)
        except Exception as error:  # noqa: BLE001  whatever a simulation does, only its task fails
            reason = _explain(error)
            self._spool.fail(tag, reason)
            self._send({"op": "failed", "reason": reason, **report})
            return
        self._spool.store(tag, part, parts, data)
        self._send({"op": "done", **report}, data)

    def _simulate(self, header: dict[str, Any], pubs: tuple[Any, ...], part: int) -> bytes:
        started = time.perf_counter()
        blocks = [PubBlock(**block) for block in header["blocks"][part]]
        native = PrimitiveResult(
            [
                self._runner.run(
                    Work(
                        pub=pubs[block.pub],
                        block=block,
                        method=header["methods"][block.pub],
                        seed=header["seeds"][block.pub],
                        threads=header["threads"],
                    )
                )
                for block in blocks
            ]
        )
        facts = {
            **header["facts"],
            "threads": header["threads"],
            "worker_pid": os.getpid(),
            "simulation_s": time.perf_counter() - started,
        }
        result = Result(native=native, usage=Usage(), metadata=facts)
        return result_to_bytes(result, SamplerPayload.kind)

    def _send(self, header: dict[str, Any], data: bytes = b"") -> None:
        try:
            send(self._connection, pack(header, [data]))
        except OSError:  # the parent is dead; a later one reads the spool
            self._orphan = True


def _explain(error: Exception) -> str:
    text = str(error) or type(error).__name__
    last = traceback.extract_tb(error.__traceback__)[-1]
    is_aers = isinstance(error, SimulationFailed)
    return text if is_aers else f"{text} ({last.filename}:{last.lineno})"


def main() -> None:
    """Fork workers until the parent ends. Standard input is the socket to the parent.

    A request is settings as JSON with two descriptors, socket and stderr; the answer is a pid.
    """
    os.umask(0o077)  # what it writes is its owner's alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
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
