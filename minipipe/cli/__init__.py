"""The ``minipipe`` command: verbs that load when used, options that every verb has, one shape for every error.

Start-up is part of the interface: ``minipipe --version`` imports click and nothing heavier, so this module imports no other
minipipe module; verbs, and the output module for errors, are loaded by name.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import click

from minipipe import __version__, errors


class Verb(NamedTuple):  # dataclasses would be the most expensive import of `--version`
    """A command of the command line.

    Attributes:
        place: "module:attribute" of its click command.
        group: heading in the help.
        summary: its line in the help; the first line of the command's own help.
    """

    place: str
    group: str
    summary: str


VERBS = {
    "run": Verb("minipipe.cli.run:run", "Run", "Run a script, its pipelines and their steps."),
    "rerun": Verb("minipipe.cli.rerun:rerun", "Run", "Start a new run from an old one, parameters changed."),
    "resume": Verb("minipipe.cli.resume:resume", "Run", "Go on with an ended run; finished steps stay."),
    "abort": Verb("minipipe.cli.abort:abort", "Run", "Stop runs or steps, with all their processes."),
    "status": Verb("minipipe.cli.status:status", "Look", "List runs, newest first."),
    "ps": Verb("minipipe.cli.status:status", "", "The same as status."),
    "watch": Verb("minipipe.cli.watch:watch", "Look", "Watch a run until it ends."),
    "show": Verb("minipipe.cli.show:show", "Look", "Show a run or a step."),
    "logs": Verb("minipipe.cli.logs:logs", "Look", "Print what steps printed."),
    "graph": Verb("minipipe.cli.graph:graph", "Look", "Show the steps of a run and what flows between them."),
    "timeline": Verb("minipipe.cli.timeline:timeline", "Look", "Show when each step waited and ran."),
    "report": Verb("minipipe.cli.report:report", "Look", "Write a run as one HTML file that can be mailed."),
    "artifacts": Verb("minipipe.cli.artifacts:artifacts", "Look", "List the artifacts of a run or a step."),
    "get": Verb("minipipe.cli.artifacts:get", "Look", "Save an artifact to a file."),
    "metrics": Verb("minipipe.cli.metrics:metrics_of", "Look", "Show what steps measured."),
    "diff": Verb("minipipe.cli.diff:diff", "Look", "Compare runs: what differs."),
    "cache": Verb("minipipe.cli.cache:cache", "Look", "Ask why a step ran, or make the cache forget."),
    "step": Verb("minipipe.cli.step:step", "Run", "Run one step once more, in this process, on its recorded inputs."),
    "worker": Verb("minipipe.cli.worker:worker", "Serve", "Start a worker that executes queued tasks."),
    "queue": Verb("minipipe.cli.queue:queue", "Serve", "List queues, pause and resume them, move what waits."),
    "check": Verb("minipipe.cli.check:check", "Keep", "Say what would fail on a real ClearML agent."),
    "doctor": Verb("minipipe.cli.doctor:doctor", "Keep", "Check the store and its surroundings."),
    "completion": Verb("minipipe.cli.completion:completion", "Keep", "Print the completion script of a shell."),
    "gc": Verb("minipipe.cli.gc:gc", "Keep", "Remove what nothing needs, and give its room back."),
    "export": Verb("minipipe.cli.bundle:export", "Keep", "Write runs to one file that another store can take in."),
    "import": Verb("minipipe.cli.bundle:import_", "Keep", "Take in the runs of a file that export wrote."),
    "du": Verb("minipipe.cli.du:du", "Keep", "Show what takes how much room."),
}
_COMPLETE = "_MINIPIPE_COMPLETE"  # set by the shell that asks what may follow
_GROUPS = ("Run", "Look", "Serve", "Keep")


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _output() -> Any:
    return importlib.import_module("minipipe.cli.output")


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value not in (None, False):
        _output().remember(context, parameter, value)


def _everywhere() -> list[click.Parameter]:
    """Options of every verb, written before or after it."""

    def option(*names: str, **facts: Any) -> click.Parameter:
        return click.Option(names, expose_value=False, callback=_remember, **facts)

    return [
        option("--home", metavar="DIR", help="Store directory."),
        option(
            "--format",
            type=click.Choice(("table", "tsv", "github", "json", "jsonl")),
            metavar="FORMAT",
            help="table, tsv, github, json or jsonl.",
        ),
        option("--json", is_flag=True, help="The same as --format json."),
        option("-q", "--quiet", is_flag=True, help="Ids only."),
        option("--color", type=click.Choice(("auto", "always", "never")), metavar="WHEN", help="auto, always or never."),
        option("--utc", is_flag=True, help="Tables show UTC, not local time."),
    ]


def _equip(command: click.Command) -> click.Command:
    """Give a verb, and the verbs below it, the options that all have."""
    known = {name for parameter in command.params for name in parameter.opts}
    command.params.extend(one for one in _everywhere() if not known.intersection(one.opts))
    if _COMPLETE in os.environ:
        candidates = _load("minipipe.cli.completion:candidates")
        for parameter in command.params:
            if parameter.type is click.STRING and (isinstance(parameter, click.Argument) or parameter.metavar in ("Q", "P")):
                parameter._custom_shell_complete = candidates
    command.context_settings.setdefault("help_option_names", ["-h", "--help"])
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _equip(child)
    return command


class Root(click.Group):
    """The top command. Its `main` never lets an exception out: each becomes words and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command = _load(verb.place)
        assert isinstance(command, click.Command)
        return _equip(command)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that is meant, or say which one may be."""
        if args and args[0] not in VERBS:
            near = importlib.import_module("difflib").get_close_matches(args[0], VERBS, 1)
            raise errors.UsageError(
                f"minipipe has no verb {args[0]!r}",
                f"it has {', '.join(VERBS)}",
                f"did you mean minipipe {near[0]}?" if near else "minipipe --help",
            )
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Verbs by group; nothing is loaded for it."""
        formatter.write_text("minipipe: pipelines without a server.")
        with formatter.section("Examples"):
            formatter.write_dl(
                [
                    ("minipipe run flow.py", "run a script"),
                    ("minipipe status", "what ran"),
                    ("minipipe VERB -h", "more on a verb"),
                ]
            )
        for group in _GROUPS:
            with formatter.section(group):
                formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items() if verb.group == group])
        with formatter.section("Options, before or after the verb"):
            records = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx)]
            formatter.write_dl([record for record in records if record is not None])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run the command line and exit.

        Args:
            args: default those of this process.
            prog_name: name in usage lines.
            extra: for click.
        """
        if _COMPLETE in os.environ:
            click_completion = importlib.import_module("click.shell_completion")
            name = prog_name or "minipipe"
            sys.exit(click_completion.shell_complete(self, {}, name, _COMPLETE, os.environ[_COMPLETE]))
        given = list(sys.argv[1:] if args is None else args)
        _prepare_streams()
        try:
            code = self._perform(given, prog_name or "minipipe", extra)
            sys.stdout.flush()
        except BaseException as error:
            code = _explain(error, given)
        sys.exit(code if isinstance(code, int) else 0)

    def _perform(self, args: list[str], prog_name: str, extra: dict[str, Any]) -> Any:
        # Not click's own main: it turns a closed pipe into exit code 1.
        try:
            with self.make_context(prog_name, list(args), **extra) as context:
                return self.invoke(context)
        except click.exceptions.Exit as stop:
            return stop.exit_code


@click.group("minipipe", cls=Root, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="minipipe", message="%(prog)s %(version)s")
@click.pass_context
def root(context: click.Context) -> None:
    """Pipelines without a server."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


