"""Faults of versions of Slurm that matter for jobs which hold a QPU (pure)."""

from __future__ import annotations

__all__ = ["REMOTE_LICENCES_SINCE", "faults_of", "loses_licences"]

_Version = tuple[int, int, int]

# First and last version with the fault, by release. The commit cc38f51320 brought it into 25.05.0,
# 0a0131ad76 repaired it in 25.11.7 and 26.05.0; the branch of 25.05 has no repair.
_LOSES_LICENCES: tuple[tuple[_Version, _Version], ...] = (
    ((25, 5, 0), (25, 5, 8)),
    ((25, 11, 0), (25, 11, 6)),
)
_OLDEST = (22, 5, 0)
# First version whose database takes how many remote licences are consumed (its licence guide).
REMOTE_LICENCES_SINCE: _Version = (23, 2, 0)


def loses_licences(version: _Version) -> bool:
    """Whether a requeued job forgets the licences it asked for, and runs without them.

    >>> [loses_licences(v) for v in ((24, 11, 5), (25, 5, 8), (25, 11, 6), (25, 11, 7), (26, 5, 0))]
    [False, True, True, False, False]
    """
    return any(first <= version <= last for first, last in _LOSES_LICENCES)


def faults_of(version: _Version) -> list[str]:
    """Return what to know about a version, as sentences without a full stop; empty for nothing."""
    found = []
    if version < _OLDEST:
        found.append("hpcqc is tried with 22.05 and later")
    if loses_licences(version):
        found.append(
            "a requeued job loses its licences and runs without them, so a QPU that is a licence may "
            "be used by two jobs; update to 25.11.7 or 26.05, or let the QPU be a GRES"
        )
    return found
