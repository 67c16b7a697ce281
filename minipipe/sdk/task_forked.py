"""One script as several tasks: functions that tasks of their own run, and a worker's view of a task without a worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar

from minipipe import errors, states
from minipipe.sdk import maintask, session
from minipipe.sdk.task_base import TaskBase
from minipipe.store import edits

_SECTION, _MARK, _TAG = "Function", "__func_readonly__", "func"  # ClearML's names
_BASIC = (str, int, float, bool, list, tuple, dict, type(None))


class TaskForked(TaskBase):
    """Function tasks, and simulation."""

    _forks: ClassVar[set[tuple[str, str]]] = set()

    def create_function_task(
        self, func: Callable[..., Any], func_name: str | None = None, task_name: str | None = None, **kwargs: Any
    ) -> Any:
        """A draft that runs this script up to this call, calls a function and ends.

        Args:
            func: the function.
            func_name: names the call within the script; default the function's name.
            task_name: of the draft; default this task's name with the function's.
            kwargs: arguments of the function; plain ones are parameters of section ``Function``, which may be changed before the draft
                is enqueued.

        Returns:
            The draft. Where a worker runs one of the script's drafts: None, if it is not this one; else the function is called and
            the process ends with exit code 0.

        Raises:
            ValueError: this is not the main task, `func` cannot be called, or the name was used before.
        """
        me: Any = self
        if not me.is_main_task():
            raise errors.UsageError("create_function_task belongs to the main task", hint="Task.init() returns it")
        if not callable(func):
            raise errors.UsageError(f"func cannot be called: {func!r}")
        name = str(func_name or getattr(func, "__name__", "")).strip()
        if not name or (self.id, name) in TaskForked._forks:
            raise errors.UsageError(
                f"there is a function task {name!r} already" if name else "the function has no name", "", "func_name=…"
            )
        TaskForked._forks.add((self.id, name))
        given = {key: value for key, value in kwargs.items() if isinstance(value, _BASIC)}
        mark = None if session.local() else me.get_parameter(f"{_SECTION}/{_MARK}")
        if not mark:
            draft = type(me).clone(me, name=task_name or f"{me.name} <{name}>", parent=self.id)
            draft.set_system_tags([*draft.get_system_tags(), _TAG])
            draft.update_parameters({f"{_SECTION}/{key}": value for key, value in {**given, _MARK: name}.items()})
            return draft
        if mark != name:
            return None
        stored = me.connect(dict(given), name=_SECTION)
        func(**{**kwargs, **{key: stored[key] for key in given}})
        sys.stdout.flush()
        sys.exit(0)

    @classmethod
    def debug_simulate_remote_task(cls, task_id: str, reset_task: bool = False) -> None:
        """Let the `Task.init` that follows find a task as if a worker ran it here: stored values win over those in code.

        Args:
            task_id: a draft, or a task that has ended.
            reset_task: forget its results first.

        Raises:
            ValueError: no such task, it runs already, or this process has a main task.

        Transaction effect: one durable commit, two with `reset_task`.
        """
        if not session.local():
            return
        if maintask.main_task() is not None:
            raise errors.UsageError("this process has a main task already", hint="simulate before Task.init()")
        found = cls.by_id(str(task_id))
        if found.status == states.IN_PROGRESS:
            raise errors.IllegalMove(f"task {found.id[:8]} runs already")
        if reset_task and found.status != states.CREATED:
            edits.reset(found.store, found.row_id, force=True)
        maintask.simulate(found.store, found.row_id)
