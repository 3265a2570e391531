"""What bash and sbatch read in a script is what was meant."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.slurm import JobResources, JobScript, JobScriptError

LINES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).filter(
    lambda text: "\r\n" not in text and not text.endswith("\r")  # sbatch refuses DOS line ends
)
NAMES = st.from_regex(r"\AV[A-Z0-9_]{0,10}\Z").filter(lambda name: not name.startswith("VIRTUAL"))


def script(**changes) -> JobScript:
    known = {
        "name": "n",
        "tag": "hpcqc:v1:r:worker:0",
        "resources": JobResources(),
        "body": ("true",),
        "directory": Path("/tmp"),
        "output": Path("/tmp/o.txt"),
    }
    return JobScript(**(known | changes))


def components(text: str) -> list[dict[str, str]]:
    """Read the options of each component as sbatch does: quotes, and a backslash within them."""
    found: list[dict[str, str]] = [{}]
    for line in text.splitlines()[1:]:
        if not line.startswith("#SBATCH "):
            break
        option = line.removeprefix("#SBATCH ")
        if option == "hetjob":
            found.append({})
            continue
        name, equals, value = option.removeprefix("--").partition("=")
        assert name not in found[-1], f"--{name} twice"
        found[-1][name] = shlex.split(value, comments=True)[0] if equals else ""
    return found


@given(name=LINES, tag=LINES)
def test_sbatch_reads_names_and_tags_as_they_are(name: str, tag: str) -> None:
    (options,) = components(script(name=name, tag=tag).text())
    assert (options["job-name"], options["comment"]) == (name, tag)


@given(folder=LINES.filter(lambda text: not set("/\\") & set(text) and text not in (".", "..")))
def test_sbatch_reads_paths_as_they_are(folder: str) -> None:
    path = Path("/tmp") / folder
    (options,) = components(script(directory=path, output=path / "o").text())
    assert options["chdir"] == str(path)
    assert options["output"].replace("%%", "%") == str(path / "o")
    assert "%" not in options["output"].replace("%%", "")


@settings(max_examples=40, deadline=None)
@given(environment=st.dictionaries(NAMES, VALUES, max_size=3), words=st.lists(VALUES, max_size=3))
def test_bash_runs_the_body_with_the_variables_and_words_that_were_meant(
    environment: dict[str, str], words: list[str]
) -> None:
    show = "import json,os,sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))"
    text = script(
        environment=environment, body=(shlex.join([sys.executable, "-c", show, *words]),)
    ).text()
    done = subprocess.run(
        ["bash"], input=text.encode(), stdout=subprocess.PIPE, check=True, env={"PATH": "/usr/bin"}
    )
    found, seen = json.loads(done.stdout)
    assert seen == words
    assert {name: found[name] for name in environment} == environment


def test_files_that_a_job_makes_are_its_owners_alone(tmp_path: Path) -> None:
    made = tmp_path / "made"
    text = script(body=(f"touch {shlex.quote(str(made))}",)).text()
    subprocess.run(["bash"], input=text.encode(), check=True)
    assert made.stat().st_mode & 0o777 == 0o600


def test_a_module_that_cannot_be_loaded_ends_the_job() -> None:
    text = script(modules=("gcc/13.2",), body=("echo body",)).text()
    done = subprocess.run(["bash"], input=text.encode(), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (78, b"")


def test_each_component_asks_for_its_own() -> None:
    text = script(
        resources=JobResources(
            partition="classical",
            walltime=timedelta(days=1, seconds=61),
            nodes=2,
            cores=4,
            memory_bytes=(1 << 30) + 1,
            gpus=2,
            gres="disk:1",
            licenses="qpu_lab:1",
            exclusive=True,
        ),
        also=(JobResources(partition="quantum", gres="qpu:1"),),
        held=True,
        signal_s=30,
        dependency="afterok:7",
        extra=("--mail-type=END", "--nice"),
    ).text()
    first, second = components(text)
    assert (
        first.items()
        >= {
            "partition": "classical",
            "time": "1-00:02:00",
            "nodes": "2",
            "ntasks-per-node": "1",
            "cpus-per-task": "4",
            "mem": "1025M",
            "gres": "gpu:2,disk:1",
            "licenses": "qpu_lab:1",
            "exclusive": "",
            "hold": "",
            "no-requeue": "",
            "signal": "B:TERM@30",
            "dependency": "afterok:7",
            "kill-on-invalid-dep": "yes",
            "mail-type": "END",
            "nice": "",
        }.items()
    )
    assert second == {
        "partition": "quantum",
        "nodes": "1",
        "ntasks-per-node": "1",
        "gres": "qpu:1",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "two\nlines"},
        {"name": ""},
        {"name": "a" * 5000},
        {"tag": "bell\a"},
        {"directory": Path("relative")},
        {"directory": Path("/tmp/new\nline")},
        {"output": Path("/tmp/back\\slash")},
        {"environment": {"HPCQC_BROKER_TOKEN": "x"}},
        {"environment": {"MY_PASSWORD": "x"}},
        {"environment": {"A B": "x"}},
        {"environment": {"A": "x\0"}},
        {"environment": {"A": "\udcff"}},
        {"modules": ("gcc; rm -rf /",)},
        {"modules": ("--help",)},
        {"body": ("a\0b",)},
        {"body": ("dos\r", "lines")},
        {"extra": ("--comment=mine",)},
        {"extra": ("--comm=mine",)},
        {"extra": ("--o elsewhere",)},
        {"extra": ("--output=elsewhere",)},
        {"extra": ("--clusters=other",)},
        {"extra": ("--cluster other",)},
        {"extra": ("-p classical",)},
        {"extra": ("--mail-user=a\n#SBATCH --hold",)},
        {"resources": JobResources(partition="a\nb")},
        {"resources": JobResources(account="")},
        {"also": (JobResources(licenses="qpu_lab:1"),)},
    ],
)
def test_what_cannot_be_written_into_a_script_is_refused(changes) -> None:
    with pytest.raises(JobScriptError):
        script(**changes).text()


@pytest.mark.parametrize(
    "changes",
    [{"nodes": 0}, {"cores": 0}, {"gpus": -1}, {"memory_bytes": 0}, {"walltime": timedelta()}],
)
def test_amounts_are_checked(changes) -> None:
    with pytest.raises(JobScriptError):
        JobResources(**changes)
