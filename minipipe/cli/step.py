"""``minipipe step``: one step once more, here, with a debugger if wanted."""

from __future__ import annotations

import contextlib
import sys
from types import TracebackType

import click

from minipipe import errors
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.cli.run import read_settings
from minipipe.sdk import replay
from minipipe.store import details, lookup


@click.command()
@click.argument("name", metavar="RUN/STEP")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Change a parameter; NAME:=JSON, NAME=@FILE.")
@click.option("--pdb", "debug", is_flag=True, help="Open the debugger where it fails.")
@click.option("--keep", is_flag=True, help="Store it, as a copy of the step.")
@output.pass_output
def step(out: Output, name: str, pairs: tuple[str, ...], debug: bool, keep: bool) -> int:
    """Run one step once more, in this process, on its recorded inputs.

    What it prints comes to the terminal; breakpoint() works. Nothing is stored, whatever it reports, unless --keep says so. Exit code
    1 if it fails.

    \b
    Examples:
      minipipe step dry-lake/train --pdb
      minipipe step @last/train --set lr=0.2
    """
    store = out.open_store()
    task = lookup.find_task(store, name)
    label = details.label_of(store, task)
    if task["environment"] is not None:
        output.note(f"{label} has an environment of its own; here it runs in this Python", "note")
    # With --json stdout holds one document: what the step prints moves to stderr.
    with contextlib.redirect_stdout(sys.stderr) if out.json else contextlib.nullcontext():
        done = replay.replay(store, task["id"], read_settings(pairs), keep, _debug if debug else None)
    if out.json:
        document = {
            "id": task["uid"],
            "status": "failed" if done.reason else "completed",
            "seconds": done.duration_s,
            "error": dict(done.error) or None,
            "outputs": [{"name": one.name, "type": one.type, "preview": one.preview} for one in done.outputs],
            "kept": done.kept or None,
        }
        output.print_json(document, line=out.format == "jsonl")
    elif out.quiet:
        if done.kept:
            output.write(done.kept)
    else:
        for one in done.outputs:
            output.note(f"  {one.name}  {one.type}  {one.preview}", kind="")
        state = f"failed: {done.reason}" if done.reason else "completed"
        stored = f"stored as {done.kept[:8]}" if done.kept else "nothing was stored; --keep does"
        output.note(f"{label} {state} in {output.duration(done.duration_s)} ({stored})", kind="")
    return errors.WorkFailed.exit_code if done.reason else 0


def _debug(error: BaseException, trace: TracebackType | None) -> None:
    """Where it failed, in the debugger; leaving it ends the command."""
    import pdb

    if trace is None:
        return
    with contextlib.suppress(EOFError):
        pdb.post_mortem(trace)
