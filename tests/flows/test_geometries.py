"""Geometries: reading XYZ files, stretching bonds, and which curve a request means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows._geometries import Geometry, split_bond, stretched
from flows._inputs import InputError
from flows._molecules import MOLECULES, Scan, built_in_curve, from_xyz, xyz_curve
from tests.errors import naming

WATER = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
METHANOL = """6
methanol
C -0.0503  0.6685  0.0000
O -0.0503 -0.7585  0.0000
H -1.0807  1.0417  0.0000
H  0.4650  1.0417  0.8924
H  0.4650  1.0417 -0.8924
H  0.8544 -1.0677  0.0000
"""
TRIANGLE = "3\nring\nC 0 0 0\nC 1.5 0 0\nC 0.75 1.299 0\n"


def _file(folder: Path, text: str, name: str = "a.xyz") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def _read(folder: Path, text: str) -> Geometry:
    (frame,) = from_xyz(_file(folder, text))
    return frame


def _distances(geometry: Geometry) -> np.ndarray:
    places = np.array(geometry.positions)
    return np.linalg.norm(places[:, None] - places[None], axis=-1)


def test_a_frame_is_read(tmp_path: Path) -> None:
    water = _read(tmp_path, WATER)
    assert water.symbols == ("O", "H", "H")
    assert water.positions[1] == (0.0, 0.7572, -0.4692)
    assert water.label == "water"
    assert water.electrons == 10
    assert water.core_orbitals == 1


def test_atomic_numbers_case_and_further_columns_are_taken(tmp_path: Path) -> None:
    read = _read(tmp_path, "2\n\n 8 0 0 0 -0.3 \n h 0 0 9.5e-1 0.3\n\n\n")
    assert read.symbols == ("O", "H")
    assert read.positions[1] == (0.0, 0.0, 0.95)
    assert read.label == "frame 0"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("two\n\nH 0 0 0\n", 1, "atoms"),
        ("0\n\n", 1, "atoms"),
        ("H 0 0 0\nH 0 0 1\n", 1, "atoms"),
        ("2\n\nH 0 0 0\n", 3, naming(1)),
        ("2\n\nH 0 0 0\nH 0 0\n", 4, "coordinates"),
        ("2\n\nH 0 0 0\nH 0 0 one\n", 4, "coordinates"),
        ("2\n\nH 0 0 0\nH 0 0 nan\n", 4, "finite"),
        ("2\n\nH 0 0 0\nQq 0 0 1\n", 4, "element"),
        ("2\n\nH 0 0 0\n99 0 0 1\n", 4, "element"),
        ("2\n\nH 0 0 0\nH 0 0 0.01\n", 4, "line 3$|on line 3"),
        ("1\n\nH 0 0 0\nrubbish\n", 4, "atoms"),
    ],
)
def test_a_malformed_file_names_line_and_expectation(
    text: str, line: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        from_xyz(_file(tmp_path, text))
    assert f"a.xyz, line {line}:" in str(caught.value)


def test_frames_must_hold_the_same_atoms(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=naming("frame 1", "He")):
        from_xyz(_file(tmp_path, "1\n\nH 0 0 0\n1\n\nHe 0 0 0\n"))


@given(length=st.floats(0.3, 9.0), atoms=st.sampled_from([(0, 1), (1, 0), (0, 2), (1, 5)]))
def test_stretching_moves_two_rigid_fragments(length: float, atoms: tuple[int, int]) -> None:
    symbols, places = zip(
        *((w[0], tuple(map(float, w[1:]))) for w in map(str.split, METHANOL.splitlines()[2:])),
        strict=True,
    )
    molecule = Geometry(symbols=symbols, positions=places, x=0, label="")
    longer = stretched(molecule, atoms, length)
    before, after = _distances(molecule), _distances(longer)
    assert after[atoms] == pytest.approx(length)
    moved = {(0, 1): {1, 5}, (1, 0): {0, 2, 3, 4}, (0, 2): {2}, (1, 5): {5}}[atoms]
    for group in (moved, set(range(6)) - moved):
        inside = np.ix_(sorted(group), sorted(group))
        np.testing.assert_allclose(after[inside], before[inside], atol=1e-9)
    assert longer.positions[atoms[0]] == molecule.positions[atoms[0]]


def test_a_ring_cannot_be_stretched(tmp_path: Path) -> None:
    ring = _read(tmp_path, TRIANGLE)
    with pytest.raises(InputError, match="ring"):
        stretched(ring, (0, 1), 2.0)
    with pytest.raises(InputError, match="bond"):
        split_bond(ring)


@pytest.mark.parametrize("atoms", [(0, 0), (0, 3), (-1, 1)])
def test_atoms_must_be_of_the_molecule(atoms: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=naming(0, 2)):
        xyz_curve(_file(tmp_path, WATER), Scan(atoms=atoms))


def test_one_frame_is_stretched_by_its_first_dividing_bond(tmp_path: Path) -> None:
    curve = xyz_curve(_file(tmp_path, METHANOL, "methanol.xyz"), Scan())
    assert curve.name == "methanol"
    assert curve.x_label == "C0-O1 / Å"
    assert len(curve.points) == 12
    given = 1.427
    assert curve.points[0].x == pytest.approx(0.7 * given, abs=1e-3)
    assert curve.points[-1].x == pytest.approx(2.0 * given, abs=1e-3)
    assert "C0-O1" in curve.notes[0]


def test_lengths_and_scales_choose_the_points(tmp_path: Path) -> None:
    file = _file(tmp_path, WATER)
    lengths = xyz_curve(file, Scan(lengths=(0.9, 1.8), atoms=(0, 2)))
    assert [p.x for p in lengths.points] == [0.9, 1.8]
    scales = xyz_curve(file, Scan(scales=(1.0, 1.5)))
    assert [p.x for p in scales.points] == pytest.approx([0.9578, 1.4367], abs=1e-3)
    assert len(xyz_curve(file, Scan(points=3)).points) == 3


def test_several_frames_are_the_points(tmp_path: Path) -> None:
    text = "".join(f"2\nr{r}\nH 0 0 0\nH 0 0 {r}\n" for r in (0.7, 0.9, 1.3))
    curve = xyz_curve(_file(tmp_path, text), Scan())
    assert [p.x for p in curve.points] == [0.7, 0.9, 1.3]
    assert [p.label for p in curve.points] == ["r0.7", "r0.9", "r1.3"]
    with pytest.raises(InputError, match=naming(3)):
        xyz_curve(_file(tmp_path, text), Scan(points=4))
    with pytest.raises(InputError, match="different"):
        xyz_curve(_file(tmp_path, text), Scan(atoms=(0, 2)))


def test_frames_of_more_atoms_are_numbered_unless_atoms_are_given(tmp_path: Path) -> None:
    file = _file(tmp_path, WATER + WATER.replace("0.7572", "0.9"))
    assert [p.x for p in xyz_curve(file, Scan()).points] == [0, 1]
    assert xyz_curve(file, Scan(atoms=(0, 1))).x_label == "O0-H1 / Å"


@pytest.mark.parametrize("name", sorted(MOLECULES))
def test_a_built_in_curve_has_its_lengths(name: str) -> None:
    curve = built_in_curve(name.upper(), Scan())
    assert len(curve.points) >= 10
    assert [p.x for p in curve.points] == sorted({p.x for p in curve.points})
    for point in curve.points:
        assert _distances(point)[0, 1] == pytest.approx(point.x)


def test_water_is_bent() -> None:
    (point,) = built_in_curve("h2o", Scan(lengths=(0.96,))).points
    assert _distances(point)[1, 2] == pytest.approx(2 * 0.96 * np.sin(np.radians(52.25)))


def test_an_unknown_molecule_lists_those_there_are() -> None:
    with pytest.raises(InputError, match=naming("lihh", "h2", "h4", "lih")):
        built_in_curve("lihh", Scan())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lengths": []}, "one"),
        ({"lengths": [1.0, -1.0]}, "positive"),
        ({"lengths": [float("nan")]}, "positive"),
        ({"scales": [0.0]}, "positive"),
        ({"points": 0}, naming(1)),
        ({"points": 3, "lengths": [1.0]}, naming("points", "lengths")),
        ({"atoms": [0]}, "two"),
    ],
)
def test_a_scan_refuses_what_no_curve_can_have(values: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Scan(**values)


def test_atoms_and_scales_need_a_file() -> None:
    with pytest.raises(InputError, match="XYZ"):
        built_in_curve("h2", Scan(atoms=(0, 1)))
