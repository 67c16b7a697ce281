"""``minipipe status``: runs, newest first, with the reason of every one that does not move."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import click

from minipipe import errors, states
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.store import presence, queues, views
from minipipe.store.details import elapsed_s
from minipipe.store.home import Store

REDRAW_S = 0.25
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhdw])\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_VALUE = 40  # characters of a parameter in a table
HEADERS = ("ID", "NAME", "PIPELINE", "STATUS", "STEPS", "TIME", "STARTED", "PARAMS")


def span(text: str, example: str = "--since 2d") -> float:
    """Seconds of a time span such as ``90s``, ``30m``, ``2d``; `example` goes into the hint.

    Raises:
        UsageError: it is none.
    """
    match = _SPAN.match(text)
    if match is None:
        raise errors.UsageError(f"cannot read {text!r} as a time span", "a number and one of s, m, h, d, w", example)
    return float(match[1]) * _UNITS[match[2]]


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise errors.UsageError(f"cannot read {text!r} as a parameter", "it has no '='", "--param lr=0.1")
    return name, value


@click.command()
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="Steps and templates too.")
@click.option("--status", "statuses", multiple=True, type=click.Choice(states.STATUSES), metavar="STATUS", help="Only these.")
@click.option("--pipeline", metavar="P", help="Only runs of this pipeline.")
@click.option("--project", metavar="P", help="Only this project and those below it.")
@click.option("--tag", "tags", multiple=True, metavar="T", help="Only what carries this tag.")
@click.option("--since", metavar="SPAN", help="Only what was made in the last SPAN, such as 2d.")
@click.option("--param", "parameters", multiple=True, metavar="K=V", help="Only with this parameter.")
@click.option("--watch", is_flag=True, help="Keep showing; Ctrl-C ends it.")
@output.pass_output
def status(
    out: Output,
    limit: int,
    everything: bool,
    statuses: tuple[str, ...],
    pipeline: str | None,
    project: str | None,
    tags: tuple[str, ...],
    since: str | None,
    parameters: tuple[str, ...],
    watch: bool,
) -> None:
    """List runs, newest first.

    \b
    Examples:
      minipipe status --watch
      minipipe status --status failed --since 2d
    """
    back = span(since) if since is not None else None
    pairs = tuple(_pair(text) for text in parameters)
    store = out.store_or_none()
    if store is None:
        if out.format == "json":
            output.print_json({"runs": [], "workers": [], "queues": {}, "store": None})
        return

    def wanted(rows: int) -> views.Filter:
        start = time.time() - back if back is not None else None
        return views.Filter(rows, everything, statuses, pipeline, project, tags, start, pairs)

    if watch and output.is_terminal(sys.stdout) and not out.json:
        _watch(store, out, lambda: wanted(min(limit, max(1, shutil.get_terminal_size().lines // 2 - 2))))
        return
    if _show(store, out, wanted(limit)):
        output.note(f"there are more than {limit}: minipipe status -n {2 * limit} shows more", kind="")


def _show(store: Store, out: Output, wanted: views.Filter) -> bool:
    """True if there are more than were asked for."""
    with store.database.snapshot():
        living = presence.living(store)
        found = views.tasks_of(store, replace(wanted, limit=wanted.limit + 1), living)
        queued = queues.queued_counts(store)
    more = len(found) > wanted.limit
    found = found[: wanted.limit]
    now = time.time()
    if out.quiet and not out.json:
        for one in found:
            output.write(one.row["uid"])
        return more
    records = [_record(one, now) for one in found]
    if out.format == "json":
        output.print_json(
            {"runs": records, "workers": [_worker(one) for one in living], "queues": queued, "store": str(store.path)}
        )
        return more
    _print(found, records, out, now)
    if not found and not out.json:
        _explain_nothing(store, wanted)
    if not out.json:
        output.note(_footer(store, living, queued), kind="")
    return more


def _explain_nothing(store: Store, wanted: views.Filter) -> None:
    """Nothing fits: because a name is misspelt, or because nothing does."""
    pipelines, projects = views.known_names(store)
    for word, name, known in (("pipeline", wanted.pipeline, pipelines), ("project", wanted.project, projects)):
        if name is not None and name not in known:
            near = importlib.import_module("difflib").get_close_matches(name, known, 1)
            output.note(f"no {word} {name!r}" + (f": did you mean {near[0]}?" if near else ""))
            return
    if wanted != views.Filter(wanted.limit, wanted.everything):
        output.note("no run fits; minipipe status without options shows the newest")


def _print(found: Sequence[views.Listed], records: list[dict[str, Any]], out: Output, now: float) -> None:
    width = 8
    while len({one.row["uid"][:width] for one in found}) < len(found):
        width += 1
    rows = [_cells(one, now, width, _VALUE if out.format == "table" else None) for one in found]
    headers: tuple[str, ...] = HEADERS
    notes = {}
    if out.format == "table":
        notes = {number: ("STATUS", f"waiting: {one.waiting}") for number, one in enumerate(found) if one.waiting}
    else:
        headers = (*HEADERS, "WAITING")
        rows = [[*row, one.waiting] for row, one in zip(rows, found, strict=True)]
    output.print_table(rows, headers, out.format, records, notes)


def _cells(one: views.Listed, now: float, width: int, most: int | None) -> list[object]:
    row = one.row
    started = row["started_at"] or row["created_at"]
    shown = " ".join(f"{name}={output.clipped(text, most)}" for _, name, text in one.parameters)
    name = row["run_name"] or ("template" if row["status"] == states.CREATED else row["parent_run"]) or ""
    return [
        row["uid"][:width],
        name,
        one.pipeline,
        row["status"],
        _steps(one),
        output.duration(elapsed_s(row, now)),
        output.ago(now - started),
        shown,
    ]


def _steps(one: views.Listed) -> str:
    total = sum(one.steps.values())
    if not total:
        return ""
    done = sum(one.steps.get(word, 0) for word in states.GOOD)
    text = f"{done}/{total}"
    if one.failed:
        return f"{text} {output.glyph(states.FAILED) or 'failed'} {one.failed}"
    if one.row["status"] in states.ENDED:
        return text
    return f"{output.bar(done, one.steps.get(states.IN_PROGRESS, 0), total)} {text}".strip()


def _record(one: views.Listed, now: float) -> dict[str, Any]:
    row = one.row
    return {
        "id": row["uid"],
        "name": row["run_name"],
        "run": row["parent_run"],
        "type": row["type"],
        "task_name": row["name"],
        "pipeline": one.pipeline,
        "version": row["version"],
        "project": one.project,
        "status": row["status"],
        "reason": row["reason"],
        "waiting": one.waiting or None,
        "steps": one.steps,
        "failed_step": one.failed or None,
        "parameters": {f"{section}/{name}": text for section, name, text in one.parameters},
        "tags": list(one.tags),
        "created_at": output.iso(row["created_at"]),
        "started_at": output.iso(row["started_at"]),
        "ended_at": output.iso(row["ended_at"]),
        "seconds": elapsed_s(row, now),
    }


def _worker(one: presence.LiveWorker) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "pid": one.pid,
        "queues": list(one.queues),
        "session": one.session or None,
        "slots": one.slots,
        "busy": one.busy,
        "started_at": output.iso(one.started_at),
    }


def _footer(store: Store, living: Sequence[presence.LiveWorker], queued: dict[str, int]) -> str:
    workers = [describe(one) for one in living if one.kind == presence.AGENT]
    waiting = ", ".join(f"{name} {number}" for name, number in queued.items())
    return f"workers: {'; '.join(workers) or 'none'}   queues: {waiting or 'empty'}   store: {output.shown_path(store.path)}"


def describe(one: presence.LiveWorker) -> str:
    """A worker in one phrase: ``w1 default, services, 1 of 4 busy``."""
    serves = ", ".join(one.queues) if one.queues else "one command"
    return f"{one.name} {serves}, {one.busy} of {one.slots} busy"


class _Frame(io.StringIO):
    """What is shown next, gathered so that it replaces the old picture in one stroke: a cleared terminal flickers."""

    encoding = property(lambda self: getattr(sys.__stdout__, "encoding", None) or "ascii")

    def isatty(self) -> bool:
        """It ends on the terminal."""
        return True


def _watch(store: Store, out: Output, wanted: Callable[[], views.Filter]) -> None:
    """Redraw after each change of the store and once a second, at most four times a second."""
    sys.stdout.write("\x1b[2J")
    try:
        while True:
            version, drawn = store.database.data_version(), time.monotonic()
            frame = _Frame()
            with contextlib.redirect_stdout(frame), contextlib.redirect_stderr(frame):
                _show(store, out, wanted())
            sys.stdout.write("\x1b[H" + frame.getvalue().replace("\n", "\x1b[K\n") + "\x1b[J")
            sys.stdout.flush()
            while time.monotonic() < drawn + REDRAW_S or (
                store.database.data_version() == version and time.monotonic() < drawn + 1.0
            ):
                time.sleep(0.05)
    except KeyboardInterrupt:
        return
