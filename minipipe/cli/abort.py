"""``minipipe abort``: end tasks for good, and wait until their processes are gone."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import click

from minipipe import errors, settings, states
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.engine.worker import sweep
from minipipe.sdk import stopping
from minipipe.store import details, lookup, presence, waiting, workers
from minipipe.store.home import Store


@click.command()
@click.argument("names", metavar="RUN[/STEP]...", nargs=-1, required=True)
@click.option("--grace", type=click.FloatRange(0), metavar="S", help="Seconds between SIGTERM and SIGKILL; default the worker's.")
@output.pass_output
def abort(out: Output, names: tuple[str, ...], grace: float | None) -> None:
    """Stop runs or steps, with all their processes.

    Waiting tasks stop at once. A running one gets SIGTERM and, after its worker's grace, SIGKILL. What has ended is left alone.

    \b
    Examples:
      minipipe abort @last
      minipipe abort calm-otter/train
    """
    store = out.open_store()
    found = [lookup.find_task(store, name) for name in names]  # all names first: a wrong one changes nothing
    start = time.monotonic()
    touched = dict(stopping.stop(store, [row["id"] for row in found], "aborted by a person", grace))
    for row in found:
        if row["id"] not in touched and row["status"] in states.ENDED:
            output.note(f"{details.label_of(store, row)} has ended ({row['status']}): left alone")
    ended = _Ending(store, out, touched, start)
    ended.wait(settings.load_settings(grace_s=grace))
    if out.format == "json":
        output.print_json({"stopped": ended.documents})
    ended.complain()


class _Ending:
    """Tasks on their way out; says of each how it ended."""

    def __init__(self, store: Store, out: Output, touched: dict[int, str], start: float) -> None:
        self.store = store
        self.out = out
        self.had = touched
        self.left = dict.fromkeys(touched)
        self.start = start
        self.grace_s = 0.0
        self.documents: list[dict[str, Any]] = []

    def wait(self, found: settings.Settings) -> None:
        """Wait for the running ones: the grace and one second."""
        self.grace_s = found.grace_s

        def reap() -> None:
            # Nobody else may be left to end the tasks of a dead worker.
            workers.reap(self.store, found.max_crashes, sweep)

        if not self._done():
            reap()
        waiting.wait(self.store, self._done, self.grace_s + 1.0, reap, 0.5)

    def _done(self) -> bool:
        for task_id in list(self.left):
            row = details.task_by_id(self.store, task_id)
            if row is None or row["status"] != states.IN_PROGRESS:
                del self.left[task_id]
                if row is not None:
                    self._say(row)
        return not self.left

    def _say(self, row: sqlite3.Row) -> None:
        spent = time.monotonic() - self.start
        ran = self.had[row["id"]] == states.IN_PROGRESS
        signal = ("SIGKILL" if spent > self.grace_s else "SIGTERM") if ran else None
        label = details.label_of(self.store, row)
        document = {"id": row["uid"], "task": label, "status": row["status"], "signal": signal, "seconds": spent if ran else 0.0}
        self.documents.append(document)
        if self.out.format == "jsonl":
            output.print_json(document, line=True)
        elif self.out.quiet and not self.out.json:
            output.write(row["uid"])
        elif not self.out.json:
            how = f" ({signal}, {output.duration(spent)})" if signal else ""
            output.write(output.escape(f"{label} {row['status']}{how}"))

    def complain(self) -> None:
        """Name what still runs.

        Raises:
            WaitTimeout: something does.
        """
        if not self.left:
            return
        rows = [row for row in (details.task_by_id(self.store, task_id) for task_id in self.left) if row is not None]
        labels = ", ".join(details.label_of(self.store, row) for row in rows)
        names = {one.id: f"{one.name} (pid {one.pid})" for one in presence.living(self.store)}
        owners = ", ".join(sorted({names.get(row["worker_id"], "a dead worker") for row in rows}))
        raise errors.WaitTimeout(
            f"{labels} still in progress after {self.grace_s + 1:.0f} s",
            f"{owners} has been told to stop it and will, as soon as it can",
            "minipipe status",
        )
