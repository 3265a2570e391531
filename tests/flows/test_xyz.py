"""XYZ files: what columns, cells, units, charges and symbols say is heeded or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows._geometries import Geometry, split_bond, stretched
from flows._inputs import InputError
from flows._molecules import Scan, from_xyz, xyz_curve
from tests.errors import naming

BOHR_A = 0.529177210903  # CODATA 2018


def _file(folder: Path, text: str) -> str:
    file = folder / "a.xyz"
    file.write_text(text)
    return str(file)


def _read(folder: Path, comment: str, *atoms: str) -> Geometry:
    rows = atoms or ("O 0 0 0", "H 0 0 1")
    (frame,) = from_xyz(_file(folder, "\n".join([str(len(rows)), comment, *rows, ""])))
    return frame


@pytest.mark.parametrize(
    ("properties", "row"),
    [
        ("species:S:1:pos:R:3", "O {} {} {}"),
        ("species:S:1:Z:I:1:pos:R:3", "O 8 {} {} {}"),
        ("pos:R:3:species:S:1", "{} {} {} O"),
        ("Z:I:1:pos:R:3", "8 {} {} {}"),
        ("numbers:I:1:forces:R:3:pos:R:3", "8 9 9 9 {} {} {}"),
        ("species:S:1:pos:R:3:forces:R:3:charge:R:1:spin:R:1", "O {} {} {} 9 9 9 1 1"),
        ("id:I:1:species:S:1:move_mask:L:1:pos:R:3", "7 O T {} {} {}"),
    ],
)
def test_columns_are_those_that_the_comment_names(
    properties: str, row: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        place = tuple(round(float(v), 6) for v in rng.normal(size=3))
        frame = _read(tmp_path, f'Properties={properties} pbc="F F F"', row.format(*place))
        assert (frame.symbols, frame.positions) == (("O",), (place,))


@pytest.mark.parametrize(
    ("comment", "line", "said"),
    [
        ("Properties=species:S:1", 2, "pos:R:3"),
        ("Properties=pos:R:3", 2, "species:S:1"),
        ("Properties=species:S:1:pos:R:2", 2, "pos:R:3"),
        ("Properties=species:S:1:pos:R", 2, "triples"),
        ("Properties=species:S:1:pos:R:3:tags:I:1", 3, "5 columns"),
        ("Properties=species:S:1:Z:I:1:pos:R:3", 3, "5 columns"),
        ('Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3', 2, 'pbc="F F F"'),
        ('Lattice="9 0 0 0 9 0 0 0 9" pbc="T T F"', 2, "periodic"),
        ('pbc="T F F"', 2, "periodic"),
        ("pbc=[True, False, False]", 2, "periodic"),
        ("units=nm", 2, naming("units=angstrom", "units=bohr")),
        ("units: nm", 2, naming("nm")),
        ("hydrogen, unit: pm", 2, naming("pm")),
        ("0 3", 2, "multiplicity 2"),
        ("-1 1", 2, "charge 0"),
        ("coordinates in nm", 2, "Bohr"),
        ("converted from Bohr", 2, "clear"),
        ("in Å, not in Bohr", 2, "clear"),
        ("energy in a.u.", 2, "clear"),
        ("spin=1", 2, "multiplicity=N"),
        ("charge=1", 2, naming("charge=1")),
        ("Charge: -1", 2, naming("charge=-1")),
        ("multiplicity 3", 2, naming("spin=2")),
    ],
)
def test_what_a_comment_says_and_nothing_heeds_is_refused(
    comment: str, line: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        _read(tmp_path, comment)
    assert f"a.xyz, line {line}: " in str(caught.value)


@pytest.mark.parametrize(
    "comment",
    [
        'Lattice="9 0 0 0 9 0 0 0 9" pbc="F F F"',
        "pbc=[False, False, False] energy=-76.0",
        "charge=0 multiplicity=2",
        "total_charge=0.0",
        "charge transfer state 3",
        "E = -76.0267 a.u.",
        "energy -76.0 a.u., force 0.01 Hartree/Bohr",
        "in Ångström",
        "units=Angstrom",
        "gold: Au",
    ],
)
def test_what_a_comment_says_without_effect_changes_nothing(comment: str, tmp_path: Path) -> None:
    frame = _read(tmp_path, comment)
    assert (frame.positions[1], frame.label, frame.notes) == ((0.0, 0.0, 1.0), comment, ())


@pytest.mark.parametrize(
    "comment",
    [
        "bohr",
        "water in Bohr",
        "H2O (a.u.)",
        "coordinates in atomic units",
        "units: bohr",
        "units=bohr",
        'Properties=species:S:1:pos:R:3 units="au"',
        "unit=a.u. energy=-76",
    ],
)
def test_coordinates_in_bohr_are_converted_and_it_is_said(comment: str, tmp_path: Path) -> None:
    frame = _read(tmp_path, comment)
    assert frame.positions[1] == pytest.approx((0, 0, BOHR_A), abs=1e-9)
    assert "Bohr" in frame.notes[0]
    curve = xyz_curve(str(tmp_path / "a.xyz"), Scan(scales=(1.0,)))
    assert frame.notes[0] in curve.notes
    assert curve.points[0].x == pytest.approx(BOHR_A, abs=1e-6)


def test_a_stated_charge_and_multiplicity_that_are_computed_are_right(tmp_path: Path) -> None:
    path = _file(tmp_path, "1\ncharge=1 multiplicity=4\nN 0 0 0\n")
    with pytest.raises(InputError, match=naming("spin=3")):
        from_xyz(path, charge=1)
    with pytest.raises(InputError, match=naming("charge=1")):
        from_xyz(path, spin=3)
    assert from_xyz(path, charge=1, spin=3)[0].symbols == ("N",)


@pytest.mark.parametrize(
    ("word", "symbol"),
    [("CL", "Cl"), ("h", "H"), ("D", "H"), ("T", "H"), ("H1", "H"), ("C_12", "C"), ("54", "Xe")],
)
def test_symbols_with_labels_and_isotopes(word: str, symbol: str, tmp_path: Path) -> None:
    assert _read(tmp_path, "", f"{word} 0 0 0").symbols == (symbol,)


@pytest.mark.parametrize("word", ["0", "X", "Xx", "Bq", "Gh", "H-Bq", "@H", "13C", "H+", "Og", "Q"])
def test_what_is_no_nucleus_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=naming(word, "H", "Xe")) as caught:
        _read(tmp_path, "", f"{word} 0 0 0")
    assert ("ghost" in str(caught.value)) == (word in ("0", "X", "Xx", "Bq", "Gh", "Q"))


def test_a_column_that_counts_is_not_taken_for_elements(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=naming("line 3", "column")):
        _read(tmp_path, "", "1 8 0 0 0", "2 1 0 0 1")
    assert _read(tmp_path, "", "1 0 0 0 0.3", "1 0 0 1 0.3").symbols == ("H", "H")


def test_numbers_are_what_other_programs_take_for_numbers(tmp_path: Path) -> None:
    assert _read(tmp_path, "", "H 1.0D-1 -.5 +2.e0").positions == ((0.1, -0.5, 2.0),)
    for word in ("1_0", "0x1", "1.0-3", "٣", "1,5", "Infinity"):
        with pytest.raises(InputError, match="line 3"):
            _read(tmp_path, "", f"H 0 0 {word}")


@pytest.mark.parametrize("count", [2, 3, 5])
def test_atoms_without_bonds_are_joined_to_their_nearest_neighbours(
    count: int, tmp_path: Path
) -> None:
    """Hydrogens 0.9 Å apart are no bonds by their radii."""
    atoms = "".join(f"H 0 0 {0.9 * k:.1f}\n" for k in range(count))
    path = _file(tmp_path, f"{count}\nchain\n{atoms}")
    curve = xyz_curve(path, Scan(lengths=(0.9, 1.5)))
    same, longer = curve.points
    heights = [place[2] for place in longer.positions]
    np.testing.assert_allclose([p[2] for p in same.positions], 0.9 * np.arange(count), atol=1e-9)
    np.testing.assert_allclose(heights, [0.0, *(1.5 + 0.9 * np.arange(count - 1))], atol=1e-9)
    said = [note for note in curve.notes if "nearest neighbours" in note]
    assert len(said) == 1
    assert "H0, H1" in said[0]


def test_only_atoms_without_bonds_are_joined_to_their_nearest_neighbours(tmp_path: Path) -> None:
    places = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.74), (0.0, 0.0, 2.0))
    molecule = Geometry(symbols=("H",) * 3, positions=places, x=0, label="")
    assert split_bond(molecule) == (0, 1)
    moved = stretched(molecule, (0, 1), 1.0)
    assert moved.positions[2][2] == pytest.approx(2.26)
    two = "".join(f"{s} 0 {y} {z}\n" for y in (0, 5) for s, z in (("O", 0.0), ("H", 0.96)))
    curve = xyz_curve(_file(tmp_path, f"4\nfar apart\n{two}"), Scan(lengths=(1.2,)))
    assert curve.points[0].positions[2:] == ((0.0, 5.0, 0.0), (0.0, 5.0, 0.96))
    assert not [note for note in curve.notes if "nearest" in note]


def test_a_ring_of_atoms_without_bonds_stays_a_ring(tmp_path: Path) -> None:
    angles = np.arange(6) * np.pi / 3
    atoms = "".join(f"H {0.9 * np.cos(a):.6f} {0.9 * np.sin(a):.6f} 0\n" for a in angles)
    with pytest.raises(InputError, match="ring"):
        xyz_curve(_file(tmp_path, f"6\nring\n{atoms}"), Scan())
