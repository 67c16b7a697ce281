"""The task that command lines and frameworks of this process are connected to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from minipipe import context
from minipipe.sdk import session
from minipipe.sdk.connect import Binding
from minipipe.store import edits, records

Wanted = bool | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Connection:
    """A task that takes what libraries read and make.

    Attributes:
        binding: the task.
        wanted: which arguments of command lines, as `Task.init` was told (``auto_connect_arg_parser``).
        frameworks: which frameworks, as `Task.init` was told (``auto_connect_frameworks``).
        pid: the process whose command lines count.
    """

    binding: Binding
    wanted: Wanted = True
    frameworks: Wanted = True
    pid: int = 0


_connection: Connection | None = None
_early: dict[str, Connection | None] = {}
_listeners: list[Callable[[Connection], None]] = []
_enders: list[Callable[[], None]] = []


def begin(binding: Binding, wanted: Wanted = True, frameworks: Wanted = True) -> None:
    """Connect what was read last and what will be read from now on.

    Args:
        binding: the main task.
        wanted, frameworks: True for all, False for none; or by name, ``"*"`` for those that are not named; empty is none.
    """
    global _connection
    _connection = Connection(binding, wanted, frameworks, os.getpid())
    for listener in _listeners:
        listener(_connection)


def end() -> None:
    """The main task has ended: what is read later is not its."""
    global _connection
    _connection = None
    for ender in _enders:
        ender()


def listen(begun: Callable[[Connection], None], ended: Callable[[], None] = lambda: None) -> None:
    """Have `begun` called when a task is connected, also the one that is now, and `ended` when it is no more."""
    _listeners.append(begun)
    _enders.append(ended)


def current() -> Connection | None:
    """What takes the command lines of this process, None if nothing does.

    Where a worker runs a script that has not said `Task.init` yet, its task knows that it will, and with what.
    """
    if _connection is not None:
        return _connection if _connection.pid == os.getpid() else None
    running = context.running()
    return _before_init(running) if running is not None and running.worker_mode else None


def _before_init(running: context.Running) -> Connection | None:
    if running.uid not in _early:
        found = None
        here = session.current()
        if here is not None:
            recorded = records.settings_of(here.store, here.row_id)
            if recorded.get("init") or recorded.get("create"):
                kind = edits.facts(here.store, here.row_id).get("kind")
                frameworks = recorded.get("auto_connect_frameworks", True)
                if kind == "script":
                    found = Connection(Binding(here, True, True), recorded.get("arguments", True), frameworks, os.getpid())
        _early[running.uid] = found
    early = _early[running.uid]
    return early if early is not None and early.pid == os.getpid() else None


def capturing(framework: str) -> session.Current | None:
    """The task that takes what a framework makes in this process; None if there is none, or it was told not to.

    Args:
        framework: as the switch ``auto_connect_frameworks`` calls it.
    """
    here = session.current()
    return here if here is not None and is_wanted(_frameworks(here), framework) else None


def patterns(framework: str) -> list[str]:
    """File names that the switch gives for a framework (``{"pytorch": "*.pt"}``); all if it gives none."""
    here = session.current()
    wanted = _frameworks(here) if here is not None else True
    given = wanted.get(framework, True) if isinstance(wanted, Mapping) else True
    return [given] if isinstance(given, str) else [str(one) for one in given] if isinstance(given, (list, tuple)) else ["*"]


def _frameworks(here: session.Current) -> Wanted:
    if _connection is not None and _connection.binding.current.uid == here.uid:
        return _connection.frameworks
    if here.uid not in _switches:
        found = records.settings_of(here.store, here.row_id).get("auto_connect_frameworks", True)
        _switches[here.uid] = True if found is None else found
    return _switches[here.uid]


_switches: dict[str, Wanted] = {}


def is_wanted(wanted: Wanted, name: str) -> bool:
    """True if an argument or a framework is to be connected (ClearML's rule for the dict)."""
    if not isinstance(wanted, Mapping):
        return bool(wanted)
    return bool(wanted) and bool(wanted.get(name, wanted.get("*", True)))
