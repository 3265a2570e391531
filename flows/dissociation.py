"""The energy of a molecule along a stretched bond: variational on a QPU, beside exact.

For each geometry, PySCF computes the integrals of a small active space and diagonalises it on
Dask workers; a QPU finds the ground state of the same space, each optimiser iteration being one
estimator job. ``hpcqc run flows.dissociation -p name=value …`` takes:

- ``molecule``: h2, h4, hf, h2o, lih (the default) or n2; or a file in its place:
- ``xyz``: one geometry, of which a bond is stretched; or several, each a point of the curve;
- ``fcidump``: integrals; the curve has one point.
- ``lengths``: the points in Å; or ``points``: how many of them, evenly spread; or, for an XYZ
  file, ``scales``: factors of the given distance, 0.7 to 2.0 by default.
- ``atoms``: which two, counted from 0, move apart in an XYZ file, the second with all that is
  bonded to it; by default the first bond whose cut divides the molecule.
- ``basis``: any that PySCF has. ``charge``; ``spin``: unpaired electrons, by default the fewest.
- ``active_electrons``, ``active_orbitals`` (8 at most): by default all valence orbitals if they
  are at most five, else four around the Fermi level.
- ``precision``: standard error of each energy in Hartree, 0 for exact; by default exact where
  the QPU can be, else 0.05. ``max_iterations`` per geometry; ``max_excitations`` of the ansatz;
  ``seed`` of simulated sampling.

Beside the keys that `flows` documents, the result has ``molecule``, ``basis``, ``active_space``
(electrons, orbitals) and what it was ``cut_from``, ``points`` (see `CurvePoint`; ``error_mha`` is
against exact), ``max_error_mha``, and ``chemical_accuracy``: whether all are within 1.6 mHa.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from prefect import flow, unmapped

from flows._active_space import (
    ActiveSpace,
    SpaceChoice,
    active_space,
    exact_energy,
    molecular,
    unpaired_electrons,
)
from flows._fcidump import FileIntegrals, from_fcidump, mean_field
from flows._fermions import Prepared, encode
from flows._geometries import Curve, Geometry
from flows._inputs import InputError, require_extra
from flows._molecules import MOLECULES, Scan, built_in_curve, xyz_curve
from flows._variational import GroundState, Plan, solve
from hpcqc import Qpu, checked_by, classical, quantum
from orchestrator.wording import counted

__all__ = [
    "CHEMICAL_ACCURACY_MHA",
    "CurvePoint",
    "Settings",
    "dissociation",
    "exact",
    "ground_state",
    "integrals",
    "plan_for",
    "report",
]

CHEMICAL_ACCURACY_MHA = 1.6  # 1 kcal/mol


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One geometry, energies in Hartree. std_error: 0 where ``vqe`` is exact.

    x: place on the curve's axis. spin_orbitals: qubits that a plain encoding would take.
    """

    x: float
    label: str
    hf: float
    vqe: float
    exact: float
    std_error: float
    iterations: int
    evaluations: int
    qubits: int
    spin_orbitals: int
    excitations: int
    two_qubit_gates: int
    converged: bool
    notes: tuple[str, ...] = ()

    @property
    def error_mha(self) -> float:
        """Millihartrees above the exact energy."""
        return (self.vqe - self.exact) * 1000


def report(
    title: str, x_label: str, points: Sequence[CurvePoint], notes: Sequence[str]
) -> dict[str, Any]:
    """Return the part of the flow's result that every molecule has (see `flows`)."""
    return {
        "points": [{**asdict(p), "notes": list(p.notes), "error_mha": p.error_mha} for p in points],
        "max_error_mha": max(abs(p.error_mha) for p in points),
        "chemical_accuracy": all(abs(p.error_mha) <= CHEMICAL_ACCURACY_MHA for p in points),
        "plot": _plot(title, x_label, points),
        "table": _table(x_label, points),
        "summary": [*_summary(title, points), *notes, *_caveats(points)],
    }


