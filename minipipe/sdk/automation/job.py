"""The execution of one task, to be launched, watched and ended (ClearML's `clearml.automation.job`).

`BaseJob` is also what callbacks of a pipeline see as ``node.job``.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from minipipe import errors, settings, states
from minipipe.sdk import inline, local, notice, session, stopping, template_key
from minipipe.sdk.task import Task
from minipipe.sdk.values import tags_of
from minipipe.shown import warn
from minipipe.store import details, edits, objectives, promote, records, steering, waiting
from minipipe.store.home import Store


class BaseJob:
    """A task whose execution is watched. Facts are read when asked for, so none is ever stale.

    Attributes:
        task: the task; None once the job was deleted.
        task_parameter_override: what a copy of a template was told, as it was written; None if nothing.
    """

    task: Task
    task_parameter_override: dict[str, Any] | None

    def __init__(self) -> None:
        self.task = None  # type: ignore[assignment]  # of a job that has none nothing can be asked
        self.task_parameter_override = None
        self._cached: bool | None = None

    def _row(self) -> sqlite3.Row:
        row = details.task_by_id(self._owner.store, self._owner.row_id)
        if row is None:
            raise errors.NotFound(f"task {self._owner.id[:8]} was deleted")
        return row

    @property
    def _owner(self) -> Task:
        if self.task is None:
            raise errors.NotFound("the job has no task", "it was deleted, or never had one")
        return self.task

    # -- facts --------------------------------------------------------------------------------------------------------

    def task_id(self) -> str:
        """Id of its task."""
        return self._owner.id

    def status(self, force: bool = False) -> str:
        """The task's status, in the task's words; always the present one, with `force` or without."""
        return str(self._row()["status"])

    def status_message(self) -> str:
        """Why it is in that status."""
        return str(self._row()["reason"])

    @classmethod
    def update_status_batch(cls, jobs: Sequence[BaseJob]) -> None:
        """Nothing is kept in memory, so nothing has to be fetched: returns at once."""

    def is_running(self) -> bool:
        """True while an attempt runs."""
        return self.status() == states.IN_PROGRESS

    def is_pending(self) -> bool:
        """True before the first attempt."""
        return self.status() in (states.CREATED, states.PENDING, states.QUEUED)

    def is_stopped(self, aborted_nonresponsive_as_running: bool = False) -> bool:
        """True once it has ended, however it did.

        Args:
            aborted_nonresponsive_as_running: accepted for ClearML; a task whose worker died is queued again here, so it has not
                ended.
        """
        return self.status() in states.ENDED

    def is_failed(self) -> bool:
        """True if it failed."""
        return self.status() == states.FAILED

    def is_completed(self) -> bool:
        """True if it succeeded."""
        return self.status() in states.GOOD

    def is_aborted(self) -> bool:
        """True if it was stopped."""
        return self.status() == states.STOPPED

    def is_cached_task(self) -> bool:
        """True if an earlier task's outputs serve it."""
        return bool(self._row()["cached_from"]) if self._cached is None else self._cached

    def started(self) -> bool:
        """True once an attempt has begun."""
        return self._row()["started_at"] is not None

    def elapsed(self) -> float:
        """Seconds since the start, until the end once it has ended; -1 before the start."""
        row = self._row()
        if row["started_at"] is None:
            return -1.0
        return float(max(0.0, (row["ended_at"] or time.time()) - row["started_at"]))

    def _times(self) -> tuple[float | None, float | None]:
        """When the last attempt began and when the task ended, seconds since 1970."""
        row = self._row()
        return row["started_at"], row["ended_at"]

    def iterations(self) -> int:
        """The highest iteration that it reported; -1 before the start."""
        return self._owner.get_last_iteration() if self.started() else -1

    def get_metric(self, title: str, series: str) -> tuple[float, float, float]:
        """(min, max, last) of a metric; zeros if nothing was reported."""
        found = objectives.reached(self._owner.store, [self._owner.row_id], title, series).get(self._owner.row_id)
        return (found[0].smallest, found[0].largest, found[0].last) if found else (0.0, 0.0, 0.0)

    def get_console_output(self, number_of_reports: int = 1) -> Sequence[str]:
        """The last lines of its log, oldest first."""
        return self._owner.get_reported_console_output(number_of_reports)

    def worker(self) -> str | None:
        """Name of the worker that runs it or ran it last; None before that."""
        return None if self.is_pending() else self._owner.last_worker or None

    # -- acts ---------------------------------------------------------------------------------------------------------

    def launch(self, queue_name: str | None = None) -> bool:
        """Put it into a queue.

        Args:
            queue_name: made if need be; a queue that nobody serves is named on stderr.

        Returns:
            False if it was not launched: an earlier task serves it, or its status does not allow it (said in a warning).

        Transaction effect: one durable commit.
        """
        if self.is_cached_task():
            return False
        try:
            Task.enqueue(self._owner, queue_name)
        except ValueError as error:
            warn(f"task {self.task_id()[:8]} was not launched: {str(error).splitlines()[0]}", stacklevel=2)
            return False
        return True

    def abort(self) -> None:
        """Stop it, whatever it is doing; a second time changes nothing. Transaction effect: one durable commit."""
        self._stop("aborted")

    def _stop(self, reason: str) -> None:
        if self.task is not None:
            stopping.stop(self.task.store, [self.task.row_id], reason)

    def wait(
        self, timeout: float | None = None, pool_period: float = 30.0, aborted_nonresponsive_as_running: bool = False
    ) -> bool:
        """Wait for its end, at most `timeout` minutes; True if it has ended. Woken by change, whatever `pool_period` says."""
        return inline.wait(self._owner.store, self.is_stopped, None if timeout is None else timeout * 60.0)

    def delete(self) -> bool:
        """Remove its task before it is launched. Returns False if there is none, or an earlier task serves it.

        Raises:
            ValueError: it runs; abort it first.
        """
        if self.task is None or self.is_cached_task():
            return False
        self.task.delete()
        self.task = None  # type: ignore[assignment]
        return True

    @classmethod
    def register_hashing_callback(cls, *args: Any, **kwargs: Any) -> None:
        """Not offered: what decides whether an earlier task may serve is fixed (see "cache key" in the README)."""
        raise errors.NotSupported(
            "BaseJob.register_hashing_callback is not offered by minipipe",
            "the cache key is the code and all that a task is told",
            "add an argument: it goes into the key",
        )

    @staticmethod
    def get_metric_req_params(*args: Any, **kwargs: Any) -> None:
        """Not offered: there are no requests to a server."""
        raise errors.NotSupported(
            "BaseJob.get_metric_req_params is not offered by minipipe", "there is no server", "get_metric(title, series)"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task!r}>"


