"""Real-time calls: the published wire, sessions, and a server and a client over real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.realtime import wire
from orchestrator.realtime.client import DecodingClient, NoAnswer
from orchestrator.realtime.server import DecodingServer, echo
from orchestrator.realtime.sessions import CallAnswer, Decoder, ShotTable
from orchestrator.realtime.sockets import bound_socket
from orchestrator.realtime.wire import Malformed, Status
from tests.patience import until


def test_functions_have_the_published_numbers() -> None:
    assert wire.ENQUEUE == 0x7ED8BE82
    assert wire.CORRECTIONS == 0x882D5BA1
    assert wire.RESET == 0x977A59CF
    assert wire.function_id("mock_decode") == 0x6C45A6D6


def test_a_request_has_the_published_bytes() -> None:
    bits = np.array([1, 0, 0, 0, 0, 0, 0, 0, 1, 1], dtype=np.uint8)
    message = wire.request_bytes(wire.ENQUEUE, 7, wire.enqueue_payload(3, bits, 5 << 16 | 2), 9)
    assert message == (
        bytes.fromhex("52515543 82bed87e 22000000 07000000 0900000000000000")
        + struct.pack("<qqqq", 3, 5 << 16 | 2, 0, 10)
        + b"\x01\x03"
    )
    asked = wire.get_corrections_payload(3, 1, reset=True)
    assert asked == bytes.fromhex("0300000000000000 0100000000000000 01")
    head = bytearray(24)
    wire.answer_head(head, message, 2, 1)
    assert head + b"\x01" == bytes.fromhex(
        "53515543 02000000 01000000 07000000 0900000000000000 01"
    )


@given(st.integers(0, 31), st.lists(st.integers(0, 1), min_size=1, max_size=90), st.binary())
def test_messages_are_read_as_they_were_written(decoder: int, bits: list[int], rest: bytes) -> None:
    payload = wire.enqueue_payload(decoder, np.array(bits, dtype=np.uint8), 11)
    # A sender pads to its slot.
    message = wire.request_bytes(wire.ENQUEUE, 2**32 - 1, payload, 2**64 - 1) + rest
    function, end = wire.call_of(message + b"of the last datagram", len(message))
    assert (function, message[wire.REQUEST_ID]) == (wire.ENQUEUE, b"\xff" * 4)
    assert message[:end].endswith(payload)
    count, found = wire.enqueue_of(message, end)
    assert wire.decoder_of(message, end) == decoder
    assert (count, [found >> place & 1 for place in range(count)]) == (len(bits), bits)
    assert found >> count == 0


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    for read in (
        wire.call_of,
        wire.answer_of,
        wire.enqueue_of,
        wire.get_corrections_of,
        wire.decoder_of,
    ):
        with contextlib.suppress(Malformed):
            read(message, len(message))


def parity(syndromes: Any) -> Any:
    """Stand for a decoder: whether an odd number of syndromes came."""
    return np.array([syndromes.sum() % 2], dtype=np.uint8)


def enqueue(bits: list[int], decoder: int = 0) -> bytes:
    payload = wire.enqueue_payload(decoder, np.array(bits, dtype=np.uint8))
    return wire.request_bytes(wire.ENQUEUE, 1, payload)


def ask(observables: int = 1, *, reset: bool = True) -> bytes:
    payload = wire.get_corrections_payload(0, observables, reset=reset)
    return wire.request_bytes(wire.CORRECTIONS, 1, payload)


AGAIN = wire.request_bytes(wire.RESET, 1, wire.reset_payload(0))


class Table:
    """The sessions of a server, called with whole messages."""

    def __init__(self, decode: Any = parity) -> None:
        decoder = Decoder(syndromes=4, observables=1, decode=decode)
        self.sessions = ShotTable({0: decoder}, most=3)

    def __call__(self, message: bytes, caller: str = "one", now_s: float = 0.0) -> CallAnswer:
        function, end = wire.call_of(message, len(message))
        return self.sessions.answer(caller, function, message, end, now_s)

    def complete(self, bits: list[int]) -> None:
        found = self(enqueue(bits)).to_decode
        assert found is not None
        found.decode()

    def status(self, message: bytes, caller: str = "one", now_s: float = 0.0) -> Status:
        return self(message, caller, now_s).status


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_shot_is_decoded_when_it_is_complete(table: Table) -> None:
    assert table.status(ask()) is Status.NOT_READY
    assert table(enqueue([1, 0, 1])).to_decode is None
    found = table(enqueue([0])).to_decode
    assert found is not None
    assert table.status(ask()) is Status.NOT_READY
    found.decode()
    for reset in (False, True):
        read = table(ask(reset=reset))
        assert (read.status, read.result) == (Status.OK, b"\0")
    assert table.status(ask()) is Status.NOT_READY


def test_decoders_get_the_syndromes_in_their_order() -> None:
    seen: list[Any] = []

    def watched(syndromes: Any) -> Any:
        seen.append(syndromes.tolist())
        return parity(syndromes)

    table = Table(watched)
    for shot in ([1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]):
        table(enqueue(shot[:1]))
        table.complete(shot[1:])
        assert seen.pop() == shot
        table(ask())


def test_a_spoilt_shot_fails_until_a_reset(table: Table) -> None:
    payload = wire.enqueue_payload(0, np.ones(2, np.uint8)) + b"\0"
    bad = wire.request_bytes(wire.ENQUEUE, 1, payload)
    for spoil, said in ((enqueue([1] * 5), Status.OK), (bad, Status.BAD_REQUEST)):
        assert table.status(spoil) is said
        assert table.status(ask()) is Status.INTERNAL_ERROR
        assert table.status(enqueue([1] * 4)) is Status.OK
        assert table.status(ask()) is Status.INTERNAL_ERROR
        assert table.status(AGAIN) is Status.OK
        assert table.status(ask()) is Status.NOT_READY


def test_calls_that_fit_nothing_get_their_status_and_no_session(table: Table) -> None:
    assert table.status(enqueue([1], decoder=1)) is Status.INVALID_DECODER
    assert table.status(ask(2)) is Status.BAD_REQUEST
    for function in (wire.ENQUEUE, wire.CORRECTIONS, wire.RESET):
        for size in (0, 7, 9):
            message = wire.request_bytes(function, 1, bytes(size))
            assert table.status(message) is Status.BAD_REQUEST
    table(ask())
    table(AGAIN)
    assert len(table.sessions) == table.sessions.opened == 0


def test_a_decoder_that_raises_fails_the_shot_alone() -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("no matching")

    table = Table(broken)
    table.complete([1] * 4)
    assert table.status(ask()) is Status.INTERNAL_ERROR


def test_a_newcomer_gets_the_place_of_the_silent_alone(table: Table) -> None:
    for second, caller in enumerate("abc"):
        table(enqueue([1]), caller, second)
    assert table.status(enqueue([1]), "d", 9.9) is Status.BUSY
    table(enqueue([1]), "a", 9.9)  # so that the one who was silent longest is b
    assert table.status(enqueue([1]), "d", 10.9) is Status.BUSY
    assert table.status(enqueue([1]), "d", 11.0) is Status.OK
    assert table.status(enqueue([1]), "b", 11.0) is Status.BUSY
    assert table(enqueue([0, 1]), "a", 11.0).to_decode is not None  # two came before
    assert (len(table.sessions), table.sessions.opened) == (3, 4)


@contextlib.contextmanager
def running(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """Serve on loopback in a thread; yield the port."""
    stop = threading.Event()
    with bound_socket("127.0.0.1", 0) as port:
        thread = threading.Thread(target=serve, args=(port, stop))
        thread.start()
        try:
            yield port.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def server() -> DecodingServer:
    return DecodingServer({0: Decoder(syndromes=16, observables=1, decode=parity)})


def decoded(client: DecodingClient, bits: Any) -> int:
    for part in np.split(bits, 4):
        client.enqueue(part)
    return int(client.corrections(1)[0])


def test_shots_of_several_callers_are_decoded_apart(server: DecodingServer) -> None:
    rng = np.random.default_rng(1)
    with (
        running(server.serve) as port,
        DecodingClient("127.0.0.1", port) as one,
        DecodingClient("127.0.0.1", port) as other,
    ):
        for bits in rng.integers(0, 2, (20, 16)).astype(np.uint8):
            other.enqueue(bits[:3])  # never completes
            assert decoded(one, bits) == bits.sum() % 2
            other.reset()
    assert server.counts.decoded == 20
    assert server.counts.sessions == 2


def test_a_flood_of_junk_is_counted_and_decoding_goes_on(server: DecodingServer) -> None:
    rng = np.random.default_rng(2)
    good = wire.request_bytes(wire.ENQUEUE, 1, wire.enqueue_payload(0, np.ones(4, np.uint8)))
    junk = [
        b"",
        good[:20],
        b"X" + good[1:],
        good[:8] + b"\xff\xff\xff\xff" + good[12:],
        wire.request_bytes(99, 1, b""),
        good + bytes(300),
        rng.bytes(200),
    ]
    with (
        running(server.serve) as port,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood,
        DecodingClient("127.0.0.1", port) as client,
    ):
        for bits in rng.integers(0, 2, (20, 16)).astype(np.uint8):
            for _ in range(10):
                for message in junk:
                    flood.sendto(message, ("127.0.0.1", port))
            assert decoded(client, bits) == bits.sum() % 2
        until(lambda: server.counts.too_large > 0 and server.counts.unknown > 0)
    counts = server.counts
    assert counts.malformed >= 4 * counts.too_large > 0
    assert counts.sessions == 1


class Relay:
    """Stands between client and server, and treats each answer as told."""

    def __init__(self, port: int, treatment: list[str]) -> None:
        self._port = port
        self._treatment = iter(treatment)

    def serve(self, front: socket.socket, stop: threading.Event) -> None:
        front.settimeout(0.05)
        late: list[bytes] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.connect(("127.0.0.1", self._port))
            while not stop.is_set():
                try:
                    message, caller = front.recvfrom(1000)
                except TimeoutError:
                    continue
                how = next(self._treatment, "pass")
                if how == "lose":
                    continue
                back.send(message)
                reply = back.recv(1000)
                if how == "malform":
                    front.sendto(reply[:10], caller)
                if how == "late":
                    late.append(reply)
                    continue
                for old in late:
                    front.sendto(old, caller)
                late.clear()
                front.sendto(reply, caller)


def test_lost_late_malformed_and_foreign_datagrams_are_survived(server: DecodingServer) -> None:
    bits = np.ones(16, dtype=np.uint8)
    with running(server.serve) as port:
        relay = Relay(port, ["lose", "pass", "late", "malform", "pass"])
        with (
            running(relay.serve) as front,
            DecodingClient("127.0.0.1", front, timeout_s=0.5) as client,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign,
        ):
            own = client._socket.getsockname()
            with pytest.raises(NoAnswer):
                client.enqueue(bits)  # lost
            client.reset()
            with pytest.raises(NoAnswer):
                client.reset()  # late
            for number in range(10):  # answers of another address, with the id that comes next
                fake = struct.pack("<IiIIQ", 0x43555153, 2, 0, number, 0)
                foreign.sendto(fake, own)
            client.reset()  # a malformed datagram and the late answer come first
            assert decoded(client, bits) == 0
            counts = client.counts
    assert (counts.unanswered, counts.stale, counts.malformed) == (2, 1, 1)


def test_a_server_that_is_gone_is_no_answer() -> None:
    with bound_socket("127.0.0.1", 0) as port:
        number = port.getsockname()[1]
    with DecodingClient("127.0.0.1", number, timeout_s=0.1) as client:
        for _ in range(3):
            with pytest.raises(NoAnswer):
                client.reset()


def test_an_echo_sends_back_what_came() -> None:
    with (
        running(echo) as port,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller,
    ):
        caller.settimeout(30)
        for message in (b"", b"a", bytes(256)):
            caller.sendto(message, ("127.0.0.1", port))
            assert caller.recv(1000) == message
