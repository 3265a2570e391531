"""PUBs run on an engine: what a worker process does with its part of a task."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import Clbit, Qubit
from qiskit.primitives import BitArray, DataBin, PubResult, SamplerPubResult
from qiskit.quantum_info import SparsePauliOp

from backends.aer.blocks import PubBlock
from backends.aer.engine import Engine, Job, Program
from backends.aer.observables import ObservableSet, observable_set
from backends.aer.placement import runnable_elsewhere, threads_for
from backends.payloads import SEED_STRIDE, SEEDS, FrozenEstimatorPub, FrozenSamplerPub
from backends.profiles import Readout

__all__ = ["PubRunner", "Work"]


def _light_cone(
    circuit: QuantumCircuit, observed: Collection[int]
) -> tuple[QuantumCircuit, dict[int, int]]:
    """Return the instructions that classical bits or observed qubits depend on, and their qubits.

    What is left out preserves the trace, so it changes no reading; also left out are measurements
    overwritten unread. Classical bits and registers stay, and one idle qubit if no other. The
    second value is each qubit's new index; an observed qubit without one is in its initial state.

    Aer does this too, but then evaluates observables on the wrong qubits (qiskit-aer #2442),
    and the readout errors of all measurements into one bit add up where it samples them.
    """
    needed = {circuit.qubits[index] for index in observed}
    touched: set[Qubit] = set()
    measured: set[Qubit] = set()  # of what is kept, a measurement comes next on these
    overwritten: set[Clbit] = set()
    steps = []
    for step in reversed(circuit.data):
        if step.name == "barrier":
            continue
        unread = step.name == "measure" and step.clbits[0] in overwritten
        if unread and step.qubits[0] in measured:
            continue
        # Without qubits it writes a variable.
        reads = (step.clbits or not step.qubits) and not unread
        if not reads and needed.isdisjoint(step.qubits):
            continue
        if step.name == "measure":
            measured.add(step.qubits[0])
            overwritten.add(step.clbits[0])
        else:
            measured.difference_update(step.qubits)
            if reads:
                overwritten.clear()
        needed.update(step.qubits)
        touched.update(step.qubits)
        steps.append(step)
    qubits = [qubit for qubit in circuit.qubits if qubit in touched]
    cone = QuantumCircuit(qubits or circuit.qubits[:1], circuit.clbits, *circuit.cregs)
    cone.global_phase = circuit.global_phase
    for variable in circuit.iter_vars():
        cone.add_uninitialized_var(variable)
    for step in reversed(steps):
        cone.append(step)
    return cone, {circuit.find_bit(qubit).index: new for new, qubit in enumerate(qubits)}


_Bytes = NDArray[np.uint8]
# Of each classical register, the places of its bits among the circuit's, lowest first.
_Registers = Mapping[str, tuple[int, ...]]


def _registers_of(circuit: QuantumCircuit) -> _Registers:
    index = {bit: i for i, bit in enumerate(circuit.clbits)}
    return {register.name: tuple(index[bit] for bit in register) for register in circuit.cregs}


def _bit_arrays(
    counts: Sequence[Mapping[str, int]], registers: _Registers, seed: int
) -> dict[str, BitArray]:
    """Return one `BitArray` of shape (points,) per register from hexadecimal counts of each point.

    Aer does not state the order of independent shots, so they get one drawn from the point's seed.
    """
    shots = sum(counts[0].values())
    total = 1 + max((bit for bits in registers.values() for bit in bits), default=0)
    arrays = {
        name: np.empty((len(counts), shots, (len(bits) + 7) // 8), dtype=np.uint8)
        for name, bits in registers.items()
    }
    for point, tally in enumerate(counts):
        order = np.random.default_rng((seed + SEED_STRIDE * point) % SEEDS)
        outcomes = _bytes(tally, (total + 7) // 8)
        ranks = np.repeat(np.arange(len(tally)), np.fromiter(tally.values(), dtype=np.int64))
        order.shuffle(ranks)
        for name, bits in registers.items():
            arrays[name][point] = _select(outcomes, bits, total)[ranks]
    return {name: BitArray(arrays[name], len(bits)) for name, bits in registers.items()}


def _bytes(tally: Mapping[str, int], size: int) -> _Bytes:
    """Return the outcomes as big-endian bytes, one row each."""
    mask = (1 << (8 * size)) - 1
    joined = b"".join((int(key, 16) & mask).to_bytes(size, "big") for key in tally)
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(tally), size)


def _select(outcomes: _Bytes, bits: tuple[int, ...], total: int) -> _Bytes:
    """Pick a register's bits out of whole outcomes, packed as `BitArray` wants them."""
    if bits == tuple(range(total)):
        return outcomes
    table = np.unpackbits(outcomes[:, ::-1], axis=1, bitorder="little")
    chosen = np.packbits(table[:, bits], axis=1, bitorder="little")
    return chosen[:, ::-1]


_PROGRAMS = 256
_LABEL = "sum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A block of a PUB, and how it is to run. seed: of the whole PUB."""

    pub: FrozenSamplerPub | FrozenEstimatorPub
    block: PubBlock
    method: str
    seed: int
    threads: int

    @property
    def flat_values(self) -> NDArray[np.float64]:
        """The block's parameter points, shape (points, parameters)."""
        *shape, parameters = self.pub.values.shape
        flat = self.pub.values.reshape(math.prod(shape), parameters)
        return flat[self.block.first_point : self.block.end_point]


class PubRunner:
    """Runs PUBs, keeping the compiled form of the circuits it met last."""

    def __init__(self, engine: Engine, readout: Readout | None = None) -> None:
        """readout: how measurement lies; expectation values are those it would give."""
        self._engine = engine
        self._readout = readout
        self._programs: OrderedDict[tuple[str, str, str], tuple[Program, Any]] = OrderedDict()

    def run(self, work: Work) -> PubResult:
        """Return a block's result, for `joined`. Raises ``SimulationFailed``."""
        if isinstance(work.pub, FrozenEstimatorPub):
            return self._estimate(work, work.pub)
        return self._sample(work, work.pub)

    def _sample(self, work: Work, pub: FrozenSamplerPub) -> PubResult:
        program, registers = self._program(work, "", self._sampler_program)
        job = _job(work, work.block.end_shot - work.block.first_shot)
        points = self._engine.run(program, work.flat_values, job)
        counts = [data.get("counts", {"0x0": job.shots}) for data in points]
        shape = (len(counts),)
        fields = _bit_arrays(counts, registers, job.seed)
        return SamplerPubResult(
            DataBin(**fields, shape=shape), metadata={"shots": pub.shots, **_facts(work)}
        )

    def _estimate(self, work: Work, pub: FrozenEstimatorPub) -> PubResult:
        wanted = json.dumps(pub.observables)
        program, observables = self._program(work, wanted, self._estimator_program)
        job = _job(work, 1)
        table = _expectations(self._engine.run(program, work.flat_values, job), observables)
        shape = pub.values.shape[:-1]
        grid = np.arange(math.prod(shape)).reshape(shape) - work.block.first_point
        points, sums = np.broadcast_arrays(grid, observables.index)
        evs = np.zeros(points.shape)
        if len(observables.sums):
            mine = (points >= 0) & (points < len(table))
            evs[mine] = table[points[mine], sums[mine]]
        bin_ = DataBin(evs=evs, stds=np.zeros(evs.shape), shape=evs.shape)
        return PubResult(bin_, metadata={"target_precision": pub.precision, **_facts(work)})

    def _program(self, work: Work, observables: str, build: Any) -> tuple[Program, Any]:
        key = (work.pub.circuit.digest, observables, work.method)
        if key not in self._programs:
            self._programs[key] = build(work)
            if len(self._programs) > _PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]

    def _sampler_program(self, work: Work) -> tuple[Program, Any]:
        placed, _ = self._engine.place(work.pub.circuit.circuit)
        cone, _ = _light_cone(placed, ())
        return self._compiled(cone, work), _registers_of(work.pub.circuit.circuit)

    def _estimator_program(self, work: Work) -> tuple[Program, ObservableSet]:
        from qiskit_aer.library import SaveExpectationValue

        assert isinstance(work.pub, FrozenEstimatorPub)
        observables = observable_set(work.pub.observables, self._readout)
        placed, layout = self._engine.place(work.pub.circuit.circuit)
        at = {q: q if layout is None else layout[q] for q in observables.qubits}
        circuit, index = _light_cone(placed, at.values())
        observables = observables.without([q for q in observables.qubits if at[q] not in index])
        for label, total in _saved(observables).items():
            operator = SparsePauliOp.from_list(list(total.items()))
            save = SaveExpectationValue(operator, label=label)
            circuit.append(save, [index[at[q]] for q in observables.qubits])
        return self._compiled(circuit, work), observables

    def _compiled(self, circuit: QuantumCircuit, work: Work) -> Program:
        parameters = work.pub.circuit.circuit.parameters
        return self._engine.compile(circuit, method=work.method, parameters=parameters)