root.params.extend(_everywhere())


def main() -> NoReturn:
    """Entry point of the ``minipipe`` command."""
    root.main()


# -- errors -------------------------------------------------------------------------------------------------------------


def _prepare_streams() -> None:
    """What an encoding cannot write is written as an escape, never an error: names come from anywhere. A stream that was closed
    before we began is the null device: else the next file that is opened would take its number, and its prints."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: mostly this one
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _explain(error: BaseException, args: list[str]) -> int:
    """Turn what a verb raised into words and the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        _drop_stdout()
        return 0
    with contextlib.suppress(BrokenPipeError):
        return _tell(error, args)
    _drop_stdout()
    return 1


# A full, failing, closed or foreign disk, and a system without memory or descriptors: no defect of ours.
_FAULTS_OF_THE_WORLD = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOMEM, errno.EMFILE, errno.ENFILE),
)


def _tell(error: BaseException, args: list[str]) -> int:
    if isinstance(error, (KeyboardInterrupt, EOFError, click.Abort)):
        return _report(args, "Interrupted", 130, "interrupted")
    if isinstance(error, errors.MinipipeError):
        return _report(args, type(error).__name__, error.exit_code, error.message, error.cause, error.hint)
    if isinstance(error, click.ClickException):
        return _report(args, "UsageError", 2, *_words_of(error, args))
    if isinstance(error, OSError) and error.errno in _FAULTS_OF_THE_WORLD:
        return _report(args, "StoreError", 4, f"cannot use {error.filename or 'a file'}", error.strerror or str(error))
    import traceback

    traceback.print_exception(error)
    what = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return _report(args, type(error).__name__, 1, what, "", "minipipe doctor --bundle bug.zip", lead="this is a bug: ")


