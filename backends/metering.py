"""How a site turns the use of its QPU into what it bills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, cast

from backends.plugins import PluginUnusable, UnknownPlugin, installed, load

__all__ = [
    "FORMULAS",
    "GROUP",
    "Charge",
    "DeviceTime",
    "EquivalentQubitSeconds",
    "FloorPerTask",
    "Metering",
    "MeteringFormula",
    "QpuSeconds",
    "formula_class",
    "formula_names",
    "metering_from_json",
    "metering_to_json",
]

GROUP = "hpcqc.meterings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """An amount in a site's own unit, for example 0.9 ``billed-s``."""

    amount: float
    unit: str


class MeteringFormula(Protocol):
    """What one qpu_task costs; the sum over tasks is the bill.

    A formula is a frozen dataclass whose fields are numbers, its parameters: a device profile
    states them in ``[metering]``. It computes, and looks at no clock, file or random number.
    Packages register formulas in the entry point group ``hpcqc.meterings`` by their ``kind``.
    """

    @property
    def kind(self) -> str:
        """Name of the formula; the same for all its parameters."""
        ...

    def amount(self, *, qpu_seconds: float, shots: int, num_qubits: int) -> float:
        """Return the amount for a task.

        Args:
            qpu_seconds: Its time on the QPU in seconds.
            shots: All its shots.
            num_qubits: Qubits that it used.
        """
        ...

    def in_words(self) -> str:
        """Return the formula with its parameters, for people."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QpuSeconds:
    """Time on the QPU."""

    kind: ClassVar[str] = "qpu-seconds"

    def amount(self, *, qpu_seconds: float, shots: int, num_qubits: int) -> float:
        """Return the QPU-seconds."""
        del shots, num_qubits
        return qpu_seconds

    def in_words(self) -> str:
        """Return the formula for people."""
        return "seconds on the QPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTime:
    """Time on the device with loading and re-initialisation (PIAST-Q)."""

    kind: ClassVar[str] = "device-time"

    def amount(self, *, qpu_seconds: float, shots: int, num_qubits: int) -> float:
        """Return the QPU-seconds, which include loading on such a device."""
        del shots, num_qubits
        return qpu_seconds

    def in_words(self) -> str:
        """Return the formula for people."""
        return "seconds on the device, loading and initialisation included"


@dataclass(frozen=True, slots=True, kw_only=True)
class EquivalentQubitSeconds:
    """t · n · T1q(reference)/T1q, n the qubits used (Euro-Q-Exa); the ratio is ``gate_time_ratio``."""

    gate_time_ratio: float = 1.0

    kind: ClassVar[str] = "equivalent-qubit-seconds"

    def amount(self, *, qpu_seconds: float, shots: int, num_qubits: int) -> float:
        """Return the equivalent qubit-seconds."""
        del shots
        return qpu_seconds * num_qubits * self.gate_time_ratio

    def in_words(self) -> str:
        """Return the formula for people."""
        if self.gate_time_ratio == 1:
            return "seconds on the QPU × qubits used"
        ratio = f"{self.gate_time_ratio:g} (its gate time against the reference device's)"
        return f"seconds on the QPU × qubits used × {ratio}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorPerTask:
    """max(shots · ``per_shot_s``, ``floor_s``) for each task (VLQ)."""

    per_shot_s: float = 0.0
    floor_s: float = 0.0

    kind: ClassVar[str] = "floor-per-task"

    def amount(self, *, qpu_seconds: float, shots: int, num_qubits: int) -> float:
        """Return the seconds billed."""
        del qpu_seconds, num_qubits
        return max(shots * self.per_shot_s, self.floor_s)

    def in_words(self) -> str:
        """Return the formula for people."""
        return f"per task: shots × {self.per_shot_s * 1e6:.4g} µs, at least {self.floor_s:g} s"


FORMULAS: dict[str, type[MeteringFormula]] = {
    formula.kind: formula
    for formula in (QpuSeconds, EquivalentQubitSeconds, FloorPerTask, DeviceTime)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """What a site bills for the tasks of a QPU: a formula, and the unit of its amounts.

    bills_failed, bills_cancelled: whether the time that a task occupied the QPU is billed by the
    same formula where it failed, or was cancelled while it ran.
    """

    formula: MeteringFormula = field(default_factory=QpuSeconds)
    unit: str = "qpu-s"
    bills_failed: bool = False
    bills_cancelled: bool = False

    @property
    def kind(self) -> str:
        """Name of the formula."""
        return self.formula.kind

    def charge(self, *, qpu_seconds: float, shots: int, num_qubits: int) -> Charge:
        """Return what one qpu_task costs; see `MeteringFormula.amount`."""
        amount = self.formula.amount(qpu_seconds=qpu_seconds, shots=shots, num_qubits=num_qubits)
        return Charge(amount=amount, unit=self.unit)


def formula_names() -> tuple[str, ...]:
    """Return the names of all formulas, those of hpcqc first."""
    return (*FORMULAS, *(name for name in installed(GROUP) if name not in FORMULAS))


@lru_cache(maxsize=64)
def formula_class(kind: str) -> type[MeteringFormula]:
    """Return a formula's class: hpcqc's own, else the one an installed package registers.

    Raises `UnknownPlugin`, or `PluginUnusable` for one that does not import or is no formula.
    """
    if kind in FORMULAS:
        return FORMULAS[kind]
    found: Any = load(GROUP, kind, noun="metering formula")
    if not is_dataclass(found) or not callable(getattr(found, "amount", None)):
        raise PluginUnusable(
            f"metering formula {kind!r} is {found!r}; expected a frozen dataclass with the methods "
            "of backends.metering.MeteringFormula"
        )
    if getattr(found, "kind", None) != kind:
        raise PluginUnusable(
            f"metering formula {kind!r} has kind = {getattr(found, 'kind', None)!r}; "
            "expected the name under which it is registered"
        )
    return cast("type[MeteringFormula]", found)


def metering_to_json(metering: Metering) -> dict[str, Any]:
    """Return a metering as JSON types: its formula's kind and parameters beside the rest."""
    formula = metering.formula
    return {
        "kind": metering.kind,
        "unit": metering.unit,
        "bills_failed": metering.bills_failed,
        "bills_cancelled": metering.bills_cancelled,
        **(dict(formula.stated) if isinstance(formula, _Elsewhere) else _parameters(formula)),
    }


