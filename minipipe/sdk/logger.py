"""What a running task reports: scalars, single values, text (ClearML's `Logger`)."""

from __future__ import annotations

import logging
import math
from typing import Any

from minipipe.sdk import session
from minipipe.store import records

_firsts: dict[tuple[str, str], int] = {}


class Logger:
    """Reports for one task. Get it from `Task.get_logger` or `Logger.current_logger`."""

    def __init__(self, task: session.Current) -> None:
        self._task = task

    @classmethod
    def current_logger(cls) -> Logger | None:
        """The logger of the task that runs here, None if there is none."""
        current = session.current()
        return None if current is None else cls(current)

    def report_scalar(self, title: str, series: str, value: float, iteration: int) -> None:
        """Append a point to a series.

        Args:
            title: name of the chart.
            series: name of the line in it.
            value: the number; nan and infinities are kept.
            iteration: its place on the horizontal axis.

        Transaction effect: one commit without sync; monitored points reach the pipeline in the same one.
        """
        self._report(str(title), str(series), value, int(iteration))

    def report_single_value(self, name: str, value: float) -> None:
        """Store a number that has no iteration; the last one of a name counts."""
        self._report("Summary", str(name), value, None)

    def report_text(self, msg: str, level: int = logging.INFO, print_console: bool = True, *args: Any, **_: Any) -> None:
        """Write a line to the task's log.

        Args:
            msg: the text; ``%`` placeholders are filled from `args`.
            level: a level of `logging`, shown unless it is INFO.
            print_console: False keeps it off the console (and so, here, out of the log).
            args: for the placeholders.
        """
        if print_console:
            text = msg % args if args else msg
            print(text if level == logging.INFO else f"{logging.getLevelName(level)} {text}", flush=True)

    def flush(self, wait: bool = False) -> bool:
        """Nothing is buffered: returns True at once."""
        return True

    def _first_iteration(self) -> int:
        """What a continued task adds to iterations; asked once per attempt."""
        lease = self._task.lease
        key = (self._task.uid, lease.token if lease is not None else "")
        if lease is None:
            return 0  # somebody else's report
        if key not in _firsts:
            _firsts.clear()
            _firsts[key] = int(records.settings_of(self._task.store, self._task.row_id).get("first_iteration", 0))
        return _firsts[key]

    def _report(self, title: str, series: str, value: Any, iteration: int | None) -> None:
        number = float(value)
        if iteration is not None:
            iteration += self._first_iteration()
        # SQLite has no nan; it is stored as NULL and comes back as nan.
        records.report(
            self._task.store,
            self._task.lease,
            self._task.row_id,
            title,
            series,
            None if math.isnan(number) else number,
            iteration,
        )
