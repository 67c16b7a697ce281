"""Settings: flag > ``MINIPIPE_*`` > ``[tool.minipipe]`` in the nearest pyproject.toml upward > default.

The store directory is the one setting that a project file cannot move: a checkout must not decide where its reader's
data goes.
"""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from minipipe.errors import BadSetting
from minipipe.shown import tell

STORE_DIRECTORY = ".minipipe"


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set, with its default.

    Attributes:
        jobs: step slots of a worker; 0 means one per CPU that this process may use.
        queue: queue of a step that names none.
        cache: "on" as each component says, "off" never read, "refresh" run everything and serve as the newest.
        refresh: names of steps that are run although an equal one is stored.
        isolation: "fork" from the warm step host, or "spawn" a fresh interpreter per attempt.
        durability: "full" survives a power cut, "fast" everything but that.
        grace_s: seconds between SIGTERM and SIGKILL.
        drain_s: seconds a worker that was told to leave lets its steps run on.
        max_crashes: crashes (killed from outside) that end a task as failed; retries are counted apart.
        on_code_change: "note" or "fail", when project code changed between submission and start.
        clearml_alias: scripts of ``minipipe run`` that import clearml get minipipe's.
        url_map: (URL prefix, absolute path of the file or folder that answers for it) pairs; asked before any server.
            An empty target: nothing may be read from there.
        environments: "auto" builds an environment for a step whose ``packages`` the worker's own Python does not have, "always" for
            every step that names packages, "off" never.
        containers: "docker" or "podman" run steps that name an image in it, "off" never.
        installer: what builds environments: "uv", "pip", or "auto": uv where it is installed.
        log_limit_mb: megabytes (10^6 bytes) of an attempt's log; of a longer one the middle goes. 0 is no limit.
        keep_runs, older_than: which runs ``gc`` removes; -1 and "": none.
        color, progress, traceback, utc: how things are shown.
    """

    jobs: int = 0
    queue: str = "default"
    cache: Literal["on", "off", "refresh"] = "on"
    refresh: str = ""
    isolation: Literal["fork", "spawn"] = "fork"
    durability: Literal["full", "fast"] = "full"
    grace_s: float = 5.0
    drain_s: float = 10.0
    max_crashes: int = 3
    on_code_change: Literal["note", "fail"] = "note"
    clearml_alias: bool = True
    url_map: tuple[tuple[str, str], ...] = ()
    environments: Literal["auto", "always", "off"] = "auto"
    containers: Literal["off", "docker", "podman"] = "off"
    installer: Literal["auto", "uv", "pip"] = "auto"
    log_limit_mb: float = 50.0
    keep_runs: int = -1
    older_than: str = ""
    color: Literal["auto", "always", "never"] = "auto"
    progress: Literal["auto", "plain", "off"] = "auto"
    traceback: Literal["user", "full"] = "user"
    utc: bool = False

    @property
    def slots(self) -> int:
        """Step slots: `jobs`, or the CPUs that this process may use."""
        if self.jobs:
            return self.jobs
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else (os.cpu_count() or 1)


CHOICES: dict[str, tuple[str, ...]] = {
    "cache": ("on", "off", "refresh"),
    "isolation": ("fork", "spawn"),
    "durability": ("full", "fast"),
    "on_code_change": ("note", "fail"),
    "environments": ("auto", "always", "off"),
    "containers": ("off", "docker", "podman"),
    "installer": ("auto", "uv", "pip"),
    "color": ("auto", "always", "never"),
    "progress": ("auto", "plain", "off"),
    "traceback": ("user", "full"),
}


@dataclass(frozen=True, slots=True)
class Origin:
    """One setting with where its value came from, for ``doctor --settings``."""

    name: str
    value: Any
    origin: str


def load_settings(**flags: Any) -> Settings:
    """The settings that hold here and now.

    Args:
        flags: values given on a command line or in a call; None means not given.

    Raises:
        BadSetting: a value has the wrong type or is none of the choices; names the setting and where it stands.
    """
    return Settings(**{origin.name: origin.value for origin in explain_settings(**flags)})


def explain_settings(**flags: Any) -> list[Origin]:
    """Each setting with its value and the place it comes from."""
    path, table = _project_table(Path.cwd())
    found = []
    for field in fields(Settings):
        name, variable = field.name, "MINIPIPE_" + field.name.upper()
        if flags.get(name) is not None:
            found.append(Origin(name, _read(name, flags[name], "flag"), "flag"))
        elif os.environ.get(variable):
            found.append(Origin(name, _read(name, os.environ[variable], variable), variable))
        elif name in table:
            found.append(Origin(name, _read(name, table[name], f"{path} [tool.minipipe]"), str(path)))
        else:
            found.append(Origin(name, field.default, "default"))
    return found


def _read(name: str, value: Any, origin: str) -> Any:
    if name == "url_map":
        return _read_map(value, origin)
    default = Settings.__dataclass_fields__[name].default
    try:
        if isinstance(default, bool):
            return value if isinstance(value, bool) else {"1": True, "true": True, "0": False, "false": False}[str(value).lower()]
        if isinstance(default, (int, float)):
            number = type(default)(value)
            if not number >= 0:  # nor not a number
                raise ValueError
            return number
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError
        return str(value)
    except (ValueError, KeyError, TypeError):
        wanted = " or ".join(CHOICES[name]) if name in CHOICES else type(default).__name__
        raise BadSetting(
            f"setting {name!r}: cannot use {value!r}", f"from {origin}", f"give it as {wanted}", setting=name
        ) from None


def _read_map(value: Any, origin: str) -> tuple[tuple[str, str], ...]:
    """A table, (FROM, TO) pairs, JSON text or the path of a JSON file; relative targets are meant from where they stand."""
    folder = Path(origin.removesuffix(" [tool.minipipe]")).parent if isinstance(value, dict) else Path.cwd()
    try:
        if isinstance(value, str):
            text = value.strip()
            if not text.startswith("{"):
                path = Path(text).expanduser().absolute()
                folder, text = path.parent, path.read_text(encoding="utf-8")
            value = json.loads(text)
        return tuple(
            (str(prefix), "" if target is None else str(folder / os.path.expanduser(target)))
            for prefix, target in dict(value).items()
        )
    except (OSError, ValueError, TypeError) as error:
        raise BadSetting(
            f"setting 'url_map': {origin} cannot be read",
            f"{type(error).__name__}: {error}",
            'give it as {"https://host/data": "/folder"}, or as the path of a JSON file that holds this',
            setting="url_map",
        ) from None


def _project_table(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    for directory in (folder, *folder.parents):
        path = directory / "pyproject.toml"
        try:
            text = path.read_bytes()
        except OSError:
            continue
        # Parsing costs more than the whole of `--version`, so it happens only where there is something to read.
        return path, _parse(path, text) if b"[tool.minipipe" in text else {}
    return None, {}


@cache
def _parse(path: Path, text: bytes) -> dict[str, Any]:
    import tomllib

    try:
        table: dict[str, Any] = tomllib.loads(text.decode()).get("tool", {}).get("minipipe", {})
    except (ValueError, AttributeError) as error:
        raise BadSetting(f"{path} cannot be read", str(error), "fix the file or remove [tool.minipipe]") from None
    known = [field.name for field in fields(Settings)]
    for key in table:
        if key not in known:
            near = importlib.import_module("difflib").get_close_matches(key, known, 1)
            tell(f"warning: {path}: unknown setting {key!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return table


def store_home(flag: str | os.PathLike[str] | None = None) -> Path:
    """The directory of the store: flag, ``MINIPIPE_HOME``, the nearest ``.minipipe/`` upward, else ``./.minipipe``."""
    given = flag or os.environ.get("MINIPIPE_HOME")
    if given:
        return Path(given).expanduser().absolute()
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / STORE_DIRECTORY / "minipipe.db").exists():
            return directory / STORE_DIRECTORY
    return here / STORE_DIRECTORY
