"""What every part of `Task` builds on: which task it is."""

from __future__ import annotations

from typing import Any, Self

from minipipe import context, errors
from minipipe.sdk import session
from minipipe.store import details
from minipipe.store.home import Store


class TaskBase:
    """A task of the store: its row, and the lease if this process executes it."""

    def __init__(self, store: Store, row_id: int, uid: str, lease: context.Lease | None = None) -> None:
        self.store = store
        self.row_id = row_id
        self.lease = lease
        self._uid = uid

    @classmethod
    def by_id(cls, uid: str) -> Self:
        """The task with exactly this id.

        Raises:
            NotFound: there is none.
        """
        store = session.open_store()
        row_id = details.id_of(store, uid)
        if row_id is None:
            raise errors.NotFound(f"no task {uid!r} in {store.path}", hint="minipipe status --all")
        return cls(store, row_id, uid)

    @classmethod
    def of(cls, task: TaskBase | str) -> Self:
        """A task given as an object or as its id."""
        return cls(task.store, task.row_id, task.id, task.lease) if isinstance(task, TaskBase) else cls.by_id(str(task))

    @property
    def id(self) -> str:
        """32 hex digits."""
        return self._uid

    @property
    def task_id(self) -> str:
        """See `id`."""
        return self._uid

    @property
    def status(self) -> str:
        """created, pending, queued, in_progress, completed, failed, stopped, skipped or published."""
        return str(self._column("status"))

    def _column(self, name: str) -> Any:
        row = details.column(self.store, self.row_id, name)
        if row is None:
            raise errors.NotFound(f"task {self._uid[:8]} was deleted")
        return row[0]

    @property
    def _current(self) -> session.Current:
        return session.Current(self.store, self.row_id, self._uid, self.lease)
