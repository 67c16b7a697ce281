"""A function as something that can be stored and run elsewhere.

A function of an importable module of the project travels by name, and its files are watched for changes. One of ``__main__``, a
notebook, a closure or a lambda travels by value with everything it names, as it stands at the call. No code is ever generated.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from minipipe import codekey, context, errors, hashing, imports
from minipipe.store import blobs, codec
from minipipe.store.home import Store

INNER = "__minipipe_component__"
_WATCH = (
    "minipipe.sdk.auto:watch"  # before any library is imported: what a step draws and saves is captured even if it names no task
)


@dataclass(frozen=True, slots=True)
class Captured:
    """A function ready to be submitted.

    Attributes:
        entry: what the child needs to load it, as JSON.
        pickled: its bytes if it travels by value.
        helpers: functions that it may call by name although its module does not have them; name -> function.
        key: its code key.
        code: row for the store: key, name, source, parts.
    """

    entry: dict[str, Any]
    pickled: bytes | None
    helpers: bytes | None
    key: codekey.CodeKey
    code: tuple[str, str, str, str]


def capture(
    function: Callable[..., Any], step: str, helpers: Sequence[Callable[..., Any]] = (), local_imports: bool = True
) -> Captured:
    """Capture a function.

    Args:
        function: what the step runs (the decorated function without minipipe's own decorator).
        step: name of the step, for errors.
        helpers: functions that it may call by name although it does not name them.
        local_imports: the script's folder is on the import path of the step.

    Raises:
        CannotTravel: a name that it uses holds something that lives in one process; names step, variable and type.
    """
    key = codekey.code_key(function, helpers=helpers)
    memo = (key.digest, os.getcwd(), tuple(sys.argv[:1]), local_imports, *context.first_imports())
    known = _memo.get(function)
    # An equal key means equal code and constants, so equal bytes; what has no stable digest is pickled anew at each call.
    if known is not None and known[0] == memo and not key.unstable:
        return known[1]
    captured = _capture(function, step, helpers, local_imports, key)
    with contextlib.suppress(TypeError):  # not every callable can be referred to weakly
        _memo[function] = (memo, captured)
    return captured


def comes_first() -> list[str]:
    """What a task calls before its code is loaded; see `minipipe.context.import_first`."""
    return [*context.first_imports().get("first", ()), _WATCH]


_memo: weakref.WeakKeyDictionary[Callable[..., Any], tuple[tuple[Any, ...], Captured]] = weakref.WeakKeyDictionary()


def _capture(
    function: Callable[..., Any], step: str, helpers: Sequence[Callable[..., Any]], local_imports: bool, key: codekey.CodeKey
) -> Captured:
    roots = [str(import_root())] if local_imports else []
    first = comes_first()
    # A warm host has what comes first before it forks.
    own = own_imports() if "minipipe" in key.imports or "clearml" in key.imports else []
    warm = [*key.imports, *own, *(name.partition(":")[0] for name in first)]
    entry: dict[str, Any] = {"cwd": os.getcwd(), "argv": sys.argv[:1], "imports": warm, "first": first}
    if found := imports.versions(key.imports):
        entry["versions"] = found
    pickled = added = None
    if importable(function):
        entry |= {"kind": "import", "module": function.__module__, "qualname": function.__qualname__}
        entry["files"] = {path: digest for path in key.files if (digest := _file_digest(path))}
        roots.append(str(_root_of_module(function.__module__)))
        there = getattr(sys.modules[function.__module__], "__dict__", {})
        added = _pickle_helpers([helper for helper in helpers if helper.__name__ not in there], step)
    else:
        entry["kind"] = "pickled"
        pickled = _pickle(function, step, helpers)
    entry["roots"] = list(dict.fromkeys(roots))
    return Captured(entry, pickled, added, key, _code_row(key, function))


def own_imports() -> list[str]:
    """What this process uses of minipipe: whoever runs the same script will, too, and a warm host has it before it forks."""
    return [name for name in _OWN if name in sys.modules]


_OWN = ("minipipe.sdk.task", "minipipe.sdk.logger", "minipipe.sdk.decorator", "minipipe.sdk.controller")


def _code_row(key: codekey.CodeKey, function: Callable[..., Any]) -> tuple[str, str, str, str]:
    parts = [
        {"name": part.name, "kind": part.kind, "digest": part.digest, "file": part.file, "line": part.line} for part in key.parts
    ]
    return key.digest, getattr(function, "__qualname__", repr(function)), key.source, json.dumps(parts)


def importable(function: Callable[..., Any]) -> bool:
    """True if a child gets the same function by importing its module."""
    name = getattr(function, "__module__", None)
    if not isinstance(function, FunctionType) or name in (None, "__main__", "__mp_main__") or "<" in function.__qualname__:
        return False
    module = sys.modules.get(name or "")
    if getattr(module, "__file__", None) is None:
        return False
    found: Any = module
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function or getattr(found, INNER, None) is function


def import_root() -> Path:
    """The folder that imports start from: that of the script, else the current one."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script and codekey.is_project_module("__main__") and Path(script).suffix in (".py", ".ipynb", ""):
        folder = Path(script).absolute().parent
        if "site-packages" not in folder.parts and folder.name not in ("bin", "Scripts"):
            return folder
    return Path.cwd()


def _root_of_module(name: str) -> Path:
    path = Path(sys.modules[name].__file__ or "").absolute()
    depth = name.count(".") + (path.name == "__init__.py")
    return path.parents[depth]


@cache
def _file_digest(path: str) -> str:
    # Cached for the life of the process: what counts is the text near the time of import, not at a later call.
    try:
        return hashing.digest_bytes(Path(path).read_bytes())
    except OSError:
        return ""


def pickled(function: Callable[..., Any], step: str) -> bytes:
    """A function by name or by value, as its module allows.

    Raises:
        CannotTravel: see `capture`.
    """
    return _pickle(function, step, ())


def _pickle(function: Callable[..., Any], step: str, helpers: Sequence[Callable[..., Any]]) -> bytes:
    if helpers and isinstance(function, FunctionType):
        function = _with_names(function, {helper.__name__: helper for helper in helpers})
    file = io.BytesIO()
    try:
        codec.dump(function, file)
    except errors.CannotTravel as error:
        raise _blame(function, step, error) from error.__cause__
    return file.getvalue()


def _pickle_helpers(helpers: Sequence[Callable[..., Any]], step: str) -> bytes | None:
    """The helpers of a function that travels by name."""
    if not helpers:
        return None
    file = io.BytesIO()
    try:
        codec.dump({helper.__name__: helper for helper in helpers}, file)
    except errors.CannotTravel as error:
        names = ", ".join(helper.__name__ for helper in helpers)
        raise errors.CannotTravel(
            f"step {step!r}: the helpers {names} cannot leave this process", error.cause, error.hint
        ) from error
    return file.getvalue()


def _with_names(function: FunctionType, extra: dict[str, Any]) -> FunctionType:
    """The same function with more global names (ClearML's ``helper_functions``)."""
    copy = FunctionType(
        function.__code__, {**function.__globals__, **extra}, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    copy.__dict__.update(function.__dict__)
    return copy


def _blame(function: Callable[..., Any], step: str, error: errors.CannotTravel) -> errors.CannotTravel:
    """Name the variable that cannot be sent: try each on its own."""
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    scope = dict(getattr(function, "__globals__", {}))
    closure = getattr(function, "__closure__", None) or ()
    for name, cell in zip(getattr(getattr(function, "__code__", None), "co_freevars", ()), closure, strict=False):
        scope[name] = cell.cell_contents
        names = (*names, name)
    for name in names:
        if name not in scope:
            continue
        try:
            codec.dump(scope[name], io.BytesIO())
        except Exception:
            kind = type(scope[name])
            return errors.CannotTravel(
                f"step {step!r} uses {name!r}, a {kind.__module__}.{kind.__qualname__}, which cannot leave this process",
                error.cause,
                f"make {name!r} inside the step, or pass the plain data as an argument",
                step=step,
                name=name,
            )
    return error


def encoded(store: Store, pickled: bytes) -> codec.Encoded:
    """The bytes of a function, staged."""
    writer = blobs.Writer(store)
    writer.write(pickled)
    return codec.Encoded(writer.finish(), "pickle", "function", "", "", {}, writer)
