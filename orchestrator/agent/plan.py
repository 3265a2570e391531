"""Which children an agent has, on which addresses, with which environment."""

from __future__ import annotations

import errno
import http.client
import os
import pwd
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import TypeAdapter

import orchestrator
from backends.unix_sockets import UnixSocketError, listen_at
from orchestrator.agent.flow_process import BROKER_PAGE
from orchestrator.agent.folder import AgentError, AgentFolder
from orchestrator.agent.prefect_service import HOST, OPENING_PATH
from orchestrator.config.environment import process_environment
from orchestrator.config.loading import LAPTOP
from orchestrator.config.private import write_private

__all__ = [
    "AgentPlan",
    "AgentSettings",
    "BeatProbe",
    "Child",
    "HttpProbe",
    "Listening",
    "free_port",
    "listen",
    "listen_unix",
    "page_token",
    "planned",
    "prefect_environment",
]

_BACKLOG = 512
_TOKEN_VALID, _TOKEN_SPARE = timedelta(days=30), timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """The settings of one agent. Port 0 is any free one."""

    state_dir: Path
    site_file: Path | None = None  # None for the built-in laptop
    workers: int = 1  # of the site's default compute
    memory_per_worker: str | None = None
    prefect_url: str | None = None  # a server that is configured elsewhere, None to start one
    broker_url: str | None = None  # as prefect_url
    pool: str = "hpcqc"  # Prefect's work pool
    flows: int = 2  # how many run at once
    prefect_port: int = 0
    broker_port: int = 0

    @property
    def folder(self) -> AgentFolder:
        """The folder with all files of this agent."""
        return AgentFolder(path=self.state_dir / "agent")

    def to_json(self) -> str:
        """Return this as JSON, for the agent's own process."""
        return TypeAdapter(AgentSettings).dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> AgentSettings:
        """Read what `to_json` wrote."""
        return TypeAdapter(AgentSettings).validate_json(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpProbe:
    """Ready, and healthy, while this address answers 200. socket: a Unix socket to ask over."""

    url: str
    socket: Path | None = None

    def answers(self, timeout_s: float, since: float = 0.0) -> bool:
        """Whether the child answers; blocks up to ``timeout_s``."""
        del since  # only a running process can answer
        parts = urlsplit(self.url)
        asking = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
        try:
            if self.socket is not None:
                asking.sock = socket.socket(socket.AF_UNIX)  # so that it does not connect by itself
                asking.sock.settimeout(timeout_s)
                asking.sock.connect(str(self.socket))
            asking.request("GET", parts.path)
            return asking.getresponse().status == 200
        except (http.client.HTTPException, OSError):
            return False
        finally:
            asking.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatProbe:
    """Ready once the child has written this file, healthy while it touches it often enough."""

    path: Path
    stale_s: float = 30.0

    def answers(self, timeout_s: float, since: float = 0.0) -> bool:
        """Whether the file is fresh. since: time of the child's start; an earlier one was another's."""
        del timeout_s  # returns at once
        try:
            touched = self.path.stat().st_mtime
        except OSError:
            return False
        return touched >= since and time.time() - touched <= self.stale_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One process that the agent keeps running, with ``python -m``."""

    name: str
    title: str  # its name in messages
    module: str
    probe: HttpProbe | BeatProbe
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)  # added to the agent's own
    sockets: Sequence[int] = ()  # open while it restarts: the address stays, clients wait
    stop_s: float = 5.0  # time for an orderly end
    hung_after_s: float = 180.0  # how long it may be silent before it is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A socket that already listens. Clients that connect before its child runs wait in it."""

    socket: socket.socket

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.socket.getsockname()[1])

    @property
    def descriptor(self) -> int:
        """The number under which a child inherits it."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close it, and remove the file of a Unix socket."""
        name = self.socket.getsockname()
        self.socket.close()
        if isinstance(name, str):
            Path(name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlan:
    """An agent ready to run."""

    children: tuple[Child, ...]
    addresses: Mapping[str, str]
    environment: Mapping[str, str]  # of every child
    flow_environment: Mapping[str, str] = field(default_factory=dict)  # of every flow
    sockets: tuple[Listening, ...] = ()  # stay open as long as the agent runs
    about: Mapping[str, str | None] = field(default_factory=dict)  # more of its state


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one service adds to an agent; no child where it is configured elsewhere."""

    addresses: Mapping[str, str]
    child: Child | None = None
    sockets: tuple[Listening, ...] = ()


def planned(settings: AgentSettings) -> AgentPlan:
    """Open the sockets and plan their processes. Raises ``AgentError`` if a port is taken."""
    known = settings.folder.read_state().get("addresses")
    last = known if isinstance(known, dict) else {}
    parts = [_prefect(settings, last), _dask(settings, last), _broker(settings, last)]
    addresses = {name: address for part in parts for name, address in part.addresses.items()}
    children = [part.child for part in parts if part.child is not None]
    environment = _environment(settings, addresses)
    services = {
        "HPCQC_BROKER_URL": addresses["broker_api"],
        "HPCQC_DASK_ADDRESS": addresses["dask"],
        "HPCQC_DASK_CREDENTIALS": str(settings.folder.dask_credentials_path),
        BROKER_PAGE: addresses["broker"],
    }
    worker = Child(
        name="worker",
        title="Prefect worker",
        module="orchestrator.agent.worker",
        arguments=(settings.pool, str(settings.flows), str(settings.folder.path)),
        environment={"PREFECT_WORKER_QUERY_SECONDS": "1", **services},
        probe=BeatProbe(path=settings.folder.path / "worker.beat"),
    )
    return AgentPlan(
        children=(*children, worker),
        addresses=addresses,
        environment=environment,
        flow_environment={**environment, **services},
        sockets=tuple(listening for part in parts for listening in part.sockets),
        about={
            "pool": settings.pool,
            "site": str(settings.site_file) if settings.site_file else None,
        },
    )


def prefect_environment(state_dir: Path, api_url: str, *, own: bool) -> dict[str, str]:
    """Return Prefect's variables. own: the server is the agent's, not one the user configured."""
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


def page_token(state_dir: Path, now: datetime | None = None) -> str:
    """Return a valid token for the broker's page, or raise ``TokenError``."""
    # A browser has no Unix user that the broker could see; this user alone can read the secret.
    from orchestrator.broker.api.tokens import TokenFile

    moment = now or datetime.now(UTC)
    tokens = TokenFile(state_dir / "tokens.json")
    path = state_dir / "agent" / "broker-token"
    if path.exists():
        secret = path.read_text(encoding="ascii").strip()
        if tokens.find(secret, moment + _TOKEN_SPARE) is not None:
            return secret
    user, expires_at = pwd.getpwuid(os.geteuid()).pw_name, moment + _TOKEN_VALID
    _, secret = tokens.add(user, "operator", ["default"], now=moment, expires_at=expires_at)
    write_private(path, secret)
    return secret


def listen(wanted: int, preferred: int, option: str) -> Listening:
    """Listen on ``wanted``, or if it is 0 on ``preferred`` or any free port, else `AgentError`."""
    # ``preferred`` is the last agent's port, so that bookmarks stay valid.
    for port in dict.fromkeys((wanted,) if wanted else (preferred, 0)):
        try:
            return Listening(socket=socket.create_server((HOST, port), backlog=_BACKLOG))
        except OSError as error:
            if not wanted:
                continue
            if error.errno == errno.EADDRINUSE:
                raise AgentError(
                    f"port {port} on {HOST} is taken by another program; give another one with "
                    f"{option}, or leave {option} out and a free one is chosen"
                ) from error
            raise AgentError(
                f"cannot listen on port {port} of {HOST}: {error.strerror}; give another {option}"
            ) from error
    raise AgentError(f"no free port on {HOST}; end a program that listens and try again")


def listen_unix(path: Path) -> Listening:
    """Listen on a Unix socket that only this user may connect to. Raises `AgentError`."""
    try:
        return Listening(socket=listen_at(path, mode=0o600, backlog=_BACKLOG))
    except UnixSocketError as error:
        raise AgentError(str(error)) from error


def free_port(preferred: int = 0) -> int:
    """Return a port that a child may listen on by itself, the preferred one if it is free."""
    listening = listen(0, preferred, "")
    port = listening.port
    listening.socket.close()
    return port


def _prefect(settings: AgentSettings, last: Mapping[str, str]) -> _Part:
    if settings.prefect_url is not None:
        page = settings.prefect_url.removesuffix("/").removesuffix("/api")
        return _Part(addresses={"prefect": page, "prefect_api": settings.prefect_url})
    listening = listen(settings.prefect_port, _port(last.get("prefect")), "--prefect-port")
    page = f"http://{HOST}:{listening.port}"
    folder, password = settings.folder.path, settings.folder.prefect_password()
    child = Child(
        name="prefect",
        title="Prefect server",
        module="orchestrator.agent.prefect_service",
        arguments=(str(listening.descriptor),),
        sockets=(listening.descriptor,),
        environment={
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
            "PREFECT_UI_API_URL": f"{page}/api",
            "PREFECT_SERVER_API_AUTH_STRING": password,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": page,
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "prefect" / "ui"),
            "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        },
        probe=HttpProbe(url=f"{page}/api/health"),
    )
    addresses = {
        "prefect": page,
        "prefect_api": f"{page}/api",
        "prefect_page": f"{page}{OPENING_PATH}#{password}",
    }
    return _Part(addresses=addresses, child=child, sockets=(listening,))


def _dask(settings: AgentSettings, last: Mapping[str, str]) -> _Part:
    port = free_port(_port(last.get("dask")))
    beat, credentials = settings.folder.path / "dask.beat", settings.folder.dask_credentials_path
    words = (settings.workers, settings.memory_per_worker or "", port, beat, credentials)
    child = Child(
        name="dask",
        title="Dask",
        module="orchestrator.agent.dask_service",
        arguments=[str(word) for word in words],
        probe=BeatProbe(path=beat),
    )
    return _Part(addresses={"dask": f"tls://{HOST}:{port}"}, child=child)


def _broker(settings: AgentSettings, last: Mapping[str, str]) -> _Part:
    """Plan the broker: its page on a port, flows on a socket that knows whose they are."""
    if settings.broker_url is not None:
        return _Part(addresses={"broker": settings.broker_url, "broker_api": settings.broker_url})
    path = settings.state_dir / "broker.sock"
    api = listen_unix(path)
    page = listen(settings.broker_port, _port(last.get("broker")), "--broker-port")
    address = f"http://{HOST}:{page.port}"
    listeners = [f"--listen=fd:{listening.descriptor}" for listening in (api, page)]
    child = Child(
        name="broker",
        title="broker",
        module="orchestrator.cli",
        arguments=("broker", "serve", "--site", str(settings.site_file or LAPTOP), *listeners),
        sockets=(api.descriptor, page.descriptor),
        # Over the socket, since anybody on this machine may use up the connections of the port.
        probe=HttpProbe(url="http://localhost/health", socket=path),
        stop_s=15.0,
    )
    addresses = {
        "broker": address,
        "broker_api": f"unix:{path}",
        "broker_page": f"{address}/#token={page_token(settings.state_dir)}",
    }
    return _Part(addresses=addresses, child=child, sockets=(api, page))


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
    """Return the port in an address, 0 if it has none."""
    text = str(address or "").rpartition("//")[2].partition("/")[0].rpartition(":")[2]
    return int(text) if text.isdigit() else 0
