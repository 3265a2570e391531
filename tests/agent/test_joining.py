"""Which runs use the services of a running agent."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.agent.control import agent_environment
from orchestrator.agent.folder import AgentFolder, replace_json
from orchestrator.agent.processes import ProcessIdentity
from orchestrator.config.loading import load_site


def test_a_site_file_that_was_changed_since_is_not_the_agents(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text("[qpu.aer]\nbackend = 'aer'\n")
    began = datetime.now(UTC)
    os.utime(file, (began.timestamp() - 60,) * 2)
    site = load_site(file, environ={"HPCQC_STATE_DIR": str(tmp_path / "state")})
    folder = AgentFolder(path=site.state_dir / "agent")
    folder.prepare()
    variables = {"HPCQC_BROKER_URL": "unix:/run/b.sock"}
    replace_json(folder.flow_environment_path, variables)
    with folder.locked():
        replace_json(
            folder.state_path,
            {
                "phase": "ready",
                "supervisor": asdict(ProcessIdentity.own()),
                "since": began.isoformat(),
                "site": str(file),
                "children": {},
            },
        )
        assert agent_environment(site) == variables
        os.utime(file, (began.timestamp() + 60,) * 2)
        assert agent_environment(site) is None
    assert agent_environment(site) is None
