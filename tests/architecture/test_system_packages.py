"""The script that installs system packages installs only missing ones and starts no service."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

SCRIPT = ROOT / ".ci" / "install-system-packages"
TOOLS = ("sh", "ls", "rm", "mv", "chmod", "cat", "dirname")
CHROMIUM = ("chromium", "chromedriver")
SLURM = ("slurmctld", "slurmd", "slurmdbd", "mariadbd", "munged", "mpicc")


class Machine:
    """A PATH with only the test's programs. apt-get records its arguments."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.policy = folder / "bin", folder / "policy-rc.d"
        self.log = folder / "log"
        self.programs.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.programs / tool).symlink_to(found)
        self.add("id", "echo 0")
        for program in SLURM:
            self.add(program)
        self.add("apt-get", f'echo "$@" >> {self.log}; cat {self.policy} >> {self.log}')

    def add(self, name: str, script: str = "") -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def run(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.programs), "HPCQC_POLICY_RC_D": str(self.policy)}
        return subprocess.run(
            ["/bin/sh", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
        )

    def asked(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_where_all_is_there_nothing_is_done(machine: Machine) -> None:
    for program in ("initdb", *CHROMIUM):
        machine.add(program)
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.asked() == ""


@pytest.mark.parametrize("earlier", [None, "#!/bin/sh\nexit 104\n"])
def test_what_is_missing_is_installed_with_services_held_back(
    machine: Machine, earlier: str | None
) -> None:
    if earlier is not None:
        machine.policy.write_text(earlier)
    machine.add("initdb")
    done = machine.run()
    assert done.returncode == 0, done.stderr
    asked = machine.asked()
    assert "install --no-install-recommends chromium chromium-driver\n" in asked
    assert asked.count("exit 101") == 2
    if earlier is None:
        assert not machine.policy.exists()
    else:
        assert machine.policy.read_text() == earlier
    assert sorted(p.name for p in machine.policy.parent.iterdir() if "saved" in p.name) == []


def test_a_failure_is_told_and_services_are_as_before(machine: Machine) -> None:
    machine.policy.write_text("mine")
    machine.add("apt-get", "exit 100")
    assert machine.run().returncode == 100
    assert machine.policy.read_text() == "mine"


def test_who_may_not_install_is_told_what_to_run(machine: Machine) -> None:
    machine.add("id", "echo 1000")
    machine.add("initdb")
    done = machine.run()
    assert done.returncode == 1
    assert "chromium chromium-driver. As root: sh .ci/install-system-packages" in done.stderr
    assert machine.asked() == ""


def test_elsewhere_than_on_debian_the_packages_are_named(machine: Machine) -> None:
    (machine.programs / "apt-get").unlink()
    machine.add("initdb")
    machine.add("chromium")
    done = machine.run()
    assert done.returncode == 1
    assert "Debian's chromium-driver." in done.stderr


def test_slurm_comes_with_its_database_and_mpi(machine: Machine) -> None:
    for program in ("initdb", *CHROMIUM):
        machine.add(program)
    for program in SLURM:
        (machine.programs / program).unlink()
    assert machine.run().returncode == 0
    assert {"slurmctld", "slurmd", "slurmdbd", "mariadb-server", "munge", "openmpi-bin"} < set(
        machine.asked().split()
    )
