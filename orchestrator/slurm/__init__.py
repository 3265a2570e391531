"""Slurm: its jobs and their states, batch scripts, its programs, and what they refuse."""

from __future__ import annotations

from orchestrator.slurm.client import Slurm, job_environment
from orchestrator.slurm.environment import ThisJob, this_job
from orchestrator.slurm.errors import JobScriptError, SlurmRefused, SlurmUnavailable
from orchestrator.slurm.explain import WaitReason, explain_reason, explain_refusal, impossible
from orchestrator.slurm.inventory import Licence, Partition, RemoteLicence, Reservation
from orchestrator.slurm.owner import owner_of
from orchestrator.slurm.script import JobResources, JobScript
from orchestrator.slurm.states import AccountedJob, SlurmJob, SlurmState
from orchestrator.slurm.versions import loses_licences

__all__ = [
    "AccountedJob",
    "JobResources",
    "JobScript",
    "JobScriptError",
    "Licence",
    "Partition",
    "RemoteLicence",
    "Reservation",
    "Slurm",
    "SlurmJob",
    "SlurmRefused",
    "SlurmState",
    "SlurmUnavailable",
    "ThisJob",
    "WaitReason",
    "explain_reason",
    "explain_refusal",
    "impossible",
    "job_environment",
    "loses_licences",
    "owner_of",
    "this_job",
]
