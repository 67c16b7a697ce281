"""What this process is running: one value, set once by whoever starts work here.

A step's child process sets it before user code runs; `Task.current_task()` and the logger read it. It is a plain module
global and not a ContextVar: threads that user code starts must see the step they belong to. It also stands in the environment,
where programs that user code starts find it (`inherited`).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "MINIPIPE_WITHIN"


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
_own = threading.local()  # of threads that run a pipeline of their own
_from_outside = os.environ.get(VARIABLE, "")


def running() -> Running | None:
    """The task that this process executes, None if there is none."""
    found: Running | None = getattr(_own, "running", _running)
    return found


def separate(value: Running | None) -> None:
    """From now on this thread executes something of its own: `running` and `set_running` are about this thread alone."""
    _own.running = value


def set_running(value: Running | None) -> None:
    """Say what this process executes from now on; None ends it. Programs that it starts then find it in their environment."""
    global _running
    if hasattr(_own, "running"):
        _own.running = value
        return
    _running = value
    text = _from_outside if value is None else json.dumps({**asdict(value), "home": str(value.home)})
    if text:
        os.environ[VARIABLE] = text
    else:
        os.environ.pop(VARIABLE, None)


# -- what comes before user code ------------------------------------------------------------------------------------------

_first: list[str] = []


def import_first(name: str) -> None:
    """Have every task that is made here from now on call something before its code is loaded, wherever it runs.

    Args:
        name: ``module:function``; it takes no arguments.
    """
    if name not in _first:
        _first.append(name)


def forget_first(name: str) -> None:
    """Undo `import_first`."""
    if name in _first:
        _first.remove(name)


def first_imports() -> dict[str, list[str]]:
    """What `import_first` was told, as a part of a task's entry; empty if that was nothing."""
    return {"first": list(_first)} if _first else {}


# -- what comes after it --------------------------------------------------------------------------------------------------

_endings: list[Callable[[], None]] = []


def before_end(action: Callable[[], None]) -> None:
    """Have a worker's process call this when its script has ended and before its task does; an exception fails the task."""
    _endings.append(action)


def end() -> None:
    """Call what `before_end` was given, in that order."""
    while _endings:
        _endings.pop(0)()


def inherited() -> Running | None:
    """What the process that started this program was executing at that time; None if nothing. It may have ended since."""
    text = os.environ.get(VARIABLE, "") if _running is None else ""
    if not text:
        return None
    try:
        facts = json.loads(text)
        lease = Lease(**facts.pop("lease"))  # what has no lease was not ours to tell
        return Running(lease=lease, **{**facts, "home": Path(facts["home"])})
    except (ValueError, TypeError, KeyError, AttributeError):  # somebody else's variable of that name
        return None
