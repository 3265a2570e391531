"""A dynamic quantum architecture of IQM's protocol: what a calibration set offers (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from backends.api import Target
from backends.iqm.components import Components

__all__ = ["Architecture", "read_architecture"]

_WIRE_NAMES = {"r": "prx", "cz": "cz", "move": "move"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Where the gates of one calibration set can be used.

    usable: qubits that can be turned and measured. pairs: of qubits that CZ couples, smaller first;
    empty for a star, whose usable qubits all reach the resonator.
    """

    calibration_set_id: str
    components: Components
    usable: frozenset[int]
    pairs: frozenset[tuple[int, int]]

    def target(self, described: Target) -> Target:
        """Return a profile's target as the calibration set has it."""
        unusable = tuple(q for q in range(described.num_qubits or 0) if q not in self.usable)
        if described.resonator is not None or described.coupling is None:
            return replace(described, unusable_qubits=unusable)
        expected = {pair for pair in described.coupling if self.usable.issuperset(pair)}
        coupling = described.coupling if expected == self.pairs else tuple(sorted(self.pairs))
        return replace(described, unusable_qubits=unusable, coupling=coupling)


def read_architecture(data: Any, described: Target) -> Architecture:
    """Read the server's answer. Raises ``ValueError`` where it does not fit the profile."""
    try:
        resonators = list(data["computational_resonators"])
        loci = {name: _loci(gate) for name, gate in data["gates"].items()}
        calibration = str(data["calibration_set_id"])
    except StopIteration:
        raise ValueError("it lacks an implementation of a gate") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it lacks {error}") from None
    if bool(resonators) != (described.resonator is not None):
        raise ValueError(
            f"it has the resonators {resonators}, and the profile {described.name!r} describes "
            f"{'no star' if described.resonator is None else 'a star'}; choose the device's profile"
        )
    components = Components.of(described.num_qubits or 0, resonators)
    needed = [_WIRE_NAMES[gate] for gate in described.native_gates or ()]
    missing = sorted({*needed, "measure"} - loci.keys())
    if missing:
        raise ValueError(f"it has no gate {missing[0]!r}, which the profile states")
    usable = _single(loci["prx"], components) & _single(loci["measure"], components)
    if described.resonator is not None:
        for gate in ("cz", "move"):
            usable &= {components.number(locus[0]) for locus in loci[gate]}
        return Architecture(
            calibration_set_id=calibration,
            components=components,
            usable=frozenset(usable),
            pairs=frozenset(),
        )
    pairs = {tuple(sorted(map(components.number, locus))) for locus in loci["cz"]}
    return Architecture(
        calibration_set_id=calibration,
        components=components,
        usable=frozenset(usable),
        pairs=frozenset((a, b) for a, b in pairs if usable.issuperset((a, b))),
    )


def _loci(gate: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the places of a gate's default implementation."""
    implementations = gate["implementations"]
    chosen = gate.get("default_implementation") or next(iter(implementations))
    return [tuple(locus) for locus in implementations[chosen]["loci"]]


def _single(loci: list[tuple[str, ...]], components: Components) -> set[int]:
    return {components.number(locus[0]) for locus in loci if len(locus) == 1}
