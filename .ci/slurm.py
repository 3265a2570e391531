#!/usr/bin/env python3
"""Start and stop a private Slurm on this machine, for the tests: python3 .ci/slurm.py --help.

Virtual nodes on loopback, accounting in a MariaDB of its own, no systemd, no cgroups. Needs root and
the packages that .ci/install-system-packages installs. Several can run side by side, each in a folder.
"""

import argparse
import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

NODES = ("c1", "c2", "c3", "c4", "g1", "q1")
_ACCOUNTS = ("chemistry", "physics")
_PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd")
# In the environment of all that is started here: by it a process is known as ours.
_MARK = "HPCQC_SLURM_ROOT"

_SLURM_CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its credential has expired.
AuthInfo=socket={root}/run/munge.sock,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
# A folder for each node: PMIx names files by job and rank alone.
TmpFS={root}/tmp/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={root}/etc/task-prolog
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=20
SlurmctldTimeout=20
KillWait=5
MinJobAge=300
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=5,batch_sched_delay=0,defer_batch
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
GresTypes=gpu,qpu
Licenses=qpu_lab:2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={root}/run/munge.sock
AccountingStorageTRES=gres/gpu,gres/qpu,license/qpu_lab
AccountingStorageEnforce=associations,limits,qos
AccountingStoreFlags=job_comment
NodeName=DEFAULT CPUs=4 RealMemory=16000 State=UNKNOWN
{nodes}
PartitionName=DEFAULT MaxTime=1-0 DefaultTime=10 DefMemPerCPU=1000 State=UP
PartitionName=classical Nodes=c[1-4] Default=YES PriorityTier=10
PartitionName=gpu Nodes=g1 PriorityTier=10
PartitionName=quantum Nodes=q1 PriorityTier=10 MaxTime=60
PartitionName=scavenge Nodes=c[1-4] PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
"""
_GRES_CONF = """\
NodeName=g1 Name=gpu File={root}/devices/gpu[0-1]
NodeName=q1 Name=qpu Count=1
"""
# slurmdbd listens on all addresses, whatever DbdAddr says; munge authenticates who asks.
_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
PidFile={root}/run/slurmdbd.pid
LogFile={root}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
CommitDelay=1
"""


# What a task prints becomes its environment. All nodes are one machine, where Open MPI takes
# processes of two nodes for neighbours in shared memory, and crashes.
_TASK_PROLOG = """\
#!/bin/sh
echo "export OMPI_MCA_btl=${OMPI_MCA_btl:-tcp,self}"
"""


class Failed(Exception):
    """Something did not start; the message says what, and where its log is."""


