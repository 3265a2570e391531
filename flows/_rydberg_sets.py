"""Independent sets as excited atoms: nodes as places, edges by the Rydberg blockade.

An adiabatic sweep prepares a largest independent set of a unit-disk graph (Pichler et al.,
arXiv:1808.10816; Ebadi et al., arXiv:2202.09372).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from backends.analog.device import RydbergChannel, RydbergDevice
from flows._conflict_graphs import ConflictGraph
from flows._inputs import InputError
from hpcqc import Qpu, RydbergPulse, Waveform, rydberg_sequence

__all__ = ["Sweep", "check_embedding", "sequence", "sweep"]

# Where a device states no least distance.
_NEAREST_UM = 5.0
# The longer the sweep, the more adiabatic; a device's modulators lengthen it a little.
_LONGEST_NS, _LONGEST_PART = 5600, 0.93
# The last detuning in units of the amplitude: below, sets are smaller; above, edges are excited.
_FINAL = 2.0
# When the amplitude is up and down again, as parts of the duration.
_RISE, _FALL = 0.2, 0.8
# Where a graph has no edges, or nothing else: how much farther than an edge its other pairs are.
_GAP = 1.4
# Interactions fall with the sixth power: below it, edges and others differ by less than a half.
_CLEAR_GAP = 1.07
_MARGIN = 1e-3  # to a device's limit
_SPREAD = 1.001  # beyond where the limits of the laser just suffice


@dataclass(frozen=True, eq=False, kw_only=True)
class Sweep:
    """Where atoms are, and how they are driven.

    positions: µm, shape (nodes, 2). amplitude: the largest Rabi frequency, detuning: the last one,
    which begins at minus that, in rad/µs. gap: shortest distance of two nodes without an edge to
    the longest edge.
    """

    positions: NDArray[np.float64]
    amplitude: float
    detuning: float
    duration_ns: int
    gap: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What may make samples worse."""
        if self.gap >= _CLEAR_GAP:
            return ()
        nearly = (
            f"The longest edge has {1 / self.gap:.1%} of the shortest distance of nodes without an "
            "edge, so that the blockade hardly tells them apart."
        )
        return (nearly,)


def check_embedding(graph: ConflictGraph, qpu: Qpu) -> None:
    """Raise `InputError` for a graph that the atoms of a QPU cannot represent."""
    sweep(graph, qpu)


def sweep(graph: ConflictGraph, qpu: Qpu) -> Sweep:
    """Place atoms, nearest ones as near as the device allows, and choose the sweep.

    Raises `InputError` for a graph that is not a unit-disk graph of equal weights, or too large.
    """
    device = qpu.target.rydberg
    if device is None:
        raise InputError(f"{qpu.name} states no limits of its atoms, so none can be placed")
    if graph.positions is None:
        raise InputError(
            f"{graph.title} has no coordinates, and {qpu.name} represents edges by distances of "
            "atoms; give unit-disk-N, or a table of nodes with x and y and a radius, or choose "
            "another QPU"
        )
    if graph.is_weighted:
        raise InputError(
            f"{graph.title} has different weights, and one laser drives all atoms of {qpu.name} "
            "alike; leave out the column weight, or choose another QPU"
        )
    most = min(device.max_atoms or graph.nodes, qpu.target.num_qubits or graph.nodes)
    if graph.nodes > most:
        raise InputError(
            f"{graph.title} has {graph.nodes} nodes, and {qpu.name} at most {most} atoms; choose a "
            "smaller graph or another QPU"
        )
    nearest = device.min_distance_um or _NEAREST_UM
    # A little more, since places are rounded.
    scale = 1.0001 * nearest / pdist(graph.positions).min()
    positions = (graph.positions - graph.positions.mean(axis=0)) * scale
    middle = (positions.max(axis=0) + positions.min(axis=0)) / 2
    radius = float(np.linalg.norm(positions - middle, axis=1).max())
    if device.max_radius_um is not None and radius > device.max_radius_um:
        raise InputError(
            f"{graph.title} needs a field of {radius:.1f} µm around the centre when its nearest nodes "
            f"are {nearest:g} µm apart, and {qpu.name} has {device.max_radius_um:g} µm; choose a "
            "smaller graph or another QPU"
        )
    chosen = _placed(graph, positions, qpu)
    if not _tells_edges(chosen, graph, device):
        # Farther apart, the laser's amplitude is enough to tell edges from other pairs.
        wanted = _placed(graph, positions, qpu, limited=False)
        room = np.inf if device.max_radius_um is None else device.max_radius_um / max(radius, 1e-9)
        grown = min(float(room), _SPREAD * (wanted.amplitude / chosen.amplitude) ** (1 / 6))
        chosen = _placed(graph, (positions - middle) * max(1.0, grown), qpu)
    if not _tells_edges(chosen, graph, device):
        raise InputError(
            f"{qpu.name} cannot represent {graph.title}: at the laser's largest amplitude nodes nearer "
            f"than {device.blockade_radius_um(chosen.amplitude):.1f} µm exclude each other, and "
            "within its field those with an edge cannot be nearer than that and all others farther; "
            "choose another radius, a smaller graph or another QPU"
        )
    return chosen


