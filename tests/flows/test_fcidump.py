"""FCIDUMP files: the same physics as the molecule they came from, and precise errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyscf", reason="the chemistry extra is not installed")

from flows._active_space import SpaceChoice, active_space, exact_energy, molecular
from flows._fcidump import from_fcidump, mean_field
from flows._inputs import InputError
from flows._molecules import MOLECULES

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fcidump" / "n2.fcidump"
HEADER = "&FCI NORB=2,NELEC=2,MS2=0,\n ORBSYM=1,1,\n ISYM=1,\n&END\n"
H2 = HEADER + (
    "0.6757101548035170 1 1 1 1\n0.1809312029783150 2 1 2 1\n"
    "0.6645817302552987 2 2 1 1\n0.6985737227320176 2 2 2 2\n"
    "-1.2563390730032498 1 1 0 0\n-0.4718960072811422 2 2 0 0\n"
    "0.7199689944489797 0 0 0 0\n"
)


def _file(folder: Path, text: str) -> str:
    file = folder / "a.fcidump"
    file.write_text(text)
    return str(file)


def test_hydrogen_has_its_energy(tmp_path: Path) -> None:
    integrals = mean_field(from_fcidump(_file(tmp_path, H2)))
    assert integrals.nelec == (1, 1)
    assert integrals.hf_energy == pytest.approx(-1.116999, abs=1e-5)
    assert exact_energy(active_space(integrals, SpaceChoice())) == pytest.approx(
        -1.137306, abs=1e-5
    )


def test_other_spellings_of_the_header_are_read(tmp_path: Path) -> None:
    text = H2.replace("&FCI NORB=2,NELEC=2", "\n $fci  norb = 2, nelec= 2").replace("&END", "/")
    text = text.replace("0.6757101548035170", "0.6757101548035170D+00")
    text += "-0.58 1 0 0 0\n\n"  # an orbital energy
    np.testing.assert_array_equal(
        from_fcidump(_file(tmp_path, text)).two_body.among(slice(None)),
        from_fcidump(_file(tmp_path, H2)).two_body.among(slice(None)),
    )


def test_a_molecule_written_and_read_is_the_same(tmp_path: Path) -> None:
    from pyscf.tools import fcidump

    water = molecular(MOLECULES["h2o"].geometry(1.0), SpaceChoice())
    rng = np.random.default_rng(3)
    mixed, _ = np.linalg.qr(rng.normal(size=water.one_body.shape))
    one = mixed.T @ water.one_body @ mixed
    whole = water.two_body.among(slice(None))
    two = np.einsum("pqrs,pa,qb,rc,sd->abcd", whole, *[mixed] * 4, optimize=True)
    path = tmp_path / "water.fcidump"
    fcidump.from_integrals(str(path), one, two, len(one), 10, water.constant, ms=0)
    read = mean_field(from_fcidump(str(path)))
    assert read.hf_energy == pytest.approx(water.hf_energy, abs=1e-8)
    choice = SpaceChoice(electrons=4, orbitals=4)
    energies = [exact_energy(active_space(side, choice)) for side in (read, water)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-7)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("hello\n", 1, "header of an FCIDUMP"),
        ("&FCI NORB=2,NELEC=2,\n1.0 1 1 1 1\n", 2, "end of the header"),
        ("&FCI NELEC=2 &END\n1.0 1 1 0 0\n", 1, "NORB"),
        ("&FCI NORB=two,NELEC=2 &END\n", 1, "whole number after NORB"),
        ("&FCI NORB=2,NELEC=5 &END\n", 1, "NELEC from 1 to 4"),
        ("&FCI NORB=2,NELEC=2,MS2=1 &END\n", 1, "MS2"),
        ("&FCI NORB=500,NELEC=2 &END\n", 1, "NORB from 1 to"),
        ("&FCI NORB=2,NELEC=2,IUHF=1 &END\n", 1, "UHF"),
        (HEADER + "1.0 1 1 1\n", 5, "four orbital numbers from 0 to 2"),
        (HEADER + "x 1 1 1 1\n", 5, "real value"),
        (HEADER + "(1.0,0.0) 1 1 1 1\n", 5, "real value"),
        (HEADER + "1.0 1 1 1 3\n", 5, "from 0 to 2"),
        (HEADER + "1.0 1 1 1 0\n", 5, "'i j 0 0'"),
        (HEADER + "1.0 1 1 1 1.5\n", 5, "real value"),
    ],
)
def test_a_malformed_file_names_line_and_expectation(
    text: str, line: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        from_fcidump(_file(tmp_path, text))
    assert f"a.fcidump, line {line}:" in str(caught.value)


def test_a_file_without_integrals_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no integrals"):
        from_fcidump(_file(tmp_path, HEADER + "0.7 0 0 0 0\n"))


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs the public file {SHARED}")
def test_nitrogen_from_another_program_is_cut_to_a_small_space() -> None:
    whole = mean_field(from_fcidump(str(SHARED)))
    assert not whole.notes
    space = active_space(whole, SpaceChoice())
    assert (space.orbitals, space.nelec) == (4, (2, 2))
    exact = exact_energy(space)
    assert exact < whole.hf_energy
    assert exact_energy(active_space(whole, SpaceChoice(electrons=6, orbitals=6))) < exact