def metering_from_json(data: Mapping[str, Any]) -> Metering:
    """Rebuild a metering. A formula that is not installed here is kept, and computes nothing.

    Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else.
    """
    values = dict(data)
    kind = values.pop("kind")
    if not isinstance(kind, str):
        raise TypeError(f"metering kind {kind!r}; expected a text")
    common = {name: values.pop(name) for name in ("unit", "bills_failed", "bills_cancelled")}
    try:
        made = formula_class(kind)
    except (UnknownPlugin, PluginUnusable):
        formula: MeteringFormula = _Elsewhere(kind=kind, stated=tuple(sorted(values.items())))
        return Metering(formula=formula, **common)
    # Earlier versions stated the parameters of all formulas for each.
    known = [f for f in fields(made) if f.init]  # type: ignore[arg-type]
    return Metering(
        formula=made(**{f.name: values[f.name] for f in known if f.name in values}), **common
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Elsewhere:
    """A formula that the service has and this installation lacks."""

    kind: str
    stated: tuple[tuple[str, Any], ...]

    def amount(self, *, qpu_seconds: float, shots: int, num_qubits: int) -> float:
        raise PluginUnusable(
            f"metering formula {self.kind!r} is not installed here; install its package to compute "
            f"the cost of {qpu_seconds:g} QPU-seconds, {shots} shots and {num_qubits} qubits"
        )

    def in_words(self) -> str:
        return f"{self.kind}, a formula that is not installed here"


def _parameters(formula: MeteringFormula) -> dict[str, Any]:
    return {f.name: getattr(formula, f.name) for f in fields(formula)}  # type: ignore[arg-type]
