"""Runs the README: each ``console`` block in order, in one fresh folder, under a pseudo-terminal; ``python`` blocks that begin
with ``# NAME.py`` are written to that file first.

``python -m tests.readme`` prints what the commands really print, to be pasted; the test compares once ids, names, times and sizes
are normalised.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from minipipe.store import names

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Command:
    """A line after ``$`` and what the README shows below it."""

    text: str
    shown: list[str] = field(default_factory=list)


def blocks() -> Iterator[tuple[str, str]]:
    """(language, text) of each fenced block."""
    for match in _BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8")):
        yield match[1], match[2]


def commands(text: str) -> list[Command]:
    """The commands of a console block with their output."""
    found: list[Command] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:]))
        elif found:
            found[-1].shown.append(line)
    return found


def run(command: str, folder: Path, environment: dict[str, str], timeout_s: float = 120.0) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, shell=True, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    data, end = b"", time.monotonic() + timeout_s
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                chunk = os.read(ours, 1 << 16)
            except OSError:  # Linux says EIO when the last writer is gone
                break
            if not chunk:
                break
            data += chunk
        elif process.poll() is not None:
            break
    os.close(ours)
    process.wait(10)
    return data.decode(errors="replace").replace("\r\n", "\n")


def environment(folder: Path) -> dict[str, str]:
    """A plain terminal, 100 columns, no settings of the caller; `minipipe` is the one of this very Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINIPIPE_")}
    return {
        **kept,
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "TERM": "dumb",
        "MINIPIPE_JOBS": "4",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
    }


_NORMAL = (
    (re.compile(r", git [0-9a-f]{7}( \(dirty\))?"), ""),  # only where the example lies in a checkout
    (re.compile(r"\bpython \d+\.\d+\.\d+\b"), "PYTHON"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "ID"),
    (re.compile(rf"\b({'|'.join(names._FIRST)})-({'|'.join(names._SECOND)})\b"), "NAME"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b"), "DATE"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DAY"),
    (re.compile(r"\b\d+(\.\d+)?(s|ms|m|h)\b( ago)?"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? (B|kB|MB|GB)\b"), "SIZE"),
    (re.compile(r"(…|(/[\w.-]+)*)/(?=minipipe/demo/)"), ""),
    (re.compile(r"[ ─-]+"), " "),
)


def normal(lines: list[str]) -> list[str]:
    """Lines without what differs from run to run."""
    result = []
    for line in lines:
        for pattern, word in _NORMAL:
            line = pattern.sub(word, line)
        if line.strip():
            result.append(line.strip())
    return result


def main() -> None:
    """Print every command with its real output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for language, text in blocks():
            if language == "python" and text.startswith("# ") and text.split()[1].endswith(".py"):
                (folder / text.split()[1]).write_text(text)
            elif language == "console":
                for command in commands(text):
                    print(f"$ {command.text}\n{run(command.text, folder, environment(folder))}", end="")
                print("----")


if __name__ == "__main__":
    main()
