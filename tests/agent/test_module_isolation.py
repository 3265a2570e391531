"""Users' modules on shared workers, in a process of its own: the import state is what is tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.patience import PATIENCE_S

SCRIPT = """
import json, os, sys, time
from pathlib import Path
from orchestrator.compute.module_isolation import activate_paths, own_paths, note_file_times

first, second = Path(sys.argv[1]) / "first", Path(sys.argv[1]) / "second"
said = []

def visit(folder):
    forgot = activate_paths((str(folder),))
    import same_name
    note_file_times()
    said.append([forgot, same_name.VALUE])
    del same_name

def write(folder, value, age):
    path = folder / "same_name.py"
    path.write_text(f"VALUE = {value!r}")
    os.utime(path, (1e9 + age, 1e9 + age))

for folder in (first, second):
    folder.mkdir()
    write(folder, folder.name, 0)
visit(first)
visit(first)
visit(second)
visit(first)
write(first, "changed", 10)
visit(first)
(first / "same_name.py").unlink()
visit(second)
said.append([str(second) in own_paths(), str(first) in sys.path])
print(json.dumps(said))
"""


def test_each_visitor_sees_its_own_modules_as_they_are_now(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        [True, "first"],
        [False, "first"],  # nothing to forget: a module is loaded once
        [True, "second"],
        [True, "first"],
        [True, "changed"],
        [True, "second"],
        [True, False],
    ]
