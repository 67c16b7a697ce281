"""What this process is running: one value, set once by whoever starts work here.

A step's child process sets it before user code runs; `Task.current_task()` and the logger read it. It is a plain module
global and not a ContextVar: threads that user code starts must see the step they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one attempt to end its task: a lost attempt holds a token that matches no row.

    Attributes:
        task: row id of the task.
        uid: the task's 32-hex id.
        attempt: number of this try, from 1.
        token: 32 hex digits, drawn at random for each attempt; the fence.
    """

    task: int
    uid: str
    attempt: int
    token: str


@dataclass(frozen=True, slots=True)
class Running:
    """The task that this process executes.

    Attributes:
        home: directory of the store that holds the task.
        lease: the attempt, None for a run that an ordinary process started and owns by its lock file.
        uid: the task's id.
        run: id of the run that the task belongs to (its own id for a controller).
        worker_mode: True if a worker executes the task here; False in a script that started it (ClearML's "local mode").
        session: the command whose embedded workers may serve what this task creates, "" if any worker may.
        private: True if only workers of `session` may serve it.
    """

    home: Path
    lease: Lease | None
    uid: str
    run: str
    worker_mode: bool
    session: str = ""
    private: bool = False


_running: Running | None = None


def running() -> Running | None:
    """The task that this process executes, None if there is none."""
    return _running


def set_running(value: Running | None) -> None:
    """Say what this process executes from now on; None ends it."""
    global _running
    _running = value
