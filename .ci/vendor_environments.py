"""Install vendors' software for the tests: extras beside hpcqc, SDKs in environments of their own.

``python .ci/vendor_environments.py FOLDER`` makes what FOLDER lacks: ``FOLDER/extras``, the environment
that runs this program with the extras ibm and qdmi added, and ``FOLDER/BACKEND`` for each backend
whose SDK conflicts with hpcqc's packages. What cannot be installed is named, and its tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

from backends.child.managed import CURRENT
from backends.registry import packages_of

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("ibm", "qdmi")
CONFLICTING = ("aqt", "braket", "iqm", "pasqal")
LONGEST_S = 600


def main(folder: Path) -> None:
    """Make what the folder lacks."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    if _is_new(folder / "extras", constraints):
        _make_extras(folder / "extras", constraints)
    for backend in CONFLICTING:
        requirements = packages_of(backend).requirements
        if _is_new(folder / backend, "\n".join(requirements)):
            _make_own(folder / backend, requirements)


def _is_new(place: Path, asked: str) -> bool:
    """Whether a folder was not made for this; removes what was made for something else."""
    complete = place / "complete"
    if complete.exists() and complete.read_text(encoding="utf-8") == asked:
        return False
    shutil.rmtree(place, ignore_errors=True)
    return True


def _make_extras(place: Path, constraints: str) -> None:
    venv.create(place, with_pip=False)
    packages = place / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    # The packages of this environment, and what its own .pth files add: hpcqc itself.
    own = json.dumps(sysconfig.get_paths()["purelib"])
    (packages / "beside.pth").write_text(f"import site; site.addsitedir({own})\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python")]
    wanted = ["-c", str(ROOT / "constraints.txt"), *_extras()]
    if _ran([*pip, "install", "--quiet", "--disable-pip-version-check", *wanted], place):
        (place / "complete").write_text(constraints, encoding="utf-8")


def _extras() -> list[str]:
    """Return the requirements of the extras; hpcqc itself is not installed a second time."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    return [requirement for extra in EXTRAS for requirement in known[extra]]


def _make_own(place: Path, requirements: tuple[str, ...]) -> None:
    made = place / "made"
    python = str(made / "bin" / "python")
    uv = str(Path(sys.executable).with_name("uv"))
    if _ran([uv, "venv", "--quiet", "--python", sys.executable, str(made)], place) and _ran(
        [uv, "pip", "install", "--quiet", "--python", python, *requirements], place
    ):
        (place / CURRENT).symlink_to(made.name)
        (place / "complete").write_text("\n".join(requirements), encoding="utf-8")


def _ran(command: list[str], place: Path) -> bool:
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"UV_LINK_MODE": "copy"},
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        problem = done.stderr.strip()[-300:] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        print(f"NOT INSTALLED, so its tests are skipped: {place.name}: {problem}", file=sys.stderr)
    return not problem


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]).absolute())
