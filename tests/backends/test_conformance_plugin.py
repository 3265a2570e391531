"""A backend of another distribution is found, created and right."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from qiskit import QuantumCircuit

from backends import registry
from backends.payloads import SamplerPayload
from backends.plugins import PluginUnusable, UnknownPlugin
from backends.testing import BackendConformance
from tests.errors import naming
from tests.packages import installed_package
from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Lay the plugin out as an installer would: its module and its metadata on the path."""
    plainer = (
        "import plainvector\nmade = []\n"
        "def create(options, *, state_dir):\n"
        "    made.append(state_dir)\n"
        "    return plainvector.create(options, state_dir=state_dir)\n"
    )
    source = (PLUGIN / "plainvector.py").read_text(encoding="utf-8")
    points = {
        "plainvector": "plainvector:create",
        "plainer": "plainer:create",
        "broken": "nowhere:create",
    }
    with installed_package(
        tmp_path_factory.mktemp("site-packages"),
        "hpcqc-plainvector",
        {"plainvector": source, "plainer": plainer},
        {"orchestrator.backends": points},
    ) as place:
        yield place


@pytest.mark.usefixtures("installed")
class TestPlugin(BackendConformance):
    takes = frozenset({"sampler"})

    @classmethod
    def make_backend(cls, state_dir):
        return registry.create("plainvector", {"qubits": 6}, state_dir=state_dir)

    @classmethod
    def describe(cls):
        return registry.describe("plainvector", {"qubits": 6})


def test_it_is_listed_without_being_imported(installed):
    assert "plainvector" in registry.available()
    code = (
        "import sys; from backends import registry; "
        "print('plainvector' in registry.available(), 'plainvector' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(installed)!r}]; {code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"]


def test_it_refuses_options_it_does_not_know(installed, tmp_path):
    with pytest.raises(ValueError, match=naming("qubits")):
        registry.create("plainvector", {"qbits": 3}, state_dir=tmp_path)


def test_a_backend_that_does_not_import_is_explained(installed, tmp_path):
    with pytest.raises(PluginUnusable, match=naming("broken")):
        registry.create("broken", {}, state_dir=tmp_path)


def test_an_unknown_backend_names_those_there_are(installed, tmp_path):
    with pytest.raises(UnknownPlugin, match=naming("plainvectr", "plainvector")):
        registry.create("plainvectr", {}, state_dir=tmp_path)


def test_a_factory_that_cannot_describe_is_asked_for_a_backend(installed):
    described = registry.describe("plainer", {"qubits": 3})
    assert described == registry.describe("plainvector", {"qubits": 3})
    (state_dir,) = sys.modules["plainer"].made
    assert not state_dir.exists()
    assert registry.result_options("plainer", {"qubits": 3}) == {"qubits": 3}


@pytest.mark.slow
def test_pip_installs_it(tmp_path):
    """Build offline and without dependencies: the test is of the wheel's content."""
    site = tmp_path / "site"
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels)]
    subprocess.run([*build, str(PLUGIN)], check=True, capture_output=True, timeout=PATIENCE_S)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import sys, pathlib; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from backends import registry\n"
        "qpu = registry.create('plainvector', {}, state_dir=pathlib.Path(sys.argv[1]) / 'state')\n"
        "print(qpu.target().num_qubits)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site), str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "12\n"


def test_its_circuits_are_not_mixed_up(installed, tmp_path):
    qpu = registry.create("plainvector", {}, state_dir=tmp_path)
    circuit = QuantumCircuit(3, 2)
    circuit.x(2)
    circuit.cx(2, 0)
    circuit.measure([0, 1], [1, 0])
    session = qpu.acquire()
    task = qpu.start(session, SamplerPayload.coerce([circuit], shots=5), "t")
    while not qpu.status(task).is_final:
        pass
    assert qpu.result(task).native[0].data.c.get_counts() == {"10": 5}
    qpu.close()
