"""An annealer of D-Wave's cloud: problems submitted with a label, by which they are found again."""

from __future__ import annotations

import os
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any

import numpy as np
from dwave.cloud.api import models
from dwave.cloud.coders import decode_qp_numpy, encode_problem_as_qp
from numpy.typing import NDArray

from backends.annealing.embedding import Chains, embedded, find_chains, unembedded
from backends.annealing.sapi import SapiClient
from backends.annealing.wire import AnnealingSamples, problems_from_frames, samples_to_frames
from backends.devices.api import PlainPayload, PlainResult
from backends.durable import replace_durably
from backends.errors import (
    AccessDenied,
    PayloadRejected,
    QpuBusy,
    QpuUnavailable,
    TaskCancelled,
    TaskFailed,
    TaskNotFinished,
    UnknownTask,
)
from backends.frames import FrameError, pack, unpack
from backends.quadratic_models import SPIN
from backends.recent import Recent
from backends.shared_looks import SharedLooks

__all__ = ["CloudAnnealer"]

_STATES = {
    "PENDING": "queued",
    "IN_PROGRESS": "running",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}
_PROBLEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,199}")
_FRESH_S = 300.0
# A call may take 30 s; the request comes after it.
_EMBEDDING_S = 15.0
_RECORDS_S = 180 * 86_400.0
# How long a submitted problem may be missing in the service's list.
_SETTLES_S = 10.0
# Bounds of what an answer may state; no annealer comes near.
_MOST_ASKED = 500  # ids in one request; the service takes 1000
_MOST_QUBITS, _LONGEST_US = 100_000, 86_400e6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Solver:
    """What of a solver decides how problems are written."""

    identity: models.SolverIdentity
    qubits: tuple[int, ...]
    couplers: tuple[tuple[int, int], ...]
    most_reads: int
    taken_at: str

    @property
    def _encoding_qubits(self) -> tuple[int, ...]:  # as the SDK's encoder asks for them
        return self.qubits

    @property
    def _encoding_couplers(self) -> tuple[tuple[int, int], ...]:
        return self.couplers


