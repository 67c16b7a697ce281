"""Several runs of pipelines in one process (ClearML's ``multi_instance_support``): each in a thread of its own, results kept in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minipipe.mutex import Mutex


@dataclass(slots=True)
class _Call:
    """One call."""

    action: Callable[[], Any]
    name: str
    result: Any = None
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name=f"minipipe-{self.name}")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self.action()
        except SystemExit as left:  # it was put on a queue: this call is over, the others go on
            self.error = left if left.code not in (None, 0) else None
        except BaseException as error:
            self.error = error


_lock = Mutex()
_open: list[_Call] = []
_numbers: dict[str, int] = {}


def next_call(pipeline: str) -> int:
    """The number of a call of a pipeline in this process, from 1."""
    with _lock:
        _numbers[pipeline] = _numbers.get(pipeline, 0) + 1
        return _numbers[pipeline]


def start(action: Callable[[], Any], name: str) -> None:
    """Begin a call and return at once."""
    with _lock:
        _open.append(_Call(action, name))


def running() -> int:
    """How many calls have been begun and not ended."""
    with _lock:
        return sum(call.thread.is_alive() for call in _open)


def wait() -> list[Any]:
    """The results of all calls so far, in order; the first error is raised when all have ended."""
    with _lock:
        calls, _open[:] = list(_open), []
    for call in calls:
        call.thread.join()
    for call in calls:
        if call.error is not None:
            raise call.error
    return [call.result for call in calls]
