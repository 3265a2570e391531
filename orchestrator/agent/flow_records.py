"""Which process works on which flow run, written by that process itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agent.folder import replace_json
from orchestrator.agent.processes import ProcessIdentity

__all__ = ["FlowRecords"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecords:
    """The records of one agent. folder: holds a file for each flow run under way."""

    folder: Path

    def add(self, flow_run: str, process: ProcessIdentity) -> None:
        """Write down that a process works on a flow run."""
        replace_json(self._path(flow_run), process.document())

    def remove(self, flow_run: str) -> None:
        """Forget a flow run: it has ended in an orderly way."""
        self._path(flow_run).unlink(missing_ok=True)

    def process_of(self, flow_run: str) -> ProcessIdentity | None:
        """Return the process that began to work on a flow run, dead or alive; None if none did."""
        try:
            text = self._path(flow_run).read_text(encoding="utf-8")
            return ProcessIdentity.from_document(json.loads(text))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def alive(self) -> list[ProcessIdentity]:
        """Return the processes that are still at work."""
        found = [self.process_of(path.stem) for path in self.folder.glob("*.json")]
        return [process for process in found if process is not None and process.is_alive()]

    def _path(self, flow_run: str) -> Path:
        return self.folder / f"{flow_run}.json"
