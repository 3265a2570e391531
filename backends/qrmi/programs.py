"""Flat circuits as IQM's JSON, and its measurements as counts (pure; without Qiskit)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from backends.api import Target
from backends.devices.api import BoundStep, FlatJob, bound_steps
from backends.errors import PayloadRejected, TaskFailed
from backends.iqm.architecture import Architecture, read_architecture
from backends.iqm.components import Components
from backends.iqm.description import described_by_server

__all__ = ["counts_of", "program_of", "recipes_of", "seconds_between", "stated_architecture"]

_KEY = "m"
_EVENT = re.compile(
    r"^\s*(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)\s+\[[^]]*\]\s+(execution_started|execution_ended)\s*$",
    re.MULTILINE,
)


def stated_architecture(
    resource: str, stated: Mapping[str, Any]
) -> tuple[Architecture, dict[str, Any]]:
    """Return what a resource of type ``iqm-server`` states, and its target as JSON types.

    Raises ``ValueError``.
    """
    found = stated.get("dynamic_quantum_architecture")
    if not isinstance(found, dict):
        raise ValueError("it states no dynamic_quantum_architecture")
    described = described_by_server(resource, found, {})
    architecture = read_architecture(found, described)
    return architecture, _target(architecture.target(described), architecture, stated)


def _target(
    target: Target, architecture: Architecture, stated: Mapping[str, Any]
) -> dict[str, Any]:
    metrics = stated.get("quality_metrics")
    taken = metrics.get("created_timestamp") if isinstance(metrics, dict) else None
    try:
        taken_at = datetime.fromisoformat(str(taken))
    except ValueError:
        taken_at = datetime.fromtimestamp(0, UTC)
    if taken_at.tzinfo is None:
        taken_at = taken_at.replace(tzinfo=UTC)
    coupling = target.coupling
    return {
        "name": target.name,
        "num_qubits": target.num_qubits,
        "native_gates": list(target.native_gates or ()),
        "coupling": None if coupling is None else [list(pair) for pair in coupling],
        "resonator": target.resonator,
        "unusable_qubits": list(target.unusable_qubits),
        "mid_circuit_measurement": False,
        "coupling_class": "interactive",
        "uniform_shots": True,
        "can_find": False,
        "calibration": {
            "id": architecture.calibration_set_id,
            "taken_at": taken_at.isoformat(),
        },
    }


def program_of(job: FlatJob, architecture: Architecture) -> str:
    """Return a job with all points of all PUBs as circuits, in order."""
    circuits = [
        {
            "name": f"pub{index}-{point}",
            "instructions": _instructions(list(bound_steps(pub, point)), architecture.components),
            "metadata": None,
        }
        for index, pub in enumerate(job.pubs)
        for point in range(len(pub.angles))
    ]
    body = {
        "circuits": circuits,
        "shots": job.pubs[0].shots,
        # Pinned: what was compiled for one calibration does not run with another.
        "calibration_set_id": architecture.calibration_set_id,
    }
    return json.dumps(body, separators=(",", ":"))


def recipes_of(job: FlatJob) -> list[dict[str, Any]]:
    """Return as JSON types how each PUB's counts are made.

    Classical bits get the place of their qubit in the one measurement at the circuit's end.
    """
    recipes = []
    for pub in job.pubs:
        reads = _reads((name, qubits, clbits) for name, qubits, clbits, _ in pub.steps)
        locus = sorted(set(reads.values()))
        recipes.append(
            {
                "points": len(pub.angles),
                "shots": pub.shots,
                "width": pub.num_clbits,
                "locus": len(locus),
                "bits": [[bit, locus.index(qubit)] for bit, qubit in sorted(reads.items())],
            }
        )
    return recipes


def counts_of(
    recipes: Sequence[Mapping[str, Any]], value: str
) -> tuple[tuple[dict[str, int], ...], ...]:
    """Return the counts of a result, as ``FlatResult`` has them. Raises `TaskFailed`."""
    try:
        measured = json.loads(value)["measurements"]
        tables = [None if not one else one[_KEY] for one in measured]
    except (ValueError, KeyError, TypeError):
        raise TaskFailed(
            f"QRMI returned a result of {len(value)} characters without measurements"
        ) from None
    wanted = sum(recipe["points"] for recipe in recipes)
    if len(tables) != wanted:
        raise TaskFailed(f"QRMI returned {len(tables)} circuits; {wanted} were sent")
    rest = iter(tables)
    return tuple(
        tuple(_counts(recipe, next(rest)) for _ in range(recipe["points"])) for recipe in recipes
    )


def seconds_between(logs: str) -> float | None:
    """Return how long a task was executed, by its timeline in QRMI's logs; None if not stated.

    >>> seconds_between('''Timeline   :
    ...   2026-11-29 17:00:06.990 [station] execution_started
    ...   2026-11-29 17:00:09.790 [station] execution_ended''')
    2.8
    """
    times = {name: datetime.fromisoformat(at) for at, name in _EVENT.findall(logs)}
    if len(times) != 2:
        return None
    seconds = (times["execution_ended"] - times["execution_started"]).total_seconds()
    return seconds if seconds >= 0 else None


def _reads(steps: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> dict[int, int]:
    """Return the qubit that each classical bit is of. Raises `PayloadRejected`."""
    reads: dict[int, int] = {}
    for name, qubits, clbits in steps:
        if name == "measure":
            reads[clbits[0]] = qubits[0]
        elif name not in ("barrier", "delay") and not set(qubits).isdisjoint(reads.values()):
            raise PayloadRejected(f"{name!r} follows a measurement of its qubit; measure last")
    return reads


def _instructions(steps: Sequence[BoundStep], components: Components) -> list[dict[str, Any]]:
    reads = _reads((name, qubits, clbits) for name, qubits, clbits, _ in steps)
    locus = sorted(set(reads.values()))
    written = [
        _instruction(name, [components.name(q) for q in qubits], angles)
        for name, qubits, _, angles in steps
        if name != "measure"
    ]
    if locus:
        written.append(_of("measure", [components.name(q) for q in locus], key=_KEY))
    return written


def _instruction(name: str, locus: list[str], angles: Sequence[float]) -> dict[str, Any]:
    match name:
        case "r":
            return _of("prx", locus, angle=angles[0], phase=angles[1])
        case "cz" | "move" | "barrier":
            return _of(name, locus)
        case "delay":
            return _of("delay", locus, duration=angles[0])
        case _:
            raise PayloadRejected(f"IQM's protocol has no {name!r}; transpile for the target first")


def _of(name: str, locus: list[str], **arguments: Any) -> dict[str, Any]:
    return {"name": name, "locus": locus, "args": arguments}


def _counts(recipe: Mapping[str, Any], table: Any) -> dict[str, int]:
    shots, width, locus = recipe["shots"], recipe["width"], recipe["locus"]
    if not locus:
        return {"0" * width: shots}
    rows: list[Any] = table if isinstance(table, list) else []
    right = all(
        isinstance(row, list)
        and len(row) == locus
        and all(type(bit) is int and 0 <= bit <= 1 for bit in row)
        for row in rows
    )
    if len(rows) != shots or not right:
        raise TaskFailed(
            f"QRMI returned {len(rows)} shots of a circuit; expected {shots} of {locus} bits each"
        )
    counts: Counter[str] = Counter()
    for row, number in Counter(map(tuple, rows)).items():
        bits = ["0"] * width
        for bit, place in recipe["bits"]:
            bits[width - 1 - bit] = str(row[place])
        counts["".join(bits)] += number
    return dict(counts)
