"""The script's own output and ours on the same terminal: our lines never land inside one of the script's.

Both streams are replaced by ones that remember whether the last line is complete. A line of ours waits until it is, or until it
has waited long enough; then it begins on a line of its own.

On a terminal a block of lines may stand below everything else. It is taken away before anybody writes, and put back afterwards;
while a line is unfinished, somebody asks a question, or another program of ours may write, it stays away.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from minipipe.cli import output

_PATIENCE_S = 1.0
_REMEMBERED = 10_000  # lines of the script's output
_RESTORE_S = 0.1  # between two redraws that the script's own prints make necessary
_STARTS = frozenset({"subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec"})


class _Watched(io.TextIOWrapper):
    """A standard stream that tells its console what was written."""

    console: Console
    original: io.TextIOWrapper  # kept: when it goes, it closes the buffer that both use
    mid_line = False

    def write(self, text: str) -> int:
        """As any stream; see `Console`."""
        with self.console.lock:
            if text:
                self.console.make_way(self)
            count = super().write(text)
            if text:
                self.mid_line = not text.endswith("\n")
                self.console.wrote(text, self)
            return count


class Console:
    """Standard output and error of this process while a script runs in it.

    Args:
        stdout_to_stderr: move what the script prints to stderr, its child processes' output included; `document` then
            writes to the real stdout.
    """

    def __init__(self, stdout_to_stderr: bool = False) -> None:
        self.lock = threading.RLock()
        self.printed: list[str] = []
        self._remember = False
        self._partial = ""
        self._held: list[str] = []
        self._held_since = 0.0
        self._document: int | None = None
        self._block: list[str] = []  # what stands, or would stand, below
        self._drawn: list[int] = []  # widths of the lines that stand there now
        self._drawn_at = 0.0
        self._hidden = 0  # questions that are being asked
        self.others = False  # another program of ours may be writing
        if stdout_to_stderr:
            sys.stdout.flush()
            self._document = os.dup(1)
            os.dup2(2, 1)
        self._streams = [stream for name in ("stdout", "stderr") if (stream := self._watch(name)) is not None]
        self._mixed = len(self._streams) == 2 and _same_place(*self._streams)
        os.register_at_fork(before=self.lock.acquire, after_in_parent=self.lock.release, after_in_child=self.lock.release)

    def _watch(self, name: str) -> _Watched | None:
        old: IO[str] | None = getattr(sys, name)
        if not isinstance(old, io.TextIOWrapper):
            return None
        old.flush()
        new = _Watched(
            old.buffer,
            encoding=old.encoding,
            errors=old.errors,
            line_buffering=old.line_buffering,
            write_through=old.write_through,
        )
        new.console, new.original = self, old
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
        return new

    # -- the script's side --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def remembering(self) -> Iterator[None]:
        """What is printed inside is kept in `printed`, line by line."""
        self._remember = True
        try:
            yield
        finally:
            self._remember = False

    def wrote(self, text: str, stream: _Watched) -> None:
        """A stream took `text`; the caller holds the lock."""
        if self._remember and len(self.printed) < _REMEMBERED:
            *lines, self._partial = (self._partial + text).split("\n")
            self.printed += lines
        if self._held and not self._mid_line():
            self._say_held()
        if self._block and not self._drawn and time.monotonic() - self._drawn_at >= _RESTORE_S:
            self._draw()

    def relay(self, text: str) -> None:
        """Print text on stdout for the script. A reader or a terminal that has gone away is no error."""
        try:
            with self.lock:
                sys.stdout.write(text)
                sys.stdout.flush()
        except OSError:
            output.silence(1)

    # -- our side -----------------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """Write a line of ours to stderr, now or as soon as the script's line is complete."""
        with self.lock:
            if self._mid_line():
                self._held_since = self._held_since if self._held else time.monotonic()
                self._held.append(text)
            else:
                self._write(text + "\n")

    def expire(self, now: bool = False) -> None:
        """Write lines that have waited long enough, or `now`."""
        with self.lock:
            if self._held and (now or time.monotonic() - self._held_since >= _PATIENCE_S):
                self._write("\n")
                self._say_held()

    def document(self, text: str) -> None:
        """Write to the real stdout."""
        if self._document is None:
            print(text, flush=True)
            return
        with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(self._document), "w", encoding="utf-8") as stream:
            stream.write(text + "\n")

    # -- the block ----------------------------------------------------------------------------------------------------

    def show(self, lines: Sequence[str]) -> None:
        """Let these lines stand below everything else, in place of those that stand there; none takes them away."""
        with self.lock:
            if list(lines) != self._block or not self._drawn:
                self._block = list(lines)
                if not lines:
                    self._erase()
                self._draw()

    def leave(self, lines: Sequence[str]) -> None:
        """Write the block a last time; it is ordinary text from now on."""
        with self.lock:
            self._hidden, self.others = 0, False
            self._erase()
            if lines and self._mid_line():
                self._raw("\n")
            self._block = list(lines)
            self._draw(always=True)
            self._block, self._drawn = [], []

    def make_way(self, stream: _Watched | None = None) -> None:
        """Take the block away because somebody is about to write to `stream`."""
        if self._drawn and (stream is None or self._mixed or stream is self._streams[-1]):
            self._erase()

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        """Inside, the block makes way for `input` and for programs that this process starts."""
        ask = builtins.input

        def question(prompt: Any = "", /) -> str:
            with self.lock:
                self._hidden += 1
                self.make_way()
            try:
                return ask(prompt)
            finally:
                self._hidden -= 1

        active = True

        def started(event: str, arguments: tuple[Any, ...]) -> None:
            if active and event in _STARTS and threading.current_thread() is threading.main_thread():
                with self.lock:
                    self.others = True
                    self.make_way()

        sys.addaudithook(started)
        builtins.input = question
        try:
            yield
        finally:
            active = False
            builtins.input = ask

    def _draw(self, always: bool = False) -> None:
        if not self._block or self._hidden or self.others or (not always and not self._drawn and self._mid_line()):
            return
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        # Over the old one, line by line: a terminal that is cleared first flickers, and tmux keeps in its history what is cleared.
        below = "".join(f"{line}\x1b[K\n" for line in self._block)
        self._raw(f"{self._up()}{below}\x1b[J")
        self._drawn = [output.visible_width(line) for line in self._block]
        self._drawn_at = time.monotonic()

    def _up(self) -> str:
        """What takes the cursor from below the block to its first character."""
        columns = max(output.terminal_size(sys.stderr)[0], 1)  # it may have become narrower since
        height = sum(max(1, -(-width // columns)) for width in self._drawn)
        return f"\x1b[{height}A\r" if height else ""

    def _erase(self) -> None:
        if self._drawn:
            up = self._up()
            height = int(up[2:-2])
            self._drawn = []
            self._raw(up + "\x1b[K\n" * height + up)

    def _raw(self, text: str) -> None:
        """Past the stream that watches: what is drawn here is nobody's line."""
        stream = self._streams[-1] if self._streams else sys.stderr
        with contextlib.suppress(OSError, ValueError):
            io.TextIOWrapper.write(stream, text)  # type: ignore[arg-type]
            stream.flush()

    def _mid_line(self) -> bool:
        return any(stream.mid_line for stream in self._streams if self._mixed or stream is self._streams[-1])

    def _say_held(self) -> None:
        held, self._held = self._held, []
        self._write("".join(f"{line}\n" for line in held))

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._mixed:
                sys.stdout.flush()
            remember, self._remember = self._remember, False
            try:
                sys.stderr.write(text)
                sys.stderr.flush()
            finally:
                self._remember = remember


def _same_place(first: IO[str], second: IO[str]) -> bool:
    try:
        one, other = os.fstat(first.fileno()), os.fstat(second.fileno())
    except (OSError, ValueError):
        return True
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