def _placed(
    graph: ConflictGraph, positions: NDArray[np.float64], qpu: Qpu, *, limited: bool = True
) -> Sweep:
    """Return the sweep that suits these places, within the limits of the laser unless told not to."""
    device = qpu.target.rydberg
    assert device is not None  # as was found before
    edge, other = _distances(graph, positions)
    inner, outer = device.c6 / edge**6, device.c6 / other**6
    wanted = Sweep(
        positions=positions,
        amplitude=float(np.sqrt(inner * outer)),
        detuning=float(_FINAL * np.sqrt(inner * outer)),
        duration_ns=_duration_ns(device),
        gap=other / edge,
    )
    return _within_limits(wanted, _laser(qpu)) if limited else wanted


def _tells_edges(chosen: Sweep, graph: ConflictGraph, device: RydbergDevice) -> bool:
    """Whether atoms exclude each other exactly where nodes share an edge."""
    radius_um = device.blockade_radius_um(chosen.amplitude)
    edge, other = _distances(graph, chosen.positions)
    edges, pairs = len(graph.conflicts.edges), graph.nodes * (graph.nodes - 1) // 2
    return (not edges or edge < radius_um) and (edges == pairs or radius_um < other)


def sequence(chosen: Sweep, qpu: Qpu) -> str:
    """Write the sweep for a QPU: atoms in the order of the nodes."""
    if qpu.target.rydberg is None:
        raise InputError(f"{qpu.name} states no limits of its atoms, so none can be placed")
    times = [0.0, _RISE, _FALL, 1.0]
    high, last = chosen.amplitude, chosen.detuning
    pulse = RydbergPulse(
        amplitude=Waveform.interpolated(chosen.duration_ns, [0.0, high, high, 0.0], times),
        detuning=Waveform.interpolated(chosen.duration_ns, [-last, -last, last, last], times),
    )
    atoms = {f"n{node}": (x, y) for node, (x, y) in enumerate(chosen.positions.tolist())}
    return rydberg_sequence(atoms, [pulse], qpu.target.rydberg)


def _laser(qpu: Qpu) -> RydbergChannel:
    for channel in () if qpu.target.rydberg is None else qpu.target.rydberg.channels:
        if (channel.basis, channel.addressing) == ("ground-rydberg", "Global"):
            return channel
    raise InputError(f"{qpu.name} has no laser that excites all its atoms; choose another QPU")


def _within_limits(wanted: Sweep, laser: RydbergChannel) -> Sweep:
    largest = laser.max_amplitude or wanted.amplitude
    widest = laser.max_detuning or wanted.detuning
    return replace(
        wanted,
        amplitude=min(wanted.amplitude, largest * (1 - _MARGIN)),
        detuning=min(wanted.detuning, widest * (1 - _MARGIN)),
        duration_ns=wanted.duration_ns // laser.clock_period_ns * laser.clock_period_ns,
    )


def _duration_ns(device: RydbergDevice) -> int:
    if device.max_duration_ns is None:
        return _LONGEST_NS
    return min(_LONGEST_NS, int(_LONGEST_PART * device.max_duration_ns))


def _distances(graph: ConflictGraph, positions: NDArray[np.float64]) -> tuple[float, float]:
    """Return the longest edge, and the shortest distance of nodes without an edge."""
    edges = np.zeros((graph.nodes, graph.nodes), dtype=bool)
    for u, v in graph.conflicts.edges:
        edges[u, v] = True
    joined = edges[np.triu_indices(graph.nodes, 1)]
    apart = pdist(positions)
    longest = float(apart[joined].max()) if joined.any() else float(apart.min()) / _GAP
    shortest = float(apart[~joined].min()) if not joined.all() else longest * _GAP
    return longest, shortest
