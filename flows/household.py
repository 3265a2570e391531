"""The battery of a home with solar modules, controlled by a quantum policy beside what experts use.

A circuit of four qubits takes hour, state of charge and net load and gives the power of the battery
as ⟨Z⟩. Each candidate for its parameters is one broadcast PUB, whose rows are the states of a table; an
evolution strategy changes the parameters by what candidates cost in simulated weeks of the homes of
the training, on Dask workers. It starts from parameters that imitate plans with foresight for those
weeks, found without the QPU. Export earns nothing; the battery is empty at first. Beside it, on the
other homes, whole years: a small network of as many parameters, trained alike from five starts, of which
the cheapest on the homes of the training counts; a plan for the day ahead by a linear programme and a forecast; two rules; and, as the bound, a plan with foresight.
``hpcqc run flows.household -p name=value …`` takes:

- ``data``: a folder in the layout of the CityLearn challenge of 2022 (schema.json, Building_*.csv,
  pricing.csv), of which load and solar generation are used; by default generated homes.
- ``train``: how many homes are for the training, the first in the order of their names; by default
  half of them. ``homes``, ``days``: how many are generated.
- ``generations`` of the evolution, ``candidates`` of each (an even number, and their centre).
- ``precision``: standard error of each power, 0 for exact; by default exact where the QPU can be,
  else 0.1 and three generations of four. ``seed`` of all that is random.

Beside the keys that `flows` documents, the result has ``homes``, ``trained_on`` and ``tested_on``
(names), ``costs`` (for each way ``cost``, in all unseen homes relative to no battery, with
``std_error`` over resampled homes), ``foresight`` (that bound), ``published_saving`` (0.644 beside its
own baseline, Energy and AI 21, 100541), ``warm_start`` (cost of the policy on the homes of the training
before its evolution), ``history`` (the lowest after each generation) and ``circuits`` (rows that the QPU
evaluated).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from flows._comparison import Comparison, Way, resampled
from flows._evolution import Evolution
from flows._household.battery import (
    PolicyTable,
    bill,
    foresight_cost,
    predictive_cost,
    self_consumption,
    tariff_rule,
    without_battery,
)
from flows._household.homes import Homes, generated, read_homes
from flows._household.picture import LearningCurve, picture
from flows._household.policies import (
    CIRCUIT_PARAMETERS,
    NETWORK_PARAMETERS,
    StateGrid,
    angles,
    exact_table,
    fitted_start,
    lesson,
    network_table,
    observable,
    policy_circuit,
)
from flows._inputs import InputError, check_whole
from hpcqc import Qpu, checked_by, classical, fan_out, quantum
from orchestrator.wording import counted

__all__ = [
    "NETWORK",
    "PREDICTIVE",
    "QUANTUM",
    "EvolutionPlan",
    "Evolved",
    "WarmStart",
    "evolve_circuit",
    "evolve_network",
    "evolved_circuit",
    "evolved_network",
    "household",
    "plan_for",
    "planned",
    "planned_all",
    "prepare",
    "result",
]

_Values = NDArray[np.float64]
_Spread = Callable[..., Iterable[Any]]

QUANTUM, NETWORK = "quantum policy", "small network"
PREDICTIVE = "day-ahead predictive control"
_WEEKS = 8
_PUBLISHED_SAVING = 0.644
_SPREAD, _RATE = 0.1, 0.1
_EXACT_GENERATIONS, _EXACT_CANDIDATES = 30, 8
_SAMPLED_GENERATIONS, _SAMPLED_CANDIDATES, _SAMPLED_PRECISION = 3, 4, 0.1
# From one start a network often ends where it only stores surplus: its output saturates, and small steps
# change nothing. So it begins several times, imitates less, and takes larger steps.
_NETWORK_GENERATIONS, _NETWORK_CANDIDATES = 60, 8
_NETWORK_STARTS, _NETWORK_IMITATION, _NETWORK_SPREAD, _NETWORK_RATE = 5, 8, 0.3, 0.3
_MOST_CANDIDATES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionPlan:
    """How the circuit evolves; precision 0 is exact. None leaves it to the QPU, see `plan_for`."""

    generations: int | None = None
    candidates: int | None = None
    precision: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """Weeks of the homes of the training, the states of a table, and where both policies start.

    network: (starts, parameters).
    """

    weeks: Homes
    grid: StateGrid
    circuit: _Values
    network: _Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolved:
    """A policy as a table, (states,). history: its lowest cost, relative to no battery, by generation."""

    table: _Values
    warm_start: float
    history: tuple[float, ...]
    rows: int


@classical
def prepare(homes: Homes, seed: int) -> WarmStart:
    """Choose weeks, and let both policies imitate the cheapest plans for them."""
    weeks = _weeks_of(homes)
    grid = StateGrid.of(weeks)
    taught = lesson(weeks, grid)
    return WarmStart(
        weeks=weeks,
        grid=grid,
        circuit=fitted_start(exact_table, CIRCUIT_PARAMETERS, grid, taught, seed),
        network=np.array(
            [
                fitted_start(
                    network_table, NETWORK_PARAMETERS, grid, taught, seed + n, _NETWORK_IMITATION
                )
                for n in range(_NETWORK_STARTS)
            ]
        ),
    )


def _weeks_of(homes: Homes) -> Homes:
    """Return some whole weeks of the year, evenly spread, one after another."""
    days = homes.net.shape[1] // 24
    begins = np.unique(np.linspace(0, days - 7, _WEEKS).astype(int)) * 24
    parts = [homes.during(int(begin), int(begin) + 7 * 24) for begin in begins]
    return replace(
        homes,
        net=np.concatenate([part.net for part in parts], axis=1),
        prices=np.concatenate([part.prices for part in parts]),
        hours=np.concatenate([part.hours for part in parts]),
    )


@quantum
def evolve_circuit(qpu: Qpu, prepared: WarmStart, plan: EvolutionPlan) -> Evolved:
    """Evolve the circuit on the QPU of this stage; each candidate is one broadcast PUB."""
    return evolved_circuit(qpu, prepared, plan, fan_out)


def evolved_circuit(qpu: Qpu, prepared: WarmStart, plan: EvolutionPlan, spread: _Spread) -> Evolved:
    """Evolve as `evolve_circuit` does; ``spread`` applies a function to each candidate, as `map`."""
    generations, pairs, precision = plan_for("estimator" in qpu.target.payload_kinds, plan)
    circuit, power, inputs = policy_circuit(), observable(), prepared.grid.inputs()
    evolution = Evolution(prepared.circuit, 2 * pairs, _SPREAD, _RATE, plan.seed)
    rows, warm_start, best = 0, math.inf, np.zeros(len(inputs))
    with qpu.lease():
        for generation in range(generations):
            candidates = evolution.candidates()
            estimator = qpu.estimator(precision=precision, seed=plan.seed + generation)
            pubs = [(circuit, power, angles(one, inputs), precision) for one in candidates]
            found = estimator.run(pubs).result()
            tables = np.array([np.asarray(one.data.evs, dtype=float).ravel() for one in found])
            rows += tables.size
            costs = list(spread(partial(_cost, prepared), tables))
            if generation == 0:
                warm_start = costs[0]
            chosen = evolution.learn(candidates, costs)
            if chosen is not None:
                # The table as it was measured: what is controlled with is what was found cheap.
                best = tables[chosen]
    return Evolved(table=best, warm_start=warm_start, history=tuple(evolution.history), rows=rows)


@classical
def evolve_network(prepared: WarmStart, seed: int) -> Evolved:
    """Evolve the network from all its starts, each with twice the generations, on a worker."""
    return evolved_network(prepared, seed)


def evolved_network(prepared: WarmStart, seed: int) -> Evolved:
    """Evolve as `evolve_network` does."""
    inputs = prepared.grid.inputs()
    evolutions = [
        Evolution(start, _NETWORK_CANDIDATES, _NETWORK_SPREAD, _NETWORK_RATE, seed + n)
        for n, start in enumerate(prepared.network)
    ]
    first: _Values | None = None
    for _ in range(_NETWORK_GENERATIONS):
        candidates = [one.candidates() for one in evolutions]
        tables = np.array([network_table(one, inputs) for one in np.concatenate(candidates)])
        costs = _costs(prepared, tables).reshape(len(evolutions), -1)
        first = costs[:, 0] if first is None else first
        for evolution, asked, found in zip(evolutions, candidates, costs, strict=True):
            evolution.learn(asked, found.tolist())
    chosen = int(np.argmin([one.best_cost for one in evolutions]))
    best = evolutions[chosen]
    return Evolved(
        table=network_table(best.best, inputs),
        warm_start=math.inf if first is None else float(first[chosen]),
        history=tuple(best.history),
        rows=0,
    )


def _cost(prepared: WarmStart, table: _Values) -> float:
    """Return what one policy costs in the weeks of the training, relative to no battery."""
    return float(_costs(prepared, table[None])[0])


def _costs(prepared: WarmStart, tables: _Values) -> _Values:
    paid = bill(prepared.weeks, _as_table(prepared.grid, tables)).sum(axis=1)
    result: _Values = paid / without_battery(prepared.weeks).sum()
    return result


def _as_table(grid: StateGrid, values: _Values) -> PolicyTable:
    return PolicyTable(values=values.reshape(-1, *grid.shape), nets=grid.nets)


@classical
def planned(homes: Homes) -> dict[str, _Values]:
    """Return what each unseen home pays by plans and rules, and without a battery."""
    return planned_all(homes, fan_out)


def planned_all(homes: Homes, spread: _Spread) -> dict[str, _Values]:
    """Plan as `planned` does; ``spread`` applies a function to each home, as `map` does."""
    each = [homes.part([index]) for index in range(len(homes))]
    both = np.array(list(spread(_by_plans, each)))
    return {
        "foresight": both[:, 0],
        PREDICTIVE: both[:, 1],
        "self-consumption": self_consumption(homes),
        "tariff rule": tariff_rule(homes),
        "without": without_battery(homes),
    }


def _by_plans(home: Homes) -> tuple[float, float]:
    return foresight_cost(home), predictive_cost(home)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    trained: Homes
    tested: Homes


def _checked(given: Mapping[str, Any]) -> _Inputs:
    """Return the homes, once all parameters have been found usable."""
    bounds = {
        "homes": (4, 100),
        "days": (28, 3660),
        "generations": (1, 10_000),
        "candidates": (2, _MOST_CANDIDATES),
        "seed": (0, 2**31),
    }
    check_whole(given, bounds)
    if given["candidates"] is not None and given["candidates"] % 2:
        raise InputError(f"candidates {given['candidates']}: expected an even number, of pairs")
    precision = given["precision"]
    if precision is not None and not (math.isfinite(precision) and 0 <= precision <= 1):
        raise InputError(f"precision {precision}: expected a number from 0 (exact) to 1")
    if given["data"] is None:
        homes = generated(given["homes"], given["days"], given["seed"])
    else:
        homes = read_homes(given["data"])
    train = len(homes) // 2 if given["train"] is None else given["train"]
    if not 1 <= train <= len(homes) - 2:
        raise InputError(
            f"train {train}: expected 1 to {len(homes) - 2} of the {len(homes)} homes; two are to be "
            "unseen, or there are no error bars"
        )
    if without_battery(homes).min() <= 0:
        name = homes.names[int(without_battery(homes).argmin())]
        raise InputError(f"{homes.title}: {name} buys nothing, so there is nothing to save")
    return _Inputs(trained=homes.part(range(train)), tested=homes.part(range(train, len(homes))))


def plan_for(has_exact: bool, plan: EvolutionPlan) -> tuple[int, int, float]:
    """Return generations, pairs of candidates and precision for a QPU that has exact values, or not."""
    precision = plan.precision
    if precision is None:
        precision = 0.0 if has_exact else _SAMPLED_PRECISION
    generations, candidates = _EXACT_GENERATIONS, _EXACT_CANDIDATES
    if precision:
        generations, candidates = _SAMPLED_GENERATIONS, _SAMPLED_CANDIDATES
    return plan.generations or generations, (plan.candidates or candidates) // 2, precision


@flow
@checked_by(_checked)
def household(
    data: str | None = None,
    train: int | None = None,
    homes: int = 12,
    days: int = 364,
    generations: int | None = None,
    candidates: int | None = None,
    precision: float | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Control batteries; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, with file and line where
    there is one.
    """
    inputs = _checked(locals())
    plans = planned.submit(inputs.tested)
    prepared = prepare(inputs.trained, seed)
    network = evolve_network.submit(prepared, seed)
    plan = EvolutionPlan(
        generations=generations, candidates=candidates, precision=precision, seed=seed
    )
    circuit = evolve_circuit(prepared, plan)
    return result(
        inputs.trained, inputs.tested, prepared, plans.result(), circuit, network.result()
    )


