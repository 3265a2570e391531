"""The factory of QPUs behind another site's broker, and their options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.links import Link, LinkError
from backends.links.link import SCHEME, link_name
from backends.links.tls import require_links
from backends.plugins import PluginUnusable
from backends.stated_options import check_names
from backends.unix_sockets import UNIX, UnixSocketError, check_path

if TYPE_CHECKING:
    from backends.hpcqc.backend import BrokerBackend
    from backends.site_access import TokenSource

__all__ = ["BrokerFactory", "BrokerOptions", "create"]

_NAME = "hpcqc"
_STATED = ("labels", "link", "project", "qpu", "tasks", "token", "url")
_TASKS = 8
_MOST_TASKS = 1000
# As the API takes them.
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,99}")
_MOST_LABELS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """How a QPU of another site is reached.

    qpu: its name there. project: who pays there; empty for the first project of the token.
    labels: that each job there states for its data. tasks: how many may be open there at once. link: to it.
    """

    url: str
    token: TokenSource
    qpu: str
    project: str = ""
    labels: tuple[str, ...] = ()
    tasks: int = _TASKS
    link: Link | None = None


def _parse_options(options: Mapping[str, Any]) -> BrokerOptions:
    """Check a site's options. Raises `PluginUnusable` naming the option and what it may be."""
    from backends.site_access import FixedToken, Token, checked_url, token_from_options

    check_names(options, _STATED, f"backend {_NAME!r}")
    qpu, project = options.get("qpu"), options.get("project", "")
    labels, tasks = options.get("labels", []), options.get("tasks", _TASKS)
    if not isinstance(qpu, str) or not 0 < len(qpu) <= 200 or not qpu.isprintable():
        raise PluginUnusable(f"option qpu = {qpu!r:.80}; give the QPU's name at the other site")
    if not isinstance(project, str) or (project and not _PROJECT.fullmatch(project)):
        raise PluginUnusable(
            f"option project = {project!r:.80}; give the name of a project at the other site"
        )
    listed = isinstance(labels, list | tuple) and len(labels) <= _MOST_LABELS
    if not listed or not all(isinstance(one, str) and _LABEL.fullmatch(one) for one in labels):
        raise PluginUnusable(
            f"option labels = {labels!r:.80}; give at most {_MOST_LABELS} labels, such as "
            "['jurisdiction:eu']"
        )
    if isinstance(tasks, bool) or not isinstance(tasks, int) or not 1 <= tasks <= _MOST_TASKS:
        raise PluginUnusable(f"option tasks = {tasks!r:.80}; give a number from 1 to {_MOST_TASKS}")
    link, socket = _link(options), _socket(options)
    stated = checked_url(options, _NAME) if link is None and socket is None else ""
    return BrokerOptions(
        url=socket or (stated if link is None else f"{SCHEME}{link.name}"),
        # Over a socket the other broker knows the user, unless a token says otherwise.
        token=FixedToken(Token(text=""))
        if socket is not None and "token" not in options
        else token_from_options(options, _NAME),
        qpu=qpu,
        project=project,
        labels=tuple(labels),
        tasks=tasks,
        link=link,
    )


def _socket(options: Mapping[str, Any]) -> str | None:
    """Return ``url = "unix:PATH"``, None for any other. Raises `PluginUnusable`."""
    url = options.get("url")
    if not isinstance(url, str) or not url.startswith(UNIX):
        return None
    path = Path(url.removeprefix(UNIX))
    if not path.is_absolute():
        raise PluginUnusable(
            f"option url = {url!r}; give the whole path, as 'unix:/run/hpcqc/broker.sock'"
        )
    try:
        check_path(path)
    except UnixSocketError as error:
        raise PluginUnusable(f"option url: {error}") from None
    return url


def _link(options: Mapping[str, Any]) -> Link | None:
    """Return the link of ``url = "link:NAME"``, which is among the options once a site file is read."""
    url, stated = options.get("url"), options.get("link")
    if not isinstance(url, str) or link_name(url) is None:
        if stated is not None:
            raise PluginUnusable("option link belongs to url = 'link:NAME'; name it there alone")
        return None
    if not isinstance(stated, Mapping):
        raise PluginUnusable(
            f"option url = {url!r} names a link; give [link.{link_name(url)}] in the same site file"
        )
    try:
        require_links()
        return Link.from_plain(stated)
    except LinkError as error:
        raise PluginUnusable(str(error)) from None


class BrokerFactory:
    """Creates and describes QPUs of other sites; raises ``ValueError`` for a wrong option."""

    neutral_options: ClassVar[frozenset[str]] = frozenset({"labels", "project", "tasks", "token"})

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> BrokerBackend:
        """Return a QPU, with its started tasks stored in the existing folder; connects nowhere."""
        from backends.hpcqc.backend import BrokerBackend

        return BrokerBackend(_parse_options(options), state_dir=state_dir)

    def over_wire(self, options: Mapping[str, Any]) -> bool:
        """Return whether another broker is asked: always."""
        return bool(options)


create = BrokerFactory()
