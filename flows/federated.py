"""Hospitals learn together who is ill, and no patient's record leaves its hospital.

Each site is a process with its own site file, broker, QPU and certificate. The coordinator, this flow,
asks it over a quantum-safe link to train a model from common weights on its own patients, and gets the
update under masks that cancel in the sum of all sites: pairwise ones from X25519 and ML-KEM-768
together, new in each round, and one of each site's own, revealed once it is settled whose updates are
in the sum (after Bonawitz et al., doi:10.1145/3133956.3133982). Their mean, weighted by patients, is the
next model. Two models: a logistic regression, and a variational circuit on the site's QPU, trained by
simultaneous perturbation. Beside them, where the data may be pooled: both models trained on all
patients together and on each hospital's own, all tested on the same patients.
``hpcqc run flows.federated -p name=value …`` takes:

- ``data``: a folder with a file for each hospital in the layout of UCI's processed Heart Disease
  files: 14 columns separated by commas, NaN or ? for what is missing, the diagnosis last (0 is
  healthy). By default invented patients of four hospitals. One process for each is started here.
- ``sites``: names of links of the site file, separated by commas, where sites that others started
  (``hpcqc-federated-site --help``) answer; the data stay there, so nothing is pooled.
- ``rounds`` of averaging, ``steps`` of each site in a round; ``seeds``: how many splits, each with
  another quarter for tests; ``seed``: of the first, and of what is invented.
- ``qubits`` and ``layers`` of the circuit; ``batch``: patients of a step; ``shots`` for each patient, by
  which a device and its profile measure. An ideal simulator's values are exact, whatever ``shots``.
- ``least``: of how many sites a sum is at least. A site that vanishes is left out of the round; with
  fewer left, or not more than half, the flow stops and the round stays masked.
- ``privacy``: ε of differential privacy (δ = 1e-5) of each patient, against the sites and the
  coordinator, for what a training releases; by default none. Each model of each split spends it anew.

Sums are exact in whole numbers, so the masks change no result. Beside the keys that `flows` documents,
the result has ``hospitals`` (names), ``patients`` (of each, None for sites), ``federated``, ``pooled`` and
``alone`` (``logistic`` and ``circuit``: ``value`` and ``error`` of the accuracy, over splits; None where nothing
is pooled), ``untrained`` (the circuit before training), ``home`` (each hospital's own logistic
regression on its own patients), ``gone`` (by site, why and in which training), ``links`` (by site, what
the handshake agreed on) and ``multiplier`` (noise of privacy, in clipping bounds).
"""

from __future__ import annotations

import math
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from backends.links import Link
from flows._comparison import Comparison, Figure, Way, over_seeds
from flows._federated.circuits import on_qpu
from flows._federated.coordinator import Coordinator, FederationStopped, Sum
from flows._federated.models import (
    PrivacyNoise,
    SiteTraining,
    correct,
    correct_together,
    fitted,
    initial,
    noise_for,
    trained_together,
)
from flows._federated.patients import (
    QUBIT_FEATURES,
    Patients,
    as_text,
    generated,
    joined,
    parsed,
)
from flows._federated.processes import local_sites
from flows._inputs import InputError, check_whole, read_lines, require_extra
from hpcqc import Qpu, checked_by, classical, quantum
from orchestrator.runs import current_run
from orchestrator.wording import counted

__all__ = ["Federation", "federate", "federated", "reference_circuits", "references"]

