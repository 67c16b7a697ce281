"""Tasks and functions when something happens to a task, a model or a data set (ClearML's `TriggerScheduler`)."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from minipipe import errors, states
from minipipe.sdk.automation.schedule import Job
from minipipe.sdk.automation.service import BaseScheduler, now
from minipipe.sdk.dataset_files import HIDDEN, SYSTEM_TAG
from minipipe.sdk.task import Task
from minipipe.sdk.task_base import TaskBase
from minipipe.store import details, models, objectives, search
from minipipe.store.home import Store

_OVERLAP_S = 5.0  # a transaction's time is taken before its commit: what was committed late is not missed
_SIGNS = ("min", "minimum", "max", "maximum")
_EVERY_S = 0.2  # between two looks when the store changes all the time


@dataclass(slots=True)
class BaseTrigger(Job):
    """A job that is launched once for each thing that fits, from the trigger's start on.

    Attributes:
        project: exact name of the things' project, None for all.
        match_name: regular expression, found anywhere in their name.
        tags, required_tags: they must have all of these.
        add_tag: tag of the launched copies.
        last_update: things that changed before do not count.
        triggered_instances: id -> when it was launched for.
    """

    project: str | None = None
    match_name: str | None = None
    tags: Sequence[str] | None = None
    required_tags: Sequence[str] | None = None
    add_tag: str | None = None
    last_update: datetime.datetime | None = None
    triggered_instances: dict[str, str] = field(default_factory=dict)

    _STATE: ClassVar[tuple[str, ...]] = ("executed_instances", "last_update", "triggered_instances")
    _WORD: ClassVar[str] = ""

    def verify(self) -> None:
        """See `Job.verify`.

        Raises:
            UsageError: also for tags that are no list of texts, a project or name that is no text.
        """
        super(BaseTrigger, self).verify()
        for name in ("tags", "required_tags"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or not all(isinstance(each, str) for each in value)):
                raise errors.UsageError(f"trigger {self.name!r}: {name} has to be a list of texts", f"it is {value!r}")
        if self.match_name is not None:
            search.expression(self.match_name)

    def found(self, store: Store, since: float) -> list[str]:
        """Ids of the things that fit and changed since then."""
        raise NotImplementedError

    def _all_tags(self) -> list[str]:
        return [*(self.tags or ()), *(self.required_tags or ())]


@dataclass(slots=True)
class TaskTrigger(BaseTrigger):
    """Fires for tasks.

    Attributes:
        metrics, variant, threshold, value_sign: title and series of a metric that has reached a value, from below ("max",
            "maximum") or from above ("min", "minimum", the default).
        exclude_dev: only tasks that a worker ran.
        on_status: only in these statuses.
    """

    metrics: str | None = None
    variant: str | None = None
    threshold: float | None = None
    value_sign: str | None = None
    exclude_dev: bool | None = None
    on_status: Sequence[str] | None = None

    _WORD: ClassVar[str] = "${task.id}"

    def verify(self) -> None:
        """See `BaseTrigger.verify`.

        Raises:
            UsageError: also for half a metric, an unknown sign or status.
        """
        super(TaskTrigger, self).verify()
        metric = (self.metrics, self.variant, self.threshold)
        if any(part is not None for part in metric) and None in metric:
            raise errors.UsageError(f"trigger {self.name!r}: metric, variant and threshold belong together")
        if self.value_sign is not None and self.value_sign not in _SIGNS:
            raise errors.UsageError(f"trigger {self.name!r}: {self.value_sign!r} is no sign", f"known are {', '.join(_SIGNS)}")
        for status in self.on_status or ():
            if str(status) not in states.TaskStatusEnum.__members__:
                raise errors.UsageError(
                    f"trigger {self.name!r}: {status!r} is no status", f"known are {', '.join(states.STATUSES)}"
                )

    def found(self, store: Store, since: float) -> list[str]:
        """See `BaseTrigger.found`. A metric changes while its task runs: those that run count as changed."""
        wanted = {"status": [str(status) for status in self.on_status] if self.on_status else None}
        rows = {row["id"]: row for row in _changed(store, self, since, wanted)}
        if self.metrics is not None:
            if self.on_status is None or states.IN_PROGRESS in map(str, self.on_status):
                rows |= {row["id"]: row for row in _tasks(store, self, {"status": [states.IN_PROGRESS]})}
            reached = objectives.reached(store, list(rows), self.metrics, self.variant)
            rows = {task: row for task, row in rows.items() if task in reached and self._beyond(reached[task][0])}
        if self.exclude_dev:
            agents = details.run_by_agents(store, rows)
            rows = {task: row for task, row in rows.items() if task in agents}
        return [row["uid"] for row in rows.values()]

    def _beyond(self, reached: objectives.Reached) -> bool:
        assert self.threshold is not None
        if (self.value_sign or "min").startswith("max"):
            return reached.largest >= self.threshold
        return reached.smallest <= self.threshold


@dataclass(slots=True)
class DatasetTrigger(BaseTrigger):
    """Fires for data sets that are final.

    Attributes:
        on_publish: only when they are published.
        on_archive: only when they are archived.
    """

    on_publish: bool | None = None
    on_archive: bool | None = None

    _WORD: ClassVar[str] = "${dataset.id}"

    def found(self, store: Store, since: float) -> list[str]:
        """See `BaseTrigger.found`."""
        wanted = {
            "system_tags": ["__$all", SYSTEM_TAG, *(["archived"] if self.on_archive else [])],
            "status": [states.PUBLISHED] if self.on_publish else [states.COMPLETED, states.PUBLISHED],
        }
        rows = _changed(store, self, since, wanted)
        within = None if self.project is None else self.project + HIDDEN
        return [row["uid"] for row in rows if within is None or row["project"].startswith(within)]


@dataclass(slots=True)
class ModelTrigger(BaseTrigger):
    """Fires for models.

    Attributes:
        on_publish: only when they are published.
        on_archive: only when they are archived.
    """

    on_publish: bool | None = None
    on_archive: bool | None = None

    _WORD: ClassVar[str] = "${model.id}"

    def found(self, store: Store, since: float) -> list[str]:
        """See `BaseTrigger.found`."""
        rows = models.query(store, project=self.project, published=bool(self.on_publish), archived=True)
        name = search.expression(self.match_name or "")
        return [
            one.uid
            for one in rows
            if one.updated_at > since
            and name.search(one.name)
            and set(self._all_tags()) <= {*one.tags}
            and (one.archived or not self.on_archive)
        ]


def _tasks(store: Store, trigger: BaseTrigger, wanted: Mapping[str, Any]) -> list[Any]:
    named = {"name": trigger.match_name or None, "tags": ["__$all", *trigger._all_tags()] if trigger._all_tags() else None}
    project = None if trigger.project is None or isinstance(trigger, DatasetTrigger) else [trigger.project]
    return search.find(store, projects=project, wanted={**named, **wanted})


def _changed(store: Store, trigger: BaseTrigger, since: float, wanted: Mapping[str, Any]) -> list[Any]:
    moment = datetime.datetime.fromtimestamp(since, datetime.UTC).isoformat()
    return _tasks(store, trigger, {**wanted, "last_update": [f">{moment}"]})


class TriggerScheduler(BaseScheduler):
    """Launches copies of tasks, or calls functions, when something happens. It looks when the store changes.

    Args:
        pooling_frequency_minutes: and at least so often.
        sync_frequency_minutes: accepted for ClearML: what is changed on the task is seen at once.
        force_create_task_name, force_create_task_project: see `BaseScheduler`.
    """

    def __init__(
        self,
        pooling_frequency_minutes: float = 3.0,
        sync_frequency_minutes: float = 15,
        force_create_task_name: str | None = None,
        force_create_task_project: str | None = None,
    ) -> None:
        super().__init__(sync_frequency_minutes, force_create_task_name, force_create_task_project, pooling_frequency_minutes)
        self._jobs: dict[str, list[BaseTrigger]] = {name: [] for name in _KINDS}
        self._version = -1
        self._looked = 0.0
        self._calling: set[str] = set()

    def add_model_trigger(
        self,
        schedule_task_id: str | Task | None = None,
        schedule_queue: str | None = None,
        schedule_function: Callable[[str], None] | None = None,
        trigger_project: str | None = None,
        trigger_name: str | None = None,
        trigger_on_publish: bool | None = None,
        trigger_on_tags: list[str] | None = None,
        trigger_on_archive: bool | None = None,
        trigger_required_tags: list[str] | None = None,
        name: str | None = None,
        target_project: str | None = None,
        add_tag: bool | str = True,
        single_instance: bool = False,
        reuse_task: bool = False,
        task_parameters: dict[str, Any] | None = None,
        task_overrides: dict[str, Any] | None = None,
    ) -> None:
        """Launch something for each model that changes and fits.

        Args:
            schedule_task_id: a task, or its id, to be copied and enqueued.
            schedule_queue: of the copies.
            schedule_function: or a function, called with the model's id in a thread of this process.
            trigger_project: exact name of its project.
            trigger_name: regular expression, found anywhere in its name.
            trigger_on_publish, trigger_on_archive: only published, only archived ones.
            trigger_on_tags, trigger_required_tags: it must have all of these.
            name: unique; default the task's id.
            target_project: project of the copies; default the task's.
            add_tag: tag of the copies; True: the trigger's name.
            single_instance: leave it out while the last copy still waits or runs.
            reuse_task: enqueue the task itself, reset if need be, instead of a copy.
            task_parameters: what a copy is told; the value ``${model.id}`` stands for the id.
            task_overrides: see `ClearmlJob`.

        Raises:
            UsageError: no task and no function, or both; no queue; a name that is taken.
        """
        trigger = ModelTrigger(on_publish=trigger_on_publish, on_archive=trigger_on_archive)
        self._add("models", trigger, locals())

    def add_dataset_trigger(
        self,
        schedule_task_id: str | Task | None = None,
        schedule_queue: str | None = None,
        schedule_function: Callable[[str], None] | None = None,
        trigger_project: str | None = None,
        trigger_name: str | None = None,
        trigger_on_publish: bool | None = None,
        trigger_on_tags: list[str] | None = None,
        trigger_on_archive: bool | None = None,
        trigger_required_tags: list[str] | None = None,
        name: str | None = None,
        target_project: str | None = None,
        add_tag: bool | str = True,
        single_instance: bool = False,
        reuse_task: bool = False,
        task_parameters: dict[str, Any] | None = None,
        task_overrides: dict[str, Any] | None = None,
    ) -> None:
        """Launch something for each data set that becomes final and fits.

        Args and errors as for `add_model_trigger`; the value ``${dataset.id}`` stands for the id.
        """
        trigger = DatasetTrigger(on_publish=trigger_on_publish, on_archive=trigger_on_archive)
        self._add("datasets", trigger, locals())

    def add_task_trigger(
        self,
        schedule_task_id: str | Task | None = None,
        schedule_queue: str | None = None,
        schedule_function: Callable[[str], None] | None = None,
        trigger_project: str | None = None,
        trigger_name: str | None = None,
        trigger_on_tags: list[str] | None = None,
        trigger_on_status: list[str] | None = None,
        trigger_exclude_dev_tasks: bool | None = None,
        trigger_on_metric: str | None = None,
        trigger_on_variant: str | None = None,
        trigger_on_threshold: float | None = None,
        trigger_on_sign: str | None = None,
        trigger_required_tags: list[str] | None = None,
        name: str | None = None,
        target_project: str | None = None,
        add_tag: bool | str = True,
        single_instance: bool = False,
        reuse_task: bool = False,
        task_parameters: dict[str, Any] | None = None,
        task_overrides: dict[str, Any] | None = None,
    ) -> None:
        """Launch something for each task that changes and fits. Tasks that this trigger launched itself do not count.

        Args:
            trigger_on_status: only in one of these statuses.
            trigger_exclude_dev_tasks: only tasks that a worker ran.
            trigger_on_metric, trigger_on_variant, trigger_on_threshold: only if this metric (title, series) has reached that value.
            trigger_on_sign: from below ("max", "maximum") or from above ("min", "minimum", the default).

        The others as for `add_model_trigger`; the value ``${task.id}`` stands for the id.

        Raises:
            UsageError: as for `add_model_trigger`; half a metric, an unknown status or sign.
        """
        trigger = TaskTrigger(
            metrics=trigger_on_metric,
            variant=trigger_on_variant,
            threshold=trigger_on_threshold,
            value_sign=trigger_on_sign,
            exclude_dev=trigger_exclude_dev_tasks,
            on_status=trigger_on_status,
        )
        self._add("tasks", trigger, locals())

    def _add(self, section: str, trigger: BaseTrigger, given: Mapping[str, Any]) -> None:
        task = given["schedule_task_id"]
        trigger.base_task_id = task.id if isinstance(task, TaskBase) else str(task or "")
        trigger.base_function = given["schedule_function"]
        trigger.queue = given["schedule_queue"]
        trigger.name = given["name"] or trigger.base_task_id
        trigger.project, trigger.match_name = given["trigger_project"], given["trigger_name"]
        trigger.tags, trigger.required_tags = given["trigger_on_tags"], given["trigger_required_tags"]
        tag = given["add_tag"]
        trigger.add_tag = tag if isinstance(tag, str) else trigger.name if tag else None
        trigger.clone_task = not given["reuse_task"]
        for name in ("target_project", "single_instance", "task_parameters", "task_overrides"):
            setattr(trigger, name, given[name])
        trigger.verify()
        if any(each.name == trigger.name for each in self.get_triggers()):
            raise errors.UsageError(f"there is a trigger {trigger.name!r} already", hint="name=…")
        self._jobs[section].append(trigger)

    def get_triggers(self) -> list[BaseTrigger]:
        """The triggers: for models, data sets, tasks."""
        return [trigger for section in _KINDS for trigger in self._jobs[section]]

    # -- running ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """See `BaseScheduler.start`."""
        super().start()

    def start_remotely(self, queue: str = "services") -> None:
        """See `BaseScheduler.start_remotely`."""
        super().start_remotely(queue)

    def _sections(self) -> dict[str, Sequence[Job]]:
        return dict(self._jobs)

    def _kind(self, section: str) -> type[Job]:
        return _KINDS[section]

    def _replace(self, section: str, jobs: Sequence[Job]) -> None:
        self._jobs[section] = [job for job in jobs if isinstance(job, BaseTrigger)]

    def _step(self) -> float:
        fired, begin = False, now()
        self._version, self._looked = self._task.store.database.data_version(), time.monotonic()
        for trigger in self.get_triggers():
            if trigger.last_update is None:
                trigger.last_update = begin
                continue
            for uid in self._new(trigger, trigger.found(self._task.store, trigger.last_update.timestamp())):
                trigger.triggered_instances[uid] = now().isoformat()
                self._say(f"trigger {trigger.name!r}: {type(trigger).__name__.removesuffix('Trigger').lower()} {uid[:8]}")
                self._launch(trigger, self._parameters(trigger, uid), trigger.add_tag, (uid,))
                fired = True
            trigger.last_update = max(trigger.last_update, begin - datetime.timedelta(seconds=_OVERLAP_S))
        if fired:
            self._keep_state()
        self._calling = {name for name, thread in self._threads.items() if thread.is_alive()}
        return 0.0 if fired else self._period_s

    def _news(self) -> bool:
        """Also when the store has changed, but not at every change of one that is busy; or when a function of ours has returned:
        what this process itself writes does not count as a change."""
        if super()._news():
            return True
        changed = self._task.store.database.data_version() != self._version
        returned = any(not self._threads[name].is_alive() for name in self._calling)
        return (changed or returned) and time.monotonic() - self._looked >= _EVERY_S

    def _new(self, trigger: BaseTrigger, found: Iterable[str]) -> list[str]:
        left_out = {*trigger.triggered_instances, *trigger.executed_instances, self._task.id}
        return [uid for uid in found if uid not in left_out]

    @staticmethod
    def _parameters(trigger: BaseTrigger, uid: str) -> dict[str, Any] | None:
        if not trigger.task_parameters:
            return None
        return {name: uid if value == trigger._WORD else value for name, value in trigger.task_parameters.items()}


_KINDS: dict[str, type[BaseTrigger]] = {"models": ModelTrigger, "datasets": DatasetTrigger, "tasks": TaskTrigger}
