"""``minipipe queue``: what waits where, who serves it, and moving it about."""

from __future__ import annotations

import time

import click

from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.store import details, lookup, presence, queues

_HEADERS = ("QUEUE", "STATE", "QUEUED", "IN_PROGRESS", "OLDEST", "WORKERS")


@click.group(invoke_without_command=True)
@click.pass_context
def queue(context: click.Context) -> None:
    """List queues, pause and resume them, move what waits.

    \b
    Examples:
      minipipe queue
      minipipe queue pause gpu
      minipipe queue move calm-otter/train gpu --front
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
def create(out: Output, name: str) -> None:
    """Make a queue. Using a name makes one too.

    \b
    Example:
      minipipe queue create gpu
    """
    made = queues.create(out.open_store(create=True), name)
    _told(out, name, f"queue {name} created" if made else f"queue {name} was there already", created=made)


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


@queue.command()
@click.argument("name", metavar="Q")
@output.pass_output
def remove(out: Output, name: str) -> None:
    """Remove a queue in which nothing waits. default and services stay.

    \b
    Example:
      minipipe queue remove gpu
    """
    queues.remove(out.open_store(), name)
    _told(out, name, f"queue {name} removed", removed=True)


@queue.command()
@click.argument("name", metavar="Q")
@output.pass_output
def purge(out: Output, name: str) -> None:
    """Take every task out of a queue; they are drafts again.

    \b
    Example:
      minipipe queue purge gpu
    """
    store = out.open_store()
    gone = queues.purge(store, name)
    what = "task left it and is a draft" if len(gone) == 1 else "tasks left it and are drafts"
    _told(out, name, f"queue {name} is empty: {len(gone)} {what}", tasks=gone)


@queue.command()
@click.argument("task", metavar="TASK")
@click.argument("name", metavar="Q")
@click.option("--front", is_flag=True, help="Before everything that waits there, not behind it.")
@click.option("--priority", type=int, default=0, metavar="N", help="Before what has a lower one; 0 is that of all others.")
@output.pass_output
def move(out: Output, task: str, name: str, front: bool, priority: int) -> None:
    """Move a waiting task to a queue, or within its own.

    \b
    Examples:
      minipipe queue move calm-otter/train gpu
      minipipe queue move 8b0e44d1 default --front
      minipipe queue move 8b0e44d1 default --priority 5
    """
    store = out.open_store()
    row = lookup.find_task(store, task)
    status = queues.move(store, row["id"], name, front, priority)
    label = details.label_of(store, row)
    where = "at the head" if front else f"before all below priority {priority}" if priority > 0 else "at the end"
    place = f"{where} of queue {name}"
    text = f"{label} is {place}" if status == "queued" else f"{label} is {status}: it will stand {place}"
    _told(out, name, text, task=row["uid"], status=status)
    if not queues.servers_of(store, name):
        output.note(f"no worker serves queue {name!r}; start one: {queues.start_hint(name)}")


def _set(out: Output, name: str, paused: bool) -> None:
    store = out.open_store()
    queues.set_paused(store, name, paused)
    state = "paused" if paused else "open"
    waiting = queues.queued_counts(store).get(name, 0)
    _told(out, name, f"queue {name} is {state}; {waiting} queued", state=state)


def _told(out: Output, name: str, text: str, **facts: object) -> None:
    """Say what was done, in the format that is wanted."""
    if out.json:
        output.print_json({"queue": name, **facts}, line=out.format == "jsonl")
    elif out.quiet:
        output.write(output.escape(name))
    else:
        output.write(output.escape(text))
