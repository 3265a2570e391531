"""Slurm's lists of nodes, as ``c[1-3,07],gpu1``, and its repeated counts, as ``4(x2),8`` (pure)."""

from __future__ import annotations

import re
from itertools import product

__all__ = ["counts_of", "nodes_of"]

_MOST_NODES = 1 << 20
_BRACKETS = re.compile(r"\[([^\]]*)\]")
_COUNT = re.compile(r"([0-9]+)(?:\(x([0-9]+)\))?")
_NO_NODES = ("", "(null)", "None assigned", "None", "N/A", "n/a")


def nodes_of(text: str) -> tuple[str, ...]:
    """Return the names of the nodes in a list of Slurm's, in its order; none for ``(null)``.

    Raises ``ValueError`` for a list that is not one.

    >>> nodes_of("c[1-2,08-10],gpu1,r[1-2]n[1-2]")
    ('c1', 'c2', 'c08', 'c09', 'c10', 'gpu1', 'r1n1', 'r1n2', 'r2n1', 'r2n2')
    """
    if text in _NO_NODES:
        return ()
    found: list[str] = []
    pieces = re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text)
    if ",".join(pieces) != text:  # brackets without an end, as where a list was cut off
        raise ValueError(f"invalid list of nodes {text[:80]!r}")
    for piece in pieces:
        parts = _BRACKETS.split(piece)  # literal, ranges, literal, …
        choices = [
            [part] if number % 2 == 0 else _range(part, text) for number, part in enumerate(parts)
        ]
        found += ("".join(chosen) for chosen in product(*choices))
        if len(found) > _MOST_NODES:
            raise ValueError(f"more than {_MOST_NODES} nodes in {text[:80]!r}")
    return tuple(found)


def counts_of(text: str) -> tuple[int, ...]:
    """Return a count for each node, as ``SLURM_JOB_CPUS_PER_NODE`` has them.

    >>> counts_of("4(x2),8")
    (4, 4, 8)
    """
    found: list[int] = []
    for piece in text.split(","):
        count = _COUNT.fullmatch(piece.strip())
        if count is None:
            raise ValueError(f"invalid counts {text!r}: expected such as '4(x2),8'")
        found += [int(count[1])] * int(count[2] or 1)
    return tuple(found)


def _range(ranges: str, text: str) -> list[str]:
    found: list[str] = []
    for piece in ranges.split(","):
        low, _, high = piece.partition("-")
        high = high or low
        if not (low.isdecimal() and high.isdecimal()) or int(high) - int(low) > _MOST_NODES:
            raise ValueError(f"invalid list of nodes {text[:80]!r}")
        found += (f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1))
    return found
