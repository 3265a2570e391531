"""What a battery in a home does and costs, by a policy, by rules, and by plans that know the future."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows._household.homes import Battery, Homes

__all__ = [
    "Policy",
    "PolicyTable",
    "bill",
    "costs",
    "foreseen",
    "foresight_cost",
    "predictive_cost",
    "self_consumption",
    "tariff_rule",
    "without_battery",
]

_Values = NDArray[np.float64]
# Wanted power of charging as a share of the battery's, from (hour's index, states of charge, nets).
Policy = Callable[[int, _Values, _Values], _Values]

_FORECAST_DAYS = 7
_HORIZON_H = 36
_LEAST_KWH = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTable:
    """Policies as tables. values: (candidates, 24, charges, nets), -1 to 1; nets: nodes in kWh.

    Charges are evenly spread from empty to full. Between nodes a policy is linear.
    """

    values: _Values
    nets: _Values

    def wanted(self, hour: int, charges: _Values, nets: _Values) -> _Values:
        """Return the share of the power, for states of charge and net loads (candidates, homes)."""
        levels = self.values.shape[2]
        low, part = _between(charges * (levels - 1), levels)
        place = np.interp(nets, self.nets, np.arange(len(self.nets)))
        left, share = _between(place, len(self.nets))
        now, rows = self.values[:, hour], np.arange(len(self.values))[:, None]
        lower = now[rows, low, left] * (1 - share) + now[rows, low, left + 1] * share
        upper = now[rows, low + 1, left] * (1 - share) + now[rows, low + 1, left + 1] * share
        result: _Values = lower * (1 - part) + upper * part
        return result


def _between(places: _Values, nodes: int) -> tuple[NDArray[np.int64], _Values]:
    low = np.clip(places.astype(np.int64), 0, nodes - 2)
    return low, places - low


def costs(homes: Homes, policy: Policy, candidates: int = 1) -> _Values:
    """Return what each home pays under each candidate: (candidates, homes).

    Exported energy earns nothing. So whatever the policy wants, surplus is stored while there is room,
    and no more is discharged than the home takes.
    """
    battery = homes.battery
    way = math.sqrt(battery.round_trip)
    stored = np.zeros((candidates, len(homes)))
    paid = np.zeros_like(stored)
    for step in range(homes.net.shape[1]):
        net = np.broadcast_to(homes.net[:, step], stored.shape)
        wanted = battery.power * policy(step, stored / battery.capacity, net)
        room = (battery.capacity - stored) / way
        charged = np.minimum(np.minimum(np.maximum(wanted, -net), battery.power), room)
        charged = np.maximum(charged, 0.0)
        given = np.minimum(np.minimum(np.maximum(-wanted, 0.0), battery.power), stored * way)
        given = np.minimum(given, np.maximum(net, 0.0))
        stored = stored + charged * way - given / way
        paid += homes.prices[step] * np.maximum(net + charged - given, 0.0)
    return paid


def bill(homes: Homes, table: PolicyTable) -> _Values:
    """Return what each home pays under each policy of a table: (candidates, homes)."""
    hours = homes.hours

    def policy(step: int, charges: _Values, nets: _Values) -> _Values:
        return table.wanted(int(hours[step]), charges, nets)

    return costs(homes, policy, len(table.values))


def without_battery(homes: Homes) -> _Values:
    """Return what each home pays without a battery, (homes,)."""
    found: _Values = np.maximum(homes.net, 0.0) @ homes.prices
    return found


def self_consumption(homes: Homes) -> _Values:
    """Return what each home pays if surplus is stored, and given as soon as the home takes it."""
    found: _Values = costs(homes, lambda _step, _charges, nets: np.full(nets.shape, -1.0))[0]
    return found


def tariff_rule(homes: Homes) -> _Values:
    """Return what each home pays if the battery is filled in cheap hours and emptied in dear ones.

    Cheap and dear: below and above the middle of the prices of the day.
    """
    days = np.arange(len(homes.prices)) // 24
    low = np.array([homes.prices[days == day].min() for day in range(days[-1] + 1)])[days]
    high = np.array([homes.prices[days == day].max() for day in range(days[-1] + 1)])[days]
    dear = homes.prices > (low + high) / 2

    def policy(step: int, _charges: _Values, nets: _Values) -> _Values:
        return np.full(nets.shape, -1.0 if dear[step] else 0.3)

    found: _Values = costs(homes, policy)[0]
    return found


def foreseen(net: _Values, prices: _Values, battery: Battery, stored: float = 0.0) -> _Values:
    """Return the cheapest plan for a net load that is known: power of charging less discharging, (hours,).

    A linear programme: what is bought is the net load plus what is charged less what is discharged, at
    least 0; the state of charge stays within the battery.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, diags_array, eye_array, hstack

    hours, way = len(net), math.sqrt(battery.round_trip)
    one, none = eye_array(hours), csr_array((hours, hours))
    rising = diags_array([np.ones(hours), -np.ones(hours - 1)], offsets=[0, -1])
    # Charged, discharged, bought, and stored at the end of each hour.
    spent = np.concatenate([np.zeros(2 * hours), prices, np.zeros(hours)])
    begin = np.zeros(hours)
    begin[0] = stored
    upper = np.concatenate(
        [
            np.full(2 * hours, battery.power),
            np.full(hours, np.inf),
            np.full(hours, battery.capacity),
        ]
    )
    solved = linprog(
        spent,
        A_ub=hstack([one, -one, -one, none], format="csr"),
        b_ub=-net,
        A_eq=hstack([-way * one, one / way, none, rising], format="csr"),
        b_eq=begin,
        bounds=np.column_stack([np.zeros(4 * hours), upper]),
        method="highs",
    )
    if not solved.success:
        raise RuntimeError(f"the linear programme of a battery failed: {solved.message}")
    plan: _Values = solved.x[:hours] - solved.x[hours : 2 * hours]
    return plan


def foresight_cost(home: Homes) -> float:
    """Return what the only home pays with the cheapest plan for its known net load: the bound."""
    plan = foreseen(home.net[0], home.prices, home.battery)
    return float(np.maximum(home.net[0] + plan, 0.0) @ home.prices)


def predictive_cost(home: Homes) -> float:
    """Return what the only home pays with plans made at midnight from the week before.

    The forecast of an hour is the mean of the same hour of the last seven days; the plan looks 36 hours
    ahead. In hours in which it discharges, the battery gives what the home takes; in others it charges
    as planned, and surplus is stored.
    """
    battery, net = home.battery, home.net[0]
    wanted = np.full(24, -1.0)  # nothing is known on the first day

    def policy(step: int, charges: _Values, _nets: _Values) -> _Values:
        if step % 24 == 0 and step:
            past = net[max(0, step - 24 * _FORECAST_DAYS) : step].reshape(-1, 24).mean(axis=0)
            ahead = min(_HORIZON_H, len(net) - step)
            stored = float(charges[0, 0]) * battery.capacity
            prices = home.prices[step : step + ahead]
            plan = foreseen(np.tile(past, 2)[:ahead], prices, battery, stored)[:24]
            wanted[: len(plan)] = np.where(plan < -_LEAST_KWH, -1.0, plan / battery.power)
        return np.full(charges.shape, wanted[step % 24])

    return float(costs(home, policy)[0, 0])
