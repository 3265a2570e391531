"""The factory of IBM's devices and their options; it loads IBM's client only when it is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from backends.coupling_class import CouplingClass
from backends.plugins import PluginUnusable
from backends.registry import BackendPackages
from backends.stated_options import check_names, clock_scale

if TYPE_CHECKING:
    from backends.api import Backend
    from backends.site_access import TokenSource

__all__ = [
    "SESSION_ID",
    "IbmFactory",
    "OfflineOptions",
    "ServiceOptions",
    "coupling_class_of",
    "create",
]

_NAME = "ibm"
_OFFLINE = "fake_"
_OFFLINE_OPTIONS = ("device", "noise")
_SERVICE_OPTIONS = (
    "batch_s",
    "concurrent_tasks",
    "device",
    "iam_url",
    "instance",
    "profile",
    "session",
    "session_s",
    "time_scale",
    "token",
    "url",
)
SESSION_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
_IAM_URL = "https://iam.cloud.ibm.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineOptions:
    """Which fake device is simulated. noise: that of the device's snapshot, or none."""

    device: str
    noise: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """Which device of IBM's service is used, and how.

    instance: its CRN. token: the API key. url: of the service's API; None for that of the
    instance's region. iam_url: of the identity service. profile: device profile with times and
    prices, which the service does not state. session_s: longest that a dedicated session lasts, in
    which the tasks of a lease run; None opens none. batch_s: the same of a batch, for other tasks.
    session: one of IBM's that somebody else opened and closes; all tasks run in it, None for none.
    concurrent_tasks: most jobs in the service's queue.
    """

    device: str
    instance: str
    token: TokenSource
    url: str | None = None
    iam_url: str = _IAM_URL
    profile: str | None = None
    session_s: int | None = None
    batch_s: int | None = None
    session: str | None = None
    concurrent_tasks: int = 3
    time_scale: float = 1.0


def coupling_class_of(session: object, session_s: object) -> CouplingClass:
    """Return the coupling class of the service: in a dedicated session nobody else's tasks come between."""
    return "batch" if session is None and session_s is None else "interactive"


class IbmFactory:
    """Creates backends for IBM's devices; raises `PluginUnusable` for a wrong option."""

    packages: ClassVar[BackendPackages] = BackendPackages(
        requirements=(
            "qiskit-ibm-runtime>=0.51,<0.52",
            "qiskit>=2.4,<2.7",
            "qiskit-aer>=0.17.2,<0.19",
            "pydantic>=2.13,<3",
            "httpx>=0.27,<1",
        ),
        imports=("qiskit_ibm_runtime.executor_sampler", "qiskit_aer", "pydantic", "httpx"),
    )
    neutral_options: ClassVar[frozenset[str]] = frozenset(
        {"batch_s", "concurrent_tasks", "session", "session_s", "time_scale", "token"}
    )

    def __call__(self, options: Mapping[str, Any], *, state_dir: Path) -> Backend:
        """Return a device; a fake one if its name begins with ``fake_``. Connects nowhere."""
        device = options.get("device")
        if not isinstance(device, str) or not device:
            raise PluginUnusable(
                f"backend {_NAME!r} needs the name of a device, such as device = 'fake_manila' or "
                f"device = 'ibm_fez'; got {device!r}"
            )
        try:
            if device.startswith(_OFFLINE):
                offline = _parse_offline(device, options)
                from backends.ibm.offline import open_offline

                return open_offline(offline)
            service = _parse_service(device, options)
            from backends.ibm.backend import open_service

            return open_service(service, state_dir=state_dir)
        except ImportError as error:
            raise PluginUnusable(
                f"backend {_NAME!r} needs qiskit-ibm-runtime ({error}); install hpcqc[ibm], or run "
                f"'hpcqc backends install {_NAME}' and write environment = \"managed\" in the table "
                "of the QPU"
            ) from error

    def over_wire(self, options: Mapping[str, Any]) -> bool:
        """Return whether it is a device of the service, and not a fake one."""
        return not str(options.get("device")).startswith(_OFFLINE)

    def coupling_class(self, options: Mapping[str, Any]) -> CouplingClass:
        """Return the coupling class: of a fake device, or of a cloud with sessions or without."""
        if not self.over_wire(options):
            return "interactive"
        return coupling_class_of(options.get("session"), options.get("session_s"))


create = IbmFactory()


def _parse_offline(device: str, options: Mapping[str, Any]) -> OfflineOptions:
    check_names(options, _OFFLINE_OPTIONS, f"a fake device of backend {_NAME!r}")
    noise = options.get("noise", True)
    if not isinstance(noise, bool):
        raise PluginUnusable(f"option noise = {noise!r}; give true or false")
    return OfflineOptions(device=device, noise=noise)


def _parse_service(device: str, options: Mapping[str, Any]) -> ServiceOptions:
    from backends.site_access import checked_url, token_from_options

    check_names(options, _SERVICE_OPTIONS, f"backend {_NAME!r}")
    instance = options.get("instance")
    if not isinstance(instance, str) or not instance.startswith("crn:"):
        raise PluginUnusable(
            f"backend {_NAME!r} needs the instance whose time is used: instance = 'crn:v1:…', as "
            f"IBM's pages show it; got {instance!r}"
        )
    for name in ("session_s", "batch_s", "concurrent_tasks"):
        value = options.get(name)
        if value is not None and not (type(value) is int and value >= 1):
            raise PluginUnusable(f"option {name} = {value!r}; give a whole number ≥ 1")
    session = options.get("session")
    if session is not None and not (isinstance(session, str) and SESSION_ID.fullmatch(session)):
        raise PluginUnusable(
            f"option session = {session!r:.100}; give the id of an open session of IBM's, of letters, "
            "digits, - and _"
        )
    opens = [name for name in ("session_s", "batch_s") if options.get(name) is not None]
    if session is not None and opens:
        raise PluginUnusable(
            f"option session = {session!r} has all tasks run in that one; leave out {', '.join(opens)}"
        )
    profile = options.get("profile")
    if profile is not None and not (isinstance(profile, str) and profile):
        raise PluginUnusable(f"option profile = {profile!r}; give a profile's name or a path")
    scale = clock_scale(options, default=1.0)
    return ServiceOptions(
        device=device,
        instance=instance,
        token=token_from_options(options, _NAME),
        url=checked_url(options, _NAME) if "url" in options else None,
        iam_url=checked_url({"url": options.get("iam_url", _IAM_URL)}, _NAME),
        profile=profile,
        session_s=options.get("session_s"),
        batch_s=options.get("batch_s"),
        session=session,
        concurrent_tasks=options.get("concurrent_tasks", 3),
        time_scale=scale,
    )
