"""Command lines read by click: recorded in section ``Args``, or replaced by what is stored (ClearML's names).

One command: ``Args/count``. A group: ``Args/hello/count`` for each of its commands with their defaults, and ``Args/hello`` True for the
one that ran. Where a worker runs the task the stored command runs with the stored values; nothing is asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from minipipe.sdk.auto import connection, quiet, wrap
from minipipe.sdk.auto.connection import Connection, is_wanted
from minipipe.sdk.command_line import SECTION
from minipipe.sdk.connect import storable

_click: Any = None
_parsed: list[Any] = []  # contexts of the last command line, outermost first


def patch(module: ModuleType) -> None:
    """Install the hook; `module` is ``click.core``."""
    global _click
    _click = module
    wrap(module.Command, "parse_args", _parse)
    wrap(module.Group, "parse_args", _choose)
    connection.listen(_begun, _parsed.clear)


def _choose(original: Callable[..., Any]) -> Callable[..., Any]:
    def parse_args(self: Any, ctx: Any, args: list[str]) -> Any:
        if not _is_ours(ctx):
            with quiet("click"):
                stored = _stored(connection.current(), ctx)
                args = _chosen(self, stored) if stored else args
        return original(self, ctx, args)

    return parse_args


def _parse(original: Callable[..., Any]) -> Callable[..., Any]:
    def parse_args(self: Any, ctx: Any, args: list[str]) -> Any:
        if _is_ours(ctx):
            return original(self, ctx, args)
        connected, stored = None, {}
        with quiet("click"):
            connected = connection.current()
            stored = _stored(connected, ctx)
        if not stored:
            rest = original(self, ctx, args)
            with quiet("click"):
                _note(ctx, connected)
            return rest
        ctx.resilient_parsing = True  # neither asks nor insists; what is missing is stored
        try:
            rest = original(self, ctx, args)
        finally:
            ctx.resilient_parsing = False
        for parameter in self.params:
            name = _name(ctx, parameter.name)
            if parameter.expose_value and name in stored:
                ctx.params[parameter.name] = parameter.process_value(ctx, _value(stored[name], parameter))
        return rest

    return parse_args


def _is_ours(ctx: Any) -> bool:
    """True for a command of minipipe's own, which may run in the same process."""
    callback = ctx.find_root().command.callback
    return str(getattr(callback, "__module__", "")).startswith("minipipe.cli")


# -- recording ----------------------------------------------------------------------------------------------------------


def _note(ctx: Any, connected: Connection | None) -> None:
    if ctx.parent is None:
        _parsed.clear()
    _parsed.append(ctx)
    if connected is not None and not connected.binding.overrides:
        _record(connected)


def _begun(connected: Connection) -> None:
    if _parsed and not connected.binding.overrides:
        with quiet("click"):
            _record(connected)


def _record(connected: Connection) -> None:
    root = _parsed[0]
    found: dict[str, Any] = {}
    if isinstance(root.command, _click.Group):
        for command in _commands(root.command, root):
            found[command.name] = False
            for parameter in command.params:
                if parameter.expose_value and not isinstance(command, _click.Group):
                    found[f"{command.name}/{parameter.name}"] = _plain(parameter.get_default(root))
    for ctx in _parsed:
        if not isinstance(ctx.command, _click.Group):
            found[ctx.command.name] = True
        found.update({_name(ctx, key): _plain(value) for key, value in ctx.params.items()})
    if not isinstance(root.command, _click.Group):
        found.pop(root.command.name, None)
    wanted = {key: value for key, value in found.items() if is_wanted(connected.wanted, key.rpartition("/")[2])}
    connected.binding.write(SECTION, wanted)


def _commands(group: Any, ctx: Any) -> Iterator[Any]:
    """The group, its commands, and those of groups in it."""
    yield group
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, _click.Group):
            yield from _commands(command, ctx)
        elif command is not None:
            yield command


def _name(ctx: Any, parameter: str) -> str:
    return f"{ctx.command.name}/{parameter}" if isinstance(ctx.find_root().command, _click.Group) else parameter


def _plain(value: Any) -> Any:
    """What can be stored; click makes the rest (a Path, a date) again from its text."""
    if type(value).__name__ == "Sentinel":  # click 8.3: no default
        return None
    return (
        value if storable(value) else os.fspath(value) if isinstance(value, os.PathLike) else getattr(value, "name", str(value))
    )


# -- overriding ---------------------------------------------------------------------------------------------------------


def _stored(connected: Connection | None, ctx: Any) -> dict[str, Any]:
    """What the task says of the command line; empty if that is nothing."""
    if connected is None or not connected.binding.overrides or not connected.wanted:
        return {}
    rows = connected.binding.read(SECTION)
    names = {_name(ctx, parameter.name) for parameter in ctx.command.params} | {ctx.command.name}
    if isinstance(ctx.command, _click.Group):
        names |= {command.name for command in _commands(ctx.command, ctx)}
    return {name: row for name, row in rows.items() if name in names and is_wanted(connected.wanted, name.rpartition("/")[2])}


def _chosen(group: Any, stored: dict[str, Any]) -> list[str]:
    """The words that name the stored command below a group."""
    with _click.Context(group, resilient_parsing=True) as ctx:
        found = []
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            below = list(_commands(command, ctx)) if isinstance(command, _click.Group) else [command]
            if any(_is_true(stored.get(each.name)) for each in below if each is not None):
                found.append(name)
    return found if group.chain else found[:1]


def _is_true(row: Any) -> bool:
    return row is not None and str(row["text"]).strip().lower() in ("true", "1", "yes")


def _value(row: Any, parameter: Any) -> Any:
    value = json.loads(row["value"])
    if value == "" and not isinstance(parameter.default, str):
        return None  # a None that went through `get_parameters` and back
    return tuple(value) if isinstance(value, list) else value
