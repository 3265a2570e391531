"""What happens on import: nothing, and little for `hpcqc --help`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.architecture.source import ROOT, read_modules
from tests.patience import PATIENCE_S

# Module -> why the parent process never imports it.
WORKER_ONLY = {
    "backends.aer.worker": "Aer's processes fork with Aer loaded",
    "backends.ibm.offline": "IBM's fake devices are simulated by Aer, which a site file asks for",
}

# Packages of vendors, of which each environment has some; modules that import one are left out.
SDKS = [
    "boto3",
    "botocore",
    "braket",
    "dimod",
    "dwave",
    "iqm",
    "minorminer",
    "mqt",
    "pulser",
    "pulser_simulation",
    "qiskit_aqt_provider",
    "qiskit_ibm_runtime",
    "qrmi",
]

MOST_HELP_MODULES = 320
needs_command_line = pytest.mark.skipif(
    importlib.util.find_spec("orchestrator.cli") is None, reason="there is no command line yet"
)

_IMPORT_ALL = """
import importlib, json, sys, threading
sdks = json.loads(sys.argv[2])
sys.modules.update(dict.fromkeys(sdks))
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in sdks:
            raise
ours = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
print(json.dumps({"modules": sorted(sys.modules), "threads": ours}))
"""


@needs_command_line
def test_help_imports_neither_qiskit_nor_prefect() -> None:
    code = (
        "import sys\nsys.argv = ['hpcqc', '--help']\n"
        "from orchestrator.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('MODULES', *sys.modules)\n"
    )
    done = _python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    modules = done.stdout.split("MODULES ")[1].split()
    assert len(modules) < MOST_HELP_MODULES, "each costs a millisecond before the first word"
    loaded = {name.split(".")[0] for name in modules}
    heavy = {
        "dask",
        "distributed",
        "fastapi",
        "matplotlib",
        "numpy",
        "prefect",
        "pydantic",
        "scipy",
    }
    assert not loaded & (heavy | {"qiskit", "qiskit_aer", "sqlalchemy"})


@pytest.mark.slow
def test_importing_does_nothing(tmp_path) -> None:
    """No thread, no file, no output, and no Aer in the parent process."""
    state = tmp_path / "state"
    folder = tmp_path / "cwd"
    folder.mkdir()
    names = [m.name for m in read_modules(packages=("backends", "hpcqc", "orchestrator"))]
    names = [n for n in names if n not in WORKER_ONLY and not n.endswith("__main__")]
    done = _python(
        "-c",
        _IMPORT_ALL,
        json.dumps(names),
        json.dumps(SDKS),
        cwd=folder,
        env=os.environ | {"HPCQC_STATE_DIR": str(state), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["threads"] == []
    assert "qiskit_aer" not in seen["modules"]
    assert "flows" not in seen["modules"], "the orchestrator imports flows by name"
    assert not state.exists()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("package", ["backends", "hpcqc", "orchestrator"])
def test_a_package_alone_imports_neither_qiskit_nor_prefect(package) -> None:
    done = _python("-c", f"import sys, {package}\nprint(*{{n.split('.')[0] for n in sys.modules}})")
    assert done.returncode == 0, done.stderr
    assert not {"qiskit", "prefect", "dask"} & set(done.stdout.split())


def _python(*arguments: str, cwd=ROOT, env=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
