"""Two-body integrals of a molecule or a file, computed only as far as an active space needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["KnownRepulsion", "MolecularRepulsion", "Repulsion"]


class Repulsion(Protocol):
    """Two-body integrals over n orbitals, in chemists' order and Hartree, as far as asked for."""

    def field(self, inner: slice) -> NDArray[np.float64]:
        """Return what pairs of electrons in some orbitals do to one electron, shape (n, n)."""

    def among(self, window: slice) -> NDArray[np.float64]:
        """Return the integrals among some orbitals, four indices of the window's length."""


@dataclass(frozen=True, eq=False, kw_only=True)
class KnownRepulsion:
    """All integrals, shape (n, n, n, n)."""

    integrals: NDArray[np.float64]

    def field(self, inner: slice) -> NDArray[np.float64]:
        """See `Repulsion`."""
        coulomb = np.einsum("iipq->pq", self.integrals[inner, inner])
        exchange = np.einsum("ipqi->pq", self.integrals[inner, :, :, inner])
        return np.asarray(2 * coulomb - exchange)

    def among(self, window: slice) -> NDArray[np.float64]:
        """See `Repulsion`."""
        return self.integrals[window, window, window, window].copy()


@dataclass(frozen=True, eq=False, kw_only=True)
class MolecularRepulsion:
    """Integrals of a molecule's mean field (PySCF), transformed when they are asked for.

    All n^4 of them would take 8 GB at 178 orbitals, and a space needs few.
    """

    mean_field: Any

    def field(self, inner: slice) -> NDArray[np.float64]:
        """See `Repulsion`. J and K of the inner electrons' density, never their integrals."""
        orbitals = np.asarray(self.mean_field.mo_coeff)
        filled = orbitals[:, inner]
        coulomb, exchange = self.mean_field.get_jk(self.mean_field.mol, 2 * filled @ filled.T)
        return np.asarray(orbitals.T @ (coulomb - exchange / 2) @ orbitals, dtype=float)

    def among(self, window: slice) -> NDArray[np.float64]:
        """See `Repulsion`."""
        from pyscf import ao2mo

        orbitals = np.asarray(self.mean_field.mo_coeff)[:, window]
        packed = ao2mo.kernel(self.mean_field.mol, orbitals)
        return np.asarray(ao2mo.restore(1, packed, orbitals.shape[1]))
