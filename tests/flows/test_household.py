"""Battery control: the battery, its plans, policies of a circuit, and the flow as users run it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit.quantum_info import Statevector
from scipy.interpolate import RegularGridInterpolator

from flows._evolution import Evolution
from flows._household import battery, policies
from flows._household.homes import Battery, Homes, generated, read_homes
from flows._inputs import InputError
from flows.household import household
from orchestrator.runs import Run
from tests.errors import naming
from tests.flows.repeated import differences

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "homes"
needs_engine = pytest.mark.usefixtures("prefect_server")
Check = Callable[[dict[str, Any]], dict[str, Any]]


def _homes(net: Any, prices: Any, **of_battery: float) -> Homes:
    net = np.atleast_2d(np.asarray(net, dtype=float))
    return Homes(
        title="some homes",
        names=tuple(f"home {n}" for n in range(len(net))),
        net=net,
        prices=np.asarray(prices, dtype=float),
        hours=np.arange(net.shape[1]) % 24,
        battery=Battery(**of_battery),
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_tables_have_the_values_of_the_circuit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parameters = rng.normal(0, 2, policies.CIRCUIT_PARAMETERS)
    inputs = rng.uniform(-1, 1, (3, policies.QUBITS))
    circuit = policies.policy_circuit()
    expected = [
        Statevector(circuit.assign_parameters(row)).expectation_value(policies.observable()).real
        for row in policies.angles(parameters, inputs)
    ]
    assert policies.exact_table(parameters, inputs) == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_a_bill_is_that_of_a_battery_hour_by_hour(seed: int) -> None:
    """Against the battery as one would write it down, and never below the plan with foresight."""
    rng = np.random.default_rng(seed)
    some = _homes(
        rng.normal(0.3, 2, (2, 48)),
        rng.uniform(0.1, 0.6, 48),
        capacity=rng.uniform(1, 8),
        power=rng.uniform(0.5, 5),
        round_trip=rng.uniform(0.5, 1),
    )
    wanted = rng.uniform(-1, 1, (48, 2))
    found = battery.costs(some, lambda step, *_: wanted[step][None, :])[0]
    for home in range(2):
        stored = paid = 0.0
        way = math.sqrt(some.battery.round_trip)
        for hour in range(48):
            net, power = some.net[home, hour], wanted[hour, home] * some.battery.power
            bought = net
            if max(power, -net) > 0:
                taken = min(max(power, -net), some.battery.power)
                taken = min(taken, (some.battery.capacity - stored) / way)
                stored, bought = stored + way * taken, net + taken
            elif net > 0:
                given_ = min(-power, net, stored * way)
                stored, bought = stored - given_ / way, net - given_
            assert -1e-9 <= stored <= some.battery.capacity + 1e-9
            paid += some.prices[hour] * max(bought, 0)
        assert found[home] == pytest.approx(paid)
        assert battery.foresight_cost(some.part([home])) <= paid + 1e-6
        assert paid <= battery.without_battery(some)[home] * 3


def test_foresight_buys_when_it_is_cheap() -> None:
    some = _homes([0, 2], [1.0, 3.0])
    assert battery.foresight_cost(some) == pytest.approx(2 / 0.9)
    assert battery.without_battery(some) == pytest.approx([6.0])
    # More than the battery's power is bought when it is dear.
    assert battery.foresight_cost(_homes([0, 9], [1.0, 3.0])) == pytest.approx(
        5 * 1 + 3 * (9 - 5 * 0.9)
    )


def test_a_plan_for_days_that_repeat_is_nearly_that_with_foresight() -> None:
    day = generated(2, 28, 3).net[:, 24 * 3 : 24 * 4]
    some = _homes(np.tile(day, 28), generated(2, 28, 3).prices)
    for home in range(2):
        one = some.part([home])
        bound, found = battery.foresight_cost(one), battery.predictive_cost(one)
        assert bound <= found + 1e-6
        assert found <= min(1.05 * bound, battery.self_consumption(one)[0])


def test_a_table_is_linear_between_its_nodes() -> None:
    rng = np.random.default_rng(2)
    nets = np.sort(rng.normal(size=5))
    values = rng.uniform(-1, 1, (2, 24, 3, 5))
    table = battery.PolicyTable(values=values, nets=nets)
    charges, load = rng.uniform(0, 1, (2, 7)), rng.uniform(nets[0], nets[-1], (2, 7))
    for hour in (0, 23):
        found = table.wanted(hour, charges, load)
        for one in range(2):
            grid = RegularGridInterpolator(((0, 0.5, 1), nets), values[one, hour])
            assert found[one] == pytest.approx(grid(np.stack([charges[one], load[one]], axis=1)))
    assert table.wanted(0, np.ones((2, 1)), np.full((2, 1), 99.0)) == pytest.approx(
        values[:, 0, -1, -1:]
    )


def test_an_evolution_finds_a_minimum_and_keeps_the_best() -> None:
    rng = np.random.default_rng(1)
    goal = rng.normal(size=20)
    evolution = Evolution(np.zeros(20), 8, 0.1, 0.1, seed=5)
    for _ in range(150):
        candidates = evolution.candidates()
        evolution.learn(candidates, ((candidates - goal) ** 2).sum(axis=1).tolist())
    assert evolution.history == sorted(evolution.history, reverse=True)
    assert ((evolution.best - goal) ** 2).sum() == pytest.approx(evolution.best_cost)
    assert evolution.best_cost < 0.05 * (goal**2).sum()


@pytest.mark.slow
def test_both_policies_learn_a_lesson() -> None:
    some = generated(2, 28, 1)
    grid = policies.StateGrid.of(some)
    taught = policies.lesson(some, grid)
    assert taught.weights.sum() == pytest.approx(1)
    for table, size in (
        (policies.exact_table, policies.CIRCUIT_PARAMETERS),
        (policies.network_table, policies.NETWORK_PARAMETERS),
    ):
        start = policies.fitted_start(table, size, grid, taught, seed=1, rounds=6)
        missed = taught.weights @ (table(start, grid.inputs()) - taught.wanted) ** 2
        assert missed < 0.9 * (taught.weights @ taught.wanted**2)


def _folder(path: Path, hours: int = 24 * 14, **changed: str) -> Path:
    """Write a folder with three homes; ``changed`` replaces files."""
    told = {
        f"Building_{n}": {
            "energy_simulation": f"Building_{n}.csv",
            "pricing": "pricing.csv",
            "electrical_storage": {
                "attributes": {"capacity": 6.4, "nominal_power": 5.0, "efficiency": 0.9}
            },
            "pv": {"attributes": {"nominal_power": 4.0}},
        }
        for n in (10, 2, 1)
    }
    files = {"schema.json": json.dumps({"buildings": told})}
    for n in (1, 2, 10):
        rows = [f"{h % 24 + 1},{n},{500 if h % 24 == 11 else 0}" for h in range(hours)]
        files[f"Building_{n}.csv"] = "\n".join(["hour,non_shiftable_load,solar_generation", *rows])
    files["pricing.csv"] = "\n".join(["electricity_pricing", *["0.2"] * hours])
    for name, text in (files | changed).items():
        (path / name).write_text(text)
    return path


def _home(
    load: str = "1",
    solar: str = "0",
    first: int = 0,
    left_out: int | None = None,
    saving: int | None = None,
) -> str:
    """Return a home's file; ``left_out``: an hour that is not in it, ``saving``: when clocks change."""
    head = "hour,non_shiftable_load,solar_generation,daylight_savings_status"
    hours = [at for at in range(first, first + 336 + (left_out is not None)) if at != left_out]
    saves = [int(saving is not None and at >= saving) for at in hours]
    rows = [f"{at % 24 + 1},{load},{solar},{one}" for at, one in zip(hours, saves, strict=True)]
    return "\n".join([head, *rows])


