"""Python callbacks of steps: run in the controller's process, one at a time, in one thread.

A step is held for its controller only at the points where a callback exists: before launch (``hold``), after a failed attempt
whose retry predicate must be asked (``hold`` again), and between its end and the start of its children (``gate``). Status changes
are read from the store's events, so none is left out, however fast the step was.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minipipe import errors, frames, states
from minipipe.mutex import Mutex
from minipipe.sdk import proxy, values
from minipipe.sdk.node import NODE_WORDS, Node
from minipipe.sdk.references import has_step_reference
from minipipe.sdk.values import kept_cell, split_name
from minipipe.shown import tell, tell_lines
from minipipe.store import edits, records, runs, steering, waiting

if TYPE_CHECKING:
    from minipipe.sdk.run import Run
    from minipipe.sdk.specs import Step


class Callbacks:
    """Runs the callbacks of one run. The thread starts with the first step that has any."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.nodes: dict[int, Node] = {}
        self.pipeline: Any = None  # what user callbacks get as their first argument
        self.calling: int | None = None  # the thread in which a callback runs now
        self._thread: threading.Thread | None = None
        self._turns = Mutex()  # callbacks run one at a time
        self._quit = False

    def watch(self, step: Step) -> None:
        """Take part in the life of a step that was just submitted."""
        self.nodes[step.id] = step.spec.node or Node.of_step(self.run, step)
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="minipipe-callbacks", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Tell what is left to tell and stop; a callback that runs now is waited for, at most 5 seconds."""
        free = self._turns.acquire(timeout=5.0)
        try:
            if free:
                # The last changes may have come after the thread's last look. What keeps the store from being read here also
                # keeps the run from ending well, where it is said.
                with contextlib.suppress(errors.MinipipeError):
                    self._turn()
        finally:
            self._quit = True  # the thread ends with its next look; nothing has to wait for that
            if free:
                self._turns.release()

    def _loop(self) -> None:
        while not self._quit:
            try:
                waiting.wait(self.run.store, self._turn, timeout_s=0.2)
            except errors.MinipipeError as error:
                if not self._quit:
                    self.run.fail(error)
                return

    def _turn(self) -> bool:
        """One look at everything that changed; always asks for another one unless the thread should end."""
        with self._turns:
            if not self._quit:
                for step_id in list(self.nodes):
                    self._look(step_id)
            return self._quit

    def _look(self, step_id: int) -> None:
        step, node = self.run.by_id.get(step_id), self.nodes[step_id]
        if step is None:
            return
        self._tell_changes(step, node)
        row = runs.standing(self.run.store, step_id)
        if row is None:
            return
        if row["status"] == states.PENDING and row["hold"] == "launch" and row["waiting_on"] == 0:
            self._before(step, node)
        elif row["status"] == states.PENDING and row["hold"] == "retry":
            self._retry(step, node, row["retries"])
        elif row["status"] in states.ENDED and row["gate"]:
            self._after(step, node, row["status"])
        elif row["status"] in states.ENDED:
            self._tell_changes(step, node)
            self.nodes.pop(step_id, None)

    def _before(self, step: Step, node: Node) -> None:
        copied = node.base_task_id is not None
        self._read_parameters(step, node, copied)
        before = dict(node.parameters)
        answer = self._call(step.spec.before, node, node.parameters)
        if self.run.failure is None and answer is not False and _differs(before, node.parameters):
            self._change(step, node, before)
        if self.run.failure is None:
            steering.release(self.run.store, step.id, skip=answer is False)

    def _read_parameters(self, step: Step, node: Node, copied: bool) -> None:
        """References are resolved by now: what the callback sees is what the step will get."""
        given = node.parameters
        wanted = {key for key in given if copied or (not proxy.is_lazy(given[key]) and has_step_reference(given[key]))}
        if not wanted:
            return
        rows = records.parameters(self.run.store, step.id)
        stored = {f"{row['section']}/{row['name']}": values.typed(row) for row in rows}
        node.parameters.update({key: stored[key] for key in node.parameters if key in wanted and key in stored})

    def _change(self, step: Step, node: Node, before: dict[str, Any]) -> None:
        if node.base_task_id is not None:
            known = {f"{row['section']}/{row['name']}": row["type"] for row in records.parameters(self.run.store, step.id)}
            changed = {key: value for key, value in node.parameters.items() if key not in before or value is not before[key]}
            places = {key: split_name(key) for key in changed}
            cells = [kept_cell(*places[key], value, known.get("/".join(places[key]), "")) for key, value in changed.items()]
            edits.set_parameters(self.run.store, step.id, cells)
            edits.forget_overrides(self.run.store, step.id, [split_name(key) for key in before if key not in node.parameters])
        else:
            self.run.change_arguments(step, {key.removeprefix("kwargs/"): value for key, value in node.parameters.items()})

    def _after(self, step: Step, node: Node, status: str) -> None:
        self._tell_changes(step, node)
        if status != states.SKIPPED:
            self._call(step.spec.after, node)
        steering.open_gate(self.run.store, step.id)

    def _retry(self, step: Step, node: Node, done: int) -> None:
        predicate = step.spec.retry if callable(step.spec.retry) else self.run.options.retry
        again = False
        if callable(predicate):
            try:
                again = bool(predicate(self.pipeline, node, done))
            except Exception as error:
                tell(f"warning: the retry predicate of step {step.name!r} raised {type(error).__name__}: no retry")
        steering.answer_retry(self.run.store, step.id, again)

    def _tell_changes(self, step: Step, node: Node) -> None:
        if step.spec.on_status is None:
            return
        for row in runs.changes(self.run.store, step.id, node.seen_event):
            node.seen_event = row["id"]
            word = "cached" if row["new"] == states.COMPLETED and row["cached_from"] else NODE_WORDS[row["new"]]
            previous, node.shown_status = node.shown_status, word
            if previous == word:
                continue
            node.told_status = word  # a fast step may be further by now; the callback hears of one change at a time
            try:
                step.spec.on_status(self.pipeline, node, previous)
            except Exception as error:
                self._show(error)
            finally:
                node.told_status = None

    def _call(self, callback: Callable[..., Any] | None, node: Node, *extra: Any) -> Any:
        if callback is None:
            return None
        self.calling = threading.get_ident()
        try:
            return callback(self.pipeline, node, *extra)
        except Exception as error:
            self._show(error)
            self.run.fail(error)
            return None
        finally:
            self.calling = None

    def _show(self, error: Exception) -> None:
        text = frames.traceback_text(error, self.run.settings.traceback == "full", "MINIPIPE_TRACEBACK=full")
        tell_lines(text.removesuffix("\n"))


def _differs(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """True if a callback changed the arguments; compared by identity, so that no lazy result is fetched."""
    return before.keys() != after.keys() or any(before[name] is not after[name] for name in before)
