"""Options of the plugin qfw-slurm: stated by a site, carried by the jobs that hold its QPU.

The plugin itself is not here. A stand-in registers its options with a real Slurm and refuses what
its manual says that it refuses.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.compute.worker_jobs import Allocation
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_site
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.slurm import JobResources, JobScript, SlurmRefused
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.qpu_jobs import QpuJobs, access_resources
from tests.errors import naming
from tests.patience import until
from tests.private_slurm import SlurmForTests

BOUNDS = """
gres = "qpu:1"
partition = "quantum"
account = "chemistry"
[qpu.q.slurm.qfw]
qpu = "nwqsim"
circ_count = 500
max_qubits = 20
max_depth = 300
max_shots = 4000
max_two_q_gates = 400
"""
CARRIED = {
    "qpu": "nwqsim",
    "workload-kind": "hybrid",
    "circ-count": "500",
    "max-qubits": "20",
    "max-depth": "300",
    "max-shots": "4000",
    "max-two-q-gates": "400",
}
# Declares what it uses of SPANK, whose header is not among the packages of the tests.
PLUGIN = r"""
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
typedef int (*callback)(int, const char *, int);
struct spank_option { char *name, *arginfo, *usage; int has_arg, val; callback cb; };
extern int spank_option_register(void *, struct spank_option *);
extern int spank_remote(void *);
extern void slurm_error(const char *, ...);
const char plugin_name[] = "qfw";
const char plugin_type[] = "spank";
const unsigned int plugin_version = SLURM_VERSION;
const unsigned int spank_plugin_version = 1;
static char *names[] = {"qpu", "workload-kind", "circ-count", "max-qubits", "max-depth", "max-shots",
                        "max-one-q-gates", "max-two-q-gates", "max-measurements"};
static char values[9][64];
static int keep(int val, const char *given, int remote) {
    (void)remote;
    snprintf(values[val], sizeof values[val], "%s", given ? given : "");
    return 0;
}
int slurm_spank_init(void *spank, int count, char **words) {
    (void)count; (void)words;
    for (int i = 0; i < 9; i++) {
        struct spank_option option = {names[i], "VALUE", "of qfw", 1, i, keep};
        if (spank_option_register(spank, &option)) return -1;
    }
    return 0;
}
int slurm_spank_init_post_opt(void *spank, int count, char **words) {
    (void)count; (void)words;
    int given = 0;
    if (spank_remote(spank) == 1) return 0;
    for (int i = 1; i < 9; i++) given += values[i][0] != 0;
    for (int i = 0; i < 6 && given; i++)
        if (!values[i][0] || !strcmp(values[i], "0")) {
            slurm_error("qfw: --%s is missing", names[i]);
            return -1;
        }
    if (given && strcmp(values[0], "nwqsim")) {
        slurm_error("qfw: unknown QPU %s", values[0]);
        return -1;
    }
    return 0;
}
"""


def qpu(tmp_path: Path, table: str = BOUNDS) -> QpuSettings:
    file = tmp_path / "site.toml"
    file.write_text(f'[qpu.q]\nbackend = "fake"\n[qpu.q.slurm]\n{table}')
    return load_site(file, environ={}, folder=tmp_path).qpu("q")


def test_jobs_that_hold_the_qpu_carry_the_options(tmp_path: Path) -> None:
    resources = access_resources(qpu(tmp_path))
    assert dict(resources.plugin_options) == CARRIED
    script = JobScript(
        name="n",
        tag="t",
        resources=resources,
        body=("true",),
        directory=tmp_path,
        output=tmp_path / "out",
    )
    for name, value in CARRIED.items():
        assert f"#SBATCH --{name}={value}" in script.text().splitlines()


@pytest.mark.parametrize("comes_with_nodes", [True, False])
def test_a_job_that_holds_nodes_and_qpu_carries_them_once(
    tmp_path: Path, comes_with_nodes: bool
) -> None:
    table = BOUNDS if comes_with_nodes else BOUNDS.replace("gres", "license")
    if not comes_with_nodes:
        table = table.replace('partition = "quantum"\n', "")
    nodes = JobResources(walltime=timedelta(minutes=5))
    own = Allocation(pool="p", resources=nodes, processes=1, memory_bytes=None)
    job = own.together(2, (access_resources(qpu(tmp_path, table)),))
    carried = [one.plugin_options for one in (job.resources, *job.also) if one.plugin_options]
    assert [dict(options) for options in carried] == [CARRIED]
    assert len(job.also) == comes_with_nodes


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (('account = "chemistry"\n', ""), "account"),
        (("max_shots = 4000\n", ""), "max_shots"),
        (("max_depth = 300", "max_depth = 0"), "max_depth"),
        (("circ_count = 500", f"circ_count = {1 << 32}"), "circ_count"),
        (('"nwqsim"', '"a b"'), "qpu"),
        (("max_qubits = 20", 'max_qubits = 20\nworkload_kind = "both"'), "workload_kind"),
    ],
)
def test_what_the_plugin_would_refuse_is_refused_before(tmp_path: Path, changed, named) -> None:
    with pytest.raises(ConfigError, match=naming(named)):
        qpu(tmp_path, BOUNDS.replace(*changed))


@pytest.fixture
def plugin(slurm: SlurmForTests, tmp_path: Path) -> Iterator[None]:
    """The stand-in, which the private Slurm's programs load."""
    if slurm.root is None:
        pytest.skip("an existing cluster gets no plugin")
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not on the PATH")
    (tmp_path / "qfw.c").write_text(PLUGIN)
    major, minor, micro = Slurm().version()
    version = f"-DSLURM_VERSION={(major << 16) + (minor << 8) + micro:#x}"
    built = slurm.root / "etc" / "qfw.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", version, "-o", built, tmp_path / "qfw.c"], check=True
    )
    stack = slurm.root / "etc" / "plugstack.conf"
    assert not stack.exists()
    stack.write_text(f"required {built}\n")
    yield
    stack.unlink()
    built.unlink()


@pytest.mark.slurm
@pytest.mark.usefixtures("plugin")
def test_a_slurm_with_the_plugin_takes_the_options(slurm: SlurmForTests, tmp_path: Path) -> None:
    jobs = QpuJobs("qfw", tmp_path / "slurm" / "qfw")
    try:
        with jobs.hold(qpu(tmp_path)) as job:
            assert slurm.run(["squeue", "-h", "-j", str(job), "-o", "%T %a"]).split() == [
                "RUNNING",
                "chemistry",
            ]
        with (
            pytest.raises(SlurmRefused, match=naming("sherbrooke", "qpu.q.slurm")),
            jobs.hold(qpu(tmp_path, BOUNDS.replace("nwqsim", "sherbrooke"))),
        ):
            pass
    finally:
        jobs.close()


@pytest.mark.slurm
def test_a_slurm_without_the_plugin_refuses_and_the_error_says_so(
    slurm: SlurmForTests, tmp_path: Path
) -> None:
    jobs = QpuJobs("qfw", tmp_path / "slurm" / "qfw")
    with pytest.raises(SlurmRefused, match=naming("--qpu", "qfw")), jobs.hold(qpu(tmp_path)):
        pass
    jobs.close()
    until(lambda: not slurm.queue(), slurm.queue)
