"""Integrals of a small active space from PySCF, and its exact ground-state energy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._geometries import Geometry
from flows._inputs import InputError

__all__ = [
    "ActiveSpace",
    "MeanField",
    "SpaceChoice",
    "active_space",
    "converged",
    "exact_energy",
    "molecular",
    "unpaired_electrons",
]


_LARGEST = 8
_DEFAULT_ORBITALS = 4
_ALL_UP_TO = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceChoice:
    """What the user asked for, None for the default. spin: unpaired electrons (2S)."""

    basis: str = "sto-3g"
    electrons: int | None = None
    orbitals: int | None = None
    spin: int | None = None
    charge: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class MeanField:
    """A mean field of PySCF, of a molecule or of a file, its orbitals lowest first."""

    label: str
    field: Any
    core_orbitals: int = 0
    notes: tuple[str, ...] = ()

    @property
    def nelec(self) -> tuple[int, int]:
        """Electrons with spin up and down."""
        up, down = self.field.mol.nelec
        return int(up), int(down)

    @property
    def orbitals(self) -> NDArray[np.float64]:
        """The orbitals as columns over the basis functions."""
        return np.asarray(self.field.mo_coeff)

    @property
    def hf_energy(self) -> float:
        """The energy in Hartree."""
        return float(self.field.e_tot)


@dataclass(frozen=True, eq=False, kw_only=True)
class ActiveSpace:
    """Integrals over a few orbitals, in Hartree; the inner electrons are in ``constant``.

    nelec: spin up, spin down. two_body: in chemists' order. cut_from: whole electrons, orbitals.
    """

    label: str
    one_body: NDArray[np.float64]
    two_body: NDArray[np.float64]
    constant: float
    nelec: tuple[int, int]
    hf_energy: float
    cut_from: tuple[int, int]
    notes: tuple[str, ...] = ()

    @property
    def orbitals(self) -> int:
        """Number of spatial orbitals."""
        return len(self.one_body)


def molecular(geometry: Geometry, choice: SpaceChoice) -> MeanField:
    """Run restricted Hartree-Fock (open-shell if spin asks for it) for one geometry.

    If it does not converge, second-order SCF follows; if that does not either, its result is used
    and noted. Raises `InputError` for an unknown basis and an impossible charge or spin.
    """
    from pyscf import scf

    molecule = _molecule(geometry, choice)
    field, notes = converged(scf.ROHF(molecule) if molecule.spin else scf.RHF(molecule))
    return MeanField(
        label=geometry.label, field=field, core_orbitals=geometry.core_orbitals, notes=notes
    )


def unpaired_electrons(neutral: int, choice: SpaceChoice) -> int:
    """Return 2S; raises `InputError` if the charge or spin does not fit the electrons."""
    electrons = neutral - choice.charge
    if electrons < 1:
        raise InputError(f"charge {choice.charge} leaves {electrons} electrons; expected ≥ 1")
    spin = electrons % 2 if choice.spin is None else choice.spin
    if spin < 0 or spin > electrons or (electrons - spin) % 2:
        parity = "an even" if electrons % 2 == 0 else "an odd"
        raise InputError(
            f"spin {spin} (unpaired electrons) cannot be with {electrons} electrons; "
            f"expected {parity} number from 0 to {electrons}"
        )
    return spin


def _molecule(geometry: Geometry, choice: SpaceChoice) -> Any:
    from pyscf import gto
    from pyscf.lib.exceptions import BasisNotFoundError, PointGroupSymmetryError

    spin = unpaired_electrons(geometry.electrons, choice)
    arguments = {
        "atom": list(zip(geometry.symbols, geometry.positions, strict=True)),
        "basis": choice.basis,
        "charge": choice.charge,
        "spin": spin,
        "verbose": 0,
        "unit": "Angstrom",
    }
    with warnings.catch_warnings():  # PySCF recommends packages as it fails
        warnings.simplefilter("ignore")
        try:
            # Orbitals that keep the molecule's symmetry give a Hamiltonian that fewer
            # qubits can carry.
            return gto.M(**arguments, symmetry=True)
        except PointGroupSymmetryError:
            return gto.M(**arguments, symmetry=False)
        except (BasisNotFoundError, LookupError) as error:
            elements = ", ".join(sorted(set(geometry.symbols)))
            raise InputError(
                f"basis {choice.basis!r}: PySCF has none of this name for {elements} "
                f"({' '.join(str(error).split())}); expected one such as sto-3g, 6-31g, cc-pvdz"
            ) from None


def converged(field: Any) -> tuple[Any, tuple[str, ...]]:
    """Run a PySCF mean field, by second-order SCF if need be; return it and what to note."""
    field.conv_tol = 1e-11
    with warnings.catch_warnings():  # on the way; the outcome is what is noted
        warnings.simplefilter("ignore")
        field.kernel()
        if field.converged:
            return field, ()
        second = field.newton()
        second.max_cycle = 100
        second.kernel(field.mo_coeff, field.mo_occ)
    if second.converged:
        return second, ("Hartree-Fock needed the second-order solver.",)
    return second, ("Hartree-Fock did NOT converge; its orbitals were used all the same.",)


def active_space(whole: MeanField, choice: SpaceChoice) -> ActiveSpace:
    """Cut out the orbitals around the Fermi level and fold the inner electrons in.

    By default all valence orbitals if at most five, else four with four electrons (three if odd).
    Raises `InputError` if the electrons and orbitals asked for do not fit the molecule.
    """
    electrons, orbitals = _sizes(whole, choice)
    up, down = whole.nelec
    core = (up + down - electrons) // 2
    window = slice(core, core + orbitals)
    field, all_orbitals = whole.field, whole.orbitals
    h1 = mean = all_orbitals.T @ field.get_hcore() @ all_orbitals
    if core:
        inner = all_orbitals[:, :core]
        coulomb, exchange = field.get_jk(field.mol, 2 * inner @ inner.T)
        mean = h1 + all_orbitals.T @ (coulomb - exchange / 2) @ all_orbitals
    return ActiveSpace(
        label=whole.label,
        one_body=mean[window, window].copy(),
        two_body=_repulsion(field, all_orbitals[:, window]),
        constant=float(field.energy_nuc() + np.trace((h1 + mean)[:core, :core])),
        nelec=(up - core, down - core),
        hf_energy=whole.hf_energy,
        cut_from=(up + down, len(h1)),
        notes=whole.notes,
    )


def _repulsion(field: Any, orbitals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the integrals among some orbitals; all n⁴ would take 8 GB at 178 orbitals."""
    from pyscf import ao2mo

    source = field.mol if field._eri is None else field._eri  # noqa: SLF001 - a file has no more
    return np.asarray(ao2mo.restore(1, ao2mo.kernel(source, orbitals), orbitals.shape[1]))


