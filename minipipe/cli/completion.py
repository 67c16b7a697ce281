"""``minipipe completion``: what a shell needs to complete verbs, options, runs, steps, artifacts and queues.

Completing only reads, says nothing, and offers nothing where something is wrong: it happens while somebody types.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

from minipipe import errors
from minipipe.store import details, lookup, queues, views
from minipipe.store.home import Store

VARIABLE = "_MINIPIPE_COMPLETE"
_RECENT = 60  # runs that are offered


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(minipipe completion bash)"                  in ~/.bashrc
      eval "$(minipipe completion zsh)"                   in ~/.zshrc
      minipipe completion fish > ~/.config/fish/completions/minipipe.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    root = click.get_current_context().find_root().command
    # Not `source`: for bash it starts a bash to ask for its version.
    finder = made(root, {}, "minipipe", VARIABLE)
    click.echo(finder.source_template % finder.source_vars())


def candidates(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What may stand for an argument or option of a verb, by what its help calls it (RUN, RUN/STEP, Q, …)."""
    metavar = (parameter.metavar or parameter.name or "").upper()
    if "SCRIPT" in metavar or metavar in ("F", "FILE", "PATH", "DIR", "F.ZIP"):
        return [CompletionItem(incomplete, type="dir" if metavar == "DIR" else "file")]
    with contextlib.suppress(errors.MinipipeError, OSError):
        store = Store.open(context.find_root().params.get("home"), create=False)
        found = [CompletionItem(value, help=words) for value, words in _offered(store, metavar, incomplete)]
        store.close()
        return [item for item in found if str(item.value).startswith(incomplete)]
    return []


def _offered(store: Store, metavar: str, incomplete: str) -> Iterable[tuple[str, str]]:
    if "RUN" in metavar or metavar.strip("[].") in ("A B [C", "TASK"):
        yield from _tasks(store, incomplete, steps="STEP" in metavar or metavar != "[RUN]", artifacts="NAME" in metavar)
    elif metavar == "Q":
        yield from ((one.name, "paused" if one.paused else f"{one.queued} queued") for one in queues.queues(store, ()))
    elif metavar == "P":
        pipelines, projects = views.known_names(store)
        yield from ((name, "") for name in (*pipelines, *projects))


def _tasks(store: Store, incomplete: str, steps: bool, artifacts: bool) -> Iterable[tuple[str, str]]:
    run, slash, rest = incomplete.partition("/")
    if not slash:
        yield from ((name, "") for name in ("@last", "@last-failed") if incomplete.startswith("@"))
        for one in views.tasks_of(store, views.Filter(_RECENT), ()):
            words = f"{one.pipeline} {one.row['status']}"
            # An id only where one was begun: it says less than a name.
            as_id = incomplete and one.row["uid"].startswith(incomplete)
            yield (one.row["uid"][: max(8, len(incomplete))] if as_id else one.row["run_name"]), words
        return
    if not steps:
        return
    task = lookup.find_run(store, run)
    name, slash, _ = rest.partition("/")
    if slash and artifacts:
        step = lookup.find_step(store, task, name)
        outputs = (one for one in details.artifacts_of(store, step) if one["role"] == "output")
        yield from ((f"{run}/{name}/{one['name']}", one["type"]) for one in outputs)
    else:
        yield from ((f"{run}/{step['name']}", step["status"]) for step in views.steps_of(store, task["id"]))
