"""The batch script of a worker job, shown."""

from __future__ import annotations

import subprocess

import pytest

SITE = """
[compute.cluster]
kind = "slurm"
options = { partition = "classical", cores = 4, memory = "8 GiB", walltime = "1 h" }
[qpu.vlq]
backend = "aer"
"""


def test_the_script_of_a_worker_job_is_shown_and_not_submitted(
    hpcqc, tmp_path, monkeypatch
) -> None:
    file = tmp_path / "hpcqc.toml"
    file.write_text(SITE.replace("cores = 4", "cores = 3, modules = ['gcc/13']"))
    monkeypatch.setenv("PATH", "/nowhere")  # without Slurm, too
    said = hpcqc("config", "show", "--job-script", "--site", str(file))
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {
        "#SBATCH --partition=classical",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --time=0-01:00:00",
        "module load gcc/13 || exit 78",
    } <= set(lines)
    assert subprocess.run(["/bin/bash", "-n"], input=said.out.encode(), check=True)
    document = hpcqc("config", "show", "--job-script", "--json", "--site", str(file)).document
    assert document["job_script"].splitlines() == lines


@pytest.mark.parametrize(
    ("site", "word"),
    [
        ("[qpu.vlq]\nbackend = 'aer'\n", "'slurm'"),
        (SITE.replace("cores = 4", "cores = 4, extra = ['-x']"), "'-x'"),
        (SITE.replace("cores = 4", "cores = 4, modules = ['a b']"), "'a b'"),
    ],
)
def test_without_a_script_the_reason_is_said(hpcqc, tmp_path, site, word) -> None:
    file = tmp_path / "hpcqc.toml"
    file.write_text(site)
    said = hpcqc("config", "show", "--job-script", "--site", str(file))
    assert said.code == 2
    assert word in said.paragraph
