"""Markdown pages as what can be checked in them: fenced blocks, links, headings."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<info>[^`]*)$")
_LINK = re.compile(
    r"(?<!\\)!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)(?:\s+\"[^\"]*\")?\)"
)
_HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block. line: number of its first line of content, from 1.

    options: the words after the language: ``slow``, ``norun`` (the words after it say why),
    ``file=NAME`` (the block is written to NAME instead of run), ``exit=N``.
    """

    language: str
    options: tuple[str, ...]
    line: int
    text: str

    def option(self, name: str) -> str | None:
        """Return the value of ``name=value``."""
        return next((o[len(name) + 1 :] for o in self.options if o.startswith(f"{name}=")), None)

    @property
    def is_skipped(self) -> bool:
        return "norun" in self.options

    @property
    def is_slow(self) -> bool:
        return "slow" in self.options

    @property
    def reason(self) -> str:
        """Why the block is not run."""
        return " ".join(self.options[self.options.index("norun") + 1 :]) if self.is_skipped else ""

    def commands(self) -> list[str]:
        """Return the shell commands: lines after ``$ `` in a console, every line in a script.

        A line that ends in a backslash goes on with the next. Comments are left out.
        """
        if self.language not in ("console", "sh", "bash", "shell"):
            return []
        joined = re.sub(r"\\\n(?:> )?\s*", "", self.text)
        lines = [line.strip() for line in joined.splitlines()]
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line for line in lines if line and not line.startswith("#")]


def pages(root: Path) -> list[Path]:
    """Return README, CONTRIBUTING, CHANGELOG and every page under docs."""
    top = [root / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [page for page in top if page.exists()] + sorted((root / "docs").rglob("*.md"))


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    found: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        number += 1
        if not opening:
            continue
        indent, fence = len(opening["indent"]), opening["fence"]
        start = number
        while number < len(lines) and not lines[number].strip().startswith(fence):
            number += 1
        words = opening["info"].split()
        body = "\n".join(line[indent:] for line in lines[start:number])
        found.append(
            Block(
                language=words[0] if words else "",
                options=tuple(words[1:]),
                line=start + 1,
                text=body + "\n",
            )
        )
        number += 1
    return found


def prose(text: str) -> list[tuple[int, str]]:
    """Return the numbered lines outside fenced blocks, code spans blanked."""
    lines = text.splitlines()
    for block in blocks(text):
        for offset in range(-1, block.text.count("\n") + 1):
            position = block.line - 1 + offset
            if position < len(lines):
                lines[position] = ""
    return [(number, re.sub(r"`[^`]*`", "", line)) for number, line in enumerate(lines, 1)]


def links(text: str) -> list[tuple[int, str]]:
    """Return line and target of every link and image."""
    return [(n, m["target"]) for n, line in prose(text) for m in _LINK.finditer(line)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    fenced = {
        number
        for block in blocks(text)
        for number in range(block.line, block.line + block.text.count("\n"))
    }
    found: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        heading = _HEADING.match(line)
        if not heading or number in fenced:
            continue
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"]).replace("`", "")
        kept = "".join(c for c in plain.lower() if c.isalnum() or c in " -_" or _is_mark(c))
        slug, count = kept.strip().replace(" ", "-"), 0
        while (slug if not count else f"{slug}-{count}") in found:
            count += 1
        found.add(slug if not count else f"{slug}-{count}")
    return found


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")
