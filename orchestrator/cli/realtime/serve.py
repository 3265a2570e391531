"""``hpcqc realtime serve`` and ``echo``: a decoding server, and what its socket costs alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.output import say

__all__ = ["serve_decoding", "serve_echoes"]

_Host = Annotated[
    str, typer.Option(metavar="HOST", help="Address to bind. The protocol has no authentication.")
]
_Port = Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="UDP port; 0: any.")]

_WithParent = Annotated[
    bool, typer.Option("--with-parent", help="End when standard input is closed, too.")
]


def serve_decoding(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What the decoder reads.")],
    decoder: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="network: a file that flows.decoder saved; matching, correlated: a detector error "
            "model of Stim's, or such a file; or a kind that a package registers.",
        ),
    ] = "network",
    host: _Host = "127.0.0.1",
    port: _Port = 0,
    slot_size: Annotated[
        int, typer.Option(metavar="BYTES", help="Largest message with its header.")
    ] = 256,
    with_parent: _WithParent = False,
) -> None:
    """Decode syndromes that arrive by CUDA-Q's real-time calls over UDP, until Ctrl-C or SIGTERM.

    The decoder's id is 0; its syndromes are detection events. A line on stdout says when the server
    is ready and at which port; another one, at the end, what came in.
    """
    from threadpoolctl import threadpool_limits

    from orchestrator.application.realtime import decoder_from, serve_decoder

    made = decoder_from(decoder, file)
    threadpool_limits(1)  # threads of BLAS only wait for each other on a shot's few numbers
    stop = _stopped_by_signals(with_parent=with_parent)

    def ready(bound: int) -> None:
        say(
            f"QEC_DECODING_SERVER_READY port={bound} transport=udp ring0={bound} "
            f"syndromes={made.syndromes} observables={made.observables}"
        )

    served = serve_decoder(made, host=host, port=port, slot_bytes=slot_size, stop=stop, ready=ready)
    shown = [f"{name}={value}" for name, value in asdict(served.counts).items()]
    shown += [f"decoding_{name}_us={value:.2f}" for name, value in served.decoding_us().items()]
    words = " ".join(shown)
    say(f"QEC_DECODING_SERVER_RING decoder=0 dispatched={served.counts.requests} {words}")


def serve_echoes(
    host: _Host = "127.0.0.1", port: _Port = 0, with_parent: _WithParent = False
) -> None:
    """Send every UDP datagram back, until Ctrl-C or SIGTERM: what latencies are compared with."""
    from orchestrator.application.realtime import serve_echo

    stop = _stopped_by_signals(with_parent=with_parent)
    ready: Callable[[int], None] = lambda bound: say(f"ECHO_READY port={bound}")  # noqa: E731
    serve_echo(host=host, port=port, stop=stop, ready=ready)


def _stopped_by_signals(*, with_parent: bool) -> threading.Event:
    """Return what SIGINT and SIGTERM set, and the end of who holds the other end of standard input."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if with_parent:
        threading.Thread(target=_await_end, args=(stop,), daemon=True).start()
    return stop


def _await_end(stop: threading.Event) -> None:
    # Not by sys.stdin, whose lock a thread that waits would hold when the interpreter ends.
    while os.read(0, 1 << 10):
        pass
    stop.set()
