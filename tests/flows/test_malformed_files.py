"""Files of users: what the flows read, and the errors for malformed ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows._fcidump import from_fcidump
from flows._graphs import BUILT_IN, from_file, graph_of
from flows._inputs import InputError
from flows._molecules import from_xyz
from tests.errors import naming

WATER = "3\nwater\nO 0.0 0.0 0.117\n1 0.0 0.757 -0.469 extra\nh 0.0 -0.757 -0.469\n"
TWO_ORBITALS = (
    "&FCI NORB=2,NELEC=2,MS2=0,\n ORBSYM=1,1,\n&END\n"
    "0.6 1 1 1 1\n0.1D0 2 1 1 1\n0.5 2 2 1 1\n-1.2 1 1 0 0\n0.05 2 1 0 0\n"
    "-0.3 1 0 0 0\n0.7 0 0 0 0\n"
)


def _file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_xyz_frames(tmp_path: Path) -> None:
    frames = from_xyz(_file(tmp_path, "water.xyz", WATER + "\n" + WATER.replace("water", "")))
    assert [frame.label for frame in frames] == ["water", "frame 1"]
    assert frames[0].symbols == ("O", "H", "H")
    assert frames[0].positions[1] == (0.0, 0.757, -0.469)
    assert (frames[0].electrons, frames[0].core_orbitals) == (10, 1)
    assert [frame.x for frame in frames] == [0.0, 1.0]


def test_fcidump_integrals_have_their_symmetries(tmp_path: Path) -> None:
    found = from_fcidump(_file(tmp_path, "two.fcidump", TWO_ORBITALS))
    assert (found.nelec, found.constant, found.label) == ((1, 1), 0.7, "two.fcidump")
    np.testing.assert_array_equal(found.one_body, [[-1.2, 0.05], [0.05, 0.0]])
    two = found.two_body
    assert two[1, 0, 0, 0] == two[0, 1, 0, 0] == two[0, 0, 1, 0] == two[0, 0, 0, 1] == 0.1
    assert two[1, 1, 0, 0] == two[0, 0, 1, 1] == 0.5
    assert two[1, 0, 1, 0] == 0.0


def test_fcidump_of_real_size() -> None:
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "fcidump" / "n2.fcidump"
    if not path.exists():
        pytest.skip(f"no {path.name}: the data folder beside the checkout is not here")
    found = from_fcidump(str(path))
    np.testing.assert_array_equal(found.one_body, found.one_body.T)
    two = found.two_body
    np.testing.assert_array_equal(two, two.transpose(2, 3, 0, 1))
    assert (found.nelec, len(found.one_body)) == ((7, 7), 18)


def test_edge_list(tmp_path: Path) -> None:
    text = "# a comment\nrome oslo\noslo, bern, 2.5  % another\nbern rome -1\n"
    graph = from_file(_file(tmp_path, "towns.txt", text))
    assert (graph.title, graph.names) == ("towns", ("rome", "oslo", "bern"))
    assert graph.edges == ((0, 1, 1.0), (0, 2, -1.0), (1, 2, 2.5))
    assert graph.cut([0, 1, 0]) == 3.5


def test_gset_counts_nodes_from_one_and_keeps_lonely_ones(tmp_path: Path) -> None:
    graph = from_file(_file(tmp_path, "G1", "4 2\n1 2 1\n3 1 -1\n"))
    assert graph.names == ("1", "2", "3", "4")
    assert graph.edges == ((0, 1, 1.0), (0, 2, -1.0))


def test_built_in_graphs_by_name() -> None:
    assert graph_of("petersen") is BUILT_IN["petersen"]
    with pytest.raises(InputError, match=naming("mobius-12", "petersen")):
        graph_of("peterson")


XYZ_MISTAKES = [
    ("two\n\nH 0 0 0\n", 1, "number of atoms"),
    ("0\n\n", 1, "whole number ≥ 1"),
    ("2 atoms\n\nH 0 0 0\n", 1, "number of atoms"),
    ("2\n\nH 0 0 0\n", 3, "ends after 1"),
    ("1\n\nH 0 0\n", 3, "three coordinates"),
    ("2\n\nH 0 0 0\nH 0 0 far\n", 4, "three coordinates"),
    ("1\n\nH 0 0 nan\n", 3, "not finite"),
    ("1\n\nXx 0 0 0\n", 3, "'Xx'"),
    ("2\n\nH 0 0 0\nH 0 0 0.01\n", 4, "elsewhere than the one on line 3"),
]
HEADER = "&FCI NORB=2,NELEC=2,MS2=0,\n&END\n"
FCIDUMP_MISTAKES = [
    ("0.5 1 1 0 0\n", 1, "header of an FCIDUMP"),
    ("&FCI NORB=2,NELEC=2\n0.5 1 1 0 0\n", 2, "'&END' or '/'"),
    ("&FCI NELEC=2\n&END\n0.5 1 1 0 0\n", 1, "NORB="),
    ("&FCI NORB=two,NELEC=2\n&END\n", 1, "whole number after NORB="),
    ("&FCI NORB=99,NELEC=2\n&END\n", 1, "NORB from 1 to 50"),
    ("&FCI NORB=2,NELEC=5\n&END\n", 1, "NELEC from 1 to 4"),
    ("&FCI NORB=2,NELEC=2,MS2=1\n&END\n", 1, "MS2"),
    ("&FCI NORB=2,NELEC=2,UHF=.TRUE.\n&END\n", 1, "spin-restricted"),
    (HEADER + "0.5 1 1 0\n", 3, "orbital"),
    (HEADER + "half 1 1 0 0\n", 3, "real value"),
    (HEADER + "0.5 1 1 0 0\ninf 1 1 0 0\n", 4, "not finite"),
    (HEADER + "0.5 3 1 0 0\n", 3, "from 0 to 2"),
    (HEADER + "0.5 1 0 1 0\n", 3, "'i j 0 0'"),
]
GRAPH_MISTAKES = [
    ("a b\nc\n", 2, "'u v' or 'u v weight'"),
    ("a b heavy\n", 1, "weight"),
    ("a b inf\n", 1, "not finite"),
    ("a b\na a\n", 2, "different"),
    ("a b\n# between\nb a\n", 3, "line 1"),
    ("3 2\n1 2 1\n", 1, ", 1"),
    ("1 1\n1 2 1\n", 1, "two nodes"),
    ("3 1\n1 4 1\n", 2, "nodes from 1 to 3"),
    ("3 1\n1 two 1\n", 2, "nodes from 1 to 3"),
    ("3 2\n1 2 1\n1 1 1\n", 3, "different"),
]
READERS = {"xyz": from_xyz, "fcidump": from_fcidump, "graph": from_file}
MISTAKES = [
    pytest.param(kind, *mistake, id=f"{kind}-{number}")
    for kind, mistakes in zip(
        READERS, (XYZ_MISTAKES, FCIDUMP_MISTAKES, GRAPH_MISTAKES), strict=True
    )
    for number, mistake in enumerate(mistakes)
]


@pytest.mark.parametrize(("kind", "text", "line", "expected"), MISTAKES)
def test_a_mistake_is_said_with_file_and_line(
    tmp_path: Path, kind: str, text: str, line: int, expected: str
) -> None:
    path = _file(tmp_path, f"wrong.{kind}", text)
    with pytest.raises(InputError) as caught:
        READERS[kind](path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: "), message
    assert "; expected " in message
    assert expected in message


@pytest.mark.parametrize("kind", READERS)
def test_files_that_cannot_be_read_at_all(tmp_path: Path, kind: str) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"2\n\n\xff\xfe")
    for path, expected in (
        (str(tmp_path / "nowhere.txt"), "no such file"),
        (_file(tmp_path, "blank", " \n\n"), "empty"),
        (str(binary), naming("byte 3", "UTF-8")),
        (str(tmp_path), naming("Is a directory")),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            READERS[kind](path)
        assert str(caught.value).startswith(path)


def test_what_only_a_whole_file_can_be_wrong_in(tmp_path: Path) -> None:
    for kind, text, expected in (
        ("xyz", "1\n\nH 0 0 0\n1\n\nHe 0 0 0\n", naming("frame 1", "He", "frame 0", "H")),
        ("fcidump", HEADER + "0.5 0 0 0 0\n", "integrals"),
        ("graph", "# nothing\n% here\n", "comments"),
    ):
        path = _file(tmp_path, f"whole.{kind}", text)
        with pytest.raises(InputError, match=expected) as caught:
            READERS[kind](path)
        assert str(caught.value).startswith(path)