def test_a_schema_may_leave_homes_out_and_files_may_come_from_other_systems(tmp_path: Path) -> None:
    """With marks of byte order, other line ends, and an hour left out as clocks change."""
    _folder(tmp_path)
    schema = json.loads((tmp_path / "schema.json").read_text())
    schema["buildings"]["Building_2"]["include"] = False
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    for n in (1, 10):
        text = _home(load=str(n), left_out=30, saving=30).replace("\n", "\r\n")
        (tmp_path / f"Building_{n}.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = read_homes(str(tmp_path))
    assert found.names == ("Building_1", "Building_10")
    assert found.net[:, 200].tolist() == [1.0, 10.0]
    assert found.hours[28:32].tolist() == [5, 6, 8, 9]


def test_homes_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    found = read_homes(str(_folder(tmp_path)))
    assert found.names == ("Building_1", "Building_2", "Building_10")
    assert found.net[1, :13] == pytest.approx([2.0] * 11 + [0.0, 2.0])  # 500 W/kW on 4 kW
    assert (found.hours[0], found.hours[23]) == (1, 0)
    assert found.battery == Battery()
    (tmp_path / "Building_2.csv").unlink()
    assert read_homes(str(tmp_path)).names == ("Building_1", "Building_10")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"schema.json": "{}"}, naming("schema.json", "buildings")),
        ({"schema.json": "no"}, naming("schema.json")),
        ({"schema.json": '{"buildings": {"a": {"energy_simulation": "../b"}}}'}, naming("../b")),
        ({"Building_2.csv": "hour,load\n1,2"}, naming("Building_2.csv", "non_shiftable_load")),
        (
            {"Building_2.csv": "hour,non_shiftable_load,solar_generation\n1,nan,0"},
            naming("Building_2.csv", 2, "nan"),
        ),
        (
            {"Building_2.csv": "hour,non_shiftable_load,solar_generation\n1,1"},
            naming("Building_2.csv", 2),
        ),
        (
            {"Building_2.csv": "hour,non_shiftable_load,solar_generation\n1,1,0"},
            naming("Building_2.csv", 1, 336),
        ),
        ({"Building_2.csv": _home(load="2275.8")}, naming("Building_2.csv", 2275.8, "kWh")),
        ({"Building_2.csv": _home(solar="-0.5")}, naming("solar_generation", -0.5)),
        ({"Building_10.csv": _home(first=5)}, naming("Building_10.csv", "row 1", "clock")),
        ({"Building_1.csv": _home(left_out=30)}, naming("hour 8 after hour 6", "fill in")),
        ({"Building_1.csv": _home(left_out=30, saving=99)}, naming("hour 8 after hour 6")),
        (
            {"Building_2.csv": _home().replace("hour,", "Hour [h];")},
            naming("Building_2.csv", "line 1", "Hour [h];", "among them hour"),
        ),
        ({"schema.json": '{"buildings": {}, "seconds_per_time_step": 900}'}, naming(900, 3600)),
        ({"pricing.csv": "electricity_pricing\n0.2"}, naming(1, 336)),
        ({"pricing.csv": "price\n0.2"}, naming("pricing.csv", "electricity_pricing")),
    ],
)
def test_a_folder_of_another_layout_is_refused(
    changed: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        read_homes(str(_folder(tmp_path, **changed)))


def test_prices_below_zero_and_short_years_are_refused(tmp_path: Path) -> None:
    text = "\n".join(["electricity_pricing", *["-0.2"] * 336])
    with pytest.raises(InputError, match=naming("-0.2")):
        read_homes(str(_folder(tmp_path, **{"pricing.csv": text})))
    with pytest.raises(InputError, match=naming(48)):
        read_homes(str(_folder(tmp_path, hours=48)))
    with pytest.raises(InputError, match=naming("nowhere")):
        read_homes(str(tmp_path / "nowhere"))


@needs_engine
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"homes": 3}, naming("homes", 3)),
        ({"days": 1}, naming("days", 1)),
        ({"candidates": 5}, naming("candidates", 5)),
        ({"generations": 0}, naming("generations", 0)),
        ({"precision": -1.0}, naming("precision", -1)),
        ({"train": 11}, naming("train", 11, 10, 12)),
        ({"data": "nowhere"}, naming("nowhere")),
    ],
)
def test_what_cannot_be_controlled_is_refused_before_any_stage(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        household(**parameters)
    assert run.spans() == []


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("qpu", ["aer", "vlq"])
def test_generated_homes_are_controlled(
    qpu: str, run_on: Callable[[str], Run], kept: Check
) -> None:
    current = run_on(qpu)
    few = {"homes": 5, "train": 2, "days": 56, "generations": 4 if qpu == "aer" else 1}
    result = kept(household(**few, candidates=2))
    costs = {name: one["cost"] for name, one in result["costs"].items()}
    bound = result["foresight"]["cost"]
    assert all(bound <= cost + 1e-9 for cost in costs.values())
    assert costs["self-consumption"] < 1
    assert max(costs["quantum policy"], costs["small network"]) < 0.9
    assert result["trained_on"] == ["home 1", "home 2"]
    assert result["tested_on"] == ["home 3", "home 4", "home 5"]
    assert result["history"][-1] <= result["warm_start"] + 1e-9
    assert result["circuits"] == len(result["history"]) * 3 * 24 * 15
    (comparison,) = result["comparisons"]
    winners = {"quantum": "Quantum policy won", "neither": "Nobody won"}
    assert result["summary"][0].startswith(winners.get(comparison["won"], ""))
    assert "64.4 %" in result["summary"][2]
    if qpu == "aer":
        jobs = len(current.spans())
        assert not differences(result, household(**few, candidates=2))
        assert len(current.spans()) == 2 * jobs


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason=f"needs the public homes in {DATA}")
def test_published_homes_have_the_costs_found_before() -> None:
    """Of 17 homes, of which 14 are here: self-consumption .720, tariff rule .758, foresight .645."""
    some = read_homes(str(DATA))
    assert len(some) == 14
    without = battery.without_battery(some).sum()
    # The three homes that are not here save less than these.
    assert battery.self_consumption(some).sum() / without == pytest.approx(0.720, abs=0.03)
    assert 0.70 < battery.tariff_rule(some).sum() / without < 0.85
    part = some.part([0, 7, 13])
    costs = [battery.foresight_cost(part.part([n])) for n in range(3)]
    share = sum(costs) / battery.without_battery(part).sum()
    assert share == pytest.approx(0.645, abs=0.05)
