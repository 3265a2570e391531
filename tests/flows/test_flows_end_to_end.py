"""The ready flows through Prefect, Dask, the broker and Aer, as a user runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ffsim", reason="the chemistry extra is not installed")

from flows._inputs import InputError
from flows.dissociation import Settings, dissociation, plan_for
from flows.maxcut import maxcut
from orchestrator.runs import Run
from tests.errors import naming

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

Check = Callable[[dict[str, Any]], dict[str, Any]]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fcidump" / "n2.fcidump"


@pytest.fixture
def noisy_run(run_on: Callable[[str], Run]) -> Run:
    return run_on("vlq")


@pytest.fixture
def checked(kept: Check) -> Check:
    """Return what checks the plot of a result, too."""

    def check(result: dict[str, Any]) -> dict[str, Any]:
        plot = kept(result)["plot"]
        assert set(plot) == {"title", "x_label", "y_label", "x", "series"}
        for series in plot["series"]:
            assert len(series["y"]) == len(plot["x"])
            assert series["style"] in ("line", "points")
        return result

    return check


def test_a_hydrogen_curve_is_exact(run: Run, checked: Check) -> None:
    result = checked(dissociation("h2", lengths=[0.5, 0.735, 2.0]))
    assert result["chemical_accuracy"]
    assert result["points"][1]["exact"] == pytest.approx(-1.137306, abs=1e-6)
    assert result["points"][1]["vqe"] == pytest.approx(-1.137306, abs=1e-6)
    kinds = sorted((span.kind, span.state) for span in run.spans())
    assert kinds == [("classical", "completed")] * 6 + [("quantum", "completed")] * 3


def test_the_default_curve_is_within_chemical_accuracy_everywhere(run: Run, checked: Check) -> None:
    result = checked(dissociation())
    assert result["molecule"] == "LiH"
    assert len(result["points"]) >= 10
    assert result["max_error_mha"] <= 1.6
    assert all(point["converged"] for point in result["points"])


def test_an_xyz_file_is_stretched(run: Run, checked: Check, tmp_path: Path) -> None:
    file = tmp_path / "hydride.xyz"
    file.write_text("2\n\nLi 0 0 0\nH 0 0 1.6\n")
    result = checked(dissociation(xyz=str(file), scales=[1.0], max_iterations=2))
    assert (result["molecule"], result["active_space"]) == (
        "hydride",
        {"electrons": 2, "orbitals": 5},
    )
    (point,) = result["points"]
    assert point["x"] == 1.6
    assert point["vqe"] < point["hf"]


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs the public file {SHARED}")
def test_an_fcidump_file_is_one_point(run: Run, checked: Check) -> None:
    result = checked(dissociation(fcidump=str(SHARED)))
    assert result["active_space"] == {"electrons": 4, "orbitals": 4}
    assert result["max_error_mha"] <= 1.6


def test_a_device_with_noise_gives_its_energies_with_errors(noisy_run: Run, checked: Check) -> None:
    result = checked(dissociation("h2", lengths=[0.735, 1.5], precision=0.05))
    for point in result["points"]:
        assert 0 < point["std_error"] <= 0.05
        assert abs(point["error_mha"]) < 400
    assert result["max_error_mha"] > 1e-3
    assert len(result["plot"]["series"][2]["y_error"]) == 2


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"molecule": "xx"}, naming("xx")),
        ({"molecule": "h2", "xyz": "a.xyz"}, naming("molecule", "xyz")),
        ({"xyz": "none.xyz"}, naming("none.xyz")),
        ({"fcidump": "none.fcidump"}, naming("none.fcidump")),
        ({"fcidump": "a", "lengths": [1.0]}, "lengths"),
        ({"molecule": "h2", "lengths": [-1.0]}, naming("-1.0")),
        ({"molecule": "h2", "precision": -0.1}, "precision"),
        ({"molecule": "h2", "max_iterations": -1}, "max_iterations"),
        ({"molecule": "h2", "max_excitations": 0}, "max_excitations"),
        ({"molecule": "h2", "charge": 2}, naming(2, 0)),
        ({"molecule": "h2", "spin": 1}, "even"),
    ],
)
def test_input_that_cannot_be_used_is_refused_before_any_stage(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        dissociation(**parameters)
    assert run.spans() == []


def test_what_only_a_worker_sees_is_refused_as_clearly(run: Run) -> None:
    with pytest.raises(InputError, match=naming("orbitals", 1, 2)):
        dissociation("h2", lengths=[0.7], active_electrons=2, active_orbitals=9)


def test_a_plan_fits_the_qpu() -> None:
    assert plan_for(True, Settings()).precision == 0
    sampled = plan_for(False, Settings())
    assert sampled.precision > 0
    assert sampled.grow_gain is None
    assert plan_for(True, Settings(precision=0.1)).grow_gain is None
    assert plan_for(False, Settings(max_iterations=7, max_excitations=2)).max_iterations == 7
    assert plan_for(False, Settings(max_excitations=2)).start_most == 2


def test_a_graph_is_cut(run: Run, checked: Check) -> None:
    result = checked(maxcut("petersen", layers=2, shots=512))
    assert (result["reference"], result["reference_is"]) == (12.0, "exact")
    assert result["best_found"] == 12.0
    assert 10.5 < result["mean_cut"] <= 12
    assert set(result["assignment"].values()) == {0, 1}
    assert maxcut("petersen", layers=2, shots=512) == result


def test_a_graph_from_a_file_is_cut_on_a_device_with_noise(
    noisy_run: Run, checked: Check, tmp_path: Path
) -> None:
    file = tmp_path / "square.txt"
    file.write_text("a b 1\nb c 2\nc d 1\nd a 2\na c 0.5\n")
    result = checked(maxcut(str(file), layers=1, shots=200))
    assert result["best_found"] == result["reference"] == 6.0
    assert result["assignment"]["a"] == result["assignment"]["c"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"graph": "petersn"}, naming("petersn", "petersen")),
        ({"layers": 0}, "layers"),
        ({"shots": 0}, "shots"),
        ({"precision": -1.0}, "precision"),
    ],
)
def test_a_cut_that_cannot_be_computed_is_refused(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        maxcut(**parameters)
