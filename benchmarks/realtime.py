"""What a real-time call costs beyond a bare echo: in Python, with decoders behind it, and in C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row
from benchmarks.setting import ROOT
from flows._decoder.codes import Memory, Noise, ideal_circuit, noisy
from flows._decoder.experiments import coordinates_of
from flows._decoder.networks import Shape, grid_of, initial
from flows._decoder.streaming import EchoCaller, round_sizes
from flows._decoder.trained import Trained, save
from orchestrator.application.realtime import serve_decoder
from orchestrator.realtime.client import DecodingClient
from orchestrator.realtime.sessions import Decoder
from orchestrator.realtime.wire import ENQUEUE, SLOT_BYTES, enqueue_payload, request_bytes

__all__ = ["measure"]

_GOAL_US = 30.0
_SHOTS = 1000
_BLOCK = 25  # shots of one server after each other, before the next one's turn
_WARM_UP = 100
_NS = 1e-3
_CIRCUIT = ideal_circuit(Memory(code="surface", distance=3, rounds=3, basis="z"))
_NOISY = noisy(_CIRCUIT, Noise(one_qubit=0.001, two_qubits=0.01, readout=0.01))
_PLACES = coordinates_of(_CIRCUIT.get_detector_coordinates(), _CIRCUIT.num_detectors)
_HPCQC = (sys.executable, "-m", "orchestrator.cli", "realtime")


@dataclass(slots=True, kw_only=True)
class _Peer:
    """A server and what its calls took, in microseconds.

    calls: without decoding. reactions: the last enqueue and the corrections. cpu_us: of both sides,
    per call in the end. decoding_us: the decoder's own median in the server.
    """

    name: str
    process: subprocess.Popen[str]
    port: int
    calls: list[float] = field(default_factory=list)
    reactions: list[float] = field(default_factory=list)
    cpu_us: float = 0.0
    requests: int = 0
    decoding_us: float = 0.0

    def server_us(self) -> float:
        """Return the CPU time of the server so far, by the kernel's scheduler."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) * _NS


def measure() -> list[Row]:
    """Take echo and servers in turn, in blocks of shots; what else the machine does falls on all."""
    sizes = round_sizes(_PLACES)
    sampler = _NOISY.compile_detector_sampler(seed=1)
    shots = sampler.sample(_SHOTS, separate_observables=True)[0].astype(np.uint8)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as name, ExitStack() as servers:
        peers = [servers.enter_context(_served(*one)) for one in _commands(Path(name))]
        for peer in peers:
            _block(peer, shots[:_WARM_UP], sizes)
            peer.calls.clear()
            peer.reactions.clear()
            peer.cpu_us, peer.requests = -peer.server_us(), 0
        for start in range(0, _SHOTS, _BLOCK):
            for peer in peers:
                _block(peer, shots[start : start + _BLOCK], sizes)
        for peer in peers:
            peer.cpu_us = (peer.cpu_us + peer.server_us()) / peer.requests
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    echo, *rest = peers  # each knows now what its decoder took
    words = f"at load {load:.0f} on {cores} cores"
    return [_row(one, echo, words, is_quiet=load <= cores) for one in rest]


def _row(peer: _Peer, echo: _Peer, load: str, *, is_quiet: bool) -> Row:
    middle, low = (_call_us(peer, quantile) for quantile in (0.5, 0.1))
    bare, low_bare = (_call_us(echo, quantile) for quantile in (0.5, 0.1))
    beyond, is_ours = middle - bare, "Python" in peer.name
    words = f"{beyond:+.1f} µs"
    return Row(
        name=peer.name,
        ours=f"{middle:.1f} µs a call",
        against=f"{bare:.1f} µs",
        what=f"{echo.name}; the decoder's {peer.decoding_us:.1f} µs a shot taken off; {low - low_bare:+.1f} µs "
        f"at the tenth percentile, {peer.cpu_us - echo.cpu_us:+.1f} µs of CPU time of both sides with "
        f"the decoder's; {load}",
        ratio=middle / bare,
        goal=f"≤ {_GOAL_US:g} µs more (is {words})" if is_ours else f"stated ({words})",
        met=beyond <= _GOAL_US if is_ours and (is_quiet or beyond <= _GOAL_US) else None,
    )


