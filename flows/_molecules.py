"""Which curve is meant: a built-in molecule, or an XYZ file and what to stretch in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backends.suggestions import did_you_mean
from flows._geometries import Curve, Geometry, split_bond, stretched, unbonded
from flows._inputs import InputError
from flows._xyz import from_xyz

__all__ = ["MOLECULES", "Molecule", "Scan", "built_in_curve", "xyz_curve"]

_DEFAULT_POINTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Molecule:
    """A molecule with one length to vary. A chain, or three atoms bent by an angle.

    lengths: where its curve begins and ends, in Å. electrons, orbitals: the active space that
    is usual for it.
    """

    formula: str
    symbols: tuple[str, ...]
    lengths: tuple[float, float]
    x_label: str
    electrons: int
    orbitals: int
    angle_deg: float = 180.0

    def geometry(self, length: float) -> Geometry:
        """Place the nuclei so that every bond is ``length`` Å long."""
        places = [(0.0, 0.0, length * k) for k in range(len(self.symbols))]
        if self.angle_deg != 180.0:  # three atoms, the first in the middle
            half = math.radians(self.angle_deg) / 2
            y, z = length * math.sin(half), length * math.cos(half)
            places = [(0.0, 0.0, 0.0), (0.0, y, z), (0.0, -y, z)]
        return Geometry(
            symbols=self.symbols,
            positions=tuple(places),
            x=length,
            label=f"{length:.4g} Å",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """How the curve's axis is walked: lengths in Å, or factors of the given length."""

    lengths: tuple[float, ...] | None = None
    scales: tuple[float, ...] | None = None
    points: int | None = None
    atoms: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        *,
        lengths: Sequence[float] | None,
        scales: Sequence[float] | None,
        points: int | None,
        atoms: Sequence[int] | None,
    ) -> Scan:
        """Build from what a user gives: any sequences. Raises `InputError`."""
        if atoms is not None and len(atoms) != 2:
            raise InputError(f"atoms {list(atoms)}: expected two of them, such as [0, 1]")
        return cls(
            lengths=None if lengths is None else tuple(lengths),
            scales=None if scales is None else tuple(scales),
            points=points,
            atoms=None if atoms is None else (atoms[0], atoms[1]),
        )

    def __post_init__(self) -> None:
        """Raise `InputError` on values that no curve can have."""
        for name, values in (("lengths", self.lengths), ("scales", self.scales)):
            if values is not None and not (
                values and all(math.isfinite(v) and v > 0 for v in values)
            ):
                raise InputError(f"{name} {list(values)}: expected positive numbers, at least one")
        if self.points is not None and self.points < 1:
            raise InputError(f"points {self.points}: expected a whole number ≥ 1")
        given = [n for n in ("lengths", "scales", "points") if getattr(self, n) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} exclude each other; give one of them")


MOLECULES = {
    "h2": Molecule(
        formula="H2",
        symbols=("H", "H"),
        lengths=(0.4, 2.6),
        x_label="H-H / Å",
        electrons=2,
        orbitals=2,
    ),
    "h4": Molecule(
        formula="H4",
        symbols=("H",) * 4,
        lengths=(0.6, 2.4),
        x_label="H-H / Å",
        electrons=4,
        orbitals=4,
    ),
    "lih": Molecule(
        formula="LiH",
        symbols=("Li", "H"),
        lengths=(0.9, 4.2),
        x_label="Li-H / Å",
        electrons=2,
        orbitals=5,
    ),
    "hf": Molecule(
        formula="HF",
        symbols=("H", "F"),
        lengths=(0.7, 2.6),
        x_label="H-F / Å",
        electrons=8,
        orbitals=5,
    ),
    "h2o": Molecule(
        formula="H2O",
        symbols=("O", "H", "H"),
        lengths=(0.7, 2.2),
        x_label="both O-H / Å",
        electrons=4,
        orbitals=4,
        angle_deg=104.5,
    ),
    "n2": Molecule(
        formula="N2",
        symbols=("N", "N"),
        lengths=(0.9, 2.4),
        x_label="N-N / Å",
        electrons=6,
        orbitals=6,
    ),
}