def _saved(observables: ObservableSet) -> dict[str, dict[str, float]]:
    """Return what to save, by label: one observable as a whole, several string by string."""
    if not observables.qubits:
        return {}
    if len(observables.sums) == 1:
        return {_LABEL: observables.sums[0]} if observables.sums[0] else {}
    return {label: {label: 1.0} for label in observables.paulis}


def _expectations(
    points: list[Mapping[str, Any]], observables: ObservableSet
) -> NDArray[np.float64]:
    """Return the value of each distinct observable at each point, shape (points, sums)."""
    if not observables.qubits:  # nothing but identities
        row = [sum(total.values()) for total in observables.sums]
        return np.tile(np.array(row, dtype=float), (len(points), 1))
    if len(observables.sums) == 1:
        return np.array([[float(data[_LABEL])] for data in points])
    labels = observables.paulis
    table = np.array([[float(data[label]) for label in labels] for data in points])
    return np.asarray(table @ observables.weights())


def _job(work: Work, shots: int) -> Job:
    return Job(
        method=work.method,
        threads=threads_for(work.threads, runnable_elsewhere()) if work.threads > 1 else 1,
        shots=shots,
        seed=work.block.seed,
    )


def _facts(work: Work) -> dict[str, Any]:
    """Return how the PUB was run, and what `joined` needs to know of the block."""
    return {
        "method": work.method,
        "seed": work.seed,
        "block": asdict(work.block),
        "shape": list(work.pub.values.shape[:-1]),
    }
