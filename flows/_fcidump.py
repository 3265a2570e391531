"""FCIDUMP files (Knowles and Handy, Comput. Phys. Commun. 54, 75 (1989)) as integrals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._active_space import MeanField, converged
from flows._inputs import InputError, SourceLine, read_lines

__all__ = ["FileIntegrals", "from_fcidump", "mean_field"]

_MOST_ORBITALS = 50  # two-body integrals of 50 MB
_TOLERANCE = 1e-8  # Hartree; programs write equal integrals with different rounding errors
_SYMMETRY = "integrals over real orbitals do not change with the order within a pair or of pairs"

_BEGIN = re.compile(r"\s*[&$]FCI\b", re.IGNORECASE)
_END = re.compile(r"[&$]END\b|/", re.IGNORECASE)
_WORD = re.compile(r"([A-Za-z]\w*)\s*=|([^\s,=]+)")
_BARE_EXPONENT = re.compile(r"^([+-]?\d*\.\d*)([+-]\d+)$")  # Fortran's, of three digits

_SWITCHES = {
    "UHF": "separate spin orbitals, UHF",
    "IUHF": "separate spin orbitals, UHF",
    "TREL": "relativistic, complex integrals",
}
_OFF = ("F", "FALSE", "0")
# The first seven are explained in messages; the others are notes of programs to themselves.
_KNOWN = (
    *("NORB", "NELEC", "MS2", "ORBSYM", "ISYM", "UHF", "IUHF"),
    *("TREL", "IPRTIM", "INT", "MEMORY", "CORE", "MAXIT", "THR", "THRRES", "NROOT", "ST"),
    *("NPROP", "PROPBITLEN", "SYML", "SYMLZ", "PNTGRP", "TITLE"),
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key of the header: where it stands, and its values as words."""

    line: SourceLine
    values: list[str]


@dataclass(frozen=True, eq=False, kw_only=True)
class FileIntegrals:
    """A Hamiltonian over the n orbitals of a file, in Hartree.

    nelec: spin up, spin down. one_body: (n, n). two_body: (n, n, n, n), in chemists' order.
    """

    label: str
    one_body: NDArray[np.float64]
    two_body: NDArray[np.float64]
    constant: float
    nelec: tuple[int, int]


def from_fcidump(path: str) -> FileIntegrals:
    """Read a real, spin-restricted FCIDUMP file; orbital energies and irreps are ignored.

    Integrals equal by the eightfold symmetry may be given once or more often. Raises `InputError`
    with file and line for an invalid or contradictory file, or one of another kind.
    """
    lines = read_lines(path)
    header, end = _header(lines)
    first = next(iter(header.values())).line
    orbitals = _number(header, "NORB", first)
    electrons = _number(header, "NELEC", first)
    unpaired = _number(header, "MS2", first, default=electrons % 2)
    _check_numbers(header, orbitals, electrons, unpaired)
    _check_kind(header, orbitals)
    read = _Reading.of(orbitals)
    for line in lines[end:]:
        if line.text.strip():
            read.add(line)
    read.check(lines)
    if not (read.one_lines.any() or read.two_lines.any()):
        raise InputError(
            f"{Path(path)}: no integrals after the header; expected 'value i j k l' lines"
        )
    up = (electrons + unpaired) // 2
    return FileIntegrals(
        label=Path(path).name,
        one_body=read.one_body,
        two_body=read.two_body,
        constant=read.constant,
        nelec=(up, electrons - up),
    )


def _header(lines: Sequence[SourceLine]) -> tuple[dict[str, _Entry], int]:
    """Return the keys of the Fortran namelist, and the index of the first line after it."""
    start = next(index for index, line in enumerate(lines) if line.text.strip())
    begin = _BEGIN.match(lines[start].text)
    if not begin:
        raise lines[start].error("the header of an FCIDUMP file, '&FCI NORB=…, NELEC=…,'")
    header: dict[str, _Entry] = {}
    values: list[str] | None = None
    for index in range(start, len(lines)):
        line = lines[index]
        text = line.text[begin.end() if index == start else 0 :].split("!")[0]
        end = _END.search(text)
        for key, value in _WORD.findall(text[: end.start()] if end else text):
            if key:
                if key.upper() in header:
                    raise line.error(f"{key.upper()} once in the header")
                header[key.upper()] = _Entry(line, values := [])
            elif values is None:
                raise line.error("'NAME=value' in the header")
            else:
                values.append(value)
        if end:
            if text[end.end() :].strip():
                raise line.error(f"nothing after {end[0]!r}, which ends the header")
            if not header:
                raise line.error("a header with NORB=… in it")
            return header, index + 1
    raise lines[-1].error("the end of the header, '&END' or '/', before the file ends")


def _number(
    header: dict[str, _Entry], name: str, first: SourceLine, default: int | None = None
) -> int:
    if name not in header:
        if default is None:
            raise first.error(f"a header with {name}=… in it")
        return default
    entry = header[name]
    given = ",".join(entry.values)
    expected = f"a whole number after {name}=, not {given!r}"
    return entry.line.whole(given, expected)


def _check_numbers(header: dict[str, _Entry], orbitals: int, electrons: int, unpaired: int) -> None:
    if not 1 <= orbitals <= _MOST_ORBITALS:
        raise header["NORB"].line.error(f"NORB from 1 to {_MOST_ORBITALS}, not {orbitals}")
    if not 1 <= electrons <= 2 * orbitals:
        raise header["NELEC"].line.error(
            f"NELEC from 1 to {2 * orbitals} (twice NORB), not {electrons}"
        )
    if (electrons - unpaired) % 2 or not 0 <= unpaired <= min(electrons, 2 * orbitals - electrons):
        line = header.get("MS2", header["NELEC"]).line
        raise line.error(f"MS2 that {electrons} electrons in {orbitals} orbitals can have")


