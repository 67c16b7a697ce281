"""``minipipe du``: what takes how much room."""

from __future__ import annotations

import click

from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.store import usage
from minipipe.store.home import Store


@click.command()
@click.option("--runs", is_flag=True, help="By run, newest first.")
@output.pass_output
def du(out: Output, runs: bool) -> None:
    """Show what takes how much room.

    With --runs, BLOBS is all that a run names; OWN is the part that nobody else names: what removing it alone would free.

    \b
    Examples:
      minipipe du
      minipipe du --runs
    """
    store = out.store_or_none()
    if store is None:
        if out.format == "json":
            output.print_json([])
        return
    if runs:
        _by_run(out, store)
    else:
        _by_kind(out, store)


def _by_kind(out: Output, store: Store) -> None:
    found = usage.by_kind(store)
    total = usage.Use("total", sum(one.files for one in found), sum(one.size for one in found))
    rows = [(one.kind, one.files, output.size(one.size), usage.FOLDERS.get(one.kind, "")) for one in (*found, total)]
    documents = [{"kind": one.kind, "files": one.files, "bytes": one.size} for one in (*found, total)]
    if out.quiet and not out.json:
        output.write(str(total.size))
        return
    output.print_table(rows, ("KIND", "FILES", "SIZE", "HOLDS"), out.format, documents)


def _by_run(out: Output, store: Store) -> None:
    found = list(usage.by_run(store))
    if out.quiet and not out.json:
        for one in found:
            output.write(one.uid)
        return
    rows = [
        (one.uid[:8], one.name, one.status, one.tasks, output.size(one.blobs), output.size(one.own), output.size(one.logs))
        for one in found
    ]
    documents = [
        {
            "id": one.uid,
            "name": one.name,
            "status": one.status,
            "tasks": one.tasks,
            "blob_bytes": one.blobs,
            "own_bytes": one.own,
            "log_bytes": one.logs,
        }
        for one in found
    ]
    output.print_table(rows, ("ID", "NAME", "STATUS", "TASKS", "BLOBS", "OWN", "LOGS"), out.format, documents)