_INVENTED = {"north": 240, "east": 220, "south": 120, "west": 180}
_INVENTED_TITLE = "generated patients"
_MOST_SITES = 32
_SITE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,38}[A-Za-z0-9])?", re.ASCII)
_TAKEN = ("authority", "coordinator")
_RATES = {"logistic": 1.0, "circuit": 0.05}
# A step of the regression costs no QPU time.
_LOGISTIC_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Sites and their rule. links: by site, as `Link.to_plain` gives them."""

    links: Mapping[str, Mapping[str, Any]]
    least: int
    shots: int


@classical
def federate(federation: Federation, training: SiteTraining, rounds: int) -> dict[str, Any]:
    """Train a model over the sites, and test it there; only sums come back."""
    links = {name: Link.from_plain(one) for name, one in federation.links.items()}
    # Masks are of this call alone; they leave the sums as they are.
    name = f"{training.model}-{training.seed}-{secrets.token_hex(8)}"
    with Coordinator(links=links, federation=name, least=federation.least) as sites:
        gone: dict[str, str] = {}

        def total(kind: str, number: int, weights: Sequence[float]) -> NDArray[np.float64]:
            task = {
                "kind": kind,
                "training": replace(training, round=number).to_plain(),
                "weights": list(weights),
                "shots": federation.shots,
            }
            found = sites.total(task, len(weights) + 1 if kind == "train" else 2)
            for site, reason in found.gone.items():
                gone.setdefault(site, f"round {number + 1} of {rounds}: {reason}")
            _check_counts(kind, number + 1, found)
            return found.values

        weights = initial(training)
        before = total("test", 0, weights.tolist())
        for number in range(rounds):
            added = total("train", number, weights.tolist())
            weights = added[:-1] / added[-1]
        after = total("test", rounds, weights.tolist())
        home = total("home", rounds, []) if training.model == "logistic" else after
        return {
            "weights": weights.tolist(),
            "accuracy": float(after[0] / after[1]),
            "untrained": float(before[0] / before[1]),
            "home": float(home[0] / home[1]),
            "tested": float(after[1]),
            "gone": gone,
            "links": {site: facts.to_plain() for site, facts in sites.facts().items()},
        }


def _check_counts(kind: str, number: int, found: Sum) -> None:
    """Refuse a sum whose last word, the patients, cannot be; one before it is of right answers."""
    right, patients = found.values[-2:]
    if patients < len(found.sites) or (kind != "train" and not 0 <= right <= patients):
        raise FederationStopped(
            f"round {number}: {', '.join(found.sites)} add up to {patients:g} patients"
            + (f", {right:g} told rightly" if kind != "train" else "")
            + "; one of them sent what is no update, and nobody can tell which"
        )


@classical
def references(hospitals: Sequence[Patients], training: SiteTraining) -> dict[str, float]:
    """Fit the regression to all patients together, and to each hospital's own; test on all."""
    splits = [one.split(training.seed) for one in hospitals]
    test = joined([one.test for one in splits])

    def accuracy(patients: Patients) -> float:
        weights = fitted(patients, training.seed)
        return float(correct(weights, test, training, None).mean())

    alone = [accuracy(one.training) for one in splits]
    return {
        "pooled": accuracy(joined([one.training for one in splits])),
        "alone": float(np.mean(alone)),
    }


@quantum
def reference_circuits(
    qpu: Qpu, hospitals: Sequence[Patients], training: SiteTraining, shots: int
) -> dict[str, float]:
    """Train the circuit on all patients together, and on each hospital's own; test on all."""
    splits = [one.split(training.seed) for one in hospitals]
    test = joined([one.test for one in splits])
    circuit = on_qpu(qpu, qubits=training.qubits, layers=training.layers, shots=shots)
    # Without noise, as nothing of these figures would be published.
    quiet = replace(training, noise=None)
    parties = [joined([one.training for one in splits]), *(one.training for one in splits)]
    found = trained_together(initial(quiet), parties, quiet, circuit)
    hits = correct_together(found, test, quiet, circuit)
    pooled, *alone = (float(one.mean()) for one in hits)
    return {"pooled": pooled, "alone": float(np.mean(alone))}


@dataclass(frozen=True, eq=False, kw_only=True)
class _Inputs:
    title: str
    hospitals: tuple[Patients, ...]
    texts: Mapping[str, str]  # of the files of sites that are started here
    sites: tuple[str, ...]  # links to sites that others started
    noise: Mapping[str, PrivacyNoise]  # by model


