"""The environment variables hpcqc heeds, what they mean, and where Prefect finds its own; no other module reads them."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.errors import ConfigError

__all__ = [
    "VARIABLES",
    "SharedCluster",
    "broker_from_environment",
    "budgets_of",
    "budgets_of_environment",
    "config_dir",
    "hand_down",
    "labels_of_environment",
    "own_environment_kept",
    "own_variables",
    "prefect_is_configured",
    "prepare_prefect",
    "process_environment",
    "services_are_chosen",
    "shared_cluster",
    "silence_telemetry",
    "site_file",
    "slurm_account",
    "state_dir",
    "variable",
]

VARIABLES: Mapping[str, str] = {
    "HPCQC_SITE": "path of the site file, where `--site` is not given; `built-in` for the laptop",
    "HPCQC_STATE_DIR": "folder of the ledger and the backends' records",
    "HPCQC_RUN_ID": "id of the run; the id of an interrupted run continues it",
    "HPCQC_DASK_ADDRESS": "a running Dask scheduler, `tls://HOST:PORT`, to use for the site's "
    "default compute",
    "HPCQC_DASK_CREDENTIALS": "PEM file, mode 0600, with your certificate for that scheduler, its "
    "key and the authority's certificate; `none` accepts a cluster without authentication",
    "HPCQC_QPU": "QPU of the stages that pin none, where there is no `--qpu`",
    "HPCQC_LABELS": "labels of the data of all jobs, beside those of the site file; several with "
    "commas between",
    "HPCQC_BUDGET": "what the run may cost, as `10 billed-s`; several with commas between",
    "HPCQC_BROKER_URL": "the broker service to use; comes before the site file's `[broker] url`",
    "HPCQC_BROKER_TOKEN": "the user's token for that service",
    "HPCQC_QRMI_CONFIG": "QRMI's `qrmi_config.json`, where it is not in `/etc/slurm`",
    "QRMI_JOB_QPU_RESOURCES": "QPU resources of a Slurm job, as QRMI's plugin sets them with "
    "`QRMI_JOB_QPU_TYPES`; the first one is the default QPU",
    "XDG_STATE_HOME": "its `hpcqc` folder is the state folder where HPCQC_STATE_DIR is not set",
    "XDG_CONFIG_HOME": "its `hpcqc/hpcqc.toml` is the user's site file",
    "PREFECT_API_URL": "a running Prefect server to use instead of a temporary one",
    "NO_PROXY": "hosts that are reached directly; this machine always is. `HTTP_PROXY`, "
    "`HTTPS_PROXY` and `ALL_PROXY` serve brokers on other machines, in either case of letters",
}


def process_environment(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Return ``environ`` if given, else this process's environment."""
    return os.environ if environ is None else environ


