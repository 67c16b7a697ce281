"""Command lines read by `argparse` (ClearML's ``auto_connect_arg_parser``): recorded in section ``Args``, or replaced by what is stored.

Every parse of this process is seen, from the moment this module is imported: one before `Task.init` is recorded when the task begins.
Where a worker runs the script the stored values win already in the parse, and what the command line no longer gives is not required.
A program or a fork that the script starts has a command line of its own, which stays as it is.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from minipipe import context, errors
from minipipe.sdk import session, values
from minipipe.sdk.connect import Binding, recast, storable
from minipipe.store import edits, records

SECTION = "Args"
Wanted = bool | Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class _Connection:
    """A task that takes command lines.

    Attributes:
        binding: the task.
        wanted: what of them, as `Task.init` was told.
        pid: the process whose command lines count.
    """

    binding: Binding
    wanted: Wanted
    pid: int


_connection: _Connection | None = None
_last: tuple[argparse.ArgumentParser, argparse.Namespace, int] | None = None
_explicit: weakref.WeakKeyDictionary[argparse.ArgumentParser, Binding] = weakref.WeakKeyDictionary()
_nesting = threading.local()
_early: dict[str, _Connection | None] = {}


def begin(binding: Binding, wanted: Wanted) -> None:
    """Connect what was parsed last and what will be parsed from now on.

    Args:
        binding: the main task.
        wanted: True for all arguments, False for none; or by name, ``"*"`` for those that are not named; empty is none.
    """
    global _connection
    _connection = _Connection(binding, wanted, os.getpid())
    if _last is not None and _last[2] == os.getpid():
        _settle(_connection, _last[0], _last[1])


def end() -> None:
    """The main task has ended: later command lines are not its."""
    global _connection, _last
    _connection = _last = None


def connect(parser: argparse.ArgumentParser, binding: Binding) -> argparse.ArgumentParser:
    """Connect one parser, parsed already or later (`Task.connect`)."""
    _explicit[parser] = binding
    if _last is not None and _last[0] is parser:
        _settle(_Connection(binding, True, os.getpid()), parser, _last[1])
    return parser


def is_wanted(wanted: Wanted, name: str) -> bool:
    """True if an argument is to be connected (ClearML's rule for the dict)."""
    if not isinstance(wanted, Mapping):
        return bool(wanted)
    return bool(wanted) and bool(wanted.get(name, wanted.get("*", True)))


# -- parsing ------------------------------------------------------------------------------------------------------------


def _watch(parse: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse)
    def parse_known_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        global _last
        if getattr(_nesting, "inside", False):  # a sub-command's parser, called by the one that was called
            return parse(self, args, namespace)
        found = _connection_of(self)
        if found is not None and found.binding.overrides and found.wanted:
            _lift_required(self)
        _nesting.inside = True
        try:
            result = parse(self, args, namespace)
        finally:
            _nesting.inside = False
        _last = (self, result[0], os.getpid())
        if found is not None:
            _settle(found, self, result[0])
        return result

    return parse_known_args


if not hasattr(argparse.ArgumentParser.parse_known_args, "__wrapped__"):
    argparse.ArgumentParser.parse_known_args = _watch(argparse.ArgumentParser.parse_known_args)  # type: ignore[method-assign]


def _connection_of(parser: argparse.ArgumentParser) -> _Connection | None:
    if parser in _explicit:
        return _Connection(_explicit[parser], True, os.getpid())
    if _connection is not None:
        return _connection if _connection.pid == os.getpid() else None
    running = context.running()
    return _before_init(running) if running is not None and running.worker_mode else None


def _before_init(running: context.Running) -> _Connection | None:
    """Worker mode, and the script has not said `Task.init` yet: its task knows that it will, and with what."""
    if running.uid not in _early:
        found = None
        current = session.current()
        if current is not None:
            recorded = records.settings_of(current.store, current.row_id)
            if (recorded.get("init") or recorded.get("create")) and edits.facts(current.store, current.row_id).get(
                "kind"
            ) == "script":
                found = _Connection(Binding(current, True), recorded.get("arguments", True), os.getpid())
        _early[running.uid] = found
    early = _early[running.uid]
    return early if early is not None and early.pid == os.getpid() else None


def _settle(connection: _Connection, parser: argparse.ArgumentParser, found: argparse.Namespace) -> None:
    """Record parsed arguments, or put the stored values in their place."""
    binding = connection.binding
    flat = {key: value for key, value in vars(found).items() if is_wanted(connection.wanted, key) and not callable(value)}
    if binding.overrides:
        stored = binding.read(SECTION)
        for key, value in flat.items():
            if key in stored:
                setattr(found, key, _read(parser, key, stored[key], value))
        flat = {key: value for key, value in flat.items() if key not in stored}
    # What argparse made of a text (a Path, a date) it can make again.
    binding.write(SECTION, {key: value if storable(value) else str(value) for key, value in flat.items()})


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _actions(child)


def _lift_required(parser: argparse.ArgumentParser) -> None:
    """What the command line no longer gives, the task does."""
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _free_groups(child)
        elif not action.option_strings and action.nargs in (None, "+"):
            action.nargs = "*" if action.nargs else "?"
        action.required = False
    _free_groups(parser)


def _free_groups(parser: argparse.ArgumentParser) -> None:
    for group in parser._mutually_exclusive_groups:
        group.required = False


def _read(parser: argparse.ArgumentParser, key: str, row: Any, parsed: Any) -> Any:
    """A stored argument as the parser would have read it."""
    typed = json.loads(row["value"])
    if not isinstance(typed, str):
        return typed
    action = next((one for one in _actions(parser) if one.dest == key), None)
    if action is None or row["text"] == "":
        return recast(row, parsed, f"{SECTION}/{key}")
    try:
        return _convert(action, row["text"], parsed, key)
    except (errors.BadParameter, ValueError, TypeError, KeyError, argparse.ArgumentTypeError, argparse.ArgumentError):
        warnings.warn(f"argument {key!r}: cannot read {row['text']!r}; the parsed value is used", stacklevel=6)
        return parsed


def _convert(action: argparse.Action, text: str, parsed: Any, key: str) -> Any:
    convert: Callable[[Any], Any] = action.type if callable(action.type) else str
    if action.nargs in ("*", "+") or (isinstance(action.nargs, int) and action.nargs != 0) or isinstance(parsed, list):
        items = values.cast(text, list, key) if text.lstrip().startswith("[") else text.split()
        return [convert(item if isinstance(item, str) or convert is str else str(item)) for item in items]
    if action.type is None and parsed is not None and not isinstance(parsed, str):  # a flag, a counter
        return values.cast(text, type(parsed), key)
    return convert(text)
