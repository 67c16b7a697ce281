"""A log that grows beyond its limit loses its middle: the beginning and the end are what people read.

The step writes straight into its log file, so nothing stands between them that could cut it short. While it runs, its worker punches
a hole into the middle once a second, which frees the room and moves nothing; when it has ended, head, one line that says what is
missing, and tail are written anew, because a hole does not survive being copied. Where there are no holes only the latter happens.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import BinaryIO

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # Linux, fallocate(2)
_PAGE = 4096
_CHUNK = 1 << 20
_SLACK_BYTES = 1 << 20  # a log may be so much over its limit before somebody acts
_LINE_BYTES = 64 << 10  # so far is looked for the end of a line

_fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def hollow(path: Path, limit: int) -> bool:
    """Free the middle of a log that is being written, so that about `limit` bytes of it stay.

    Args:
        path: the log; it need not exist.
        limit: bytes; 0 is no limit.

    Returns:
        True if room was freed.
    """
    try:
        found = os.stat(path)
        if not limit or found.st_blocks * 512 <= limit + _SLACK_BYTES or _fallocate is None:
            return False
        begin = _up(limit // 2)
        length = (found.st_size - limit // 2) // _PAGE * _PAGE - begin
        if length <= 0:
            return False
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(_fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, begin, length) == 0)
    finally:
        os.close(descriptor)


def trim(path: Path, limit: int, draft: Path) -> bool:
    """Rewrite a log that nobody writes any more: its head, one line that says what is missing, its tail.

    Args:
        path: the log; it need not exist.
        limit: bytes; 0 is no limit.
        draft: where to write first, on the same file system; the log is replaced in one step.

    Returns:
        True if it was too long.

    Raises:
        OSError: it could not be written anew; the log is as it was.
    """
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return False
    if not limit or size <= limit + _SLACK_BYTES:
        return False
    try:
        with open(path, "rb") as source, open(draft, "wb", opener=_private) as target:
            head = _end_of_line(source, limit // 2, size)
            tail = _end_of_line(source, size - limit // 2, size)
            _copy(source, target, 0, head)
            target.write(marker(tail - head))
            _copy(source, target, tail, size)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return True


def read(file: BinaryIO, place: int, most: int) -> tuple[int, bytes]:
    """The next bytes of a log, past a hole: a step is still writing it, or its worker died before it could trim it.

    Args:
        file: the log.
        place: where to go on.
        most: bytes.

    Returns:
        how many bytes are missing before these, and these; empty at the end.
    """
    try:
        begin = os.lseek(file.fileno(), place, os.SEEK_DATA)
        most = min(most, os.lseek(file.fileno(), begin, os.SEEK_HOLE) - begin)
    except (OSError, AttributeError):  # at the end, or no such question here
        begin = place
    return begin - place, os.pread(file.fileno(), most, begin)  # not `file.read`: its buffer knows nothing of lseek


def marker(number: int) -> bytes:
    """The line that stands for what is missing."""
    return b"minipipe: %d bytes of this log were left out here (log_limit_mb)\n" % number


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _up(place: int) -> int:
    return -(-place // _PAGE) * _PAGE


def _end_of_line(source: BinaryIO, place: int, size: int) -> int:
    """The first byte after the next line end, or `place` if that is far away."""
    source.seek(place)
    data = source.read(min(_LINE_BYTES, size - place))
    return place + data.find(b"\n") + 1 if b"\n" in data else place


def _copy(source: BinaryIO, target: BinaryIO, begin: int, end: int) -> None:
    source.seek(begin)
    while begin < end:
        data = source.read(min(_CHUNK, end - begin))
        if not data:
            return
        target.write(data)
        begin += len(data)
