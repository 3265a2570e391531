"""Functions that run in worker jobs of Slurm, for tests and the processes that they start."""

from __future__ import annotations

import os

from orchestrator.compute.api import Demand
from orchestrator.compute.remote_call import RemoteFunction, StageContext, dump_by_value

OPTIONS = {"interface": "lo", "partition": "classical", "linger": "20 s"}


def ran(compute, function, *args, demand=None, **kwargs):
    context = StageContext(
        run="r", key="s", site=None, qpu=None, keep_dir=None, demand=demand or Demand()
    )
    remote = RemoteFunction(dump_by_value(function), context)
    return compute.run(remote, args, kwargs).value


def job_id() -> int:
    return int(os.environ["SLURM_JOB_ID"])