def result(
    trained: Homes,
    tested: Homes,
    prepared: WarmStart,
    plans: Mapping[str, _Values],
    circuit: Evolved,
    network: Evolved,
) -> dict[str, Any]:
    """Return what the flow returns, from what its stages found."""
    tables = _as_table(prepared.grid, np.array([circuit.table, network.table]))
    quantum_paid, network_paid = bill(tested, tables)
    without = plans["without"]
    paid = {
        QUANTUM: quantum_paid,
        NETWORK: network_paid,
        **{name: cost for name, cost in plans.items() if name not in ("foresight", "without")},
    }
    ways = [_way(name, cost, without) for name, cost in paid.items()]
    bound = _way("foresight", plans["foresight"], without)
    comparison = Comparison(
        ways=ways,
        measure="cost relative to no battery",
        higher_is_better=False,
        data=f"{tested.title}, {len(tested)} of them unseen",
        bound=bound,
    )
    middle = tables.values[0, :, :, tables.values.shape[3] // 2]
    title = f"{tested.title}: cost of electricity in {len(tested)} unseen ones"
    learned = [
        LearningCurve(name=QUANTUM, history=circuit.history, is_quantum=True),
        LearningCurve(name=NETWORK, history=network.history, is_quantum=False),
    ]
    return {
        "homes": tested.title,
        "trained_on": list(trained.names),
        "tested_on": list(tested.names),
        "costs": {
            way.name: {"cost": way.figure.value, "std_error": way.figure.error} for way in ways
        },
        "foresight": {"cost": bound.figure.value, "std_error": bound.figure.error},
        "published_saving": _PUBLISHED_SAVING,
        "warm_start": circuit.warm_start,
        "history": list(circuit.history),
        "circuits": circuit.rows,
        "comparisons": [comparison.as_record()],
        "plot": picture(title, ways, bound, learned, middle),
        "table": {
            "columns": ["Way", "Cost relative to no battery", "±"],
            "rows": [
                [way.name, round(way.figure.value, 4), round(way.figure.error, 4)]
                for way in [*ways, bound]
            ],
        },
        "summary": _summary(comparison, bound, trained, tested, circuit, network),
    }


def _way(name: str, paid: _Values, without: _Values) -> Way:
    """Return a way with its cost in all homes; the resamples of homes are the same for all ways."""
    figure, draws = resampled(
        lambda chosen: float(paid[chosen].sum() / without[chosen].sum()), len(paid), seed=0
    )
    return Way(name=name, figure=figure, draws=draws, is_quantum=name == QUANTUM)


def _summary(
    comparison: Comparison,
    bound: Way,
    trained: Homes,
    tested: Homes,
    circuit: Evolved,
    network: Evolved,
) -> list[str]:
    battery = tested.battery
    days, saved = tested.net.shape[1] // 24, 1 - bound.figure.value
    return [
        comparison.verdict,
        (
            f"{tested.title}: trained on {counted(len(trained), 'home')}, tested on "
            f"{counted(len(tested), 'other home')} over {counted(days, 'day')}; battery of "
            f"{battery.capacity:g} kWh and {battery.power:g} kW; errors are over resampled homes, not of "
            "repeated training."
        ),
        (
            f"With foresight, the bound of all control, this battery saves {100 * saved:.1f} ± "
            f"{100 * bound.figure.error:.1f} % of a bill without battery; a published quantum policy "
            f"claims {100 * _PUBLISHED_SAVING:.1f} % of its own baseline's (Energy and AI 21, 100541)."
        ),
        (
            f"On the homes of the training the quantum policy cost {circuit.warm_start:.4f} at its start, "
            f"{circuit.history[-1]:.4f} after {counted(len(circuit.history), 'generation')} with "
            f"{circuit.rows:,} circuits; the network {network.warm_start:.4f}, then "
            f"{network.history[-1]:.4f}, the cheapest of {_NETWORK_STARTS} starts; the circuit had one. Both began "
            "by imitating plans with foresight."
        ),
    ]
