"""``minipipe worker``: serve queues in this process until told to leave."""

from __future__ import annotations

import os
import signal
import sys
import time

import click

from minipipe import settings
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.engine.worker import Options, Worker
from minipipe.store import naming, workers
from minipipe.store.home import Store


@click.command()
@click.option("--queue", "queues", multiple=True, metavar="Q", help="Serve this queue; may be repeated (default and services).")
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="Steps at a time (default: CPUs).")
@click.option("--once", is_flag=True, help="Leave after one task.")
@click.option("--until-idle", is_flag=True, help="Leave when nothing waits or runs.")
@click.option("--name", metavar="NAME", help="How it is shown.")
@click.option("--isolation", type=click.Choice(settings.CHOICES["isolation"]), metavar="HOW", help="fork or spawn.")
@output.pass_output
def worker(
    out: Output, queues: tuple[str, ...], jobs: int | None, once: bool, until_idle: bool, name: str | None, isolation: str | None
) -> int:
    """Start a worker that executes queued tasks.

    It makes the store if there is none. Ctrl-C or SIGTERM: running steps get some time to finish, a second one ends them at once;
    they go back to their queue, uncounted.

    \b
    Examples:
      minipipe worker -j 2
      minipipe worker --queue gpu
      minipipe worker --until-idle
    """
    if isolation is not None:
        os.environ["MINIPIPE_ISOLATION"] = isolation  # its step host reads it too
    found = settings.load_settings(jobs=jobs)
    served = tuple(dict.fromkeys(naming.checked("queue", name) for name in queues)) or Options().queues
    store = out.open_store(create=True)
    options = Options(queues=served, slots=found.slots, once=once, until_idle=until_idle, name=name)
    speaker = _Speaker(out)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave_early)
    serving: Worker | None = None
    try:
        serving = Worker(store, options, speaker.say)
        speaker.welcome(store, serving)
        return serving.run()
    except _LeftEarly:
        if serving is not None:
            workers.leave(store, serving.registration)
        return 0


class _LeftEarly(BaseException):
    """A signal came before the worker's loop listens for signals: nothing was claimed yet."""


def _leave_early(number: int, frame: object) -> None:
    raise _LeftEarly


class _Speaker:
    """Writes what the worker says. A closed pipe or terminal silences it: the work goes on."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self.silent = out.quiet

    def welcome(self, store: Store, serving: Worker) -> None:
        """The first line, or (``-q``) the worker's id alone."""
        slots = serving.options.slots
        registration = serving.registration
        queues = serving.options.queues
        if self.out.format == "json" or self.out.format == "jsonl":
            facts: dict[str, object] = {"id": registration.uid, "name": registration.name, "pid": os.getpid()}
            facts |= {"queues": list(queues), "slots": slots}
            output.print_json(facts, line=self.out.format == "jsonl")
            sys.stdout.flush()
            self.silent = self.silent or self.out.format == "json"  # one document
        elif self.out.quiet:
            output.write(registration.uid)
            sys.stdout.flush()
        else:
            self._write(
                f"{registration.name} (pid {os.getpid()}) serves {', '.join(queues)};"
                f" {slots} {'slot' if slots == 1 else 'slots'}; store {output.shown_path(store.path)}"
            )

    def say(self, text: str) -> None:
        """A start, an end, or that it is leaving."""
        if self.silent:
            return
        if self.out.format == "jsonl":
            self._write("", {"at": output.iso(time.time()), "text": text})
        elif text.startswith("stopping:"):
            self._write(text)
        else:
            self._write(f"{output.clock(time.time(), self.out.utc)[11:]} {text}")

    def _write(self, text: str, document: dict[str, object] | None = None) -> None:
        try:
            if document is not None:
                output.print_json(document, line=True)
            else:
                print(output.escape(text), flush=True)
        except OSError:
            self.silent = True
            output.silence(sys.stdout.fileno())
