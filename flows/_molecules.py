"""Curves to compute: of a built-in molecule, or of an XYZ file and a bond to stretch in it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.constants import physical_constants

from backends.suggestions import did_you_mean
from flows._geometries import SYMBOLS, Curve, Geometry, split_bond, stretched, unbonded
from flows._inputs import InputError, SourceLine, is_whole, read_lines

__all__ = ["MOLECULES", "Molecule", "Scan", "built_in_curve", "from_xyz", "xyz_curve"]

_BOHR_A = float(physical_constants["Bohr radius"][0]) * 1e10
_CLOSEST_A = 0.05

_PAIR = re.compile(
    r"""(?<!\S)([A-Za-z][\w-]*)\s*=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|[^\s,;]+)"""
)
_SYMBOL = re.compile(r"([A-Za-z]{1,2})(_?\d+)?", re.ASCII)
_ISOTOPES = {"D": "H", "T": "H"}
_DUMMIES = ("0", "X", "Xx", "Q", "Bq", "Gh", "Du")

_UNIT_KEYS = ("unit", "units", "length_unit", "length_units", "pos_unit", "coordinate_units")
_ANGSTROM = re.compile(r"\b[aå]ngstr[oöø]e?ms?\b|\bang\b|[ÅÅ](?!\w)", re.IGNORECASE)
_BOHR_WORDS = r"(?:bohrs?|atomic\s+units?|a\.\s?u\.)(?!\w)"
_BOHR = re.compile(rf"(?<![\w/]){_BOHR_WORDS}", re.IGNORECASE)
_PLAINLY_BOHR = re.compile(
    rf"(?:^|\bin|\bunits?\s*[:=]?|[(\[,;:])\s*{_BOHR_WORDS}\s*(?:$|[)\],;])", re.IGNORECASE
)
_QUANTITY = re.compile(  # -76.02 a.u., Hartree/Bohr
    r"[+-]?\d[\d.eE+-]*\s*(?:a\.\s?u\.|atomic\s+units?)|\w+\s*/\s*bohrs?\b", re.IGNORECASE
)
_OTHER_QUANTITIES = re.compile(r"energ|hartree|force|gradient|dipole|\bE\s*=", re.IGNORECASE)
_OTHER_UNITS = re.compile(r"\bin\s+(?:nm|pm|nanomet\w*|picomet\w*)\b", re.IGNORECASE)
# ``0 1``, as programs of quantum chemistry begin their coordinates.
_CHARGE_AND_MULTIPLICITY = re.compile(r"\s*([+-]?\d+)\s+([1-9]\d*)\s*")
_STATED_UNIT = re.compile(r"\bunits?\s*[:=]\s*([^\s,;)\]]+)", re.IGNORECASE)
_CHARGE = re.compile(r"\b(?:total_)?charge\b\s*[=:]?\s*[\"']?([+-]?\d+(?:\.\d*)?)", re.IGNORECASE)
_MULTIPLICITY = re.compile(
    r"\b(?:spin_)?mult(?:iplicity)?\b\s*[=:]?\s*[\"']?([+-]?\d+)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Which words of a line are what. count: of all words; None in a plain file: at least four."""

    species: int | None = 0
    number: int | None = None
    position: int = 1
    count: int | None = None


