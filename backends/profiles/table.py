"""The shipped profiles side by side, for the documentation."""

from __future__ import annotations

from backends.profiles.loading import load_profile, shipped
from backends.profiles.profile import Profile

__all__ = ["profile_table"]

_COLUMNS = (
    "profile",
    "qubits",
    "coupling",
    "native gates",
    "errors",
    "readout error",
    "site transpiles",
    "shots per task",
    "circuits per task",
    "tasks at once",
    "200 shots take",
    "metering",
)


def profile_table() -> str:
    """Return a Markdown table with one row per shipped profile."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    rows += [_row(load_profile(name)) for name in shipped()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(profile: Profile) -> tuple[str, ...]:
    used = min(profile.num_qubits, 5)
    seconds = profile.timing.duration_s(circuits=1, shots=200, num_qubits=used)
    usable = profile.num_qubits - len(profile.unusable_qubits)
    wrong = (profile.readout.zero_as_one + profile.readout.one_as_zero) / 2
    qubits = str(usable) if usable == profile.num_qubits else f"{usable} of {profile.num_qubits}"
    return (
        f"`{profile.name}`",
        qubits,
        _coupling(profile),
        ", ".join(gate.name for gate in profile.gates),
        ", ".join(f"{gate.name} {100 * gate.error:.3g} %" for gate in profile.gates if gate.error),
        f"{100 * wrong:.3g} %",
        "yes" if profile.site_transpiles else "no",
        _limit(profile.limits.shots_per_task),
        _limit(profile.limits.circuits_per_task),
        _limit(profile.limits.concurrent_tasks),
        f"{seconds:.3g} s",
        f"{profile.metering.kind} ({profile.metering.unit})",
    )


def _coupling(profile: Profile) -> str:
    if profile.resonator is not None:
        return "star through a resonator"
    if profile.coupling is None:
        return "all to all"
    return f"{len(profile.coupling)} pairs"


def _limit(value: int | None) -> str:
    return "–" if value is None else f"{value:_}".replace("_", " ")
