"""What a starting or failing run says on stderr."""

from __future__ import annotations

import os
import sqlite3

from minipipe import errors, settings
from minipipe.sdk import exit_code, session
from minipipe.shown import tell, tell_lines
from minipipe.store import details, lookup, workers
from minipipe.store.home import Store

_SHOWN = 8  # parameters
_WIDTH = 40  # characters of each


def announce(store: Store, task_id: int) -> None:
    """The run line on stderr, where ClearML prints id and links."""
    task = details.task_by_id(store, task_id)
    if task is None or settings.load_settings().progress == "off":
        return
    pipeline, project = lookup.pipeline_of(task["name"], details.project_of(store, task))
    title = f"{task['name'] if task['run_name'] else pipeline} {task['version'] or ''}".strip()
    words = [f"run {task['uid'][:8]}", task["run_name"] or "", f"{title} ({project})", _told(store, task)]
    tell("  ".join(word for word in words if word))


def _told(store: Store, task: sqlite3.Row) -> str:
    """The arguments of a run; of a copy what it changes."""
    source = details.task_by_id(store, task["template_id"])
    if source is None:
        given = details.arguments_of(store, task["id"])[:_SHOWN]
        return " ".join(f"{name}={text[:_WIDTH]}" for section, name, text in given if section != "pipeline")
    changed = details.changed_arguments(store, task["id"], source["id"])[:_SHOWN]
    told = ", ".join(f"{name} {old[:_WIDTH]} -> {new[:_WIDTH]}" for name, old, new in changed)
    return f"from {source['uid'][:8]}" + (f": {told}" if told else "")


def note_unserved(store: Store, queue: str | None) -> None:
    """Say at once that nobody serves the queue of a run, and what to do."""
    if queue and not os.environ.get(session.SESSION_VARIABLE) and queue not in workers.served_queues(store):
        hint = "minipipe worker" if queue in ("default", "services") else f"minipipe worker --queue {queue}"
        tell(f"note: no worker serves queue {queue!r}: the run waits; start one: {hint}")


def complain(error: BaseException) -> None:
    """Say why a run failed, and have the process exit with 1 although the script goes on (an explicit other code wins).

    ``minipipe run`` says it itself, at its end.
    """
    if not os.environ.get(session.SESSION_VARIABLE):
        words = str(error) if isinstance(error, errors.MinipipeError) else f"{type(error).__name__}: {error}"
        tell_lines(f"error: {words}")
    exit_code.owe()
