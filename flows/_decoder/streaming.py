"""A memory experiment that is streamed round by round to a decoding server, with its latencies."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from flows._decoder.experiments import Bits
from orchestrator.realtime.client import CallRefused, DecodingClient, NoAnswer
from orchestrator.realtime.wire import ENQUEUE, SLOT_BYTES, enqueue_payload, request_bytes

__all__ = ["ServerKind", "Stream", "StreamError", "Streamed", "round_sizes", "streamed"]

ServerKind = Literal["network", "matching", "correlated"]

_ECHOES = 2000
_WARM_UP = 50
_SILENT_SHOTS = 3  # after which nobody is taken to listen
_START_S = 120.0  # importing takes a while on a busy machine
_END_S = 10.0
_HEADER_AND_FIELDS = 24 + 32
_NANO = 1e-9


class StreamError(RuntimeError):
    """The decoding server did not start, ended, or never answered."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Stream:
    """What to stream. events: of each shot (shots, detectors). sizes: detectors of each round.

    content: the decoder's file. address: of a server that runs already, as "host:port"; else one is
    started. timeout_s: after which a call counts as lost.
    """

    kind: ServerKind
    content: bytes
    events: Bits
    sizes: tuple[int, ...]
    timeout_s: float
    address: str | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Streamed:
    """What came back, times in seconds.

    answers: flips as decoded live (shots,), False where none came. answered: whether one did.
    rounds: round trips of all rounds but the last of each shot; reactions: from sending the last round
    until the corrections are there; echoes: of a bare echo of as many bytes; decoding: the decoder
    alone. lost, refused, stale, malformed: calls and datagrams.
    """

    answers: Bits
    answered: Bits
    rounds: NDArray[np.float64]
    reactions: NDArray[np.float64]
    echoes: NDArray[np.float64]
    decoding: NDArray[np.float64]
    lost: int
    refused: int
    stale: int
    malformed: int


def round_sizes(coordinates: NDArray[np.float64]) -> tuple[int, ...]:
    """Return how many detectors follow each other with the same time, in the order of their index."""
    times = coordinates[:, -1]
    starts = np.flatnonzero(np.diff(times, prepend=np.nan))
    return tuple(np.diff([*starts.tolist(), len(times)]).tolist())


def streamed(asked: Stream, decode: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Streamed:
    """Stream shots to a decoding server. decode: the same decoder, to be timed alone."""
    largest = _HEADER_AND_FIELDS + -(-max(asked.sizes) // 8)
    message = request_bytes(ENQUEUE, 1, enqueue_payload(0, np.ones(max(asked.sizes), np.uint8)))
    with tempfile.TemporaryDirectory(prefix="hpcqc-decoder-") as folder:
        file = Path(folder) / "decoder"
        file.write_bytes(asked.content)
        with _server(["echo"], "ECHO_READY") as port:
            echoes = _echo_times(port, message)
        if asked.address is not None:
            host, _, own = asked.address.rpartition(":")
            found = _streamed_to(host, int(own), asked)
        else:
            slot = str(max(SLOT_BYTES, largest))
            options = ["serve", str(file), "--decoder", asked.kind, "--slot-size", slot]
            with _server(options, "QEC_DECODING_SERVER_READY") as port:
                found = _streamed_to("127.0.0.1", port, asked)
    return Streamed(**found, echoes=echoes, decoding=_decoding_times(asked.events, decode))


@contextmanager
def _server(options: Sequence[str], ready: str) -> Iterator[int]:
    """Start ``hpcqc realtime …``, and yield its port."""
    command = [sys.executable, "-m", "orchestrator.cli", "realtime", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        late = threading.Timer(_START_S, process.kill)
        late.start()
        try:
            port = _port_of(process, ready)
            late.cancel()
            yield port
        finally:
            late.cancel()
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _port_of(process: subprocess.Popen[str], ready: str) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        if words and words[0] == ready:
            return int(words[1].partition("=")[2])
    raise StreamError(f"the decoding server ended with {process.wait()}; see the messages above")


def _echo_times(port: int, message: bytes) -> NDArray[np.float64]:
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.connect(("127.0.0.1", port))
        opened.settimeout(1.0)
        for _ in range(_ECHOES + _WARM_UP):
            start = time.perf_counter_ns()
            try:
                opened.send(message)
                opened.recv(len(message))
            except OSError:
                continue
            times.append((time.perf_counter_ns() - start) * _NANO)
    return np.array(times[_WARM_UP:])


def _decoding_times(
    events: Bits, decode: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.float64]:
    times = []
    with threadpool_limits(1):  # as in the server
        for shot in events.astype(np.uint8):
            start = time.perf_counter_ns()
            decode(shot)
            times.append((time.perf_counter_ns() - start) * _NANO)
    return np.array(times)


def _streamed_to(host: str, port: int, asked: Stream) -> dict[str, Any]:
    shots = asked.events.astype(np.uint8)
    edges = np.cumsum([0, *asked.sizes])
    answers, answered = np.zeros(len(shots), bool), np.zeros(len(shots), bool)
    rounds: list[int] = []
    reactions: list[int] = []
    lost = refused = 0
    with DecodingClient(host, port, timeout_s=asked.timeout_s) as client:
        for number, shot in enumerate(shots):
            parts = [shot[a:b] for a, b in pairwise(edges)]
            try:
                for turn, part in enumerate(parts[:-1]):
                    start = time.perf_counter_ns()
                    client.enqueue(part, number << 16 | turn)
                    rounds.append(time.perf_counter_ns() - start)
                start = time.perf_counter_ns()
                client.enqueue(parts[-1], number << 16 | len(parts) - 1)
                (flip,) = client.corrections(1)
                reactions.append(time.perf_counter_ns() - start)
            except (NoAnswer, CallRefused) as error:
                lost += isinstance(error, NoAnswer)
                refused += isinstance(error, CallRefused)
                if number + 1 == _SILENT_SHOTS and not client.counts.answered:
                    raise StreamError(
                        f"{host}:{port} answered none of {lost} calls within {asked.timeout_s:g} s; "
                        "start 'hpcqc realtime serve' there, or correct the address"
                    ) from None
                _begin_again(client)
                continue
            answers[number], answered[number] = bool(flip), True
    return {
        "answers": answers,
        "answered": answered,
        "rounds": np.array(rounds) * _NANO,
        "reactions": np.array(reactions) * _NANO,
        "lost": lost,
        "refused": refused,
        "stale": client.counts.stale,
        "malformed": client.counts.malformed,
    }


def _begin_again(client: DecodingClient) -> None:
    try:
        client.reset()
    except (NoAnswer, CallRefused):  # the next shot is refused, and begins again
        return
