"""What came of a run, for assertions: facts are read from the store, and what is wrong is said with the job table."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import sqlite3
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

from minipipe import states
from minipipe.cli import ending
from minipipe.sdk import session
from minipipe.sdk.artifact import Artifacts
from minipipe.sdk.task import Task
from minipipe.store import records, sessions
from minipipe.store.home import Store

LOG_LINES = 20


class TaskView:
    """A task of the test's store.

    Attributes:
        id: 32 hex digits.
        name: its name.
        status: as stored: completed, failed, skipped …
        task: as the SDK gives it.
    """

    def __init__(self, store: Store, row: sqlite3.Row) -> None:
        self._store = store
        self._row = row
        self.id = str(row["uid"])
        self.name = str(row["name"])
        self.status = str(row["status"])
        self.task = Task(store, row["id"], row["uid"])

    @property
    def params(self) -> dict[str, Any]:
        """Parameters, typed: those of sections ``Args`` and ``kwargs`` by their bare name, all by ``Section/name``."""
        found: dict[str, Any] = self.task.get_parameters(cast=True)
        bare = {name.partition("/")[2]: value for name, value in found.items() if name.startswith(("Args/", "kwargs/"))}
        return {**found, **bare}

    @property
    def artifacts(self) -> Artifacts:
        """Stored values by name; ``artifacts["model"].get()`` loads one."""
        return self.task.artifacts

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each: single values by name, series as ``title/series``."""
        found = {}
        for title, group in self.task.get_last_scalar_metrics().items():
            for name, values in group.items():
                found[name if title == "Summary" else f"{title}/{name}"] = values["last"]
        return found

    @property
    def error(self) -> dict[str, str]:
        """Type, message, where and traceback of what ended it badly; empty if nothing did."""
        return dict(json.loads(self._row["error"])) if self._row["error"] else {}

    @property
    def console(self) -> str:
        """What its last attempt printed."""
        try:
            text = self._store.log_path(self.id, self._row["attempt"]).read_text("utf-8", "backslashreplace")
        except OSError:
            return ""
        first, newline, rest = text.partition("\n")
        return rest if first.startswith("minipipe: ") else first + newline + rest


class StepView(TaskView):
    """One step of a run.

    Attributes:
        cached: an earlier step's outputs served it.
        attempts: number of tries.
    """

    def __init__(self, store: Store, row: sqlite3.Row) -> None:
        super().__init__(store, row)
        self.cached = row["cached_uid"] is not None
        self.attempts = int(row["attempt"])

    @property
    def results(self) -> dict[str, Any]:
        """What its function returned, by the names of ``return_values``."""
        names = json.loads(self._row["entry"]).get("returns", [])
        return {name: records.value_of(self._store, self._row["id"], name, session.scratch()) for name in names}

    def __repr__(self) -> str:
        return f"<step {self.name} {self.status}{' (cached)' if self.cached else ''}>"


class Steps(dict[str, StepView]):
    """A dict that says what is there, where something else is asked for."""

    def __missing__(self, name: str) -> StepView:
        raise KeyError(f"no step {name!r}; the run has {', '.join(self) or 'none'}")


