"""Messages between hpcqc and a child: any header and frames come back, nothing else is believed."""

from __future__ import annotations

import ast
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.child.wire import MOST_BYTES, Line, LineClosed, LineGarbled, LineStuck
from tests.errors import naming

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def ends() -> tuple[Line, Line]:
    there, back = os.pipe(), os.pipe()
    return Line(back[0], there[1]), Line(there[0], back[1])


@pytest.fixture
def lines():
    ours, theirs = ends()
    yield ours, theirs
    ours.close()
    theirs.close()


@given(
    st.lists(
        st.tuples(st.dictionaries(st.text(), JSON, max_size=4), st.lists(st.binary(), max_size=3)),
        max_size=4,
    )
)
def test_messages_come_as_they_were_sent(messages) -> None:
    ours, theirs = ends()
    try:
        for header, frames in messages:
            ours.send(header, frames, timeout_s=10)
            assert theirs.receive() == (header, frames)
    finally:
        ours.close()
        theirs.close()


def test_a_message_may_be_larger_than_the_pipe(lines) -> None:
    ours, theirs = lines
    frame = os.urandom(5 << 20)
    sender = threading.Thread(target=lambda: ours.send({}, [frame], timeout_s=60))
    sender.start()
    assert theirs.receive() == ({}, [frame])
    sender.join()


def test_many_threads_may_send(lines) -> None:
    ours, theirs = lines
    frame = b"x" * 100_000

    def send(number):
        for turn in range(20):
            ours.send({"thread": number, "turn": turn}, [frame], timeout_s=60)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    came = [theirs.receive() for _ in range(80)]
    for thread in threads:
        thread.join()
    assert all(frames == [frame] for _, frames in came)
    seen = {(header["thread"], header["turn"]) for header, _ in came}
    assert len(seen) == 80


@given(st.binary(min_size=12, max_size=200).filter(lambda data: data[:4] != b"HPQC"))
def test_other_bytes_are_garbage_and_shown(data) -> None:
    read, write = os.pipe()
    line = Line(read, os.dup(write))
    os.write(write, data)
    with pytest.raises(LineGarbled) as caught:
        line.receive()
    assert ast.literal_eval(str(caught.value)) == data[:120]
    os.close(write)
    line.close()


@pytest.mark.parametrize(
    "data",
    [
        b"HPQC" + (MOST_BYTES + 1).to_bytes(8, "little"),
        b"HPQC" + (5).to_bytes(8, "little") + b"short",
        b"HPQC" + (21).to_bytes(8, "little") + b"HQC1\x01\0\0\0\x02\0\0\0\0\0\0\0[]x",
        b"HPQC" + (18).to_bytes(8, "little") + b"HQC1\x01\0\0\0\x02\0\0\0\0\0\0\0[]",
    ],
    ids=["too long", "no container", "too many bytes", "header is a list"],
)
def test_a_damaged_message_is_garbage(data) -> None:
    read, write = os.pipe()
    line = Line(read, os.dup(write))
    os.write(write, data + b"\0" * 8)
    with pytest.raises(LineGarbled):
        line.receive()
    os.close(write)
    line.close()


@pytest.mark.parametrize("begun", [b"", b"HP", b"HPQC\x09\0\0\0\0\0\0\0par"])
def test_the_end_of_the_other_side_is_told_from_garbage(begun) -> None:
    read, write = os.pipe()
    line = Line(read, os.open(os.devnull, os.O_WRONLY))
    os.write(write, begun)
    os.close(write)
    with pytest.raises(LineClosed):
        line.receive()
    line.close()


def test_a_short_banner_is_garbage() -> None:
    read, write = os.pipe()
    line = Line(read, os.open(os.devnull, os.O_WRONLY))
    os.write(write, b"hi\n")
    os.close(write)
    with pytest.raises(LineGarbled, match=naming("hi")):
        line.receive()
    line.close()


def test_sending_to_one_that_does_not_read_ends(lines) -> None:
    ours, _ = lines
    with pytest.raises(LineStuck):
        ours.send({}, [b"x" * (2 << 20)], timeout_s=0.2)


def test_sending_to_one_that_is_gone_says_so(lines) -> None:
    ours, theirs = lines
    theirs.close()
    with pytest.raises(LineClosed):
        ours.send({}, timeout_s=10)
    ours.close()
    with pytest.raises(LineClosed):
        ours.send({}, timeout_s=10)
