"""The task of a script that says `Task.init`: begun here, ended when the process ends, or already begun by a worker.

One process has one main task. Its ending follows the process's: exit code 0 completed, an exception or another code failed, Ctrl-C or
SIGTERM stopped. A process that dies without a word is found by its free lock and counts as stopped. Processes that this one starts
share its task and never end it (ClearML's rule): what a fork copies says whose it was, what a program inherits is in
`minipipe.context`.

Python tells its exit handlers nothing about the exit code, so `sys.exit`, ``exit`` and `sys.excepthook` are listened to; see
`minipipe.sdk.parting` for the rest.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TextIO, cast

from minipipe import context, errors, states
from minipipe.sdk import forks, git_facts, needs, parting, script, session, task_needs, task_registered
from minipipe.sdk.auto import connection
from minipipe.store import attempts, edits, environments, records, runs, steering, tasks
from minipipe.store.attempts import Outcome
from minipipe.store.home import Store

REUSE_HOURS = 72


@dataclass(slots=True)
class MainTask:
    """The main task of this process.

    Attributes:
        current: where it lives.
        names: project and name if `Task.init` began it here; None for a task that a worker, or the process that started this one,
            executes.
        stopped: why it counts as stopped, once it does.
        owned: its end follows that of this process, although nobody named it here (`simulate`).
        exit_code: what `sys.exit` was given last, None if it was not called.
        error: what will end it badly, once something has.
    """

    current: session.Current
    names: tuple[str, str] | None
    pid: int
    started: float = field(default_factory=time.monotonic)
    ended: bool = False
    stopped: str = ""
    owned: bool = False
    exit_code: int | None = None
    error: BaseException | None = None
    streams: list[Callable[[], None]] = field(default_factory=list)


_main: MainTask | None = None
_hooked = False
_apart = False
_simulated = ""  # id of the task that `simulate` began


def main_task() -> MainTask | None:
    """The main task of this process (or of the process that it was forked from), None if there is none."""
    if _main is not None and _main.names is None:
        running = session.within()
        if running is None or running.uid != _main.current.uid:
            forget()  # a pipeline that ran here has ended
    return _main


def adopt(current: session.Current) -> MainTask:
    """Take as main task one that this process does not own: a worker's, a pipeline's, that of the process that started this one."""
    global _main
    _main = MainTask(current, None, os.getpid(), owned=current.uid == _simulated)
    if _main.owned and current.lease is not None:
        head = _head(runs.row_of(current.store, current.row_id)["name"], current.lease)
        _main.streams = _copy_streams(current.store.log_path(current.uid, current.lease.attempt), head)
        _hook()
    elif (
        context.running() is None and session.local() and current.lease is not None
    ):  # what a worker runs prints to its log anyway
        _main.streams = _copy_streams(current.store.log_path(current.uid, current.lease.attempt), "")
        _hook()
    return _main


def begin(
    store: Store, project: str, name: str, kind: str, settings: dict[str, Any], seed: int | None, task_id: int | None, anew: bool
) -> MainTask:
    """Start the main task: a new one, or `task_id` again.

    Args:
        store: where.
        project, name, kind: of the task.
        settings: recorded arguments.
        seed: what a worker seeds the script with.
        task_id: the row of a task that is used again.
        anew: forget what that task held.

    Transaction effect: two durable commits.
    """
    global _main
    entry: dict[str, Any] = {**_entry(), "seed": seed}
    wanted = task_needs.of_process(entry.get("source", ""))
    planned = needs.Planner(store).plan(name, needs.Needs(wanted), entry) if wanted is not None else needs.Planned({})
    entry |= planned.entry
    settings = {"init": True, **settings}
    if task_id is None:
        new = tasks.NewTask(
            type=kind, name=name, project=project, entry=entry, draft=True, settings=settings, session=session.name()
        )
        task_id = tasks.submit(store, new).id
    else:
        edits.renew(store, task_id, entry, settings, forget=anew, session=session.name())
    if planned.environment is not None:
        environments.assign(store, task_id, planned.environment)
    lease = edits.start(store, task_id, session.registration(store).id, force=True)
    context.set_running(
        context.Running(store.path, lease, lease.uid, lease.uid, False, os.environ.get(session.SESSION_VARIABLE, ""), False)
    )
    _main = MainTask(session.Current(store, lease.task, lease.uid, lease), (project, name), os.getpid())
    _main.streams = _copy_streams(store.log_path(lease.uid, lease.attempt), _head(name, lease))
    _hook()
    git_facts.ask(store, lease.task, entry)
    return _main


def _head(name: str, lease: context.Lease) -> str:
    """The first line of a log, as a worker's child writes it: ``minipipe logs`` knows it by its form."""
    return f"minipipe: {name} {lease.uid[:8]} attempt {lease.attempt} token {lease.token[:8]}\n"


