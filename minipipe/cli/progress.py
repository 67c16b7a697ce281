"""Following the tasks of one command: a line for each step that ends, the script's own prints, steps' consoles on request.

A thread looks at the store; what it shows it reads from the history, so no ending is missed and none is shown twice. It also
keeps the embedded pool going, because a pipeline's logic may wait in the main thread for steps that nobody else would run.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from minipipe import errors, states
from minipipe.cli import output
from minipipe.cli.block import Block, shown_values
from minipipe.cli.console import Console
from minipipe.cli.pool import Pool
from minipipe.store import presence, reasons, sessions, views, workers
from minipipe.store.home import DATABASE, Store

_LOOK_S = 0.02
_REDRAW_S = 0.25
_REMIND_S = 1.0
_TRACEBACK = "Traceback (most recent call last):\n"


# -- one line -----------------------------------------------------------------------------------------------------------


def ending_line(row: sqlite3.Row, values: str, width: int, stream: IO[str], color: str, plain: bool) -> str:
    """The line for a step that ended.

    Args:
        row: from `sessions.endings`.
        values: see `block.shown_values`.
        width: of the column of names, on a terminal.
        stream: where it will go.
        color: auto, always or never.
        plain: status words first and no columns, as off a terminal.
    """
    status, name = row["ended_as"], output.escape(row["name"])
    parts = [output.escape(part) for part in _facts(row, values) if part]
    if plain or not output.is_terminal(stream):
        return " ".join((output.style(status, status, stream, color), name, *parts))
    sign = output.glyph(status, stream)
    word = output.style(f"{status:<9}", status, stream, color)
    return f"  {sign + ' ' if sign else ''}{name:<{width}}  {word}  {'  '.join(parts)}".rstrip()


def _facts(row: sqlite3.Row, values: str) -> list[str]:
    status = row["ended_as"]
    if status == states.SKIPPED:
        return [row["reason"]]
    if row["cached_uid"]:
        return [f"cached from {row['source_run'][:8]}"]
    spent = output.duration(row["duration_s"])
    if status == states.COMPLETED:
        return [spent, values, row["reason"]]
    return [spent, attempts_shown(row), row["reason"]]


def attempts_shown(task: sqlite3.Row) -> str:
    """``attempt 2/2`` of a task that may be retried, else empty."""
    if task["max_retries"]:
        return f"attempt {task['retries'] + 1}/{task['max_retries'] + 1}"
    return f"attempt {task['attempt']}" if task["ask_retry"] and task["attempt"] > 1 else ""


# -- logs ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tail:
    """A log that is being followed."""

    path: Path
    offset: int = 0
    rest: bytes = b""
    header: bool = True

    def more(self, final: bool = False) -> list[str]:
        """Complete lines that were added, with their ends; the last line too if it is `final`. The header is left out."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read()
        except OSError:
            return []
        self.offset += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        if final and self.rest:
            lines, self.rest = [*lines, self.rest], b""
        text = [line.decode("utf-8", "backslashreplace") + "\n" for line in lines]
        if text and self.header:
            self.header = False
            return text[1:] if text[0].startswith("minipipe: ") else text
        return text


@dataclass(slots=True)
class _Relay:
    """Prints what a worker-run script prints, as if it ran here.

    The script has already run here up to its start; what it printed then is not printed again. A traceback is held back: the
    last one is the run's failure, which is shown in other words.
    """

    tail: _Tail
    printed: list[str]  # all that was printed so far, by whichever go
    before: list[str]  # the same, as it was when this go began
    at: int = 0
    held: list[str] = field(default_factory=list)

    def more(self, final: bool = False) -> str:
        """What to print now."""
        fresh = []
        for line in self.tail.more(final):
            if self.held or line == _TRACEBACK:
                self.held.append(line)
            elif not self._said(line.rstrip("\n")):
                fresh.append(line)
        return "".join(fresh)

    def _said(self, line: str) -> bool:
        try:
            self.at = self.before.index(line, self.at) + 1
        except ValueError:
            self.printed.append(line)
            return False
        return True

    def last(self, failed: bool) -> str:
        """What was held back, without the failure's own traceback."""
        held, self.held = "".join(self.held), []
        if failed:
            return held[: max(0, held.rfind(_TRACEBACK))]
        return held