class ClearmlJob(BaseJob):
    """A copy of a task, told other parameters.

    Args:
        base_task_id: id of the task to copy.
        parameter_override: {"Section/name": value}; a name without section is in ``General``.
        task_overrides: facts of the copy: ``name``, ``comment``, ``tags``, ``project`` (id or name), ``type``. What stands under
            ``script.``, ``container.``, ``execution.`` or ``output.`` is recorded.
        configuration_overrides: {name: text or dict}.
        tags: added to the copy.
        parent: id of the parent; default the copied task.
        disable_clone_task: run the task itself, which has to be a draft; else a copy is made all the same, with a warning.
        allow_caching: if an equal task completed earlier, take its results instead of running.
        target_project: name of the copy's project; default that of the task.
        output_uri: recorded.
        enable_local_imports: accepted for ClearML; a copy has the import root of its task.
        kwargs: of `Task.clone`: ``name``, ``comment``, ``project``.

    Raises:
        NotFound: no such task.
        UsageError: an override that a task does not know.

    Transaction effect: some durable commits; the copy is a draft until `launch`.
    """

    def __init__(
        self,
        base_task_id: str,
        parameter_override: Mapping[str, str] | None = None,
        task_overrides: Mapping[str, str] | None = None,
        configuration_overrides: Mapping[str, str | Mapping[str, Any]] | None = None,
        tags: Sequence[str] | None = None,
        parent: str | None = None,
        disable_clone_task: bool = False,
        allow_caching: bool = False,
        target_project: str | None = None,
        output_uri: str | bool | None = None,
        enable_local_imports: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        base = Task.by_id(str(base_task_id))
        configurations = _configurations(configuration_overrides or {})
        facts = _facts(task_overrides or {})
        if disable_clone_task and base.status != states.CREATED:
            warn(f"task {base.id[:8]} is {base.status}, no draft: a copy of it runs", stacklevel=2)
            disable_clone_task = False
        if disable_clone_task:
            self.task = base
            if parent:
                base.set_parent(parent)
        else:
            place = target_project or kwargs.pop("project", None)
            self.task = Task.clone(base, parent=parent, project=place, **{k: v for k, v in kwargs.items() if k != "project"})
        if parameter_override:
            self.task_parameter_override = dict(parameter_override)
            self.task.update_parameters(parameter_override)
        for name, text in configurations.items():
            edits.set_configuration(self.task.store, self.task.row_id, name, text)
        _apply(self.task, {**facts, **({} if output_uri is None else {"output_uri": output_uri})})
        if tags:
            self.task.add_tags(tags_of(tags))
        if allow_caching:
            promote.serve_draft(self.task.store, self.task.row_id, template_key.key_base(base))

    @classmethod
    def _of(cls, store: Store, row_id: int, uid: str, overrides: dict[str, Any] | None = None) -> ClearmlJob:
        """The job of a task that is there already (a pipeline's step)."""
        found = cls.__new__(cls)
        BaseJob.__init__(found)
        found.task, found.task_parameter_override = Task(store, row_id, uid), overrides
        return found


class LocalClearmlJob(ClearmlJob):
    """A copy of a task that runs on this machine without a worker: this process has one of its own.

    Args:
        args, kwargs: as for `ClearmlJob`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def launch(self, queue_name: str | None = None) -> bool:
        """Start it. See `BaseJob.launch`; `queue_name` is ignored (ClearML's rule).

        It waits while as many run as the setting ``jobs`` says. It ends with this process. Transaction effect: one durable commit.
        """
        if self.is_cached_task():
            return False
        name, store = local.session(), self._owner.store
        try:
            steering.enqueue(store, self._owner.row_id, "default", name, private=True)
        except errors.IllegalMove as error:
            warn(f"task {self.task_id()[:8]} was not launched: {error.message}", stacklevel=2)
            return False
        local.ensure_worker(store, name, settings.load_settings().slots)
        return True

    def status(self, force: bool = False) -> str:
        """See `BaseJob.status`."""
        found = super().status(force)
        if found not in states.ENDED:
            local.check_worker(self._owner.store, local.session(), settings.load_settings().slots)
        return found

    def wait_for_process(self, timeout: int | None = None) -> int | None:
        """Wait for its end.

        Args:
            timeout: seconds, None waits for ever.

        Returns:
            0 if it completed, 1 if it did not, None if it has not ended (or was never launched).
        """
        if self.status() == states.CREATED:
            return None
        if not waiting.wait(self._owner.store, self.is_stopped, timeout):
            return None
        return 0 if self.is_completed() else 1


class RunningJob(BaseJob):
    """The job of a task that is there already.

    Args:
        existing_task: the task or its id.
    """

    def __init__(self, existing_task: Task | str) -> None:
        super().__init__()
        self.task = Task.of(existing_task)

    def force_set_is_cached(self, cached: bool) -> None:
        """Say what `is_cached_task` is to answer."""
        self._cached = bool(cached)


# -- overrides ----------------------------------------------------------------------------------------------------------

_OWN = ("name", "comment", "tags", "system_tags", "project", "type")
_RECORDED = ("script", "container", "execution", "output")


def _facts(overrides: Mapping[str, Any]) -> dict[str, Any]:
    for name in overrides:
        if name not in _OWN and name.partition(".")[0] not in _RECORDED:
            known = ", ".join((*_OWN, *(f"{part}.…" for part in _RECORDED)))
            raise errors.UsageError(f"task_overrides has no {name!r}", f"it knows {known}")
    return dict(overrides)


def _apply(task: Task, facts: Mapping[str, Any]) -> None:
    recorded = {}
    for name, value in facts.items():
        if name in ("tags", "system_tags"):
            (task.set_tags if name == "tags" else task.set_system_tags)(value)
        elif name == "project":
            known = records.project_of(session.open_store(), uid=str(value)) is not None
            task.set_project(project_id=str(value)) if known else task.set_project(project_name=str(value))
        elif name in _OWN:
            {"name": task.set_name, "comment": task.set_comment, "type": task.set_task_type}[name](str(value))
        else:
            notice.recorded(f"task_overrides {name!r}" if name != "output_uri" else "ClearmlJob(output_uri=…)", _WHY)
            recorded[name] = value
    if recorded:
        edits.amend(task.store, task.row_id, edits.facts(task.store, task.row_id), recorded)


_WHY = "a copy runs the code that was stored, in the worker's Python; one store holds everything"


def _configurations(overrides: Mapping[str, Any]) -> dict[str, str]:
    for name, value in overrides.items():
        if not isinstance(value, (str, Mapping)):
            raise errors.UsageError(f"configuration {name!r} is a {type(value).__name__}", "it has to be a text or a dict")
    return {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in overrides.items()}