class CloudAnnealer:
    """See ``backends.devices.api.PayloadDevice``.

    records: folder of what is needed to read answers, a file for each label. parameters: of the
    solver, sent with each problem.
    """

    def __init__(
        self,
        client: SapiClient,
        solver: str,
        records: Path,
        *,
        parameters: Mapping[str, Any],
    ) -> None:
        self._client, self._name, self._records = client, solver, records
        self._parameters = dict(parameters)
        self._shared: SharedLooks[str] = SharedLooks(self._states)
        self._open: dict[str, str] = {}  # states as last known
        # Its graph changes rarely.
        self._solver = Recent(self._asked, _FRESH_S)

    def target(self) -> Mapping[str, Any]:
        """Return the solver's bounds; models are embedded here, so all variables may interact."""
        solver = self._solver.get_or_last()
        version = solver.identity.version
        graph = "" if version is None else version.graph_id or ""
        return {
            "name": self._name,
            "num_qubits": len(solver.qubits),
            "payload_kinds": ["annealing"],
            "site_transpiles": True,
            "mid_circuit_measurement": False,
            "coupling_class": "batch",
            "max_shots": solver.most_reads,
            "max_circuits": 1,
            "max_concurrent_tasks": None,
            "durable": True,
            "calibration": {"id": graph or self._name, "taken_at": solver.taken_at},
        }

    def start(self, job: PlainPayload, tag: str) -> str:
        """Embed a problem and submit it with the tag as its label, unless it was before."""
        is_repeated = self._record(tag).exists()
        if is_repeated:
            known = self.find(tag)
            if known is not None:
                return known
        (problem,) = problems_from_frames(job.header["problems"], job.frames)
        solver, model = self._solver.get_or_last(), problem.model.as_vartype(SPIN)
        chains = find_chains(model, solver.qubits, solver.couplers, timeout_s=_EMBEDDING_S)
        fields, couplings = embedded(model, chains, solver.couplers)
        self._write(tag, job, chains)
        body = models.ProblemJob(
            data=models.StructuredProblemData(**encode_problem_as_qp(solver, fields, couplings)),
            params={**self._parameters, "num_reads": problem.reads, "answer_mode": "histogram"},
            solver=solver.identity,
            type="ising",
            label=tag,
        )
        try:
            return self._client.submit(body)
        except (AccessDenied, PayloadRejected, QpuBusy):
            if not is_repeated:
                self._record(tag).unlink(missing_ok=True)  # surely nothing was started
            raise

    def find(self, tag: str) -> str | None:
        """Return the first problem of a label; cancel others, which a gateway has doubled.

        Raises `QpuUnavailable` while the service may not list a problem yet.
        """
        if not _LABEL.fullmatch(tag):
            return None
        found = self._client.problems(tag)
        for surplus in found[1:]:
            if surplus.status in ("PENDING", "IN_PROGRESS"):
                with suppress(UnknownTask, QpuUnavailable):
                    self._client.cancel(surplus.id)
        if found:
            return str(found[0].id)
        self._check_settled(tag)
        return None

    def status(self, task: str) -> str:
        """See ``PayloadDevice.status``; of many problems one request asks for all."""
        if not _PROBLEM.fullmatch(task):
            raise UnknownTask(f"{task!r:.100} is no id of a problem")
        state = self._shared.look(task, self._open.get(task, "queued"))
        if state is None:
            state = self._state(self._known(task))
        if state in ("queued", "running"):
            self._open[task] = state
        else:
            self._open.pop(task, None)
            self._shared.forget(task)
        return state

    def _states(self, problems: Sequence[str]) -> Mapping[str, str]:
        found = self._client.statuses(problems[-_MOST_ASKED:])
        return {str(one.id): self._state(one) for one in found}

    def result(self, task: str) -> PlainResult:
        """Read an answer: qubits of a chain decide by majority, energies are those of the model."""
        known = self._known(task)
        state = self._state(known)
        if state == "failed":
            raise TaskFailed(f"{task} failed: {_message(known)}")
        if state == "cancelled":
            raise TaskCancelled(f"{task} was cancelled")
        if state != "completed":
            raise TaskNotFinished(f"{task} is {state}; wait until it has ended")
        payload, chains = self._read(task, known.label or "")
        (problem,) = problems_from_frames(payload.header["problems"], payload.frames)
        answer = self._client.answer(task)
        try:
            spins, occurrences, timing = _decoded(answer, problem.reads)
            found, broken = unembedded(spins, chains)
            qpu_us = _time_us(timing)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise TaskFailed(f"the answer of {task} cannot be read: {error}") from error
        values = found if problem.model.vartype == SPIN else (found + 1) // 2
        samples = AnnealingSamples.counted(
            problem.model.vartype, values, problem.model.energies(values), occurrences
        )
        header, frames = samples_to_frames([samples])
        return PlainResult(
            header=header,
            frames=tuple(frames),
            qpu_seconds=qpu_us / 1e6,
            metadata={
                "device": self._name,
                "solver": known.solver.to_id(),
                "longest_chain": max(map(len, chains)),
                "broken_chains": broken,
                "timing_us": {name: value for name, value in timing.items() if _is_number(value)},
            },
            kind="annealing",
            circuits=1,
            shots=problem.reads,
            num_qubits=problem.model.num_variables,
        )

    def stop(self, task: str) -> None:
        """Ask for the end of a problem."""
        if self._state(self._known(task)) in ("queued", "running"):
            self._client.cancel(task)

    def close(self) -> None:
        """Do nothing: connections last as long as a call, and problems go on."""

    def _known(self, task: str) -> models.ProblemStatus:
        if not _PROBLEM.fullmatch(task):
            raise UnknownTask(f"{task!r:.100} is no id of a problem")
        return self._client.status(task)

    def _state(self, problem: models.ProblemStatus) -> str:
        stated = str(problem.status.value)
        if stated not in _STATES:
            raise QpuUnavailable(
                f"{problem.id} is in state {stated!r:.40}; known are {', '.join(_STATES)}"
            )
        return _STATES[stated]

    def _asked(self, known: _Solver | None) -> _Solver:
        try:
            read = _solver(self._client.solver(self._name), self._name)
        except UnknownTask as error:
            raise QpuUnavailable(
                f"{self._client.url} has no solver {self._name!r}: {error}"
            ) from error
        if known is not None and read.identity == known.identity:
            return replace(read, taken_at=known.taken_at)
        return read

    def _check_settled(self, tag: str) -> None:
        """Raise `QpuUnavailable` if a problem of this label may be missing in the list so far."""
        try:
            age_s = time() - self._record(tag).stat().st_mtime
        except FileNotFoundError:  # nothing was submitted from here
            return
        if 0 <= age_s < _SETTLES_S:
            raise QpuUnavailable(
                f"{self._client.url} does not list the problem of {tag} yet, whose submission got "
                "no answer; it is asked again",
                retry_after_s=_SETTLES_S - age_s,
            )

    def _record(self, tag: str) -> Path:
        return self._records / f"{tag}.problem"

    def _write(self, tag: str, job: PlainPayload, chains: Chains) -> None:
        self._records.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._purge()
        data = pack({"payload": job.header, "chains": chains}, job.frames)
        replace_durably(self._record(tag), data)

    def _purge(self) -> None:
        """Remove records of problems whose answers the service has forgotten long ago."""
        oldest_s = time() - _RECORDS_S
        for entry in os.scandir(self._records):
            with suppress(OSError):
                if entry.stat().st_mtime < oldest_s:
                    Path(entry.path).unlink()

    def _read(self, task: str, label: str) -> tuple[PlainPayload, Chains]:
        try:
            if not _LABEL.fullmatch(label):
                raise ValueError(f"its label is {label!r:.100}")
            stated, frames = unpack(self._record(label).read_bytes())
            chains = tuple(tuple(chain) for chain in stated["chains"])
            return PlainPayload(header=stated["payload"], frames=tuple(frames)), chains
        except (OSError, ValueError, KeyError, TypeError, FrameError) as error:
            raise TaskFailed(
                f"{task} is complete, and how its model lies on the qubits is lost: {error}"
            ) from error