def _plot(title: str, x_label: str, points: Sequence[CurvePoint]) -> dict[str, Any]:
    if len(points) == 1:
        (only,) = points
        return {
            "title": title,
            "x_label": "",
            "y_label": "Energy / Hartree",
            "x": ["Hartree-Fock", "Variational", "Exact"],
            "series": [
                {
                    "label": only.label,
                    "y": [only.hf, only.vqe, only.exact],
                    "y_error": [0.0, only.std_error, 0.0],
                    "style": "points",
                }
            ],
        }
    ordered = sorted(points, key=lambda point: point.x)
    variational: dict[str, Any] = {
        "label": "Variational",
        "y": [p.vqe for p in ordered],
        "style": "points",
    }
    if any(p.std_error for p in ordered):
        variational["y_error"] = [p.std_error for p in ordered]
    return {
        "title": title,
        "x_label": x_label,
        "y_label": "Energy / Hartree",
        "x": [p.x for p in ordered],
        "series": [
            {"label": "Hartree-Fock", "y": [p.hf for p in ordered], "style": "line"},
            {"label": "Exact", "y": [p.exact for p in ordered], "style": "line"},
            variational,
        ],
    }


def _table(x_label: str, points: Sequence[CurvePoint]) -> dict[str, Any]:
    columns = [x_label, "Hartree-Fock", "Variational", "Exact", "Error / mHa", "Iterations"]
    rows: list[list[Any]] = [
        [
            p.label if len(points) == 1 else p.x,
            round(p.hf, 6),
            round(p.vqe, 6),
            round(p.exact, 6),
            round(p.error_mha, 3) + 0.0,  # no -0.0
            p.iterations,
        ]
        for p in points
    ]
    if any(p.std_error for p in points):
        columns.append("± / mHa")
        rows = [[*row, round(p.std_error * 1000, 2)] for row, p in zip(rows, points, strict=True)]
    return {"columns": columns, "rows": rows}


def _summary(title: str, points: Sequence[CurvePoint]) -> list[str]:
    worst = max(points, key=lambda point: abs(point.error_mha))
    good = [p for p in points if abs(p.error_mha) <= CHEMICAL_ACCURACY_MHA]
    few, most = min(p.qubits for p in points), max(p.qubits for p in points)
    qubits = str(most) if few == most else f"{few} to {most}"
    lines = [
        f"{title}: {counted(len(points), 'geometry', 'geometries')}.",
        (
            f"{counted(points[0].spin_orbitals, 'spin orbital')} on {qubits} "
            f"{'qubit' if most == 1 else 'qubits'}; "
            f"{counted(sum(p.evaluations for p in points), 'energy', 'energies')} measured."
        ),
        (
            f"{len(good)} of {len(points)} within {CHEMICAL_ACCURACY_MHA} mHa of exact; "
            f"largest error {worst.error_mha:.2f} mHa, at {worst.label}."
        ),
    ]
    if any(p.std_error for p in points):
        spread = max(p.std_error for p in points) * 1000
        lines.append(f"Energies were sampled: standard error up to {spread:.2g} mHa.")
    if len(points) > 2:
        lowest = min(points, key=lambda point: point.exact)
        lines.append(f"Lowest energy at {lowest.label}: {lowest.exact:.6f} Hartree (exact).")
    return lines


def _caveats(points: Sequence[CurvePoint]) -> list[str]:
    lines = [f"{p.label}: {note}" for p in points for note in p.notes]
    ran_out = [p.label for p in points if not p.converged and not p.std_error]
    if ran_out:
        lines.append(f"Iterations ran out before convergence at {', '.join(ran_out)}.")
    return lines


