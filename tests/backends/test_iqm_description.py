"""A QPU behind an IQM Server without a profile: the server says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.iqm import QRMI_SERVER, create
from backends.iqm.description import described_by_server
from backends.iqm.qrmi import alias_of
from backends.registry import describe
from tests.rehearsed import rehearsed

LIMITS = {"max_circuits_per_job": 100, "max_shots_per_circuit": 5000}
STAR = {"qubits": ["QB2", "QB7"], "computational_resonators": ["CR1"], "gates": {"move": {}}}


@pytest.mark.parametrize("site", ["vlq", "euro-q-exa"])
def test_its_target_is_what_a_profile_would_state(site: str, tmp_path: Path) -> None:
    with rehearsed(site, tmp_path) as server:
        given = server.options
        backend = create(given, state_dir=tmp_path / "a")
        stated = backend.target()
        backend.close()
        found = describe("iqm", {name: given[name] for name in ("url", "token")})
    for name in ("native_gates", "max_shots", "max_circuits"):
        assert getattr(found, name) == getattr(stated, name), name
    assert found.calibration == stated.calibration
    usable = [
        set(range(target.num_qubits or 0)) - set(target.unusable_qubits)
        for target in (found, stated)
    ]
    assert usable[0] == usable[1]
    if stated.coupling is None:
        assert found.coupling is None
    else:
        expected = {pair for pair in stated.coupling if usable[0].issuperset(pair)}
        assert set(found.coupling or ()) == expected
    assert found.resonator == (None if stated.resonator is None else found.num_qubits)
    assert (found.payload_kinds, found.uniform_shots) == (frozenset({"sampler"}), True)


@pytest.mark.parametrize(
    ("limits", "shots", "circuits"),
    [
        ({}, None, None),
        (LIMITS, 5000, 100),
        ({**LIMITS, "max_executions_per_job": 20_000}, 5000, 4),
        ({**LIMITS, "max_executions_per_job": 10}, 5000, 1),
        ({"max_shots_per_circuit": None, "max_circuits_per_job": 0}, None, None),
    ],
)
def test_each_task_that_its_target_allows_is_within_the_servers_limits(
    limits, shots, circuits
) -> None:
    target = described_by_server("q", STAR, limits)
    assert (target.max_shots, target.max_circuits) == (shots, circuits)
    assert (target.num_qubits, target.resonator) == (7, 7)
    assert target.native_gates == ("r", "cz", "move")


@pytest.mark.parametrize("answer", [{}, [], {**STAR, "qubits": []}, {**STAR, "qubits": None}])
def test_what_is_no_architecture_is_refused(answer) -> None:
    with pytest.raises(ValueError, match=r"it (lacks|has)"):
        described_by_server("q", answer, {})


def test_the_type_names_options_of_the_backend() -> None:
    options = {*QRMI_SERVER.options.values(), *QRMI_SERVER.secrets.values(), QRMI_SERVER.resource}
    assert options == {"url", "token", "quantum_computer"}
    assert alias_of("a_b_c") == "a_b:c"
