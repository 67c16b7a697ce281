"""Being stopped, and what follows a good end (ClearML's `Task`)."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, ClassVar

from minipipe import errors, states
from minipipe.sdk import session, stopping
from minipipe.sdk.task_base import TaskBase
from minipipe.store import recorded, runs


class TaskSteering(TaskBase):
    """Stop requests, abort callbacks, publishing."""

    _abort: ClassVar[tuple[Callable[[], Any], Any] | None] = None  # what to call, and what SIGTERM did before

    def publish_on_completion(self, enable: bool = True) -> None:
        """Publish the task as soon as it completes, in the same transaction; not if it fails or is stopped.

        Transaction effect: one durable commit.
        """
        recorded.set_setting(self.store, self.row_id, "publish_on_completion", True if enable else None)

    def mark_stop_request(self, force: bool = False, status_message: str | None = None) -> None:
        """Ask the task to stop: a running one is ended by its worker, one that waits ends at once, one that has ended stays.

        Args:
            force: without effect: the request is always accepted.
            status_message: why.

        Transaction effect: one durable commit.
        """
        stopping.stop(self.store, [self.row_id], status_message or "stop requested")

    def stop_request(self, ignore_errors: bool = True, force: bool = False, status_message: str | None = None) -> None:
        """As `mark_stop_request`, which ignores that a task has ended; `ignore_errors` has no other to ignore."""
        self.mark_stop_request(force, status_message)

    def register_abort_callback(
        self, callback_function: Callable[[], Any] | None, callback_execution_timeout: float = 30.0
    ) -> None:
        """Call a function when somebody stops the task, before its process ends.

        Args:
            callback_function: takes no arguments and runs in the main thread, wherever that is; None forgets the one before.
            callback_execution_timeout: seconds that it has; then the process is killed.

        Raises:
            ValueError: this process does not execute the task, or this is not its main thread.

        Transaction effect: one commit without sync.
        """
        running = session.within()
        if running is None or running.uid != self.id or self.lease is None:
            raise errors.UsageError("an abort callback belongs to the process that executes the task", hint="Task.current_task()")
        if threading.current_thread() is not threading.main_thread():
            raise errors.UsageError("an abort callback is registered in the main thread", "signals arrive there")
        if callback_function is None:
            if TaskSteering._abort is not None:
                signal.signal(signal.SIGTERM, TaskSteering._abort[1])
                TaskSteering._abort = None
            return
        recorded.expect_grace(self.store, self.lease, float(callback_execution_timeout) + 1.0)
        before = signal.getsignal(signal.SIGTERM) if TaskSteering._abort is None else TaskSteering._abort[1]
        TaskSteering._abort = (callback_function, before)
        signal.signal(signal.SIGTERM, self._aborted)

    def _aborted(self, number: int, frame: Any) -> None:
        found, TaskSteering._abort = TaskSteering._abort, None
        if found is None:
            return
        call, before = found
        signal.signal(number, before)
        try:
            if runs.asked_to_stop(self.store, self.row_id) or self.status == states.STOPPED:
                call()
        except Exception:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.kill(os.getpid(), number)  # and now as it would have been
