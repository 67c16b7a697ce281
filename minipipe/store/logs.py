"""The log file of an attempt, read from its end; minipipe's own first line is not part of what a step printed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_READ = 1 << 16  # of a file's end, for its last lines
_LIMIT = 1 << 22  # of a whole log on a page
_HEADER = rb"minipipe: .{0,4096}?%b[0-9a-f]* attempt \d+ token [0-9a-f]{8}\n"


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a log.

    Attributes:
        text: whole lines, as text; bytes that are no UTF-8 are marked.
        cut: lines or bytes before it were left out.
        size: bytes of the whole file.
    """

    text: str
    cut: bool
    size: int


def headless(data: bytes, uid: str) -> bytes:
    """A log's bytes without the line that minipipe begins it with. A task's name in it may hold line ends."""
    match = header(data, uid)
    return data[match.end() :] if match is not None else data


def header(data: bytes, uid: str) -> re.Match[bytes] | None:
    """The line that minipipe begins a log with, if the bytes hold it whole."""
    return re.match(_HEADER % uid[:8].encode(), data, re.DOTALL)


def tail(path: Path, uid: str, lines: int | None = 30, limit: int = 3000) -> Tail | None:
    """The last lines of a log, None if there is no file or nothing in it.

    Args:
        path: of the file.
        uid: id of its task.
        lines: at most so many; None for all that `limit` allows.
        limit: bytes, of the text as UTF-8; with `lines` None at most 4 MiB are read.
    """
    most = _LIMIT if lines is None else max(_READ, limit)
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            start = max(0, size - most)
            file.seek(start)
            data = file.read(most)
    except OSError:
        return None
    cut = start > 0
    if not cut:
        data = headless(data, uid)
    data = data.removesuffix(b"\n")
    if not data:
        return None
    rows = data.split(b"\n")
    kept = rows if lines is None else rows[-lines:]
    cut = cut or len(kept) < len(rows)
    text = b"\n".join(kept)
    if lines is not None and len(text) > limit:
        text, cut = text[-limit:], True
        text = text[text.find(b"\n") + 1 :] if b"\n" in text[: limit // 2] else text
    return Tail(text.decode("utf-8", "replace").replace("\r\n", "\n"), cut, size)
