"""``minipipe doctor``: is the store sound, and what around it may be not."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
import zipfile
from pathlib import Path

import click

from minipipe import errors, settings
from minipipe.cli import output
from minipipe.cli.examine import BAD, OK, Finding, store_of, surroundings
from minipipe.cli.meter import Meter
from minipipe.cli.output import Output
from minipipe.engine.worker import sweep
from minipipe.store import checks, repair, workers
from minipipe.store.database import mapped
from minipipe.store.home import DATABASE


@click.command()
@click.option("--deep", is_flag=True, help="Read every stored byte again and compare its digest.")
@click.option("--repair", "mend", is_flag=True, help="Make right what can be made right from what is there.")
@click.option("--backup", metavar="DIR", help="Copy the store, as it is now, into a new folder; works beside working workers.")
@click.option("--settings", "show_settings", is_flag=True, help="Each setting with its value and where it comes from.")
@click.option("--path", "show_path", is_flag=True, help="The database's path alone.")
@click.option("--bundle", metavar="F", help="Write what was found, without any data, to a zip file for a bug report.")
@output.pass_output
def doctor(
    out: Output, deep: bool, mend: bool, backup: str | None, show_settings: bool, show_path: bool, bundle: str | None
) -> int:
    """Check the store and its surroundings.

    Changes nothing, unless --repair says so: that sets modes, makes missing folders, counts anew, gives tasks of dead workers back and
    forgets cache entries that lead to damage. Exit code 4 if something is bad.

    \b
    Examples:
      minipipe doctor --deep
      minipipe doctor --backup ../minipipe-monday
      sqlite-utils "$(minipipe doctor --path)" "select name, status from task limit 5"
    """
    if show_settings:
        _print_settings(out)
        return 0
    home = settings.store_home(out.home)
    missing = home.is_dir() and not os.path.lexists(home / DATABASE)
    if bundle is None and (missing or not os.path.lexists(home)):
        out.store_or_none()
        if out.format == "json":
            output.print_json({"path": None, "checks": []})
        return 0
    if show_path:
        output.write(str(home / DATABASE))
        return 0
    if backup is not None:
        _back_up(out, Path(backup))
        return 0
    damages: list[checks.Damage] = []
    found = [*surroundings(), *store_of(out, home, deep, damages)]
    if mend:
        found = _mend(out, damages, [*surroundings()], home, deep)
    if bundle is not None:
        _write_bundle(Path(bundle), found, home)
        if out.json:
            output.print_json({"path": bundle}, line=out.format == "jsonl")
        else:
            output.write(output.escape(bundle))
    else:
        _print(out, home, found)
    return errors.StoreError.exit_code if any(one.state == BAD for one in found) else 0


def _mend(out: Output, damages: list[checks.Damage], found: list[Finding], home: Path, deep: bool) -> list[Finding]:
    """Repair, then look again: what is still bad is what could not be repaired."""
    try:
        store = out.open_store()
        given_back = workers.reap(store, settings.load_settings().max_crashes, sweep)
        done = repair.mend(store, damages)
    except errors.StoreError as error:
        done, given_back = [], []
        output.note(f"nothing could be repaired: {error.message}", "warning")
    if given_back:
        done.append(f"gave {len(given_back)} {'task' if len(given_back) == 1 else 'tasks'} of dead workers back")
    found += [Finding(OK, "repair", text) for text in done or ["nothing to repair"]]
    return [*found, *store_of(out, home, deep, [])]


def _back_up(out: Output, target: Path) -> None:
    store = out.open_store()
    with Meter("copying") as meter:
        number = repair.back_up(store, target, meter.tell)
    if out.json:
        output.print_json({"path": str(target), "blobs": number}, line=out.format == "jsonl")
        return
    output.write(output.escape(target))
    if not out.quiet:
        output.note(f"a store of its own: minipipe --home {output.escape(target)} doctor --deep", kind="")


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
    slots = settings.load_settings().slots
    words = {**_WORDS, ("jobs", "0"): f"{slots}, one per CPU"}
    cells = [(name, words.get((name, value), value), where) for name, value, where in rows]
    output.print_table(cells, ("SETTING", "VALUE", "ORIGIN"), out.format, documents)


# What a value says that stands for "not limited" or "not given"; tables show it, JSON has the value.
_WORDS = {
    ("refresh", ""): "none",
    ("url_map", ""): "none",
    ("log_limit_mb", "0.0"): "no limit",
    ("keep_runs", "-1"): "all",
    ("older_than", ""): "unset",
}


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{prefix}={target or 'nothing'}" for prefix, target in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _write_bundle(path: Path, found: list[Finding], home: Path) -> None:
    """Versions, findings and settings: no names, values or logs of anybody's work, no environment, no path of a home folder."""
    if path.exists():
        raise errors.UsageError(f"{path} exists", "it was not overwritten", "name another file")
    if not path.absolute().parent.is_dir():
        raise errors.NotFound(f"cannot write {path}", f"there is no folder {path.parent}", "make it first, or use another one")

    def plain(text: object) -> str:
        for folder, word in ((str(home), "STORE"), (str(Path.cwd()), "HERE"), (os.path.expanduser("~"), "~")):
            text = str(text).replace(folder, word) if len(folder) > 1 else str(text)
        return str(text)

    explained = {one.name: plain(_shown(one.value)) for one in settings.explain_settings() if one.name not in _PRIVATE_SETTINGS}
    with mapped(path), zipfile.ZipFile(path, "x") as archive:
        archive.writestr("doctor.txt", "".join(f"{one.state} {one.name} {_nameless(plain(one.text))}\n" for one in found))
        archive.writestr("settings.json", json.dumps(explained, indent=2))
        archive.writestr("python.txt", f"{sys.version}\n{platform.platform()}\nsqlite {sqlite3.sqlite_version}\n")


_PRIVATE_SETTINGS = frozenset({"url_map"})


def _nameless(text: str) -> str:
    """Without the names of runs, steps, artifacts and models that a finding mentions."""
    return text.partition("; used by ")[0]