def _check_kind(header: dict[str, _Entry], orbitals: int) -> None:
    """Refuse what the header says and this reader would ignore."""
    for name, entry in header.items():
        line, values = entry.line, entry.values
        if name in _SWITCHES and any(word.upper().strip(".") not in _OFF for word in values):
            raise line.error(
                f"a spin-restricted, real file; this one states {name} ({_SWITCHES[name]})"
            )
        if name == "ISYM" and values not in (["0"], ["1"]):
            raise line.error(
                "ISYM=1; the lowest state of all is computed, not that of one irrep. Write ISYM=1 "
                "if it is meant"
            )
        if name == "ORBSYM" and _listed(entry) != orbitals:
            raise line.error(f"{orbitals} numbers after ORBSYM=, one for each orbital")
        if name not in _KNOWN:
            raise line.error(
                f"a header without {name}, which has no meaning here; the header may have "
                f"{', '.join(_KNOWN[:7])}. Remove {name} if the integrals are complete without it"
            )


def _listed(entry: _Entry) -> int:
    """Return how many whole numbers there are; ``8*1`` is eight."""
    expected = "whole numbers after ORBSYM="
    count = 0
    for word in entry.values:
        times, star, value = word.rpartition("*")
        entry.line.whole(value, expected)
        count += entry.line.whole(times, expected) if star else 1
    return count


@dataclass(slots=True, kw_only=True)
class _Reading:
    """Integrals read so far, filled by symmetry, and for each as it was given its line."""

    one_body: NDArray[np.float64]
    two_body: NDArray[np.float64]
    one_lines: NDArray[np.int32]
    two_lines: NDArray[np.int32]
    constant: float = 0.0
    constant_line: int = 0

    @classmethod
    def of(cls, orbitals: int) -> _Reading:
        """Begin with zeros."""
        two, four = (orbitals,) * 2, (orbitals,) * 4
        return cls(
            one_body=np.zeros(two),
            two_body=np.zeros(four),
            one_lines=np.zeros(two, dtype=np.int32),
            two_lines=np.zeros(four, dtype=np.int32),
        )

    def add(self, line: SourceLine) -> None:
        """Take in one line; a second value of one integral must be the same."""
        value, (i, j, k, m) = _record(line, len(self.one_body))
        if k >= 0:
            known = self.two_lines[i, j, k, m] or self.two_lines[j, i, k, m]
            _check_same(line, value, self.two_body[i, j, k, m], known)
            for a, b, c, d in ((i, j, k, m), (j, i, m, k)):
                self.two_lines[a, b, c, d] = self.two_lines[c, d, a, b] = line.number
            for a, b in ((i, j), (j, i)):
                for c, d in ((k, m), (m, k)):
                    self.two_body[a, b, c, d] = self.two_body[c, d, a, b] = value
        elif j >= 0:
            known = self.one_lines[i, j] or self.one_lines[j, i]
            _check_same(line, value, self.one_body[i, j], known)
            self.one_body[i, j] = self.one_body[j, i] = value
            self.one_lines[i, j] = line.number
        elif i < 0:
            _check_same(line, value, self.constant, self.constant_line)
            self.constant, self.constant_line = value, line.number

    def check(self, lines: Sequence[SourceLine]) -> None:
        """Refuse a file without the symmetry of real orbitals.

        A file that gives some integrals both as (ij|kl) and as (ji|kl) gives all that are not
        zero, so one that is missing is zero, and the two differ.
        """
        count = len(self.one_body)
        apart = ~np.eye(count, dtype=bool)
        for values, given, pairs in (
            (self.one_body, self.one_lines, apart),
            (self.two_body, self.two_lines, apart[:, :, None, None] & apart),
        ):
            here = given > 0
            mirrored = here.swapaxes(0, 1)
            if not (here & mirrored & pairs).any():
                continue
            lonely = here & ~mirrored & pairs & (np.abs(values) > _TOLERANCE)
            if lonely.any():
                raise lines[int(given[lonely].min()) - 1].error(
                    f"also the integral with the first two orbitals exchanged; {_SYMMETRY}, and "
                    "this file gives others in both orders"
                )


def _check_same(line: SourceLine, value: float, known: float, given_on: int) -> None:
    if given_on and abs(value - known) > _TOLERANCE:
        raise line.error(f"{known:.12g}, as line {given_on} says; {_SYMMETRY}")


def _record(line: SourceLine, orbitals: int) -> tuple[float, tuple[int, int, int, int]]:
    expected = f"a real value and four orbital numbers from 0 to {orbitals}"
    words = line.text.split()
    if len(words) != 5:
        raise line.error(expected)
    value = line.real(_BARE_EXPONENT.sub(r"\1E\2", words[0]), expected)
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


def mean_field(integrals: FileIntegrals) -> MeanField:
    """Run Hartree-Fock in the orbitals of a file, which may come in any order and kind.

    The result is over canonical orbitals, lowest first, as for a molecule.
    """
    from pyscf import ao2mo, gto, scf

    up, down = integrals.nelec
    count = len(integrals.one_body)
    molecule: Any = gto.M(verbose=0)
    molecule.nelectron, molecule.spin = up + down, up - down
    molecule.incore_anyway = True
    field: Any = scf.ROHF(molecule) if up != down else scf.RHF(molecule)
    field.get_hcore = lambda *_: integrals.one_body
    field.get_ovlp = lambda *_: np.eye(count)
    field.energy_nuc = lambda *_: integrals.constant
    field._eri = ao2mo.restore(8, integrals.two_body, count)  # noqa: SLF001 - PySCF's own recipe
    field.init_guess = "1e"
    field, notes = converged(field)
    return MeanField(label=integrals.label, field=field, notes=notes)