def simulate(store: Store, task_id: int) -> None:
    """Execute a task in this process as a worker's would: the next `Task.init` finds it. Its end follows the process's.

    Transaction effect: one durable commit.
    """
    global _simulated
    lease = edits.start(store, task_id, session.registration(store).id, force=True)
    context.set_running(context.Running(store.path, lease, lease.uid, lease.uid, True))
    _simulated = lease.uid


def _entry() -> dict[str, Any]:
    try:
        return script.capture_script("a task")
    except errors.CannotTravel:
        return {"kind": "here", "cwd": os.getcwd(), "roots": [os.getcwd()]}


def keep_apart() -> None:
    """What begins here from now on is new: this process makes several tasks of the same names, one after the other."""
    global _apart
    _apart = True


def reusable(store: Store, project: str, name: str, kind: str) -> int | None:
    """The last task that `Task.init` made with the same names, if it may be used again (ClearML's rule): it has ended, is younger
    than 72 hours, not archived, was not run by a worker, and holds no artifacts or models."""
    row = records.last_begun(store, project, name, kind)
    if _apart or row is None or row["archived"] or row["kept"] or row["served"] or row["run_name"]:
        return None
    if row["status"] not in (states.COMPLETED, states.FAILED, states.STOPPED):
        return None
    return int(row["id"]) if time.time() - row["created_at"] < REUSE_HOURS * 3600 else None


def resumed(store: Store, project: str, name: str) -> int | None:
    """The run that ``minipipe resume`` wants to go on with, if it is the main task of these names; it keeps what it holds."""
    uid = os.environ.get(session.RESUME_VARIABLE, "")
    row = runs.named(store, uid, project, name)
    if row is None:
        return None
    del os.environ[session.RESUME_VARIABLE]
    return int(row["id"])


# -- the end of the process ---------------------------------------------------------------------------------------------


def close(status: str | None = None, reason: str = "") -> None:
    """End the main task now; without a status as the process's end would. One that is not this process's own goes on.

    Transaction effect: one durable commit.
    """
    main = _main
    if main is None or main.ended or main.pid != os.getpid():
        return
    main.ended = True
    task_registered.settle()
    git_facts.settle(main.current.store, main.current.row_id)
    for restore in main.streams:
        restore()
    lease = main.current.lease
    if (main.names is not None or main.owned) and lease is not None:
        attempts.finish(main.current.store, lease, _outcome(main, status, reason))
        context.set_running(None)
    forget()


def let_go(uid: str) -> None:
    """The main task, if it is this one, has been ended by somebody else here (as the controller of a pipeline)."""
    main = _main
    if main is not None and main.current.uid == uid and main.names is not None:
        main.ended = True
        for restore in main.streams:
            restore()
        forget()


def leave() -> None:
    """Make the main task a draft for others to run; this process has none any more.

    Transaction effect: one durable commit.
    """
    main = _main
    assert main is not None
    git_facts.settle(main.current.store, main.current.row_id)
    let_go(main.current.uid)
    edits.reset(main.current.store, main.current.row_id, force=True)
    context.set_running(None)


def forget() -> None:
    """This process has no main task any more; what it was goes on elsewhere."""
    global _main
    _main = None
    connection.end()


def _outcome(main: MainTask, status: str | None, reason: str) -> Outcome:
    spent = time.monotonic() - main.started
    if status == states.COMPLETED or (status is None and not main.error and not main.exit_code and not main.stopped):
        return Outcome(attempts.DONE, reason, duration_s=spent)
    if status == states.STOPPED or (status is None and main.stopped):
        if reason or not runs.asked_to_stop(main.current.store, main.current.row_id):  # else the asker's words stand
            steering.abort(main.current.store, [main.current.row_id], reason or main.stopped or "stopped")
        return Outcome(attempts.FAILED, reason or main.stopped, None, (), spent, final=True)
    if status == states.FAILED:
        words = reason or "marked failed"
        return Outcome(attempts.FAILED, words, {"type": "MarkedFailed", "message": words}, (), spent, final=True)
    if main.error is not None:
        text = "".join(traceback.format_exception(main.error))[-16_000:]
        facts = {"type": type(main.error).__name__, "message": str(main.error)[:4_000], "traceback": text}
        return Outcome(attempts.FAILED, f"{type(main.error).__name__}: {main.error}"[:500], facts, (), spent, final=True)
    words = f"exited with code {main.exit_code}"
    return Outcome(attempts.FAILED, words, {"type": "Exit", "message": words}, (), spent, final=True)


