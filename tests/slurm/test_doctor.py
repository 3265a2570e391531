"""The doctor says what the cluster is, and what of the site file it can never grant."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from orchestrator.doctor import diagnose
from orchestrator.slurm.versions import faults_of, loses_licences

RECORDED = Path(__file__).parent / "recorded" / "22.05"
# Print what Slurm printed when it was recorded, with the separators that are asked for now.
PROGRAM = f"""#!{sys.executable}
import sys
from pathlib import Path
name, words = Path(sys.argv[0]).name, sys.argv[1:]
recorded = Path({str(RECORDED)!r})
if "--version" in words:
    print("slurm VERSION")
elif name == "sinfo":
    form = next(word for word in words if word.startswith("--Format="))
    separator = form.removeprefix("--Format=PartitionName:0").split(",")[0]
    print((recorded / "sinfo.txt").read_bytes().decode().replace("\\x1fSEP", separator), end="")
elif words[1:] == ["config"]:
    print(Path("SETTINGS").read_text(), end="")
elif name == "scontrol":
    print((recorded / (words[1] + "s.txt").replace("ss.", "s.")).read_text(), end="")
elif name == "sacct":
    sys.exit("Slurm accounting storage is disabled")
"""
SITE = """
[compute.cluster]
kind = "slurm"
options = { partition = "classical", cores = 4, memory = "8 GiB", walltime = "1 h" }
[qpu.vlq]
backend = "aer"
[qpu.vlq.slurm]
gres = "qpu:1"
partition = "quantum"
license = "qpu_piast:1"
"""


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def look(
        site: str = SITE, version: str = "22.05.8", settings: Path = RECORDED / "configs.txt"
    ) -> dict[str, tuple[str, str]]:
        binaries = tmp_path / "bin"
        binaries.mkdir(exist_ok=True)
        for name in ("sbatch", "sinfo", "scontrol", "sacct"):
            program = binaries / name
            text = PROGRAM.replace("VERSION", version).replace("SETTINGS", str(settings))
            program.write_text(text)
            program.chmod(0o700)
        monkeypatch.setenv("PATH", f"{binaries}:/usr/bin:/bin")
        file = tmp_path / "hpcqc.toml"
        file.write_text(site)
        names = (
            "slurm",
            "slurm version",
            "slurm accounting",
            "compute cluster",
            "QPU vlq in slurm",
            "QPU vlq in slurm.conf",
            "slurm.conf",
            "state folder",
            "driver jobs",
        )
        found = [check for check in diagnose(file) if check.name in names]
        return {check.name: (check.state, check.detail) for check in found}

    return look


def test_a_cluster_that_has_what_the_site_asks_for(checks) -> None:
    found = checks()
    assert found["slurm"] == ("ok", "22.05.8, partitions: classical (default), scavenge, quantum")
    assert {name: state for name, (state, _) in found.items() if name != "state folder"} == {
        "slurm": "ok",
        "slurm accounting": "note",
        "compute cluster": "ok",
        "QPU vlq in slurm": "ok",
        "QPU vlq in slurm.conf": "note",  # it has another licence
    }


@pytest.mark.parametrize(
    ("change", "name", "state", "word"),
    [
        (("qpu_piast:1", "qpu_lab:1"), None, "ok", ""),  # as AccountingStorageTRES has it
        (("qpu_piast:1", "other:1"), "QPU vlq in slurm.conf", "note", "license/other"),
        (('"qpu:1"', '"fpga:1"'), "QPU vlq in slurm.conf", "broken", "gres/fpga"),
        (('"qpu:1"', '"qpu:vlq:1"'), "QPU vlq in slurm.conf", "broken", "gres/qpu:vlq"),
    ],
)
def test_what_slurm_must_account_of_a_qpu(checks, change, name, state, word) -> None:
    found = checks(SITE.replace(*change))
    conf = {key: value for key, value in found.items() if key.endswith("slurm.conf")}
    assert [*conf] == ([] if name is None else [name])
    for found_state, detail in conf.values():
        assert found_state == state
        assert word in detail


def test_a_cluster_that_stores_no_comments_is_noted(checks, tmp_path) -> None:
    shown = (RECORDED / "configs.txt").read_text().replace("job_comment", "job_env")
    (tmp_path / "configs.txt").write_text(shown)
    state, detail = checks(settings=tmp_path / "configs.txt")["slurm.conf"]
    assert state == "note"
    assert "job_comment" in detail


@pytest.mark.parametrize(
    ("change", "name", "word"),
    [
        (('"classical"', '"clasical"'), "compute cluster", "'classical'"),
        (("cores = 4", "cores = 400"), "compute cluster", "400"),
        (("8 GiB", "80 GiB"), "compute cluster", "80 GiB"),
        (("1 h", "30 d"), "compute cluster", "walltime"),
        (("cores = 4", "gpus = 1, gpu_partition = 'quantum'"), "compute cluster", "'quantum'"),
        (("[qpu.vlq]\n", "[batch]\nwalltime = '3 d'\n[qpu.vlq]\n"), "driver jobs", "walltime"),
        (("cores = 4", "coers = 4"), "compute cluster", "'coers'"),
        (('"qpu:1"', '"qpu:2"'), "QPU vlq in slurm", "'qpu'"),
        (("qpu_piast:1", "qpu_piast:5"), "QPU vlq in slurm", "qpu_piast"),
        (("qpu_piast:1", "qpu_lab:1"), "QPU vlq in slurm", "qpu_lab"),
    ],
)
def test_what_the_cluster_can_never_grant_is_broken(checks, change, name, word) -> None:
    state, detail = checks(SITE.replace(*change))[name]
    assert state == "broken"
    assert word in detail


def test_a_version_that_loses_licences_is_named(checks) -> None:
    state, detail = checks(version="25.05.3")["slurm version"]
    assert state == "note"
    assert "25.05.3" in detail
    assert "slurm version" not in checks(version="26.05.1")


@pytest.mark.parametrize("site", [SITE, "[qpu.vlq]\nbackend = 'aer'\n"])
def test_slurm_is_missed_only_where_the_site_uses_it(checks, monkeypatch, tmp_path, site) -> None:
    monkeypatch.setattr("orchestrator.doctor.shutil.which", lambda name: None)
    assert checks(site).get("slurm", ("absent", ""))[0] == (
        "broken" if "slurm" in site else "absent"
    )


@pytest.mark.parametrize(
    ("version", "loses"),
    [
        ((22, 5, 8), False),
        ((24, 11, 9), False),
        ((25, 5, 0), True),
        ((25, 5, 8), True),
        ((25, 11, 0), True),
        ((25, 11, 6), True),
        ((25, 11, 7), False),
        ((26, 5, 0), False),
    ],
)
def test_versions_that_lose_licences(version, loses) -> None:
    assert loses_licences(version) is loses
    assert bool(faults_of(version)) is loses


def test_a_state_folder_without_locks_is_broken(checks, monkeypatch, tmp_path) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "state"))
    assert checks()["state folder"][0] != "broken"
    monkeypatch.setattr("fcntl.flock", refuse)
    assert checks()["state folder"][0] == "broken"
