"""Metering formulas by name: those of `backends.metering` and those other packages register."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, cast

from backends.metering import FORMULAS, Metering, MeteringFormula
from backends.plugins import PluginUnusable, UnknownPlugin, installed, load

__all__ = ["GROUP", "formula_class", "formula_names", "metering_from_json", "metering_to_json"]

GROUP = "hpcqc.meterings"


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
