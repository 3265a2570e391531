"""A supervisor with two small web servers as its children: ``python supervised.py STATE_DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.agent.folder import AgentFolder
from orchestrator.agent.plan import AgentPlan, Child, HttpProbe, free_port
from orchestrator.agent.supervisor import Supervisor, end_leftovers


def child(name: str) -> Child:
    port = free_port()
    return Child(
        name=name,
        title=name,
        module="http.server",
        arguments=(str(port), "--bind", "127.0.0.1"),
        probe=HttpProbe(url=f"http://127.0.0.1:{port}/"),
        stop_s=2.0,
    )


if __name__ == "__main__":
    folder = AgentFolder(path=Path(sys.argv[1]) / "agent")
    folder.prepare()
    with folder.locked():
        end_leftovers(folder)
        plan = AgentPlan(children=(child("one"), child("two")), addresses={}, environment={})
        Supervisor(folder, plan).run()
