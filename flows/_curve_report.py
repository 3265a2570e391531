"""What a dissociation curve looks like when it is done: points, plot, table, summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.wording import counted

__all__ = ["CHEMICAL_ACCURACY_MHA", "CurvePoint", "report"]

CHEMICAL_ACCURACY_MHA = 1.6  # 1 kcal/mol


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One geometry. Energies in Hartree; std_error: of ``vqe``, 0 where it is exact.

    x: place on the curve's axis. qubits: those the circuit has; spin_orbitals: those a plain
    encoding would take. evaluations: energies measured, shifted ones included.
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
