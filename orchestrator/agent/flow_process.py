"""One flow run of the agent: Prefect's engine, in a process that knows its site and its run id.

The worker starts it for each flow run. The id of the hpcqc run is that of the Prefect flow run, so
that a flow run that is scheduled again goes on where it was.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from orchestrator.agent.flow_records import FlowRecords
from orchestrator.agent.job_artifacts import BROKER_PAGE, JobArtifacts
from orchestrator.agent.lifeline import PARENT, end_with
from orchestrator.agent.processes import MARKER, ProcessIdentity
from orchestrator.config import load_site
from orchestrator.config.budgets import budgets_of_environment
from orchestrator.config.environment import process_environment, qpu_from_environment
from orchestrator.retention import hold_run

if TYPE_CHECKING:
    from orchestrator.broker.core.views import JobView
    from orchestrator.config import Site

__all__ = ["main"]


def main() -> None:
    """Run the flow run that the environment names, and end with Prefect's exit code."""
    environment = process_environment()
    flow_run = environment["PREFECT__FLOW_RUN_ID"]
    records = FlowRecords(folder=Path(environment[MARKER]) / "flows")
    records.add(flow_run, ProcessIdentity.own())
    # Whoever takes this run up must find it silent: no farewell to Prefect.
    end_with(int(environment[PARENT]), grace_s=0.0)
    entrypoint = environment.get("PREFECT__FLOW_ENTRYPOINT", "").rpartition(":")[0]
    if entrypoint.endswith(".py"):  # neighbours of the flow's file come first, as for a script
        sys.path.insert(0, str(Path(entrypoint).parent))
    site = load_site()
    try:
        _run(flow_run, site)
    finally:
        records.remove(flow_run)


def _run(flow_run: str, site: Site) -> None:
    from orchestrator import runs

    run = runs.Run(
        id=flow_run, site=site, qpu=qpu_from_environment(), budgets=budgets_of_environment()
    )
    artifacts = JobArtifacts(
        UUID(flow_run),
        lambda stage: _jobs(flow_run, stage),
        process_environment().get(BROKER_PAGE),
    )
    run.observers.append(artifacts.note)
    runs.activate(run)
    held = hold_run(site.state_dir, flow_run)
    try:
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    finally:
        held.close()
        artifacts.finish()
        if "orchestrator.resources" in sys.modules:
            from orchestrator.resources import shutdown

            shutdown()


def _jobs(run: str, stage: str) -> Sequence[JobView]:
    """Return a stage's jobs as the broker has them."""
    from orchestrator.broker.client.http import RemoteBroker
    from orchestrator.resources import resources

    broker = resources().broker()
    known = broker.jobs(run) if isinstance(broker, RemoteBroker) else []
    return [job for job in known if job.stage == stage]


if __name__ == "__main__":
    main()
