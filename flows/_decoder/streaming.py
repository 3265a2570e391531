"""A memory experiment that is streamed round by round to a decoding server, with its latencies."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from flows._decoder.experiments import Bits
from orchestrator.realtime.client import CallRefused, DecodingClient, NoAnswer
from orchestrator.realtime.sockets import wait_at_most
from orchestrator.realtime.wire import ENQUEUE, SLOT_BYTES, enqueue_payload, request_bytes

__all__ = [
    "EchoCaller",
    "ServerKind",
    "Stream",
    "StreamError",
    "Streamed",
    "round_sizes",
    "streamed",
]

ServerKind = Literal["network", "matching", "correlated"]

_WARM_UP = 50
_SILENT_SHOTS = 3  # after which nobody is taken to listen
_START_S = 120.0  # importing takes a while on a busy machine
_END_S = 10.0
_HEADER_AND_FIELDS = 24 + 32
_NANO, _MICRO = 1e-9, 1e-6


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
    rounds: round trips of all rounds but the last, of each shot that was answered (answered, rounds - 1);
    reactions: from sending its last round until the corrections are there (answered,), which are two
    calls; echoes: of a bare echo of as many bytes, taken after each shot; decoding: the decoder alone;
    served: median of the decoder's own time in the server, None if that does not tell. lost, refused,
    stale, malformed: calls and datagrams.
    """

    answers: Bits
    answered: Bits
    rounds: NDArray[np.float64]
    reactions: NDArray[np.float64]
    echoes: NDArray[np.float64]
    decoding: NDArray[np.float64]
    served: float | None
    lost: int
    refused: int
    stale: int
    malformed: int

    @property
    def infrastructure_s(self) -> float | None:
        """What a call takes beyond a bare echo, without the decoder's own time; None without one.

        The mean over a shot's calls of their medians, less the median echo.
        """
        if not (self.reactions.size and self.echoes.size and self.decoding.size):
            return None
        decoder = np.median(self.decoding) if self.served is None else self.served
        others = self.rounds.shape[1]
        whole = np.median(self.reactions) - decoder
        if others:
            whole += others * np.median(self.rounds)
        return float(whole / (others + 2) - np.median(self.echoes))


def round_sizes(coordinates: NDArray[np.float64]) -> tuple[int, ...]:
    """Return how many detectors follow each other with the same time, in the order of their index."""
    times = coordinates[:, -1]
    starts = np.flatnonzero(np.diff(times, prepend=np.nan))
    return tuple(np.diff([*starts.tolist(), len(times)]).tolist())


