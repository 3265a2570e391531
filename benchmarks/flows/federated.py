"""What `flows.federated` costs beside the same averaging as a plain script in one process.

The script has the data of all sites, no links, no masks and no brokers: all that the flow is for. Its
ratio says what it costs to keep the data apart, most of it the start of a process for each site; a
second row leaves that start out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow

from benchmarks.flows.plain import PlainQpu, beside_plain, plain
from benchmarks.rows import Row
from benchmarks.setting import ROOT
from flows import federated as module
from flows._federated.circuits import on_qpu
from flows._federated.models import SiteTraining, initial
from flows._federated.patients import as_text, generated, parsed
from flows._federated.processes import local_sites
from flows._federated.site import SiteWork

__all__ = ["measure"]

_ROUNDS, _STEPS, _SEEDS, _SHOTS = 8, 6, 5, 256
_SIZES = {"north": 240, "east": 220, "south": 120, "west": 180}


def _texts(seed: int) -> dict[str, str]:
    """Return the files of the hospitals that the flow invents."""
    return {
        name: as_text(generated(index, size, seed))
        for index, (name, size) in enumerate(_SIZES.items())
    }


def _trainings(seed: int) -> dict[str, SiteTraining]:
    """Return the flow's defaults."""
    logistic = SiteTraining(model="logistic", seed=seed, round=0, steps=20, rate=1.0)
    circuit = SiteTraining(
        model="circuit", seed=seed, round=0, steps=_STEPS, rate=0.05, batch=48, layers=2, qubits=5
    )
    return {"logistic": logistic, "circuit": circuit}


def _averaged(works: Mapping[str, SiteWork], training: SiteTraining) -> dict[str, Any]:
    """Do what `federate` does, the sums in the clear."""

    def total(kind: str, number: int, weights: Any) -> Any:
        task = {
            "kind": kind,
            "training": replace(training, round=number).to_plain(),
            "weights": list(weights),
            "shots": _SHOTS,
        }
        return np.sum([work(task) for work in works.values()], axis=0)

    weights = initial(training)
    before = total("test", 0, weights)
    for number in range(_ROUNDS):
        added = total("train", number, weights)
        weights = added[:-1] / added[-1]
    after = total("test", _ROUNDS, weights)
    home = total("home", _ROUNDS, []) if training.model == "logistic" else after
    return {
        "accuracy": float(after[0] / after[1]),
        "untrained": float(before[0] / before[1]),
        "home": float(home[0] / home[1]),
        "gone": {},
        "links": {},
    }


def _circuits(qubits: int, layers: int, shots: int) -> Any:
    return on_qpu(PlainQpu(), qubits=qubits, layers=layers, shots=shots)  # type: ignore[arg-type]


def _works(texts: Mapping[str, str]) -> dict[str, SiteWork]:
    return {name: SiteWork(parsed(text, name), _circuits) for name, text in texts.items()}


def _script(seed: int) -> None:
    texts = _texts(seed)
    hospitals = tuple(parsed(text, name) for name, text in texts.items())
    works = _works(texts)
    trainings = [_trainings(seed + number) for number in range(_SEEDS)]
    for one in trainings:
        plain(module.references)(hospitals, one["logistic"])
        whole = replace(one["circuit"], steps=_STEPS * _ROUNDS)
        plain(module.reference_circuits)(PlainQpu(), hospitals, whole, _SHOTS)
        for training in one.values():
            _averaged(works, training)


@flow
def _among_sites(links: Mapping[str, Any], seed: int) -> None:
    """Train both models once over sites that run."""
    federation = module.Federation(links=links, least=3, shots=_SHOTS)
    for training in _trainings(seed).values():
        module.federate(federation, training, _ROUNDS)


@contextmanager
def _started(texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as folder,
        local_sites(Path(folder), texts, qpu={"backend": "aer"}, least=3, noise_seed=None) as sites,
    ):
        yield {one.name: one.link.to_plain() for one in sites}


def measure() -> list[Row]:
    """Time the default run, and both trainings over sites that run already."""
    whole = beside_plain(
        "flows.federated",
        lambda seed: module.federated(seed=seed),
        _script,
        rounds=3,
        other="the same averaging and models in one process that has all data: no links, no masks, "
        "no brokers, and no processes of sites to start",
    )
    texts = _texts(0)
    works = _works(texts)
    with _started(texts) as links:
        warm = beside_plain(
            "one training of each model over four sites that run",
            lambda seed: _among_sites(links, seed),
            lambda seed: [_averaged(works, one) for one in _trainings(seed).values()],
            other="the same in one process that has all data: no links, no masks, no brokers",
            has_goal=False,  # it says what it costs to keep the data apart
        )
    return [whole, warm]
