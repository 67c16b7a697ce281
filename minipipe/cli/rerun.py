"""``minipipe rerun``: a new run from an old one, parameters changed (ClearML's "+ New Run")."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from minipipe import errors, settings
from minipipe.cli import output
from minipipe.cli.conduct import Order, conduct
from minipipe.cli.run import new_session, read_settings, set_environment
from minipipe.sdk import overrides, project_modules, saying
from minipipe.shown import tell
from minipipe.store import details, edits, lookup, records, sessions, steering, tasks
from minipipe.store.home import Store

_ALL = "*"


@click.command()
@click.argument("run")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Change a parameter; NAME:=JSON, NAME=@FILE.")
@click.option("--edit", is_flag=True, help="Change parameters in your editor ($EDITOR).")
@click.option("--queue", metavar="Q", help="Queue of the run; default the one it came from.")
@click.option(
    "--code", type=click.Choice(("captured", "current")), default="captured", metavar="WHICH", help="captured or current."
)
@click.option(
    "--refresh", "steps", multiple=True, metavar="STEP", help="Run this step although an equal one is stored; * is all."
)
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Steps at a time; default one per CPU.")
@click.option("--logs", is_flag=True, help="Show what steps print.")
@click.option("--detach", is_flag=True, help="Queue the run, print its id and return.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="S", help="Abort after S seconds.")
@click.option("--progress", type=click.Choice(settings.CHOICES["progress"]), metavar="HOW", help="auto, plain or off.")
@click.option("--traceback", type=click.Choice(settings.CHOICES["traceback"]), metavar="HOW", help="user or full.")
@output.pass_output
def rerun(
    out: output.Output,
    run: str,
    pairs: tuple[str, ...],
    edit: bool,
    queue: str | None,
    code: str,
    steps: tuple[str, ...],
    jobs: int | None,
    logs: bool,
    detach: bool,
    timeout: float | None,
    progress: str | None,
    traceback: str | None,
) -> int:
    """Start a new run from an old one, parameters changed.

    \b
    Examples:
      minipipe rerun @last --set lr=0.2        the last run with another value
      minipipe rerun 8b0e44d1 --code current   with the script as it is now
      minipipe rerun dry-lake --refresh train  this step runs although an equal one is stored

    The script of the old run runs again on a worker, as it was captured; modules that it imports are taken as they are now. The
    old run stays as it is.
    """
    wanted = read_settings(pairs)
    set_environment(out, jobs=jobs, progress=progress, traceback=traceback)
    store = out.open_store()
    source = lookup.find_task(store, run)
    entry = _checked_entry(store, source, code)
    refresh = _checked_steps(store, source, steps)
    pipeline, _ = lookup.pipeline_of(source["name"], details.project_of(store, source))
    known = overrides.known_of(store, source["id"])
    if edit:
        wanted = {**_edited(pipeline, known, store, source), **wanted}
    later = code == "current" and entry.get("kind") == "script"  # only that code knows what it has: it is told when it runs
    cells = _foreseen(pipeline, known, wanted) if later else overrides.cells(pipeline, known, wanted)
    mine = new_session()
    name = sessions.next_name(store, source) if source["run_name"] is not None else source["name"]
    entry = {key: value for key, value in entry.items() if key not in ("refresh", "told")}
    more = {"refresh": refresh, "told": wanted if later else {}}
    entry |= {key: value for key, value in more.items() if value}
    made = edits.clone(store, source["id"], name, entry=entry, parameters=cells)
    watched = project_modules.watched(edits.facts(store, made.id))
    steering.enqueue(store, made.id, queue or source["queue"] or "services", mine, entry=watched)
    saying.announce(store, made.id)
    store.close()
    return conduct(Order(mine, None, (), ((made.id, 0),), logs, detach, timeout, settings.load_settings().traceback), out)


def _foreseen(pipeline: str, known: list[overrides.Known], wanted: Mapping[str, Any]) -> list[tasks.Parameter]:
    """The cells that are likely to change: those that the old run has too, and as it would have read them."""
    found = []
    for name, value in wanted.items():
        with contextlib.suppress(errors.BadParameter):
            found += overrides.cells(pipeline, known, {name: value})
    return found


# -- what is checked before anything is made --------------------------------------------------------------------------------


def _checked_entry(store: Store, source: sqlite3.Row, code: str) -> dict[str, Any]:
    """What the new run executes.

    Raises:
        UsageError: a step, or a run whose code was not captured.
        NotFound: its folder, or the current script, is gone; names the path.
    """
    shown, entry = details.label_of(store, source), json.loads(source["entry"])
    if source["parent_id"] is not None and source["run_name"] is None:
        run = shown.partition("/")[0]
        raise errors.UsageError(
            f"{shown} is a step", "steps run as a part of their run", f"minipipe rerun {run} --refresh {source['name']}"
        )
    if entry.get("kind") == "here":
        raise errors.UsageError(
            f"run {shown} cannot be run again from here",
            "no script started it (a notebook, or python -c)",
            "start it there again",
        )
    if not os.path.isdir(entry["cwd"]):
        raise errors.NotFound(
            f"the working directory {entry['cwd']} is gone", f"{shown} was started in it", "put it back", path=entry["cwd"]
        )
    if entry.get("kind") != "script":
        return dict(entry)
    current = _current(entry["file"])
    if code == "current":
        if current is None:
            raise errors.NotFound(
                f"the script {entry['file']} is gone", f"{shown} was started by it", "--code captured", path=entry["file"]
            )
        return {**entry, "source": current}
    if current != entry["source"] and settings.load_settings().progress != "off":
        what = f"{os.path.basename(entry['file'])} {'is gone' if current is None else 'has changed since'}"
        tell(f"note: {what}: the captured script runs (--code current takes the file as it is)")
    return dict(entry)


def _current(file: str) -> str | None:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _checked_steps(store: Store, source: sqlite3.Row, steps: tuple[str, ...]) -> list[str]:
    """Names for ``--refresh``.

    Raises:
        UsageError: the old run has no such step; the nearest is named.
    """
    names = [row["name"] for row in sessions.steps(store, source["id"])]
    for step in steps:
        if step != _ALL and step not in names:
            near = difflib.get_close_matches(step, names, 1)
            raise errors.UsageError(
                f"run {source['uid'][:8]} has no step {step!r}",
                f"its steps: {', '.join(names) or 'none'}",
                f"did you mean {near[0]}?" if near else "--refresh '*' runs all",
            )
    return list(steps)


# -- the editor -----------------------------------------------------------------------------------------------------------

_HEAD = "# {pipeline}, from {shown}: change values, save, close; lines that are gone keep their value.\n"


def _edited(pipeline: str, known: list[overrides.Known], store: Store, source: sqlite3.Row) -> Mapping[str, Any]:
    """What a person changed in an editor: ``{name: text}``.

    Raises:
        UsageError: no editor, or a line without a value.
    """
    texts = {f"{row['section']}/{row['name']}": row["text"] for row in records.parameters(store, source["id"])}
    before = {f"{one.section}/{one.name}": texts[f"{one.section}/{one.name}"] for one in known if one.section != "return"}
    lines = [f"{name} = {json.dumps(text)[1:-1]}" for name, text in before.items()]
    try:
        text = click.edit(_HEAD.format(pipeline=pipeline, shown=source["uid"][:8]) + "\n".join(lines) + "\n", extension=".txt")
    except click.ClickException as error:
        raise errors.UsageError("the editor did not start", error.format_message(), "--set NAME=VALUE") from None
    changed: dict[str, Any] = {}
    for line in (text or "").splitlines():
        name, equals, value = line.partition("=")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not equals:
            raise errors.UsageError(f"cannot read the line {line!r}", "it has no value", "NAME = VALUE")
        name, value = name.strip(), json.loads(f'"{value.strip()}"')
        if before.get(name) != value:
            changed[name] = value
    return changed
