"""What a cluster has, as ``scontrol show`` and ``sinfo`` print it: partitions and the rest (pure)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from orchestrator.slurm.node_lists import nodes_of

__all__ = [
    "NODE_FIELDS",
    "Licence",
    "Partition",
    "RemoteLicence",
    "Reservation",
    "duration_of",
    "gres_of",
    "parse_licences",
    "parse_partitions",
    "parse_remote_licences",
    "parse_reservations",
    "parse_settings",
    "properties_of",
]

# In this order `sinfo -O` prints them, one record for each kind of node in a partition.
NODE_FIELDS = ("PartitionName", "Nodes", "CPUs", "Memory", "Gres", "NodeAIOT", "Features")
_NOTHING = ("", "(null)", "N/A", "n/a", "None", "ALL")
_KEY = re.compile(r"(?:^| )([A-Z][A-Za-z_:]*)=")
# A type may begin with a digit, as "3090" or "1g.5gb" do: only the last number is the count.
_GRES = re.compile(
    r"(?P<name>[^:(]+)(?::[^(]*?)??(?::(?P<count>[0-9]+)(?P<scale>[KMG]?))?(?:\(.*)?"
)
_NUMBER = re.compile(r"([0-9]+)([KMG]?)")  # `sinfo` prints 1024 CPUs as 1K
_SCALES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition and the largest node in it.

    Attributes:
        is_offered: Whether it is neither hidden nor for other groups than the user's. A job may
            name another one all the same.
        max_nodes: Most nodes of one job; None without a limit of its own.
        max_walltime: None without a limit.
        idle_nodes: Nodes that are free now.
        cores_per_node: Most CPUs of a node.
        memory_per_node_bytes: Most memory of a node.
        gres: Most of each generic resource on one node, as ``{"qpu": 1, "gpu": 2}``.
        accounts: Accounts that may use it; None for all.
        qos: QOS that may be used there; None for all.
        features: What jobs may ask for as constraints.
    """

    name: str
    is_default: bool = False
    is_offered: bool = True
    nodes: tuple[str, ...] = ()
    node_count: int = 0
    idle_nodes: int = 0
    max_nodes: int | None = None
    max_walltime: timedelta | None = None
    cores_per_node: int = 0
    memory_per_node_bytes: int = 0
    gres: Mapping[str, int] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    accounts: tuple[str, ...] | None = None
    qos: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Nodes or licences that are set aside for some users for a time.

    Attributes:
        starts_at: Aware; Slurm's own time.
        flags: As Slurm names them, such as ``MAINT``.
        licenses: As ``{"qpu_lab": 1}``.
        tres: Reserved resources as Slurm prints them.
    """

    name: str
    starts_at: datetime
    ends_at: datetime
    nodes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    partition: str | None = None
    users: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    licenses: Mapping[str, int] = field(default_factory=dict)
    tres: str = ""

    @property
    def is_maintenance(self) -> bool:
        """Whether it is for work on the machine, during which no other job runs there."""
        return "MAINT" in self.flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """A counted licence; remote ones have ``@SERVER`` in their names."""

    name: str
    total: int
    used: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteLicence:
    """A licence of Slurm's database, which clusters share.

    Attributes:
        name: Without the server.
        server: What counts it.
        total: How many there are.
        consumed: How many are taken, by Slurm's jobs or otherwise, as the server said last.
    """

    name: str
    server: str
    total: int
    consumed: int

    @property
    def text(self) -> str:
        """The licence as jobs name it."""
        return f"{self.name}@{self.server}"


def properties_of(line: str) -> dict[str, str]:
    """Return the properties of one line of ``scontrol show -o``; of equal keys the first counts.

    >>> properties_of("ReservationName=m1 Users=root,ada Comment=for the lab State=ACTIVE")
    {'ReservationName': 'm1', 'Users': 'root,ada', 'Comment': 'for the lab', 'State': 'ACTIVE'}
    """
    found: dict[str, str] = {}
    keys = [*_KEY.finditer(line)]
    ends = [*(key.start() for key in keys), len(line)][1:]
    for key, end in zip(keys, ends, strict=True):
        found.setdefault(key[1], line[key.end() : end].strip())
    return found


def duration_of(text: str) -> timedelta | None:
    """Read a duration ``[DAYS-]HOURS:MINUTES:SECONDS``; None for ``UNLIMITED`` or none.

    >>> duration_of("1-02:03:04"), duration_of("UNLIMITED")
    (datetime.timedelta(days=1, seconds=7384), None)
    """
    days, dash, rest = text.partition("-")
    if not dash:
        days, rest = "0", text
    parts = rest.split(":")
    if not days.isdecimal() or not all(part.isdecimal() for part in parts):
        return None
    numbers = [0, 0, 0, *map(int, parts)][-3:]
    return timedelta(days=int(days), hours=numbers[0], minutes=numbers[1], seconds=numbers[2])


def gres_of(text: str) -> dict[str, int]:
    """Return how many of each generic resource a text names, those of all types together.

    >>> gres_of("gpu:a100:2(S:0-1),gpu:1g.5gb:7,gpu:1,qpu:1,disk")
    {'gpu': 10, 'qpu': 1, 'disk': 1}
    """
    found: dict[str, int] = {}
    for piece in re.split(r",(?![^(]*\))", "" if text in _NOTHING else text):
        one = _GRES.fullmatch(piece.strip().removeprefix("gres:").removeprefix("gres/"))
        if one is None:
            continue
        count = int(one["count"] or 1) * _SCALES[one["scale"] or ""]
        found[one["name"]] = found.get(one["name"], 0) + count
    return found


def parse_partitions(
    shown: str, nodes: str, *, separator: str, groups: Collection[str] = ()
) -> dict[str, Partition]:
    """Read ``scontrol show partition -o``, and `NODE_FIELDS` as ``sinfo -O`` prints them.

    Args:
        shown: A line for each partition.
        nodes: A line for each kind of node in each partition.
        separator: Suffix of each field of ``nodes``.
        groups: Of the user, who is not offered partitions of other groups.

    Returns:
        The partitions by name, in Slurm's order.
    """
    kinds: dict[str, list[Mapping[str, str]]] = {}
    for line in nodes.split("\n"):
        fields = line.split(separator)[: len(NODE_FIELDS)]
        if len(fields) == len(NODE_FIELDS):
            kind = dict(zip(NODE_FIELDS, fields, strict=True))
            kinds.setdefault(kind["PartitionName"], []).append(kind)
    found = {}
    for line in shown.split("\n"):
        known = properties_of(line)
        if name := known.get("PartitionName"):
            found[name] = _partition(name, known, kinds.get(name, []), groups)
    return found


def parse_reservations(shown: str) -> list[Reservation]:
    """Read ``scontrol show reservation -o`` with times in seconds since 1970."""
    found = []
    for line in shown.split("\n"):
        known = properties_of(line)
        starts, ends = known.get("StartTime", ""), known.get("EndTime", "")
        if "ReservationName" not in known or not (starts.isdecimal() and ends.isdecimal()):
            continue
        found.append(
            Reservation(
                name=known["ReservationName"],
                starts_at=datetime.fromtimestamp(int(starts), UTC),
                ends_at=datetime.fromtimestamp(int(ends), UTC),
                nodes=nodes_of(known.get("Nodes", "")),
                flags=_names(known, "Flags") or (),
                partition=next(iter(_names(known, "PartitionName") or ()), None),
                users=_names(known, "Users") or (),
                accounts=_names(known, "Accounts") or (),
                licenses=gres_of(known.get("Licenses", "")),
                tres=known.get("TRES", ""),
            )
        )
    return found


def parse_licences(shown: str) -> dict[str, Licence]:
    """Read ``scontrol show licenses -o``."""
    found = {}
    for line in shown.split("\n"):
        known = properties_of(line)
        if name := known.get("LicenseName"):
            found[name] = Licence(
                name=name,
                total=_number(known, "Total"),
                used=_number(known, "Used"),
                free=_number(known, "Free"),
            )
    return found


def parse_settings(shown: str) -> dict[str, str]:
    r"""Read ``scontrol show config``; what is not set is empty.

    >>> parse_settings("AccountingStorageTRES   = cpu,gres/qpu\nMpiDefault              = (null)\n")
    {'AccountingStorageTRES': 'cpu,gres/qpu', 'MpiDefault': ''}
    """
    pairs = (line.partition("=") for line in shown.split("\n"))
    return {
        name.strip(): "" if value.strip() == "(null)" else value.strip()
        for name, equals, value in pairs
        if equals
    }


def parse_remote_licences(shown: str) -> list[RemoteLicence]:
    """Read ``sacctmgr -nP show resource format=name,server,count,lastconsumed``.

    >>> parse_remote_licences("qpu_vlq|hpcqc|4|1")
    [RemoteLicence(name='qpu_vlq', server='hpcqc', total=4, consumed=1)]
    """
    rows = (line.split("|") for line in shown.splitlines() if line.strip())
    return [
        RemoteLicence(name=name, server=server, total=int(total), consumed=int(consumed or 0))
        for name, server, total, consumed in rows
    ]


def _partition(
    name: str, known: Mapping[str, str], kinds: list[Mapping[str, str]], groups: Collection[str]
) -> Partition:
    gres: dict[str, int] = {}
    for kind in kinds:
        for resource, count in gres_of(kind["Gres"]).items():
            gres[resource] = max(count, gres.get(resource, 0))
    features = {one for kind in kinds for one in (_split(kind["Features"]) or ())}
    largest, allowed = known.get("MaxNodes", ""), _names(known, "AllowGroups")
    return Partition(
        name=name,
        is_default=known.get("Default") == "YES",
        is_offered=known.get("Hidden") != "YES"
        and (allowed is None or not {*allowed}.isdisjoint(groups)),
        nodes=nodes_of(known.get("Nodes", "")),
        node_count=_number(known, "TotalNodes"),
        idle_nodes=sum(_number_in(kind["NodeAIOT"].split("/")[1:2]) for kind in kinds),
        max_nodes=int(largest) if largest.isdecimal() else None,
        max_walltime=duration_of(known.get("MaxTime", "")),
        cores_per_node=max((_number(kind, "CPUs") for kind in kinds), default=0),
        memory_per_node_bytes=max((_number(kind, "Memory") << 20 for kind in kinds), default=0),
        gres=gres,
        features=tuple(sorted(features)),
        accounts=_names(known, "AllowAccounts"),
        qos=_names(known, "AllowQos"),
    )


def _names(known: Mapping[str, str], key: str) -> tuple[str, ...] | None:
    return _split(known.get(key, ""))


def _split(text: str) -> tuple[str, ...] | None:
    return None if text in _NOTHING else tuple(text.split(","))


def _number(known: Mapping[str, str], key: str) -> int:
    return _number_in([known.get(key, "")])


def _number_in(texts: list[str]) -> int:
    found = _NUMBER.fullmatch(texts[0].strip()) if texts else None
    return int(found[1]) * _SCALES[found[2]] if found else 0
