"""The process that simulates: reads tasks from its parent, runs each part exactly once."""

from __future__ import annotations

import hashlib
import os
import socket
import time
import traceback
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.aer.spool import Spool
from backends.aer.wire import receive, send
from backends.api import TaskState
from backends.frames import pack, unpack

if TYPE_CHECKING:
    from backends.circuits import FrozenCircuit

__all__ = ["Worker", "load_libraries"]

_CIRCUITS = 512


def load_libraries() -> None:
    """Import what simulations need; takes seconds, starts no thread."""
    import qiskit_aer.library
    import qiskit_aer.noise  # noqa: F401

    import backends.aer.engine
    import backends.aer.pubs
    import backends.payloads
    import backends.results  # noqa: F401


class Worker:
    """One worker process: its engine, the circuits it holds, the line to its parent."""

    def __init__(self, connection: socket.socket, settings: dict[str, Any]) -> None:
        from backends.aer.engine import Engine
        from backends.aer.pubs import PubRunner
        from backends.profiles import load_profile

        self._connection = connection
        self._spool = Spool(Path(settings["spool"]))
        self._circuits: OrderedDict[str, FrozenCircuit] = OrderedDict()
        name = settings["profile"]
        profile = None if name is None else load_profile(name)
        self._runner = PubRunner(Engine(profile), profile.readout if profile else None)
        self._orphan = False

    def serve(self) -> None:
        """Run tasks until the parent is gone, and finish what it left half distributed."""
        last: tuple[dict[str, Any], bytes] | None = None
        self._tell({"op": "ready", "pid": os.getpid()})
        while not self._orphan and (message := receive(self._connection)) is not None:
            header, (payload,) = unpack(message)
            last = header, payload
            self._run_part(header, payload, header["part"])
        if last is not None:
            self._run_the_rest(*last)

    def _run_the_rest(self, header: dict[str, Any], payload: bytes) -> None:
        """Run the parts of the last task that the parent, now dead, gave to nobody.

        The parent may have died after it heard of this worker's own part as well as before.
        """
        for part in range(len(header["blocks"])):
            record = self._spool.read(header["tag"])
            if record is not None and record.state is TaskState.RUNNING:
                self._run_part(header, payload, part)

    def _pubs(self, payload: bytes) -> tuple[Any, ...]:
        """Read a payload; its circuits may be there from an earlier one."""
        from backends.payloads import EstimatorPayload, FrozenEstimatorPub, FrozenSamplerPub
        from backends.payloads.pubs import pubs_from_frames

        header, frames = unpack(payload)
        estimator = header["kind"] == EstimatorPayload.kind
        pub_type = FrozenEstimatorPub if estimator else FrozenSamplerPub
        pubs = pubs_from_frames(pub_type, header, frames, self._circuit)
        while len(self._circuits) > _CIRCUITS:
            self._circuits.popitem(last=False)
        return pubs

    def _circuit(self, qpy: bytes) -> FrozenCircuit:
        from backends.circuits import FrozenCircuit, load_qpy

        digest = hashlib.sha256(qpy).hexdigest()
        if digest not in self._circuits:
            circuit = self._circuits[digest] = FrozenCircuit(load_qpy(qpy))
            circuit.__dict__["digest"] = digest  # so that the bytes need not be kept
        self._circuits.move_to_end(digest)
        return self._circuits[digest]

    def _run_part(self, header: dict[str, Any], payload: bytes, part: int) -> None:
        tag, parts = header["tag"], len(header["blocks"])
        told = {"tag": tag, "part": part}
        if not self._spool.claim(tag, part, parts):
            self._tell({"op": "taken", **told})
            return
        try:
            data = self._simulate(header, self._pubs(payload), part)
        except Exception as error:  # noqa: BLE001  whatever a simulation does, only its task fails
            reason = _explain(error)
            self._spool.fail(tag, reason)
            self._tell({"op": "failed", "reason": reason, **told})
            return
        self._spool.store(tag, part, parts, data)
        self._tell({"op": "done", **told}, data)

    def _simulate(self, header: dict[str, Any], pubs: tuple[Any, ...], part: int) -> bytes:
        from qiskit.primitives import PrimitiveResult

        from backends.aer.blocks import PubBlock
        from backends.aer.pubs import Work
        from backends.api import Result, Usage
        from backends.payloads import SamplerPayload
        from backends.results import result_to_bytes

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

    def _tell(self, header: dict[str, Any], data: bytes = b"") -> None:
        try:
            send(self._connection, pack(header, [data]))
        except OSError:  # the parent is dead; the spool has what it needs to know
            self._orphan = True


def _explain(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = (
        "" if type(error).__name__ == "SimulationFailed" else f" ({last.filename}:{last.lineno})"
    )
    return f"{str(error) or type(error).__name__}{where}"