def _sizes(whole: MeanField, choice: SpaceChoice) -> tuple[int, int]:
    total, unpaired = sum(whole.nelec), whole.nelec[0] - whole.nelec[1]
    count = whole.orbitals.shape[1]
    outer = min(whole.core_orbitals, whole.nelec[1])
    electrons, orbitals = choice.electrons, choice.orbitals
    if electrons is None and orbitals is None and count - outer <= _ALL_UP_TO:
        electrons, orbitals = total - 2 * outer, count - outer
    if electrons is None:
        electrons = min(total, max(4 - total % 2, unpaired))
    if orbitals is None:
        orbitals = min(_DEFAULT_ORBITALS, count - (total - electrons) // 2)
    _check_sizes(electrons, orbitals, whole)
    return electrons, orbitals


def _check_sizes(electrons: int, orbitals: int, whole: MeanField) -> None:
    total, unpaired = sum(whole.nelec), whole.nelec[0] - whole.nelec[1]
    count = whole.orbitals.shape[1]
    asked = f"active space of {electrons} electrons in {orbitals} orbitals"
    if not 1 <= electrons <= total or (total - electrons) % 2 or electrons < unpaired:
        parity = "an even" if total % 2 == 0 else "an odd"
        raise InputError(
            f"{asked}: the molecule has {total} electrons, {unpaired} of them unpaired; "
            f"expected {parity} number from {max(unpaired, 2 - total % 2)} to {total}"
        )
    available = count - (total - electrons) // 2
    needed = (electrons + unpaired) // 2
    if not max(needed, 1) <= orbitals <= available:
        raise InputError(
            f"{asked}: expected from {max(needed, 1)} to {available} orbitals "
            f"({count} in the basis, {(total - electrons) // 2} of them hold inner electrons)"
        )
    if orbitals > _LARGEST:
        raise InputError(
            f"{asked}: this flow computes at most {_LARGEST} orbitals; give active_orbitals"
        )


def exact_energy(space: ActiveSpace) -> float:
    """Return the space's lowest energy (Hartree): dense up to 1 000 determinants, else Davidson.

    Davidson starts from the lowest 1 000: one alone may have no overlap with the ground state.
    """
    from pyscf import fci

    solver = fci.direct_spin1.FCI()
    solver.verbose = 0
    solver.pspace_size = 1000
    solver.conv_tol = 1e-11
    solver.max_cycle = 200
    energy, _ = solver.kernel(
        space.one_body, space.two_body, space.orbitals, space.nelec, ecore=space.constant
    )
    return float(np.min(energy))
