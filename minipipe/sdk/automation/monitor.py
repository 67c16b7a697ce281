"""A service that looks at tasks as they change (ClearML's `Monitor`): derive from it and say what to do with each."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from minipipe import errors
from minipipe.sdk import session
from minipipe.sdk.task import Task
from minipipe.shown import tell_lines
from minipipe.store import details, search, sessions, waiting

_TICK_S = 0.25


class Monitor:
    """Calls `process_task` for each task whose status changed and that fits `get_query_parameters`."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._expressions: list[str] = []
        self._ids: list[str] | None = None
        self._task_name: str | None = None
        self._seen: int | None = None

    def set_projects(
        self,
        project_names: Sequence[str] | None = None,
        project_names_re: Sequence[str] | None = None,
        project_ids: Sequence[str] | None = None,
    ) -> None:
        """Look only at tasks of some projects; default all.

        Args:
            project_names: exact names.
            project_names_re: regular expressions, found anywhere in the name.
            project_ids: ids.

        Raises:
            UsageError: a regular expression that is none.
        """
        self._names = list(project_names or ())
        self._expressions = [search.expression(each).pattern for each in project_names_re or ()]
        self._ids = list(project_ids) if project_ids else None

    def set_task_name_filter(self, task_name_filter: str | None = None) -> None:
        """Look only at tasks of such names: a regular expression, found anywhere; None for all.

        Raises:
            UsageError: it is no regular expression.
        """
        self._task_name = search.expression(task_name_filter).pattern if task_name_filter else None

    def monitor(self, pool_period: float = 15.0) -> None:
        """Look until the process is stopped; does not return.

        Args:
            pool_period: seconds between two looks at the most; a change of a status is seen at once.

        Raises:
            SystemExit: the task that runs here was stopped (``minipipe abort``).
        """
        store, current = session.open_store(), session.current()
        self._begin()

        def news() -> bool:
            return self._is_stopped(current) or sessions.last_event(store) != self._seen

        while not self._is_stopped(current):
            self.monitor_step()
            waiting.wait(store, news, pool_period, lambda: None, _TICK_S)
        sys.stdout.flush()
        sys.exit(1)

    def monitor_step(self) -> None:
        """Look once: `process_task` is called for each task that moved since the last look and fits. What it raises is printed.

        The first look is at what moves from then on. To watch several things in one process, call this of each by turns.
        """
        self._begin()
        store = session.open_store()
        try:
            wanted = {"name": self._task_name, **self.get_query_parameters()}
            with store.database.snapshot():  # a change between two looks would be seen now and once more later
                moved, seen = sessions.moved_since(store, self._seen or 0)
                rows = search.find(store, ids=moved, projects=self._projects(), wanted=wanted) if moved else []
            self._seen = seen
        except errors.UsageError as error:
            tell_lines(f"the tasks to look at are not well described: {error}")
            return
        for row in rows:
            try:
                self.process_task(Task(store, row["id"], row["uid"]))
            except Exception:
                tell_lines(f"process_task failed for {row['uid'][:8]}:\n{traceback.format_exc()}")

    def _begin(self) -> None:
        if self._seen is None:
            self._seen = sessions.last_event(session.open_store())

    @staticmethod
    def _is_stopped(current: session.Current | None) -> bool:
        if current is None:
            return False
        row = details.task_by_id(current.store, current.row_id)
        return row is None or bool(row["abort_requested"])

    def get_query_parameters(self) -> dict[str, Any]:
        """What tasks to look at, as for `Task.query_tasks(task_filter=…)`; override it. This one says those that failed."""
        return {"status": ["failed"], "order_by": ["-last_update"]}

    def process_task(self, task: Task) -> None:
        """What to do with a task that moved and fits. Override it."""

    def _projects(self) -> list[str] | None:
        """Names of the projects to look at; None for all."""
        if not (self._ids or self._names or self._expressions):
            return None
        return [
            row["name"]
            for row in search.projects(session.open_store())
            if row["uid"] in (self._ids or ())
            or row["name"] in self._names
            or any(re.search(each, row["name"]) for each in self._expressions)
        ]
