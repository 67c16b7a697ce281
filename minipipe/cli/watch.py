"""``minipipe watch``: a run as it goes, to its end. Nothing is changed: Ctrl-C ends the looking only."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3

import click

from minipipe import errors, settings, states
from minipipe.cli import ending, output
from minipipe.cli.console import Console
from minipipe.cli.output import Output
from minipipe.cli.progress import Follower, Style
from minipipe.store import lookup, sessions, waiting
from minipipe.store.home import Store


@click.command()
@click.argument("run", metavar="[RUN]", default="@last")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="S", help="Stop looking after S seconds.")
@click.option("--logs", is_flag=True, help="Show what steps print.")
@click.option("--exit-status", is_flag=True, help="The exit code says how the run ended: it always does.")
@click.option("--progress", type=click.Choice(settings.CHOICES["progress"]), metavar="HOW", help="auto, plain or off.")
@output.pipeline_option
@output.pass_output
def watch(
    out: Output, run: str, timeout: float | None, logs: bool, exit_status: bool, progress: str | None, pipeline: str | None
) -> int:
    """Watch a run until it ends.

    \b
    Examples:
      minipipe watch
      minipipe watch calm-otter --timeout 600

    Exit code 0 if the run completed, 1 if it failed or was stopped, 5 if the time ran out. Ctrl-C stops the watching, not the run.
    """
    found = settings.load_settings(progress=progress)
    store = out.open_store()
    task = lookup.find_task(store, run, pipeline)
    if task["parent_id"] is not None:
        shown = task["uid"][:8]
        raise errors.UsageError(f"task {shown} is a step", "watch follows runs", f"minipipe logs -f {shown}")
    scope = sessions.scope_of(store, task, secrets.token_hex(16))
    shown = "off" if out.quiet else found.progress
    style = Style(shown, out.color, logs, headed=True, relay=False, stream=out.format == "jsonl")
    console = Console()
    follower = Follower(store.path, scope, console, style, None, lambda error: None)
    follower.start()
    ended = False
    try:
        ended = waiting.wait(store, lambda: not sessions.open_runs(store, scope), timeout)
    finally:
        with contextlib.suppress(errors.MinipipeError):
            follower.stop()
    return _conclude(store, sessions.runs(store, scope)[0], ended, timeout, out)


def _conclude(store: Store, run: sqlite3.Row, ended: bool, timeout: float | None, out: Output) -> int:
    error: errors.MinipipeError | None = None
    steps = sessions.steps(store, run["id"])
    name = run["run_name"] or run["uid"][:8]
    if not ended:
        late = f"run {run['uid'][:8]} is still {run['status']} after {timeout:g} s"
        error = errors.WaitTimeout(late, f"--timeout {timeout:g}", f"minipipe watch {name}")
    elif run["status"] == states.CREATED:
        output.note(f"run {run['uid'][:8]} is a draft: nobody has started it")
    elif run["status"] not in states.GOOD:
        error = ending.failure(store, run, steps)
    if error is None and not out.quiet and run["status"] in states.GOOD:
        output.note(ending.closing_line(store, run, steps, False), kind="")
    if error is not None:
        ending.tell(error, out.color)
    code = error.exit_code if error is not None else 0
    if out.json:
        facts = output.plain(ending.document(store, [run], error, code))
        line = out.format == "jsonl"
        print(json.dumps(facts, indent=None if line else 2, default=str), flush=True)
    return code
