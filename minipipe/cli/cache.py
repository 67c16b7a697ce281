"""``minipipe cache``: why a step ran or was served, and how to make it run again."""

from __future__ import annotations

import time

import click

from minipipe import errors
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.store import acceptance, details, lookup, views
from minipipe.store import cache as stored


@click.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Ask why a step ran, or make the cache forget.

    \b
    Examples:
      minipipe cache why @last/train
      minipipe cache clear --pipeline digits-demo
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cache.command()
@click.argument("name", metavar="RUN/STEP")
@output.pass_output
def why(out: Output, name: str) -> None:
    """Say why a step ran, or what served it.

    \b
    Example:
      minipipe cache why @last/train
    """
    store = out.open_store()
    task = lookup.find_task(store, name)
    if task["run_name"] is not None:
        raise errors.UsageError(f"{name!r} is a run", "only steps are cached", f"minipipe cache why {task['run_name']}/STEP")
    found = stored.why(store, task["id"])
    nearest = details.task_by_uid(store, found.nearest)
    if out.json:
        document = {
            "id": task["uid"],
            "verdict": found.verdict,
            "nearest": found.nearest,
            "differences": [{"kind": one.kind, "name": one.name, "text": one.text} for one in found.differences],
        }
        output.print_json(document, line=out.format == "jsonl")
        return
    verdict = found.verdict
    if nearest is not None:
        age = output.ago(time.time() - (nearest["ended_at"] or nearest["created_at"]))
        verdict += f", {details.label_of(store, nearest)} ({age})"
    output.write(output.escape(verdict))
    width = max((len(output.escape(one.name)) for one in found.differences), default=0)
    for one in found.differences:
        output.write(f"  {one.kind:<6} {output.escape(one.name):<{width}}  {output.escape(one.text)}")


@cache.command()
@click.argument("name", metavar="[RUN[/STEP]]", required=False)
@click.option("--pipeline", metavar="P", help="All steps of all runs of this pipeline.")
@click.option("--all", "everything", is_flag=True, help="All entries.")
@output.pass_output
def clear(out: Output, name: str | None, pipeline: str | None, everything: bool) -> None:
    """Forget cache entries; runs and artifacts stay.

    \b
    Examples:
      minipipe cache clear @last/train
      minipipe cache clear --pipeline digits-demo
      minipipe cache clear --all
    """
    if (name is not None) + (pipeline is not None) + everything != 1:
        raise errors.UsageError("cache clear needs one of RUN/STEP, --pipeline P, --all", "", "minipipe cache clear --pipeline P")
    store = out.open_store()
    tasks: list[int] | None = None
    if name is not None:
        task = lookup.find_task(store, name)
        tasks = [task["id"]] if task["run_name"] is None else [row["id"] for row in views.steps_of(store, task["id"])]
    elif pipeline is not None:
        lookup.find_run(store, "@last", pipeline)
        tasks = views.steps_of_pipeline(store, pipeline)
    number = stored.forget(store, tasks)
    if out.json:
        output.print_json({"forgotten": number}, line=out.format == "jsonl")
    elif not out.quiet:
        output.write(f"forgot {number} {'entry' if number == 1 else 'entries'}; runs and artifacts stay")


@cache.command()
@click.argument("name", metavar="RUN/STEP")
@output.pass_output
def accept(out: Output, name: str) -> None:
    """Let today's code count as equal to what a step ran.

    After a change that changes no result (a comment in a helper, a rename): the next run finds the step's result in the cache. Only
    what stands in the files now is meant; a later change counts again.

    \b
    Example:
      minipipe cache accept @last/train
    """
    store = out.open_store()
    task = lookup.find_task(store, name)
    found = acceptance.accept(store, task)
    files = sorted(found.files)
    if out.json:
        output.print_json({"id": task["uid"], "function": found.place[1], "files": files}, line=out.format == "jsonl")
    elif not out.quiet:
        shown = ", ".join(output.shown_path(path) for path in files)
        output.write(
            output.escape(f"{found.place[1]} as it stands now in {shown} counts as what {details.label_of(store, task)} ran")
        )
