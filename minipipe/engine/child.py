"""One attempt: a process that becomes the step, runs it, stages its results and says how it ended.

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
import inspect
import io
import json
import linecache
import os
import resource
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from minipipe import context, errors, hashing, limits, seeds
from minipipe.engine import protocol, repository, start, tree
from minipipe.shown import tell
from minipipe.store import blobs, codec, database
from minipipe.store.home import Store

OUTCOME_LIMIT_BYTES = 32 << 20
_INLINE_TOTAL_BYTES = 8 << 20
_TEXT_LIMIT = 64 << 10
_MOST_DESCRIPTORS = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)
_SCALARS = (int, float, bool, str)


@dataclass(slots=True)
class Result:
    """What goes into the outcome message, as plain data."""

    head: dict[str, Any]
    payloads: list[bytes]
    exit_code: int


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
    result = _execute(store, spec, payloads)
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
    positional, keyword = _arrange(function, {})
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


# -- running ------------------------------------------------------------------------------------------------------------


def _execute(store: Store, spec: dict[str, Any], payloads: list[bytes]) -> Result:
    try:
        changed = _changed_files(spec["entry"])
        if changed and spec["on_code_change"] == "fail":
            return _failed("code changed since submission: " + ", ".join(changed), None)
        if changed:
            tell("minipipe: code changed since submission: " + ", ".join(changed))
        enter(store, spec["entry"])
        limits.apply(spec["entry"].get("limits", {}))
        if spec["entry"]["kind"] == "script":
            result = run_script(spec["entry"])
        else:
            result = run_function(store, spec, payloads)
            context.end()
        result.head["code_changed"] = changed
        return result
    except BaseException as error:
        return _failed_by(error, spec["entry"])


def _changed_files(entry: dict[str, Any]) -> list[str]:
    changed = []
    for path, digest in entry.get("files", {}).items():
        try:
            if hashing.digest_bytes(Path(path).read_bytes()) != digest:
                changed.append(path)
        except OSError:
            changed.append(path)
    return changed


def enter(store: Store, entry: dict[str, Any]) -> None:
    """Take a task's place: its folder, its import roots, its arguments.

    Raises:
        NotFound: a folder is gone.
    """
    if "pinned" in entry:
        repository.check_out(store, repository.Pinned.of(entry["pinned"]))
    for folder in (entry["cwd"], *entry["roots"]):
        if not os.path.isdir(folder):
            raise errors.NotFound(f"the project folder {folder} is missing", "it was there when the step was submitted")
    os.chdir(entry["cwd"])
    for folder in reversed(entry["roots"]):
        if folder not in sys.path:
            sys.path.insert(0, folder)
        sys.path_importer_cache.pop(folder, None)  # the host may have listed it before it changed
    sys.argv = list(entry.get("argv") or [""])
    for name in entry.get("first", ()):
        module, _, function = name.partition(":")
        getattr(importlib.import_module(module), function)()


def run_script(entry: dict[str, Any]) -> Result:
    """Run a stored script as ``__main__``."""
    path, source = entry["file"], entry["source"]
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    # Tracebacks and inspect show the text that runs, not a file that was edited since.
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    try:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)  # not with this file's own __future__
    except SystemExit as stop:
        if stop.code not in (None, 0):
            if not isinstance(stop.code, int):
                print(stop.code, file=sys.stderr)
            raise
    context.end()
    return Result({"ending": "completed", "outputs": []}, [], 0)


def run_function(store: Store, spec: dict[str, Any], payloads: list[bytes], function: Callable[..., Any] | None = None) -> Result:
    """Call a step's function with its inputs and stage its results; `function` is taken for the stored one if given."""
    function = function or _load_function(store, spec, payloads)
    values = _load_inputs(store, spec, payloads)
    positional, keyword = _arrange(function, values)
    value = function(*positional, **keyword)
    proxies = sys.modules.get("minipipe.sdk.proxy")  # a step that called components may hand on their lazy results
    if proxies is not None:
        value = proxies.resolve(value)
    return _stage(store, spec, payloads, _name_results(value, spec["entry"]["returns"]))


