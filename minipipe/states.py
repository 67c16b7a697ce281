"""The life cycle as data: statuses, legal moves, task types.

One vocabulary from SQL to screen (ClearML's words plus ``pending`` and ``skipped``). The table `MOVES` is written into
every store, where a trigger refuses any other change, so no code path can bypass it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from minipipe import errors

CREATED: Final = "created"
PENDING: Final = "pending"
QUEUED: Final = "queued"
IN_PROGRESS: Final = "in_progress"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
STOPPED: Final = "stopped"
SKIPPED: Final = "skipped"
PUBLISHED: Final = "published"

STATUSES: Final = (CREATED, PENDING, QUEUED, IN_PROGRESS, COMPLETED, FAILED, STOPPED, SKIPPED, PUBLISHED)
ENDED: Final = frozenset({COMPLETED, FAILED, STOPPED, SKIPPED, PUBLISHED})
GOOD: Final = frozenset({COMPLETED, PUBLISHED})
BAD: Final = frozenset({FAILED, STOPPED})

RETRY_CAP_S: Final = 30.0
"""The longest wait between two tries of a task."""

# old status: (moves anybody may make, moves only with force=True). ClearML's table plus one row of our own:
# in_progress -> pending, taken by a failed attempt whose retry predicate must be asked in the controller.
MOVES: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    CREATED: ((PENDING, QUEUED, IN_PROGRESS), (STOPPED, FAILED, COMPLETED)),
    PENDING: ((QUEUED, COMPLETED, FAILED, SKIPPED, STOPPED, CREATED), ()),
    QUEUED: ((IN_PROGRESS, CREATED, STOPPED), (FAILED, COMPLETED)),
    IN_PROGRESS: ((COMPLETED, FAILED, STOPPED, CREATED, QUEUED, PENDING), ()),
    COMPLETED: ((PUBLISHED, IN_PROGRESS, CREATED), (QUEUED, STOPPED, FAILED)),
    FAILED: ((CREATED, QUEUED, PENDING, STOPPED, PUBLISHED), (IN_PROGRESS, COMPLETED)),
    STOPPED: ((CREATED, QUEUED, PENDING, IN_PROGRESS, COMPLETED, FAILED, PUBLISHED), ()),
    SKIPPED: ((CREATED, PENDING), (STOPPED,)),
    PUBLISHED: ((), ()),
}


class TaskTypes(str, Enum):
    """ClearML's task types; members equal and print as their strings."""

    training = "training"
    testing = "testing"
    inference = "inference"
    data_processing = "data_processing"
    application = "application"
    monitor = "monitor"
    controller = "controller"
    optimizer = "optimizer"
    service = "service"
    qc = "qc"
    custom = "custom"

    def __str__(self) -> str:
        return self.value


def task_type(value: object) -> str:
    """The name of a task type; training for None.

    Raises:
        UsageError: none of `TaskTypes`.
    """
    name = str(TaskTypes.training if value is None else value)
    if name not in TaskTypes.__members__:
        raise errors.UsageError(f"{name!r} is no task type", f"known are {', '.join(TaskTypes.__members__)}")
    return name


class TaskStatusEnum(str, Enum):
    """ClearML's status names plus minipipe's ``pending`` and ``skipped``.

    ``publishing``, ``closed`` and ``unknown`` exist for scripts that compare with them; no task ever has them.
    """

    created = "created"
    pending = "pending"
    queued = "queued"
    in_progress = "in_progress"
    stopped = "stopped"
    published = "published"
    publishing = "publishing"
    closed = "closed"
    failed = "failed"
    completed = "completed"
    skipped = "skipped"
    unknown = "unknown"

    def __str__(self) -> str:
        return self.value
