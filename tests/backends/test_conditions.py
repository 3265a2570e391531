"""Conditions that are expressions, in nested blocks, on bits in registers and outside them.

The truth is a program of classical bits, of which each circuit is written twice: as a circuit, and
as Python that follows it. Qubits are only flipped and reset, so each circuit has one outcome.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import ClassicalRegister, Clbit, QuantumRegister
from qiskit.circuit.classical import expr, types

from backends.aer import create
from backends.circuits import FrozenCircuit
from backends.payloads import SamplerPayload, payload_from_bytes
from orchestrator.transpile import Transpiler
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures("one_zygote")

QUBITS, DEEPEST = 3, 3
AT_ONCE = 50


@dataclass
class World:
    """What a circuit's bits are at one moment."""

    qubits: list[bool] = field(default_factory=lambda: [False] * QUBITS)
    bits: dict[Clbit, bool] = field(default_factory=dict)

    def number(self, register: ClassicalRegister) -> int:
        return sum(self.bits[bit] << place for place, bit in enumerate(register))


Value = Callable[[World], Any]


@dataclass
class Writer:
    """Writes random statements into a circuit, each with the Python that does the same."""

    random: Random
    circuit: QuantumCircuit

    @classmethod
    def begun(cls, seed: int) -> Writer:
        random = Random(seed)
        loose = [Clbit() for _ in range(3)]
        registers = [ClassicalRegister(2, "a"), ClassicalRegister(3, "b")]
        # A register of bits that are in another one, or nowhere else.
        shared = ClassicalRegister(bits=[loose[0], registers[0][1]], name="s")
        order: list[Any] = [loose, *registers]
        random.shuffle(order)
        if random.random() < 0.5:
            order.append(shared)
        return cls(random, QuantumCircuit(QuantumRegister(QUBITS, "q"), *order))

    def block(self, depth: int) -> list[Value]:
        return [self.statement(depth) for _ in range(self.random.randint(2, 5))]

    def statement(self, depth: int) -> Value:
        kinds = ["flip", "flip", "measure", "measure", "measure", "reset"]
        if depth < DEEPEST:
            kinds += ["if", "if", "if", "switch", "for", "store"]
        made: Value = getattr(self, f"_{self.random.choice(kinds)}")(depth)
        return made

    def _flip(self, _depth: int) -> Value:
        qubit = self.random.randrange(QUBITS)
        self.circuit.x(qubit)

        def flip(world: World) -> None:
            world.qubits[qubit] = not world.qubits[qubit]

        return flip

    def _reset(self, _depth: int) -> Value:
        qubit = self.random.randrange(QUBITS)
        self.circuit.reset(qubit)

        def reset(world: World) -> None:
            world.qubits[qubit] = False

        return reset

    def _measure(self, _depth: int) -> Value:
        qubit, bit = self.random.randrange(QUBITS), self.random.choice(self.circuit.clbits)
        self.circuit.measure(qubit, bit)

        def measure(world: World) -> None:
            world.bits[bit] = world.qubits[qubit]

        return measure

    def _store(self, _depth: int) -> Value:
        bit = self.random.choice(self.circuit.clbits)
        node, value = self.truth(2)
        self.circuit.store(bit, node)

        def store(world: World) -> None:
            world.bits[bit] = value(world)

        return store

    def _if(self, depth: int) -> Value:
        condition, holds = self.condition()
        other: list[Value] = []
        with self.circuit.if_test(condition) as otherwise:
            then = self.block(depth + 1)
        if self.random.random() < 0.5:
            with otherwise:
                other = self.block(depth + 1)
        return lambda world: follow(then if holds(world) else other, world)

    def _switch(self, depth: int) -> Value:
        target, value, top = self.target()
        blocks: dict[int, list[Value]] = {}
        default: list[Value] = []
        with self.circuit.switch(target) as case:
            for label in self.random.sample(range(top), self.random.randint(1, top)):
                with case(label):
                    blocks[label] = self.block(depth + 1)
            if self.random.random() < 0.5:
                with case(case.DEFAULT):
                    default = self.block(depth + 1)
        return lambda world: follow(blocks.get(int(value(world)), default), world)

    def _for(self, depth: int) -> Value:
        times = self.random.randint(0, 3)
        with self.circuit.for_loop(range(times)):
            body = self.block(depth + 1)
        return lambda world: follow(body * times, world)

    def condition(self) -> tuple[Any, Value]:
        kind = self.random.choice(["bit", "register", "expression", "expression", "expression"])
        if kind == "bit":
            bit, wanted = self.random.choice(self.circuit.clbits), self.random.random() < 0.5
            return (bit, wanted), lambda world: world.bits[bit] == wanted
        if kind == "register":
            register = self.random.choice(self.circuit.cregs)
            number = self.random.randrange(2 ** len(register))
            return (register, number), lambda world: world.number(register) == number
        return self.truth(3)

    def target(self) -> tuple[Any, Value, int]:
        """Return what a switch looks at, its value, and how many it may have."""
        lift = self.random.choice([lambda plain: plain, expr.lift])
        if self.random.random() < 0.4:
            bit = self.random.choice(self.circuit.clbits)
            return lift(bit), lambda world: world.bits[bit], 2
        register = self.random.choice(self.circuit.cregs)
        return lift(register), lambda world: world.number(register), 2 ** len(register)

    def truth(self, depth: int) -> tuple[expr.Expr, Value]:
        """Return an expression of type Bool, and its value."""
        kind = self.random.choice(["bit"] if depth == 0 else ["bit", "not", "both", "compare"])
        if kind == "bit":
            bit = self.random.choice(self.circuit.clbits)
            return expr.lift(bit), lambda world: world.bits[bit]
        if kind == "not":
            node, value = self.truth(depth - 1)
            return expr.logic_not(node), lambda world: not value(world)
        if kind == "both":
            (left, mine), (right, yours) = self.truth(depth - 1), self.truth(depth - 1)
            make, join = self.random.choice(
                [
                    (expr.logic_and, lambda a, b: a and b),
                    (expr.logic_or, lambda a, b: a or b),
                    (expr.bit_xor, lambda a, b: a != b),
                ]
            )
            return make(left, right), lambda world: join(mine(world), yours(world))
        node, number, width = self.number(depth - 1)
        against = self.random.randrange(2**width)
        make, compare = self.random.choice(
            [
                (expr.equal, int.__eq__),
                (expr.not_equal, int.__ne__),
                (expr.less, int.__lt__),
                (expr.greater_equal, int.__ge__),
            ]
        )
        return make(node, against), lambda world: compare(number(world), against)

    def number(self, depth: int) -> tuple[expr.Expr, Value, int]:
        """Return an expression of type Uint, its value and its width."""
        kind = self.random.choice(["register"] if depth == 0 else ["register", "not", "both", "of"])
        if kind == "of":
            node, value = self.truth(depth - 1)
            return expr.cast(node, types.Uint(2)), lambda world: int(value(world)), 2
        if kind == "not":
            node, value, width = self.number(depth - 1)
            return expr.bit_not(node), lambda world: value(world) ^ (2**width - 1), width
        register = self.random.choice(self.circuit.cregs)
        width = len(register)
        if kind == "register":
            return expr.lift(register), lambda world: world.number(register), width
        constant = self.random.randrange(2**width)
        make, join = self.random.choice(
            [(expr.bit_and, int.__and__), (expr.bit_or, int.__or__), (expr.bit_xor, int.__xor__)]
        )
        node = make(register, constant)
        return node, lambda world: join(world.number(register), constant), width


