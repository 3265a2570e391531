"""Parameters with which each ready flow ends within seconds, and still does all that it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

__all__ = ["SMALL_RUNS", "SmallRun"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallRun:
    """A run of a ready flow. needs: modules of its extra. dry: further parameters of a dry run."""

    parameters: dict[str, Any]
    needs: tuple[str, ...] = ()
    dry: dict[str, Any] = field(default_factory=dict)

    def skip_without_its_extra(self) -> None:
        for module in self.needs:
            pytest.importorskip(module, reason="an extra of this flow is not installed")


_LEARNT = ("jax", "optax")
_CHEMISTRY = ("pyscf", "ffsim")
_MEMORY = {"source": "qpu", "rounds": 2, "samples": 4000}
SMALL_RUNS = {
    "flows.decoder": SmallRun(
        parameters={**_MEMORY, "shots": 1000, "save": "kept.decoder"},
        needs=("stim", "pymatching", *_LEARNT),
    ),
    "flows.realtime": SmallRun(
        parameters={**_MEMORY, "shots": 600, "streamed": 100, "timeout_s": 30.0},
        needs=("stim", "pymatching", *_LEARNT),
        dry={"server": "127.0.0.1:9"},  # nobody answers there: a dry run asks a server of its own
    ),
    "flows.generative": SmallRun(
        parameters={"molecule": "h2", "bond": 0.735, "length": 2, "rounds": 4, "circuits": 4},
        needs=(*_CHEMISTRY, *_LEARNT),
    ),
    "flows.household": SmallRun(
        parameters={"homes": 5, "train": 2, "days": 56, "generations": 4, "candidates": 2}
    ),
    "flows.molecules": SmallRun(
        parameters={"molecules": 150, "epochs": 3, "rounds": 1, "samples": 40}
        | {"generations": 3, "shots": 200},
        needs=("rdkit", "selfies", *_LEARNT),
    ),
    "flows.federated": SmallRun(
        parameters={"rounds": 2, "steps": 2, "seeds": 2, "batch": 8, "shots": 64}
        | {"qubits": 3, "layers": 1},
        needs=("OpenSSL",),
    ),
    "flows.sensing": SmallRun(parameters={"trials": 5}),
    "flows.mis": SmallRun(parameters={"shots": 300}),
    "flows.maxcut": SmallRun(parameters={"graph": "petersen", "layers": 1, "shots": 200}),
    "flows.clustering": SmallRun(parameters={"iterations": 2, "shots": 256}),
    "flows.dissociation": SmallRun(parameters={"molecule": "h2", "points": 3}, needs=_CHEMISTRY),
    "flows.anomalies": SmallRun(
        parameters={"data": "sonar", "qubits": 3, "layers": 1, "bandwidths": [0.2, 0.4]}
        | {"shots": 50, "subset": 50, "folds": 2},
        needs=("sklearn",),
    ),
    "flows.entanglement": SmallRun(
        parameters={"training": 120, "test": 100, "networks": 2, "settings": [3, 9], "shots": 270},
        needs=_LEARNT,
    ),
}
