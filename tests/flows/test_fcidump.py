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
from tests.errors import naming

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
        from_fcidump(_file(tmp_path, text)).two_body,
        from_fcidump(_file(tmp_path, H2)).two_body,
    )


def test_a_molecule_written_and_read_is_the_same(tmp_path: Path) -> None:
    from pyscf import ao2mo
    from pyscf.tools import fcidump

    water = molecular(MOLECULES["h2o"].geometry(1.0), SpaceChoice())
    count = water.orbitals.shape[1]
    mixed, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(count, count)))
    orbitals = water.orbitals @ mixed
    one = orbitals.T @ water.field.get_hcore() @ orbitals
    two = ao2mo.restore(1, ao2mo.kernel(water.field.mol, orbitals), count)
    path = tmp_path / "water.fcidump"
    fcidump.from_integrals(str(path), one, two, count, 10, water.field.energy_nuc(), ms=0)
    read = mean_field(from_fcidump(str(path)))
    assert read.hf_energy == pytest.approx(water.hf_energy, abs=1e-8)
    choice = SpaceChoice(electrons=4, orbitals=4)
    energies = [exact_energy(active_space(side, choice)) for side in (read, water)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-7)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("hello\n", 1, "FCIDUMP"),
        ("&FCI NORB=2,NELEC=2,\n1.0 1 1 1 1\n", 2, "header"),
        ("&FCI NELEC=2 &END\n1.0 1 1 0 0\n", 1, "NORB"),
        ("&FCI NORB=two,NELEC=2 &END\n", 1, "NORB"),
        ("&FCI NORB=2,NELEC=5 &END\n", 1, naming("NELEC", 1, 4)),
        ("&FCI NORB=2,NELEC=2,MS2=1 &END\n", 1, "MS2"),
        ("&FCI NORB=500,NELEC=2 &END\n", 1, "NORB"),
        ("&FCI NORB=2,NELEC=2,IUHF=1 &END\n", 1, "UHF"),
        (HEADER + "1.0 1 1 1\n", 5, naming("orbital", 0, 2)),
        (HEADER + "x 1 1 1 1\n", 5, "real"),
        (HEADER + "(1.0,0.0) 1 1 1 1\n", 5, "real"),
        (HEADER + "1.0 1 1 1 3\n", 5, naming(0, 2)),
        (HEADER + "1.0 1 1 1 0\n", 5, "'i j 0 0'"),
        (HEADER + "1.0 1 1 1 1.5\n", 5, "real"),
    ],
)
def test_a_malformed_file_names_line_and_expectation(
    text: str, line: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        from_fcidump(_file(tmp_path, text))
    assert f"a.fcidump, line {line}:" in str(caught.value)


TWO = "0.5 1 1 1 1\n0.3 2 1 1 1\n0.2 2 1 2 1\n0.4 2 2 1 1\n0.1 2 2 2 1\n0.6 2 2 2 2\n"
ONE = "-1.2 1 1 0 0\n0.05 2 1 0 0\n-0.4 2 2 0 0\n0.7 0 0 0 0\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (HEADER + TWO + ONE + "0.51 1 1 1 1\n", 15, naming("0.5", "line 5")),
        (HEADER + TWO + ONE + "0.31 1 2 1 1\n", 15, naming("0.3", "line 6")),
        (HEADER + TWO + ONE + "0.31 1 1 1 2\n", 15, naming("0.3", "line 6")),
        (HEADER + TWO + ONE + "0.21 1 2 2 1\n", 15, naming("0.2", "line 7")),
        (HEADER + TWO + ONE + "0.06 1 2 0 0\n", 15, naming("0.05", "line 12")),
        (HEADER + TWO + ONE + "0.8 0 0 0 0\n", 15, naming("0.7", "line 14")),
        # Given in both orders, all are given; then (12|21), which is not, is zero, unlike (21|21).
        (
            HEADER.replace("NORB=2", "NORB=3").replace("1,1,", "1,1,1,")
            + TWO
            + "0.1 2 1 3 1\n0.1 1 2 3 1\n",
            7,
            "integral",
        ),
        (
            HEADER.replace("NORB=2", "NORB=3").replace("1,1,", "1,1,1,")
            + ONE
            + "0.05 1 2 0 0\n0.01 3 1 0 0\n",
            10,
            "integral",
        ),
        (HEADER.replace("ISYM=1", "ISYM=2") + TWO, 3, naming("ISYM=1")),
        (HEADER.replace("ORBSYM=1,1", "ORBSYM=1,1,1") + TWO, 2, naming(2, "ORBSYM")),
        (HEADER.replace("ORBSYM=1,1", "ORBSYM=1,a") + TWO, 2, "ORBSYM"),
        (HEADER.replace("ISYM=1", "UHF=.TRUE.") + TWO, 3, "UHF"),
        (HEADER.replace("ISYM=1", "TREL=T") + TWO, 3, "complex"),
        (HEADER.replace("ISYM=1", "CLOSED=2") + TWO, 3, "CLOSED"),
        (HEADER.replace("ISYM=1", "NORB=2") + TWO, 3, "NORB"),
        (HEADER.replace("&END", "/ 0.5 1 1 1 1") + TWO, 4, "'/'"),
        ("&FCI 2,2,0 /\n" + TWO, 1, "NAME=value"),
        ("&FCI /\n" + TWO, 1, "NORB="),
    ],
)
def test_a_file_that_contradicts_itself_or_asks_for_more_is_refused(
    text: str, line: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        from_fcidump(_file(tmp_path, text))
    assert f"a.fcidump, line {line}:" in str(caught.value)


HEADERS = [
    "&FCI NORB=2,NELEC=2,MS2=0,ORBSYM=1,1,ISYM=1,/",
    "&FCI NORB=2,NELEC=2,MS2=0,\n ORBSYM=1,1,\n ISYM=1,\n/ ! the integrals follow",
    " $FCI\n NORB = 2 ! two\n NELEC=2\n ORBSYM=1,\n 1,\n ISYM=0\n $END",
    "&fci norb=2, nelec=2, uhf=.false., iuhf=0, orbsym=2*1 &end ! no spin",
    "&FCI NORB=  2,NELEC=  2,MS2= 0,\n ORBSYM=1,1\n UHF=F\n NPROP=1 1 1\n PROPBITLEN=15\n &END",
]


@pytest.mark.parametrize("header", HEADERS)
def test_every_form_of_the_header_is_read(header: str, tmp_path: Path) -> None:
    found = from_fcidump(_file(tmp_path, f"{header}\n{TWO}{ONE}"))
    assert (len(found.one_body), found.nelec, found.constant) == (2, (1, 1), 0.7)


@pytest.mark.parametrize(
    ("word", "value"),
    [("1.5D-3", 0.0015), ("1.5-3", 0.0015), (".15+1", 1.5), ("-2.5-100", -2.5e-100),
     ("1.E0", 1.0), ("2", 2.0), ("+3.0d+00", 3.0)],
)  # fmt: skip
def test_numbers_as_fortran_writes_them(word: str, value: float, tmp_path: Path) -> None:
    found = from_fcidump(_file(tmp_path, f"{HEADER}{word} 1 1 0 0\n"))
    assert found.one_body[0, 0] == pytest.approx(value, rel=1e-15)
    for wrong in ("1-3", "1.0-", "1.0-3.5", "1_0.0"):
        with pytest.raises(InputError, match="real"):
            from_fcidump(_file(tmp_path, f"{HEADER}{wrong} 1 1 0 0\n"))


def test_every_way_to_list_the_integrals_is_the_same_file_and_pyscf_agrees(tmp_path: Path) -> None:
    from pyscf import ao2mo
    from pyscf.tools import fcidump

    rng = np.random.default_rng(11)
    count = 4
    for _ in range(20):
        one = rng.normal(size=(count, count))
        one += one.T
        two = ao2mo.restore(1, ao2mo.restore(8, _random_repulsion(rng, count), count), count)
        places = [(i, j, k, m) for i in range(count) for j in range(count)
                  for k in range(count) for m in range(count)]  # fmt: skip
        once = [p for p in places if p[0] >= p[1] and p[2] >= p[3]
                and (p[0], p[1]) >= (p[2], p[3])]  # fmt: skip
        shuffled = [once[n] for n in rng.permutation(len(once))]
        exchanged = [(k, m, i, j) if rng.random() < 0.5 else (j, i, m, k) for i, j, k, m in once]
        for listed in (once, places, shuffled, exchanged):
            lines = [f"{two[p]:.17e} " + " ".join(str(x + 1) for x in p) for p in listed]
            lines += [
                f"{one[i, j]:.17e} {i + 1} {j + 1} 0 0"
                for i in range(count)
                for j in range(count if listed is places else i + 1)
            ]
            text = f"&FCI NORB={count},NELEC=4,MS2=2,\n ORBSYM={count}*1,\n/\n" + "\n".join(lines)
            found = from_fcidump(_file(tmp_path, text + "\n-1.25 0 0 0 0\n"))
            np.testing.assert_array_equal(found.one_body, one)
            np.testing.assert_array_equal(found.two_body, two)
            assert (found.nelec, found.constant) == ((3, 1), -1.25)
        path = tmp_path / "pyscf"
        fcidump.from_integrals(str(path), one, two, count, 4, -1.25, ms=2)
        theirs, ours = fcidump.read(str(path), verbose=False), from_fcidump(str(path))
        np.testing.assert_allclose(ours.one_body, theirs["H1"], atol=0)
        np.testing.assert_allclose(ours.two_body, ao2mo.restore(1, theirs["H2"], count), atol=0)


def _random_repulsion(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return integrals with the eightfold symmetry, as squares of pair densities."""
    densities = rng.normal(size=(6, count, count))
    densities += densities.swapaxes(1, 2)
    return np.einsum("nij,nkl->ijkl", densities, densities)


def test_a_file_without_integrals_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="integrals"):
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