class Run:
    """What `run_pipeline` gives: the newest pipeline that the target ran, or the newest task if it ran none.

    Attributes:
        exit_code: 0 if the target ended well.
        console: what the target printed; in inline runs its steps' words too.
        error: what the target raised, None if nothing.
        value: what a decorated pipeline returned.
        tasks: everything that it left in the store and that is no step, oldest first.
    """

    def __init__(
        self, store: Store, made: Sequence[sqlite3.Row], exit_code: int, console: str, error: BaseException | None, value: Any
    ) -> None:
        self._store = store
        self.exit_code = exit_code
        self.console = console
        self.error = error
        self.value = value
        self.tasks = [TaskView(store, row) for row in made]
        pipelines = [row for row in made if row["run_name"]]
        rows = pipelines or list(made)
        self._row: sqlite3.Row | None = rows[-1] if rows else None
        self._view = None if self._row is None else TaskView(store, self._row)

    @cached_property
    def steps(self) -> Steps:
        """Its steps by name, in the order they were submitted."""
        rows = sessions.steps(self._store, self._row["id"]) if self._row is not None else []
        return Steps({row["name"]: StepView(self._store, row) for row in rows})

    @property
    def status(self) -> str:
        """The run's status; "" if the target made no task."""
        return "" if self._view is None else self._view.status

    @property
    def ok(self) -> bool:
        """True if it completed, and the target ended well."""
        return self.exit_code == 0 and self.status in ("", *states.GOOD, states.CREATED)

    @property
    def id(self) -> str:
        """32 hex digits."""
        return self._task().id

    @property
    def name(self) -> str:
        """Its two-word name, or the name of the task."""
        view = self._task()
        return str(self._row["run_name"] or view.name) if self._row is not None else ""

    @property
    def params(self) -> dict[str, Any]:
        """See `TaskView.params`."""
        return self._task().params

    @property
    def artifacts(self) -> Artifacts:
        """What the pipeline itself stored."""
        return self._task().artifacts

    @property
    def metrics(self) -> dict[str, float]:
        """What the pipeline itself reported."""
        return self._task().metrics

    def _task(self) -> TaskView:
        assert self._view is not None, f"the target started no task, exit code {self.exit_code}"
        return self._view

    # -- assertions ---------------------------------------------------------------------------------------------------

    def assert_completed(self, *steps: str) -> Self:
        """The run completed; with names: these steps did (cached ones count)."""
        __tracebackhide__ = True
        if not steps and not (self.ok and self.status in states.GOOD):
            self._complain(f"the run did not complete: it {self._how()}")
        self._check_each(steps, lambda step: step.status in states.GOOD, "did not complete")
        return self

    def assert_failed(self, step: str | None = None, match: str | None = None) -> Self:
        """The run failed; at this step; with words that this regular expression finds in its error or console."""
        __tracebackhide__ = True
        if self.ok:
            self._complain(f"the run did not fail: it {self._how()}")
        if step is not None:
            self._check_each((step,), lambda one: one.status == states.FAILED, "did not fail")
        if match is not None and not re.search(match, text := self._words(step)):
            self._complain(f"{match!r} is not in what {step or 'the run'} said:\n{text}")
        return self

    def assert_cached(self, *steps: str) -> Self:
        """These steps were served by earlier ones."""
        __tracebackhide__ = True
        self._check_each(steps, lambda step: step.cached, "was not cached")
        return self

    def assert_skipped(self, *steps: str) -> Self:
        """These steps were skipped."""
        __tracebackhide__ = True
        self._check_each(steps, lambda step: step.status == states.SKIPPED, "was not skipped")
        return self

    def assert_order(self, *steps: str) -> Self:
        """Each of these steps ended before the next one began."""
        __tracebackhide__ = True
        self._check_each(steps, lambda step: True, "")
        for first, second in itertools.pairwise(steps):
            ended, row = self.steps[first]._row["ended_at"], self.steps[second]._row
            began = row["started_at"] or row["ended_at"]
            if ended is None or began is None or ended > began:
                self._complain(f"{first!r} did not end before {second!r} began")
        return self

    def _check_each(self, steps: Sequence[str], good: Any, what: str) -> None:
        __tracebackhide__ = True
        for name in steps:
            if name not in self.steps:
                self._complain(f"there is no step {name!r}: the run has {', '.join(self.steps) or 'none'}")
            if not good(self.steps[name]):
                self._complain(f"step {name!r} {what}: it is {self.steps[name].status}")

    def _complain(self, what: str) -> None:
        __tracebackhide__ = True
        raise AssertionError(what)  # the job table and the failed step's log stand below, in a section of the report

    def _how(self) -> str:
        return f"is {self.status}, exit code {self.exit_code}" if self._view else f"started no task, exit code {self.exit_code}"

    def _words(self, step: str | None) -> str:
        rows = [self.steps[step]] if step is not None else list(self.steps.values())
        parts = [f"{one._row['reason']}\n{one.error.get('message', '')}\n{one.console}" for one in rows]
        return "\n".join([*parts, *([] if step else [self.console, str(self.error or "")])])

    # -- what a person sees -------------------------------------------------------------------------------------------

    def told(self) -> str:
        """The job table, and the last lines of the log of each step that failed."""
        title = f"{self.name} {self.id[:8]}: {self.status}" if self._view else "no task"
        parts = [f"{title}, exit code {self.exit_code}"]
        rows = sessions.steps(self._store, self._row["id"]) if self._row is not None else []
        if rows:
            table = io.StringIO()
            with contextlib.redirect_stderr(table):
                ending.print_table(rows)
            parts.append(table.getvalue().rstrip())
        failed = [step for step in self.steps.values() if step.status == states.FAILED]
        for step in failed:
            lines = step.console.splitlines()[-LOG_LINES:] or [str(step._row["reason"])]
            parts.append("\n".join([f"log of {step.name}:", *(f"  {line}" for line in lines)]))
        if not failed and self.exit_code:
            parts.append("\n".join(["console:", *(f"  {line}" for line in self.console.splitlines()[-LOG_LINES:])]))
        return "\n".join(parts)

    def __repr__(self) -> str:
        return f"<run {self.name} {self.id[:8]} {self.status}>" if self._view else f"<run of no task, exit code {self.exit_code}>"