def _call_us(peer: _Peer, quantile: float) -> float:
    """Return what a call takes without the decoder: the mean of a shot's calls, at a quantile each."""
    called = float(np.quantile(peer.calls, quantile))
    if not peer.reactions:
        return called
    others = len(peer.calls) // len(peer.reactions)
    reacted = float(np.quantile(peer.reactions, quantile)) - peer.decoding_us
    return (others * called + reacted) / (others + 2)


def _block(peer: _Peer, shots: NDArray[np.uint8], sizes: Sequence[int]) -> None:
    """Stream shots to a server, or as many messages to an echo."""
    cpu = time.thread_time_ns()
    peer.requests += len(shots) * (len(sizes) + 1)
    if "echo" in peer.name:
        message = request_bytes(ENQUEUE, 1, enqueue_payload(0, np.ones(max(sizes), np.uint8)))
        echo = EchoCaller(peer.port, message)
        echo.call(len(shots) * (len(sizes) + 1))
        echo.close()
        peer.calls += [one * _NS for one in echo.times_ns]
    else:
        edges = np.cumsum([0, *sizes])
        with DecodingClient("127.0.0.1", peer.port, timeout_s=30.0) as client:
            client.reset()
            for shot in shots:
                *firsts, last = [shot[a:b] for a, b in pairwise(edges)]
                for part in firsts:
                    start = time.perf_counter_ns()
                    client.enqueue(part)
                    peer.calls.append((time.perf_counter_ns() - start) * _NS)
                start = time.perf_counter_ns()
                client.enqueue(last)
                client.corrections(1)
                peer.reactions.append((time.perf_counter_ns() - start) * _NS)
    peer.cpu_us += (time.thread_time_ns() - cpu) * _NS


def _commands(folder: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """Return the names and commands of all that is compared, the bare echo first."""
    model, network = folder / "surface.dem", folder / "surface.decoder"
    text = str(_NOISY.detector_error_model(decompose_errors=True))
    model.write_text(text)
    detectors = _CIRCUIT.num_detectors
    shape = Shape(kind="residual", detectors=detectors, width=192, grid=grid_of(_PLACES))
    weights = initial(shape, 1)  # they take as long as trained ones
    save(Trained(shape=shape, weights=weights, model=text, title="benchmark"), network)
    yield "bare UDP echo, Python", (*_HPCQC, "echo")
    yield "decoding server, Python, parity", (sys.executable, "-m", "benchmarks.realtime")
    matching = (*_HPCQC, "serve", str(model), "--decoder", "correlated")
    yield "decoding server, Python, correlated matching", matching
    yield "decoding server, Python, network", (*_HPCQC, "serve", str(network))
    compiler = shutil.which("cc")
    if compiler is not None:
        binary, source = str(folder / "realtime"), str(Path(__file__).with_suffix(".c"))
        subprocess.run([compiler, "-O2", "-o", binary, source], check=True)
        yield "decoding server, C, parity", (binary, "serve")
        yield "bare UDP echo, C", (binary, "echo")


@contextmanager
def _served(name: str, command: Sequence[str]) -> Iterator[_Peer]:
    """Run a server; take from its last line what its decoder took."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split("port=")[1].split()[0])
            peer = _Peer(name=name, process=process, port=port)
            yield peer
        finally:
            process.terminate()
            last = process.communicate()[0].split("decoding_p50_us=")
        if len(last) > 1:
            peer.decoding_us = float(last[1].split()[0])


def _parity(syndromes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([syndromes.sum() & 1], dtype=np.uint8)


def main() -> None:
    """Serve a decoder that costs next to nothing, until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    served = serve_decoder(
        Decoder(syndromes=_CIRCUIT.num_detectors, observables=1, decode=_parity),
        host="127.0.0.1",
        port=0,
        slot_bytes=SLOT_BYTES,
        stop=stop,
        ready=lambda port: print(f"READY port={port}", flush=True),
    )
    print(f"decoding_p50_us={served.decoding_us()['p50']:.2f}")


if __name__ == "__main__":
    main()
