"""Flat circuits as OpenQASM 2, written for speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.devices.api import BoundStep
from backends.errors import PayloadRejected

__all__ = ["GATES", "openqasm"]

# Gates of one or two qubits that DDSIM and Qiskit both call so.
GATES = (
    *("id", "x", "y", "z", "h", "s", "sdg", "t", "tdg", "sx", "sxdg", "r", "rx", "ry", "rz", "p"),
    *("u", "cx", "cy", "cz", "ch", "cs", "csdg", "csx", "crx", "cry", "crz", "cp", "swap"),
    *("iswap", "dcx", "ecr", "rxx", "ryy", "rzz", "rzx", "xx_minus_yy", "xx_plus_yy"),
)


def openqasm(num_qubits: int, steps: Sequence[BoundStep], places: Mapping[int, int]) -> str:
    """Return a program. places: where each measured classical bit is in its register.

    >>> print(openqasm(1, [("rx", (0,), (), (0.5,)), ("measure", (0,), (3,), ())], {3: 0}))
    OPENQASM 2.0;
    include "qelib1.inc";
    qreg q[1];
    creg c[1];
    rx(0.5) q[0];
    measure q[0] -> c[0];
    """
    lines = [
        "OPENQASM 2.0;",
        'include "qelib1.inc";',
        f"qreg q[{num_qubits}];",
        f"creg c[{len(places)}];",
    ]
    for name, qubits, clbits, angles in steps:
        if name == "measure":
            lines.append(f"measure q[{qubits[0]}] -> c[{places[clbits[0]]}];")
        elif name in GATES or name == "reset":
            listed = ",".join([f"q[{qubit}]" for qubit in qubits])
            given = f"({','.join(map(repr, angles))})" if angles else ""
            lines.append(f"{name}{given} {listed};")
        elif name not in ("barrier", "delay"):  # ideal devices need neither
            raise PayloadRejected(f"gate {name!r} is not among those of this device")
    return "\n".join(lines)
