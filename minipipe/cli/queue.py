"""``minipipe queue``: what waits where, and who serves it."""

from __future__ import annotations

import difflib
import time

import click

from minipipe import errors
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.store import presence, queues

_HEADERS = ("QUEUE", "STATE", "QUEUED", "IN_PROGRESS", "OLDEST", "WORKERS")


@click.group(invoke_without_command=True)
@click.pass_context
def queue(context: click.Context) -> None:
    """List, pause and resume queues.

    \b
    Examples:
      minipipe queue
      minipipe queue pause gpu
    """
    if context.invoked_subcommand is None:
        context.invoke(list_queues)


@queue.command("list")
@output.pass_output
def list_queues(out: Output) -> None:
    """List all queues.

    \b
    Example:
      minipipe queue list
    """
    store = out.store_or_none()
    if store is None:
        if out.format == "json":
            output.print_json([])
        return
    with store.database.snapshot():
        found = queues.queues(store, presence.living(store))
    now = time.time()
    if out.quiet and not out.json:
        for one in found:
            output.write(output.escape(one.name))
        return
    rows = [
        (
            one.name,
            "paused" if one.paused else "open",
            one.queued,
            one.in_progress,
            output.ago(now - one.oldest) if one.oldest is not None else "",
            ", ".join(one.workers) or f"none: {queues.start_hint(one.name)}",
        )
        for one in found
    ]
    documents = [
        {
            "queue": one.name,
            "state": "paused" if one.paused else "open",
            "queued": one.queued,
            "in_progress": one.in_progress,
            "oldest_at": output.iso(one.oldest),
            "workers": list(one.workers),
        }
        for one in found
    ]
    output.print_table(rows, _HEADERS, out.format, documents)


@queue.command()
@click.argument("name", metavar="Q")
@output.pass_output
def pause(out: Output, name: str) -> None:
    """Take nothing from a queue until it is resumed; what runs goes on.

    \b
    Example:
      minipipe queue pause gpu
    """
    _set(out, name, True)


@queue.command()
@click.argument("name", metavar="Q")
@output.pass_output
def resume(out: Output, name: str) -> None:
    """Let a paused queue go on.

    \b
    Example:
      minipipe queue resume gpu
    """
    _set(out, name, False)


def _set(out: Output, name: str, paused: bool) -> None:
    store = out.open_store()
    if not queues.set_paused(store, name, paused):
        names = [one.name for one in queues.queues(store, ())]
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else "minipipe queue"
        raise errors.NotFound(f"no queue {name!r}", f"there are {', '.join(names)}", hint, name=name)
    state = "paused" if paused else "open"
    if out.json:
        output.print_json({"queue": name, "state": state}, line=out.format == "jsonl")
    elif out.quiet:
        output.write(output.escape(name))
    else:
        waiting = queues.queued_counts(store).get(name, 0)
        output.write(output.escape(f"queue {name} is {state}; {waiting} queued"))
