"""Labels of a job's data, and which QPUs may get it (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from orchestrator.identity import IdentityError, ProjectAccount, account_from_text

__all__ = [
    "JURISDICTION",
    "accepted_labels",
    "all_labels",
    "labels_of_project",
    "refusal",
    "stated_jurisdiction",
]

# What labels begin with that name where data may be processed. Labels that name for which project
# alone have the text of its account.
JURISDICTION = "jurisdiction:"


def all_labels(*several: Iterable[str], jurisdiction: str = "") -> tuple[str, ...]:
    """Return labels that hold together, each once, in alphabetical order.

    >>> all_labels(["personal"], ["personal", "embargoed"], jurisdiction="EU")
    ('embargoed', 'jurisdiction:EU', 'personal')
    """
    found = {label for labels in several for label in labels}
    if jurisdiction:
        found.add(f"{JURISDICTION}{jurisdiction}")
    return tuple(sorted(found))


def labels_of_project(project: str, labels: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the labels of the data of a project's jobs; those under "" hold where it has none.

    >>> labels = {"": ("jurisdiction:EU",), "chem": ("embargoed", "jurisdiction:EU")}
    >>> labels_of_project("chem", labels), labels_of_project("bio", labels)
    (('embargoed', 'jurisdiction:EU'), ('jurisdiction:EU',))
    """
    return labels.get(project, labels.get("", ()))


def accepted_labels(accepts: Iterable[str], jurisdictions: Iterable[str]) -> frozenset[str]:
    """Return the labels of data that a QPU may get, from what its site says of it."""
    return frozenset(accepts) | {f"{JURISDICTION}{one}" for one in jurisdictions}


def stated_jurisdiction(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the jurisdictions that labels name.

    >>> stated_jurisdiction(("embargoed", "jurisdiction:EU"))
    ('EU',)
    """
    found = (label for label in labels if label.startswith(JURISDICTION))
    return tuple(label.removeprefix(JURISDICTION) for label in found)


def refusal(
    labels: Collection[str], accepted: Collection[str], *, qpu: str, project: str = ""
) -> str | None:
    """Return why a job's data may not go to a QPU, None if it may.

    Every label must be accepted, so that a label which nobody has heard of keeps data where it is.
    project: who pays for the job; empty where one process is the only user. Data that is labelled
    for a project is for jobs of that project alone.
    """
    missing = sorted(set(labels) - set(accepted))
    if missing:
        listed = ", ".join(sorted(accepted)) or "no label"
        return (
            f"QPU {qpu!r} must not get data labelled {', '.join(missing)}: the site file accepts "
            f"{listed} there"
        )
    owners = sorted(owner for owner in map(_owner, labels) if owner is not None)
    strange = [owner for owner in owners if project and owner != project]
    if strange:
        return (
            f"data labelled for project {strange[0]!r} must not be in a job of project "
            f"{project!r}; submit it for its own project"
        )
    return None


def _owner(label: str) -> str | None:
    """Return the project that a label names, None for other labels."""
    try:
        account = account_from_text(label)
    except IdentityError:
        return None
    return account.project if isinstance(account, ProjectAccount) else None