def follow(statements: list[Value], world: World) -> None:
    for statement in statements:
        statement(world)


def written(seed: int) -> tuple[QuantumCircuit, dict[str, str]]:
    """Return a random circuit, and what each register is at its end."""
    writer = Writer.begun(seed)
    circuit = writer.circuit
    world = World(bits=dict.fromkeys(circuit.clbits, False))
    statements = [writer._flip(0), writer._measure(0)]
    statements += [writer.statement(0) for _ in range(6)]
    follow(statements, world)
    circuit.measure(0, circuit.clbits[-1])  # a sampler wants a measurement
    world.bits[circuit.clbits[-1]] = world.qubits[0]
    registers = {register.name: list(register) for register in circuit.cregs}
    for number, bit in enumerate(circuit.clbits):
        if not circuit.find_bit(bit).registers:
            registers[f"c{number}"] = [bit]
    ends = {
        name: "".join("01"[world.bits[bit]] for bit in reversed(bits))
        for name, bits in registers.items()
    }
    return circuit, ends


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    backend = create({"processes": 2}, state_dir=tmp_path_factory.mktemp("aer"))
    session, numbers = backend.acquire(), itertools.count()

    def run(payload):
        task = backend.start(session, payload, f"conditions-{next(numbers)}")
        backend.wait(task, PATIENCE_S)
        return backend.result(task).native

    yield run
    backend.close()


def check(run, seeds: range, made: Callable[[FrozenCircuit], FrozenCircuit] | None = None) -> None:
    for first in seeds[::AT_ONCE]:
        some = range(first, min(first + AT_ONCE, seeds.stop))
        pairs = [written(seed) for seed in some]
        payload = SamplerPayload.coerce([circuit for circuit, _ in pairs], shots=2, seed=1)
        if made is not None:
            pubs = tuple(replace(pub, circuit=made(pub.circuit)) for pub in payload.pubs)
            payload = SamplerPayload(pubs=pubs)
        native = run(payload_from_bytes(payload.to_bytes()))
        for seed, (_, ends), pub in zip(some, pairs, native, strict=True):
            found = {name: bits.get_counts() for name, bits in pub.data.items()}
            assert found == {name: {end: 2} for name, end in ends.items()}, f"seed {seed}"


def test_conditions_in_nested_blocks(run) -> None:
    check(run, range(30))


def test_conditions_in_nested_blocks_of_native_circuits(run, tmp_path) -> None:
    """Loops are written out, and qubits are where the device has them."""
    check(run, range(10), native_to_helmi(tmp_path))


def native_to_helmi(folder):
    device = create({"profile": "helmi"}, state_dir=folder)
    target, transpiler = device.target(), Transpiler()
    device.close()
    return lambda circuit: transpiler.transpile(circuit, target).circuit


@pytest.mark.slow
def test_very_many_conditions_in_nested_blocks(run, tmp_path) -> None:
    check(run, range(10, 40), native_to_helmi(tmp_path))
    check(run, range(30, 30 + int(os.environ.get("HPCQC_TEST_EXAMPLES", "40"))))