def from_xyz(path: str, *, charge: int = 0, spin: int | None = None) -> list[Geometry]:
    """Read every frame of an XYZ file: atom count, comment, then one line per atom.

    In a plain file, atoms are ``symbol x y z`` and further columns are ignored. In an extended
    one (https://github.com/libAtoms/extxyz), ``Properties`` in the comment names the columns; a
    periodic cell is refused. Coordinates are in Å, or in Bohr if the comment says so. An atomic
    number may stand for the symbol, D and T are hydrogen, and ``H1`` is H with a label.

    charge, spin: what is computed, spin as the number of unpaired electrons, None for the
    fewest; a comment that states another charge or multiplicity is refused.
    Raises `InputError` with file and line if it does not parse, or if two nuclei coincide.
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
        frame = _frame(lines[at + 1], body, number=len(frames))
        _check_electrons(lines[at + 1], frame, charge, spin)
        frames.append(frame)
        at += 2 + count
    first = frames[0]
    for number, frame in enumerate(frames):
        if frame.symbols != first.symbols:
            raise InputError(
                f"{Path(path)}: frame {number} has atoms {' '.join(frame.symbols)}, frame 0 has "
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


def _frame(comment: SourceLine, body: Sequence[SourceLine], *, number: int) -> Geometry:
    stated = {key.lower(): value.strip("\"'{}[]") for key, value in _PAIR.findall(comment.text)}
    _check_cell(comment, stated)
    columns, scale = _columns(comment, stated), _scale(comment, stated)
    rows = [line.text.split() for line in body]
    if columns.count is None and len(rows) > 1 and _are_counted(rows):
        raise body[0].error(_atom(columns) + "; here the first column counts the atoms")
    symbols: list[str] = []
    positions: list[tuple[float, float, float]] = []
    for line, words in zip(body, rows, strict=True):
        expected = _atom(columns)
        if len(words) < 4 or len(words) != (columns.count or len(words)):
            raise line.error(expected)
        symbols.append(_element(line, words, columns))
        at = columns.position
        a, b, c = (line.real(word, expected) * scale for word in words[at : at + 3])
        for other, place in zip(body, positions, strict=False):
            if np.linalg.norm(np.subtract(place, (a, b, c))) < _CLOSEST_A:
                raise line.error(f"an atom elsewhere than the one on line {other.number}")
        positions.append((a, b, c))
    return Geometry(
        symbols=tuple(symbols),
        positions=tuple(positions),
        x=float(number),
        label=comment.text.strip() or f"frame {number}",
        notes=() if scale == 1.0 else ("Coordinates converted from Bohr, as the file states.",),
    )


def _atom(columns: _Columns) -> str:
    if columns.count is not None:
        return f"an atom: {columns.count} columns as Properties in the comment names them"
    return "an atom: symbol and three coordinates in Å, such as 'O 0.0 0.0 0.117'"


def _are_counted(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the rows are ``1 8 x y z``, ``2 1 x y z``: a number, then the element."""
    return all(
        len(words) >= 5 and words[0] == str(number) and is_whole(words[1])
        for number, words in enumerate(rows, 1)
    )


def _check_cell(comment: SourceLine, stated: dict[str, str]) -> None:
    """Refuse a periodic cell; one with ``pbc="F F F"`` is only a box."""
    periodic = stated.get("pbc", "T" if "lattice" in stated else "F")
    if any(word.upper() not in ("F", "FALSE", "0") for word in re.split(r"[\s,]+", periodic)):
        raise comment.error(
            'a molecule, not a periodic cell (Lattice, pbc); remove the cell or state pbc="F F F"'
        )


def _columns(comment: SourceLine, stated: dict[str, str]) -> _Columns:
    if "properties" not in stated:
        return _Columns()
    expected = "Properties of triples name:type:count, with species:S:1 (or Z:I:1) and pos:R:3"
    words = stated["properties"].split(":")
    if len(words) % 3:
        raise comment.error(expected)
    places: dict[tuple[str, str, int], int] = {}
    at = 0
    for name, kind, width in zip(words[::3], words[1::3], words[2::3], strict=True):
        columns = comment.whole(width, expected)
        if columns < 1 or kind.upper() not in ("S", "I", "R", "L"):
            raise comment.error(expected)
        places[name.lower(), kind.upper(), columns] = at
        at += columns
    species = places.get(("species", "S", 1))
    number = places.get(("z", "I", 1), places.get(("numbers", "I", 1)))
    position = places.get(("pos", "R", 3))
    if position is None or (species is None and number is None):
        raise comment.error(expected)
    return _Columns(species=species, number=number, position=position, count=at)


def _scale(comment: SourceLine, stated: dict[str, str]) -> float:
    """Return the Å per unit of the coordinates. Raises `InputError` if that is not clear."""
    expected = "units=angstrom or units=bohr in the comment"
    for key in _UNIT_KEYS:
        if key in stated:
            if _ANGSTROM.fullmatch(stated[key]) or stated[key] == "A":
                return 1.0
            if _BOHR.fullmatch(stated[key]) or stated[key].lower() in ("au", "atomic", "a.u"):
                return _BOHR_A
            raise comment.error(expected)
    named = _STATED_UNIT.search(comment.text)
    if named and not (
        _ANGSTROM.search(named[1]) or _BOHR.search(named[0] + comment.text[named.end() :])
    ):
        raise comment.error(f"coordinates in Å or Bohr, not {named[1]!r}, and {expected}")
    text = _PAIR.sub("", _QUANTITY.sub("", comment.text)).strip()
    if _OTHER_UNITS.search(text):
        raise comment.error(f"coordinates in Å or Bohr, and {expected}")
    if not _BOHR.search(text):
        return 1.0
    if _PLAINLY_BOHR.search(text) and not (
        _ANGSTROM.search(text) or _OTHER_QUANTITIES.search(comment.text)
    ):
        return _BOHR_A
    raise comment.error(f"{expected}, since it is not clear what is in atomic units here")


