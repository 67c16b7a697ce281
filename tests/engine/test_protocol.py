"""Frames: whole ones come out as they went in; cut, oversized and meaningless ones are refused, whatever the pieces."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minipipe.engine import protocol
from minipipe.engine.protocol import BadFrame, Channel, Unpacker, pack


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    left, right = socket.socketpair()
    one, other = Channel(left), Channel(right)
    yield one, other
    one.close()
    other.close()


def drained(unpacker: Unpacker) -> list[protocol.Frame]:
    return list(iter(unpacker.next, None))


@given(
    st.lists(
        st.tuples(st.dictionaries(st.text(max_size=5), st.integers()), st.lists(st.binary(max_size=50), max_size=3)),
        max_size=4,
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=10),
)
def test_frames_come_out_whole_whatever_the_pieces(frames: list[protocol.Frame], sizes: list[int]) -> None:
    data = b"".join(pack(*frame) for frame in frames)
    unpacker, found, position, turn = Unpacker(), [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        unpacker.feed(data[position : position + size])
        found += drained(unpacker)
        position, turn = position + size, turn + 1
    assert found == frames
    assert unpacker.held == 0


@given(st.integers(0, 200))
def test_a_frame_that_is_cut_anywhere_is_no_frame(cut: int) -> None:
    data = pack({"a": 1}, [b"payload", b""])
    unpacker = Unpacker()
    unpacker.feed(data[: min(cut, len(data) - 1)])
    assert unpacker.next() is None
    assert unpacker.held == min(cut, len(data) - 1)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">II", protocol.HEAD_LIMIT + 1, 0),
        struct.pack(">II", 2**31, 0),
        struct.pack(">II", 2, 2**31),
        struct.pack(">II", 2, 1) + b"{}" + struct.pack(">Q", protocol.PAYLOAD_LIMIT + 1),
        struct.pack(">II", 2, 1) + b"{}" + struct.pack(">Q", 2**63),
    ],
    ids=["head over its limit", "head of 2 GiB", "count", "payload over its limit", "payload of 8 EiB"],
)
def test_a_length_over_its_limit_is_refused_before_anything_is_read(data: bytes) -> None:
    unpacker = Unpacker()
    unpacker.feed(data)
    with pytest.raises(BadFrame):
        unpacker.next()


@pytest.mark.parametrize(
    "head",
    [
        b"not json",
        b"[1]",
        b"3",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b"",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"1" * 10_000,
    ],
    ids=["words", "list", "number", "string", "null", "no UTF-8", "empty", "deep list", "deep object", "long number"],
)
def test_a_head_that_is_no_json_object_is_refused(head: bytes) -> None:
    unpacker = Unpacker()
    unpacker.feed(struct.pack(">II", len(head), 0) + head)
    with pytest.raises(BadFrame):
        unpacker.next()


def test_descriptors_arrive_with_their_frames_in_order(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    pipes = [os.pipe() for _ in range(3)]
    for number, (reading, _) in enumerate(pipes):
        one.send({"n": number}, descriptors=[reading])
        os.close(reading)
    assert [head["n"] for head, _ in other.receive()] == [0, 1, 2]
    assert len(other.descriptors) == 3
    for number, (_, writing) in enumerate(pipes):
        os.write(writing, str(number).encode())
        received = other.descriptors.popleft()
        assert os.read(received, 9) == str(number).encode()
        os.close(received)
        os.close(writing)


def test_received_descriptors_are_closed_at_exec(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    reading, writing = os.pipe()
    one.send({}, descriptors=[reading])
    other.receive()
    received = other.descriptors.popleft()
    inheritable = os.get_inheritable(received)
    for descriptor in (reading, writing, received):
        os.close(descriptor)
    assert not inheritable


def test_two_sides_that_send_a_lot_at_once_do_not_wait_for_each_other(pair: tuple[Channel, Channel]) -> None:
    payload, got = b"x" * (8 << 20), {}

    def talk(name: str, side: Channel) -> None:
        side.send({"from": name}, [payload])
        while name not in got and not side.closed:
            select.select([side], [], [], 1.0)
            for frame in side.receive():
                got[name] = frame

    both = [threading.Thread(target=talk, args=item, daemon=True) for item in zip(("one", "other"), pair, strict=True)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(20)
    assert got == {"one": ({"from": "other"}, [payload]), "other": ({"from": "one"}, [payload])}


def test_the_end_of_the_other_side_closes_a_channel_after_its_last_frame(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    one.send({"last": True})
    one.close()
    assert other.receive() == [({"last": True}, [])]
    assert other.closed
    assert other.receive() == []


def test_sending_to_a_side_that_is_gone_closes_and_does_not_raise(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    other.close()
    with contextlib.suppress(BrokenPipeError):
        one.send({}, [b"x" * 100_000])
    assert one.closed
