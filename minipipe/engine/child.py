"""One attempt: a process that becomes the step, has it run (`minipipe.engine.execution`) and says how it ended.

The order matters: the death signal first (nothing may outlive the worker), then the group and the token (so that whatever user
code starts can be found), then the log (so that everything printed from here on is kept), then the rest. What does not depend on
the attempt happens in `stand_by`, before it is known: that takes it, and the fork itself, out of the step's way.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import faulthandler
import gc
import importlib
import io
import json
import os
import resource
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from minipipe import context, hashing, seeds
from minipipe.engine import endings, execution, protocol, start, tree
from minipipe.shown import tell
from minipipe.store import codec, database
from minipipe.store.home import Store

_MOST_DESCRIPTORS = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)


def stand_by(line: int, parent: int) -> NoReturn:
    """Life of a freshly forked child: get ready, wait for a spec, run it; never returns.

    Args:
        line: descriptor of the socket to the worker: it brings the spec and takes the outcome. Its end without a spec ends the
            process.
        parent: process id of the step host.
    """
    tree.die_with_parent(parent)
    os.setsid()
    _reset_signals()
    _step_forward_for_the_oom_killer()
    line = _close_all_but(line)
    gc.enable()
    _rehearse()
    unpacker = protocol.Unpacker()
    while (frame := unpacker.next()) is None:
        data = os.read(line, 1 << 18)
        if not data:
            os._exit(0)
        unpacker.feed(data)
    spec, payloads = frame
    if spec["isolation"] == "spawn":
        _become_fresh(spec, payloads, line, parent)
    main(spec, payloads, line)


def main(spec: dict[str, Any], payloads: list[bytes], line: int) -> NoReturn:
    """Run one attempt in this process; never returns.

    Args:
        spec: what to run, see `minipipe.store.inputs.spec_of`.
        payloads: bytes that the spec refers to by index.
        line: descriptor for the outcome message.
    """
    tree.brand(spec["token"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on it is the step's
    os.umask(0o077)
    _redirect(spec)
    database.forbid("")
    seeds.sow(spec["seed"])
    for name, value in spec["environment"].items():
        os.environ[name] = value
    started = time.monotonic()
    store = _store(spec)
    store.wait_for_claim(spec["task"], spec["token"])
    context.set_running(
        context.Running(
            store.path,
            context.Lease(spec["task"], spec["uid"], spec["attempt"], spec["token"]),
            spec["uid"],
            spec["run"],
            True,
            spec["session"],
            spec["private"],
        )
    )
    _answer_breakpoints(spec)
    result = execution.perform(store, spec, payloads)
    result.head.update(token=spec["token"], duration_s=time.monotonic() - started)

    def leave() -> NoReturn:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        # Last of all, so that nothing of the step can go wrong after it: the worker does not wait for the process's end.
        _send(line, result)
        os._exit(result.exit_code)

    _wind_down(spec["grace_s"], leave)


def _answer_breakpoints(spec: dict[str, Any]) -> None:
    """Nobody sits at a worker's terminal: ``breakpoint()`` says in the log where it can be answered, and the step goes on.

    A hook that the user named (``PYTHONBREAKPOINT``, a debugger that is reached over a socket) is left alone.
    """
    if os.environ.get("PYTHONBREAKPOINT"):
        return
    label = spec["uid"][:8] if spec["run"] == spec["uid"] else f"{spec['run'][:8]}/{spec['name']}"

    def hook(*args: object, **keywords: object) -> None:
        caller = sys._getframe(1)
        place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        tell(f"minipipe: breakpoint() at {place} passed: minipipe step {label} --pdb")

    sys.breakpointhook = hook


def _become_fresh(spec: dict[str, Any], payloads: list[bytes], line: int, parent: int) -> NoReturn:
    """Exec a fresh interpreter for the attempt (``isolation = "spawn"``); everything else is as in `main`."""
    file = importlib.import_module("tempfile").TemporaryFile()
    file.write(protocol.pack(spec, payloads))
    file.seek(0)
    for descriptor in (line, file.fileno()):
        os.set_inheritable(descriptor, True)
    arguments = start.command(__name__, "start_fresh", file.fileno(), line, parent)
    os.execv(arguments[0], arguments)


def start_fresh(descriptor: int, line: int, parent: int) -> NoReturn:
    """Entry point of a spawned attempt."""
    tree.die_with_parent(parent)
    unpacker = protocol.Unpacker()
    with open(descriptor, "rb") as file:
        unpacker.feed(file.read())
    frame = unpacker.next()
    assert frame is not None
    prepare(Path(frame[0]["home"]))
    main(*frame, _close_all_but(line))


# -- becoming the step --------------------------------------------------------------------------------------------------


HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the host holds them back, its children do not
_stores: dict[str, Store] = {}
_own_exit_handlers = 0
_rehearsal = b""


def prepare(home: Path) -> None:
    """Make what every child will use, once, before any fork: text streams and the store's object (which opens nothing).

    The streams refer to descriptors 0, 1 and 2 by number, which each child points at its own log.
    """
    global _own_exit_handlers, _rehearsal
    file = io.BytesIO()
    codec.dump(types.FunctionType((lambda: 0).__code__, {}, "nothing"), file)
    _rehearsal = file.getvalue()
    faulthandler.enable()  # writes to descriptor 2, whatever that is by then
    _own_exit_handlers = atexit._ncallbacks()
    _stores[str(home)] = Store(home, "full")
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


def _close_all_but(line: int) -> int:
    """Descriptor 0 is the null device, 3 the line to the worker; 1 and 2 become the log; nothing else stays open."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if line != 3:
        os.dup2(line, 3)
    os.closerange(4, _MOST_DESCRIPTORS)
    os.set_inheritable(3, False)
    return 3