def streamed(asked: Stream, decode: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Streamed:
    """Stream shots to a decoding server. decode: the same decoder, to be timed alone."""
    largest = _HEADER_AND_FIELDS + -(-max(asked.sizes) // 8)
    with ExitStack() as servers:
        echo = servers.enter_context(_server(["echo"], "ECHO_READY"))
        if asked.address is not None:
            host, _, own = asked.address.rpartition(":")
            found = _stream_to(host, int(own), echo.port, asked)
        else:
            with _decoding_server(asked, max(SLOT_BYTES, largest)) as served:
                found = _stream_to("127.0.0.1", served.port, echo.port, asked)
            told = served.last.get("decoding_p50_us")
            found = replace(found, served=None if told is None else float(told) * _MICRO)
    return replace(found, decoding=_decoding_times(asked.events, decode))


@dataclass(slots=True, kw_only=True)
class _Server:
    """A server's port, and the fields of its last line once it has ended."""

    port: int
    last: Mapping[str, str]


@contextmanager
def _decoding_server(asked: Stream, slot_bytes: int) -> Iterator[_Server]:
    """Run the server of a stream's decoder."""
    with ExitStack() as running:
        # The server has read its file when it is ready, so that a kill of both leaves no file.
        with tempfile.TemporaryDirectory(prefix="hpcqc-decoder-") as folder:
            file = Path(folder) / "decoder"
            file.write_bytes(asked.content)
            options = ["serve", str(file), "--decoder", asked.kind, "--slot-size", str(slot_bytes)]
            served = running.enter_context(_server(options, "QEC_DECODING_SERVER_READY"))
        yield served


@contextmanager
def _server(options: Sequence[str], ready: str) -> Iterator[_Server]:
    """Run ``hpcqc realtime …``, which ends with this process, too: workers are killed."""
    command = [sys.executable, "-m", "orchestrator.cli", "realtime", *options, "--with-parent"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        late = threading.Timer(_START_S, process.kill)
        late.start()
        try:
            found = _Server(port=_port_of(process, ready), last={})
            late.cancel()
            yield found
        finally:
            late.cancel()
            process.terminate()
            try:
                words = process.communicate(timeout=_END_S)[0].split()
            except subprocess.TimeoutExpired:
                process.kill()
                words = []
        found.last = dict(word.split("=", 1) for word in words if "=" in word)


def _port_of(process: subprocess.Popen[str], ready: str) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        if words and words[0] == ready:
            return int(words[1].partition("=")[2])
    raise StreamError(f"the decoding server ended with {process.wait()}; see the messages above")


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


class EchoCaller:
    """A caller of the bare echo."""

    def __init__(self, port: int, message: bytes) -> None:
        self._message, self._place = message, bytearray(len(message))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        wait_at_most(self._socket, 1.0)
        self.times_ns: list[int] = []

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def call(self, times: int) -> None:
        """Measure so many round trips."""
        for _ in range(times):
            start = time.perf_counter_ns()
            try:
                self._socket.send(self._message)
                self._socket.recv_into(self._place)
            except OSError:
                continue
            self.times_ns.append(time.perf_counter_ns() - start)


def _stream_to(host: str, port: int, echo_port: int, asked: Stream) -> Streamed:
    """Stream all shots, each followed by as many echoes as it had calls: drift falls on both."""
    shots = asked.events.astype(np.uint8)
    edges = np.cumsum([0, *asked.sizes])
    answers, answered = np.zeros(len(shots), bool), np.zeros(len(shots), bool)
    rounds: list[list[int]] = []
    reactions: list[int] = []
    lost = refused = 0
    widest = np.ones(max(asked.sizes), np.uint8)
    message = request_bytes(ENQUEUE, 1, enqueue_payload(0, widest))
    with (
        DecodingClient(host, port, timeout_s=asked.timeout_s) as client,
        closing(EchoCaller(echo_port, message)) as echo,
    ):
        echo.call(_WARM_UP)
        echo.times_ns.clear()
        for number, shot in enumerate(shots):
            parts = [shot[a:b] for a, b in pairwise(edges)]
            try:
                answers[number], times = _shot(client, number, parts)
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
            answered[number] = True
            rounds.append(times[:-1])
            reactions.append(times[-1])
            echo.call(len(parts) + 1)
        return Streamed(
            answers=answers,
            answered=answered,
            rounds=np.array(rounds).reshape(len(rounds), len(asked.sizes) - 1) * _NANO,
            reactions=np.array(reactions) * _NANO,
            echoes=np.array(echo.times_ns) * _NANO,
            decoding=np.zeros(0),
            served=None,
            lost=lost,
            refused=refused,
            stale=client.counts.stale,
            malformed=client.counts.malformed,
        )


def _shot(
    client: DecodingClient, number: int, parts: Sequence[NDArray[np.uint8]]
) -> tuple[bool, list[int]]:
    """Stream one shot. Return the decoded flip, and nanoseconds: of each round, and of the reaction."""
    times = []
    for turn, part in enumerate(parts[:-1]):
        start = time.perf_counter_ns()
        client.enqueue(part, number << 16 | turn)
        times.append(time.perf_counter_ns() - start)
    start = time.perf_counter_ns()
    client.enqueue(parts[-1], number << 16 | len(parts) - 1)
    (flip,) = client.corrections(1)
    times.append(time.perf_counter_ns() - start)
    return bool(flip), times


def _begin_again(client: DecodingClient) -> None:
    try:
        client.reset()
    except (NoAnswer, CallRefused):  # the next shot is refused, and begins again
        return
