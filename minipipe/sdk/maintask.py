"""The task of a script that says `Task.init`: begun here, ended when the process ends, or already begun by a worker.

One process has one main task. Its ending follows the process's: exit code 0 completed, an exception or another code failed, Ctrl-C or
SIGTERM stopped. A process that dies without a word is found by its free lock and counts as stopped.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from minipipe import context, errors, states
from minipipe.sdk import script, session
from minipipe.store import attempts, edits, tasks
from minipipe.store.attempts import Outcome
from minipipe.store.home import Store

REUSE_HOURS = 72


@dataclass(slots=True)
class MainTask:
    """The main task of this process.

    Attributes:
        current: where it lives.
        names: the arguments of `Task.init` that began it, None for a task that a worker runs.
        error: what will end it badly, once something has.
    """

    current: session.Current
    names: tuple[str | None, str | None] | None
    pid: int
    started: float = field(default_factory=time.monotonic)
    ended: bool = False
    stopped: str = ""
    exit_code: int = 0
    error: BaseException | None = None
    streams: list[Callable[[], None]] = field(default_factory=list)


_main: MainTask | None = None
_hooked = False


def main_task() -> MainTask | None:
    """The main task of this process (or of the process that it was forked from), None if there is none."""
    return _main


def adopt(current: session.Current) -> MainTask:
    """Take the task that a worker runs in this process as its main task."""
    global _main
    _main = MainTask(current, None, os.getpid())
    return _main


def begin(store: Store, project: str, name: str, kind: str, names: tuple[str | None, str | None], task_id: int | None) -> MainTask:
    """Start the main task: a new one, or `task_id` again.

    Transaction effect: two durable commits.
    """
    global _main
    if task_id is None:
        entry = _entry()
        new = tasks.NewTask(type=kind, name=name, project=project, entry=entry, draft=True, settings={"init": True})
        task_id = tasks.submit(store, new).id
    lease = edits.start(store, task_id, session.registration(store).id)
    context.set_running(
        context.Running(store.path, lease, lease.uid, lease.uid, False, os.environ.get(session.SESSION_VARIABLE, ""), False)
    )
    _main = MainTask(session.Current(store, lease.task, lease.uid, lease), names, os.getpid())
    _main.streams = _copy_streams(store.log_path(lease.uid, lease.attempt), lease)
    _hook()
    return _main


def _entry() -> dict[str, Any]:
    try:
        return script.capture_script("a task")
    except errors.CannotTravel:
        return {"kind": "here", "cwd": os.getcwd(), "roots": [os.getcwd()]}


def reusable(store: Store, project: str, name: str, kind: str) -> int | None:
    """The last task that `Task.init` made with the same names, if it may be used again (ClearML's rule): it has ended, is younger
    than 72 hours, not archived, and holds no artifacts."""
    row = store.database.row(
        "SELECT t.id, t.status, t.archived, t.created_at, t.settings, t.run_name,"
        " EXISTS (SELECT 1 FROM artifact a WHERE a.task_id = t.id AND a.role = 'output') AS kept,"
        " EXISTS (SELECT 1 FROM event e JOIN worker w ON w.id = e.worker_id WHERE e.task_id = t.id AND w.kind = 'agent') AS served"
        " FROM task t JOIN project p ON p.id = t.project_id WHERE p.name = ? AND t.name = ? AND t.type = ? ORDER BY t.id DESC LIMIT 1",
        (project, name, kind),
    )
    if row is None or row["archived"] or row["kept"] or row["served"] or row["run_name"] or '"init": true' not in row["settings"]:
        return None
    if row["status"] not in (states.COMPLETED, states.FAILED, states.STOPPED):
        return None
    return int(row["id"]) if time.time() - row["created_at"] < REUSE_HOURS * 3600 else None


# -- the end of the process ---------------------------------------------------------------------------------------------


def close(status: str | None = None, reason: str = "") -> None:
    """End the main task now; without a status as the process's end would.

    Transaction effect: one durable commit.
    """
    global _main
    main = _main
    if main is None or main.ended or main.pid != os.getpid():
        return
    main.ended = True
    for restore in main.streams:
        restore()
    lease = main.current.lease
    if main.names is not None and lease is not None:
        attempts.finish(main.current.store, lease, _outcome(main, status, reason))
        context.set_running(None)
    _main = None


def forget() -> None:
    """This process has no main task any more; what it was goes on elsewhere."""
    global _main
    _main = None


def _outcome(main: MainTask, status: str | None, reason: str) -> Outcome:
    spent = time.monotonic() - main.started
    if status == states.COMPLETED or (status is None and not main.error and not main.exit_code and not main.stopped):
        return Outcome(attempts.DONE, reason, duration_s=spent)
    if main.stopped or status == states.STOPPED:
        tasks.abort(main.current.store, [main.current.row_id], reason or main.stopped or "stopped")
        return Outcome(attempts.FAILED, reason or main.stopped, None, (), spent, final=True)
    if main.error is not None:
        text = "".join(traceback.format_exception(main.error))[-16_000:]
        facts = {"type": type(main.error).__name__, "message": str(main.error)[:4_000], "traceback": text}
        return Outcome(attempts.FAILED, f"{type(main.error).__name__}: {main.error}"[:500], facts, (), spent, final=True)
    code = main.exit_code
    return Outcome(attempts.FAILED, reason or f"exited with code {code}", {"type": "Exit", "message": str(code)}, (), spent, final=True)


def _hook() -> None:
    """Learn how the process ends. Each hook calls what was there before it."""
    global _hooked
    if _hooked:
        return
    _hooked = True
    atexit.register(close)
    before_hook, before_exit = sys.excepthook, sys.exit

    def excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        note_error(error)
        before_hook(kind, error, trace)

    def leave(code: Any = None) -> None:
        note_exit(code)
        before_exit(code)

    sys.excepthook = excepthook
    sys.exit = leave  # type: ignore[assignment]
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:

        def terminated(number: int, frame: Any) -> None:
            if _main is not None:
                _main.stopped = "stopped by SIGTERM"
            before_exit(128 + number)

        signal.signal(signal.SIGTERM, terminated)


def note_error(error: BaseException) -> None:
    """The process is about to end with this exception."""
    if _main is not None and _main.pid == os.getpid():
        if isinstance(error, KeyboardInterrupt):
            _main.stopped = "interrupted"
        elif isinstance(error, SystemExit):
            note_exit(error.code)
        else:
            _main.error = error


def note_exit(code: Any) -> None:
    """The process is about to exit with this code."""
    if _main is not None and _main.pid == os.getpid():
        _main.exit_code = 0 if code is None else code if isinstance(code, int) else 1


# -- the console --------------------------------------------------------------------------------------------------------


class _Copy(io.TextIOBase):
    """A stream that writes to the terminal and to the task's log."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self.stream = stream
        self.log = log

    def write(self, text: str) -> int:
        """Write to both; the log is never a reason to fail."""
        if not self.log.closed:
            try:
                self.log.write(text)
            except (OSError, ValueError):
                pass
        return self.stream.write(text)

    def flush(self) -> None:
        """Flush the terminal's side; the log is line buffered."""
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _copy_streams(path: Path, lease: context.Lease) -> list[Callable[[], None]]:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    log = open(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    log.write(f"minipipe: {lease.uid} attempt {lease.attempt} token {lease.token[:8]}\n")
    restores: list[Callable[[], None]] = []
    for name in ("stdout", "stderr"):
        original = getattr(sys, name)
        copy = _Copy(original, log)
        setattr(sys, name, copy)
        restores.append(_restorer(name, copy, original))
    restores.append(log.close)
    return restores


def _restorer(name: str, copy: Any, original: Any) -> Callable[[], None]:
    def restore() -> None:
        if getattr(sys, name) is copy:
            setattr(sys, name, original)

    return restore