def _redirect(spec: dict[str, Any]) -> None:
    """What is printed from here on goes to the attempt's log; nowhere if there can be none (a full disk is no reason to fail)."""
    log = _open_log(spec["log"])
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    head = log_head(spec["name"], spec["uid"], spec["attempt"], spec["token"])
    with contextlib.suppress(OSError):
        if not os.fstat(1).st_size or not _begins_with(spec["log"], head):  # the build of its environment may have begun it
            os.write(1, head)


def _open_log(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.dirname(path), 0o700)
            return os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return os.open(os.devnull, os.O_WRONLY)


def log_head(name: str, uid: str, attempt: int, token: str) -> bytes:
    """The first line of an attempt's log."""
    return f"minipipe: {name} {uid[:8]} attempt {attempt} token {token[:8]}\n".encode("utf-8", "backslashreplace")


def _begins_with(path: str, head: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(head)) == head


def _rehearse() -> None:
    """Go through the motions of an attempt once, on a function that does nothing.

    The first touch of each page after a fork makes the kernel copy it, about a thousand times per attempt. Here nobody waits for
    that yet: most of an attempt's own time is saved.
    """
    unpacker = protocol.Unpacker()
    unpacker.feed(protocol.pack({"arguments": {}, "inputs": []}, [_rehearsal]))
    frame = unpacker.next()
    assert frame is not None
    function = codec.load(memoryview(frame[1][0]))
    positional, keyword = execution.arrange(function, {})
    value = function(*positional, **keyword)
    hashing.digest_bytes(frame[1][0])
    protocol.pack({"outputs": [{"name": "x", "scalar": json.dumps(value)}]})


def _reset_signals() -> None:
    """Undo what the host set; the rest is Python's own (SIGPIPE is an exception, not a death)."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # An interrupt before there is a step must not become the failure of the step that comes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def _step_forward_for_the_oom_killer() -> None:
    # The kernel then takes the step, which can be repeated, before host and worker.
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, b"500")
        os.close(descriptor)


def _store(spec: dict[str, Any]) -> Store:
    store = _stores.get(spec["home"]) or Store(Path(spec["home"]), spec["durability"])
    store.database.durable = spec["durability"] == "full"
    return store


# -- ending -------------------------------------------------------------------------------------------------------------


def _wind_down(grace_s: float, leave: Callable[[], NoReturn]) -> NoReturn:
    """Run exit handlers and wait for threads, for at most the grace; then `leave`.

    When the time is up the signal handler itself leaves: an exception that it raised could be caught by the very code that does
    not come to an end. Against code that keeps the interpreter lock, so that no handler runs, there is a thread in C: it exits
    with code 1, and the result is lost.
    """
    signal.signal(signal.SIGALRM, lambda number, frame: leave())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, max(grace_s, 0.001))
    with contextlib.suppress(BaseException):
        faulthandler.dump_traceback_later(grace_s + 1.0, exit=True, file=2)
    for last in (threading._shutdown, atexit._run_exitfuncs, endings.flush):  # type: ignore[attr-defined]
        with contextlib.suppress(BaseException):
            last()
    leave()


def _send(line: int, result: endings.Result) -> None:
    view = memoryview(protocol.pack(result.head, result.payloads))
    while view:
        view = view[os.write(line, view) :]
