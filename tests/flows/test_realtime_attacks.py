"""Attacks on a decoding server: a process of another user floods it while a caller is served."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("stim", reason="the decoder extra is not installed")
pytest.importorskip("pymatching", reason="the decoder extra is not installed")

from flows._decoder.codes import Memory, Noise, ideal_circuit, noisy
from flows._decoder.served import matching
from orchestrator.realtime import wire
from orchestrator.realtime.client import DecodingClient, NoAnswer

pytestmark = pytest.mark.slow

CIRCUIT = ideal_circuit(Memory(code="surface", distance=3, rounds=3, basis="z"))
LOUD = noisy(CIRCUIT, Noise(one_qubit=0.001, two_qubits=0.01, readout=0.01))
DETECTORS = 24
CALLERS, TURNS = 200, 30
MOST_GROWTH_BYTES = 16 << 20

# Every caller sends each message in each turn, from an address and a port of its own.
FLOOD = """
import socket, sys
port, callers, turns = map(int, sys.argv[1:])
messages = [bytes.fromhex(line) for line in sys.stdin.read().split("\\n")[:-1]]
sockets = []
for number in range(callers):
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((f"127.0.0.{number % 100 + 2}", 0))
    sockets.append(opened)
print("ready", flush=True)
sent = 0
for _ in range(turns):
    for opened in sockets:
        for message in messages:
            sent += opened.sendto(message, ("127.0.0.1", port)) == len(message)
print(sent, flush=True)
"""


def hostile() -> list[bytes]:
    """Return a message of each kind; the first is a call that is right."""
    good = wire.request_bytes(wire.ENQUEUE, 1, wire.enqueue_payload(0, np.ones(8, np.uint8), 1))
    a_byte_for_a_bit = struct.pack("<qqqq", 0, 1, 0, 8) + bytes(8)  # the wire before this one
    return [
        good,
        good + bytes(256 - len(good)),  # padded to its slot
        b"",
        good[:20],
        good[:-1],
        good[:8] + b"\xff\xff\xff\xff" + good[12:],
        b"S" + good[1:],  # an answer's magic
        bytes(100),
        good + bytes(300),
        bytes(65_507),
        wire.request_bytes(wire.function_id("mock_decode"), 1, bytes(8)),
        wire.request_bytes(wire.ENQUEUE, 1, a_byte_for_a_bit),
        wire.request_bytes(wire.ENQUEUE, 1, struct.pack("<qqqq", 0, 1, 0, 2**62) + b"\0"),
        wire.request_bytes(wire.ENQUEUE, 1, struct.pack("<qqqq", 0, 1, 0, -1) + b"\0"),
        wire.request_bytes(wire.ENQUEUE, 1, wire.enqueue_payload(7, np.ones(8, np.uint8))),
        wire.request_bytes(wire.CORRECTIONS, 1, wire.get_corrections_payload(0, 1, reset=True)),
        wire.request_bytes(wire.CORRECTIONS, 1, wire.get_corrections_payload(0, 99, reset=True)),
        wire.request_bytes(wire.RESET, 1, b""),
    ]


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    file = folder / "surface.dem"
    file.write_text(str(LOUD.detector_error_model(decompose_errors=True)))
    words = ["-m", "orchestrator.cli", "realtime", "serve", str(file), "--decoder", "matching"]
    command = [sys.executable, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline().split()[1].partition("=")[2])
        finally:
            process.kill()


@contextmanager
def flooding(port: int) -> Iterator[subprocess.Popen[str]]:
    """Run the flood, as another user where that can be done."""
    is_root = os.geteuid() == 0
    python = shutil.which("python3", path="/usr/bin:/bin") if is_root else sys.executable
    if python is None:
        pytest.skip("no Python that another user may run")
    with subprocess.Popen(
        [python, "-c", FLOOD, str(port), str(CALLERS), str(TURNS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user="nobody" if is_root else None,
        cwd="/",
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write("".join(f"{message.hex()}\n" for message in hostile()))
            process.stdin.close()
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if is_root:
                assert psutil.Process(process.pid).uids().real == pwd.getpwnam("nobody").pw_uid
            yield process
        finally:
            process.kill()


def decoded(client: DecodingClient, shot: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> int:
    """Have a shot decoded, once more after each loss."""
    while True:
        try:
            client.reset()
            for part in np.split(shot, 3):
                client.enqueue(part)
            return int(client.corrections(1)[0])
        except NoAnswer:
            continue


def test_a_flood_of_another_user_neither_ends_nor_spoils_a_stream(tmp_path: Path) -> None:
    events, _ = LOUD.compile_detector_sampler(seed=5).sample(2000, separate_observables=True)
    shots = events.astype(np.uint8)
    with (
        served(tmp_path) as (process, port),
        DecodingClient("127.0.0.1", port, timeout_s=2.0) as client,
    ):
        decode = matching(str(tmp_path / "surface.dem")).decode
        assert decoded(client, shots[0]) == decode(shots[0])[0]
        before = psutil.Process(process.pid).memory_info().rss
        during = 0
        with flooding(port) as flood:
            for shot in shots[1:]:
                assert decoded(client, shot) == decode(shot)[0]
                if flood.poll() is not None:
                    break
                during += 1
            assert flood.stdout is not None
            sent = int(flood.stdout.read())
        assert decoded(client, shots[0]) == decode(shots[0])[0]
        grown = psutil.Process(process.pid).memory_info().rss - before
        ours = client.counts.answered + client.counts.unanswered
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        fields = process.stdout.read().split()[1:]
    assert process.returncode == 0
    assert during > 0
    assert sent == CALLERS * TURNS * len(hostile())
    assert grown < MOST_GROWTH_BYTES
    counts = {name: float(value) for name, value in (word.split("=") for word in fields)}
    silent = ("short", "foreign", "truncated", "too_large", "unknown", "dropped")
    assert counts["requests"] + sum(counts[name] for name in silent) == sent + ours
    assert counts["decoded"] >= during
    for kind in (*silent[:-1], "bad", "invalid", "busy", "not_ready", "repeated"):
        assert counts[kind] > 0, kind