# Shots are counted for the worst state; of these molecules the error was found to be half of it.
_SAMPLED_PRECISION = 0.05
_SAMPLED_ITERATIONS = 2
_SAMPLED_EXCITATIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user said of the quantum side; None leaves it to the QPU (see `plan_for`)."""

    precision: float | None = None
    max_iterations: int | None = None
    max_excitations: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raise `InputError` on values that mean nothing."""
        if self.precision is not None and not (
            math.isfinite(self.precision) and self.precision >= 0
        ):
            raise InputError(f"precision {self.precision}: expected Hartree, ≥ 0 (0 is exact)")
        if self.max_iterations is not None and self.max_iterations < 0:
            raise InputError(f"max_iterations {self.max_iterations}: expected ≥ 0")
        if self.max_excitations is not None and self.max_excitations < 1:
            raise InputError(f"max_excitations {self.max_excitations}: expected ≥ 1")


@classical
def integrals(source: Geometry | FileIntegrals, choice: SpaceChoice) -> Prepared:
    """Compute the Hamiltonian of an active space: Hartree-Fock, integrals, qubits."""
    whole = mean_field(source) if isinstance(source, FileIntegrals) else molecular(source, choice)
    space = active_space(whole, choice)
    return Prepared(space=space, problem=encode(space))


@classical
def exact(prepared: Prepared) -> float:
    """Diagonalise the active space; energy in Hartree."""
    return exact_energy(prepared.space)


@quantum
def ground_state(qpu: Qpu, prepared: Prepared, settings: Settings) -> GroundState:
    """Find the ground state on the QPU of this stage."""
    plan = plan_for("estimator" in qpu.target.payload_kinds, settings)
    estimator = qpu.estimator(precision=plan.precision, seed=settings.seed)
    with qpu.lease():
        return solve(estimator, prepared.problem, plan)


