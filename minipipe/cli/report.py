"""``minipipe report``: a run as one HTML file, or several as a folder with an index."""

from __future__ import annotations

import sqlite3
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import click

from minipipe import errors
from minipipe.cli import files, output
from minipipe.cli.output import Output
from minipipe.report import facts, index, page
from minipipe.store import details, lookup, views
from minipipe.store.home import Store

FOLDER = "minipipe-report"
LOOK_S = 0.2
REDRAW_S = 1.0
_MOST = 200


@click.command()
@click.argument("names", metavar="[RUN...]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every run: a folder with an index.")
@click.option("-o", "target", metavar="PATH", help="The file; for several runs the folder.")
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@click.option("--watch", is_flag=True, help="Write it anew until the run has ended; the page reloads itself.")
@click.option("--full-logs", is_flag=True, help="Whole logs, not their ends (4 MiB each at most).")
@click.option("--images", type=click.Choice(("all", "none")), help="Embed all images, or none (default: small ones).")
@click.option("--force", is_flag=True, help="Overwrite a file that is no report.")
@output.pass_output
def report(
    out: Output,
    names: tuple[str, ...],
    everything: bool,
    target: str | None,
    show: bool,
    watch: bool,
    full_logs: bool,
    images: str | None,
    force: bool,
) -> None:
    """Write a run as one HTML file that can be mailed.

    The page needs no network and holds no script. Several runs make a folder: an index with their parameters and metrics side by
    side, and a page per run. A report that is there already is replaced, any other file is not.

    \b
    Examples:
      minipipe report --open
      minipipe report calm-otter -o run.html
      minipipe report @-2 @last -o compared
      minipipe report --all
    """
    if everything and names:
        raise errors.UsageError("report --all takes no run", f"{names[0]!r} was given too", "minipipe report --all")
    if watch and (everything or len(names) > 1):
        raise errors.UsageError("report --watch follows one run", "several were named", "minipipe report @last --watch")
    store = out.open_store()
    options = facts.Options(full_logs, images or "small")
    if everything or len(names) > 1:
        runs = _all(store) if everything else list({run["id"]: run for run in (_find(store, name) for name in names)}.values())
        path = _write_folder(store, runs, Path(target or FOLDER).expanduser(), options, force)
    else:
        run = _find(store, names[0]) if names else _newest(store)
        path = _target(target, run)
        _write(store, run, path, options, force, watch)
    if show and not webbrowser.open(path.absolute().as_uri()):
        output.note("no browser could be started here; the page is written")
    if out.json:
        output.print_json({"path": str(path), "size": path.stat().st_size}, line=out.format == "jsonl")
    else:
        output.write(output.escape(path))
    if watch:
        _follow(store, run, path, options)


def _find(store: Store, name: str) -> sqlite3.Row:
    """The run, or the task of a script, that `name` means.

    Raises:
        NotFound: none.
        UsageError: it names a step.
    """
    row = lookup.find_task(store, name)
    above = details.task_by_id(store, row["parent_id"])
    if row["run_name"] is None and above is not None and above["run_name"] is not None:
        raise errors.UsageError(f"{name!r} names a step", "a report is of a whole run", f"minipipe report {above['run_name']}")
    return row


def _newest(store: Store) -> sqlite3.Row:
    """The newest run, as for ``minipipe graph``; where there are only scripts, the newest task."""
    try:
        return lookup.find_run(store, "@last")
    except errors.NotFound:
        return lookup.find_task(store, "@last")


def _all(store: Store) -> list[sqlite3.Row]:
    runs = [one.row for one in views.tasks_of(store, views.Filter(limit=_MOST), [])]
    if not runs:
        raise errors.NotFound("there is no run to report", f"the store {store.path} has none", "minipipe run")
    if len(runs) == _MOST:
        output.note(f"only the newest {_MOST} runs get a page")
    return runs


def _target(given: str | None, run: sqlite3.Row) -> Path:
    path = Path(given).expanduser() if given is not None else Path(files.name_of(run, "html"))
    return path / files.name_of(run, "html") if path.is_dir() else path


def _write(store: Store, run: sqlite3.Row, path: Path, options: facts.Options, force: bool, refresh: bool = False) -> bool:
    """Write a run's page; True once nothing of the run will change any more."""
    found = facts.of_run(store, run, options)
    files.save(path, page.run_page(found, refresh).encode(), force, page.is_ours)
    return found.picture.ended


def _write_folder(store: Store, runs: Sequence[sqlite3.Row], folder: Path, options: facts.Options, force: bool) -> Path:
    if folder.exists() and not folder.is_dir():
        raise errors.UsageError(f"{folder} is a file", "several runs make a folder", "-o FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except NotADirectoryError as error:
        raise errors.NotFound(f"cannot make {folder}", error.strerror or "", "-o FOLDER") from None
    entries = []
    for run in runs:
        found = facts.of_run(store, run, options)
        name = files.name_of(run, "html")
        files.save(folder / name, page.run_page(found, back="index.html").encode(), force, page.is_ours)
        entries.append(index.entry_of(found, name))
    title = f"{len(runs)} runs" if len(runs) != 1 else "1 run"
    path = folder / "index.html"
    files.save(path, page.index_page(title, index.table_of(entries)).encode(), force, page.is_ours)
    return path


def _follow(store: Store, run: sqlite3.Row, path: Path, options: facts.Options) -> None:
    """Write the page after each change of the store, at most once a second, until the run has ended. Ctrl-C ends it; the page then
    stays as it is and reloads itself no more."""
    try:
        while True:
            version, written = store.database.data_version(), time.monotonic()
            row = _find(store, run["uid"])
            if _write(store, row, path, options, True, refresh=True):
                return
            while store.database.data_version() == version or time.monotonic() < written + REDRAW_S:
                time.sleep(LOOK_S)
                if time.monotonic() > written + 5 * REDRAW_S:
                    break  # what runs goes on although no row changes: its time and its log
    except KeyboardInterrupt:
        _write(store, _find(store, run["uid"]), path, options, True)
