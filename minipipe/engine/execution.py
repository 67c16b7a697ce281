"""A task's code is run: in its folder, as a script or as a function, with its inputs loaded and its results staged."""

from __future__ import annotations

import importlib
import inspect
import json
import linecache
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minipipe import context, errors, hashing, limits, told
from minipipe.engine import repository
from minipipe.engine.endings import Result, failed, failed_by
from minipipe.shown import tell
from minipipe.store import blobs, codec
from minipipe.store.home import Store

_INLINE_TOTAL_BYTES = 8 << 20
_SCALARS = (int, float, bool, str)


def perform(store: Store, spec: dict[str, Any], payloads: list[bytes]) -> Result:
    """Run what a spec says in this process; whatever happens to it becomes a result."""
    try:
        changed = changed_files(spec["entry"])
        if changed and spec["on_code_change"] == "fail":
            return failed("code changed since submission: " + ", ".join(changed), None)
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
        return failed_by(error, spec["entry"])


def changed_files(entry: dict[str, Any]) -> list[str]:
    """The files of the task's code that are not what they were when it was submitted."""
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
    with told.telling(entry.get("told", {})):
        try:
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)  # not with this file's own __future__
        except SystemExit as stop:
            if stop.code not in (None, 0):
                if not isinstance(stop.code, int):
                    print(stop.code, file=sys.stderr)
                raise
        context.end()
        if (complaint := told.complaint(os.path.basename(path))) is not None:
            raise complaint
    return Result({"ending": "completed", "outputs": []}, [], 0)


def run_function(store: Store, spec: dict[str, Any], payloads: list[bytes], function: Callable[..., Any] | None = None) -> Result:
    """Call a step's function with its inputs and stage its results; `function` is taken for the stored one if given."""
    function = function or _load_function(store, spec, payloads)
    values = _load_inputs(store, spec, payloads)
    positional, keyword = arrange(function, values)
    value = function(*positional, **keyword)
    proxies = sys.modules.get("minipipe.sdk.proxy")  # a step that called components may hand on their lazy results
    if proxies is not None:
        value = proxies.resolve(value)
    results, remark = _name_results(value, spec["entry"]["returns"])
    staged = _stage(store, spec, payloads, results)
    staged.head["reason"] = remark[:500]
    return staged


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


def arrange(function: Callable[..., Any], values: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
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


def _name_results(value: Any, names: list[str]) -> tuple[list[tuple[str, Any]], str]:
    """What a step returned by name, and a remark for people if the numbers differ."""
    if not names:
        return [], ""
    if len(names) == 1:
        return [(names[0], value)], ""
    remark = ""
    parts = list(value) if isinstance(value, (tuple, list)) else [value]
    if len(parts) != len(names):
        remark = (
            f"the step returned {len(parts)} value{'s' if len(parts) != 1 else ''} for {len(names)} names"
            f" ({', '.join(names)}): {'the surplus is dropped' if len(parts) > len(names) else 'missing ones are None'}"
        )
        tell(f"warning: {remark}")
    parts += [None] * (len(names) - len(parts))
    return list(zip(names, parts, strict=False)), remark


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