def variable(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return one of `VARIABLES`, None if it is unset or empty."""
    assert name in VARIABLES
    return process_environment(environ).get(name) or None


def own_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of ours that are set and not empty."""
    ours = (name for name in VARIABLES if name.startswith("HPCQC_"))
    return {name: value for name in ours if (value := variable(name, environ)) is not None}


def broker_from_environment(
    environ: Mapping[str, str] | None = None,
) -> tuple[str | None, str | None]:
    """Return the broker service's url, and which variable holds its token; None for what is unset."""
    token = "HPCQC_BROKER_TOKEN"
    return variable("HPCQC_BROKER_URL", environ), token if variable(token, environ) else None


def site_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the site file that ``HPCQC_SITE`` names, None if it is unset or empty."""
    named = variable("HPCQC_SITE", environ)
    return Path(named).expanduser() if named else None


def services_are_chosen(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the user has named a Prefect server, a broker or a Dask scheduler to use."""
    named = ("PREFECT_API_URL", "HPCQC_BROKER_URL", "HPCQC_DASK_ADDRESS")
    return any(variable(name, environ) for name in named) or prefect_is_configured(environ)


def prefect_is_configured(
    environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> bool:
    """Whether Prefect may find a server in files: a profile, ``prefect.toml``, ``.env``, …."""
    known = process_environment(environ)
    home = Path(known.get("PREFECT_HOME") or Path(known.get("HOME") or Path.home()) / ".prefect")
    named = known.get("PREFECT_PROFILES_PATH")
    places = [Path(named) if named else home / "profiles.toml"]
    places += [(folder or Path.cwd()) / name for name in ("prefect.toml", ".env", "pyproject.toml")]
    if known.get("PREFECT_PROFILE") or known.get("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"):
        return True
    return any(_mentions_prefect(place) for place in places)


def config_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the user's own configuration (XDG base directories)."""
    return _xdg("XDG_CONFIG_HOME", ".config", environ)


def state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder for what must outlive a run (XDG base directories)."""
    named = variable("HPCQC_STATE_DIR", environ)
    if named:
        return Path(named).expanduser().absolute()
    return _xdg("XDG_STATE_HOME", ".local/state", environ)


def prepare_prefect(defaults: Mapping[str, str]) -> None:
    """Set Prefect's variables before it is imported; what the user has set stays."""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def silence_telemetry() -> None:
    """Unless the user set otherwise, stop Prefect's telemetry: it logs errors if offline."""
    prepare_prefect({"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"})


def hand_down(values: Mapping[str, str]) -> None:
    """Set variables for this process's children, whatever they were before."""
    os.environ.update(values)


@contextmanager
def own_environment_kept() -> Iterator[None]:
    """Set, after the block, our variables and Prefect's back to what they were before it."""
    before = {name: os.environ[name] for name in _own_names()}
    try:
        yield
    finally:
        for name in _own_names():
            del os.environ[name]
        os.environ.update(before)


def _own_names() -> list[str]:
    return [name for name in os.environ if name.startswith(("HPCQC_", "PREFECT_"))]


def _xdg(variable: str, fallback: str, environ: Mapping[str, str] | None) -> Path:
    known = process_environment(environ)
    root = Path(known.get(variable, ""))
    if not root.is_absolute():  # the specification: relative values are to be ignored
        root = Path(known.get("HOME") or Path.home()) / fallback
    return root / "hpcqc"


def _mentions_prefect(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    if path.name == "prefect.toml":
        return True
    return "PREFECT_" in text or "[tool.prefect" in text


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCluster:
    """A running cluster. credentials: this user's PEM file, None for one that asks for none."""

    address: str
    credentials: Path | None


def shared_cluster(environ: Mapping[str, str] | None = None) -> SharedCluster | None:
    """Return the cluster of ``HPCQC_DASK_ADDRESS``, None if it is unset or empty.

    Raises `ConfigError` for credentials that are missing or that other users may read.
    """
    address = variable("HPCQC_DASK_ADDRESS", environ)
    if address is None:
        return None
    named = variable("HPCQC_DASK_CREDENTIALS", environ)
    if named == "none":
        return SharedCluster(address=address, credentials=None)
    if not address.startswith("tls://") or not named:
        raise ConfigError(
            f"HPCQC_DASK_ADDRESS names {address!r} without credentials, and whoever reaches such a "
            "cluster runs code as its owner; start it with TLS, give its tls:// address, and name "
            "your PEM file in HPCQC_DASK_CREDENTIALS (`none` accepts a cluster without)"
        )
    file = Path(named).expanduser()
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError as error:
        raise ConfigError(
            f"HPCQC_DASK_CREDENTIALS names {named!r}, which cannot be read: {error.strerror}; name "
            "a PEM file with your certificate, its key and the authority's certificate"
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"other users may use the credentials in {named!r} (mode {mode:04o}); "
            f"run `chmod 600 {named}`"
        )
    return SharedCluster(address=address, credentials=file)


def budgets_of(texts: Iterable[str]) -> dict[str, float | None]:
    """Read budgets by unit; ``none billed-s`` is no limit, of two in one unit the last counts.

    Raises ``ConfigError``.

    >>> budgets_of(["10 billed-s", "none qpu-s"])
    {'billed-s': 10.0, 'qpu-s': None}
    """
    return dict(_budget(text) for text in texts)


def budgets_of_environment() -> dict[str, float | None]:
    """Read the budgets that ``HPCQC_BUDGET`` holds. Raises ``ConfigError``."""
    return budgets_of(text for text in (variable("HPCQC_BUDGET") or "").split(",") if text.strip())


def labels_of_environment(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the labels that ``HPCQC_LABELS`` holds."""
    stated = (variable("HPCQC_LABELS", environ) or "").split(",")
    return [label.strip() for label in stated if label.strip()]


def slurm_account(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the account that pays for the Slurm job this process is in; None outside of one."""
    return process_environment(environ).get("SLURM_JOB_ACCOUNT") or None


def _budget(text: str) -> tuple[str, float | None]:
    amount, _, unit = text.strip().partition(" ")
    unit = unit.strip()
    try:
        value = None if amount == "none" else float(amount)
    except ValueError:
        value = -1.0
    if not unit or (value is not None and not (math.isfinite(value) and value >= 0)):
        raise ConfigError(
            f"invalid budget {text!r}: give an amount and its unit, such as '10 billed-s', or "
            "'none billed-s' for no limit"
        )
    return unit, value
