"""The life of a task as ClearML's `Task` steers it: begin, hand to a queue, copy, end, forget."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

from minipipe import context, errors, seeds, settings, states
from minipipe.sdk import auto, connect, maintask, notice, project_modules, script, session, stopping
from minipipe.sdk.auto import connection
from minipipe.sdk.task_base import TaskBase
from minipipe.sdk.task_facts import words_of
from minipipe.shown import tell
from minipipe.store import details, edits, queues, records, removal, steering, workers
from minipipe.store.home import Store

auto.watch()


class TaskLife(TaskBase):
    """Beginning, queueing, copying and ending."""

    # -- the main task ------------------------------------------------------------------------------------------------

    @classmethod
    def init(
        cls,
        project_name: str | None = None,
        task_name: str | None = None,
        task_type: str = states.TaskTypes.training,
        tags: Sequence[str] | None = None,
        reuse_last_task_id: bool | str = True,
        continue_last_task: bool | str | int = False,
        output_uri: str | bool | None = None,
        auto_connect_arg_parser: bool | Mapping[str, bool] = True,
        auto_connect_frameworks: bool | Mapping[str, Any] = True,
        auto_resource_monitoring: bool | Mapping[str, Any] = True,
        auto_connect_streams: bool | Mapping[str, bool] = True,
        deferred_init: bool = False,
    ) -> Self:
        """The main task of this process: a new one, the last one again, or the one that a worker runs here.

        Args:
            project_name: default the name of the repository, else of the script's folder.
            task_name: default the script's name.
            task_type: one of `TaskTypes`.
            tags: added to the task.
            reuse_last_task_id: use the last task of these names again if it holds nothing worth keeping (see
                `maintask.reusable`); False always makes a new one, a str names one.
            continue_last_task: go on with the last task of these names (or the one named) and keep its results.
            auto_connect_arg_parser: what `argparse`, click, fire and jsonargparse read becomes parameters of section ``Args``; False
                leaves it alone, a dict says it for each argument (``"*"`` for the others; empty is off).
            auto_connect_frameworks: figures, models and scalars of other libraries are captured; False for none, a dict by name
                (``{"matplotlib": False}``).
            output_uri, auto_resource_monitoring, auto_connect_streams, deferred_init: ClearML's; recorded.

        Raises:
            UsageError: a main task with other names runs already, or no such task type.

        Transaction effect: two durable commits.
        """
        main = maintask.main_task()
        if main is not None:
            _check_names(main, project_name, task_name)
            return cls(main.current.store, main.current.row_id, main.current.uid, main.current.lease)
        kind = states.task_type(task_type)
        recorded = _recorded(output_uri, auto_resource_monitoring, auto_connect_streams, deferred_init)
        running = session.current()
        if running is not None:
            return cls._join(running, auto_connect_arg_parser, auto_connect_frameworks)
        store = session.open_store()
        project, name = project_name or script.project_name(), task_name or _script_name()
        again = maintask.resumed(store, project, name)
        known = again or _last(store, project, name, kind, reuse_last_task_id, continue_last_task)
        keep = again is not None or continue_last_task is not False
        settings_of = {
            **recorded,
            **_switches(arguments=auto_connect_arg_parser, auto_connect_frameworks=auto_connect_frameworks),
        }
        if known is not None and again is None and keep:
            settings_of["first_iteration"] = _first_iteration(store, known, continue_last_task)
        seed = TaskLife._random_seed
        begun = maintask.begin(store, project, name, kind, settings_of, seed, known, anew=not keep)
        if seed is not None:
            seeds.sow(seed)
        task = cls(store, begun.current.row_id, begun.current.uid, begun.current.lease)
        if tags:
            records.add_tags(store, task.row_id, words_of(tags))
        connection.begin(connect.Binding(begun.current, False, True), auto_connect_arg_parser, auto_connect_frameworks)
        _announce(task, project, name)
        return task

    @classmethod
    def _join(cls, running: session.Current, arguments: connection.Wanted, frameworks: connection.Wanted) -> Self:
        """`init` where a task runs already: a worker's, that of the process that started this one, a pipeline's."""
        maintask.adopt(running)
        own = context.running() is not None
        if own and not cls.running_locally():
            seed = edits.facts(running.store, running.row_id).get("seed", seeds.DEFAULT)
            if seed is not None:
                seeds.sow(seed)  # as the script was where it began its task: what it drew before does not count
            connection.begin(connect.Binding(running, True, True), arguments, frameworks)
        return cls(running.store, running.row_id, running.uid, running.lease)

    _random_seed: ClassVar[int | None] = seeds.DEFAULT

    @classmethod
    def set_random_seed(cls, random_seed: int | None) -> None:
        """What `init` seeds `random`, `numpy` and `torch` with, 1337 if nothing is said.

        Args:
            random_seed: any integer; None leaves them alone.
        """
        TaskLife._random_seed = None if random_seed is None else int(random_seed)

    def get_random_seed(self) -> int | None:
        """See `set_random_seed`."""
        return TaskLife._random_seed

    def close(self) -> None:
        """End the main task: completed, before this returns. For another task it does nothing (ClearML's rule)."""
        main = maintask.main_task()
        if main is not None and main.current.uid == self._uid:
            maintask.close(states.COMPLETED)

    def is_main_task(self) -> bool:
        """True if it is the main task of this process."""
        main = maintask.main_task()
        return main is not None and main.current.uid == self._uid

    @classmethod
    def running_locally(cls) -> bool:
        """False in a process that executes a task for a worker (ClearML's rule), and in those that it starts."""
        return session.local()

    def execute_remotely(self, queue_name: str | None = None, clone: bool = False, exit_process: bool = True) -> Self | None:
        """Leave the rest of this script to a worker.

        Args:
            queue_name: enqueue there; None leaves a draft that others can clone.
            clone: enqueue a copy and keep this task as it is.
            exit_process: end this process with code 0; may be False only with `clone`.

        Returns:
            None where a worker runs the task (it goes on after the call); the copy, with `clone` and without exit.

        Raises:
            ValueError: `exit_process` is False without `clone`, or a task that is not the main one has no queue name.
        """
        if not self.running_locally():
            return None
        if not self.is_main_task():
            if not queue_name:
                raise ValueError("a task that is not the main one needs a queue name")
            type(self).enqueue(self, queue_name)
            return None
        if not exit_process and not clone:
            raise ValueError("exit_process=False needs clone=True: the script cannot run here and on a worker")
        if clone:
            copy = type(self).clone(self)
            if queue_name:
                type(self).enqueue(copy, queue_name)
            if not exit_process:
                return copy
            maintask.close(states.COMPLETED)
        else:
            self._leave(queue_name)
        sys.stdout.flush()
        sys.exit(0)

    def _leave(self, queue_name: str | None) -> None:
        maintask.leave()
        name, project = records.names_of(self.store, self.row_id)
        if queue_name:
            type(self).enqueue(self, queue_name)
        elif settings.load_settings().progress != "off":
            tell(f"template {self._uid[:8]} {name!r} ({project}) created: it runs when cloned into a queue")

    # -- copies and queues --------------------------------------------------------------------------------------------

    @classmethod
    def clone(
        cls,
        source_task: TaskBase | str | None = None,
        name: str | None = None,
        comment: str | None = None,
        parent: str | None = None,
        project: str | None = None,
    ) -> Self:
        """Copy a task as a draft that can be edited: code, parameters, configuration, tags; no results.

        Args:
            source_task: a task or its id; default the current one.
            name: default the source's.
            comment: default the source's.
            parent: id of the parent; default the source's parent, else the source.
            project: id or name of the project; default the source's.

        Transaction effect: one durable commit.
        """
        source = cls.of(source_task) if source_task is not None else cls._of_process()
        name = name or str(source._column("name"))
        parent_id = cls.by_id(parent).row_id if parent else None
        made = edits.clone(source.store, source.row_id, name, _project_name(source, project), parent_id, comment)
        return cls(source.store, made.id, made.uid)

    @classmethod
    def _of_process(cls) -> Self:
        current = session.current()
        if current is None:
            raise ValueError("no task is running here: name the one to clone")
        return cls(current.store, current.row_id, current.uid, current.lease)

    @classmethod
    def enqueue(
        cls, task: TaskBase | str, queue_name: str | None = None, queue_id: str | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Put a draft, failed or stopped task into a queue, making the queue if need be.

        Args:
            task: a task or its id.
            queue_name: name of the queue.
            queue_id: its id; a name is taken too.
            force: reset a completed, skipped or waiting task first.

        Raises:
            ValueError: its status does not allow it, or no queue was named.

        Transaction effect: one durable commit (two with a reset).
        """
        found = cls.of(task)
        queue = queue_name or _queue_name(found.store, queue_id)
        if not queue:
            raise ValueError("name the queue")
        if force and found.status not in (states.CREATED, states.FAILED, states.STOPPED, states.PUBLISHED, states.IN_PROGRESS):
            edits.reset(found.store, found.row_id)
        entry = project_modules.watched(edits.facts(found.store, found.row_id))
        steering.enqueue(found.store, found.row_id, queue, session.name(), entry=entry)
        if not os.environ.get(session.SESSION_VARIABLE) and queue not in workers.served_queues(found.store):
            hint = "minipipe worker" if queue in ("default", "services") else f"minipipe worker --queue {queue}"
            tell(f"note: no worker serves queue {queue!r}: task {found.id[:8]} waits; start one: {hint}")
        return {"queued": 1, "updated": 1}

    @classmethod
    def dequeue(cls, task: TaskBase | str) -> dict[str, Any]:
        """Take a task out of its queue: it is a draft again. Transaction effect: one durable commit."""
        found = cls.of(task)
        if found.status != states.QUEUED:
            raise errors.IllegalMove(f"task {found.id[:8]} is {found.status}, not queued")
        edits.move(found.store, found.row_id, states.CREATED, "dequeued")
        return {"dequeued": 1, "updated": 1}

    @classmethod
    def get_num_enqueued_tasks(cls, queue_name: str | None = None, queue_id: str | None = None) -> int:
        """How many tasks wait in a queue, given by its name or its id; 0 if there is none."""
        store = session.open_store()
        return queues.queued_counts(store).get(queue_name or _queue_name(store, queue_id) or "", 0)

    def get_executed_queue(self, return_name: bool = False) -> str | None:
        """The queue that the task ran from: its id, or with `return_name` its name."""
        name = self._column("queue")
        if name is None or return_name:
            return str(name) if name else None
        row = queues.queue_of(self.store, name=str(name))
        return str(row["uid"]) if row else None

    @property
    def last_worker(self) -> str:
        """Name of the worker that ran it last, "" if none did."""
        return details.last_worker_of(self.store, self.row_id)

    # -- endings ------------------------------------------------------------------------------------------------------

    def started(self, ignore_errors: bool = True, force: bool = False) -> None:
        """As `mark_started`."""
        self.mark_started(force)

    def completed(self, ignore_errors: bool = True) -> None:
        """As `mark_completed`."""
        self.mark_completed(ignore_errors)

    def stopped(
        self,
        ignore_errors: bool = True,
        force: bool = False,
        status_reason: str | None = None,
        status_message: str | None = None,
    ) -> None:
        """As `mark_stopped`."""
        self.mark_stopped(force, status_reason or status_message)

    def mark_started(self, force: bool = False) -> None:
        """Begin the task in this process. Transaction effect: one durable commit."""
        self.lease = edits.start(self.store, self.row_id, session.registration(self.store).id, force)

    def mark_completed(self, ignore_errors: bool = True, status_message: str | None = None, force: bool = False) -> None:
        """Say that the task completed.

        Args:
            ignore_errors: also True raises; here, in `mark_failed`, `stopped` and `publish`.
            status_message: why.
            force: also from a status that it does not follow.

        Raises:
            IllegalMove: it has ended, or its status does not lead there; nothing was changed.
        """
        self._end(states.COMPLETED, status_message, force)

    def mark_failed(
        self,
        ignore_errors: bool = True,
        status_reason: str | None = None,
        status_message: str | None = None,
        force: bool = False,
    ) -> None:
        """Say that the task failed. Args and errors as for `mark_completed`."""
        self._end(states.FAILED, status_reason or status_message, force)

    def mark_stopped(self, force: bool = False, status_message: str | None = None) -> None:
        """Stop the task; a running one is ended by its worker."""
        if self.status == states.IN_PROGRESS and not self.is_main_task():
            stopping.stop(self.store, [self.row_id], status_message or "stopped")
            return
        self._end(states.STOPPED, status_message, force)

    def _end(self, status: str, reason: str | None, force: bool) -> None:
        if self.is_main_task():
            maintask.close(status, reason or "")
        else:
            edits.move(self.store, self.row_id, status, reason or "", force)

    def publish(self, ignore_errors: bool = True) -> None:
        """Make an ended task read-only for good: it is kept by every clean-up.

        Args:
            ignore_errors: also True raises.

        Raises:
            IllegalMove: it has not ended well; nothing was changed.
        """
        edits.move(self.store, self.row_id, states.PUBLISHED)

    def reset(self, set_started_on_success: bool = False, force: bool = False) -> None:
        """Make it a draft again: results, metrics and log are forgotten.

        Args:
            set_started_on_success: begin it in this process then.
            force: even if it runs; what that attempt still reports is refused.
        """
        edits.reset(self.store, self.row_id, force)
        if set_started_on_success:
            self.mark_started()

    def delete(
        self,
        delete_artifacts_and_models: bool = True,
        skip_models_used_by_other_tasks: bool = True,
        raise_on_error: bool = False,
        callback: Callable[[str, str], bool] | None = None,
    ) -> bool:
        """Remove the task with all that belongs to it. Returns True.

        Args:
            delete_artifacts_and_models: also the models that it made; those that are published or that other tasks have always stay.
                Artifacts go in any case, but content that other tasks have, too.
            skip_models_used_by_other_tasks, callback: accepted, without effect; False and a callback are answered with a line.
            raise_on_error: accepted; errors always raise.

        Raises:
            ValueError: it runs; abort it first.
        """
        if callback is not None or not skip_models_used_by_other_tasks:
            notice.say("Task.delete(skip_models_used_by_other_tasks=…, callback=…)", "what other tasks have always stays")
        removal.delete(self.store, self.row_id, delete_artifacts_and_models)
        return True


def _script_name() -> str:
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.splitext(os.path.basename(main))[0] if main else "task"


def _last(store: Store, project: str, name: str, kind: str, reuse: bool | str, again: bool | str | int) -> int | None:
    """Row id of the task that `init` uses again, None for a new one."""
    for wanted in (again, reuse):
        if isinstance(wanted, str):
            return TaskBase.by_id(wanted).row_id
    if again is not False:
        return records.last_ended(store, project, name, kind)
    return maintask.reusable(store, project, name, kind) if reuse else None


def _first_iteration(store: Store, task_id: int, given: bool | str | int) -> int:
    """What is added to iterations: 0 begins again, another number is taken as it is, else one more than the last."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    last = records.last_iteration(store, task_id)
    return 0 if last is None else last + 1


def _check_names(main: maintask.MainTask, project: str | None, name: str | None) -> None:
    if main.names is None:
        return  # a worker's: whatever names are given
    if project not in (None, "", main.names[0]) or name not in (None, "", main.names[1]):
        raise errors.UsageError(
            f"the task {main.names[1]!r} of project {main.names[0]!r} is running already",
            f"one process has one main task at a time, so {name or main.names[1]!r} cannot begin",
            "call Task.current_task().close() first",
        )


def _recorded(output_uri: Any, monitoring: Any, streams: Any, deferred: Any) -> dict[str, Any]:
    """Arguments of `init` without effect here, if they are not the default; said once."""
    return notice.kept(
        "Task.init",
        {
            "output_uri": (output_uri, None, "one store holds everything"),
            "auto_resource_monitoring": (monitoring, True, "resources are not watched yet"),
            "auto_connect_streams": (streams, True, "what a task prints always goes to its log"),
            "deferred_init": (deferred, False, "nothing is slow enough to be deferred"),
        },
    )


def _switches(**given: connection.Wanted) -> dict[str, Any]:
    """What is not the default of the switches, as it can be stored."""
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items() if value is not True}


def _project_name(task: TaskBase, project: str | None) -> str | None:
    if not project:
        return None
    row = records.project_of(task.store, uid=project)
    return str(row["name"]) if row else project


def _queue_name(store: Store, queue_id: str | None) -> str | None:
    row = queues.queue_of(store, uid=queue_id)
    return str(row["name"]) if row else queue_id


def _announce(task: TaskBase, project: str, name: str) -> None:
    if settings.load_settings().progress != "off":
        tell(f"task {task.id[:8]}  {name} ({project})   minipipe show {task.id[:8]}")
