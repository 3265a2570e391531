"""FCIDUMP files (Knowles and Handy, Comput. Phys. Commun. 54, 75 (1989)) as integrals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._active_space import Integrals, converged
from flows._inputs import InputError, SourceLine, read_lines
from flows._repulsion import KnownRepulsion

__all__ = ["from_fcidump", "mean_field"]

_MOST_ORBITALS = 50  # two-body integrals of 50 MB


def from_fcidump(path: str) -> Integrals:
    """Read a real, spin-restricted FCIDUMP file; ``hf_energy`` is NaN until `mean_field`.

    MS2 is the number of unpaired electrons. Lines of orbital energies are ignored. Raises
    `InputError` with file and line on anything that does not parse.
    """
    lines = read_lines(path)
    end = _header_end(lines)
    header = " ".join(line.text for line in lines[: end + 1])
    orbitals = _entry(header, "NORB", lines[0])
    electrons = _entry(header, "NELEC", lines[0])
    unpaired = _entry(header, "MS2", lines[0], default=electrons % 2)
    _check_header(lines[0], orbitals, electrons, unpaired)
    if re.search(r"\bI?UHF\s*=\s*(\.?T|1)", header, re.IGNORECASE):
        raise lines[0].error("a spin-restricted file; this one has separate spin orbitals (UHF)")
    one_body, two_body, constant = _integrals(lines[end + 1 :], orbitals, Path(path))
    up = (electrons + unpaired) // 2
    return Integrals(
        label=Path(path).name,
        one_body=one_body,
        two_body=KnownRepulsion(integrals=two_body),
        constant=constant,
        nelec=(up, electrons - up),
        hf_energy=float("nan"),
    )


def _header_end(lines: Sequence[SourceLine]) -> int:
    first = next(line for line in lines if line.text.strip())
    if not re.match(r"\s*[&$]FCI\b", first.text, re.IGNORECASE):
        raise first.error("the header of an FCIDUMP file, '&FCI NORB=…, NELEC=…,'")
    for index, line in enumerate(lines):
        if re.search(r"(&END|\$END|/)\s*$", line.text, re.IGNORECASE):
            return index
    raise lines[-1].error("the end of the header, '&END' or '/', before the file ends")


def _entry(header: str, name: str, line: SourceLine, default: int | None = None) -> int:
    match = re.search(rf"\b{name}\s*=\s*([^\s,/&$]*)", header, re.IGNORECASE)
    if match is None:
        if default is None:
            raise line.error(f"a header with {name}=… in it")
        return default
    return line.whole(match.group(1), f"a whole number after {name}=, not {match.group(1)!r}")


def _check_header(line: SourceLine, orbitals: int, electrons: int, unpaired: int) -> None:
    if not 1 <= orbitals <= _MOST_ORBITALS:
        raise line.error(f"NORB from 1 to {_MOST_ORBITALS}, not {orbitals}")
    if not 1 <= electrons <= 2 * orbitals:
        raise line.error(f"NELEC from 1 to {2 * orbitals} (twice NORB), not {electrons}")
    if (electrons - unpaired) % 2 or not 0 <= unpaired <= min(electrons, 2 * orbitals - electrons):
        raise line.error(f"MS2 that {electrons} electrons in {orbitals} orbitals can have")


def _integrals(
    lines: Sequence[SourceLine], orbitals: int, path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    one_body = np.zeros((orbitals, orbitals))
    two_body = np.zeros((orbitals,) * 4)
    constant, seen = 0.0, 0
    for line in lines:
        words = line.text.split()
        if not words:
            continue
        value, (i, j, k, m) = _record(words, line, orbitals)
        if k >= 0:
            _fill(two_body, value, (i, j), (k, m))
        elif j >= 0:
            one_body[i, j] = one_body[j, i] = value
        elif i < 0:
            constant = value
        seen += j >= 0
    if not seen:
        raise InputError(f"{path}: no integrals after the header; expected 'value i j k l' lines")
    return one_body, two_body, constant


def _record(
    words: list[str], line: SourceLine, orbitals: int
) -> tuple[float, tuple[int, int, int, int]]:
    expected = f"a real value and four orbital numbers from 0 to {orbitals}"
    if len(words) != 5:
        raise line.error(expected)
    value = line.real(words[0], expected)
    i, j, k, m = (line.whole(word, expected) - 1 for word in words[1:])
    if not all(-1 <= index < orbitals for index in (i, j, k, m)):
        raise line.error(expected)
    given = (i >= 0, j >= 0, k >= 0, m >= 0)
    if given not in {
        (True,) * 4,
        (True, True, False, False),
        (True, False, False, False),
        (False,) * 4,
    }:
        raise line.error("orbital numbers 'i j k l', 'i j 0 0', 'i 0 0 0' or '0 0 0 0'")
    return value, (i, j, k, m)


def _fill(
    two_body: NDArray[np.float64], value: float, bra: tuple[int, int], ket: tuple[int, int]
) -> None:
    for a, b in (bra, bra[::-1]):
        for c, d in (ket, ket[::-1]):
            two_body[a, b, c, d] = two_body[c, d, a, b] = value


def mean_field(integrals: Integrals) -> Integrals:
    """Run Hartree-Fock in the orbitals of a file, which may come in any order and kind.

    The result is over canonical orbitals, lowest first, so that an active space around the
    Fermi level means the same as for a molecule.
    """
    from pyscf import ao2mo, gto, scf

    up, down = integrals.nelec
    count = len(integrals.one_body)
    repulsion = integrals.two_body.among(slice(None))
    molecule: Any = gto.M(verbose=0)
    molecule.nelectron, molecule.spin = up + down, up - down
    molecule.incore_anyway = True
    field: Any = scf.ROHF(molecule) if up != down else scf.RHF(molecule)
    field.get_hcore = lambda *_: integrals.one_body
    field.get_ovlp = lambda *_: np.eye(count)
    field.energy_nuc = lambda *_: integrals.constant
    field._eri = ao2mo.restore(8, repulsion, count)  # noqa: SLF001 - PySCF's own recipe
    field.init_guess = "1e"
    field, notes = converged(field)
    orbitals = field.mo_coeff
    transformed = ao2mo.restore(1, ao2mo.kernel(repulsion, orbitals), count)
    return replace(
        integrals,
        one_body=orbitals.T @ integrals.one_body @ orbitals,
        two_body=KnownRepulsion(integrals=transformed),
        hf_energy=float(field.e_tot),
        notes=notes,
    )
