"""What `doctor` looks at, one finding per line: ``ok``, ``warn`` (works, and could be better) or ``bad`` (something is lost or unsafe)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minipipe import __version__, clearml, errors, settings
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.cli.status import describe
from minipipe.store import checks, collect, home, presence, schema
from minipipe.store.database import LOG_BYTES
from minipipe.store.home import DATABASE, Store, file_system

OK, WARN, BAD = "ok", "warn", "bad"
_WAL_FIXED = (3, 51, 3)
_SCARCE_BYTES = 100 << 20
_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    state: str
    name: str
    text: str


def surroundings() -> Iterator[Finding]:
    """What holds with or without a store."""
    yield Finding(OK, "minipipe", f"{__version__}, python {platform.python_version()}, {platform.system()}")
    if sqlite3.sqlite_version_info >= _WAL_FIXED:
        yield Finding(OK, "sqlite", sqlite3.sqlite_version)
    else:
        fixed = ".".join(map(str, _WAL_FIXED))
        text = f"{sqlite3.sqlite_version} has a rare WAL fault (fixed in {fixed}); minipipe avoids its trigger"
        yield Finding(WARN, "sqlite", text)
    yield Finding(OK, "clearml", _clearml())


def _clearml() -> str:
    """Which package ``import clearml`` means."""
    folder = clearml.hidden()
    try:
        installed = f"clearml {importlib.metadata.version('clearml')}" if folder is not None else ""
    except importlib.metadata.PackageNotFoundError:
        installed = "an installed clearml" if folder is not None else ""
    if clearml.is_installed():
        return "import clearml means minipipe in this process"
    if not settings.load_settings().clearml_alias:
        return f"clearml_alias is off: scripts get {installed or 'none: no clearml is installed'}"
    under = "minipipe run: import clearml means minipipe"
    return f"{under}; python SCRIPT: {installed}" if installed else f"{under}; python SCRIPT: there is none"


def store_of(out: Output, path: Path, deep: bool, damages: list[checks.Damage]) -> Iterator[Finding]:
    """Everything about the store at `path`, as far as it can be opened.

    Args:
        out: how to open it.
        path: its folder.
        deep: read every stored byte.
        damages: gets the blobs that are not what was stored.
    """
    if path.exists() and not path.is_dir():
        yield Finding(BAD, "store", f"{path} is not a folder; set MINIPIPE_HOME to one")
        return
    if not (path / DATABASE).exists() and not os.path.lexists(path / DATABASE):
        return
    try:
        store = out.open_store()
        yield _place(store)
        yield from _room(store)
        yield from _layout(store)
        yield from _database(store, deep)
        yield from _blobs(store, deep, damages)
        yield from _workers(store)
        yield from _litter(store)
    except errors.MinipipeError as error:
        yield Finding(BAD, "store", "; ".join(part for part in (error.message, error.cause, error.hint) if part))
    except OSError as error:
        yield Finding(BAD, "store", f"{error.filename or path}: {error.strerror or error}")


def _place(store: Store) -> Finding:
    _, version = store.database.read(schema.version_of)
    mode = stat.S_IMODE(store.path.stat().st_mode)
    kind = file_system(store.path) or "unknown file system"
    free = output.size(shutil.disk_usage(store.path).free)
    return Finding(OK, "store", f"{output.shown_path(store.path)}, schema {version}, mode {mode:04o}, {kind}, {free} free")


def _room(store: Store) -> Iterator[Finding]:
    free = shutil.disk_usage(store.path).free
    if free < _SCARCE_BYTES:
        yield Finding(WARN, "disk", f"only {output.size(free)} free; minipipe gc, minipipe du")
    if not home.has_ballast(store.path):
        yield Finding(WARN, "reserve", "the 4 MB that gc needs on a full disk are not there; minipipe doctor --repair")
    log = f"{store.database.path}-wal"
    size = os.stat(log).st_size if os.path.exists(log) else 0
    if size > 8 * LOG_BYTES:
        yield Finding(WARN, "log", f"the write-ahead log has {output.size(size)}; minipipe gc writes it back")


def _layout(store: Store) -> Iterator[Finding]:
    for name in checks.missing_folders(store):
        yield Finding(BAD, "layout", f"folder {name} is missing; minipipe doctor --repair makes it")
    found = list(checks.check_modes(store))
    for grave in (True, False):
        some = [one for one in found if one.grave == grave]
        if not some:
            continue
        shown = ", ".join(f"{one.path if str(one.path) != '.' else 'the store'} {one.what}" for one in some[:3])
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        hint = (
            "minipipe doctor --repair"
            if all(one.mode for one in some)
            else "somebody else may have changed it: do not load from it"
        )
        yield Finding(BAD if grave else WARN, "modes", f"{shown}{more}; {hint}")


def _database(store: Store, deep: bool) -> Iterator[Finding]:
    found = checks.check_database(store, deep)
    for text in found:
        yield Finding(BAD, "database", f"{text}; restore a backup, or export what can be read")
    counts = checks.check_counts(store) if not found else []
    for text in counts:
        yield Finding(BAD, "database", f"{text}; minipipe doctor --repair counts anew")
    if not found and not counts:
        yield Finding(OK, "database", "integrity and references checked" if deep else "structure checked")


def _blobs(store: Store, deep: bool, damages: list[checks.Damage]) -> Iterator[Finding]:
    damages += checks.check_files(store)
    number = total = 0
    if deep:
        for one in checks.check_bytes(store, {damage.digest for damage in damages}):
            if isinstance(one, checks.Damage):
                damages.append(one)
            else:
                number, total = number + 1, total + one
    for damage in damages[:_MOST_LINES]:
        users = ", ".join(damage.users) or "nothing"
        yield Finding(BAD, "blob", f"{damage.digest[:8]}: {damage.what}; used by {users}{_cure(damage)}")
    if len(damages) > _MOST_LINES:
        yield Finding(BAD, "blob", f"and {len(damages) - _MOST_LINES} more")
    if deep and not damages:
        yield Finding(OK, "blobs", f"{number} read, {output.size(total)}, all digests right")
    elif not damages:
        yield Finding(OK, "blobs", "all files there, sizes right; --deep reads them")


def _cure(damage: checks.Damage) -> str:
    step = next((user for user in damage.users if user.count("/") >= 2), None)
    if step is None:
        return ""
    run, name = step.split("/")[:2]
    return f"; to make it again: minipipe resume {run} --from {name}"


def _workers(store: Store) -> Iterator[Finding]:
    living = presence.living(store)
    agents = [f"{describe(one)} (pid {one.pid})" for one in living if one.kind == presence.AGENT]
    yield Finding(OK, "workers", "; ".join(agents) or "none running")
    orphans = presence.dead_holders(store, living)
    if orphans:
        what = "task belongs" if orphans == 1 else "tasks belong"
        yield Finding(WARN, "tasks", f"{orphans} {what} to dead workers; the next worker gives them back: minipipe worker")
    for name in checks.strange_locks(store):
        yield Finding(WARN, "locks", f"workers/{name} is held by a process that no row knows: find it with fuser")


def _litter(store: Store) -> Iterator[Finding]:
    found = collect.litter(store)
    shown = [f"{number} {kind}" for kind, number in found.number.items() if number]
    if shown:
        yield Finding(WARN, "litter", f"{', '.join(shown)}, {output.size(found.total)}; minipipe gc removes them")
