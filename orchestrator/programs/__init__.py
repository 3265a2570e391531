"""Programs that stages run: on one machine, by mpirun, or as steps of a Slurm job."""

from __future__ import annotations

from orchestrator.programs.program import ProgramFailed, ProgramResult, run_program

__all__ = ["ProgramFailed", "ProgramResult", "run_program"]
