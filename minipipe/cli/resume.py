"""``minipipe resume``: go on with a run that ended badly; completed steps whose code and inputs are unchanged stay."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from minipipe import errors, settings, states
from minipipe.cli import output, script
from minipipe.cli.conduct import Order, conduct
from minipipe.cli.run import new_session, pin_inline, set_environment
from minipipe.engine import worker as engine
from minipipe.sdk import project_modules, session
from minipipe.sdk.decorator import PipelineDecorator
from minipipe.shown import tell
from minipipe.store import details, lookup, sessions, steering, waiting, workers
from minipipe.store import resume as resuming
from minipipe.store.home import Store

_SETTLE_S = 5.0


@click.command()
@click.argument("run")
@click.option("--from", "step", metavar="STEP", help="Run this step and those that need it again, although they completed.")
@click.option(
    "--code", type=click.Choice(("current", "captured")), default="current", metavar="WHICH", help="current or captured."
)
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Steps at a time; default one per CPU.")
@click.option("--logs", is_flag=True, help="Show what steps print.")
@click.option("--detach", is_flag=True, help="Queue the run, print its id and return.")
@click.option("--progress", type=click.Choice(settings.CHOICES["progress"]), metavar="HOW", help="auto, plain or off.")
@click.option("--traceback", type=click.Choice(settings.CHOICES["traceback"]), metavar="HOW", help="user or full.")
@output.pass_output
def resume(
    out: output.Output,
    run: str,
    step: str | None,
    code: str,
    jobs: int | None,
    logs: bool,
    detach: bool,
    progress: str | None,
    traceback: str | None,
) -> int:
    """Go on with an ended run; finished steps stay.

    \b
    Examples:
      minipipe resume @last                    after a fix, or after a crash
      minipipe resume 8b0e44d1 --detach        leave it to a worker
      minipipe resume @last --from train       train and what needs it once more

    The run keeps its id. Its logic runs again, with the script as it is now: steps that completed are taken as they are if code
    and inputs are unchanged, the others run.
    """
    set_environment(out, jobs=jobs, progress=progress, traceback=traceback)
    store = out.open_store()
    found = settings.load_settings()
    task = _settled(store, lookup.find_run(store, run)["id"], found)
    first = lookup.find_step(store, task, step)["id"] if step is not None else None
    if task["status"] in states.GOOD and (first is None or task["status"] == states.PUBLISHED):
        output.note(f"run {task['uid'][:8]} is {task['status']}: there is nothing to resume")
        return 0
    entry = _checked_entry(store, task, detach, code)
    changed = code == "current" and entry["source"] != _source(entry)
    kept, again = resuming.revive(store, task["id"], first)
    if found.progress != "off":
        steps = "1 completed step" if kept == 1 else f"{kept} completed steps"
        repeated = f", {again} from {step!r} on run again" if first is not None else ""
        which = f"{code} ({os.path.basename(entry['file'])} changed)" if changed else code
        tell(f"resumed {task['uid'][:8]}: {steps} kept{repeated}; code: {which}")
    mine = new_session()
    order = Order(mine, None, (), ((task["id"], task["attempt"]),), logs, detach, None, found.traceback)
    if code == "captured":
        order = replace(order, source=entry["source"])
    else:
        entry = {**entry, "source": _source(entry)}
    if entry.get("mode"):
        order = _here(order, task, entry)
    else:
        _hand_to_workers(store, task, entry, mine)
    store.close()
    return conduct(order, out)


def _settled(store: Store, task_id: int, found: settings.Settings) -> sqlite3.Row:
    """The run's row once nothing of it is left running that a dead process started.

    Raises:
        UsageError: the run is alive; nothing was changed.
    """

    def reap() -> None:
        workers.reap(store, found.max_crashes, engine.sweep)

    reap()
    row = details.task_by_id(store, task_id)
    assert row is not None
    if row["status"] in states.BAD:
        # Its steps may still be on their way out, in the grace that a worker gives them.
        if not waiting.wait(store, lambda: not sessions.live_steps(store, task_id), found.grace_s + _SETTLE_S, reap):
            raise errors.WaitTimeout(
                f"steps of run {row['uid'][:8]} are still being stopped", "their worker has not ended them yet", "try again"
            )
        return row
    shown = row["uid"][:8]
    if row["status"] == states.QUEUED and not _served(store, row):
        return row  # the command that would have executed it is gone
    if row["status"] in (states.IN_PROGRESS, states.QUEUED, states.PENDING):
        raise errors.UsageError(f"run {shown} is {row['status']}", "it needs no resuming", f"minipipe show {shown}")
    if row["status"] == states.CREATED and not json.loads(row["entry"]).get("mode"):
        raise errors.UsageError(f"run {shown} was never started", "it is a draft", f"minipipe show {shown}")
    return row


def _served(store: Store, row: sqlite3.Row) -> bool:
    own = any(worker["session"] and worker["session"] == row["session"] for worker in workers.alive(store))
    return own or row["queue"] in workers.served_queues(store)


def _checked_entry(store: Store, task: sqlite3.Row, detach: bool, code: str) -> dict[str, Any]:
    """What the run executes.

    Raises:
        UsageError: it cannot be started again from here.
        NotFound: its script or working directory is gone; names the path.
    """
    entry: dict[str, Any] = json.loads(task["entry"])
    shown = task["uid"][:8]
    if entry.get("kind") != "script":
        raise errors.UsageError(
            f"run {shown} cannot be resumed", "it was not started by a script (a notebook, or python -c)", "start it there again"
        )
    if detach and entry.get("mode"):
        raise errors.UsageError(
            f"run {shown} cannot be detached", "its logic ran in the process that started it", f"minipipe resume {shown}"
        )
    for what, path, there in (
        ("script", entry["file"], code == "captured" or os.path.isfile(entry["file"])),
        ("working directory", entry["cwd"], os.path.isdir(entry["cwd"])),
    ):
        if not there:
            raise errors.NotFound(
                f"the {what} {path} is gone", f"run {shown} was started with it", "put it back, then resume", path=path
            )
    return entry


def _source(entry: dict[str, Any]) -> str:
    return Path(entry["file"]).read_text(encoding="utf-8")


def _here(order: Order, task: sqlite3.Row, entry: dict[str, Any]) -> Order:
    """Prepare this process to run the script again: same arguments, same folder, same mode."""
    os.environ[session.RESUME_VARIABLE] = task["uid"]
    os.chdir(entry["cwd"])
    if entry["mode"] == "local":
        PipelineDecorator.run_locally()
    elif entry["mode"] in ("inline", "debug"):
        pin_inline()
    path = Path(entry["file"]) if order.source is not None else script.find_script(entry["file"])
    return replace(
        order, script=path, arguments=tuple(entry["argv"][1:]), detach=False, inline=entry["mode"] in ("inline", "debug")
    )


def _hand_to_workers(store: Store, task: sqlite3.Row, entry: dict[str, Any], mine: str) -> None:
    resuming.hand_over(store, task["id"], mine, entry)
    if task["status"] != states.QUEUED:
        steering.enqueue(store, task["id"], task["queue"] or "services", entry=project_modules.watched(entry))