def _element(line: SourceLine, words: Sequence[str], columns: _Columns) -> str:
    given = [words[at] for at in (columns.species, columns.number) if at is not None]
    found = [_symbol(word, line) for word in given]
    if len(set(found)) > 1:
        raise line.error(f"one element, not both {given[0]!r} and {given[1]!r}")
    return found[0]


def _symbol(word: str, line: SourceLine) -> str:
    if is_whole(word) and 1 <= line.whole(word, "an atomic number") <= len(SYMBOLS):
        return SYMBOLS[int(word) - 1]
    match = _SYMBOL.fullmatch(word)
    symbol = match[1].capitalize() if match else word.capitalize()
    symbol = _ISOTOPES.get(symbol, symbol)
    if match is None or symbol not in SYMBOLS:
        dummy = "; ghost and dummy atoms cannot be computed" if symbol in _DUMMIES else ""
        raise line.error(
            f"an element from H to Xe as a symbol or atomic number, not {word!r}{dummy}"
        )
    return symbol


def _check_electrons(comment: SourceLine, frame: Geometry, charge: int, spin: int | None) -> None:
    """Refuse what is computed if the comment states another charge or multiplicity."""
    text = re.sub(r"Properties\s*=\s*\S+", "", comment.text, flags=re.IGNORECASE)
    if re.search(r"\bspin\b\s*[=:]", text, re.IGNORECASE):
        raise comment.error(
            "multiplicity=N (unpaired electrons + 1) in place of spin, which programs count in "
            "different ways"
        )
    stated = _CHARGE.search(text) or _CHARGE_AND_MULTIPLICITY.fullmatch(text)
    if stated is not None and float(stated[1]) != charge:
        raise comment.error(
            f"charge {charge}, which is computed; give charge={stated[1]} to the flow"
        )
    unpaired = (frame.electrons - charge) % 2 if spin is None else spin
    both = _CHARGE_AND_MULTIPLICITY.fullmatch(text)
    stated = _MULTIPLICITY.search(text)
    multiplicity = both[2] if both else stated[1] if stated else None
    if multiplicity is not None and int(multiplicity) != unpaired + 1:
        raise comment.error(
            f"multiplicity {unpaired + 1}, which is computed; give "
            f"spin={int(multiplicity) - 1} to the flow"
        )


_DEFAULT_POINTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Molecule:
    """A molecule, a chain or three atoms bent by an angle, with one length to vary, in Å."""

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
        label = f"{length:.4g} Å"
        return Geometry(symbols=self.symbols, positions=tuple(places), x=length, label=label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The points of a curve: lengths in Å, or factors of the given length."""

    lengths: Sequence[float] | None = None
    scales: Sequence[float] | None = None
    points: int | None = None
    atoms: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Raise `InputError` on values that no curve can have."""
        if self.atoms is not None and len(self.atoms) != 2:
            raise InputError(f"atoms {list(self.atoms)}: expected two of them, such as [0, 1]")
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


_BUILT_IN = (
    # name, symbols, first and last length in Å, what varies, usual electrons and orbitals
    ("H2", "H H", (0.4, 2.6), "H-H / Å", 2, 2),
    ("H4", "H H H H", (0.6, 2.4), "H-H / Å", 4, 4),
    ("LiH", "Li H", (0.9, 4.2), "Li-H / Å", 2, 5),
    ("HF", "H F", (0.7, 2.6), "H-F / Å", 8, 5),
    ("H2O", "O H H", (0.7, 2.2), "both O-H / Å", 4, 4),
    ("N2", "N N", (0.9, 2.4), "N-N / Å", 6, 6),
)
MOLECULES = {
    formula.lower(): Molecule(
        formula=formula,
        symbols=tuple(symbols.split()),
        lengths=lengths,
        x_label=x_label,
        electrons=electrons,
        orbitals=orbitals,
        angle_deg=104.5 if formula == "H2O" else 180.0,
    )
    for formula, symbols, lengths, x_label, electrons, orbitals in _BUILT_IN
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
    """Return the curve of an XYZ file: its frames, or one bond of its single frame stretched.

    By default the first bond that divides the molecule, at 0.7 to 2.0 times the given length.
    Raises `InputError`; see `from_xyz` for charge and spin.
    """
    frames = from_xyz(path, charge=charge, spin=spin)
    name = Path(path).stem
    if len(frames) > 1:
        return _trajectory(name, frames, scan)
    (frame,) = frames
    if len(frame.symbols) == 1:
        return Curve(name=name, x_label="atom", points=(frame,), notes=frame.notes)
    i, j = atoms = scan.atoms or split_bond(frame)
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
