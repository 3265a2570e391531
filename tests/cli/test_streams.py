"""Output of commands where stdout takes no Unicode, is full, is closed, or has lost its reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.cli.streams import LastingStream
from tests.architecture.source import ROOT

ENCODINGS = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
BELL = (
    'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[2];\ncreg c[2];\n'
    "h q[0];\ncx q[0],q[1];\nmeasure q->c;\n"
)
FLOW = """
import sys
from pathlib import Path
from prefect import flow


@flow
def talking(lines: int = 1):
    for _ in range(lines):
        print("Grüße … → 🎉", flush=True)
    Path("it-ended").touch()
    return {"summary": ["≤ Å …"], "table": {"columns": ["θ"], "rows": [["é…"]]}, "x": "\\udcff"}
"""


def hpcqc(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("variables", {})
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *arguments],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        check=False,
        **{"stdout": subprocess.PIPE} | options,
    )


# What ASCII can carry, Latin-1 can: the slow tests try both.
@pytest.mark.parametrize("encoding", [pytest.param("latin-1", marks=pytest.mark.slow), "C"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["qpu", "show", "vlq"], 0),  # its notes hold µ and ·
        (["run", "é…🎉.py"], 2),
        (["simulate", "--help"], 0),
    ],
)
def test_a_command_in_an_encoding_without_unicode(tmp_path, encoding, arguments, code) -> None:
    done = hpcqc(tmp_path, *arguments, variables=ENCODINGS[encoding])
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Unicode" not in done.stderr
    if "--help" not in arguments:  # Click writes UTF-8 where it is told ASCII
        (done.stdout + done.stderr).decode("latin-1" if encoding == "latin-1" else "ascii")


@pytest.mark.parametrize("encoding", [pytest.param("latin-1", marks=pytest.mark.slow), "C"])
def test_json_is_json_in_every_encoding(tmp_path, encoding) -> None:
    done = hpcqc(tmp_path, "qpu", "show", "vlq", "--json", variables=ENCODINGS[encoding])
    assert "µ" in json.dumps(json.loads(done.stdout), ensure_ascii=False)


def test_a_reader_that_has_gone_is_no_error(tmp_path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = hpcqc(tmp_path, "config", "show", stdout=writing)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1


def test_closed_streams(tmp_path) -> None:
    command = f'"{sys.executable}" -m orchestrator.cli config show'
    for closed, code in ((">&-", 0), (">&- 2>&-", 0)):
        done = subprocess.run(
            ["sh", "-c", f"{command} {closed}"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_does_not_fit_is_an_error(tmp_path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = hpcqc(tmp_path, "config", "show", stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"Error: the output cannot be written: No space left on device\n"


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_run_in_an_encoding_without_unicode(tmp_path, encoding) -> None:
    (tmp_path / "talking.py").write_text(FLOW, encoding="utf-8")
    done = hpcqc(tmp_path, "run", "talking.py", "--out", "o", variables=ENCODINGS[encoding])
    assert done.returncode == 0, done.stderr
    assert b"... -> \\U0001f389" in done.stdout
    result = json.loads((tmp_path / "o" / "result.json").read_text(encoding="utf-8"))
    assert result["summary"] == ["≤ Å …"]
    assert result["x"] == "\udcff"
    assert (tmp_path / "o" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_sample_in_an_encoding_without_unicode(tmp_path, encoding) -> None:
    (tmp_path / "bell.qasm").write_text(BELL)
    arguments = ("sample", "bell.qasm", "--top", "1", "--seed", "1")
    done = hpcqc(tmp_path, *arguments, variables=ENCODINGS[encoding])
    assert done.returncode == 0, done.stderr
    assert b"1 more outcome" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_run_outlives_the_reader_of_its_output(tmp_path) -> None:
    (tmp_path / "talking.py").write_text(FLOW, encoding="utf-8")
    reading, writing = os.pipe()
    os.close(reading)
    done = hpcqc(tmp_path, "run", "talking.py", "-p", "lines=3", "--out", "o", stdout=writing)
    os.close(writing)
    assert done.stderr == b""
    assert (tmp_path / "it-ended").exists()
    assert json.loads((tmp_path / "o" / "run.json").read_text())["status"] == "completed"


def test_threads_that_write_to_one_stream_keep_their_lines_whole(tmp_path) -> None:
    lines = [f"{letter * 200}\n" for letter in "ab"]
    with (tmp_path / "out").open("w", encoding="utf-8") as out:

        def write(line: str) -> None:
            stream = LastingStream(out)  # as a run's progress and the flow's own output have it
            for _ in range(5000):
                stream.write(line)
                stream.flush()

        threads = [threading.Thread(target=write, args=(line,)) for line in lines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = (tmp_path / "out").read_text(encoding="utf-8").splitlines(keepends=True)
    assert sorted(written) == sorted(lines * 5000)