def _load_function(store: Store, spec: dict[str, Any], payloads: list[bytes]) -> Callable[..., Any]:
    entry = spec["entry"]
    if entry["kind"] == "pickled":
        code = spec["code"]
        loaded: Callable[..., Any] = _load_code(store, code, payloads)
        return loaded
    try:
        found: Any = importlib.import_module(entry["module"])
    except ImportError as error:
        raise errors.NotFound(
            f"step {spec['name']!r}: {str(error) or 'import failed'}",
            f"python {sys.executable}, search path {sys.path[:3]}",
            "install the module for this python, or keep the project folder where it was",
        ) from error
    for part in entry["qualname"].split("."):
        found = getattr(found, part)
    inner = getattr(found, "__minipipe_component__", found)
    function: Callable[..., Any] = inner
    if "helpers" in spec["more"]:  # what its module does not have under that name
        names = getattr(inspect.unwrap(function), "__globals__", {})
        for name, helper in _load_code(store, spec["more"]["helpers"], payloads).items():
            names.setdefault(name, helper)
    return function


def _load_code(store: Store, item: dict[str, Any], payloads: list[bytes]) -> Any:
    data = blobs.read(store, item["digest"], payloads[item["payload"]] if item["payload"] >= 0 else None, "the code")
    return codec.load(data)


def _store(spec: dict[str, Any]) -> Store:
    store = _stores.get(spec["home"]) or Store(Path(spec["home"]), spec["durability"])
    store.database.durable = spec["durability"] == "full"
    return store


def _load_inputs(store: Store, spec: dict[str, Any], payloads: list[bytes]) -> dict[str, Any]:
    values: dict[str, Any] = spec["arguments"]
    if not spec["inputs"]:
        return values
    scratch = store.folder("tmp") / f"{spec['token']}.d"
    references: dict[str, Any] = {}
    structures = []
    for item in spec["inputs"]:
        what = f"input {item['name']!r}"
        if item["codec"] == "scalar":
            references[item["name"]] = item["value"]
            continue
        if item["codec"] == "none":
            references[item["name"]] = None
            continue
        data = blobs.read(store, item["digest"], payloads[item["payload"]] if item["payload"] >= 0 else None, what)
        if item["codec"] == "structure":
            structures.append((item["name"], data))
            continue
        references[item["name"]] = codec.decode(data, item["codec"], item["metadata"], scratch, what)
        if "serialized" in item["metadata"] and "deserialize" in spec["more"]:
            references[item["name"]] = _load_code(store, spec["more"]["deserialize"], payloads)(references[item["name"]])
    for name, data in structures:
        values[name] = codec.load(data, references.__getitem__)
    # "x#2" is the third reference inside container x and has been put in its place above.
    values.update((name, value) for name, value in references.items() if "#" not in name)
    return values


