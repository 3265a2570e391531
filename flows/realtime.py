"""Decode a quantum memory in real time: syndromes round by round over UDP, under a deadline.

A memory experiment is generated, read or executed on the run's QPU as by `flows.decoder`; a network is
trained a stage before. A decoding server (``hpcqc realtime serve``) then has matching or that network
behind the published wire of CUDA-Q's real-time calls (NVQLink), and a stage streams the even shots to it,
round by round, as a controller would. The shots were measured before: the stream is live, the QPU is not
held. Round trips are compared with a bare UDP echo, the reaction after the last round with the decoder
alone. ``hpcqc run flows.realtime -p name=value …`` takes:

- ``data``, ``source``, ``code``, ``distance``, ``rounds``, ``basis``, ``profile``, ``shots``,
  ``samples``, ``passes`` and ``seed`` as `flows.decoder` does; ``samples`` are 100 000 by default.
- ``decoder``: behind the server: "network" (the default), "matching" or "correlated".
- ``streamed``: shots to stream at most, 1000 by default.
- ``deadline_us``: time from sending the last round to having the corrections, in microseconds, 1000
  by default; ``timeout_s`` after which a call counts as lost.
- ``server``: "host:port" of a decoding server that runs already on this machine, with the decoder of
  another run behind it; by default the stage starts its own on loopback.

Latencies are measured, so they differ between runs; decoded flips do not. Beside the keys that `flows`
documents, the result has ``experiment``, ``qpu_source``, ``decoder``, ``streamed``, ``wrong`` (share of
the streamed shots that were decoded wrongly or not at all, with ``error``), ``matching_wrong``,
``deadline_us``, ``missed`` (shots later than the deadline, or without an answer), ``lost``, ``refused``,
``stale``, ``malformed``, ``latency_us`` (for "echo", "round", "reaction" and "decoder alone": ``p50``,
``p90``, ``p99``, ``max``) and ``infrastructure_us`` (what a call takes beyond the median echo, without
the decoder's own time: the mean over a shot's calls of their medians).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from backends.http_rules import is_loopback
from flows._comparison import Comparison, Way
from flows._decoder.experiments import Experiment, unpacked
from flows._decoder.networks import Shape, grid_of
from flows._decoder.pictures import latencies
from flows._decoder.standings import better, difference, standings, verdict
from flows._decoder.streaming import ServerKind, Stream, Streamed, round_sizes, streamed
from flows._decoder.trained import Trained, content_of
from flows._decoder.training import Schedule
from flows._inputs import InputError
from flows.decoder import MemorySettings, answers, checked, experiment_for, learn, training_shots
from hpcqc import checked_by, classical
from orchestrator.runs import current_run
from orchestrator.wording import counted

__all__ = ["realtime", "result", "stream"]

_KINDS = ("network", "matching", "correlated")
_MEASURED_PASSES = 3
_MICRO = 1e6


@classical
def stream(
    experiment: Experiment, trained: Trained | None, kind: ServerKind, asked: Mapping[str, Any]
) -> Streamed:
    """Stream even shots of an experiment to a decoding server, round by round."""
    from flows._decoder import served

    events = unpacked(experiment.packed[::2][: asked["streamed"]], experiment.detectors)
    content = experiment.model_for_even.encode() if trained is None else content_of(trained)
    made = served.of_content(kind, content)
    return streamed(
        Stream(
            kind=kind,
            content=content,
            events=events,
            sizes=round_sizes(experiment.coordinates),
            timeout_s=asked["timeout_s"],
            address=asked["server"],
        ),
        made.decode,
    )


def _checked(given: Mapping[str, Any]) -> MemorySettings:
    """Return the experiment's settings, once all parameters have been found usable."""
    if given["decoder"] not in _KINDS:
        raise InputError(f"decoder {given['decoder']!r}: expected one of {', '.join(_KINDS)}")
    if not 1 <= given["streamed"] <= 10**6:
        raise InputError(f"streamed {given['streamed']}: expected a whole number from 1 to 1000000")
    for name, most in (("deadline_us", 1e9), ("timeout_s", 60.0)):
        value = given[name]
        if not (math.isfinite(value) and 0 < value <= most):
            raise InputError(f"{name} {value}: expected a number above 0, at most {most:g}")
    server = given["server"]
    if server is not None:
        host, _, port = server.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise InputError(f"server {server!r}: expected host:port, such as 127.0.0.1:5555")
        if not is_loopback(host):
            raise InputError(
                f"server {server!r} is on another machine: the wire neither encrypts nor authenticates, "
                "and no label of the data holds for it; start one here with 'hpcqc realtime serve'"
            )
    return checked({**given, "network": "residual", "width": None, "gpus": 0, "save": None})


