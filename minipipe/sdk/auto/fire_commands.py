"""Command lines read by Python Fire: recorded in section ``Args``, or replaced by what is stored (ClearML's names).

One function: ``Args/count``. Commands (of a class, an object, a dict, the script itself): ``Args/add`` True for the one that ran,
``Args/add/x`` its arguments, ``Args/offset`` those of the constructor, and the other commands with False. A command line that calls
several in a row is left alone.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from minipipe.sdk import command_line
from minipipe.sdk.auto import connection, quiet, wrap
from minipipe.sdk.auto.connection import Connection, is_wanted
from minipipe.sdk.command_line import SECTION
from minipipe.sdk.connect import storable

_fire: Any = None
_calls: list[
    tuple[str, dict[str, Any], bool]
] = []  # (command, arguments, whether it is more than a constructor) of the last line
_roots: list[Any] = []  # the first component that has members
_DEEP = 3


def patch(module: ModuleType) -> None:
    """Install the hook; `module` is ``fire.core``."""
    global _fire
    _fire = module
    wrap(module, "_Fire", _begin_line)
    wrap(module, "_CallAndUpdateTrace", _call)
    wrap(module.parser, "CreateParser", lambda make: lambda: command_line.ignore(make()))
    connection.listen(_begun, _calls.clear)


def _begin_line(original: Callable[..., Any]) -> Callable[..., Any]:
    def fire(component: Any, args: Any, parsed_flag_args: Any, context: Any, *rest: Any, **more: Any) -> Any:
        _calls.clear()
        _roots[:] = [_members_of(context) if component is None else component]
        connected = connection.current()
        if connected is not None and connected.binding.overrides and connected.wanted:
            with quiet("fire"):
                args = _words(_stored(connected)) or args
        return original(component, args, parsed_flag_args, context, *rest, **more)

    return fire


def _call(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(component: Any, args: Any, component_trace: Any, treatment: str = "class", target: Any = None) -> Any:
        with quiet("fire"):
            _note(component, args, component_trace, treatment)
        result = original(component, args, component_trace, treatment, target)
        if treatment == "class" and component is _roots[0]:
            _roots[:] = [result[0]]
        return result

    return call


# -- recording ----------------------------------------------------------------------------------------------------------


def _note(component: Any, args: Any, trace: Any, treatment: str) -> None:
    function = component.__call__ if treatment == "callable" else component
    spec = _fire.inspectutils.GetFullArgSpec(function)
    try:
        (placed, named), _, _, _ = _fire._MakeParseFn(function, _fire.decorators.GetMetadata(component))(list(args))
    except _fire.FireError:
        return  # the user hears of it
    found = {**dict(zip(spec.args, placed, strict=False)), **named}
    if spec.varargs and len(placed) > len(spec.args):
        found[spec.varargs] = list(placed[len(spec.args) :])
    places = [str(each._target) for each in trace.elements if each._action == "Accessed property"]
    _calls.append((".".join(places), found, treatment != "class"))
    connected = connection.current()
    if connected is not None:
        _begun(connected)


def _begun(connected: Connection) -> None:
    if connected.binding.overrides or not _calls or sum(leaf for _, _, leaf in _calls) > 1:
        return
    with quiet("fire"):
        found: dict[str, Any] = {}
        chosen = next((path for path, _, leaf in _calls if leaf), "")
        for path, arguments, _ in _calls:
            prefix = f"{path}/" if path else ""
            found.update({prefix + key: value if storable(value) else str(value) for key, value in arguments.items()})
        if chosen:
            found[chosen] = True
        for path, function in _commands(_roots[0], "", _DEEP):
            if path != chosen:
                found[path] = False
                found.update({f"{path}/{name}": None for name in _fire.inspectutils.GetFullArgSpec(function).args})
        wanted = {key: value for key, value in found.items() if is_wanted(connected.wanted, key.rpartition("/")[2])}
        connected.binding.write(SECTION, wanted)


def _members_of(context: Any) -> dict[str, Any]:
    """What a script without a component offers: its own functions and classes."""
    home = context.get("__name__")
    return {
        name: value
        for name, value in context.items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == home and not name.startswith("_")
    }


def _commands(component: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """(dotted path, function) of all commands, as far as they are known without making objects."""
    if inspect.isroutine(component) or inspect.isclass(component) or depth == 0:
        return
    members = component.items() if isinstance(component, dict) else _attributes(component)
    for name, value in members:
        path = f"{prefix}{name}"
        if inspect.isroutine(value):
            yield path, value
        elif not inspect.isclass(value) and (isinstance(value, dict) or type(value).__module__ not in ("builtins", "types")):
            yield from _commands(value, f"{path}.", depth - 1)


def _attributes(component: Any) -> Iterator[tuple[str, Any]]:
    for name in dir(component):
        if not name.startswith("_") and not isinstance(getattr(type(component), name, None), property):
            yield name, getattr(component, name)


# -- overriding ---------------------------------------------------------------------------------------------------------


def _stored(connected: Connection) -> dict[str, Any]:
    rows = connected.binding.read(SECTION)
    return {name: row for name, row in rows.items() if is_wanted(connected.wanted, name.rpartition("/")[2])}


def _words(stored: dict[str, Any]) -> list[str]:
    """A command line that says what is stored; empty if that names no command and no argument."""
    flags = [name for name, row in stored.items() if "/" not in name and _is_command(name, stored)]
    chosen = next((name for name in flags if str(stored[name]["text"]).strip().lower() in ("true", "1", "yes")), "")
    if flags and not chosen:
        return []
    words = _arguments("", {name: row for name, row in stored.items() if "/" not in name and name not in flags})
    parts = chosen.split(".") if chosen else []
    for number, part in enumerate(parts):
        words.append(part)
        words += _arguments(".".join(parts[: number + 1]) + "/", stored)
    return words


def _is_command(name: str, stored: dict[str, Any]) -> bool:
    if any(other.startswith(f"{name}/") for other in stored):
        return True
    known = {path for path, _ in _commands(_roots[0], "", _DEEP)} if _roots else set()
    return name in known or "." in name or (inspect.isclass(_roots[0]) and hasattr(_roots[0], name))


def _arguments(prefix: str, stored: dict[str, Any]) -> list[str]:
    words, last = [], []
    for name, row in stored.items():
        value = json.loads(row["value"])
        if not name.startswith(prefix) or "/" in name[len(prefix) :] or value in (None, ""):
            continue
        if isinstance(value, list) and row["type"].startswith("list") and _is_rest(prefix, name[len(prefix) :]):
            last += [_word(each) for each in value]
        else:
            words.append(f"--{name[len(prefix) :]}={_word(value)}")
    return [*words, *last]


def _is_rest(prefix: str, name: str) -> bool:
    """True if an argument is the ``*args`` of its function."""
    function = dict(_commands(_roots[0], "", _DEEP)).get(prefix.rstrip("/"), _roots[0] if not prefix else None)
    return inspect.isroutine(function) and _fire.inspectutils.GetFullArgSpec(function).varargs == name


def _word(value: Any) -> str:
    """A value as Fire reads it back; a text is read as if it stood on the command line (ClearML's rule)."""
    text = str(value)
    return text if isinstance(value, str) or _fire.parser.DefaultParseValue(text) == value else repr(value)
