"""``minipipe logs``: what attempts printed, escaped and prefixed, or byte for byte."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import click

from minipipe import errors, states
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.store import details, lookup, presence, reasons, views
from minipipe.store import log_limit as stored
from minipipe.store.home import Store
from minipipe.store.logs import header

LOOK_S = 0.05
_CHUNK = 1 << 20
_HEADER_LIMIT = 8192


@click.command()
@click.argument("name", metavar="[RUN[/STEP]]", default="@last")
@click.option("-f", "--follow", is_flag=True, help="Print what comes, until the end.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each step.")
@click.option("--failed", is_flag=True, help="Only failed steps.")
@click.option("--raw", is_flag=True, help="The bytes as they are: no prefix, nothing escaped.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Which try (default: the last).")
@output.pipeline_option
@output.pass_output
def logs(
    out: Output, name: str, follow: bool, tail: int | None, failed: bool, raw: bool, attempt: int | None, pipeline: str | None
) -> None:
    """Print what steps printed.

    Of a run: its steps in the order they started, each line after the step's name.

    \b
    Examples:
      minipipe logs @last
      minipipe logs -f calm-otter/train
      minipipe logs @last-failed --failed --tail 20
    """
    store = out.open_store()
    task = lookup.find_task(store, name, pipeline)
    if follow:
        _Follower(store, task, out, raw, tail).run()
        return
    found = [_Log.of(store, row, attempt) for row in _members(store, task, failed)]
    if attempt is not None and not any(log.path.exists() for log in found):
        last = task["attempt"] if task["run_name"] is None else max((log.row["attempt"] for log in found), default=0)
        raise errors.NotFound(
            f"{details.label_of(store, task)} has no attempt {attempt}",
            f"it had {last}",
            f"minipipe show {details.label_of(store, task)} --attempts",
        )
    if out.json:
        _print_json(found, out, tail, attempt)
        return
    prefixed = task["run_name"] is not None and not raw
    for log in found:
        _print(log, raw, tail, prefixed)
    if not any(log.path.exists() for log in found):
        _explain_silence(store, task, found)


def _members(store: Store, task: sqlite3.Row, failed: bool) -> list[sqlite3.Row]:
    """The tasks whose logs are meant: a step itself; of a run its own log, if a worker executed it, and its steps'."""
    if task["run_name"] is None:
        return [task]
    rows = [task, *views.steps_of(store, task["id"])]
    return [row for row in rows if not failed or (row["status"] == states.FAILED and row["run_name"] is None)]


@dataclass(slots=True)
class _Log:
    """The log file of one attempt, and how far it has been read.

    Attributes:
        row: its task.
        path: the file; it may not exist.
        place: bytes read so far.
        rest: the unfinished last line.
        headed: minipipe's own first line is behind us.
    """

    row: sqlite3.Row
    path: Path
    place: int = 0
    rest: bytes = b""
    headed: bool = False

    @classmethod
    def of(cls, store: Store, row: sqlite3.Row, attempt: int | None = None) -> _Log:
        return cls(row, store.log_path(row["uid"], attempt or row["attempt"]))

    @property
    def prefix(self) -> str:
        """What stands before each line of it in a run's log."""
        return output.escape(self.row["name"]) + " | "

    def chunks(self) -> Iterator[bytes]:
        """What was written since the last call, without minipipe's own first line."""
        try:
            with open(self.path, "rb") as file:
                while data := self._next(file):
                    data = self._beheaded(data)
                    if data:
                        yield data
        except FileNotFoundError:
            return

    def _next(self, file: BinaryIO) -> bytes:
        missing, data = stored.read(file, self.place, _CHUNK)
        self.place += missing + len(data)
        return stored.marker(missing) + data if missing else data

    def _beheaded(self, data: bytes) -> bytes:
        """Cut the line ``minipipe: NAME UID attempt N token T``. A name may hold line ends, so its end is looked for."""
        if self.headed:
            return data
        data, self.rest = self.rest + data, b""
        match = header(data, self.row["uid"])
        if match is None and data.startswith(b"minipipe: "[: len(data)]) and len(data) < _HEADER_LIMIT and b" token " not in data:
            self.rest = data  # not written to its end yet
            return b""
        self.headed = True
        return data[match.end() :] if match is not None else data

    def lines(self, final: bool = True) -> Iterator[str]:
        """Whole lines that are new; with `final` also an unfinished last one."""
        for data in self.chunks():
            parts = (self.rest + data).split(b"\n")
            self.rest = parts.pop()
            yield from map(_text, parts)
        if final and self.rest:
            last, self.rest = self.rest, b""
            yield from map(_text, last.removesuffix(b"\n").split(b"\n"))

    def raw(self) -> Iterator[bytes]:
        """All new bytes, the first line included."""
        self.headed = True
        yield from self.chunks()


