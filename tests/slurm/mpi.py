"""A small MPI program: a sum over all processes, and ways to go wrong."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

__all__ = ["build", "processes"]

SOURCE = r"""
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int rank, size, sum;
    if (argc > 1 && !strcmp(argv[1], "child")) return sleep(600);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    printf("rank %d of %d on %s: sum %d\n", rank, size, getenv("SLURMD_NODENAME"), sum);
    fflush(stdout);
    if (argc > 1 && !strcmp(argv[1], "fault") && rank == 1) raise(SIGSEGV);
    if (argc > 1 && !strcmp(argv[1], "crash") && rank == 1) _exit(7);
    if (argc > 1 && !strcmp(argv[1], "hang")) sleep(600);
    MPI_Finalize();
    if (argc > 1 && !strcmp(argv[1], "children") && fork() == 0) {
        setsid();  /* out of the group of its parent */
        execl(argv[0], argv[0], "child", NULL);
    }
    return 0;
}
"""


def build(folder: Path) -> str:
    """Compile the program in a folder and return its path; skip without a compiler for MPI."""
    if shutil.which("mpicc") is None:
        pytest.skip("no MPI here: mpicc is not on the PATH (Debian: libopenmpi-dev)")
    (folder / "sum.c").write_text(SOURCE)
    subprocess.run(["mpicc", "-o", folder / "sum", folder / "sum.c"], check=True)
    return str(folder / "sum")


def processes(text: str) -> list[int]:
    """Return the processes whose command line has a text."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        gone = process.info["status"] == psutil.STATUS_ZOMBIE
        if not gone and text in " ".join(process.info["cmdline"] or ()):
            found.append(process.info["pid"])
    return found