def _checked(given: Mapping[str, Any]) -> _Inputs:
    """Return the patients, once all parameters have been found usable."""
    require_extra("links", ("OpenSSL",))
    bounds = {
        "rounds": (1, 1000),
        "steps": (1, 1000),
        "seeds": (2, 100),
        "qubits": (2, len(QUBIT_FEATURES)),
        "layers": (1, 20),
        "shots": (1, 10**7),
        "batch": (1, 10**6),
        "least": (2, _MOST_SITES),
        "seed": (0, 2**31 - 1),
    }
    check_whole(given, bounds)
    epsilon = given["privacy"]
    if epsilon is not None and not (math.isfinite(epsilon) and 0.01 <= epsilon <= 1000):
        raise InputError(f"privacy {epsilon}: expected ε from 0.01 to 1000, such as 3")
    noise = {} if epsilon is None else _noise(epsilon, given["rounds"], given["steps"])
    if given["sites"] is not None:
        return _far(given, noise)
    if given["data"] is None:
        title = _INVENTED_TITLE
        texts = {
            name: as_text(generated(index, number, given["seed"]))
            for index, (name, number) in enumerate(_INVENTED.items())
        }
        files: Mapping[str, Path] = {}
    else:
        folder = Path(given["data"]).expanduser()
        title = f"hospitals ({folder.resolve().name})"
        files = _files(folder)
        _check_number(len(files), given["least"])
        # Read once: a file that changes meanwhile would be of other patients here than at its site.
        texts = {
            name: "".join(f"{line.text}\n" for line in read_lines(file))
            for name, file in files.items()
        }
    hospitals = tuple(parsed(text, name, files.get(name)) for name, text in texts.items())
    _check_number(len(hospitals), given["least"])
    return _Inputs(title=title, hospitals=hospitals, texts=texts, sites=(), noise=noise)


def _noise(epsilon: float, rounds: int, steps: int) -> dict[str, PrivacyNoise]:
    return {
        "logistic": noise_for(epsilon, rounds * _LOGISTIC_STEPS),
        "circuit": noise_for(epsilon, rounds * steps),
    }


def _far(given: Mapping[str, Any], noise: Mapping[str, PrivacyNoise]) -> _Inputs:
    if given["data"] is not None:
        raise InputError("data and sites were given; the data of sites stay where they are")
    sites = tuple(one.strip() for one in given["sites"].split(",") if one.strip())
    if len(set(sites)) != len(sites):
        raise InputError(f"sites {given['sites']!r}: one is named twice")
    _check_number(len(sites), given["least"])
    title = f"patients of {counted(len(sites), 'site')}"
    return _Inputs(title=title, hospitals=(), texts={}, sites=sites, noise=noise)


def _check_number(number: int, least: int) -> None:
    if not least <= number <= _MOST_SITES:
        raise InputError(
            f"{counted(number, 'site')}; expected {least} (least) to {_MOST_SITES} of them"
        )


def _files(folder: Path) -> dict[str, Path]:
    """Return the file of each hospital by its name, which is that of a site and its link, too."""
    if not folder.is_dir():
        raise InputError(f"data {str(folder)!r}: expected a folder with a file for each hospital")
    # UCI's own names, where the other files of its folder are of another layout.
    files = sorted(folder.glob("processed.*.data")) or sorted(folder.glob("*.csv"))
    found = {file.stem.removeprefix("processed."): file for file in files if file.is_file()}
    if not found:
        raise InputError(
            f"{folder}: no files of hospitals, such as cleveland.csv or processed.cleveland.data"
        )
    for name, file in found.items():
        if not _SITE_NAME.fullmatch(name) or name in _TAKEN:
            raise InputError(
                f"{file}: the hospital {name!r}; expected letters, digits and - in the name of a file, "
                f"which becomes that of a site, and none of the names {', '.join(_TAKEN)}"
            )
    return found


