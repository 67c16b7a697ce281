"""Command lines of the processes that minipipe starts: workers, step hosts, spawned children.

They load this very package by its path, with ``-P``: neither a ``minipipe`` folder in the current directory nor another
installation can get in between.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BRIDGE_VARIABLE = "MINIPIPE_BRIDGE"  # a folder for the end of the import path, see `minipipe.engine.environments`
PACKAGE = Path(__file__).resolve().parents[1]
_LOAD = (
    "import sys, os, importlib.util as u; "
    "sys.path += filter(None, [os.environ.get({bridge!r})]); "
    "s = u.spec_from_file_location('minipipe', {init!r}, submodule_search_locations=[{folder!r}]); "
    "m = sys.modules['minipipe'] = u.module_from_spec(s); s.loader.exec_module(m); "
    "from {module} import {function} as main; main({arguments})"
)


def command(module: str, function: str, *arguments: object) -> list[str]:
    """Arguments for exec: call ``module.function(*arguments)`` in a fresh interpreter."""
    code = _LOAD.format(
        init=str(PACKAGE / "__init__.py"),
        folder=str(PACKAGE),
        bridge=BRIDGE_VARIABLE,
        module=module,
        function=function,
        arguments=", ".join(map(repr, arguments)),
    )
    return [sys.executable, "-P", "-c", code]


def start_worker(
    home: Path, *, session: str, slots: int, quiet: bool = True, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start an embedded worker: it serves one command's tasks and leaves when this process ends.

    Args:
        home: the store.
        session: serve only tasks of this session.
        slots: step slots.
        quiet: drop what it says of starts and ends; errors always show.
        environment: default this process's.
    """
    return subprocess.Popen(
        command("minipipe.engine.worker", "embedded", str(home), session, slots, os.getpid()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quiet else None,
        env={**(environment or os.environ), "MINIPIPE_HOME": str(home)},
        process_group=0,  # a Ctrl-C on the terminal goes to the command, which decides
    )


def popen_host(descriptor: int, environment: dict[str, str], python: str = sys.executable) -> subprocess.Popen[bytes]:
    """Exec a step host that talks over `descriptor`. Call it from the main thread: the death signal follows the thread."""
    arguments: list[Any] = command("minipipe.engine.host", "main", descriptor, os.getpid())
    return subprocess.Popen(
        [python, *arguments[1:]],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(descriptor,),
        start_new_session=True,
        env=environment,
    )
