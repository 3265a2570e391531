"""Which children an agent has, on which addresses, with which environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orchestrator
from orchestrator.agent.broker_token import page_token
from orchestrator.agent.children import BeatProbe, Child, HttpProbe
from orchestrator.agent.dask_service import Shape
from orchestrator.agent.folder import AgentFolder
from orchestrator.agent.job_artifacts import BROKER_PAGE
from orchestrator.agent.ports import HOST, Listening, free_port, listen, listen_unix
from orchestrator.agent.prefect_service import OPENING_PATH
from orchestrator.agent.settings import AgentSettings
from orchestrator.config.environment import process_environment
from orchestrator.config.loading import LAPTOP

__all__ = ["AgentPlan", "planned", "prefect_environment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlan:
    """An agent ready to run. held: sockets to keep open as long as it does.

    environment: of every child. flow_environment: of every flow. about: what else it says of
    itself.
    """

    children: tuple[Child, ...]
    addresses: Mapping[str, str]
    environment: Mapping[str, str]
    flow_environment: Mapping[str, str] = field(default_factory=dict)
    held: tuple[Listening, ...] = ()
    about: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one service adds to an agent; no child where it is configured elsewhere."""

    addresses: Mapping[str, str]
    child: Child | None = None
    held: tuple[Listening, ...] = ()


def planned(settings: AgentSettings) -> AgentPlan:
    """Take the ports and say what runs on them. Raises ``AgentError`` if one cannot be had."""
    known = settings.folder.read_state().get("addresses")
    last = known if isinstance(known, dict) else {}
    parts = [_prefect(settings, last), _dask(settings, last), _broker(settings, last)]
    addresses = {name: address for part in parts for name, address in part.addresses.items()}
    children = [part.child for part in parts if part.child is not None]
    environment, services = _environment(settings, addresses), _services(settings, addresses)
    return AgentPlan(
        children=(*children, _worker(settings, services)),
        addresses=addresses,
        environment=environment,
        flow_environment={**environment, **services},
        held=tuple(listening for part in parts for listening in part.held),
        about={
            "pool": settings.pool,
            "site": str(settings.site_file) if settings.site_file else None,
        },
    )


def prefect_environment(state_dir: Path, api_url: str, *, own: bool) -> dict[str, str]:
    """Return Prefect's variables for everything that talks to the agent's server.

    own: the server is the agent's; else the user's Prefect settings stay as they are.
    """
    quiet = {
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOCAL_STORAGE_PATH": str(state_dir / "results"),
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    }
    if not own:
        return quiet
    folder = AgentFolder(path=state_dir / "agent")
    return quiet | {
        "PREFECT_HOME": str(folder.path / "prefect"),
        "PREFECT_API_AUTH_STRING": folder.prefect_password(),
    }


def _prefect(settings: AgentSettings, last: Mapping[str, str]) -> _Part:
    if settings.prefect_url is not None:
        page = settings.prefect_url.removesuffix("/").removesuffix("/api")
        return _Part(addresses={"prefect": page, "prefect_api": settings.prefect_url})
    listening = listen(settings.prefect_port, _port(last.get("prefect")), "--prefect-port")
    page = f"http://{HOST}:{listening.port}"
    folder = settings.folder.path
    child = Child(
        name="prefect",
        title="Prefect server",
        module="orchestrator.agent.prefect_service",
        arguments=("{listening}",),
        sockets={"listening": listening.descriptor},
        environment={
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
            "PREFECT_UI_API_URL": f"{page}/api",
            "PREFECT_SERVER_API_AUTH_STRING": settings.folder.prefect_password(),
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": page,
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "prefect" / "ui"),
            "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        },
        probe=HttpProbe(url=f"{page}/api/health"),
    )
    addresses = {
        "prefect": page,
        "prefect_api": f"{page}/api",
        "prefect_page": f"{page}{OPENING_PATH}#{settings.folder.prefect_password()}",
    }
    return _Part(addresses=addresses, child=child, held=(listening,))


def _dask(settings: AgentSettings, last: Mapping[str, str]) -> _Part:
    port = free_port(0, _port(last.get("dask")), "")
    beat = settings.folder.path / "dask.beat"
    shape = Shape(
        workers=settings.workers,
        memory_per_worker=settings.memory_per_worker,
        port=port,
        beat=str(beat),
        credentials=str(settings.folder.dask_credentials_path),
    )
    child = Child(
        name="dask",
        title="Dask",
        module="orchestrator.agent.dask_service",
        arguments=(json.dumps(asdict(shape)).replace("{", "{{").replace("}", "}}"),),
        probe=BeatProbe(path=beat),
    )
    return _Part(addresses={"dask": f"tls://{HOST}:{port}"}, child=child)


def _broker(settings: AgentSettings, last: Mapping[str, str]) -> _Part:
    """Return the broker: its page on a port, flows on a socket that knows whose they are."""
    if settings.broker_url is not None:
        return _Part(addresses={"broker": settings.broker_url, "broker_api": settings.broker_url})
    path = settings.state_dir / "broker.sock"
    api = listen_unix(path)
    page = listen(settings.broker_port, _port(last.get("broker")), "--broker-port")
    address = f"http://{HOST}:{page.port}"
    site = ("--site", str(settings.site_file or LAPTOP))
    child = Child(
        name="broker",
        title="broker",
        module="orchestrator.cli",
        arguments=("broker", "serve", *site, "--listen", "fd:{api}", "--listen", "fd:{page}"),
        sockets={"api": api.descriptor, "page": page.descriptor},
        # Over the socket, since anybody on this machine may use up the connections of the port.
        probe=HttpProbe(url="http://localhost/health", socket=path),
        stop_s=15.0,
    )
    addresses = {
        "broker": address,
        "broker_api": f"unix:{path}",
        "broker_page": f"{address}/#token={page_token(settings.state_dir)}",
    }
    return _Part(addresses=addresses, child=child, held=(api, page))


def _services(settings: AgentSettings, addresses: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that point a flow at the broker and at Dask."""
    return {
        "HPCQC_BROKER_URL": addresses["broker_api"],
        "HPCQC_DASK_ADDRESS": addresses["dask"],
        "HPCQC_DASK_CREDENTIALS": str(settings.folder.dask_credentials_path),
        BROKER_PAGE: addresses["broker"],
    }


def _worker(settings: AgentSettings, services: Mapping[str, str]) -> Child:
    beat = settings.folder.path / "worker.beat"
    return Child(
        name="worker",
        title="Prefect worker",
        module="orchestrator.agent.worker",
        arguments=(settings.pool, str(settings.flows), str(settings.folder.path)),
        environment={
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            **services,
        },
        probe=BeatProbe(path=beat),
    )


def _environment(settings: AgentSettings, addresses: Mapping[str, str]) -> dict[str, str]:
    own = settings.prefect_url is None
    found = prefect_environment(settings.state_dir, addresses["prefect_api"], own=own)
    found["HPCQC_STATE_DIR"] = str(settings.state_dir)
    site = settings.site_file
    # Flows run in folders of all sorts; a site file there is not the agent's.
    found["HPCQC_SITE"] = str(LAPTOP if site is None else site.absolute())
    root = str(Path(orchestrator.__file__).parents[1])
    if "site-packages" not in root:  # run from its source; -P keeps the working folder out
        before = process_environment().get("PYTHONPATH")
        found["PYTHONPATH"] = f"{root}:{before}" if before else root
    return found


def _port(address: object) -> int:
    """Return the port in an address of last time, 0 if there is none."""
    text = str(address or "").rpartition("//")[2].partition("/")[0].rpartition(":")[2]
    return int(text) if text.isdigit() else 0
