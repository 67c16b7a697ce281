"""When a scheduled job is due. All times are UTC (ClearML's rule).

The fields say an interval in their largest unit and a place in it in the smaller ones: ``hour=1, minute=30`` is every hour at half past,
``day=2, hour=7`` every other day at 7:00, ``month=1, day=5`` the fifth of every month, ``year=1, month=3, day=4`` every fourth of March;
``year=2030, …`` is one date. With ``weekdays`` only these count: ``day=0, hour=8`` is once on each of them, ``hour=2`` every two hours.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from minipipe import errors
from minipipe.sdk.task import Task
from minipipe.sdk.task_base import TaskBase
from minipipe.store import lookup

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FIRST_YEAR = 2000  # from here on `year` is a date, not an interval (ClearML's rule)
_UNITS = ("minute", "hour", "day", "month", "year")


@dataclass(slots=True)
class Job:
    """What is launched: a copy of a task, or a function of this process.

    Attributes:
        name: for people; of a task its id if nobody gave one.
        base_task_id: the task to copy.
        base_function: or the function to call, in a thread.
        queue: where copies go.
        target_project: name of their project; default the task's.
        single_instance: leave a time out while the last one still waits or runs.
        task_parameters, task_overrides: as for `ClearmlJob`.
        clone_task: False enqueues the task itself again.
        executed_instances: ids of the copies so far.
    """

    name: str | None = None
    base_task_id: str | None = None
    base_function: Callable[..., Any] | None = None
    queue: str | None = None
    target_project: str | None = None
    single_instance: bool = False
    task_parameters: Mapping[str, Any] | None = None
    task_overrides: Mapping[str, Any] | None = None
    clone_task: bool = True
    executed_instances: list[str] = field(default_factory=list)

    _STATE: ClassVar[tuple[str, ...]] = ("executed_instances",)

    def verify(self) -> None:
        """Refuse what cannot be launched.

        Raises:
            UsageError: neither or both of task and function, a task without queue, a function without name.
        """
        if bool(self.base_task_id) == (self.base_function is not None):
            raise errors.UsageError("give a task or a function, and not both", hint="schedule_task_id=… or schedule_function=…")
        if self.base_function is not None and not callable(self.base_function):
            raise errors.UsageError(f"a {type(self.base_function).__name__} cannot be called")
        if self.base_function is not None and not self.name:
            raise errors.UsageError("a function needs a name", hint="name=…")
        if self.base_task_id and not self.queue:
            raise errors.UsageError(f"task {self.base_task_id[:8]} needs a queue", hint='queue="default"')

    def facts(self) -> dict[str, Any]:
        """What the job is told, as plain data; without what it has done so far, and without functions."""
        return {name: _plain(getattr(self, name)) for name in self._names() if name not in (*self._STATE, "base_function")}

    def state(self) -> dict[str, Any]:
        """What it has done so far, as plain data."""
        return {name: _plain(getattr(self, name)) for name in self._STATE}

    def update(self, told: Mapping[str, Any]) -> None:
        """Take over facts or state; unknown names are left alone."""
        for name in self._names():
            if name in told:
                setattr(self, name, _read(name, told[name]))

    def _names(self) -> list[str]:
        return [each.name for each in fields(self)]

    def project_of_copies(self) -> str | None:
        """Project of the copies: that of a pipeline is a place of its own under the one that was named (ClearML's rule)."""
        if not self.target_project or not self.base_task_id or lookup.PIPELINES in f"{self.target_project}/":
            return self.target_project
        task = Task.by_id(self.base_task_id)
        return (
            f"{self.target_project}{lookup.PIPELINES}{task.name}" if "pipeline" in task.get_system_tags() else self.target_project
        )

    def to_dict(self, full: bool = False) -> dict[str, Any]:
        """See `facts`; with `full` also what it has done so far."""
        return {**self.facts(), **(self.state() if full else {})}


@dataclass(slots=True)
class ScheduleJob(Job):
    """A job with times. The fields of time are explained above.

    Attributes:
        execution_limit_hours: abort a copy after so long.
        recurring: False launches it once.
        starting_time: times before it do not count.
        last_executed: when it was launched last, None before.
    """

    execution_limit_hours: float | None = None
    recurring: bool = True
    starting_time: datetime | None = None
    minute: float | None = None
    hour: float | None = None
    day: float | None = None
    weekdays: Sequence[str] | None = None
    month: float | None = None
    year: float | None = None
    last_executed: datetime | None = None

    _STATE: ClassVar[tuple[str, ...]] = ("executed_instances", "last_executed", "starting_time")

    def verify(self) -> None:
        """See `Job.verify`.

        Raises:
            UsageError: also for times that there are not.
        """
        super(ScheduleJob, self).verify()
        given = {unit: getattr(self, unit) for unit in _UNITS if getattr(self, unit)}
        for unit, value in given.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 0:
                raise errors.UsageError(f"{unit}={value!r} is no number of {unit}s", "it has to be a positive integer")
        if not given:
            raise errors.UsageError("the job has no time", f"one of {', '.join(_UNITS)} has to be given")
        if self.weekdays:
            wrong = [each for each in self.weekdays if each not in WEEKDAYS]
            if wrong:
                raise errors.UsageError(f"{wrong[0]!r} is no weekday", f"known are {', '.join(WEEKDAYS)}")
            if self.day not in (None, 0, 1):
                raise errors.UsageError(f"weekdays and day={self.day} contradict each other", "day has to be 0, 1 or left out")
            if self.day is None and not self.year and not self.month and not _interval(self):
                raise errors.UsageError("on these weekdays nothing is due", "hour or minute has to be given, or day=0")

    def next_run(self) -> datetime | None:
        """When it is due next, also if that has passed; None if never again."""
        if self.last_executed is not None and (not self.recurring or (self.year or 0) > _FIRST_YEAR):
            return None
        start = self.starting_time or datetime.now(UTC)
        if (self.year or 0) > _FIRST_YEAR:
            return self._on_date(int(self.year or 0))
        if self.last_executed is not None:
            return self._after(self.last_executed)
        if start.timestamp() <= 0:
            return start  # at once
        return self._first(start)

    def next(self) -> datetime | None:
        """See `next_run`."""
        return self.next_run()

    def _on_date(self, year: int) -> datetime:
        month, day = int(self.month or 1), int(self.day or 1)
        date = datetime(year, month, min(day, calendar.monthrange(year, month)[1]), tzinfo=UTC) + self._time()
        while self.weekdays and WEEKDAYS[date.weekday()] not in self.weekdays:
            date += timedelta(days=1)
        return date

    def _time(self) -> timedelta:
        return timedelta(hours=self.hour or 0, minutes=self.minute or 0)

    def _first(self, start: datetime) -> datetime:
        """The first time after `start`: in the interval that has begun, if it is not over yet."""
        if self._is_dated():
            this = self._dated(start, 0)
            return this if this > start else self._dated(start, 1)
        if self.weekdays:
            return self._on_weekdays(start, first=True)
        if self.day or self.hour:
            here = self._begin(start) + (self._time() if self.day else timedelta(minutes=self.minute or 0))
            return here if here > start else self._after(start)
        return self._after(start)

    def _after(self, last: datetime) -> datetime:
        """The next time after it was launched at `last`."""
        if self._is_dated():
            return self._dated(last, 1)
        if self.weekdays:
            return self._on_weekdays(last, first=False)
        if self.day:
            return self._begin(last) + timedelta(days=self.day) + self._time()
        if self.hour:
            return self._begin(last) + timedelta(hours=self.hour, minutes=self.minute or 0)
        return last + timedelta(minutes=self.minute or 0)

    def _begin(self, moment: datetime) -> datetime:
        """Begin of the day or hour."""
        moment = moment.replace(minute=0, second=0, microsecond=0)
        return moment.replace(hour=0) if self.day else moment

    def _is_dated(self) -> bool:
        return bool(self.year or self.month)

    def _dated(self, moment: datetime, intervals: int) -> datetime:
        """The month's or year's day and time, so many intervals after that of `moment`."""
        if self.year:
            year, month = moment.year + intervals * int(self.year), int(self.month or moment.month)
        else:
            months = moment.month - 1 + intervals * int(self.month or 0)
            year, month = moment.year + months // 12, months % 12 + 1
        day = min(int(self.day or 1), calendar.monthrange(year, month)[1])
        return datetime(year, month, day, tzinfo=UTC) + self._time()

    def _on_weekdays(self, moment: datetime, first: bool) -> datetime:
        today = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        if self.day is None:  # an interval within these days
            step = _interval(self)
            begin = moment.replace(second=0, microsecond=0)
            later = begin.replace(minute=0) + step if self.hour else begin + step
            if self._counts(moment) and later.date() == moment.date():
                return later
            place = step
        else:
            place = self._time()
            if first and self._counts(moment) and today + place > moment:
                return today + place
        day = today + timedelta(days=1)
        while not self._counts(day):
            day += timedelta(days=1)
        return day + place

    def _counts(self, day: datetime) -> bool:
        return WEEKDAYS[day.weekday()] in (self.weekdays or WEEKDAYS)


def _interval(job: ScheduleJob) -> timedelta:
    return timedelta(hours=job.hour or 0, minutes=job.minute or 0)


_TIMES = ("starting_time", "last_executed", "last_update")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, TaskBase):
        return value.id
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, (tuple, set)) else value


def _read(name: str, value: Any) -> Any:
    if name in _TIMES and isinstance(value, str):
        found = datetime.fromisoformat(value)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return value