def _arrange(function: Callable[..., Any], values: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments for a call; surplus ``*args`` are stored under "0", "1" … (ClearML's rule)."""
    surplus: list[Any] = []
    while str(len(surplus)) in values:
        surplus.append(values.pop(str(len(surplus))))
    if not surplus and not getattr(getattr(function, "__code__", None), "co_posonlyargcount", 1):
        return [], values  # the common case; a signature costs a third of a millisecond
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return surplus, values
    positional = []
    for parameter in parameters:
        by_place = parameter.kind is parameter.POSITIONAL_ONLY or (surplus and parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
        if by_place and parameter.name in values:
            positional.append(values.pop(parameter.name))
    return [*positional, *surplus], values


def _name_results(value: Any, names: list[str]) -> list[tuple[str, Any]]:
    if not names:
        return []
    if len(names) == 1:
        return [(names[0], value)]
    parts = list(value) if isinstance(value, (tuple, list)) else [value]
    if len(parts) != len(names):
        tell(
            f"warning: the step returned {len(parts)} value{'s' if len(parts) != 1 else ''} for {len(names)} names"
            f" ({', '.join(names)}): {'the surplus is dropped' if len(parts) > len(names) else 'missing ones are None'}"
        )
    parts += [None] * (len(names) - len(parts))
    return list(zip(names, parts, strict=False))


def _stage(store: Store, spec: dict[str, Any], code: list[bytes], results: list[tuple[str, Any]]) -> Result:
    outputs: list[dict[str, Any]] = []
    payloads: list[bytes] = []
    total = 0
    serialize = _load_code(store, spec["more"]["serialize"], code) if "serialize" in spec["more"] else None
    for index, (name, value) in enumerate(results):
        if type(value) in _SCALARS:
            outputs.append({"name": name, "scalar": json.dumps(value), "type": type(value).__name__, "text": str(value)})
            continue
        try:
            if serialize is not None:
                value = bytes(serialize(value))
            encoded = codec.encode(store, value, f"{spec['token']}.{index}")
            if serialize is not None:
                encoded = codec.as_serialized(encoded)
        except errors.CannotTravel as error:
            raise errors.CannotTravel(
                f"step {spec['name']!r}: result {name!r} of type {type(value).__name__} cannot be stored", error.cause, error.hint
            ) from error
        staged = encoded.staged
        payload = -1
        if staged.inline is not None:
            total += staged.size
            if total > _INLINE_TOTAL_BYTES:
                raise errors.CannotTravel(
                    f"step {spec['name']!r} returns more than {_INLINE_TOTAL_BYTES >> 20} MiB in small results"
                )
            payload = len(payloads)
            payloads.append(staged.inline)
        outputs.append(
            {
                "name": name,
                "digest": staged.digest,
                "size": staged.size,
                "payload": payload,
                "codec": encoded.codec,
                "type": encoded.type,
                "key": encoded.key,
                "preview": encoded.preview,
                "metadata": encoded.metadata,
            }
        )
    return Result({"ending": "completed", "outputs": outputs}, payloads, 0)


# -- failing ------------------------------------------------------------------------------------------------------------


def _failed(reason: str, error: dict[str, str] | None, exit_code: int = 1) -> Result:
    return Result({"ending": "failed", "reason": _clip(reason, 500), "error": error or {}, "outputs": []}, [], exit_code)


def _failed_by(error: BaseException, entry: dict[str, Any]) -> Result:
    """An exception as text, which the log gets too."""
    result = failure_of(error, entry)
    _flush()
    with contextlib.suppress(OSError):  # by number: the step may have replaced or closed the streams
        os.write(2, result.head["error"].get("traceback", "").encode("utf-8", "backslashreplace"))
    return result


def failure_of(error: BaseException, entry: dict[str, Any]) -> Result:
    """An exception as text. The object never leaves this process: not every exception survives pickling."""
    try:
        return _told_by(error, entry)
    except BaseException as second:  # its own code runs when it is asked for its code or its words
        kind = type(error).__name__
        return _failed(f"{kind}, which cannot be shown ({type(second).__name__})", {"type": kind, "message": ""})


def _told_by(error: BaseException, entry: dict[str, Any]) -> Result:
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return _failed("exited without a result", {"type": "SystemExit", "message": "exit code 0"})
        code = error.code if isinstance(error.code, int) else 1
        note = "" if 0 <= code < 256 else f" (the system keeps {code & 255})"
        return _failed(f"exited with code {code}{note}", {"type": "SystemExit", "message": str(code)}, code & 255 or 1)
    kind, message = type(error).__name__, _message(error)
    message += limits.words(entry.get("limits", {}), kind)
    text = _clip(_traceback_text(error), _TEXT_LIMIT)
    return _failed(
        f"{kind}: {message}" if message else kind,
        {"type": kind, "message": _clip(message, 4_000), "where": _where(error, entry), "traceback": text},
    )


def _message(error: BaseException) -> str:
    try:
        # A plain copy: what `__str__` gives may be of a class with ideas of its own.
        return str.__str__(error.message if isinstance(error, errors.MinipipeError) else str(error))
    except BaseException as second:
        return f"<its message raised {type(second).__name__}>"


def _traceback_text(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:
        return "".join(traceback.format_tb(error.__traceback__)) + f"{type(error).__name__}\n"


def _where(error: BaseException, entry: dict[str, Any]) -> str:
    """file:line, function and source line of the user's innermost frame."""
    package = Path(__file__).resolve().parent.parent
    example = str(package / "demo")  # the built-in example counts as the user's code
    best = ""
    for frame in traceback.extract_tb(error.__traceback__):
        elsewhere = frame.filename.startswith((str(package), "<frozen", sys.base_prefix)) or "site-packages" in frame.filename
        if not elsewhere or frame.filename.startswith(example):
            path = frame.filename
            with contextlib.suppress(ValueError):
                path = str(Path(path).relative_to(entry["roots"][0] if entry["roots"] else entry["cwd"]))
            best = f"{path}:{frame.lineno}, in {frame.name}:  {frame.line or ''}".rstrip(": ")
    return best


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit // 2] + f"\n… {len(text) - limit} characters …\n" + text[-limit // 2 :]


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
    for last in (threading._shutdown, atexit._run_exitfuncs, _flush):  # type: ignore[attr-defined]
        with contextlib.suppress(BaseException):
            last()
    leave()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _send(line: int, result: Result) -> None:
    view = memoryview(protocol.pack(result.head, result.payloads))
    while view:
        view = view[os.write(line, view) :]