def built_in_curve(name: str, scan: Scan) -> Curve:
    """Return the curve of a built-in molecule. Raises `InputError` for an unknown one."""
    molecule = MOLECULES.get(name.lower())
    if molecule is None:
        raise InputError(
            f"molecule {name!r} is not built in; expected one of {', '.join(MOLECULES)}, "
            f"or give xyz=FILE or fcidump=FILE{did_you_mean(name, MOLECULES)}"
        )
    if scan.atoms is not None or scan.scales is not None:
        raise InputError("atoms and scales belong to an XYZ file; give lengths=[…] or points=N")
    lengths = scan.lengths or _spread(*molecule.lengths, scan.points or _DEFAULT_POINTS)
    return Curve(
        name=molecule.formula,
        x_label=molecule.x_label,
        points=tuple(molecule.geometry(length) for length in lengths),
        built_in=True,
    )


def xyz_curve(path: str, scan: Scan, *, charge: int = 0, spin: int | None = None) -> Curve:
    """Return the curve of an XYZ file (see `flows._xyz.from_xyz` for charge and spin).

    Several frames are the points themselves. In a single frame one bond is stretched:
    ``scan.atoms``, by default the first that divides the molecule, to ``scan.lengths`` or
    by ``scan.scales`` (0.7 to 2.0 times the given length by default). Raises `InputError`.
    """
    frames = from_xyz(path, charge=charge, spin=spin)
    name = Path(path).stem
    if len(frames) > 1:
        return _trajectory(name, frames, scan)
    (frame,) = frames
    if len(frame.symbols) == 1:
        return Curve(name=name, x_label="atom", points=(frame,), notes=frame.notes)
    atoms = scan.atoms or split_bond(frame)
    i, j = atoms
    stretched(frame, atoms, 1.0)  # checks the atoms before their distance is taken
    given = _distance(frame, atoms)
    scales = scan.scales or _spread(0.7, 2.0, scan.points or _DEFAULT_POINTS)
    lengths = scan.lengths or tuple(round(given * scale, 6) for scale in scales)
    bond = f"{frame.symbols[i]}{i}-{frame.symbols[j]}{j}"
    return Curve(
        name=name,
        x_label=f"{bond} / Å",
        points=tuple(stretched(frame, atoms, length) for length in lengths),
        notes=(
            f"Stretched {bond} ({given:.4g} Å in the file), fragments moved rigidly.",
            *frame.notes,
            *_joined(frame),
        ),
    )


def _joined(frame: Geometry) -> list[str]:
    """Say which atoms were taken as bonded to their nearest neighbours."""
    alone = unbonded(frame)
    if not alone:
        return []
    names = ", ".join(f"{frame.symbols[atom]}{atom}" for atom in alone)
    return [f"No atom within bond length of {names}: taken as bonded to the nearest neighbours."]


def _trajectory(name: str, frames: Sequence[Geometry], scan: Scan) -> Curve:
    if scan.lengths or scan.scales or scan.points:
        raise InputError(
            f"{name}: {len(frames)} frames are the points of the curve; lengths, scales and "
            "points apply to a file with one frame"
        )
    atoms = scan.atoms or ((0, 1) if len(frames[0].symbols) == 2 else None)
    if atoms is None:
        return Curve(name=name, x_label="frame", points=tuple(frames), notes=frames[0].notes)
    i, j = atoms
    if i == j or not all(0 <= atom < len(frames[0].symbols) for atom in atoms):
        raise InputError(f"atoms {list(atoms)}: expected two different atoms, counted from 0")
    symbols = frames[0].symbols
    return Curve(
        name=name,
        x_label=f"{symbols[i]}{i}-{symbols[j]}{j} / Å",
        points=tuple(replace(frame, x=_distance(frame, atoms)) for frame in frames),
        notes=frames[0].notes,
    )


def _distance(geometry: Geometry, atoms: tuple[int, int]) -> float:
    first, second = (geometry.positions[atom] for atom in atoms)
    return round(float(np.linalg.norm(np.subtract(first, second))), 6)


def _spread(first: float, last: float, points: int) -> tuple[float, ...]:
    if points == 1:
        return (round((first + last) / 2, 6),)
    return tuple(round(float(v), 6) for v in np.linspace(first, last, points))