@flow
@checked_by(_checked)
def realtime(
    data: str | None = None,
    source: str | None = None,
    code: str | None = None,
    distance: int = 3,
    rounds: int = 5,
    basis: str = "z",
    profile: str = "ibm-fez",
    shots: int | None = None,
    samples: int = 100_000,
    passes: int = 1,
    decoder: str = "network",
    streamed: int = 1000,
    deadline_us: float = 1000.0,
    timeout_s: float = 1.0,
    server: str | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Decode a memory in real time; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, and `MissingExtra` where Stim,
    PyMatching, JAX or Optax is not installed.
    """
    settings = _checked(locals())
    kind = cast("ServerKind", decoder)
    experiment = experiment_for(settings, data, seed)
    shape = Shape(
        kind="residual",
        detectors=experiment.detectors,
        width=settings.width,
        grid=grid_of(experiment.coordinates),
    )
    learning = None
    if kind == "network":
        given = training_shots(experiment.model_for_even, experiment.detectors, samples, seed)
        schedule = Schedule(passes=passes, measured_passes=_MEASURED_PASSES, seed=seed)
        learning = learn.submit(experiment, shape, given, schedule)
    # Beside the training, which has one worker, and before anything is timed.
    known = answers(experiment)["correlated matching"][::2]
    trained = None
    if learning is not None:
        trained = Trained(
            shape=shape,
            weights=learning.result().weights,
            model=experiment.model_for_even,
            title=experiment.title,
        )
    # A dry run asks nobody else's server.
    address = None if current_run().dry else server
    asked = {"streamed": streamed, "timeout_s": timeout_s, "server": address}
    found = stream(experiment, trained, kind, asked)
    made = result(experiment, kind, found, known[: len(found.answers)], deadline_us, seed)
    return made | {"qpu_source": settings.source}


def _quantiles(times: NDArray[np.float64]) -> dict[str, float | None]:
    if not times.size:
        return {"p50": None, "p90": None, "p99": None, "max": None}
    shown = np.quantile(times, (0.5, 0.9, 0.99, 1.0)) * _MICRO
    return dict(zip(("p50", "p90", "p99", "max"), map(float, shown), strict=True))


def result(
    experiment: Experiment,
    kind: ServerKind,
    found: Streamed,
    matching: NDArray[np.bool_],
    deadline_us: float,
    seed: int,
) -> dict[str, Any]:
    """Return what the flow does, but for its source."""
    flips = experiment.flips[::2][: len(found.answers)]
    # A shot without an answer is decoded as no flip, which is what a controller would go on with.
    ways = {f"{kind} in real time": found.answers, "correlated matching": matching}
    ours, rival = standings(ways, flips, np.arange(len(flips)), experiment.rounds)
    apart = difference(found.answers != flips, matching != flips, seed)
    winner = better(ours, rival, apart)
    missed = int((found.reactions > deadline_us / _MICRO).sum() + (~found.answered).sum())
    latency = {
        "echo": _quantiles(found.echoes),
        "round": _quantiles(found.rounds.ravel()),
        "reaction": _quantiles(found.reactions),
        "decoder alone": _quantiles(found.decoding),
    }
    beyond_s = found.infrastructure_s
    made = {
        "experiment": experiment.title,
        "decoder": kind,
        "streamed": len(flips),
        "wrong": asdict(ours.test_wrong),
        "matching_wrong": asdict(rival.test_wrong),
        "deadline_us": deadline_us,
        "missed": missed,
        "lost": found.lost,
        "refused": found.refused,
        "stale": found.stale,
        "malformed": found.malformed,
        "latency_us": latency,
        "infrastructure_us": None if beyond_s is None else beyond_s * _MICRO,
        "comparisons": [
            Comparison(
                ways=[
                    Way(name=one.name, figure=one.test_per_round, group=one.name)
                    for one in (ours, rival)
                ],
                measure="logical error per round",
                higher_is_better=False,
                data=f"{experiment.title}, {counted(len(flips), 'shot')}",
            ).as_record()
            | {"won": "neither" if winner is None else winner.name}
        ],
    }
    times = {
        "echo": found.echoes,
        "round": found.rounds.ravel(),
        "reaction": found.reactions,
        "decoder alone": found.decoding,
    }
    return made | {
        "plot": latencies(times, deadline_us),
        "table": _table(latency),
        "summary": _summary(experiment, made, verdict(ours, rival, apart)),
    }


def _table(latency: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    names = {
        "echo": "Bare UDP echo",
        "round": "Round trip of a round",
        "reaction": "Last round to corrections",
        "decoder alone": "Decoder alone",
    }
    return {
        "columns": ["Latency / µs", "p50", "p90", "p99", "Maximum"],
        "rows": [
            [names[key], *(None if one is None else round(one, 1) for one in found.values())]
            for key, found in latency.items()
        ],
    }


def _summary(experiment: Experiment, result: Mapping[str, Any], who_won: str) -> list[str]:
    lines = [
        who_won,
        (
            f"{experiment.title}: {counted(result['streamed'], 'shot')} streamed round by round to the "
            f"decoder {result['decoder']!r}, after they were measured."
        ),
        (
            f"Deadline of {result['deadline_us']:g} µs missed by "
            f"{counted(result['missed'], 'shot')}; {counted(result['lost'], 'call')} without an "
            f"answer, {result['refused']} refused; {result['stale']} late and {result['malformed']} "
            "malformed datagrams."
        ),
    ]
    if result["infrastructure_us"] is not None:
        lines.append(
            f"At the median a call takes {result['infrastructure_us']:.1f} µs beyond a bare echo of as "
            "many bytes on this machine, without the decoder's own time (published for CUDA-Q's own "
            "pipeline: about 18 µs)."
        )
    return lines
