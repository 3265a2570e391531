"""A decoding server for real-time calls, with a decoder that an installed package knows."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

from backends.plugins import load
from orchestrator.garbage import loaded_kept
from orchestrator.realtime.server import DecodingServer, echo
from orchestrator.realtime.sessions import Decoder
from orchestrator.realtime.sockets import bound_socket
from orchestrator.realtime.wire import HEADER_BYTES, SLOT_BYTES

__all__ = ["DECODERS", "ServeError", "decoder_from", "serve_decoder", "serve_echo"]

DECODERS = "hpcqc.decoders"
_LARGEST_SLOT = 65_507
_LEAST_SLOT = HEADER_BYTES + 40  # an enqueue of up to 64 bits


class ServeError(ValueError):
    """A server cannot be started as asked."""


def decoder_from(kind: str, path: Path | str) -> Decoder:
    """Return a decoder of a kind that a package registers in ``hpcqc.decoders``, from its file.

    Raises:
        UnknownPlugin: No package registers the kind.
        ValueError: The file is not one of this kind, or what the kind needs is not installed.
    """
    make: Callable[[str], Decoder] = load(DECODERS, kind, noun="decoder")
    return make(str(path))


def serve_decoder(
    decoder: Decoder,
    *,
    host: str,
    port: int,
    slot_bytes: int,
    stop: threading.Event,
    ready: Callable[[int], None],
) -> DecodingServer:
    """Answer real-time calls for one decoder, whose id is 0, until ``stop`` is set.

    Args:
        decoder: What decodes.
        host: Address to bind; the protocol has no authentication, so it is mostly loopback.
        port: UDP port, 0 for any free one.
        slot_bytes: Largest message, header included.
        stop: Ends the server within a tenth of a second.
        ready: Called with the port when it is bound.

    Returns:
        The server, with the counts of what came in.

    Raises:
        ServeError: The port cannot be bound, or a slot has no place for a message.
    """
    if not _LEAST_SLOT <= slot_bytes <= _LARGEST_SLOT:
        raise ServeError(f"slot of {slot_bytes} bytes: expected {_LEAST_SLOT} to {_LARGEST_SLOT}")
    with _bound(host, port) as opened:
        server = DecodingServer({0: decoder}, slot_bytes=slot_bytes)
        ready(opened.getsockname()[1])
        with loaded_kept():
            server.serve(opened, stop)
    return server


def serve_echo(
    *, host: str, port: int, stop: threading.Event, ready: Callable[[int], None]
) -> None:
    """Send datagrams back until ``stop`` is set. Raises `ServeError` as `serve_decoder` does."""
    with _bound(host, port) as opened:
        ready(opened.getsockname()[1])
        echo(opened, stop, slot_bytes=SLOT_BYTES)


def _bound(host: str, port: int) -> socket.socket:
    try:
        return bound_socket(host, port)
    except OSError as error:
        raise ServeError(
            f"UDP port {port} of {host} cannot be bound: {error.strerror or error}; "
            "choose another one, or 0 for any that is free"
        ) from None
