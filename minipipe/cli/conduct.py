"""What `minipipe run` and `minipipe resume` do: run a script here, serve and follow what it leaves behind, end in order."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minipipe import clearml, errors, frames, settings, states, told
from minipipe.cli import ending, output, script
from minipipe.cli.console import Console
from minipipe.cli.output import Output
from minipipe.cli.pool import Pool
from minipipe.cli.progress import Follower, Style
from minipipe.engine import worker as engine
from minipipe.sdk import auto, forks, inline, maintask, pipeline, session, stopping
from minipipe.store import lookup, naming, sessions, steering, workers
from minipipe.store.home import DATABASE, Store

INTERRUPTED = 130
_SETTLE_S = 5.0  # beyond the grace: for whoever has to notice
_KILL_S = 3.0


@dataclass(frozen=True, slots=True)
class Order:
    """What a command is to do.

    Attributes:
        session: marks what it starts; already in the environment.
        script: to be run here; None to follow `runs` only.
        arguments: of the script.
        runs: older runs that it goes on with: row id, number of attempts before.
        logs: show the steps' consoles.
        detach: start no pool and do not wait.
        timeout_s: the runs are aborted after so long; None for never.
        traceback: "user" or "full".
        source: text of the script; None for what its file holds.
        inline: this process executes the steps, one after the other; there is no pool, and no block is redrawn over a debugger.
    """

    session: str
    script: Path | None = None
    arguments: tuple[str, ...] = ()
    runs: tuple[tuple[int, int], ...] = ()
    logs: bool = False
    detach: bool = False
    timeout_s: float | None = None
    traceback: str = "user"
    source: str | None = None
    inline: bool = False


def conduct(order: Order, out: Output) -> int:
    """Carry out an order and tell how it ended; returns the exit code. The main thread must call it."""
    return _Conductor(order, out).run()


def _end_main_task(ended: script.Ended) -> None:
    """The script has ended, this process has not: a task that the script began ends with the script."""
    if ended.error is not None:
        maintask.note_error(ended.error)
    elif maintask.main_task() is not None:
        maintask.note_exit(ended.code)
    maintask.close()


class _Conductor:
    """One order on its way. State that the signal handler, the timer and the follower's thread share."""

    def __init__(self, order: Order, out: Output) -> None:
        self.order = order
        self.out = out
        self.settings = settings.load_settings()
        self.home = settings.store_home()
        self.store = Store.open(self.home, create=False) if (self.home / DATABASE).exists() else None
        self.scope = sessions.scope_from_now(self.store, order.session, order.runs)
        self.console = Console(stdout_to_stderr=out.json)
        progress = "off" if out.quiet else self.settings.progress
        style = Style(progress, out.color, order.logs, not order.inline and not order.detach, stream=out.format == "jsonl")
        say = self.console.line if progress != "off" else lambda line: None
        pool = None if order.detach or order.inline else Pool(self.home, order.session, self.settings.slots, say)
        self.quiet = progress == "off"
        self.pool = pool
        self.follower = Follower(self.home, self.scope, self.console, style, pool, self._pool_failed)
        self.signals = 0
        self.interrupted = False
        self.killed = ""  # the run that the second signal ended
        self.gave_up_at: float | None = None
        self.pool_error: errors.MinipipeError | None = None
        self.timed_out = False

    def run(self) -> int:
        """See `conduct`."""
        timer = threading.Timer(self.order.timeout_s or 0.0, self._time_out)
        timer.daemon = True
        ended = script.Ended()
        guarding = self.console.guarding() if self.follower.style.redraws else contextlib.nullcontext()
        executing = inline.executing(self.order.session) if self.order.inline else contextlib.nullcontext()
        with self._listening(), guarding, executing:
            self.follower.start()
            if self.order.timeout_s is not None:
                timer.start()
            try:
                if self.order.script is not None:
                    auto.watch()  # before the script imports anything
                    pipeline.of_script.clear()
                    if self.settings.clearml_alias:
                        clearml.install(note=None if self.quiet else output.note)
                    with self.console.remembering():
                        ended = script.run(self.order.script, self.order.arguments, self.order.source)
                        _end_main_task(ended)
                self.interrupted = ended.interrupted
                if not self.order.detach:
                    self._follow()
            except KeyboardInterrupt:
                self.interrupted = True
            finally:
                timer.cancel()
                self._leave()
        return self._conclude(ended)

    # -- following ----------------------------------------------------------------------------------------------------

    def _open_store(self) -> Store | None:
        if self.store is None and (self.home / DATABASE).exists():
            self.store = Store.open(self.home, create=False)
        return self.store

    def _follow(self) -> None:
        """Wait until no run of the command waits or runs."""
        store = self._open_store()
        if store is None:
            return
        try:
            if self.interrupted:
                raise KeyboardInterrupt
            inline.wait(store, lambda: self._done(store), tick=lambda: self._reap(store))
        except KeyboardInterrupt:
            self.interrupted = True
            self._abort(store, "interrupted")
            inline.wait(store, lambda: self._done(store), tick=lambda: self._reap(store))

    def _done(self, store: Store) -> bool:
        late = self.gave_up_at is not None and time.monotonic() >= self.gave_up_at
        return late or not sessions.open_runs(store, self.scope)

    def _reap(self, store: Store) -> None:
        workers.reap(store, self.settings.max_crashes, engine.sweep)

    def _abort(self, store: Store, reason: str) -> bool:
        """Stop what is open; from now on patience is limited. True if there was anything."""
        self.gave_up_at = time.monotonic() + self.settings.grace_s + _SETTLE_S
        ids = sessions.open_runs(store, self.scope)
        if ids:
            stopping.stop(store, ids, reason)  # a script that began its task itself is told by a signal, also the one in here
        return bool(ids)

    def _leave(self) -> None:
        # The pool first: what its steps print in their last moment is still shown.
        if self.pool is not None:
            self.pool.stop(_SETTLE_S + (self.settings.drain_s if self.gave_up_at is None else self.settings.grace_s))
        self.follower.stop()
        if self.pool is not None and self.pool.process is not None and self.store is not None:
            with contextlib.suppress(errors.MinipipeError):
                self._reap(self.store)

    # -- what other threads call --------------------------------------------------------------------------------------

    def _time_out(self) -> None:
        self.timed_out = True
        asked = False
        with contextlib.suppress(errors.MinipipeError):
            own = Store.open(self.home, create=False)
            asked = self._abort(own, f"ran longer than {self.order.timeout_s:g} s (--timeout)")
            own.close()
        if not asked:
            # A real signal: the script may be in a sleep or a read, which a mere note to the interpreter does not end.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _pool_failed(self, error: errors.MinipipeError) -> None:
        self.pool_error = error
        with contextlib.suppress(errors.MinipipeError):
            own = Store.open(self.home, create=False)
            self._abort(own, error.message)
            own.close()

    # -- signals ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a background job ignores Ctrl-C, one under nohup a hangup
                before[number] = signal.signal(number, self._on_signal)
        try:
            with forks.sparing_children(self._on_signal):
                yield
        finally:
            for number, handler in before.items():
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGHUP and self.signals:
            return  # of the same closed terminal: the shell sends one to its jobs, the system another as the shell ends
        self.signals += 1
        output.leave_closed_terminal()
        if self.signals == 1:
            if self.follower.store is not None and not self.quiet:
                words = f"stopping: up to {self.settings.grace_s + _SETTLE_S:.0f}s (again: at once)"
                self.follower.footer = f"  {words}"
                if not self.follower.style.redraws:
                    # Not by a text stream: the signal may have come in the middle of a write.
                    with contextlib.suppress(OSError):
                        os.write(2, f"{words}\n".encode())
            raise KeyboardInterrupt
        # Our own entry among the living goes, so that our run counts as abandoned and is stopped with everything else.
        session.abandon()
        thread = threading.Thread(target=self._kill_everything, daemon=True)
        thread.start()
        thread.join(_KILL_S)
        if self.killed and not self.quiet:
            with contextlib.suppress(OSError):
                os.write(2, f"\nkilled   next: minipipe resume {self.killed}\n".encode())
        os._exit(INTERRUPTED)

    def _kill_everything(self) -> None:
        if self.pool is not None:
            self.pool.kill()
        store = Store.open(self.home, create=False)
        mine = [row for row in workers.alive(store) if row["session"] == self.order.session and row["pid"] != os.getpid()]
        for row in mine:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(row["pid"], signal.SIGKILL)
        runs = [run for run in sessions.runs(store, self.scope) if run["run_name"] and run["status"] != states.CREATED]
        self.killed = runs[0]["uid"][:8] if runs else ""
        steering.abort(store, sessions.open_runs(store, self.scope), "killed")
        while any(row["session"] == self.order.session for row in workers.alive(store)):
            time.sleep(0.005)
        self._reap(store)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _conclude(self, ended: script.Ended) -> int:
        output.leave_closed_terminal()
        store = self._open_store()
        runs = sessions.runs(store, self.scope) if store is not None else []
        self._print_traceback(ended)
        if store is not None and runs and not self.order.detach:
            self._print_end(store, runs)
        error, code = self._error(store, runs, ended)
        if error is not None:
            ending.tell(error, self.out.color)
        elif code == 0:
            self._note(store, runs)
        if self.out.json:
            facts = output.plain(ending.document(store, runs, error, code))
            line = self.out.format == "jsonl"
            self.console.document(json.dumps(facts, indent=None if line else 2, default=str))
        elif self.order.detach and code == 0:
            for run in runs:
                output.write(run["uid"][:8])
        return code

    def _print_traceback(self, ended: script.Ended) -> None:
        ours = isinstance(ended.error, (errors.MinipipeError, KeyboardInterrupt))
        if ended.error is not None and (not ours or self.order.traceback == "full"):
            self.console.line(frames.traceback_text(ended.error, self.order.traceback == "full").rstrip("\n"))

    def _print_end(self, store: Store, runs: list[sqlite3.Row]) -> None:
        if self.quiet:
            return
        # A data set that a step made is shown by its run; one that a script made is what the script was for.
        runs = [run for run in runs if lookup.DATASETS not in run["project"]] or runs
        steps = {run["id"]: sessions.steps(store, run["id"]) for run in runs}
        every = [step for group in steps.values() for step in group]
        if every:
            ending.print_table(every)
        for run in runs:
            print(ending.closing_line(store, run, steps[run["id"]], len(runs) > 1), file=sys.stderr)
        self._note_refresh([step["name"] for step in every])
        sys.stderr.flush()

    @staticmethod
    def _note_refresh(names: list[str]) -> None:
        """Say which names of --refresh no step had."""
        had = {"*", *names, *(name.rpartition("_")[0] for name in names)}
        for asked in filter(None, (part.strip() for part in os.environ.get("MINIPIPE_REFRESH", "").split(","))):
            if asked not in had:
                there = ", ".join(names[:8]) + (" …" if len(names) > 8 else "") or "none"
                output.note(f"--refresh {asked}: no step is called that; the steps are {there}")

    def _error(
        self, store: Store | None, runs: list[sqlite3.Row], ended: script.Ended
    ) -> tuple[errors.MinipipeError | None, int]:
        """What went wrong, the most telling first, and the exit code."""
        bad = [run for run in runs if run["status"] not in states.GOOD and run["status"] != states.CREATED]
        resume = f"minipipe {naming.again(bad[0])} {bad[0]['uid'][:8]}" if bad else ""
        stopped = bool(bad) or ended.interrupted
        if self.pool_error is not None:
            return self.pool_error, self.pool_error.exit_code
        if self.timed_out and stopped:
            shown = ", ".join(f"run {run['uid'][:8]}" for run in bad) or self._script_name()
            late = f"{shown} was stopped: it ran longer than {self.order.timeout_s:g} s"
            return errors.WaitTimeout(late, f"--timeout {self.order.timeout_s:g}", resume), errors.WaitTimeout.exit_code
        if self.interrupted and stopped:
            return errors.RunFailed("interrupted", "", resume), INTERRUPTED
        error = None if self.order.detach and not ended.code else self._failure(store, bad, ended, resume)
        return error, 0 if error is None else error.exit_code

    def _failure(
        self, store: Store | None, bad: list[sqlite3.Row], ended: script.Ended, resume: str
    ) -> errors.MinipipeError | None:
        if isinstance(ended.error, errors.MinipipeError) and not (isinstance(ended.error, errors.WorkFailed) and bad):
            return self._placed(ended.error)
        if ended.error is None and ended.code:
            cause = f"run {bad[0]['uid'][:8]} {bad[0]['status']}: {bad[0]['reason']}" if bad else ""
            return errors.WorkFailed(f"{self._script_name()} exited with code {ended.code}", cause, resume)
        if bad and store is not None:
            return ending.failure(store, bad[0], sessions.steps(store, bad[0]["id"]))
        if ended.error is not None:
            return errors.WorkFailed(f"{self._script_name()} raised {frames.last_line(ended.error)}", frames.where(ended.error))
        return self._leftover()

    def _placed(self, error: errors.MinipipeError) -> errors.MinipipeError:
        """The error with the line of the script that led to it."""
        place = frames.where(error).partition(",")[0]
        if place and not isinstance(error, errors.WorkFailed) and place not in error.cause:
            error.cause = f"{place}; {error.cause}" if error.cause else place
        return error

    def _leftover(self) -> errors.MinipipeError | None:
        """What the command was told and nothing took."""
        complaint = told.complaint(self._script_name())
        if complaint is not None:
            return complaint
        if os.environ.get(session.RESUME_VARIABLE):
            cause = f"{self._script_name()} does not start its pipeline any more"
            return errors.UsageError("the run was not resumed", cause, "minipipe run starts a new one")
        return None

    def _note(self, store: Store | None, runs: list[sqlite3.Row]) -> None:
        if self.quiet:
            return
        if not runs and self.order.script is not None:
            idle = [repr(name) for name in dict.fromkeys(pipeline.of_script)]
            if idle:
                several, rest = ("s", "starts none of them") if len(idle) > 1 else ("", "never starts it")
                output.note(f"{self._script_name()} defines pipeline{several} {', '.join(idle)} and {rest}", "warning")
            else:
                output.note(f"{self._script_name()} started no task")
        if self.order.detach and store is not None:
            waiting = sessions.waiting_queues(store, self.scope) - set(workers.served_queues(store))
            for queue in sorted(waiting):
                flag = "" if queue in ("default", "services") else f" --queue {queue}"
                output.note(f"no worker serves queue {queue!r}: the run waits; start one: minipipe worker{flag}")

    def _script_name(self) -> str:
        return frames.shown_path(str(self.order.script)) if self.order.script is not None else "the script"