class PrivateSlurm:
    """A Slurm that lives in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {**os.environ, "SLURM_CONF": f"{root}/etc/slurm.conf", _MARK: str(root)}

    def start(self) -> None:
        """Start each daemon that does not run; return when all nodes are up."""
        _check_machine()
        with contextlib.suppress(FileExistsError):
            self.root.mkdir(parents=True, mode=0o755)
        self.check_root()
        self._write_files()
        self._munge()
        self._mariadb()
        if not self.pid("slurmdbd"):
            self._run("slurmdbd")
        self._until("slurmdbd answers", lambda: self._asks("sacctmgr -n show cluster"))
        self._accounts()
        if not self.pid("slurmctld"):
            self._run(f"slurmctld -f {self.root}/etc/slurm.conf")
        self._until("slurmctld answers", lambda: "UP" in self._ask("scontrol ping"))
        for node in NODES:
            if not self.pid(f"slurmd.{node}"):
                self._run(f"slurmd -N {node} -f {self.root}/etc/slurm.conf")
        self._until("all nodes are registered", lambda: not self._nodes_in("unk", "unk*"))
        for node in self._nodes_in("drain", "drain*", "down", "down*"):  # by an earlier fault
            self._ask(f"scontrol update nodename={node} state=resume")
        self._until(
            "all nodes are up", lambda: self._nodes_in("idle", "mix", "alloc") >= set(NODES)
        )

    def check_root(self) -> None:
        """Refuse a folder that another user made, or could change: root trusts what is in it."""
        try:
            found = os.lstat(self.root)
        except FileNotFoundError:
            return
        if (
            not stat.S_ISDIR(found.st_mode)
            or found.st_uid != os.geteuid()
            or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        ):
            raise Failed(
                f"{self.root} is no folder of this user's own that nobody else can write in; remove "
                "it, or give another one with --root"
            )

    def stop(self) -> None:
        """End what runs in this folder, and nothing else."""
        if self.pid("slurmctld"):
            self._ask("scancel --user=root --state=PENDING,RUNNING,SUSPENDED", timeout_s=15)
        for names in ([f"slurmd.{node}" for node in NODES], ["slurmctld"], ["slurmdbd"]):
            self._end([pid for name in names if (pid := self.pid(name))])
        self._end([pid for name in ("mariadb", "munged") if (pid := self.pid(name))])
        self._end(self._left_over())
        for file in (self.root / "run").glob("*.pid"):
            file.unlink()

    def pid(self, daemon: str) -> int | None:
        """Return a daemon's process id, None if it does not run."""
        try:
            pid = int((self.root / "run" / f"{daemon}.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def _is_ours(self, pid: int) -> bool:
        # Process ids come again; the mark in the environment does not.
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return f"{_MARK}={self.root}".encode() in variables

    def _left_over(self) -> list[int]:
        """Return what a killed daemon left behind, such as the keepers of job steps."""
        numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        names = ("slurmstepd", "slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged")
        return [n for n in numbers if n != os.getpid() and self._is_ours(n) and _name(n) in names]

    def _write_files(self) -> None:
        for folder in (
            "etc",
            "run",
            "log",
            "state",
            "spool",
            "devices",
            "tmp",
            *(f"tmp/{n}" for n in NODES),
        ):
            (self.root / folder).mkdir(parents=True, exist_ok=True, mode=0o755)
        for node in NODES:  # programs of every user write there, as in /tmp
            (self.root / "tmp" / node).chmod(0o1777)
        etc = self.root / "etc"
        if not (etc / "munge.key").exists():
            _write(etc / "munge.key", os.urandom(128), 0o600)
        if not (etc / "settings.json").exists():
            names = ("ctld", "dbd", "mariadb", *NODES)
            chosen = {**dict(zip(names, _free_ports(len(names)), strict=True))}
            settings = {"ports": chosen, "password": os.urandom(16).hex()}
            _write(etc / "settings.json", json.dumps(settings).encode(), 0o600)
        for number in range(2):  # a GPU without a device file counts for nothing
            (self.root / "devices" / f"gpu{number}").touch()
        settings = json.loads((etc / "settings.json").read_text())
        ports = settings["ports"]
        gres = {"g1": " Gres=gpu:2", "q1": " Gres=qpu:1"}
        host = socket.gethostname().split(".")[0]
        facts = {
            **{name: ports[name] for name in ("ctld", "dbd", "mariadb")},
            "root": self.root,
            "host": host,
            "password": settings["password"],
            "nodes": "\n".join(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[node]}"
                f"{gres.get(node, '')}"
                for node in NODES
            ),
        }
        version = subprocess.run(
            ["slurmctld", "-V"], check=False, capture_output=True, text=True
        ).stdout
        plugin = "cgroup/v1" if version.split()[-1].startswith("22.") else "disabled"
        _write(etc / "slurm.conf", _SLURM_CONF.format(**facts).encode(), 0o644)
        _write(etc / "task-prolog", _TASK_PROLOG.encode(), 0o755)
        _write(etc / "gres.conf", _GRES_CONF.format(**facts).encode(), 0o644)
        _write(etc / "cgroup.conf", f"CgroupPlugin={plugin}\n".encode(), 0o644)
        _write(etc / "slurmdbd.conf", _SLURMDBD_CONF.format(**facts).encode(), 0o600)

    def _munge(self) -> None:
        if self.pid("munged"):
            return
        self._run(
            f"munged --force --key-file={self.root}/etc/munge.key --socket={self.root}/run/munge.sock"
            f" --pid-file={self.root}/run/munged.pid --log-file={self.root}/log/munged.log"
            f" --seed-file={self.root}/run/munge.seed"
        )

    def _mariadb(self) -> None:
        data, sock = self.root / "mariadb", self.root / "run" / "mariadb.sock"
        if not (data / "mysql").exists():
            self._run(
                "mariadb-install-db --no-defaults --auth-root-authentication-method=socket"
                f" --skip-test-db --user=root --datadir={data}"
            )
        if not self.pid("mariadb"):
            port = json.loads((self.root / "etc/settings.json").read_text())["ports"]["mariadb"]
            with (self.root / "log/mariadb.log").open("ab") as log:
                # Detached, with a log of its own: who reads our output waits for its end.
                subprocess.Popen(
                    shlex.split(
                        f"mariadbd --no-defaults --user=root --datadir={data} --socket={sock}"
                        f" --bind-address=127.0.0.1 --port={port} --skip-name-resolve"
                        f" --pid-file={self.root}/run/mariadb.pid"
                        " --innodb-flush-log-at-trx-commit=0"
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                    start_new_session=True,
                )
        ask = f"mariadb --no-defaults --user=root --socket={sock} --execute="
        self._until("MariaDB answers", lambda: self._asks(f"{ask}'select 1'"))
        password = json.loads((self.root / "etc/settings.json").read_text())["password"]
        statements = (
            f"create user if not exists slurm@'127.0.0.1' identified by '{password}';"
            "grant all on slurm_acct.* to slurm@'127.0.0.1'"
        )
        # On its input: an argument would show the password to every user.
        subprocess.run(
            ["mariadb", "--no-defaults", "--user=root", f"--socket={sock}"],
            input=statements,
            text=True,
            check=True,
            env=self.environment,
        )

    def _accounts(self) -> None:
        """Create the cluster, two accounts, a QOS, and associations of root and nobody."""
        if self._has_accounts():
            return
        for words in (
            "add cluster lab",
            "add qos short",
            "add account chemistry physics",
            "add user root,nobody account=chemistry,physics defaultaccount=chemistry",
            "modify account chemistry,physics set qos=normal,short",
        ):
            self._asks(f"sacctmgr -i {words}")  # it fails at what an interrupted start has made
        if not self._has_accounts():
            raise Failed(
                f"accounts cannot be made; ask: SLURM_CONF={self.root}/etc/slurm.conf sacctmgr"
            )

    def _has_accounts(self) -> bool:
        asked = "sacctmgr -n -P show assoc cluster=lab user=root,nobody format=user,account,qos"
        rows = {f"{u}|{a}|normal,short" for u in ("root", "nobody") for a in _ACCOUNTS}
        return rows <= set(self._ask(asked).split())

    def _nodes_in(self, *states: str) -> set[str]:
        rows = [line.split() for line in self._ask("sinfo -h -N -o '%N %t'").splitlines()]
        return {node for node, state in rows if state in states}

    def _run(self, command: str) -> None:
        words = shlex.split(command)
        # To a file: daemons keep what they are started with.
        with (self.root / "log" / "start.log").open("ab") as log:
            ended = subprocess.run(
                words,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        if ended.returncode:
            raise Failed(f"{words[0]} ended with {ended.returncode}; see {self.root}/log")

    def _ask(self, command: str, timeout_s: float = 10) -> str:
        try:
            return subprocess.run(
                shlex.split(command),
                check=False,
                capture_output=True,
                text=True,
                env=self.environment,
                timeout=timeout_s,
            ).stdout
        except subprocess.TimeoutExpired:
            return ""

    def _asks(self, command: str) -> bool:
        try:
            return not subprocess.run(
                shlex.split(command),
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self.environment,
                timeout=10,
            ).returncode
        except subprocess.TimeoutExpired:
            return False

    def _until(self, what: str, is_so: Callable[[], bool], most_s: float = 60) -> None:
        deadline = time.monotonic() + most_s
        while not is_so():
            if time.monotonic() > deadline:
                raise Failed(f"after {most_s:g} s it is not so that {what}; see {self.root}/log")
            time.sleep(0.1)

    def _end(self, pids: list[int], patience_s: float = 20) -> None:
        for pid in pids:
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while (left := [pid for pid in pids if self._is_ours(pid)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _write(path: Path, content: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)


def _free_ports(number: int) -> list[int]:
    found: list[int] = []
    while len(found) < number:
        # Below the range from which the kernel gives ports to others.
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def _check_machine() -> None:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        raise Failed(
            f"not installed: {', '.join(missing)}; as root: sh .ci/install-system-packages"
        )
    if os.geteuid():
        raise Failed("Slurm's daemons start jobs as other users: run this as root")


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0] + ".")
    parser.add_argument("verb", choices=("start", "stop", "status", "env"))
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/hpcqc-slurm"))
    given = parser.parse_args()
    slurm = PrivateSlurm(given.root.absolute())
    try:
        slurm.check_root()
        if given.verb == "start":
            slurm.start()
            print(f"A private Slurm runs in {slurm.root}. To use it here:")
        elif given.verb == "stop":
            slurm.stop()
            return 0
        elif given.verb == "status":
            for daemon in (
                "munged",
                "mariadb",
                "slurmdbd",
                "slurmctld",
                *map("slurmd.{}".format, NODES),
            ):
                print(f"{daemon:12} {slurm.pid(daemon) or 'not running'}")
            return 0
    except Failed as error:
        print(f"slurm: {error}", file=sys.stderr)
        return 1
    print(f"export SLURM_CONF={shlex.quote(slurm.environment['SLURM_CONF'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
