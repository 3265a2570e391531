"""What an Aer QPU pretends to be: its target, its clock and what a task costs on it (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from qiskit.primitives import PrimitiveResult

from backends.aer.blocks import joined
from backends.aer.factory import AerOptions
from backends.api import Calibration, Result, Target, Usage
from backends.metering import Metering
from backends.payloads import PubPayload
from backends.profiles import Profile, load_profile
from backends.quality_windows import is_provisional

__all__ = ["TaskTimes", "device_facts", "device_target", "join_parts", "timeline"]

# The ideal simulator never changes; a new revision would mean that equal seeds give new counts.
_IDEAL = Calibration(id="ideal-3", taken_at=datetime(2026, 1, 1, tzinfo=UTC))

_SAMPLED = frozenset({"sampler"})
_EXACT = frozenset({"sampler", "estimator"})


def device_target(options: AerOptions) -> tuple[Target, Profile | None]:
    """Return the target of an ideal simulator, or of the options' profile and that profile.

    With precision ``sampled`` the target takes no estimator payloads, so the caller lowers them.
    """
    kinds = {"exact": _EXACT, "sampled": _SAMPLED}
    if options.profile is not None:
        profile = load_profile(options.profile)
        target = replace(
            profile.target(),
            durable=True,
            clock_scale=options.time_scale,
            coupling_class="interactive",
        )
        if options.precision is not None:
            target = replace(target, payload_kinds=kinds[options.precision])
        return target, profile
    target = Target(
        name="aer",
        num_qubits=None,
        payload_kinds=kinds[options.precision or "exact"],
        max_concurrent_tasks=None,
        durable=True,
        coupling_class="interactive",
        calibration=_IDEAL,
        metering=Metering(),
    )
    return target, None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTimes:
    """When a task is on the device, in seconds since the epoch, and its modelled QPU-seconds."""

    begins_at: float
    ends_at: float
    qpu_seconds: float


def timeline(
    payload: PubPayload, target: Target, *, now: float, free_at: float, time_scale: float
) -> TaskTimes | None:
    """Return when the device, free from ``free_at`` on, runs a payload; None without a profile."""
    if target.timing is None:
        return None
    duration = target.timing.duration_s(
        circuits=payload.circuits,
        shots=payload.shots,
        num_qubits=payload.num_qubits,
        depth=_mean_depth(payload),
    )
    begins = max(now, free_at) if time_scale else now
    return TaskTimes(begins_at=begins, ends_at=begins + time_scale * duration, qpu_seconds=duration)


def device_facts(
    payload: PubPayload, num_qubits: int, target: Target, times: TaskTimes | None
) -> dict[str, Any]:
    """Return, as JSON, what a result needs to state its usage and origin."""
    at = None if times is None else times.begins_at
    return {
        "calibration_id": target.calibration.id,
        "profile": target.name if target.timing is not None else None,
        "provisional": is_provisional(target.quality_windows, at),
        "circuits": payload.circuits,
        "shots": payload.shots,
        "num_qubits": num_qubits,
        "qpu_seconds": None if times is None else times.qpu_seconds,
        "ends_at": None if times is None else times.ends_at,
    }


def join_parts(parts: Sequence[Result], metering: Metering) -> Result:
    """Put the parts of a task together: PUBs in order, usage, and how each PUB was run."""
    pubs = joined([block for part in parts for block in part.native])
    facts = dict(parts[0].metadata)
    facts["simulation_s"] = max(part.metadata["simulation_s"] for part in parts)
    metadata = {
        "method": [pub.metadata["method"] for pub in pubs],
        "seed": [pub.metadata["seed"] for pub in pubs],
        "threads": facts["threads"],
        "workers": [part.metadata["worker_pid"] for part in parts],
        "simulation_s": facts["simulation_s"],
        "calibration_id": facts["calibration_id"],
        "profile": facts["profile"],
        "provisional": facts["provisional"],
    }
    native: PrimitiveResult[Any] = PrimitiveResult(pubs, metadata={"version": 2})
    return Result(native=native, usage=_usage(facts, metering), metadata=metadata)


def _usage(facts: Mapping[str, Any], metering: Metering) -> Usage:
    """Return what a task consumed; an ideal simulator's QPU-seconds are the simulation's."""
    seconds = facts["simulation_s"] if facts["qpu_seconds"] is None else facts["qpu_seconds"]
    shots = facts["shots"]
    charge = metering.charge(qpu_seconds=seconds, shots=shots, num_qubits=facts["num_qubits"])
    return Usage(
        qpu_seconds=seconds, shots=shots, circuits=facts["circuits"], tasks=1, charges=(charge,)
    )


def _mean_depth(payload: PubPayload) -> float:
    """Return the layers of gates per circuit, weighted with what each circuit runs."""
    weights = [shape.points * (shape.shots or 1) for shape in payload.shapes]
    layers = sum(w * shape.depth for w, shape in zip(weights, payload.shapes, strict=True))
    return float(layers) / max(1, sum(weights))
