"""Tasks and functions at given times (ClearML's `TaskScheduler`)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

from minipipe import errors
from minipipe.sdk import stopping
from minipipe.sdk.automation.schedule import Job, ScheduleJob
from minipipe.sdk.automation.service import BaseScheduler, now
from minipipe.sdk.task import Task
from minipipe.sdk.task_base import TaskBase

_SECTION = "schedule"


class TaskScheduler(BaseScheduler):
    """Launches copies of tasks, or calls functions, at given times. See `minipipe.sdk.automation.schedule` for the times.

    Args:
        sync_frequency_minutes: accepted for ClearML: what is changed on the task is seen at once.
        force_create_task_name, force_create_task_project: see `BaseScheduler`.
    """

    def __init__(
        self,
        sync_frequency_minutes: float = 15,
        force_create_task_name: str | None = None,
        force_create_task_project: str | None = None,
    ) -> None:
        super().__init__(sync_frequency_minutes, force_create_task_name, force_create_task_project)
        self._jobs: list[ScheduleJob] = []
        self._said = ""
        self._limits: dict[str, datetime.datetime] = {}  # task -> when it is aborted

    def add_task(
        self,
        schedule_task_id: str | Task | None = None,
        schedule_function: Callable[..., Any] | None = None,
        queue: str | None = None,
        name: str | None = None,
        target_project: str | None = None,
        minute: int | None = None,
        hour: int | None = None,
        day: int | None = None,
        weekdays: list[str] | None = None,
        month: int | None = None,
        year: int | None = None,
        limit_execution_time: float | None = None,
        single_instance: bool = False,
        recurring: bool = True,
        execute_immediately: bool = False,
        reuse_task: bool = False,
        task_parameters: dict[str, Any] | None = None,
        task_overrides: dict[str, Any] | None = None,
    ) -> bool:
        """Add a job.

        Args:
            schedule_task_id: a task, or its id, to be copied and enqueued.
            schedule_function: or a function without arguments, called in a thread of this process.
            queue: of the copies.
            name: unique; default the task's id.
            target_project: project of the copies; default the task's.
            minute, hour, day, weekdays, month, year: when, in UTC; `weekdays` are English names in small letters.
            limit_execution_time: hours; a copy that takes longer is aborted.
            single_instance: leave a time out while the last copy still waits or runs.
            recurring: False launches it once.
            execute_immediately: also now.
            reuse_task: enqueue the task itself, reset if need be, instead of a copy.
            task_parameters, task_overrides: what a copy is told (see `ClearmlJob`).

        Returns:
            True.

        Raises:
            UsageError: no task and no function, or both; no queue; no such time; a name that is taken.
        """
        task_id = schedule_task_id.id if isinstance(schedule_task_id, TaskBase) else str(schedule_task_id or "")
        job = ScheduleJob(
            name=name or task_id,
            base_task_id=task_id,
            base_function=schedule_function,
            queue=queue,
            target_project=target_project,
            single_instance=bool(single_instance),
            task_parameters=task_parameters,
            task_overrides=task_overrides,
            clone_task=not reuse_task,
            execution_limit_hours=limit_execution_time,
            recurring=bool(recurring),
            starting_time=datetime.datetime.fromtimestamp(0, datetime.UTC) if execute_immediately else now(),
            minute=minute,
            hour=hour,
            day=day,
            weekdays=list(weekdays) if weekdays else None,
            month=month,
            year=year,
        )
        job.verify()
        if any(each.name == job.name for each in self._jobs):
            raise errors.UsageError(f"a job {job.name!r} is scheduled already", hint="name=…")
        self._jobs.append(job)
        return True

    def get_scheduled_tasks(self) -> list[ScheduleJob]:
        """The jobs."""
        return self._jobs

    def remove_task(self, task_id: str | Task | Callable[..., Any]) -> bool:
        """Take the jobs of a task, or of a function, out. Returns False if there was none."""
        wanted = task_id.id if isinstance(task_id, TaskBase) else task_id
        kept = [job for job in self._jobs if wanted not in (job.base_task_id, job.base_function)]
        found = len(kept) < len(self._jobs)
        self._jobs[:] = kept
        return found

    # -- running ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """See `BaseScheduler.start`."""
        super().start()

    def start_remotely(self, queue: str = "services") -> None:
        """See `BaseScheduler.start_remotely`."""
        super().start_remotely(queue)

    def _sections(self) -> dict[str, Sequence[Job]]:
        return {_SECTION: self._jobs}

    def _kind(self, section: str) -> type[Job]:
        return ScheduleJob

    def _replace(self, section: str, jobs: Sequence[Job]) -> None:
        self._jobs = [job for job in jobs if isinstance(job, ScheduleJob)]

    def _step(self) -> float:
        moment = now()
        for task_id, end in list(self._limits.items()):
            if moment >= end:
                del self._limits[task_id]
                self._abort(task_id)
        due = [job for job in self._jobs if (time := job.next_run()) is not None and time <= moment]
        for job in sorted(due, key=lambda job: job.next_run() or moment):
            self._run(job, moment)
        if due:
            self._keep_state()
        times = [time for job in self._jobs if (time := job.next_run()) is not None]
        next_time = f"next: {min(times):%Y-%m-%d %H:%M:%S} UTC" if times else "nothing is due"
        if next_time != self._said:
            self._said = next_time
            self._say(next_time)
        waits = [*times, *self._limits.values()]
        return max(0.0, (min(waits) - now()).total_seconds()) if waits else self._period_s

    def _run(self, job: ScheduleJob, moment: datetime.datetime) -> None:
        job.last_executed = moment
        task_id = self._launch(job, None, None, ())
        if task_id is not None and job.execution_limit_hours:
            self._limits[task_id] = moment + datetime.timedelta(hours=job.execution_limit_hours)

    def _abort(self, task_id: str) -> None:
        try:
            task = Task.by_id(task_id)
        except errors.NotFound:
            return
        if stopping.stop(task.store, [task.row_id], "it took longer than its schedule allows"):
            self._say(f"task {task_id[:8]} took too long and is stopped")