# -- following ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Style:
    """How progress is shown.

    Attributes:
        progress: "auto", "plain" or "off".
        color: "auto", "always" or "never".
        logs: show the steps' consoles.
        live: a block of lines that is redrawn, where the terminal can do that.
        headed: with a headline for each run, because nobody has announced it.
        relay: show what scripts print that workers execute.
        stream: write a line of JSON to stdout for each ending.
    """

    progress: str = "auto"
    color: str = "auto"
    logs: bool = False
    live: bool = True
    headed: bool = False
    relay: bool = True
    stream: bool = False

    @property
    def redraws(self) -> bool:
        """Whether there is a block."""
        return self.live and self.progress == "auto" and output.can_redraw(sys.stderr)


def _ending(row: sqlite3.Row) -> dict[str, Any]:
    """A step's ending as a line of JSON."""
    return {
        "event": "step",
        "id": row["uid"],
        "name": row["name"],
        "status": row["ended_as"],
        "reason": row["reason"],
        "cached_from": row["cached_uid"],
        "attempt": row["attempt"],
        "duration_s": row["duration_s"],
        "ended_at": output.iso(row["ended_at"]),
    }


def _has_children(store: Store) -> bool:
    """Whether a program that this process started, and that is no worker of ours, may write to the terminal."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            found |= {int(pid) for pid in path.read_text().split()}
    found -= {worker.pid for worker in presence.living(store)} if found else set()
    for pid in found:
        with contextlib.suppress(OSError, IndexError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return True
    return False


class Follower:
    """Follows one command's tasks in a thread of its own; see the module.

    Args:
        home: the store, which may not be there yet.
        scope: what to follow.
        console: where lines go.
        style: how they look.
        pool: kept going; None to start none.
        on_failure: called once, in the follower's thread, if the pool cannot be kept going.
    """

    def __init__(
        self,
        home: Path,
        scope: sessions.Scope,
        console: Console,
        style: Style,
        pool: Pool | None,
        on_failure: Callable[[errors.MinipipeError], None],
    ) -> None:
        self.home = home
        self.scope = scope
        self.console = console
        self.style = style
        self.pool = pool
        self.on_failure = on_failure
        self.store: Store | None = None
        self._event = scope.event
        self._version = -1
        self._width = 8
        self._relays: dict[tuple[int, int], _Relay] = {}
        self._tails: dict[tuple[int, int], tuple[str, _Tail]] = {}
        self.footer = ""  # said below the block in place of what is going on
        self._block: Block | None = None
        self._drawn_at = 0.0
        self._dirty = True
        self._waiting: dict[int, str] = {}
        self._reminded_at = 0.0
        self._quit = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="minipipe-progress", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Show what is left to show, and end."""
        self._quit.set()
        self._thread.join()
        self._guarded(final=True)
        self.console.expire(now=True)
        if self.store is not None:
            self.store.close()

    def _watch(self) -> None:
        while not self._quit.wait(_LOOK_S):
            self._guarded()

    def _guarded(self, final: bool = False) -> None:
        try:
            self._look(final)
        except errors.EngineError as error:
            self.pool = None
            self.on_failure(error)
        except errors.MinipipeError:
            pass  # the main thread meets the same error where it can be shown

    def _look(self, final: bool) -> None:
        self.console.expire()
        if self.store is None:
            if not (self.home / DATABASE).exists():
                return
            # A connection of its own: a connection is not told of its own commits, and the script's may be in this process.
            self.store = Store.open(self.home, create=False)
        version = self.store.database.data_version()
        changed, self._version = version != self._version, version
        if changed or final:
            self._find_logs(self.store)
        self._print_logs(self.store, final)
        if changed or final:
            self._print_endings(self.store)
        self._dirty = self._dirty or changed
        if self.style.redraws:
            self._redraw(self.store, final)
        elif self.style.progress != "off" and not final:
            self._remind(self.store)
        if self.pool is not None and not final:
            self.pool.look(self.store, self.scope, changed)

    def _print_endings(self, store: Store) -> None:
        for row in sessions.endings(store, self.scope, self._event):
            self._event = row["event"]
            if self.style.stream:
                self.console.document(json.dumps(_ending(row), default=str))
            if self.style.progress == "off" or self.style.redraws:
                continue
            values = shown_values(store, row["id"]) if row["ended_as"] == states.COMPLETED and not row["cached_uid"] else ""
            self._width = max(self._width, len(row["name"]))
            plain = self.style.progress == "plain"
            self.console.line(ending_line(row, values, self._width, sys.stderr, self.style.color, plain))

    def _redraw(self, store: Store, final: bool) -> None:
        now = time.monotonic()
        pause = _REDRAW_S if self._dirty else _REMIND_S
        if not final and now - self._drawn_at < pause:
            return
        self._block = self._block or Block(store, self.scope, self.style.headed, self.style.color, served=self.pool is not None)
        self._drawn_at, self._dirty = now, False
        size = output.terminal_size(sys.stderr)
        if final:
            self.console.leave(self._block.lines(*size, final=True))
        else:
            self.console.others = _has_children(store)
            self.console.show(self._block.lines(*size, footer=self.footer))

    def _remind(self, store: Store) -> None:
        """Where nothing is redrawn: say once why a run does not move."""
        now = time.monotonic()
        if now - self._reminded_at < _REMIND_S:
            return
        self._reminded_at = now
        living = presence.living(store)
        for run in sessions.runs(store, self.scope):
            counts = views.step_counts(store, run["id"])
            reason = reasons.waiting_reason(store, run, living, counts)
            if self.pool is not None and reason.startswith(reasons.UNSERVED):
                reason = ""
            before = self._waiting.get(run["id"])
            if reason and before == f"?{reason}":  # it holds for a second: no passing moment
                self.console.line(f"waiting: {output.escape(reason)}")
                self._waiting[run["id"]] = reason
            elif before != reason:
                self._waiting[run["id"]] = f"?{reason}" if reason else ""

    # -- logs ---------------------------------------------------------------------------------------------------------

    def _find_logs(self, store: Store) -> None:
        before = dict(self.scope.runs)
        for run in sessions.runs(store, self.scope) if self.style.relay else ():
            key = (run["id"], run["attempt"])
            if run["executor"] == workers.PROCESS:
                continue  # it runs in the script, which prints here itself
            if run["attempt"] > before.get(run["id"], 0) and key not in self._relays:
                printed = self.console.printed
                self._relays[key] = _Relay(_Tail(store.log_path(run["uid"], run["attempt"])), printed, list(printed))
        if self.style.logs:
            ended = sessions.endings(store, self.scope, self._event)
            for row in (*sessions.running_steps(store, self.scope), *ended):
                # A failed attempt may have come and gone between two looks.
                for attempt in range(max(1, row["attempt"] - row["retries"] - row["crashes"]), row["attempt"] + 1):
                    self._tails.setdefault((row["id"], attempt), (row["name"], _Tail(store.log_path(row["uid"], attempt))))

    def _print_logs(self, store: Store, final: bool) -> None:
        for relay in self._relays.values():
            if text := relay.more(final):
                self.console.relay(text)
        for name, tail in self._tails.values():
            for line in tail.more(final):
                self.console.line(f"{output.escape(name)} | {output.escape_lines(line.rstrip(chr(10)))}")
        if final:
            bad = {run["id"] for run in sessions.runs(store, self.scope) if run["status"] in states.BAD}
            for (run_id, _), relay in self._relays.items():
                if text := relay.last(run_id in bad):
                    self.console.relay(text)
