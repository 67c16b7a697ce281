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
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from minipipe import errors, told
from minipipe.sdk import values
from minipipe.sdk.auto import connection
from minipipe.sdk.auto.connection import Connection, is_wanted
from minipipe.sdk.connect import Binding, read_told, recast, storable
from minipipe.shown import warn

SECTION = "Args"

_last: tuple[argparse.ArgumentParser, argparse.Namespace, int] | None = None
_explicit: weakref.WeakKeyDictionary[argparse.ArgumentParser, Binding] = weakref.WeakKeyDictionary()
_ignored: weakref.WeakSet[argparse.ArgumentParser] = weakref.WeakSet()
_nesting = threading.local()


def _begun(connected: Connection) -> None:
    if _last is not None and _last[2] == os.getpid():
        _settle(connected, _last[0], _last[1])


def _ended() -> None:
    global _last
    _last = None


connection.listen(_begun, _ended)


def connect(parser: argparse.ArgumentParser, binding: Binding) -> argparse.ArgumentParser:
    """Connect one parser, parsed already or later (`Task.connect`)."""
    _explicit[parser] = binding
    if _last is not None and _last[0] is parser:
        _settle(Connection(binding), parser, _last[1])
    return parser


def ignore(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Leave one parser alone: a library's own, whose command line is captured in another way."""
    _ignored.add(parser)
    return parser


# -- parsing ------------------------------------------------------------------------------------------------------------


def _watch(parse: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse)
    def parse_known_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        global _last
        if getattr(_nesting, "inside", False) or self in _ignored:  # a sub-command's parser, called by the one that was called
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


def _connection_of(parser: argparse.ArgumentParser) -> Connection | None:
    return Connection(_explicit[parser]) if parser in _explicit else connection.current()


def _settle(connected: Connection, parser: argparse.ArgumentParser, found: argparse.Namespace) -> None:
    """Record parsed arguments, or put the stored values in their place."""
    binding = connected.binding
    flat = {key: value for key, value in vars(found).items() if is_wanted(connected.wanted, key) and not callable(value)}
    if binding.overrides:
        stored = binding.read(SECTION)
        for key, value in flat.items():
            if key in stored:
                setattr(found, key, _read(parser, key, stored[key], value))
        flat = {key: value for key, value in flat.items() if key not in stored}
    if binding.told:
        flat |= _put_told(parser, found, connected)
    # What argparse made of a text (a Path, a date) it can make again.
    binding.write(SECTION, {key: value if storable(value) else str(value) for key, value in flat.items()})


def _put_told(parser: argparse.ArgumentParser, found: argparse.Namespace, connected: Connection) -> dict[str, Any]:
    """Put what the script was told from outside in the place of parsed arguments; gives what was put.

    Raises:
        BadParameter: it cannot be read as the parser would read it.
    """
    put = {}
    for key, parsed in list(vars(found).items()):
        wanted = told.given(SECTION, key) if is_wanted(connected.wanted, key) and not callable(parsed) else None
        if wanted is not None:
            action = next((one for one in _actions(parser) if one.dest == key), None)
            try:
                text = isinstance(wanted, str) and action is not None and wanted != ""
                value = _convert(action, wanted, parsed, key) if text else read_told(wanted, SECTION, key, parsed)  # type: ignore[arg-type]
            except (ValueError, TypeError, KeyError, argparse.ArgumentTypeError, argparse.ArgumentError) as error:
                if isinstance(error, errors.BadParameter):
                    raise
                raise errors.BadParameter(f"parameter {key!r}: its parser cannot read {wanted!r}", str(error), name=key) from None
            setattr(found, key, value)
            put[key] = value
    return put


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
        warn(f"argument {key!r}: cannot read {row['text']!r}; the parsed value is used", stacklevel=6)
        return parsed


def _convert(action: argparse.Action, text: str, parsed: Any, key: str) -> Any:
    convert: Callable[[Any], Any] = action.type if callable(action.type) else str
    if action.nargs in ("*", "+") or (isinstance(action.nargs, int) and action.nargs != 0) or isinstance(parsed, list):
        items = values.cast(text, list, key) if text.lstrip().startswith("[") else text.split()
        return [convert(item if isinstance(item, str) or convert is str else str(item)) for item in items]
    if action.type is None and parsed is not None and not isinstance(parsed, str):  # a flag, a counter
        return values.cast(text, type(parsed), key)
    return convert(text)