def plan_for(has_exact: bool, settings: Settings) -> Plan:
    """Return how much to measure on a QPU that does, or does not, give exact values.

    Exact: grow until chemical accuracy is likely. Sampled: energies cost thousands of shots, so few
    excitations start at the promised angles, and two iterations correct them.
    """
    precision = settings.precision
    if precision is None:
        precision = 0.0 if has_exact else _SAMPLED_PRECISION
    plan = Plan(precision=precision)
    if precision:
        plan = replace(
            plan,
            max_iterations=_SAMPLED_ITERATIONS,
            start_most=_SAMPLED_EXCITATIONS,
            grow_gain=None,
        )
    if settings.max_iterations is not None:
        plan = replace(plan, max_iterations=settings.max_iterations)
    if settings.max_excitations is not None:
        most = settings.max_excitations
        plan = replace(plan, largest=most, start_most=most)
    return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What the parameters say, read and checked."""

    sources: Sequence[Geometry | FileIntegrals]
    choice: SpaceChoice
    settings: Settings
    name: str = ""
    x_label: str = ""
    notes: Sequence[str] = ()


def _inputs(given: Mapping[str, Any]) -> _Inputs:
    require_extra("chemistry", ("pyscf", "ffsim"))
    stated = [f"{n}={given[n]}" for n in ("molecule", "xyz", "fcidump") if given[n] is not None]
    if len(stated) > 1:
        raise InputError(f"{' and '.join(stated)} exclude each other; give one of them")
    quantum_side = ("precision", "max_iterations", "max_excitations", "seed")
    settings = Settings(**{name: given[name] for name in quantum_side})
    scan = Scan(**{name: given[name] for name in ("lengths", "scales", "points", "atoms")})
    choice = SpaceChoice(
        basis=given["basis"],
        electrons=given["active_electrons"],
        orbitals=given["active_orbitals"],
        spin=given["spin"],
        charge=given["charge"],
    )
    if given["fcidump"] is not None:
        if scan != Scan() or choice.spin is not None or choice.charge:
            raise InputError(
                "an FCIDUMP file is one point with its own electrons; lengths, points, scales, "
                "atoms, spin and charge do not apply to it"
            )
        return _Inputs(sources=[from_fcidump(given["fcidump"])], choice=choice, settings=settings)
    xyz, molecule = given["xyz"], given["molecule"]
    if xyz:
        curve = xyz_curve(xyz, scan, charge=choice.charge, spin=choice.spin)
    else:
        curve = built_in_curve(molecule or "lih", scan)
    return _Inputs(
        sources=curve.points,
        choice=_fitting(curve, choice),
        settings=settings,
        name=curve.name,
        x_label=curve.x_label,
        notes=curve.notes,
    )


@flow
@checked_by(_inputs)
def dissociation(
    molecule: str | None = None,
    xyz: str | None = None,
    fcidump: str | None = None,
    lengths: list[float] | None = None,
    points: int | None = None,
    atoms: tuple[int, int] | None = None,
    scales: list[float] | None = None,
    basis: str = "sto-3g",
    active_electrons: int | None = None,
    active_orbitals: int | None = None,
    spin: int | None = None,
    charge: int = 0,
    precision: float | None = None,
    max_iterations: int | None = None,
    max_excitations: int | None = None,
    seed: int | None = 1,
) -> dict[str, Any]:
    """Compute a dissociation curve; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, with file and line where
    there is one, and `MissingExtra` where PySCF or ffsim are not installed.
    """
    inputs = _inputs(locals())
    found, space = _computed(list(inputs.sources), inputs.choice, inputs.settings)
    if fcidump is not None:
        title = f"{space.label}, {_size(space)}"
        return _facts(space.label, None, space) | report(title, "file", found, ())
    title = f"{inputs.name} in {basis}, {_size(space)}"
    facts = _facts(inputs.name, basis, space)
    return facts | report(title, inputs.x_label, found, inputs.notes)


def _fitting(curve: Curve, choice: SpaceChoice) -> SpaceChoice:
    """Check charge and spin before any work; give a built-in molecule its usual space."""
    unpaired_electrons(curve.points[0].electrons, choice)
    usual = MOLECULES.get(curve.name.lower())
    untouched = choice.electrons is None and choice.orbitals is None and choice.charge == 0
    if curve.built_in and usual is not None and untouched:
        return replace(choice, electrons=usual.electrons, orbitals=usual.orbitals)
    return choice


def _computed(
    sources: Sequence[Geometry | FileIntegrals], choice: SpaceChoice, settings: Settings
) -> tuple[list[CurvePoint], ActiveSpace]:
    """Run all stages, each as soon as its input is there."""
    prepared = integrals.map(sources, unmapped(choice))
    energies = exact.map(prepared)
    states = ground_state.map(prepared, unmapped(settings))
    done = zip(sources, prepared, energies, states, strict=True)
    found = [
        _point(getattr(source, "x", 0.0), ready.result(), energy.result(), state.result())
        for source, ready, energy, state in done
    ]
    return found, prepared[0].result().space


def _point(x: float, prepared: Prepared, energy: float, state: GroundState) -> CurvePoint:
    return CurvePoint(
        x=x,
        label=prepared.space.label,
        hf=prepared.space.hf_energy,
        vqe=state.energy,
        exact=energy,
        std_error=state.std_error,
        iterations=state.iterations,
        evaluations=state.evaluations,
        qubits=state.qubits,
        spin_orbitals=prepared.problem.spin_orbitals,
        excitations=len(state.excitations),
        two_qubit_gates=state.two_qubit_gates,
        converged=state.converged,
        notes=prepared.space.notes,
    )


def _facts(name: str, basis: str | None, space: ActiveSpace) -> dict[str, Any]:
    return {
        "molecule": name,
        "basis": basis,
        "active_space": {"electrons": sum(space.nelec), "orbitals": space.orbitals},
        "cut_from": {"electrons": space.cut_from[0], "orbitals": space.cut_from[1]},
    }


def _size(space: ActiveSpace) -> str:
    """Return the size of the active space, and of the whole that it is cut from."""
    size, whole = (sum(space.nelec), space.orbitals), space.cut_from
    text = f"{size[0]} electrons in {size[1]} orbitals"
    return text if size == whole else f"{text} (of {whole[0]} in {whole[1]})"
