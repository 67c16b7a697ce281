"""Applications of Hydra: overrides in section ``Hydra``, the whole configuration as the object ``OmegaConf`` (ClearML's names).

Where a worker runs the task, the stored overrides replace those of the command line. ``Hydra/_allow_omegaconf_edit_`` True takes the
stored configuration as it is instead. With ``--multirun`` each job that says `Task.init` has a task of its own.
"""

from __future__ import annotations

import functools
import io
import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from minipipe.sdk import command_line, maintask
from minipipe.sdk.auto import connection, quiet, wrap
from minipipe.sdk.auto.connection import Connection, is_wanted
from minipipe.store import edits

SECTION, CONFIGURATION, EDITED = "Hydra", "OmegaConf", "_allow_omegaconf_edit_"

_omegaconf: Any = None
_overrides: dict[str, str] = {}
_text: list[str] = []  # the configuration of the running job
_hydra: list[Any] = []
_listening = False


def patch(module: ModuleType) -> None:
    """Install the hooks; `module` is ``hydra.core.utils`` or ``hydra._internal.hydra``, whichever is imported first."""
    global _listening, _omegaconf
    _omegaconf = sys.modules["omegaconf"].OmegaConf
    if hasattr(module, "Hydra"):
        for name in ("run", "multirun"):
            wrap(module.Hydra, name, _run)
    for holder in (module, *map(sys.modules.get, ("hydra.core.utils", "hydra._internal.core_plugins.basic_launcher"))):
        if hasattr(holder, "run_job"):
            wrap(holder, "run_job", _run_job)
    for holder in map(sys.modules.get, ("hydra._internal.utils", "hydra.main")):
        if hasattr(holder, "get_args_parser"):
            wrap(holder, "get_args_parser", lambda make: lambda: command_line.ignore(make()))
    if not _listening:
        _listening = True
        connection.listen(_begun, _ended)


def _taking() -> Connection | None:
    found = connection.current()
    return found if found is not None and is_wanted(found.frameworks, "hydra") else None


def _run(original: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, config_name: Any, task_function: Any, overrides: Any, *rest: Any, **more: Any) -> Any:
        _hydra[:] = [self]
        connected = _taking()
        if connected is not None and connected.binding.overrides:
            with quiet("hydra"):
                overrides = _stored(connected, overrides)
        return original(self, config_name, task_function, overrides, *rest, **more)

    return run


def _run_job(original: Callable[..., Any]) -> Callable[..., Any]:
    def run_job(*args: Any, **kwargs: Any) -> Any:
        if args or "config" not in kwargs or "task_function" not in kwargs:
            return original(*args, **kwargs)
        with quiet("hydra"):
            _note(kwargs["config"])
        kwargs["task_function"] = _with_configuration(kwargs["task_function"])
        before = maintask.main_task()
        result = original(**kwargs)
        begun = maintask.main_task()
        if before is None and begun is not None and begun.names is not None and result.status.name == "COMPLETED":
            maintask.close("completed")
            maintask.keep_apart()
        return result

    return run_job


def _with_configuration(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def job(config: Any, *args: Any, **kwargs: Any) -> Any:
        with quiet("hydra"):
            config = _edited() or config
            _text[:] = [_omegaconf.to_yaml(config, resolve=False)]
            connected = _taking()
            if connected is not None:
                _begun(connected)
        return function(config, *args, **kwargs)

    return job


# -- recording ----------------------------------------------------------------------------------------------------------


def _note(config: Any) -> None:
    _overrides.clear()
    for override in config.hydra.overrides.task:
        name, _, value = str(override).partition("=")
        _overrides[name if _is_group(name) else name.lstrip("+")] = value


def _is_group(name: str) -> bool:
    place = name.lstrip("+~").partition("@")[0]
    return bool(_hydra and _hydra[0].config_loader.repository.group_exists(place))


def _begun(connected: Connection) -> None:
    if connected.binding.overrides or not _text or not is_wanted(connected.frameworks, "hydra"):
        return
    with quiet("hydra"):
        connected.binding.write(SECTION, {**_overrides, EDITED: False})
        task = connected.binding.current
        words = f"The whole configuration; read-only unless {SECTION}/{EDITED} is True"
        edits.set_configuration(task.store, task.row_id, CONFIGURATION, _text[0], "OmegaConf YAML", words)


def _ended() -> None:
    _overrides.clear()
    _text.clear()


# -- overriding ---------------------------------------------------------------------------------------------------------


def _stored(connected: Connection, given: list[str]) -> list[str]:
    """The stored overrides, after those of Hydra itself; what was given if none were ever stored."""
    rows = connected.binding.read(SECTION)
    if EDITED not in rows:
        return given
    found = [override for override in given if override.lstrip("+~").startswith("hydra")]
    for name, row in rows.items():
        if name == EDITED:
            continue
        word = name if row["text"] == "" else f"{name}={row['text']}"
        found.append(word if name.startswith("~") or _is_group(name) else "++" + word.lstrip("+"))
    return found


def _edited() -> Any:
    """The stored configuration, if it is to replace the composed one; None if not."""
    connected = _taking()
    if connected is None or not connected.binding.overrides:
        return None
    row = connected.binding.read(SECTION).get(EDITED)
    task = connected.binding.current
    text = edits.configurations(task.store, task.row_id).get(CONFIGURATION)
    if row is None or text is None or json.loads(row["value"]) is not True:
        return None
    return _omegaconf.load(io.StringIO(text))
