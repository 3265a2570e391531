"""Starts workers and simulators while Prefect is still getting ready."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from orchestrator.compute.api import Demand
from orchestrator.resources import resources
from orchestrator.stages import StageNeeds, stage_needs

__all__ = ["prewarm"]


def prewarm(namespace: Mapping[str, Any]) -> None:
    """Begin to start what a flow's stages need, in the background; the stages report errors."""
    found = {needs for value in namespace.values() if (needs := stage_needs(value)) is not None}
    threading.Thread(target=_start, args=(found,), name="hpcqc-prewarm", daemon=True).start()


def _start(found: set[StageNeeds]) -> None:
    opened = resources()
    # Stages without demands first: they share workers, of which an earlier attempt may have left some.
    for needs in sorted(found, key=lambda needs: (needs.kind, needs.demand != Demand())):
        try:
            if needs.kind == "classical":
                opened.start_compute(needs.where, needs.demand)
            else:
                opened.broker().prewarm(needs.where or opened.run.default_qpu)
        except Exception:  # noqa: BLE001  # see above: reported by the stage itself
            continue
