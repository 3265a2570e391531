"""The geometries of a curve: built-in molecules, XYZ files, and bonds that are stretched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flows._inputs import InputError, SourceLine, read_lines

__all__ = ["Curve", "Geometry", "from_xyz", "split_bond", "stretched"]

# Elements in order, with covalent radii in Å (Cordero et al., Dalton Trans. 2008, 2832; C sp3,
# low-spin metals).
_RADIUS_A = {
    "H": 0.31, "He": 0.28, "Li": 1.28, "Be": 0.96, "B": 0.84, "C": 0.76, "N": 0.71, "O": 0.66,
    "F": 0.57, "Ne": 0.58, "Na": 1.66, "Mg": 1.41, "Al": 1.21, "Si": 1.11, "P": 1.07, "S": 1.05,
    "Cl": 1.02, "Ar": 1.06, "K": 2.03, "Ca": 1.76, "Sc": 1.70, "Ti": 1.60, "V": 1.53, "Cr": 1.39,
    "Mn": 1.39, "Fe": 1.32, "Co": 1.26, "Ni": 1.24, "Cu": 1.32, "Zn": 1.22, "Ga": 1.22,
    "Ge": 1.20, "As": 1.19, "Se": 1.20, "Br": 1.20, "Kr": 1.16, "Rb": 2.20, "Sr": 1.95,
    "Y": 1.90, "Zr": 1.75, "Nb": 1.64, "Mo": 1.54, "Tc": 1.47, "Ru": 1.46, "Rh": 1.42,
    "Pd": 1.39, "Ag": 1.45, "Cd": 1.44, "In": 1.42, "Sn": 1.39, "Sb": 1.39, "Te": 1.38,
    "I": 1.39, "Xe": 1.40,
}  # fmt: skip
_SYMBOLS = tuple(_RADIUS_A)
_BOND_TOLERANCE = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Nuclei in space. positions: one (x, y, z) in Å per symbol.

    x: where the point stands on the curve's axis (Å of the bond, or a frame number).
    """

    symbols: tuple[str, ...]
    positions: tuple[tuple[float, float, float], ...]
    x: float
    label: str

    @property
    def electrons(self) -> int:
        """Electrons of the neutral molecule."""
        return sum(_SYMBOLS.index(symbol) + 1 for symbol in self.symbols)

    @property
    def core_orbitals(self) -> int:
        """Orbitals of the closed inner shells: none up to He, 1s up to Ne, and so on."""
        shells = ((2, 0), (10, 1), (18, 5), (36, 9), (54, 18))
        numbers = [_SYMBOLS.index(symbol) + 1 for symbol in self.symbols]
        return sum(next(core for last, core in shells if z <= last) for z in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What is computed, point by point, with the words a reader needs for it."""

    name: str
    x_label: str
    points: tuple[Geometry, ...]
    notes: tuple[str, ...] = ()
    built_in: bool = False


def from_xyz(path: str) -> list[Geometry]:
    """Read every frame of an XYZ file (atom count, comment, then ``symbol x y z`` in Å).

    Atomic numbers are taken for symbols; further columns are ignored. Raises `InputError`
    with file and line if it does not parse, or if two nuclei coincide.
    """
    lines = read_lines(path)
    frames: list[Geometry] = []
    at = 0
    while at < len(lines):
        if not lines[at].text.strip():
            at += 1
            continue
        count = _atom_count(lines[at])
        body = lines[at + 2 : at + 2 + count]
        if len(body) < count:
            raise lines[-1].error(
                f"{count} atoms after the comment, as line {lines[at].number} says, "
                f"but the file ends after {len(body)}"
            )
        comment = lines[at + 1].text.strip()
        frames.append(_frame(body, x=float(len(frames)), label=comment or f"frame {len(frames)}"))
        at += 2 + count
    first = frames[0]
    for number, frame in enumerate(frames):
        if frame.symbols != first.symbols:
            raise InputError(
                f"{path}: frame {number} has atoms {' '.join(frame.symbols)}, frame 0 has "
                f"{' '.join(first.symbols)}; every frame must hold the same atoms in one order"
            )
    return frames


def _atom_count(line: SourceLine) -> int:
    expected = "the number of atoms (a whole number ≥ 1) that starts a frame"
    words = line.text.split()
    if len(words) != 1:
        raise line.error(expected)
    count = line.whole(words[0], expected)
    if count < 1:
        raise line.error(expected)
    return count


def _frame(body: Sequence[SourceLine], *, x: float, label: str) -> Geometry:
    symbols: list[str] = []
    positions: list[tuple[float, float, float]] = []
    for line in body:
        expected = "an atom: symbol and three coordinates in Å, such as 'O 0.0 0.0 0.117'"
        words = line.text.split()
        if len(words) < 4:
            raise line.error(expected)
        symbols.append(_symbol(words[0], line))
        a, b, c = (line.real(word, expected) for word in words[1:4])
        for other, place in zip(body, positions, strict=False):
            if np.linalg.norm(np.subtract(place, (a, b, c))) < 0.05:
                raise line.error(f"an atom elsewhere than the one on line {other.number}")
        positions.append((a, b, c))
    return Geometry(symbols=tuple(symbols), positions=tuple(positions), x=x, label=label)


def _symbol(word: str, line: SourceLine) -> str:
    symbol = word.capitalize()
    if word.isdigit() and 1 <= int(word) <= len(_SYMBOLS):
        symbol = _SYMBOLS[int(word) - 1]
    if symbol not in _RADIUS_A:
        raise line.error(f"an element from H to Xe as a symbol or atomic number, not {word!r}")
    return symbol


def stretched(geometry: Geometry, atoms: tuple[int, int], length: float) -> Geometry:
    """Return the molecule with the two atoms ``length`` Å apart.

    The second atom and everything bonded to it move rigidly along the line between the two.
    Raises `InputError` if the two are joined another way too, as in a ring.
    """
    moving = _moving(geometry, atoms)
    fixed, moved = atoms
    places = np.array(geometry.positions)
    line = places[moved] - places[fixed]
    distance = float(np.linalg.norm(line))
    for atom in moving:
        places[atom] += line / distance * (length - distance)
    first, second = (geometry.symbols[atom] for atom in atoms)
    return replace(
        geometry,
        positions=tuple((float(a), float(b), float(c)) for a, b, c in places),
        x=length,
        label=f"{first}{fixed}-{second}{moved} {length:.4g} Å",
    )


def split_bond(geometry: Geometry) -> tuple[int, int]:
    """Return the first bond, in the order of the file, whose cut leaves two fragments.

    Raises `InputError` if there is none, as in a ring without side groups.
    """
    count = len(geometry.symbols)
    for pair in ((i, j) for i in range(count) for j in range(i + 1, count)):
        if _bonded(geometry, *pair) and _reached(geometry, pair[1], cut=pair).isdisjoint({pair[0]}):
            return pair
    raise InputError(
        "no bond of this molecule can be stretched without breaking a ring; "
        "give atoms=[i,j] (counted from 0) of two fragments, or an XYZ file with several frames"
    )


def _moving(geometry: Geometry, atoms: tuple[int, int]) -> list[int]:
    count = len(geometry.symbols)
    fixed, moved = atoms
    if fixed == moved or not all(0 <= atom < count for atom in atoms):
        raise InputError(
            f"atoms {list(atoms)}: expected two different atoms of this molecule, "
            f"numbered from 0 to {count - 1}"
        )
    group = _reached(geometry, moved, cut=atoms)
    if fixed in group:
        raise InputError(
            f"atoms {list(atoms)} are joined another way too (a ring, or not one bond apart); "
            "choose a bond whose cut leaves two fragments, or give an XYZ file with several frames"
        )
    return sorted(group)


def _bonded(geometry: Geometry, one: int, other: int) -> bool:
    reach = sum(_RADIUS_A[geometry.symbols[atom]] for atom in (one, other)) * _BOND_TOLERANCE
    places = geometry.positions
    return float(np.linalg.norm(np.subtract(places[one], places[other]))) < reach


def _reached(geometry: Geometry, start: int, cut: tuple[int, int]) -> set[int]:
    reached, border = {start}, [start]
    while border:
        atom = border.pop()
        for other in range(len(geometry.symbols)):
            if other in reached or {atom, other} == set(cut) or not _bonded(geometry, atom, other):
                continue
            reached.add(other)
            border.append(other)
    return reached