def _text(line: bytes) -> str:
    return output.escape_lines(line.decode("utf-8", "replace").removesuffix("\r"))


def _print(log: _Log, raw: bool, tail: int | None, prefixed: bool) -> None:
    if raw and tail is None:
        sys.stdout.flush()
        for data in log.raw():
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    if raw:
        everything = b"".join(log.raw()).splitlines(keepends=True)
        sys.stdout.flush()
        sys.stdout.buffer.writelines(everything[len(everything) - tail if tail else len(everything) :] if tail else [])
        sys.stdout.buffer.flush()
        return
    lines: Any = log.lines() if tail is None else deque(log.lines(), tail)
    prefix = log.prefix if prefixed else ""
    for line in lines:
        print(prefix + line)
    sys.stdout.flush()


def _print_json(found: list[_Log], out: Output, tail: int | None, attempt: int | None) -> None:
    documents = []
    for log in found:
        lines = list(log.lines())
        kept = lines[-tail:] if tail else [] if tail == 0 else lines
        row = log.row
        documents.append({"id": row["uid"], "step": row["name"], "attempt": attempt or row["attempt"], "lines": kept})
    if out.format == "json":
        output.print_json({"logs": documents})
        return
    for document in documents:
        for line in document["lines"]:
            output.print_json({"id": document["id"], "step": document["step"], "line": line}, line=True)


def _explain_silence(store: Store, task: sqlite3.Row, found: list[_Log]) -> None:
    label = details.label_of(store, task)
    source = details.task_by_id(store, task["cached_from"])
    if source is not None:
        output.note(f"{label} was served from the cache; its log: minipipe logs {details.label_of(store, source)}")
    elif not found:
        output.note(f"no step of {label} has failed")
    elif task["status"] in states.ENDED:
        output.note(f"{label} has no log: it is {task['status']}" + (f" ({task['reason']})" if task["reason"] else ""))
    else:
        reason = reasons.waiting_reason(store, task, presence.living(store))
        output.note(f"{label} is {task['status']}" + (f": {reason}" if reason else ""))


@dataclass(slots=True)
class _Follower:
    """``logs -f``: prints whole lines of all attempts as they come, until the task has ended."""

    store: Store
    task: sqlite3.Row
    out: Output
    raw: bool
    tail: int | None
    open: dict[tuple[int, int], _Log] = field(default_factory=dict)

    def run(self) -> None:
        first = True
        while True:
            # Asked before reading: what is in the files then is all there will be.
            ended = self._ended()
            version = self.store.database.data_version()
            self._look()
            self._print(ended, first)
            first = False
            if ended:
                return
            while self.store.database.data_version() == version and not self._grown():
                time.sleep(LOOK_S)

    def _ended(self) -> bool:
        row = details.task_by_id(self.store, self.task["id"])
        return row is None or row["status"] in states.ENDED or row["status"] == states.CREATED

    def _look(self) -> None:
        row = details.task_by_id(self.store, self.task["id"])
        for member in _members(self.store, row, False) if row is not None else ():
            if member["attempt"]:
                self.open.setdefault((member["id"], member["attempt"]), _Log.of(self.store, member))

    def _grown(self) -> bool:
        for log in self.open.values():
            try:
                if log.path.stat().st_size > log.place:
                    return True
            except FileNotFoundError:
                continue
        return False

    def _print(self, final: bool, first: bool) -> None:
        prefixed = self.task["run_name"] is not None
        for log in self.open.values():
            if self.raw:
                for data in log.raw():
                    sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                continue
            lines: Any = log.lines(final)
            if first and self.tail is not None:
                lines = deque(lines, self.tail)
            for line in lines:
                if self.out.json:
                    output.print_json({"id": log.row["uid"], "step": log.row["name"], "line": line}, line=True)
                else:
                    print((log.prefix if prefixed else "") + line, flush=True)