def _report(args: list[str], kind: str, code: int, message: str, cause: str = "", hint: str = "", lead: str = "") -> int:
    output = _output()
    if _wants_json(args):
        facts = {"code": code, "kind": kind, "message": message, "cause": cause, "hint": hint}
        output.print_json({"error": facts}, line="jsonl" in " ".join(args))
        sys.stdout.flush()
    if lead:
        print(lead + hint, file=sys.stderr)
        return code
    for word, text in (("error", message), ("cause", cause), ("hint", hint)):
        lines = [output.escape(line) for line in text.splitlines()]
        if lines:
            indent = "" if word == "error" else "  "
            print(f"{indent}{output.style(f'{word}:', word, sys.stderr)} " + "\n         ".join(lines), file=sys.stderr)
    return code


def _words_of(error: click.ClickException, args: list[str]) -> tuple[str, str, str]:
    context = getattr(error, "ctx", None)
    verb = context.info_name if context is not None else "minipipe"
    named = next((arg for arg in args if arg in VERBS), "")
    help_line = f"{context.command_path if context is not None else f'minipipe {named}'.strip()} -h"
    if isinstance(error, click.NoSuchOption):
        near = ", ".join((error.possibilities or ())[:2])
        if verb == "run":
            import shlex

            place = next((i for i, arg in enumerate(args) if arg.partition("=")[0] == error.option_name), len(args))
            script = [arg for arg in args[:place] if arg.endswith(".py")][:1] or ["SCRIPT"]
            rest = args[place:] or [error.option_name]
            cause = "the script's options stand after --"
            return f"run has no option {error.option_name!r}", cause, shlex.join(["minipipe", "run", *script, "--", *rest])
        return f"{verb} has no option {error.option_name!r}", "", f"did you mean {near}?" if near else help_line
    parameter = getattr(error, "param", None)
    if parameter is not None and isinstance(parameter.type, click.Choice):
        given = error.message.partition("'")[2].partition("'")[0]
        close = importlib.import_module("difflib").get_close_matches(given, map(str, parameter.type.choices), 1)
        if close:
            name = parameter.opts[-1] + " " if isinstance(parameter, click.Option) else ""
            return error.format_message().rstrip("."), "", f"did you mean {name}{close[0]}?"
    if isinstance(context and context.command, click.Group) and error.message.startswith("No such command "):
        return _unknown_below(context, error.message.removeprefix("No such command ").rstrip(".").strip("'"))
    return " ".join(error.format_message().split()).rstrip("."), "", help_line


def _unknown_below(context: Any, name: str) -> tuple[str, str, str]:
    """A verb of a group (``queue``, ``cache``) that does not exist."""
    known = context.command.list_commands(context)
    near = importlib.import_module("difflib").get_close_matches(name, known, 1)
    path = f"minipipe {context.info_name}"
    hint = f"did you mean {path} {near[0]}?" if near else f"{path} -h"
    return f"{context.info_name} has no verb {name!r}", f"it has {', '.join(known)}", hint


def _wants_json(args: list[str]) -> bool:
    """Whether this command line asks for JSON; also where it is too wrong to be parsed."""
    own = args[: args.index("--")] if "--" in args else args
    words = " ".join(own).replace("--format=", "--format ").split(" ")
    asked = any(pair in (("--format", "json"), ("--format", "jsonl")) for pair in itertools.pairwise(words))
    return asked or "--json" in words


def _drop_stdout() -> None:
    """The reader is gone: nothing may complain about it, not even the flush when Python ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        _output().silence(sys.stdout.fileno())
