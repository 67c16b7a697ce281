"""What a starting or failing run says on stderr."""

from __future__ import annotations

import os
import sys

from minipipe import errors, settings
from minipipe.sdk import exit_code, session
from minipipe.store import records, workers
from minipipe.store.home import Store


def announce(store: Store, task_id: int) -> None:
    """The run line on stderr, where ClearML prints id and links."""
    row = store.database.row(
        "SELECT t.uid, t.run_name, t.name, t.version, p.name AS project FROM task t JOIN project p ON p.id = t.project_id"
        " WHERE t.id = ?",
        (task_id,),
    )
    if row is None or settings.load_settings().progress == "off":
        return
    project = row["project"].partition("/.pipelines/")[0]
    shown = " ".join(f"{cell['name']}={cell['text'][:40]}" for cell in records.parameters(store, task_id)[:8])
    print(
        f"run {row['uid'][:8]}  {row['run_name']}  {row['name']} {row['version']} ({project})  {shown}".rstrip(), file=sys.stderr
    )


def note_unserved(store: Store, queue: str | None) -> None:
    """Say at once that nobody serves the queue of a run, and what to do."""
    if queue and not os.environ.get(session.SESSION_VARIABLE) and queue not in workers.served_queues(store):
        hint = "minipipe worker" if queue in ("default", "services") else f"minipipe worker --queue {queue}"
        print(f"note: no worker serves queue {queue!r}: the run waits; start one: {hint}", file=sys.stderr)


def complain(error: BaseException) -> None:
    """Say why a run failed, and have the process exit with 1 although the script goes on (an explicit other code wins).

    ``minipipe run`` says it itself, at its end.
    """
    if not os.environ.get(session.SESSION_VARIABLE):
        words = str(error) if isinstance(error, errors.MinipipeError) else f"{type(error).__name__}: {error}"
        print(f"error: {words}", file=sys.stderr)
    exit_code.owe()
