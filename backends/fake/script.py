"""What a fake QPU does and when it goes wrong, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal

from backends.api import Calibration, Target
from backends.metering import Metering
from backends.plugins import PluginUnusable
from backends.stated_options import check_names

__all__ = ["CALLS", "Fault", "FaultKind", "Script", "read_script", "script_target"]

FaultKind = Literal["refused", "lost", "busy", "denied", "error", "throttled"]
_KINDS = ("refused", "lost", "busy", "denied", "error", "throttled")
CALLS = ("target", "acquire", "release", "start", "find", "status", "result", "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong in some calls.

    call: one of `CALLS`. on: which calls of that name, counted from 1; empty means all.
    kind: ``refused`` raises ``QpuUnavailable`` and does nothing; ``lost`` does what was asked
    and then raises ``QpuUnavailable``, as when the answer is lost; ``error`` does it and then
    raises a `TaskFailed` that is not true; ``busy`` raises ``QpuBusy`` and does nothing;
    ``throttled`` does so too, and says to come back after a tenth of a second; ``denied`` raises
    ``AccessDenied`` and does nothing.
    """

    call: str
    kind: FaultKind = "refused"
    on: tuple[int, ...] = ()

    def strikes(self, call: str, number: int) -> bool:
        """Whether the ``number``-th call of this name goes wrong."""
        return call == self.call and (not self.on or number in self.on)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How a fake QPU behaves.

    fail, stuck: tasks that fail or never end, by order of start, counted from 1.
    drift_every: starts after which the calibration id changes, 0 for never.
    durable: a new instance on the same folder knows the tasks.
    """

    queue_s: float = 0.0
    run_s: float = 0.0
    fail: tuple[int, ...] = ()
    stuck: tuple[int, ...] = ()
    drift_every: int = 0
    durable: bool = False
    faults: tuple[Fault, ...] = ()
    target: Target


def script_target(**changes: Any) -> Target:
    """Return a fake's target: ten qubits, both payload kinds, any gate, one task at a time."""
    target = Target(
        name="fake",
        num_qubits=10,
        payload_kinds=frozenset({"sampler", "estimator"}),
        mid_circuit_measurement=False,
        coupling_class="interactive",
        calibration=Calibration(id="fake-0", taken_at=datetime(2026, 1, 1, tzinfo=UTC)),
        metering=Metering(),
    )
    return replace(target, **changes)


_TARGET_KEYS = (
    "coalesces",
    "coupling",
    "coupling_class",
    "can_find",
    "credential_lifetime_s",
    "max_circuits",
    "max_concurrent_tasks",
    "max_shots",
    "name",
    "native_gates",
    "num_qubits",
    "payload_kinds",
    "site_transpiles",
)
_SCRIPT_KEYS = tuple(f.name for f in fields(Script) if f.name not in ("faults", "target"))


def read_script(options: Mapping[str, Any]) -> Script:
    """Build a script from options: fields of `Script` and `Target`, and ``faults``."""
    known = ("faults", *_SCRIPT_KEYS, *_TARGET_KEYS)
    check_names(options, known, "backend 'fake'")
    changes = {key: _frozen(options[key]) for key in _TARGET_KEYS if key in options}
    if "payload_kinds" in changes:
        changes["payload_kinds"] = frozenset(changes["payload_kinds"])
    target = script_target(**changes, durable=bool(options.get("durable", False)))
    values = {key: _frozen(options[key]) for key in _SCRIPT_KEYS if key in options}
    faults = tuple(_fault(entry) for entry in options.get("faults", ()))
    return Script(**values, faults=faults, target=target)


def _fault(entry: Mapping[str, Any]) -> Fault:
    call, kind = entry.get("call"), entry.get("kind", "refused")
    if call not in CALLS or kind not in _KINDS or set(entry) - {"call", "kind", "on"}:
        raise PluginUnusable(
            f"fault {dict(entry)!r}; give call (one of {', '.join(CALLS)}), "
            f"kind (one of {', '.join(_KINDS)}) and on (a list of call numbers from 1)"
        )
    return Fault(call=call, kind=kind, on=tuple(entry.get("on", ())))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value