def _solver(stated: models.SolverConfiguration, name: str) -> _Solver:
    try:
        properties = stated.properties
        category = properties.get("category", "qpu")
        if category == "hybrid" or "couplers" not in properties:
            raise PayloadRejected(
                f"solver {name!r} is of category {category!r}; only annealers and simulators of them, "
                "which state qubits and couplers, are spoken to"
            )
        reads = properties.get("num_reads_range") or [1, 10_000]
        return _Solver(
            identity=stated.identity,
            qubits=tuple(int(qubit) for qubit in properties["qubits"]),
            couplers=tuple((int(a), int(b)) for a, b in properties["couplers"]),
            most_reads=int(reads[1]),
            taken_at=datetime.now(UTC).isoformat(),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise QpuUnavailable(f"solver {name!r} states no qubits and couplers: {error}") from error


def _decoded(
    answer: models.ProblemAnswer, reads: int
) -> tuple[NDArray[np.int8], NDArray[np.int64], Mapping[str, Any]]:
    """Return spins of shape (samples, qubits), how often each came, and times in µs.

    Raises ``ValueError``, among others, for what no annealer answers to so many reads.
    """
    stated = answer.model_dump(mode="json")
    qubits, samples = stated["num_variables"], len(b64decode(stated["energies"])) // 8
    if not 0 < qubits <= _MOST_QUBITS or not 0 < samples <= reads:
        raise ValueError(f"{samples} samples of {qubits} qubits after {reads} reads")
    found = decode_qp_numpy({"answer": stated, "type": "ising"})
    occurrences = np.asarray(found["num_occurrences"], dtype=np.int64)
    if occurrences.shape != (samples,) or (occurrences < 1).any() or occurrences.sum() != reads:
        raise ValueError(f"samples that came {occurrences.tolist()!r:.100} times in {reads} reads")
    return np.asarray(found["solutions"], dtype=np.int8), occurrences, found["timing"]


def _time_us(timing: Mapping[str, Any]) -> float:
    stated = timing.get("qpu_access_time", 0)
    if not _is_number(stated) or not 0 <= stated <= _LONGEST_US:
        raise ValueError(f"a QPU time of {stated!r:.60} µs")
    return float(stated)


def _message(problem: models.ProblemStatus) -> str:
    stated = getattr(problem, "error_message", None) or getattr(problem, "messages", None)
    return str(stated or "the service gives no reason")[:300]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