@flow
@checked_by(_checked)
def federated(
    data: str | None = None,
    sites: str | None = None,
    rounds: int = 8,
    steps: int = 6,
    seeds: int = 5,
    qubits: int = 5,
    layers: int = 2,
    shots: int = 256,
    batch: int = 48,
    least: int = 3,
    privacy: float | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Train two models over hospitals; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, with file and line where there
    is one, `FederationStopped`, one of these, if too few sites are left, and `MissingExtra` where
    pyOpenSSL is not installed.
    """
    inputs = _checked(locals())
    trainings = [
        {
            "logistic": SiteTraining(
                model="logistic",
                seed=seed + number,
                round=0,
                steps=_LOGISTIC_STEPS,
                rate=_RATES["logistic"],
                noise=inputs.noise.get("logistic"),
            ),
            "circuit": SiteTraining(
                model="circuit",
                seed=seed + number,
                round=0,
                steps=steps,
                rate=_RATES["circuit"],
                batch=batch,
                layers=layers,
                qubits=qubits,
                noise=inputs.noise.get("circuit"),
            ),
        }
        for number in range(seeds)
    ]
    waiting: dict[str, list[Any]] = {"logistic": [], "circuit": []}
    for one in trainings if inputs.hospitals else ():
        waiting["logistic"].append(references.submit(inputs.hospitals, one["logistic"]))
        # As many steps as in all rounds of the federation.
        whole = replace(one["circuit"], steps=steps * rounds)
        waiting["circuit"].append(reference_circuits.submit(inputs.hospitals, whole, shots))
    with _sites(inputs, least) as links:
        federation = Federation(links=links, least=least, shots=shots)
        found = {
            model: [federate(federation, one[model], rounds) for one in trainings]
            for model in ("logistic", "circuit")
        }
    beside = {model: [one.result() for one in some] for model, some in waiting.items()}
    return _result(inputs, found, beside)


@contextmanager
def _sites(inputs: _Inputs, least: int) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield the link to each site; start those that are to run here."""
    run = current_run()
    if inputs.sites and run.dry:
        raise InputError(
            "sites were given, whose QPUs and patients would work for a dry run as for a real one; "
            "estimate without sites, on invented patients: what the coordinator does is the same"
        )
    if inputs.sites:
        found = {site: run.site.link_of(f"link:{site}") for site in inputs.sites}
        yield {site: link.to_plain() for site, link in found.items() if link is not None}
        return
    from orchestrator.config.private import close_to_others

    settings = run.site.qpu(run.qpu)
    if settings.backend != "aer":
        raise InputError(
            f"QPU {settings.name!r} has backend {settings.backend!r}; sites that are started here "
            "have simulators of their own: choose a QPU with backend aer, or start the sites yourself"
        )
    folder = run.site.state_dir / "federations" / run.id
    close_to_others(folder.parent)
    noise_seed = None if not inputs.noise else inputs.hospitals[0].features.shape[0]
    table = {
        "backend": "aer",
        "accepts": settings.accepts,
        "jurisdictions": settings.jurisdictions,
        **settings.options,
    }
    with local_sites(
        folder,
        inputs.texts,
        qpu=table,
        least=least,
        noise_seed=noise_seed,
        labels=run.site.labels_without_service(None),
    ) as started:
        yield {one.name: one.link.to_plain() for one in started}
    shutil.rmtree(folder, ignore_errors=True)  # its stages are done; else it is used again


_NAMES = {"logistic": "logistic regression", "circuit": "circuit"}


def _result(
    inputs: _Inputs,
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    beside: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, Any]:
    accuracies = {
        "federated": {
            model: tuple(one["accuracy"] for one in some) for model, some in found.items()
        }
    }
    for kind in ("pooled", "alone"):
        if inputs.hospitals:
            accuracies[kind] = {
                model: tuple(one[kind] for one in some) for model, some in beside.items()
            }
    figures = {
        kind: {model: over_seeds(values) for model, values in some.items()}
        for kind, some in accuracies.items()
    }
    # A seed is one split for both models, unless a site was away when one of them was tested.
    tested = {tuple(one["tested"] for one in some) for some in found.values()}
    paired = {kind for kind in accuracies if kind != "federated" or len(tested) == 1}
    comparisons = [
        Comparison(
            ways=[
                Way(
                    name=f"the {_NAMES[model]}, {kind}",
                    figure=figures[kind][model],
                    is_quantum=model == "circuit",
                    by_seed=values if kind in paired else (),
                )
                for model, values in some.items()
            ],
            measure="accuracy",
            data=f"{inputs.title}, {kind}",
        )
        for kind, some in accuracies.items()
    ]
    untrained = over_seeds([one["untrained"] for one in found["circuit"]])
    home = over_seeds([one["home"] for one in found["logistic"]])
    gone = {
        f"{site}, {one_model} {number + 1}": reason
        for one_model, some in found.items()
        for number, one in enumerate(some)
        for site, reason in one["gone"].items()
    }
    names = [one.hospital for one in inputs.hospitals] or list(inputs.sites)
    result: dict[str, Any] = {
        "hospitals": names,
        "patients": [len(one) for one in inputs.hospitals] or None,
        "untrained": _plain(untrained),
        "home": _plain(home),
        "gone": gone,
        "links": found["circuit"][-1]["links"],
        "multiplier": {model: one.multiplier for model, one in inputs.noise.items()} or None,
        "comparisons": [one.as_record() for one in comparisons],
        "plot": _plot(figures),
        "table": {
            "columns": ["Way", "Accuracy", "Standard error"],
            "rows": [
                [way.name, round(way.figure.value, 4), round(way.figure.error, 4)]
                for one in comparisons
                for way in one.ways
            ],
        },
    }
    for kind in ("federated", "pooled", "alone"):
        some_figures = figures.get(kind)
        result[kind] = some_figures and {m: _plain(one) for m, one in some_figures.items()}
    return result | {"summary": _summary(inputs, comparisons[0], figures, result)}


def _plain(figure: Figure) -> dict[str, float]:
    return {"value": figure.value, "error": figure.error}


def _plot(figures: Mapping[str, Mapping[str, Figure]]) -> dict[str, Any]:
    kinds = [kind for kind in ("alone", "federated", "pooled") if kind in figures]
    return {
        "title": "Who is ill: accuracy on patients of all hospitals",
        "x_label": "trained on",
        "y_label": "accuracy",
        "x": kinds,
        "series": [
            {
                "label": name,
                "style": "points",
                "y": [figures[kind][model].value for kind in kinds],
                "y_error": [figures[kind][model].error for kind in kinds],
            }
            for model, name in _NAMES.items()
        ],
    }


def _summary(
    inputs: _Inputs,
    comparison: Comparison,
    figures: Mapping[str, Mapping[str, Figure]],
    result: Mapping[str, Any],
) -> list[str]:
    ours = figures["federated"]
    lines = [
        comparison.verdict,
        (
            f"{counted(len(result['hospitals']), 'site')}: {', '.join(result['hospitals'])}. Federated: "
            f"logistic regression {ours['logistic']}, circuit {ours['circuit']} (untrained "
            f"{Figure(**result['untrained'])})."
        ),
    ]
    if "pooled" in figures:
        pooled, alone = figures["pooled"], figures["alone"]
        lines.append(
            f"Pooled: {pooled['logistic']} and {pooled['circuit']}; each hospital alone, tested on all: "
            f"{alone['logistic']} and {alone['circuit']}."
        )
    lines.append(
        f"Each hospital's own regression on its own patients: {Figure(**result['home'])}. Errors are "
        "standard errors over splits."
    )
    groups = sorted({facts["group"] for facts in result["links"].values()})
    lines.append(
        f"Links: {', '.join(groups)}; updates crossed under masks, and the coordinator read sums alone."
    )
    if inputs.noise:
        lines.append(
            "Differential privacy of each patient: noise of "
            f"{inputs.noise['logistic'].multiplier:.1f} and {inputs.noise['circuit'].multiplier:.1f} "
            "clipping bounds in each step of the federated models; the other figures are without."
        )
    if inputs.title == _INVENTED_TITLE:
        lines.append("The patients are invented; give data for real ones.")
    if inputs.texts and inputs.noise:
        lines.append(
            "The noise of sites on this machine can be repeated, so it is for study alone."
        )
    lines += [f"{where} went away: {reason}" for where, reason in result["gone"].items()]
    return lines
