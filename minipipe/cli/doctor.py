"""``minipipe doctor``: is the store sound, and what around it may be not."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import stat
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from minipipe import __version__, errors, settings
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.cli.status import describe
from minipipe.store import blobs, checks, presence, schema
from minipipe.store.database import mapped
from minipipe.store.home import DATABASE, Store, file_system

OK, WARN, BAD = "ok", "warn", "bad"
_WAL_FIXED = (3, 51, 3)
_SCARCE_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    state: str
    name: str
    text: str


@click.command()
@click.option("--deep", is_flag=True, help="Read every stored byte again and compare its digest.")
@click.option("--settings", "show_settings", is_flag=True, help="Each setting with its value and where it comes from.")
@click.option("--path", "show_path", is_flag=True, help="The database's path alone.")
@click.option("--bundle", metavar="F", help="Write what was found, without any data, to a zip file for a bug report.")
@output.pass_output
def doctor(out: Output, deep: bool, show_settings: bool, show_path: bool, bundle: str | None) -> int:
    """Check the store and its surroundings.

    Changes nothing. Exit code 4 if something is bad.

    \b
    Examples:
      minipipe doctor --deep
      sqlite-utils "$(minipipe doctor --path)" "select name, status from task limit 5"
    """
    if show_settings:
        _print_settings(out)
        return 0
    home = settings.store_home(out.home)
    if not (home / DATABASE).exists() and bundle is None:
        out.store_or_none()
        if out.format == "json":
            output.print_json({"path": None, "checks": []})
        return 0
    if show_path:
        output.write(str(home / DATABASE))
        return 0
    found = list(_examine(out, home, deep))
    if bundle is not None:
        _write_bundle(Path(bundle), found)
        output.write(output.escape(bundle))
    else:
        _print(out, home, found)
    return errors.StoreError.exit_code if any(one.state == BAD for one in found) else 0


def _print(out: Output, home: Path, found: list[Finding]) -> None:
    documents = [{"state": one.state, "name": one.name, "text": one.text} for one in found]
    if out.format == "json":
        output.print_json({"path": str(home / DATABASE), "checks": documents})
    elif out.format != "table":
        output.print_table([(one.state, one.name, one.text) for one in found], ("STATE", "NAME", "TEXT"), out.format, documents)
    else:
        for one in found:
            if not out.quiet or one.state == BAD:
                output.write(f"{output.style(f'{one.state:<5}', one.state)} {one.name:<9} {output.escape(one.text)}")


def _print_settings(out: Output) -> None:
    home = settings.store_home(out.home)
    origin = "--home" if out.home else "MINIPIPE_HOME" if os.environ.get("MINIPIPE_HOME") else "search from the current folder"
    rows = [("home", str(home), origin), *((one.name, _shown(one.value), one.origin) for one in settings.explain_settings())]
    documents = [{"setting": name, "value": value, "origin": where} for name, value, where in rows]
    output.print_table(rows, ("SETTING", "VALUE", "ORIGIN"), out.format, documents)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{prefix}={target or 'nothing'}" for prefix, target in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- checks -------------------------------------------------------------------------------------------------------------


def _examine(out: Output, home: Path, deep: bool) -> Iterator[Finding]:
    yield Finding(OK, "minipipe", f"{__version__}, python {platform.python_version()}, {platform.system()}")
    yield _sqlite()
    if not (home / DATABASE).exists():
        return
    try:
        store = out.open_store()
        yield _store(store)
        yield from _disk(store)
        yield from _modes(store)
        yield from _database(store, deep)
        yield from _workers(store)
        if deep:
            yield from _bytes(store)
    except errors.MinipipeError as error:
        yield Finding(BAD, "store", "; ".join(part for part in (error.message, error.cause, error.hint) if part))


def _sqlite() -> Finding:
    if sqlite3.sqlite_version_info >= _WAL_FIXED:
        return Finding(OK, "sqlite", sqlite3.sqlite_version)
    fixed = ".".join(map(str, _WAL_FIXED))
    return Finding(
        WARN, "sqlite", f"{sqlite3.sqlite_version} has a rare WAL fault (fixed in {fixed}); minipipe avoids its trigger"
    )


def _store(store: Store) -> Finding:
    _, version = schema.version_of(store.database.connection())
    mode = stat.S_IMODE(store.path.stat().st_mode)
    kind = file_system(store.path) or "unknown file system"
    free = output.size(shutil.disk_usage(store.path).free)
    return Finding(OK, "store", f"{output.shown_path(store.path)}, schema {version}, mode {mode:04o}, {kind}, {free} free")


def _disk(store: Store) -> Iterator[Finding]:
    free = shutil.disk_usage(store.path).free
    if free < _SCARCE_BYTES:
        yield Finding(WARN, "disk", f"only {output.size(free)} free")


def _modes(store: Store) -> Iterator[Finding]:
    """Folders 0700, database 0600: nobody else may read what steps printed or stored."""
    paths = [store.path, store.database.path, *(store.folder(name) for name in ("blobs", "tmp", "logs", "workers"))]
    open_ones = []
    for path in paths:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            yield Finding(BAD, "layout", f"{path} is missing")
            continue
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            open_ones.append(f"{path.name} {mode:04o}")
    if open_ones:
        hint = f"chmod -R go-rwx {output.shown_path(store.path)}"
        yield Finding(WARN, "modes", f"others may look into {', '.join(open_ones)}; {hint}")


def _database(store: Store, deep: bool) -> Iterator[Finding]:
    found = checks.check_database(store, deep)
    for text in found:
        yield Finding(BAD, "database", text)
    if not found:
        yield Finding(OK, "database", "integrity and references checked" if deep else "structure checked")


def _workers(store: Store) -> Iterator[Finding]:
    living = presence.living(store)
    agents = [f"{describe(one)} (pid {one.pid})" for one in living if one.kind == presence.AGENT]
    yield Finding(OK, "workers", "; ".join(agents) or "none running")
    orphans = presence.dead_holders(store, living)
    if orphans:
        what = "task belongs" if orphans == 1 else "tasks belong"
        yield Finding(WARN, "tasks", f"{orphans} {what} to dead workers; the next worker gives them back: minipipe worker")


def _bytes(store: Store) -> Iterator[Finding]:
    number = total = bad = 0
    for digest, inline in checks.blobs(store):
        number += 1
        try:
            total += len(blobs.read(store, digest, inline))
        except errors.ArtifactError as error:
            bad += 1
            users = ", ".join(checks.users_of_blob(store, digest)) or "nothing"
            yield Finding(BAD, "blob", f"{digest[:8]}: {error.cause.partition(': ')[2]}; used by {users}")
    if not bad:
        yield Finding(OK, "blobs", f"{number} read, {output.size(total)}, all digests right")


def _write_bundle(path: Path, found: list[Finding]) -> None:
    """Versions, findings and settings: no names, values or logs of anybody's work."""
    if path.exists():
        raise errors.UsageError(f"{path} exists", "it was not overwritten", "name another file")
    with mapped(path), zipfile.ZipFile(path, "x") as archive:
        archive.writestr("doctor.txt", "".join(f"{one.state} {one.name} {one.text}\n" for one in found))
        archive.writestr("settings.json", json.dumps({one.name: str(one.value) for one in settings.explain_settings()}, indent=2))
        archive.writestr("python.txt", f"{sys.version}\n{platform.platform()}\nsqlite {sqlite3.sqlite_version}\n")
