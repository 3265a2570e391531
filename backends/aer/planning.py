"""From a payload to a pending task: method, memory, facts and weight of every PUB."""

from __future__ import annotations

import math
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

import psutil

from backends.aer.blocks import PubLoad, shot_blocks
from backends.aer.device import device_facts, timeline
from backends.aer.factory import AerOptions
from backends.aer.methods import (
    Traits,
    check_memory,
    check_samples,
    choose_method,
    draws_each_shot,
    memory_needed,
    samples_needed,
    state_log2,
    traits_of,
)
from backends.aer.placement import pub_seconds
from backends.aer.wire import TaskMessage
from backends.aer.worker_pool import PendingTask
from backends.api import Target
from backends.circuits import FrozenCircuit
from backends.payloads import FrozenEstimatorPub, FrozenSamplerPub, PubPayload
from backends.profiles import Profile

__all__ = ["Planner"]

_TRAITS_KEPT = 1024
# A smaller state is not worth asking the system about, which takes 50 µs.
_SMALL_BYTES = 1 << 26
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


class Planner:
    """Plans the simulations of one QPU; keeps what it learnt of each circuit."""

    def __init__(self, options: AerOptions, target: Target, profile: Profile | None) -> None:
        self._options = options
        self._target = target
        self._noisy = profile is not None and not options.noiseless
        self._traits: OrderedDict[str, Traits] = OrderedDict()
        self._free_at = 0.0

    def pending_task(
        self, payload: PubPayload, tag: str, *, now: float, lock: threading.RLock
    ) -> PendingTask:
        """Plan one task at ``now``, in seconds since the epoch. Not thread-safe.

        Raises ``InsufficientMemory`` or ``PayloadRejected``; nothing was started then.
        """
        exact = payload.kind == "estimator"
        methods, loads, log2, memory, width = [], [], 0, 0, 0
        for pub in payload.pubs:
            traits = self._traits_of(pub.circuit)
            shots = pub.shots if isinstance(pub, FrozenSamplerPub) else 1
            method = choose_method(
                self._options.method, traits, noisy=self._noisy, exact=exact, shots=shots
            )
            needed = memory_needed(method, traits.num_qubits)
            if needed > _SMALL_BYTES:
                check_memory(method, traits.num_qubits, self.memory_left(0))
            methods.append(method)
            loads.append(self._load(pub, method, traits, shots))
            log2 = max(log2, state_log2(method, traits.num_qubits))
            memory = max(memory, needed)
            width = max(width, traits.num_qubits)
        memory += self._checked_samples(payload, beside=memory)
        times = timeline(
            payload,
            self._target,
            now=now,
            free_at=self._free_at,
            time_scale=self._options.time_scale,
        )
        if times is not None:
            self._free_at = times.ends_at
        facts = device_facts(payload, width, self._target, times)
        seeds = tuple(load.seed for load in loads)
        message = TaskMessage(
            tag=tag, payload=payload, methods=tuple(methods), seeds=seeds, facts=facts
        )
        return PendingTask(
            message=message,
            loads=loads,
            log2=log2,
            memory_bytes=memory,
            changed=threading.Condition(lock),
        )

    def _load(
        self, pub: FrozenSamplerPub | FrozenEstimatorPub, method: str, traits: Traits, shots: int
    ) -> PubLoad:
        points = math.prod(pub.values.shape[:-1])
        drawn = draws_each_shot(method, traits, noisy=self._noisy)
        runs = shots if drawn else 1
        return PubLoad(
            points=points,
            shots=shot_blocks(shots) if drawn else ((0, shots),),
            is_drawn=drawn,
            seed=secrets.randbits(31) if pub.seed is None else pub.seed,
            seconds=pub_seconds(method, traits, points=points, shots=shots, runs=runs),
        )

    def memory_left(self, taken_bytes: int) -> int:
        """Return the bytes a simulation may take while others here hold ``taken_bytes``."""
        if self._options.memory_bytes is not None:
            return self._options.memory_bytes - taken_bytes
        free = int(psutil.virtual_memory().available)
        for limit, used in _CGROUPS:
            try:
                free = min(free, int(limit.read_text()) - int(used.read_text()))
            except (OSError, ValueError):  # no such file, or "max"
                continue
        return max(0, free)

    def _checked_samples(self, payload: PubPayload, *, beside: int) -> int:
        """Return the bytes of a payload's outcomes. beside: bytes of the largest state."""
        needs = [samples_needed(p) for p in payload.pubs if isinstance(p, FrozenSamplerPub)]
        needed = max((work for work, _ in needs), default=0) + sum(kept for _, kept in needs)
        if needed > _SMALL_BYTES:
            check_samples(needed, payload.shots, self.memory_left(beside))
        return needed

    def _traits_of(self, circuit: FrozenCircuit) -> Traits:
        digest = circuit.digest
        if digest not in self._traits:
            self._traits[digest] = traits_of(circuit.circuit)
            if len(self._traits) > _TRAITS_KEPT:
                self._traits.popitem(last=False)
        return self._traits[digest]
