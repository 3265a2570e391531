"""Active spaces: known energies, agreement with PySCF, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyscf", reason="the chemistry extra is not installed")

from flows._active_space import (
    SpaceChoice,
    active_space,
    converged,
    exact_energy,
    molecular,
    unpaired_electrons,
)
from flows._geometries import Geometry
from flows._inputs import InputError
from flows._molecules import MOLECULES
from tests.errors import naming

OH = Geometry(symbols=("O", "H"), positions=((0, 0, 0), (0, 0, 0.97)), x=0, label="OH")


def test_hydrogen_has_its_textbook_energies() -> None:
    whole = molecular(MOLECULES["h2"].geometry(0.735), SpaceChoice())
    assert whole.hf_energy == pytest.approx(-1.116999, abs=1e-6)
    assert exact_energy(active_space(whole, SpaceChoice())) == pytest.approx(-1.137306, abs=1e-6)


@pytest.mark.parametrize(("name", "electrons", "orbitals"), [("h2o", 4, 4), ("n2", 6, 6)])
def test_a_space_has_the_energy_pyscf_gives_it(name: str, electrons: int, orbitals: int) -> None:
    from pyscf import gto, mcscf, scf

    geometry = MOLECULES[name].geometry(1.15)
    choice = SpaceChoice(electrons=electrons, orbitals=orbitals)
    whole = molecular(geometry, choice)
    atoms = list(zip(geometry.symbols, geometry.positions, strict=True))
    molecule = gto.M(atom=atoms, basis="sto-3g", verbose=0)
    casci = mcscf.CASCI(scf.RHF(molecule).run(), orbitals, electrons)
    casci.verbose = 0
    assert exact_energy(active_space(whole, choice)) == pytest.approx(casci.kernel()[0], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("geometry", "choice"),
    [
        (MOLECULES["h2o"].geometry(1.1), SpaceChoice(basis="6-31g", electrons=4, orbitals=4)),
        (MOLECULES["h2"].geometry(0.8), SpaceChoice(basis="cc-pvdz", electrons=2, orbitals=3)),
        (OH, SpaceChoice(basis="6-31g", electrons=3, orbitals=3)),
    ],
    ids=["closed", "no core", "open"],
)
def test_a_space_cut_out_early_is_that_cut_out_of_all_integrals(geometry, choice) -> None:
    from pyscf import ao2mo

    whole = molecular(geometry, choice)
    space = active_space(whole, choice)
    orbitals = whole.orbitals
    one = orbitals.T @ whole.field.get_hcore() @ orbitals
    two = ao2mo.restore(1, ao2mo.kernel(whole.field.mol, orbitals), len(one))
    core = whole.nelec[1] - space.nelec[1]
    window = slice(core, core + space.orbitals)
    coulomb = np.einsum("iipq->pq", two[:core, :core])
    mean = one + 2 * coulomb - np.einsum("ipqi->pq", two[:core, :, :, :core])
    constant = whole.field.energy_nuc() + np.trace((one + mean)[:core, :core])
    np.testing.assert_allclose(space.one_body, mean[window, window], atol=1e-9)
    np.testing.assert_allclose(space.two_body, two[window, window, window, window], atol=1e-9)
    assert space.constant == pytest.approx(constant, abs=1e-9)


def test_many_orbitals_take_no_more_memory_than_the_active_ones(monkeypatch) -> None:
    from pyscf import ao2mo

    shapes: list[int] = []
    restore = ao2mo.restore

    def watched(symmetry, integrals, count):
        shapes.append(count)
        return restore(symmetry, integrals, count)

    monkeypatch.setattr(ao2mo, "restore", watched)
    choice = SpaceChoice(basis="cc-pvdz")
    whole = molecular(MOLECULES["n2"].geometry(1.1), choice)
    assert whole.orbitals.shape[1] == 28
    assert active_space(whole, choice).two_body.shape == (4,) * 4
    assert shapes == [4]


def test_the_whole_space_is_full_configuration_interaction() -> None:
    from pyscf import fci, gto, scf

    molecule = gto.M(atom="Li 0 0 0; H 0 0 1.6", basis="sto-3g", verbose=0)
    full = fci.FCI(scf.RHF(molecule).run()).kernel()[0]
    choice = SpaceChoice(electrons=4, orbitals=6)
    whole = molecular(MOLECULES["lih"].geometry(1.6), choice)
    assert exact_energy(active_space(whole, choice)) == pytest.approx(full, abs=1e-7)


def test_the_default_is_the_valence_or_four_orbitals() -> None:
    lithium_hydride = molecular(MOLECULES["lih"].geometry(1.6), SpaceChoice())
    space = active_space(lithium_hydride, SpaceChoice())
    assert (space.orbitals, space.nelec) == (5, (1, 1))
    nitrogen = molecular(MOLECULES["n2"].geometry(1.1), SpaceChoice())
    space = active_space(nitrogen, SpaceChoice())
    assert (space.orbitals, space.nelec) == (4, (2, 2))


def test_a_radical_is_open_shell() -> None:
    space = active_space(molecular(OH, SpaceChoice()), SpaceChoice(electrons=3, orbitals=3))
    assert space.nelec == (2, 1)
    assert exact_energy(space) <= space.hf_energy + 1e-9


def test_a_triplet_can_be_asked_for() -> None:
    oxygen = Geometry(symbols=("O", "O"), positions=((0, 0, 0), (0, 0, 1.2)), x=0, label="O2")
    space = active_space(molecular(oxygen, SpaceChoice(spin=2)), SpaceChoice(spin=2))
    assert space.nelec[0] - space.nelec[1] == 2


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (SpaceChoice(charge=10), naming(10, 0)),
        (SpaceChoice(spin=1), naming("even", 0, 10)),
        (SpaceChoice(charge=1, spin=0), "odd"),
        (SpaceChoice(spin=-2), "even"),
    ],
)
def test_charge_and_spin_must_fit(choice: SpaceChoice, said: str) -> None:
    with pytest.raises(InputError, match=said):
        unpaired_electrons(10, choice)


@pytest.mark.parametrize(
    ("electrons", "orbitals", "said"),
    [
        (3, 3, naming("even", 2, 10)),
        (12, 6, "even"),
        (0, 2, "even"),
        (4, 1, naming("orbitals", 2, 4)),
        (4, 5, naming("orbitals", 2, 4)),
        (-2, None, "even"),
    ],
)
def test_a_space_must_fit_the_molecule(electrons: int, orbitals: int | None, said: str) -> None:
    whole = molecular(MOLECULES["h2o"].geometry(1.0), SpaceChoice())
    with pytest.raises(InputError, match=said):
        active_space(whole, SpaceChoice(electrons=electrons, orbitals=orbitals))


def test_a_space_too_large_for_this_flow_is_refused() -> None:
    whole = molecular(MOLECULES["n2"].geometry(1.1), SpaceChoice())
    with pytest.raises(InputError, match=naming("8 orbitals")):
        active_space(whole, SpaceChoice(electrons=14, orbitals=10))


@pytest.mark.parametrize("basis", ["sto-4711", "", "../../etc/passwd"])
def test_an_unknown_basis_is_named(basis: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="basis"):
        molecular(MOLECULES["h2"].geometry(0.7), SpaceChoice(basis=basis))


def test_a_field_that_stalls_is_taken_over_by_the_second_order_solver() -> None:
    from pyscf import gto, scf

    molecule = gto.M(atom="N 0 0 0; N 0 0 2.2", basis="sto-3g", verbose=0)
    field = scf.RHF(molecule)
    field.max_cycle = 1
    found, notes = converged(field)
    assert found.converged
    assert notes == ("Hartree-Fock needed the second-order solver.",)


def test_notes_travel_with_the_space() -> None:
    whole = molecular(MOLECULES["h2"].geometry(0.7), SpaceChoice())
    assert active_space(replace(whole, notes=("careful",)), SpaceChoice()).notes == ("careful",)
