"""The architecture page names each hop of a job; each name is one of the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "architecture.md"
_ROOTS = ("", "orchestrator.", "orchestrator.broker.")


def test_each_hop_of_the_walk_is_in_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    walk = text[text.index("## The walk of a job") : text.index("## Who runs where")]
    hops = re.findall(r"`([a-z_.]+):([\w.]+)`", walk)
    assert len(hops) > 25
    for module, name in hops:
        if module == "module":
            continue  # the example of the notation
        found = next(filter(None, (_module(root + module) for root in _ROOTS)), None)
        assert found is not None, module
        for part in name.split("."):
            found = getattr(found, part, None)
            assert found is not None, f"{module}:{name}"


def _module(name: str) -> object | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None