class _Exit:
    """The interpreter's ``exit`` and ``quit``: they raise SystemExit without asking `sys.exit`."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, code: Any = None) -> Any:
        note_exit(code)
        return self.before(code)

    def __repr__(self) -> str:
        return repr(self.before)


def _hook() -> None:
    """Learn how the process ends. Each hook calls what was there before it."""
    global _hooked
    if _hooked:
        return
    _hooked = True
    atexit.register(_at_exit, parting.can_tell())
    before_hook, before_exit = sys.excepthook, sys.exit

    def excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        note_error(error)
        before_hook(kind, error, trace)

    def leave(code: Any = None, /) -> None:
        note_exit(code)
        before_exit(code)

    sys.excepthook = excepthook
    sys.exit = leave  # type: ignore[assignment]
    for name in ("exit", "quit"):  # python -S has none
        if hasattr(builtins, name):
            setattr(builtins, name, _Exit(getattr(builtins, name)))
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:

        def terminated(number: int, frame: Any) -> None:
            if _main is None or _main.names is None:  # nothing to tell: die as ever
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
                return
            _main.stopped = "stopped by SIGTERM"
            before_exit(128 + number)

        signal.signal(signal.SIGTERM, terminated)
        forks.spare_children(terminated)


def _at_exit(can_tell: bool) -> None:
    main = _main
    if can_tell and main is not None and main.names is not None and main.pid == os.getpid() and not main.stopped:
        if not parting.left_early():
            main.exit_code = None  # a SystemExit that was caught
        elif main.exit_code is None and main.error is None:
            main.exit_code = parting.code_of_a_copy()
    close()


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
    if _main is not None and _main.pid == os.getpid() and threading.current_thread() is threading.main_thread():
        _main.exit_code = 0 if code is None else int(code) if isinstance(code, int) else 1


# -- the console --------------------------------------------------------------------------------------------------------


class _Copy(io.TextIOBase):
    """A stream that writes to the terminal and to the task's log; in all else it is the terminal's."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self.stream = stream
        self.log = log

    def write(self, text: str) -> int:
        """Write to both; the log is never a reason to fail."""
        if not self.log.closed:
            with contextlib.suppress(OSError, ValueError):
                self.log.write(text)
        return self.stream.write(text)

    def flush(self) -> None:
        """Flush the terminal's side; the log has no buffer."""
        if not self.stream.closed:
            self.stream.flush()

    def isatty(self) -> bool:
        """As the terminal's side: programs decide by it how to show progress."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The terminal's side: what other programs write there does not reach the log."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the terminal's side."""
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """Of the terminal's side."""
        return self.stream.errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _copy_streams(path: Path, head: str) -> list[Callable[[], None]]:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # Without a buffer: after a fork two processes would write what is in it.
    raw = open(descriptor, "wb", buffering=0)  # noqa: SIM115
    log = io.TextIOWrapper(cast(IO[bytes], raw), encoding="utf-8", errors="backslashreplace", write_through=True)
    log.write(head)
    restores: list[Callable[[], None]] = []
    for name in ("stdout", "stderr"):
        original = getattr(sys, name)
        if original is not None:  # pythonw, a daemon
            copy = _Copy(original, log)
            setattr(sys, name, copy)
            restores.append(_restorer(name, copy, original))
    restores.append(log.close)
    return restores


@contextlib.contextmanager
def copied_streams(path: Path, head: str) -> Iterator[None]:
    """What is printed meanwhile also goes to a log, after its first line."""
    restores = _copy_streams(path, head)
    try:
        yield
    finally:
        for restore in restores:
            restore()


@contextlib.contextmanager
def set_aside() -> Iterator[None]:
    """This process has no main task meanwhile; it executes another one."""
    global _main
    before, _main = _main, None
    try:
        yield
    finally:
        _main = before


def _restorer(name: str, copy: Any, original: Any) -> Callable[[], None]:
    def restore() -> None:
        if getattr(sys, name) is copy:
            setattr(sys, name, original)

    return restore
