"""Programs of stages, on this machine and as steps of Slurm jobs over several nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import fields
from datetime import timedelta

import pytest

from hpcqc import ProgramFailed, ProgramResult, classical, run_program
from orchestrator.compute.api import ComputeRun, Demand
from orchestrator.compute.remote_call import (
    RemoteFunction,
    StageContext,
    deferred,
    dump_by_value,
    run_timed,
)
from orchestrator.compute.slurm import SlurmDask
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.loading import load_site
from orchestrator.programs import guard as guard_module
from orchestrator.programs import program as program_module
from orchestrator.slurm import this_job
from tests.errors import naming
from tests.patience import until
from tests.slurm.mpi import build, processes

QRMI_JOB = {
    "QRMI_JOB_QPU_RESOURCES": "a,b",
    "QRMI_JOB_QPU_TYPES": "s,t",
    "a_QRMI_URL": "ua",
    "b_QRMI_URL": "ub",
    "left_QRMI_TOKEN": "from another job",
}


@pytest.fixture(scope="module")
def mpi_program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("mpi"))


@pytest.fixture
def in_job(slurm, tmp_path, request):
    """Runs a function as a stage in a job of its own, and yields what it returns.

    With a parameter, stages share one job of so many nodes.
    """
    (tmp_path / "hpcqc.toml").write_text('[qpu.q]\nbackend = "fake"\n')
    site = load_site(tmp_path / "hpcqc.toml")
    settings = ComputeSettings(
        name="c",
        kind="slurm",
        options={
            "interface": "lo",
            "partition": "classical",
            "nodes_max": getattr(request, "param", 1),
        },
    )
    compute = SlurmDask(settings, ComputeRun(id=f"programs-{tmp_path.name}", folder=tmp_path / "s"))
    if hasattr(request, "param"):
        compute.want_together()
    else:
        compute.separate_stages()

    def run(function, demand, *args, **kwargs):
        context = StageContext(
            run="programs", key="stage", site=deferred(site), qpu=None, keep_dir=None, demand=demand
        )
        remote = RemoteFunction(dump_by_value(function), context)
        return compute.run(remote, args, kwargs).value

    yield run
    compute.close()


@pytest.mark.slurm
def test_an_mpi_program_runs_over_the_nodes_of_its_stage(in_job, mpi_program) -> None:
    demand = Demand(nodes=2, tasks_per_node=2, walltime=timedelta(minutes=2))
    result = in_job(run_program, demand, [mpi_program])
    lines = sorted(line for line in result.output.read_text().splitlines() if "rank" in line)
    assert [line.split(" on ")[0] for line in lines] == [f"rank {n} of 4" for n in range(4)]
    assert all(line.endswith("sum 6") for line in lines)
    assert len(result.nodes) == 2
    assert {line.split(" on ")[1].split(":")[0] for line in lines} == set(result.nodes)
    assert (result.exit_code, result.leftover) == (0, 0)
    assert result.cpu_s > 0
    assert result.max_rss_bytes > 1 << 20


@pytest.mark.slurm
@pytest.mark.parametrize("in_job", [2], indirect=True)
def test_a_program_of_a_stage_on_one_node_runs_once_in_a_larger_job(in_job) -> None:
    result = in_job(run_program, Demand(), ["/bin/sh", "-c", "echo $SLURMD_NODENAME"])
    assert (result.output.read_text().split(), result.exit_code) == ([*result.nodes], 0)
    assert len(result.nodes) == 1


@pytest.mark.slurm
def test_a_fault_of_one_process_is_told_from_the_end_of_the_others(in_job, mpi_program) -> None:
    demand = Demand(nodes=2, tasks_per_node=2, walltime=timedelta(minutes=2))
    with pytest.raises(ProgramFailed, match=r"signal 11 \(SIGSEGV\) in task 1 on c[1-4]") as caught:
        in_job(run_program, demand, [mpi_program, "fault"])
    assert caught.value.result.exit_code == -signal.SIGSEGV
    assert len(str(caught.value)) < 1500


@pytest.mark.slurm
def test_an_mpi_program_that_crashes_is_reported_and_gone(in_job, mpi_program) -> None:
    demand = Demand(nodes=2, walltime=timedelta(minutes=2))
    with pytest.raises(ProgramFailed) as caught:
        in_job(run_program, demand, [mpi_program, "crash"])
    assert caught.value.result.exit_code == 7
    assert "exit code 7 in task 1" in str(caught.value)
    assert "rank 1 of 2" in caught.value.result.output.read_text()
    assert until(lambda: not processes(mpi_program))


@pytest.mark.slurm
def test_a_program_that_hangs_ends_with_the_walltime_of_its_stage(in_job, mpi_program) -> None:
    demand = Demand(nodes=2, walltime=timedelta(seconds=5))
    with pytest.raises(ProgramFailed, match="walltime") as caught:
        in_job(run_program, demand, [mpi_program, "hang"])
    assert caught.value.result.seconds >= 4
    assert until(lambda: not processes(mpi_program))


@pytest.mark.slurm
def test_what_an_mpi_program_leaves_on_its_nodes_is_ended(in_job, mpi_program) -> None:
    demand = Demand(nodes=2, walltime=timedelta(minutes=2))
    result = in_job(run_program, demand, [mpi_program, "children"])
    assert (result.exit_code, result.leftover) == (0, 2)
    assert not processes(mpi_program)


@pytest.mark.slurm
def test_more_processes_than_an_allocation_has_is_an_error_in_slurms_words(in_job) -> None:
    with pytest.raises(ProgramFailed, match="More processors requested"):
        in_job(run_program, Demand(), ["/bin/true"], tasks=64)


EXCLUSIVE = {"SLURM_STEP_NODELIST": "c[1-4]"}  # one step over all nodes of a run's job
SALLOC = {"SLURM_STEP_NODELIST": "c3"}  # each worker is a step on its node


@pytest.mark.parametrize(
    ("more", "demand", "nodes"),
    [
        (EXCLUSIVE, Demand(), ("c3",)),
        (EXCLUSIVE, Demand(nodes=2), ("c3", "c1")),
        (EXCLUSIVE, Demand(nodes=1, nodes_max=9), ("c3", "c1", "c2", "c4")),
        (SALLOC, Demand(), ("c3",)),
        ({"SLURM_STEP_NODELIST": "c[3-4]"}, Demand(nodes=2), ("c3", "c4")),
        ({}, Demand(nodes=2), ("c3", "c1")),
        (SALLOC, None, ("c1", "c2", "c3", "c4")),  # the flow itself may use the whole job
    ],
)
def test_a_program_runs_on_no_more_nodes_than_its_stage_may_use(more, demand, nodes) -> None:
    known = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "c[1-4]", "SLURMD_NODENAME": "c3"}
    assert program_module._nodes(this_job({**known, **more}), demand) == nodes


def test_a_step_is_started_on_the_nodes_that_its_result_names(monkeypatch) -> None:
    monkeypatch.setattr(program_module, "_mpi", lambda: None)
    launch = program_module._as_step(("/bin/true",), ("c3", "c1", "c2"), 4, 2, 1, 0)
    assert launch.nodes == ("c3", "c1")
    assert {"--nodes=2", "--nodelist=c3,c1", "--ntasks=4"} <= set(launch.starter)
    alone = program_module._as_step(("/bin/true",), ("c3",), None, None, 1, 0)
    assert (alone.starter, alone.nodes) == ((), ("c3",))


def outside(*argv, **options) -> ProgramResult:
    """Run a program in this process, which is in no job."""
    return run_program(list(argv), **options)


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HPCQC_SITE", "built-in")


@pytest.mark.usefixtures("laptop")
class TestOnThisMachine:
    def test_its_output_and_use_are_returned(self) -> None:
        result = outside("/bin/sh", "-c", "echo said; echo wrong >&2; exit 3", check=False)
        assert (result.exit_code, result.output.read_text()) == (3, "said\nwrong\n")
        assert result.output.stat().st_mode & 0o077 == 0
        assert result.seconds > 0
        assert result.max_rss_bytes > 0
        assert {field.name for field in fields(result)} >= {"cpu_s", "nodes", "leftover"}

    def test_another_exit_code_than_0_is_an_error(self) -> None:
        with pytest.raises(ProgramFailed, match="exit code 3") as caught:
            outside("/bin/sh", "-c", "echo why; exit 3")
        assert "why" in str(caught.value)
        assert caught.value.result.exit_code == 3

    def test_a_signal_is_a_negative_exit_code(self) -> None:
        result = outside("/bin/sh", "-c", "kill -SEGV $$", check=False)
        assert result.exit_code == -signal.SIGSEGV

    def test_arguments_reach_it_as_they_are(self) -> None:
        given = ["a b", "'\"$HOME", "", "ü\n", "{reports}"]
        script = "import sys; print(ascii(sys.argv[1:]))"
        assert outside(sys.executable, "-c", script, *given).output.read_text() == (
            ascii(given) + "\n"
        )

    def test_its_variables_and_folder_are_the_callers_choice(self, tmp_path) -> None:
        result = outside(
            "/bin/sh", "-c", "pwd; echo $OMP_NUM_THREADS $X", directory=tmp_path, cores=3,
            environment={"X": "y z"},
        )  # fmt: skip
        assert result.output.read_text() == f"{tmp_path}\n3 y z\n"

    @pytest.mark.parametrize(
        ("qpus", "seen"),
        [(None, "a,b s,t ua ub"), (["b"], "b t - ub"), ([], "- - - -")],
    )
    def test_it_gets_the_qpus_of_its_job_and_no_others(
        self, monkeypatch, tmp_path, qpus, seen
    ) -> None:
        (tmp_path / "qrmi.json").write_text('{"resources": []}')
        for name, value in {**QRMI_JOB, "HPCQC_QRMI_CONFIG": str(tmp_path / "qrmi.json")}.items():
            monkeypatch.setenv(name, value)
        script = (
            "echo ${QRMI_JOB_QPU_RESOURCES--} ${SLURM_JOB_QPU_TYPES--} ${a_QRMI_URL--} "
            "${b_QRMI_URL--}; env | grep -c 'left\\|HPCQC_QRMI_CONFIG'"
        )
        result = outside("/bin/sh", "-c", script, qpus=qpus, check=False)
        assert result.output.read_text() == f"{seen}\n1\n"

    def test_a_qpu_that_its_job_was_not_given_is_refused(self, monkeypatch) -> None:
        monkeypatch.setenv("QRMI_JOB_QPU_RESOURCES", "a")
        monkeypatch.setenv("QRMI_JOB_QPU_TYPES", "s")
        with pytest.raises(ValueError, match=naming("lab", "a")):
            outside("/bin/true", qpus=["lab"])
        with pytest.raises(ValueError, match=naming("['a']")):
            outside("/bin/true", qpus="a")

    def test_what_it_leaves_behind_is_ended_and_counted(self) -> None:
        mark = f"600.{os.getpid()}"
        result = outside("/bin/sh", "-c", f"setsid sleep {mark} & sleep {mark} & exit 0")
        assert (result.exit_code, result.leftover) == (0, 2)
        assert not processes(mark)

    def test_what_programs_leave_behind_counts_for_their_stage(self, tmp_path) -> None:
        def two_programs(mark):
            for _ in range(2):
                run_program(["/bin/sh", "-c", f"setsid sleep {mark} & exit 0"])

        context = StageContext(
            run="r1", key="k", site=deferred(load_site()), qpu=None, keep_dir=None
        )
        remote = RemoteFunction(dump_by_value(two_programs), context)
        assert run_timed(remote, (f"602.{os.getpid()}",), {}).leftover == 2
        assert run_timed(RemoteFunction(dump_by_value(abs), context), (1,), {}).leftover == 0

    def test_an_error_says_what_was_left_behind(self) -> None:
        with pytest.raises(ProgramFailed, match="1 process that it left behind"):
            outside("/bin/sh", "-c", f"setsid sleep 603.{os.getpid()} & exit 3")

    def test_it_is_told_to_end_with_the_process_that_runs_it(self, tmp_path) -> None:
        mark = f"601.{os.getpid()}"
        script = textwrap.dedent(f"""
            from hpcqc import run_program
            run_program(["/bin/sh", "-c", "setsid sleep {mark} & sleep {mark}"])
        """)
        parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
        try:
            assert until(lambda: len(processes(f"sleep {mark}")) >= 2)
        finally:
            parent.kill()
            parent.wait()
        assert until(lambda: not processes(mark))

    def test_it_ends_with_a_process_that_died_before_it_looked(self, tmp_path) -> None:
        mark = f"602.{os.getpid()}"
        read, write = os.pipe()
        os.close(read)  # as the end of its parent does
        argv = [sys.executable, "-I", "-S", guard_module.__file__, str(write), "sleep", mark]
        guard = subprocess.Popen(argv, pass_fds=[write], start_new_session=True)
        os.close(write)
        assert guard.wait(60) == -signal.SIGTERM
        assert not processes(mark)

    def test_what_does_not_exist_is_named(self, tmp_path) -> None:
        with pytest.raises(FileNotFoundError, match="'no-such-solver'"):
            outside("no-such-solver")
        with pytest.raises(FileNotFoundError, match="nowhere"):
            outside("/bin/true", directory=tmp_path / "nowhere")

    @pytest.mark.parametrize("amounts", [{"tasks": 0}, {"tasks_per_node": 0}, {"cores": 0}])
    def test_impossible_amounts_are_refused(self, amounts) -> None:
        with pytest.raises(ValueError, match=next(iter(amounts))):
            outside("/bin/true", **amounts)
        with pytest.raises(ValueError, match="argv"):
            run_program("/bin/true")

    def test_several_processes_need_an_mpi(self, monkeypatch, tmp_path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(FileNotFoundError, match="mpirun"):
            outside("/bin/true", tasks=2)

    def test_an_mpi_program_runs_by_mpirun(self, mpi_program) -> None:
        result = outside(mpi_program, tasks=2)
        assert result.output.read_text().count("of 2") == 2


def test_each_stage_declares_the_processes_of_its_programs() -> None:
    @classical(nodes=2, cores=2, tasks_per_node=8)
    def solve() -> None: ...

    from orchestrator.stages import stage_needs

    demand = stage_needs(solve).demand
    assert (demand.tasks_per_node, demand.cores_per_node) == (8, 16)
    with pytest.raises(ValueError, match="tasks_per_node=0"):
        classical(tasks_per_node=0)


@pytest.mark.parametrize(
    ("code", "words"),
    [(-11, "signal 11 (SIGSEGV)"), (139, "exit code 139, as after signal 11"), (255, "code 255")],
)
def test_a_signal_is_named(code, words) -> None:
    text = program_module._ending(code)
    assert words in text
    assert ("signal" in text) == (code != 255)


def test_what_ended_first_by_itself_is_the_fault() -> None:
    measured = [
        {"exit": -15, "stopped": True, "ended_s": 1.0, "task": "0"},
        {"exit": 1, "stopped": False, "ended_s": 3.0, "task": "1"},
        {"exit": -11, "stopped": False, "ended_s": 2.0, "task": "2"},
        {"exit": 0, "stopped": False, "ended_s": 0.5, "task": "3"},
    ]
    assert program_module._first_fault(measured) == measured[2]
    assert program_module._first_fault(measured[:1]) is None
