"""What must be equal for a stored result to stand for a new one."""

from __future__ import annotations

import functools
import hashlib
import json
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from typing import Protocol

from backends import registry
from backends.api import Target
from orchestrator.config.site import QpuSettings

__all__ = ["reuse_key", "versions_of"]

_PACKAGES = ("hpcqc", "qiskit", "qiskit-aer")


class _Content(Protocol):
    """A payload, read or not."""

    @property
    def kind(self) -> str: ...

    @property
    def digest(self) -> str: ...


def reuse_key(payload: _Content, settings: QpuSettings, target: Target, audience: str) -> str:
    """Return a digest of all that a result depends on.

    That is: the payload with circuits, values, shots, precision and seeds; the QPU's name,
    backend and options with method and noise; its calibration; and the versions of what computes.
    audience: a project whose results are its own, or what stands for those that share theirs.
    """
    options = registry.result_options(settings.backend, settings.options)
    parts = [
        audience,
        payload.kind,
        payload.digest,
        settings.name,
        settings.backend,
        options,
        target.name,
        target.calibration.id,
        versions_of(settings.backend),
    ]
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@functools.lru_cache(maxsize=64)
def versions_of(backend: str) -> tuple[str, ...]:
    """Return the versions of what turns a payload into a result on a backend."""
    return (*map(_version, _PACKAGES), _distribution(registry.available().get(backend)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _distribution(point: EntryPoint | None) -> str:
    if point is None or point.dist is None:
        return ""
    return f"{point.dist.name} {point.dist.version}"
