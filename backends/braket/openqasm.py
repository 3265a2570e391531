"""Flat circuits as OpenQASM 3 with Braket's names of gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.devices.api import BoundStep
from backends.errors import PayloadRejected

__all__ = ["GATES", "openqasm"]

# Qiskit's name, and Braket's of the same matrix up to a global phase.
GATES: Mapping[str, str] = {
    "id": "i",
    "x": "x",
    "y": "y",
    "z": "z",
    "h": "h",
    "s": "s",
    "sdg": "si",
    "t": "t",
    "tdg": "ti",
    "sx": "v",
    "sxdg": "vi",
    "r": "prx",
    "rx": "rx",
    "ry": "ry",
    "rz": "rz",
    "p": "phaseshift",
    "u": "U",
    "cx": "cnot",
    "cy": "cy",
    "cz": "cz",
    "cp": "cphaseshift",
    "csx": "cv",
    "swap": "swap",
    "iswap": "iswap",
    "rxx": "xx",
    "ryy": "yy",
    "rzz": "zz",
}


def openqasm(steps: Sequence[BoundStep], places: Mapping[int, int]) -> str:
    """Return a program on as many qubits as the steps use, which a state vector can hold.

    places: where each measured classical bit is in its register.

    >>> print(openqasm([("sx", (7,), (), ()), ("measure", (7,), (3,), ())], {3: 0}))
    OPENQASM 3.0;
    bit[1] c;
    qubit[1] q;
    v q[0];
    c[0] = measure q[0];
    """
    gates = [step for step in steps if step[0] not in ("barrier", "delay")]  # ideal: neither acts
    used = sorted({qubit for _, qubits, _, _ in gates for qubit in qubits})
    wire = {qubit: f"q[{number}]" for number, qubit in enumerate(used)}
    lines = ["OPENQASM 3.0;", f"bit[{len(places)}] c;", f"qubit[{len(used)}] q;"]
    for name, qubits, clbits, angles in gates:
        if name == "measure":
            lines.append(f"c[{places[clbits[0]]}] = measure {wire[qubits[0]]};")
        elif name == "reset":
            lines.append(f"reset {wire[qubits[0]]};")
        elif name in GATES:
            given = f"({', '.join(map(repr, angles))})" if angles else ""
            lines.append(f"{GATES[name]}{given} {', '.join(wire[qubit] for qubit in qubits)};")
        else:
            raise PayloadRejected(f"gate {name!r} is not among those of this device")
    return "\n".join(lines)
