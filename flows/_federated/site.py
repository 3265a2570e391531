"""One site of `flows.federated`: it learns from its own patients, and sends masked updates alone.

``hpcqc-federated-site --site FILE --link NAME --data FILE --members NAMES`` serves until it is signalled.
The site file has the site's QPU, its broker and ``[link.NAME]`` with listen and the names of its
coordinators in ``peers``; NAME is the site's name in the certificates of the federation, and ``--members``
are all its sites. The data are a file of patients in the layout of UCI's processed Heart Disease files.
Nothing of it leaves the process but sums to which other sites have added theirs, and these only of
``--least`` sites or more.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.links import LinkError
from flows._federated.masking import MaskingError
from flows._federated.models import Circuit, SiteTraining, correct, fitted, initial, trained
from flows._federated.patients import Patients, read
from flows._inputs import InputError, require_extra
from orchestrator.config.errors import ConfigError

__all__ = ["SiteWork", "main"]

_MOST_SHOTS = 10**7
_LARGEST_WEIGHT = 1e5
_MOST_CIRCUITS = 4  # kept ready


class SiteWork:
    """What a site makes of tasks: vectors to be added to those of other sites.

    circuits: returns the circuit for a number of qubits, layers and shots. noise_seed: of the noise of
    privacy; None for what nobody can guess. least_noise: multiplier of the noise below which the site
    does not train, whatever a coordinator asks for.
    """

    def __init__(
        self,
        patients: Patients,
        circuits: Any,
        noise_seed: int | None = None,
        *,
        least_noise: float = 0.0,
    ) -> None:
        """Take the site's patients."""
        self._patients, self._circuits = patients, circuits
        self._noise_seed, self._least_noise = noise_seed, least_noise
        self._known: dict[tuple[int, int, int], Circuit] = {}

    def __call__(self, task: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return the vector of a task. Raises ``MaskingError`` for a task that is none.

        Whether it does must not depend on the patients: it is the one answer that no mask hides.
        """
        kind = task.get("kind")
        training = SiteTraining.from_plain(task.get("training"))
        if kind == "home":
            training = replace(training, model="logistic")
        elif kind not in ("test", "train"):
            raise MaskingError(f"no task {kind!r:.40}; there are: home, test, train")
        split = self._patients.split(training.seed)
        circuit = self._circuit(training, task.get("shots", 256))
        if kind == "home":
            weights = fitted(split.training, training.seed)
        else:
            weights = _weights(task.get("weights"), initial(training).size)
        if kind == "train":
            self._check_noise(training)
            noise = self._noise(training)
            after = trained(weights, split.training, training, circuit, noise)
            return np.append(after * len(split.training), len(split.training))
        hits = correct(weights, split.test, training, circuit)
        return np.array([np.count_nonzero(hits), len(hits)], dtype=float)

    def _circuit(self, training: SiteTraining, shots: Any) -> Circuit | None:
        if training.model != "circuit":
            return None
        if type(shots) is not int or not 0 < shots <= _MOST_SHOTS:
            raise MaskingError(f"{shots!r:.40} shots; expected 1 to {_MOST_SHOTS}")
        key = (training.qubits, training.layers, shots)
        if key not in self._known:
            while len(self._known) >= _MOST_CIRCUITS:
                del self._known[next(iter(self._known))]
            self._known[key] = self._circuits(*key)
        return self._known[key]

    def _check_noise(self, training: SiteTraining) -> None:
        stated = 0.0 if training.noise is None else training.noise.multiplier
        if not stated >= self._least_noise:
            raise MaskingError(
                f"noise of {stated:g} clipping bounds; this site trains with at least "
                f"{self._least_noise:g}; give the flow a smaller privacy"
            )

    def _noise(self, training: SiteTraining) -> np.random.Generator:
        if self._noise_seed is None:
            return np.random.default_rng()
        name = self._patients.hospital.encode()
        return np.random.default_rng([self._noise_seed, training.seed, training.round, *name])


def _weights(stated: Any, size: int) -> NDArray[np.float64]:
    if not isinstance(stated, list) or len(stated) != size:
        raise MaskingError(f"a model has {size} weights")
    if not all(isinstance(one, int | float) and abs(one) <= _LARGEST_WEIGHT for one in stated):
        raise MaskingError(f"weights are numbers up to {_LARGEST_WEIGHT:g}")
    return np.array(stated, dtype=float)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a site until it is signalled; return the exit code."""
    stated = _parsed(arguments)
    try:
        return _serve(stated)
    except (InputError, ConfigError, LinkError, MaskingError) as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - a command
        return 2


def _serve(stated: argparse.Namespace) -> int:
    require_extra("links", ("OpenSSL",))
    patients = read(stated.data, stated.link)
    from flows._federated.member import Member
    from flows._federated.serving import serving
    from orchestrator.config.loading import load_site
    from orchestrator.links.front import open_port
    from orchestrator.runs import Run, activate

    site = load_site(stated.site)
    table = site.link(stated.link)
    if table.listen is None:
        raise ConfigError(f"[link.{stated.link}] of {site.source} needs listen = 'HOST:PORT'")
    link = table.named(stated.link)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    if stated.with_parent:
        threading.Thread(target=_await_end, args=(ended,), daemon=True).start()
    activate(Run(id=f"site-{stated.link}-{os.getpid()}", site=site, resumable=False))
    work = SiteWork(patients, _circuits, stated.noise_seed, least_noise=stated.least_noise)
    member = Member(link, name=stated.link, members=stated.members, least=stated.least, work=work)
    listening = open_port(table.listen)
    with serving(member, link, listening, _note):
        host, port = listening.getsockname()[:2]
        _note("ready", {"site": stated.link, "host": host, "port": port})
        ended.wait()
    from hpcqc import shutdown

    shutdown()
    return 0


def _circuits(qubits: int, layers: int, shots: int) -> Circuit:
    from flows._federated.circuits import on_qpu
    from hpcqc import open_qpu

    return on_qpu(open_qpu(), qubits=qubits, layers=layers, shots=shots)


def _note(event: str, facts: Mapping[str, Any]) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)  # noqa: T201 - its log


def _await_end(ended: threading.Event) -> None:
    """Note the end of the process that holds the other end of standard input."""
    # Not by sys.stdin, whose lock a thread that waits would hold when the interpreter ends.
    while os.read(0, 1 << 10):
        pass
    ended.set()


def _names(stated: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in stated.split(",") if name.strip()))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hpcqc-federated-site",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--site", type=Path, required=True, metavar="FILE", help="the site file")
    parser.add_argument("--link", required=True, metavar="NAME", help="the site's own link")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="its patients")
    parser.add_argument(
        "--members",
        type=_names,
        required=True,
        metavar="NAMES",
        help="all sites of the federation, separated by commas; it adds to sums of these alone",
    )
    parser.add_argument(
        "--least", type=int, default=3, metavar="N", help="fewest sites of a sum (default: 3)"
    )
    parser.add_argument(
        "--least-noise",
        type=float,
        default=0.0,
        metavar="M",
        help="refuse to train with less noise of privacy, in clipping bounds (default: 0)",
    )
    parser.add_argument(
        "--noise-seed",
        type=int,
        metavar="N",
        help="makes the noise of privacy repeatable, so that it hides nothing: for tests",
    )
    parser.add_argument(
        "--with-parent", action="store_true", help="end when standard input is closed"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
