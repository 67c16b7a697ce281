"""``minipipe run``: run a script, its pipelines and their steps."""

from __future__ import annotations

import difflib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from minipipe import errors, settings, told
from minipipe.cli import output, script
from minipipe.cli.conduct import Order, conduct
from minipipe.sdk import session
from minipipe.sdk.decorator import PipelineDecorator

EXAMPLE = Path(__file__).resolve().parents[1] / "demo" / "pipeline.py"
_SCRIPT_WORDS = "minipipe.script"


class ScriptCommand(click.Command):
    """A command whose words after ``--`` belong to a script, whether or not the script is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the script's words away before the options are read."""
        own, rest = args, []
        if "--" in args:
            place = args.index("--")
            own, rest = args[:place], args[place + 1 :]
        ctx.meta[_SCRIPT_WORDS] = tuple(rest)
        return super().parse_args(ctx, own)


@click.command(cls=ScriptCommand)
@click.argument("words", nargs=-1, metavar="[SCRIPT] [-- ARGS...]")
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Steps at a time; default one per CPU.")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Argument of the pipeline, or what a task connects; NAME:=JSON, NAME=@FILE.",
)
@click.option("--inline", is_flag=True, help="Every step in this process, in call order; breakpoints work.")
@click.option("--logs", is_flag=True, help="Show what steps print.")
@click.option("--detach", is_flag=True, help="Queue the run, print its id and return.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="S", help="Abort after S seconds.")
@click.option("--cache", type=click.Choice(settings.CHOICES["cache"]), metavar="WHEN", help="on, off or refresh.")
@click.option("--refresh", "steps", multiple=True, metavar="STEP", help="Run this step although an equal one is stored.")
@click.option("--progress", type=click.Choice(settings.CHOICES["progress"]), metavar="HOW", help="auto, plain or off.")
@click.option("--traceback", type=click.Choice(settings.CHOICES["traceback"]), metavar="HOW", help="user or full.")
@click.option("--isolation", type=click.Choice(settings.CHOICES["isolation"]), metavar="HOW", help="fork or spawn.")
@click.option("--map-url", "maps", multiple=True, metavar="FROM=TO", help="A local file or folder answers for this URL prefix.")
@click.option("--no-alias", is_flag=True, help="`import clearml` finds an installed ClearML, not minipipe.")
@click.option("--print-example", is_flag=True, help="Print the built-in example.")
@click.pass_context
@output.pass_output
def run(
    out: output.Output,
    context: click.Context,
    words: tuple[str, ...],
    jobs: int | None,
    pairs: tuple[str, ...],
    inline: bool,
    logs: bool,
    detach: bool,
    timeout: float | None,
    cache: str | None,
    steps: tuple[str, ...],
    progress: str | None,
    traceback: str | None,
    isolation: str | None,
    maps: tuple[str, ...],
    no_alias: bool,
    print_example: bool,
) -> int:
    """Run a script, its pipelines and their steps.

    \b
    Examples:
      minipipe run flow.py                     run a script
      minipipe run flow.py --set lr=0.2        change an argument of its pipeline
      minipipe run flow.py -- --epochs 3       what stands after -- belongs to the script
      minipipe run                             run the built-in example

    The script runs as `python SCRIPT ARGS` would run it. What --set names is looked up when a pipeline starts, before anything is
    queued, and where a task connects its parameters; a name that nothing took is an error at the end. Tasks that it leaves on queues
    which no worker serves are executed by an embedded pool that ends with this command.
    """
    if print_example:
        click.echo(EXAMPLE.read_text(encoding="utf-8"), nl=False)
        return 0
    if len(words) > 1:
        raise errors.UsageError(
            f"run takes one script, not {len(words)}: {' '.join(words)}",
            "the script's arguments stand after --",
            f"minipipe run {words[0]} -- {' '.join(words[1:])}",
        )
    path = script.find_script(words[0]) if words else EXAMPLE
    wanted = read_settings(pairs)
    set_url_map(maps)
    if inline:
        pin_inline()
        cache = cache or "off"  # who debugs a step wants it to run
    alias = "0" if no_alias else None
    refresh = ",".join(steps) or None
    set_environment(out, jobs=jobs, cache=cache, progress=progress, traceback=traceback)
    set_environment(out, refresh=refresh, isolation=isolation, clearml_alias=alias)
    style = settings.load_settings().traceback
    mine = new_session()
    order = Order(mine, path, context.meta[_SCRIPT_WORDS], (), logs, detach, timeout, style, inline=inline)
    with told.telling(wanted):
        return conduct(order, out)


# -- what other processes of the command have to know ---------------------------------------------------------------------


def set_environment(out: output.Output, **flags: Any) -> None:
    """Put flags where the script, its worker and their processes look for them; the store's place is fixed for all of them.

    Raises:
        BadSetting: a setting from elsewhere (a variable, pyproject.toml) cannot be used.
    """
    for name, value in flags.items():
        if value is not None:
            os.environ["MINIPIPE_" + name.upper()] = str(value)
    if out.quiet:
        os.environ["MINIPIPE_PROGRESS"] = "off"
    os.environ["MINIPIPE_HOME"] = str(settings.store_home(out.home))
    settings.load_settings()


def set_url_map(pairs: Sequence[str]) -> None:
    """Let ``--map-url`` add to what the other settings map, for this command and its processes.

    Raises:
        UsageError: a pair that cannot be read, or whose target is not there.
    """
    if not pairs:
        return
    found: dict[str, str | None] = {prefix: target or None for prefix, target in settings.load_settings().url_map}
    for pair in pairs:
        # A URL may hold "=" (a query); a path may as well. The target is what is there.
        cuts = [place for place, character in enumerate(pair) if character == "="]
        place = next((cut for cut in cuts if cut and os.path.exists(os.path.expanduser(pair[cut + 1 :] or " "))), None)
        if place is None:
            cause = "no such file or folder" if cuts else "it has no '='"
            raise errors.UsageError(f"--map-url cannot read {pair!r}", cause, "--map-url https://host/data=./data")
        found[pair[:place]] = str(Path(pair[place + 1 :]).expanduser().absolute())
    os.environ["MINIPIPE_URL_MAP"] = json.dumps(found)


def new_session() -> str:
    """Begin a session: whatever this process and its children start is marked with it."""
    mine = secrets.token_hex(16)
    os.environ[session.SESSION_VARIABLE] = mine
    return mine


def pin_inline() -> None:
    """Logic here, whatever the script says; `minipipe.sdk.inline` sees to the steps."""
    PipelineDecorator.run_locally()
    PipelineDecorator.debug_pipeline = PipelineDecorator.run_locally  # type: ignore[method-assign]


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """What ``--set`` says, by name: a text to be read by the parameter's type, or ``{"json": value}``.

    Raises:
        UsageError: a pair that cannot be read; nothing was started.
    """
    found: dict[str, Any] = {}
    given: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip(":"):
            raise errors.UsageError(f"--set cannot read {pair!r}", "it has no name or no value", "--set NAME=VALUE")
        before = given.setdefault(name.removesuffix(":"), pair)
        if name.removesuffix(":") in found:
            cause = f"it is given twice: --set {before} and --set {pair}"
            raise errors.UsageError(f"--set {name.removesuffix(':')} has two values", cause, "give one of them")
        found[name.removesuffix(":")] = _json(pair, value) if name.endswith(":") else _text(pair, value)
    return found


def _json(pair: str, value: str) -> dict[str, Any]:
    try:
        return {"json": json.loads(value)}
    except ValueError as error:
        hint = "text has no colon: --set NAME=TEXT"
        raise errors.UsageError(f"--set cannot read {pair!r}", f"not JSON: {error}", hint) from None


def _text(pair: str, value: str) -> str:
    if not value.startswith("@"):
        return value
    path = Path(value[1:])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        folder = path.parent if path.parent.is_dir() else Path()
        near = difflib.get_close_matches(path.name, os.listdir(folder), 1)
        hint = f"did you mean @{folder / near[0]}?" if near else "--set NAME=@FILE reads a text file"
        raise errors.UsageError(f"--set cannot read {pair!r}", str(error), hint) from None
