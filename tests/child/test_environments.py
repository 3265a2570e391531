"""Managed environments: made once, locked, private, replaced as a whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.child import installation
from backends.child.environment import installer_variables
from backends.child.installation import InstallationFailed, install
from backends.child.managed import (
    CURRENT,
    LOCK,
    managed_environment,
    managed_interpreter,
)
from backends.plugins import PluginUnusable, UnknownPlugin
from backends.registry import BackendPackages
from tests.errors import naming


def add_wheel(folder, version, *, code="") -> str:
    """Write a wheel of a package ``tinysdk``; return its digest."""
    path = folder / f"tinysdk-{version}-py3-none-any.whl"
    info = f"tinysdk-{version}.dist-info"
    files = {
        "tinysdk.py": code or f"VERSION = {version!r}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tinysdk\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in files))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder that is all that pip finds; the backend ``tiny`` asks for a package in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    packages = BackendPackages(requirements=("tinysdk>=1",), imports=("tinysdk",))
    monkeypatch.setattr(installation, "packages_of", lambda _name: packages)
    return folder


@pytest.fixture
def environments(tmp_path):
    return tmp_path / "state" / "environments"


def version_in(environments) -> str:
    python = managed_interpreter(environments, "tiny")
    command = [str(python), "-I", "-c", "import tinysdk; print(tinysdk.VERSION)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_an_environment_is_made_locked_and_private(wheels, environments) -> None:
    digest = add_wheel(wheels, "1.0")
    made = install("tiny", environments)
    assert made.packages == {"tinysdk": "1.0"}
    assert version_in(environments) == "1.0"
    current = environments / "tiny" / CURRENT
    assert (current / LOCK).read_text() == f"tinysdk==1.0 --hash=sha256:{digest}\n"
    assert managed_environment(environments, "tiny") == made
    for folder in (environments, environments / "tiny", current.resolve()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_one_that_is_there_stays_until_it_is_upgraded(wheels, environments) -> None:
    add_wheel(wheels, "1.0")
    first = install("tiny", environments)
    add_wheel(wheels, "1.1")
    assert install("tiny", environments) == first
    assert install("tiny", environments, upgrade=True).packages == {"tinysdk": "1.1"}
    assert version_in(environments) == "1.1"


def test_a_lock_makes_the_same_again_and_refuses_another_file(wheels, environments) -> None:
    add_wheel(wheels, "1.0")
    install("tiny", environments)
    lock = environments.parent / "lock.txt"
    lock.write_text((environments / "tiny" / CURRENT / LOCK).read_text())
    add_wheel(wheels, "1.1")
    other = environments.parent / "other"
    assert install("tiny", other, lock=lock).packages == {"tinysdk": "1.0"}
    add_wheel(wheels, "1.0", code="VERSION = 'changed'")
    with pytest.raises(InstallationFailed, match=naming(lock)):
        install("tiny", other, lock=lock)
    assert version_in(other) == "1.0"


@pytest.mark.parametrize(
    ("code", "named"),
    [("import no_such_library", ["no_such_library"]), ("raise OSError('no GPU')", ["no GPU"])],
)
def test_an_sdk_that_does_not_import_leaves_the_old_one(wheels, environments, code, named) -> None:
    add_wheel(wheels, "1.0")
    install("tiny", environments)
    add_wheel(wheels, "2.0", code=code)
    with pytest.raises(InstallationFailed, match=naming("tinysdk", *named)):
        install("tiny", environments, upgrade=True)
    assert version_in(environments) == "1.0"
    folders = [p for p in (environments / "tiny").iterdir() if p.is_dir() and not p.is_symlink()]
    assert len(folders) == 1


def test_what_cannot_be_found_is_named(wheels, environments) -> None:
    with pytest.raises(InstallationFailed, match=naming("tinysdk>=1")):
        install("tiny", environments)
    with pytest.raises(PluginUnusable, match=naming("tiny", "hpcqc backends install tiny")):
        managed_interpreter(environments, "tiny")


def test_no_network_is_told_in_a_sentence(wheels, environments, monkeypatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(InstallationFailed, match=naming("index", "PIP_INDEX_URL")):
        install("tiny", environments)


def test_packages_find_no_secrets_of_the_user(wheels, environments, monkeypatch) -> None:
    monkeypatch.setenv("CLOUD_TOKEN", "s3cret")
    monkeypatch.setenv("PIP_PASSWORD_OF_INDEX", "s3cret")
    found = "import os\nassert not [n for n, v in os.environ.items() if v == 's3cret']\n"
    add_wheel(wheels, "1.0", code=found)
    assert install("tiny", environments).packages == {"tinysdk": "1.0"}


def test_pip_gets_what_it_needs_and_nothing_else() -> None:
    needed = {
        "PATH": "/bin",
        "HOME": "/nowhere",
        "TMPDIR": "/scratch",
        "LC_ALL": "C",
        "CC": "gcc",
        "https_proxy": "http://p",
        "ALL_PROXY": "http://p",
        "SSL_CERT_FILE": "/ca.pem",
        "PIP_INDEX_URL": "https://i",
        "PIP_CERT": "/ca.pem",
    }
    others = dict.fromkeys(
        ("CLOUD_TOKEN", "HPCQC_BROKER_TOKEN", "PYTHONPATH", "PIP_TARGET", "VIRTUAL_ENV"), "x"
    )
    assert installer_variables(source=needed | others) == needed


def test_two_that_install_at_once_leave_a_whole_environment(wheels, environments) -> None:
    add_wheel(wheels, "1.0")
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: install("tiny", environments, upgrade=True), range(2)))
    assert [one.packages for one in made] == [{"tinysdk": "1.0"}] * 2
    assert version_in(environments) == "1.0"


@pytest.mark.parametrize("place", [".", "tiny", f"tiny/{CURRENT}", f"tiny/{CURRENT}/bin"])
@pytest.mark.parametrize("mode", [0o702, 0o720, 0o777])
def test_one_that_others_can_write_is_refused(environments, place, mode) -> None:
    binaries = environments / "tiny" / "made" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").touch()
    (environments / "tiny" / CURRENT).symlink_to("made")
    for folder in (binaries, *binaries.parents[:3]):
        folder.chmod(0o700)
    assert managed_interpreter(environments, "tiny") == binaries / "python"
    (environments / place).chmod(mode)
    with pytest.raises(PluginUnusable, match=naming(f"{mode:04o}")):
        managed_interpreter(environments, "tiny")
    with pytest.raises(PluginUnusable):
        managed_environment(environments, "tiny")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_one_that_belongs_to_another_is_refused(environments) -> None:
    binaries = environments / "tiny" / "made" / "bin"
    binaries.mkdir(parents=True, mode=0o700)
    (binaries / "python").touch()
    (environments / "tiny" / CURRENT).symlink_to("made")
    for folder in (binaries, *binaries.parents[:3]):
        folder.chmod(0o700)
    os.chown(binaries.parent, 12345, -1)
    with pytest.raises(PluginUnusable, match=naming(12345)):
        managed_interpreter(environments, "tiny")


def test_a_damaged_manifest_is_told(environments) -> None:
    folder = environments / "tiny" / "made"
    folder.mkdir(parents=True, mode=0o700)
    (environments / "tiny" / CURRENT).symlink_to("made")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o700)
    for text in ("", "{}", "[]", '{"requirements": 3}'):
        (folder / "environment.json").write_text(text)
        with pytest.raises(PluginUnusable, match=naming("--upgrade")):
            managed_environment(environments, "tiny")


def test_a_backend_without_packages_has_no_environment(environments) -> None:
    with pytest.raises(PluginUnusable, match=naming("aer")):
        install("aer", environments)
    with pytest.raises(UnknownPlugin, match=naming("nosuch")):
        install("nosuch", environments)
    assert not environments.exists()
