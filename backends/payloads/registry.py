"""Payload kinds by name, and payloads of any kind from their bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from backends.circuits import is_panic
from backends.errors import PayloadRejected
from backends.frames import unpack
from backends.payloads.analog import ANALOG
from backends.payloads.annealing import ANNEALING
from backends.payloads.estimator import ESTIMATOR
from backends.payloads.kind import Payload, PayloadKind, PayloadLimits
from backends.payloads.sampler import SAMPLER
from backends.plugins import PluginUnusable, UnknownPlugin, installed, load, unknown

__all__ = [
    "GROUP",
    "kind_names",
    "load_kinds",
    "payload_from_bytes",
    "payload_from_untrusted",
    "payload_kind",
]

GROUP = "hpcqc.payloads"
_MEMBERS = (
    *("name", "remedy", "read", "check", "assemble", "items", "merge"),
    *("pack_result", "unpack_result"),
)


_OWN: dict[str, PayloadKind] = {kind.name: kind for kind in (SAMPLER, ESTIMATOR, ANALOG, ANNEALING)}


def kind_names() -> tuple[str, ...]:
    """Return the names of all kinds, those of hpcqc first."""
    return (*_OWN, *(name for name in installed(GROUP) if name not in _OWN))


@lru_cache(maxsize=64)
def payload_kind(name: str) -> PayloadKind:
    """Return a payload kind: hpcqc's own, else the one that an installed package registers.

    Raises `UnknownPlugin`, or `PluginUnusable` for one that does not import or is no kind.
    """
    if name in _OWN:
        return _OWN[name]
    if name not in installed(GROUP):
        raise unknown(name, kind_names(), noun="payload kind")
    found: Any = load(GROUP, name, noun="payload kind")
    missing = [member for member in _MEMBERS if not hasattr(found, member)]
    if isinstance(found, type) or missing or found.name != name:
        raise PluginUnusable(
            f"payload kind {name!r} is {found!r}; expected an object of that name with the members "
            f"of backends.payloads.PayloadKind{', and lacks ' if missing else ''}"
            f"{', '.join(missing)}"
        )
    return cast("PayloadKind", found)


def load_kinds() -> None:
    """Import all installed kinds; `payload_kind` says later why one is unusable."""
    for name in kind_names():
        try:
            payload_kind(name)
        except Exception:  # noqa: BLE001 - of a package that is not hpcqc's
            continue


def payload_from_bytes(data: bytes) -> Payload:
    """Rebuild a payload from `Payload.to_bytes`. Raises `PayloadRejected` on anything else."""
    return _read(data, None)


def payload_from_untrusted(data: bytes, *, limits: PayloadLimits) -> Payload:
    """Rebuild a payload as `payload_from_bytes` does, believing nothing that it states.

    Any payload within the limits comes back with the same digest. Raises `PayloadRejected` for all
    other bytes, and nothing else; executes nothing of what it reads.
    """
    count = int.from_bytes(data[4:8], "little")
    if count > 2 * limits.items + 1:
        raise PayloadRejected(
            f"a payload of {count} frames; send at most {limits.items} items (PUBs) at once"
        )
    if int.from_bytes(data[8:16], "little") > limits.header_bytes:
        raise PayloadRejected(
            f"the payload's header has more than {limits.header_bytes} bytes; send several payloads"
        )
    return _read(data, limits)


def _check_size(payload: Payload, limits: PayloadLimits) -> None:
    shapes = payload.shapes
    points = sum(shape.points for shape in shapes)
    shots = sum(shape.points * shape.shots for shape in shapes)
    for number, most, noun in (
        (len(shapes), limits.items, "items"),
        (points, limits.points, "points"),
        (shots, limits.shots, "shots"),
    ):
        if number > most:
            raise PayloadRejected(f"more than {most} {noun} in one payload; send several")


def _read(data: bytes, limits: PayloadLimits | None) -> Payload:
    try:
        header, frames = unpack(data)
        name = header.get("kind") if isinstance(header, dict) else None
        payload = payload_kind(f"{name!s:.60}").read(header, frames, limits)
        if limits is not None:
            _check_size(payload, limits)
        return payload
    except PayloadRejected as error:
        raise PayloadRejected(str(error)[:500]) from error.__cause__
    except (UnknownPlugin, PluginUnusable) as error:
        raise PayloadRejected(str(error)[:500]) from error
    except BaseException as error:  # Qiskit raises many kinds, and Rust's panics are no Exception
        if isinstance(error, Exception) or is_panic(error):
            reason = f"damaged payload of {len(data)} bytes: {error}"
            raise PayloadRejected(reason[:500]) from error
        raise
