"""The geometries of a curve, and bonds that are stretched."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flows._inputs import InputError

__all__ = ["SYMBOLS", "Curve", "Geometry", "split_bond", "stretched", "unbonded"]

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
SYMBOLS = tuple(_RADIUS_A)
_BOND_TOLERANCE = 1.3
_NEAREST_TOLERANCE = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Nuclei at positions in Å. x: place on the curve's axis, in Å or as a frame number."""

    symbols: tuple[str, ...]
    positions: tuple[tuple[float, float, float], ...]
    x: float
    label: str
    notes: tuple[str, ...] = ()

    @property
    def electrons(self) -> int:
        """Electrons of the neutral molecule."""
        return sum(SYMBOLS.index(symbol) + 1 for symbol in self.symbols)

    @property
    def core_orbitals(self) -> int:
        """Orbitals of the closed inner shells: none up to He, 1s up to Ne, and so on."""
        shells = ((2, 0), (10, 1), (18, 5), (36, 9), (54, 18))
        numbers = [SYMBOLS.index(symbol) + 1 for symbol in self.symbols]
        return sum(next(core for last, core in shells if z <= last) for z in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What is computed, point by point, with the words a reader needs for it."""

    name: str
    x_label: str
    points: tuple[Geometry, ...]
    notes: tuple[str, ...] = ()
    built_in: bool = False


def stretched(geometry: Geometry, atoms: tuple[int, int], length: float) -> Geometry:
    """Move the second atom, with all that is bonded to it, rigidly to ``length`` Å from the first.

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
    """Return the first bond whose cut leaves two fragments, or raise `InputError` as for a ring."""
    bonded, count = _bonds(geometry), len(geometry.symbols)
    for pair in ((i, j) for i in range(count) for j in range(i + 1, count)):
        if bonded[pair] and pair[0] not in _reached(bonded, pair[1], cut=pair):
            return pair
    raise InputError(
        "no bond of this molecule can be stretched without breaking a ring; "
        "give atoms=[i,j] (counted from 0) of two fragments, or an XYZ file with several frames"
    )


def unbonded(geometry: Geometry) -> list[int]:
    """Return the atoms that are within bond length of no other."""
    return [int(atom) for atom in np.flatnonzero(~_covalent(geometry).any(axis=1))]


def _moving(geometry: Geometry, atoms: tuple[int, int]) -> list[int]:
    count = len(geometry.symbols)
    fixed, moved = atoms
    if fixed == moved or not all(0 <= atom < count for atom in atoms):
        raise InputError(
            f"atoms {list(atoms)}: expected two different atoms of this molecule, "
            f"numbered from 0 to {count - 1}"
        )
    group = _reached(_bonds(geometry), moved, cut=atoms)
    if fixed in group:
        raise InputError(
            f"atoms {list(atoms)} are joined another way too (a ring, or not one bond apart); "
            "choose a bond whose cut leaves two fragments, or give an XYZ file with several frames"
        )
    return sorted(group)


def _distances(geometry: Geometry) -> NDArray[np.float64]:
    """Return all distances in Å; of an atom to itself, infinity."""
    places = np.array(geometry.positions)
    found: NDArray[np.float64] = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(found, np.inf)
    return found


def _covalent(geometry: Geometry) -> NDArray[np.bool_]:
    radii = np.array([_RADIUS_A[symbol] for symbol in geometry.symbols])
    reach = (radii[:, None] + radii[None]) * _BOND_TOLERANCE
    found: NDArray[np.bool_] = _distances(geometry) < reach
    return found


def _bonds(geometry: Geometry) -> NDArray[np.bool_]:
    """Return who is bonded to whom: by covalent radii, or else to the nearest neighbours."""
    bonded, distances = _covalent(geometry), _distances(geometry)
    for atom in unbonded(geometry) if len(geometry.symbols) > 1 else ():
        near = distances[atom] <= distances[atom].min() * _NEAREST_TOLERANCE
        bonded[atom] |= near
        bonded[:, atom] |= near
    return bonded


def _reached(bonded: NDArray[np.bool_], start: int, cut: tuple[int, int]) -> set[int]:
    reached, border = {start}, [start]
    while border:
        atom = border.pop()
        for other in map(int, np.flatnonzero(bonded[atom])):
            if other in reached or {atom, other} == set(cut):
                continue
            reached.add(other)
            border.append(other)
    return reached
