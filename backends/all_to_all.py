"""Qiskit's passes for devices whose qubits are all coupled: nothing is routed.

What Qiskit's levels do for a lattice costs such a device gates. Level 2 synthesizes pairs of qubits
anew at once, each by itself, and so writes pulses between gates that commute, or cancel with those of
another pair. Here pairs are synthesized last, where that saves a gate.
"""

from __future__ import annotations

from collections.abc import Sequence

from qiskit.dagcircuit import DAGCircuit
from qiskit.transpiler import Layout, PassManager, Target, generate_preset_pass_manager, passes
from qiskit.transpiler.basepasses import AnalysisPass

__all__ = ["all_to_all"]


def all_to_all(device: Target, places: Sequence[int]) -> PassManager:
    """Return passes that write circuits in a device's gates.

    places: the physical qubits for a circuit's qubits, in their order; as many as are in use.
    """
    made = generate_preset_pass_manager(optimization_level=1, target=device)
    made.init.append([passes.ElidePermutations(), passes.RemoveDiagonalGatesBeforeMeasure()])
    made.layout = PassManager(
        [
            _Places(places),
            passes.FullAncillaAllocation(device),
            passes.EnlargeWithAncilla(),
            passes.ApplyLayout(),
        ]
    )
    made.routing = None
    # First, so that fewer gates have to be translated, which takes the most time of all.
    made.translation = (
        PassManager([passes.Optimize1qGatesDecomposition(target=device)]) + made.translation
    )
    made.optimization = PassManager(
        [
            passes.Optimize1qGatesDecomposition(target=device),
            passes.CommutativeCancellation(target=device),
            *_pairs(device),
            passes.Optimize1qGatesDecomposition(target=device),
        ]
    )
    return made


def _pairs(device: Target) -> list[object]:
    """Return what synthesizes pairs of qubits anew where that saves a gate."""
    if hasattr(passes, "TwoQubitPeepholeOptimization"):  # since Qiskit 2.5
        return [passes.TwoQubitPeepholeOptimization(device)]
    return [passes.ConsolidateBlocks(target=device), passes.UnitarySynthesis(target=device)]


class _Places(AnalysisPass):  # type: ignore[misc]  # Qiskit has no types
    """Sets the layout: the n-th qubit of a circuit on the n-th place."""

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__()
        self._places = tuple(places)

    def run(self, dag: DAGCircuit) -> None:
        """Set it in the properties of a run."""
        self.property_set["layout"] = Layout(dict(zip(dag.qubits, self._places, strict=False)))
