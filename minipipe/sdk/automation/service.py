"""A script that waits for something and then launches tasks or calls functions: what schedules and triggers have in common."""

from __future__ import annotations

import datetime
import json
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from minipipe import errors, states
from minipipe.sdk.automation.job import ClearmlJob
from minipipe.sdk.automation.schedule import Job
from minipipe.sdk.task import Task
from minipipe.store import details, edits, waiting

_TICK_S = 0.25  # how soon an abort is seen
_AFTER_ERROR_S = 15.0
STATE = "state"
"""Name of the configuration in which a service keeps what it has done, for when it is started again."""


class BaseScheduler:
    """A service with a task of its own: that of the script, or one that is begun here.

    Args:
        sync_frequency_minutes: accepted for ClearML: what is changed on the task is seen at once.
        force_create_task_name, force_create_task_project: begin a task of this name, default ``Scheduler`` in ``DevOps``.
        pooling_frequency_minutes: look at least so often.
    """

    def __init__(
        self,
        sync_frequency_minutes: float = 15,
        force_create_task_name: str | None = None,
        force_create_task_project: str | None = None,
        pooling_frequency_minutes: float | None = None,
    ) -> None:
        self._period_s = (pooling_frequency_minutes or sync_frequency_minutes) * 60.0
        current = None if force_create_task_name else Task.current_task()
        self._task = current or Task.init(
            force_create_task_project or "DevOps",
            force_create_task_name or "Scheduler",
            states.TaskTypes.service,
            reuse_last_task_id=False,
        )
        self._threads: dict[str, threading.Thread] = {}
        self._known: dict[str, str] = {}

    # -- running ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Serve until somebody stops the task (Ctrl-C, ``minipipe abort``); does not return.

        Raises:
            SystemExit: the task was stopped.
        """
        if Task.running_locally():
            self._write()
        else:
            self._read(edits.configurations(self._task.store, self._task.row_id))
        while not self._is_stopped():
            try:
                patience_s = self._step()
            except errors.AttemptLost:
                break
            except Exception:
                self._say(f"trying again in {_AFTER_ERROR_S:g} s:\n{traceback.format_exc()}")
                patience_s = _AFTER_ERROR_S
            waiting.wait(self._task.store, self._news, max(0.0, min(patience_s, self._period_s)), lambda: None, _TICK_S)
            self._hear()
        self._say("stopped")
        sys.stdout.flush()
        sys.exit(1)

    def start_remotely(self, queue: str = "services") -> None:
        """Leave the service to a worker and end this process; there, serve.

        Args:
            queue: of the service itself. On ``services`` it takes no slot.
        """
        if Task.running_locally():
            self._write()
        self._task.execute_remotely(queue_name=queue, exit_process=True)
        self.start()

    def _step(self) -> float:
        """Do what is due. Returns the seconds until something may be due again."""
        raise NotImplementedError

    def _news(self) -> bool:
        """True if there is something to do before the time is over."""
        return self._is_stopped() or self._told() != self._known

    def _is_stopped(self) -> bool:
        row = details.task_by_id(self._task.store, self._task.row_id)
        return row is None or bool(row["abort_requested"]) or row["status"] != states.IN_PROGRESS

    def _say(self, line: str) -> None:
        """A line of the service's log."""
        print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} {line}", flush=True)

    # -- what is stored -----------------------------------------------------------------------------------------------

    def _sections(self) -> dict[str, Sequence[Job]]:
        """The jobs by the name of the configuration that holds them."""
        raise NotImplementedError

    def _replace(self, section: str, jobs: Sequence[Job]) -> None:
        """Take over the jobs of a configuration that somebody changed."""
        raise NotImplementedError

    def _kind(self, section: str) -> type[Job]:
        """The class of a section's jobs."""
        raise NotImplementedError

    def _told(self) -> dict[str, str]:
        stored = edits.configurations(self._task.store, self._task.row_id)
        return {name: text for name, text in stored.items() if name in self._sections()}

    def _write(self) -> None:
        for section, jobs in self._sections().items():
            text = json.dumps([job.facts() for job in jobs], indent=2, default=str)
            edits.set_configuration(self._task.store, self._task.row_id, section, text, "json", f"{section} of this service")
        self._known = self._told()

    def _keep_state(self) -> None:
        """Store what was done, so that a service that is started again goes on and does not begin."""
        state = {section: {str(job.name): job.state() for job in jobs} for section, jobs in self._sections().items()}
        text = json.dumps(state, default=str)
        edits.set_configuration(self._task.store, self._task.row_id, STATE, text, "json", "what this service has done")

    def _hear(self) -> None:
        """Take over what somebody changed on the task."""
        told = self._told()
        if told != self._known:
            self._say("the configuration of the task has changed")
            self._read(told)

    def _read(self, stored: Mapping[str, str]) -> None:
        state = _json(stored.get(STATE)) or {}
        for section, jobs in self._sections().items():
            facts = _json(stored.get(section))
            mine = {str(job.name): job for job in jobs}
            if facts is None:
                self._say(f"configuration {section!r} cannot be read and is left out")
            else:
                try:
                    self._replace(section, [self._job(section, mine, each) for each in facts])
                except (ValueError, TypeError, AttributeError) as error:
                    self._say(f"configuration {section!r} is left out: {error}")
            for job in self._sections()[section]:
                job.update(state.get(section, {}).get(str(job.name), {}))
        self._known = self._told()

    def _job(self, section: str, mine: Mapping[str, Job], facts: Mapping[str, Any]) -> Job:
        found = mine.get(str(facts.get("name"))) or self._kind(section)()
        before = found.to_dict(full=True)
        found.update(facts)
        try:
            found.verify()
        except errors.UsageError:
            found.update(before)
            raise
        return found

    # -- launching ----------------------------------------------------------------------------------------------------

    def _launch(self, job: Job, parameters: Mapping[str, Any] | None, tag: str | None, arguments: Sequence[Any]) -> str | None:
        """Launch a job. Returns the id of the task, or None (a function, or it was left out, which is said)."""
        if job.base_function is not None:
            self._call(job, arguments)
            return None
        try:
            return self._enqueue(job, parameters, tag)
        except (errors.MinipipeError, ValueError) as error:
            self._say(f"{job.name!r} was not launched: {error}")
            return None

    def _enqueue(self, job: Job, parameters: Mapping[str, Any] | None, tag: str | None) -> str | None:
        last = job.executed_instances[-1] if job.executed_instances else None
        if job.single_instance and last and _is_open(last):
            self._say(f"{job.name!r} is left out: task {last[:8]} of the last time has not ended")
            return None
        if not job.clone_task:
            if _is_open(str(job.base_task_id)):
                self._say(f"{job.name!r} is left out: task {str(job.base_task_id)[:8]} has not ended")
                return None
            task_id = str(job.base_task_id)
            Task.enqueue(task_id, str(job.queue), force=True)
        else:
            made = ClearmlJob(
                str(job.base_task_id),
                parameter_override=parameters or job.task_parameters,
                task_overrides=job.task_overrides,
                tags=[tag] if tag else None,
                target_project=job.project_of_copies(),
            )
            task_id = made.task_id()
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                if not made.launch(job.queue):
                    self._say(f"{job.name!r} was not launched: {said[-1].message if said else 'its task was refused'}")
                    return None
        self._say(f"{job.name!r}: task {task_id[:8]} goes to queue {job.queue!r}")
        job.executed_instances.append(task_id)
        return task_id

    def _call(self, job: Job, arguments: Sequence[Any]) -> None:
        name = str(job.name)
        running = self._threads.get(name)
        if job.single_instance and running is not None and running.is_alive():
            self._say(f"{name!r} is left out: the function of the last time has not returned")
            return
        assert job.base_function is not None
        self._say(f"{name!r}: calls {getattr(job.base_function, '__name__', 'a function')}")
        thread = threading.Thread(target=job.base_function, args=tuple(arguments), name=f"minipipe-{name}", daemon=True)
        self._threads[name] = thread
        thread.start()


def _is_open(task_id: str) -> bool:
    try:
        return Task.by_id(task_id).status in (states.PENDING, states.QUEUED, states.IN_PROGRESS)
    except errors.NotFound:
        return False


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def now() -> datetime.datetime:
    """UTC."""
    return datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
