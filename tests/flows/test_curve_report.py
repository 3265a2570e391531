"""What a curve reports: complete, JSON-compatible, and honest about what went wrong."""

from __future__ import annotations

import json
from dataclasses import replace

from flows.dissociation import CurvePoint, report

POINT = CurvePoint(
    x=1.5,
    label="1.5 Å",
    hf=-7.8,
    vqe=-7.8810,
    exact=-7.8820,
    std_error=0.0,
    iterations=4,
    evaluations=100,
    qubits=6,
    spin_orbitals=10,
    excitations=8,
    two_qubit_gates=58,
    converged=True,
)


def test_a_curve_is_drawn_in_order_with_exact_beside() -> None:
    result = report("LiH", "Li-H / Å", [replace(POINT, x=2.0), POINT], ["a note"])
    assert json.loads(json.dumps(result)) == result
    assert result["plot"]["x"] == [1.5, 2.0]
    assert [series["label"] for series in result["plot"]["series"]] == [
        "Hartree-Fock",
        "Exact",
        "Variational",
    ]
    assert all("y_error" not in series for series in result["plot"]["series"])
    assert all(len(row) == len(result["table"]["columns"]) for row in result["table"]["rows"])
    assert [row[0] for row in result["table"]["rows"]] == [2.0, 1.5]
    assert result["chemical_accuracy"] is True
    assert abs(result["max_error_mha"] - 1.0) < 1e-9
    assert result["summary"][-1] == "a note"


def test_sampled_energies_show_their_error() -> None:
    noisy = replace(POINT, vqe=-7.80, std_error=0.02)
    result = report("LiH", "x", [noisy, replace(noisy, x=2.0)], [])
    assert result["plot"]["series"][2]["y_error"] == [0.02, 0.02]
    assert result["table"]["columns"][-1] == "± / mHa"
    assert result["chemical_accuracy"] is False
    assert any("standard error up to 20 mHa" in line for line in result["summary"])


def test_one_point_is_three_energies() -> None:
    plot = report("N2", "file", [POINT], [])["plot"]
    assert plot["x"] == ["Hartree-Fock", "Variational", "Exact"]
    assert plot["series"][0]["y"] == [POINT.hf, POINT.vqe, POINT.exact]


def test_trouble_is_told() -> None:
    stuck = replace(POINT, label="3 Å", converged=False, notes=("Hartree-Fock did NOT converge",))
    lines = report("LiH", "x", [POINT, stuck], [])["summary"]
    assert "3 Å: Hartree-Fock did NOT converge" in lines
    assert any("ran out before convergence at 3 Å" in line for line in lines)


def test_errors_do_not_print_as_minus_zero() -> None:
    rows = report("H2", "x", [replace(POINT, vqe=POINT.exact - 1e-12)], [])["table"]["rows"]
    assert str(rows[0][4]) == "0.0"
