"""Profile files that tests write."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def profile_with(folder: Path, metering: str) -> str:
    """Write helmi's profile with another table ``[metering]``; return its path."""
    text = files("backends.profiles").joinpath("helmi.toml").read_text(encoding="utf-8")
    start = text.index("[metering]")
    end = text.index("[", start + 1)
    kept = [line for line in text[end:].splitlines() if not line.startswith('"metering.')]
    path = folder / "own.toml"
    path.write_text(text[:start] + f"[metering]\n{metering}\n" + "\n".join(kept) + "\n")
    return str(path)
