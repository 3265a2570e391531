"""A toy QPU for payloads of the kind annealing-toy: greedy descent from random spins."""

import threading
import uuid
from datetime import UTC, datetime

import numpy as np
from annealing import Samples, spins_of

from backends.api import (
    Calibration,
    QpuTaskId,
    Result,
    SessionId,
    Target,
    TaskCancelled,
    TaskNotFinished,
    TaskState,
    UnknownSession,
    UnknownTask,
    Usage,
)
from backends.metering import Metering
from backends.validate import check, check_tag

TARGET = Target(
    name="annealer",
    num_qubits=16,
    payload_kinds=frozenset({"annealing-toy"}),
    max_shots=100,
    coalesces=True,
    calibration=Calibration(id="annealer-1", taken_at=datetime(2026, 1, 1, tzinfo=UTC)),
    metering=Metering(),
)


class Annealer:
    """looks: how often the state of a task is asked for before it has ended."""

    def __init__(self, looks):
        self.looks = looks
        self.sessions, self.tasks = set(), {}
        self.lock = threading.Lock()

    def target(self):
        return TARGET

    def acquire(self):
        self.sessions.add(session := SessionId(uuid.uuid4().hex))
        return session

    def release(self, session):
        self.sessions.discard(session)

    def start(self, session, payload, tag):
        if session not in self.sessions:
            raise UnknownSession(f"session {session!r} is not open; call acquire() first")
        check_tag(tag)
        check(payload, TARGET)
        with self.lock:
            if tag not in self.tasks:
                metadata = {"calibration_id": TARGET.calibration.id}
                result = Result(native=annealed(payload), usage=usage(payload), metadata=metadata)
                self.tasks[tag] = [self.looks, result]
        return QpuTaskId(tag)

    def find(self, tag):
        return QpuTaskId(tag) if tag in self.tasks else None

    def status(self, task):
        known = self.known(task)
        with self.lock:
            if known[1] is None:
                return TaskState.CANCELLED
            known[0] -= 1
            return TaskState.RUNNING if known[0] > 0 else TaskState.COMPLETED

    def result(self, task):
        match self.status(task):
            case TaskState.CANCELLED:
                raise TaskCancelled(f"{task} was cancelled")
            case TaskState.RUNNING:
                raise TaskNotFinished(f"{task} runs; wait until it has ended")
        return self.known(task)[1]

    def stop(self, task):
        if not self.status(task).is_final:
            self.tasks[task][1] = None

    def close(self):
        pass

    def known(self, task):
        if task not in self.tasks:
            raise UnknownTask(f"no task {task!r} was ever started here")
        return self.tasks[task]


def annealed(payload):
    random, found = np.random.default_rng(), []
    for problem, reads in zip(payload.problems, payload.reads, strict=True):
        spins = random.choice(np.array([-1, 1], dtype=np.int8), (reads, spins_of(problem)))
        for i, j, strength in problem:
            spins[:, j] = np.where(strength * spins[:, i] > 0, -1, 1)
        energies = sum(s * spins[:, i] * spins[:, j] for i, j, s in problem)
        found.append(Samples(spins=spins, energies=np.asarray(energies, dtype=float)))
    return found


def usage(payload):
    return Usage(qpu_seconds=0.001, shots=sum(payload.reads), circuits=len(payload.reads), tasks=1)


def create(options, *, state_dir):
    return Annealer(options.get("looks", 1))
