"""Frames between worker, step host and child: a JSON head and opaque payloads, both with a length and a limit.

Nothing here is ever unpickled. A frame: 4 bytes length of the head, 4 bytes number of payloads, the head, then each payload with
8 bytes of length (all big-endian).
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from minipipe.errors import MinipipeError

HEAD_LIMIT = 16 << 20
PAYLOAD_LIMIT = 64 << 20
_PAYLOADS_LIMIT = 100_000
_START = struct.Struct(">II")
_LENGTH = struct.Struct(">Q")
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps with arguments builds an encoder at each call


class BadFrame(MinipipeError):
    """Bytes from the other side that are no frame: too long, cut, or not JSON."""


Frame = tuple[dict[str, Any], list[bytes]]


def pack(head: dict[str, Any], payloads: Sequence[bytes] = ()) -> bytes:
    """One frame as bytes."""
    text = _encode(head).encode()
    parts = [_START.pack(len(text), len(payloads)), text]
    for payload in payloads:
        parts += (_LENGTH.pack(len(payload)), payload)
    return b"".join(parts)


class Unpacker:
    """Collects bytes and gives frames as soon as they are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what arrived."""
        self._buffer += data

    def next(self) -> Frame | None:
        """The next whole frame, None if more bytes are needed.

        Raises:
            BadFrame: a length is over its limit or the head is not a JSON object.
        """
        buffer = self._buffer
        if len(buffer) < _START.size:
            return None
        head_size, count = _START.unpack_from(buffer)
        if head_size > HEAD_LIMIT or count > _PAYLOADS_LIMIT:
            raise BadFrame(f"a frame claims a head of {head_size} bytes and {count} payloads")
        position = _START.size + head_size
        spans = []
        for _ in range(count):
            if len(buffer) < position + _LENGTH.size:
                return None
            (size,) = _LENGTH.unpack_from(buffer, position)
            if size > PAYLOAD_LIMIT:
                raise BadFrame(f"a frame claims a payload of {size} bytes")
            position += _LENGTH.size
            spans.append((position, position + size))
            position += size
        if len(buffer) < position:
            return None
        try:
            head = json.loads(buffer[_START.size : _START.size + head_size])
        except (ValueError, RecursionError) as error:  # the latter: a head that is nested without end
            raise BadFrame("a frame's head is not JSON", str(error)) from None
        if not isinstance(head, dict):
            raise BadFrame("a frame's head is not an object")
        payloads = [bytes(buffer[start:end]) for start, end in spans]
        del buffer[:position]
        return head, payloads

    @property
    def held(self) -> int:
        """Bytes that belong to no frame yet."""
        return len(self._buffer)


class Channel:
    """Frames over a stream socket, without ever blocking both sides.

    While a frame waits to be taken, what the other side sends is read into memory: two processes that send at the same time
    would otherwise wait for each other for ever.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._unpacker = Unpacker()
        self.closed = False
        self.descriptors: deque[int] = deque()  # that came with frames, in the order of the frames
        sock.setblocking(False)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, head: dict[str, Any], payloads: Sequence[bytes] = (), descriptors: Sequence[int] = ()) -> None:
        """Send one frame, with open descriptors if need be; sets `closed` if the other side is gone."""
        view = memoryview(pack(head, payloads))
        while view and not self.closed:
            try:
                sent = socket.send_fds(self._socket, [view], descriptors) if descriptors else self._socket.send(view)
                view, descriptors = view[sent:], ()
            except BlockingIOError:
                readable, _, _ = select.select([self._socket], [self._socket], [], 1.0)
                if readable:
                    self._read()
            except OSError:
                self.closed = True

    def receive(self) -> list[Frame]:
        """All whole frames that have arrived; sets `closed` at the end of the stream."""
        if not self.closed:
            self._read()
        frames = []
        while (frame := self._unpacker.next()) is not None:
            frames.append(frame)
        return frames

    def _read(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 18, 16)
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)  # the only descriptors that Python leaves inheritable
                self.descriptors.extend(descriptors)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return
            self._unpacker.feed(data)

    @property
    def held(self) -> int:
        """Bytes that arrived and belong to no whole frame."""
        return self._unpacker.held

    def close(self) -> None:
        """Close the socket."""
        self.closed = True
        self._socket.close()
