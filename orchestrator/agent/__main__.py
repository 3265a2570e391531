"""The supervisor's process: ``python -m orchestrator.agent SETTINGS``."""

from __future__ import annotations

import os
import sys

from orchestrator.agent.control import run_agent
from orchestrator.agent.folder import AgentError
from orchestrator.agent.plan import AgentSettings

if __name__ == "__main__":
    os.umask(0o077)  # what it writes is its owner's alone
    try:
        run_agent(AgentSettings.from_json(sys.argv[1]))
    except AgentError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
