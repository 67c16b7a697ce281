"""One execution of a pipeline: the core that every way of writing pipelines shares.

A run submits steps as rows, edges and references, hands out lazy results, and ends when all its steps have. It never polls a step
forward: what happens between submission and result is the store's and the workers' business. Two things keep it involved: Python
callbacks of steps (`minipipe.sdk.callbacks`) and, in local mode, the private worker that executes its steps.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from minipipe import context, errors, frames, settings, states
from minipipe.engine import worker as engine
from minipipe.mutex import Mutex
from minipipe.sdk import arguments, callbacks, capture, inline, lender, local, packing, proxy, references, session, task_fields
from minipipe.sdk.specs import Caller, RunOptions, Step, StepSpec
from minipipe.sdk.task import Task
from minipipe.shown import tell
from minipipe.store import attempts, placeholders, promote, records, resume, runs, steering, tasks, workers
from minipipe.store.attempts import Outcome
from minipipe.store.home import Store

_MOST_CONTROL_EDGES = 16


class Run:
    """An execution of a pipeline in this process.

    Args:
        store: where its facts are.
        task_id, uid: its own task.
        lease: this process's right to end it; None in a worker's child, where the child's end is the run's end.
        options: what holds for all steps.
        again: the run was started before: completed steps with equal code and inputs are taken as they are.
        caller: the step whose process this is; its slot is free while it waits here.
    """

    def __init__(
        self,
        store: Store,
        task_id: int,
        uid: str,
        lease: context.Lease | None,
        options: RunOptions,
        again: bool = False,
        caller: Caller | None = None,
    ) -> None:
        self.store = store
        self.id = task_id
        self.uid = uid
        self.lease = lease
        self.options = options
        self.again = again
        self.settings = settings.load_settings()
        self.steps: dict[str, Step] = {}
        self.by_id: dict[int, Step] = {}
        self.failure: BaseException | None = None
        self.interrupt: KeyboardInterrupt | None = None  # came while the run waited for its last steps
        self.asked = False  # it came because somebody aborted the run
        self.callbacks: callbacks.Callbacks | None = None
        self.started = time.monotonic()
        self.ended: float | None = None
        self.marked = ""  # how `stop` says the run ends
        self.status = ""  # how it has ended, before its task's row may say so (a worker's child)
        self._counts: dict[str, int] = {}
        self._lock = Mutex()
        self._local = threading.local()
        self._told: set[str] = set()
        self._quit = threading.Event()
        self._limit: float | None = None
        self._guard: threading.Thread | None = None
        current = context.running()
        self.session = current.session if current else os.environ.get(session.SESSION_VARIABLE, "")
        self.private = options.local or bool(current and current.private)
        self.serves = not (current and current.worker_mode)  # a worker's process leaves it to workers to execute steps
        self.caller = caller
        self.before = current  # what this process executed before the run began
        self._lender = lender.Lender(store, caller.lease if caller is not None else None)
        self._thread = threading.current_thread()
        if self.private and not self.session:
            self.session = local.session()
        belongs = packing.Belonging(task_id, uid, self.session, self.private)
        self._packer = packing.Packer(store, belongs, options, self.settings)

    @property
    def debug(self) -> bool:
        """True if components are plain calls here."""
        return self.options.debug

    @property
    def nested(self) -> bool:
        """True if it began while this process executed something else."""
        return self.before is not None and self.before.uid != self.uid

    # -- submitting ---------------------------------------------------------------------------------------------------

    def submit(
        self, spec: StepSpec, values: dict[str, Any], placeholders: tuple[tuple[str, str, str], ...] = ()
    ) -> list[proxy.LazyEvalWrapper]:
        """Submit a step and return its lazy results, one for each name; returns at once.

        Args:
            spec: the step.
            values: its arguments.
            placeholders: section, name, text of arguments that other steps' ends decide.

        Raises:
            BadPipeline: an explicit parent is no step of this run.
            CannotTravel: code or an argument cannot leave this process.
        """
        with self._lock:
            self._check_going()
            if self.caller is not None and self.caller.name:
                recorded = {**spec.recorded, "called_by": self.caller.lease.uid}
                spec = replace(spec, name=f"{self.caller.name}_{spec.name}", recorded=recorded)
            name, number = self._free_name(spec.name)
            given, code = self._pack(spec, name, values)
            controls = frozenset(getattr(self._local, "controls", ()))
            if self.caller is not None and self.caller.name:
                controls |= {self.caller.lease.task}
            new = self._packer.new_task(spec, name, given, code, self._parents(spec, name), controls)
            new = replace(new, placeholders=placeholders)
            submitted = (resume.reattach(self.store, self.id, new) if self.again else None) or tasks.submit(
                self.store, new, durable=spec.draft
            )
            step = Step(spec, name, submitted.id, submitted.uid, values, controls)
            self._counts[spec.name] = number
            inline.know(step.id, spec.function)
            self._take(step, new.queue, submitted.status)
        inline.pump(self.store)
        return [self.lazy(step, output) for output in spec.returns]

    def submit_copy(self, spec: StepSpec, template: tasks.NewTask) -> Step:
        """Submit a step that is a copy of a template, with everything but the run's own part filled in."""
        with self._lock:
            self._check_going()
            new = self._packer.copy_of(spec, template, self._parents(spec, spec.name))
            known = resume.reattach(self.store, self.id, new) if self.again else None
            submitted = known or tasks.submit(self.store, new, durable=False)
            step = Step(spec, spec.name, submitted.id, submitted.uid, {})
            self._take(step, new.queue, submitted.status)
        inline.pump(self.store)
        return step

    def _check_going(self) -> None:
        """Refuse new steps in a run that has failed already."""
        if self.failure is not None:
            raise self.failure
        if self.options.abort_on_failure and (bad := self.bad_steps()):
            raise errors.RunFailed(f"run {self.uid[:8]} stops: step {bad[0][0]} {bad[0][1]}, and abort_on_failure is set")

    def _take(self, step: Step, queue: str | None, status: str) -> None:
        """Keep a submitted step in mind: its callbacks run here, and somebody has to execute it."""
        self.steps[step.name] = self.by_id[step.id] = step
        if step.spec.node is not None:
            step.spec.node.bind(self, step)
        if step.spec.has_callbacks or callable(self.options.retry_of(step.spec)):
            assert self.callbacks is not None
            self.callbacks.watch(step)
        if status not in states.ENDED:
            self._serve(queue or "default")

    def _free_name(self, wanted: str) -> tuple[str, int]:
        """``train``, then ``train_1``, ``train_2`` … (ClearML's rule), and the number; names that are taken are left out."""
        if wanted not in self.steps and not self._foreign(wanted):
            return wanted, 0
        number = self._counts.get(wanted, 0) + 1
        while f"{wanted}_{number}" in self.steps or self._foreign(f"{wanted}_{number}"):
            number += 1
        return f"{wanted}_{number}", number

    def _foreign(self, name: str) -> bool:
        """True if a step that this one did not call has that name."""
        if self.caller is None or not self.caller.name:
            return False
        row = runs.step_of(self.store, self.id, name)
        return row is not None and json.loads(row["settings"]).get("called_by") != self.caller.lease.uid

    def _pack(self, spec: StepSpec, name: str, values: dict[str, Any]) -> tuple[arguments.Arguments, capture.Captured]:
        """Arguments and code of a step, ready to be stored."""
        try:
            return self._packer.pack(spec, name, values)
        except errors.CannotTravel:
            if self.failure is not None:  # what was to travel was waiting for a step of a run that failed
                raise self.failure from None
            raise

    def change_arguments(self, step: Step, values: dict[str, Any]) -> None:
        """Replace the arguments of a step that is held for its launch (a ``pre_execute_callback`` changed them).

        Takes no lock: a thread that submits a step may be waiting for this one's value.
        """
        given, code = self._pack(step.spec, step.name, values)
        key_base = self._packer.key_base(step.spec, step.name, given, code)
        steering.change_arguments(self.store, step.id, given.parameters, given.links, key_base)

    def _parents(self, spec: StepSpec, name: str) -> list[tuple[int, str]]:
        return [(self._parent(parent, name), "order") for parent in spec.parents]

    def _parent(self, parent: str, name: str) -> int:
        if parent not in self.steps:
            near = difflib.get_close_matches(parent, self.steps, 1)
            raise errors.BadPipeline(
                f"step {name!r}: no step {parent!r} to wait for",
                f"steps so far: {', '.join(self.steps) or 'none'}",
                f"did you mean {near[0]!r}?" if near else "call the parent before its child",
            )
        return self.steps[parent].id

    def _serve(self, queue: str) -> None:
        """Make sure that somebody will execute the step, or say at once that nobody does."""
        if inline.active():
            return
        if not self.serves:
            return
        if self.private:
            local.ensure_worker(self.store, self.session, self.settings.slots)
            return
        if queue in self._told or self.session:
            return
        self._told.add(queue)
        if queue not in workers.served_queues(self.store):
            hint = "minipipe worker" + ("" if queue in ("default", "services") else f" --queue {queue}")
            tell(f"note: no worker serves queue {queue!r}: its steps wait; start one: {hint}")

    # -- results ------------------------------------------------------------------------------------------------------

    def lazy(self, step: Step, output: str) -> proxy.LazyEvalWrapper:
        """A result of a step that is fetched when it is first used."""
        reference = arguments.Reference(step.id, step.uid, output, self.store.path)
        return proxy.LazyEvalWrapper(lambda: self.value_of(step, output), reference)

    def lazy_text(self, step: Step, text: str) -> proxy.LazyEvalWrapper:
        """A text with references to steps, `step` among them, for a place inside a list, dict or tuple."""

        def value() -> str:
            for name in references.steps_in(text):
                self.wait_for(self.steps[name])
            with self.store.database.write(durable=False) as connection:
                return placeholders.text_of(self.store, connection, self.id, text)

        return proxy.LazyEvalWrapper(value, arguments.Reference(step.id, step.uid, text, self.store.path))

    def filled(self, value: Any) -> Any:
        """A value with all references to steps, which have ended, in their places; fields of tasks included."""

        def text(match: re.Match[str]) -> str:
            name, *parts = placeholders.split(match[1])
            if parts[0] in task_fields.FIELDS:
                step = self.steps[name]
                return task_fields.text_of(Task(self.store, step.id, step.uid), parts)
            with self.store.database.write(durable=False) as connection:
                return placeholders.value_of(self.store, connection, self.id, match[1])

        if isinstance(value, str):
            return placeholders.PATTERN.sub(text, value)
        if isinstance(value, (list, tuple)):
            return type(value)(self.filled(part) for part in value)
        return {self.filled(key): self.filled(part) for key, part in value.items()} if isinstance(value, dict) else value

    def value_of(self, step: Step, output: str) -> Any:
        """The value of a result: waits for its step, then decodes. Later steps of this thread get a control edge from it.

        Raises:
            StepFailed: the step failed or was stopped (a tolerated one gives None, as a skipped one does).
        """
        status = self.wait_for(step)
        # What this step was itself drawn after is implied; of the rest the latest are drawn, else n values drew n edges per step.
        before = [one for one in getattr(self._local, "controls", ()) if one not in step.controls and one != step.id]
        self._local.controls = (*before[1 - _MOST_CONTROL_EDGES :], step.id)
        if status in states.GOOD:
            self.store.database.sync()  # whoever sees a value may rely on the step that made it
            value = records.value_of(self.store, step.id, output, session.scratch())
            own = self.options.deserialize
            return own(value) if own is not None and type(value) is bytes else value
        if status == states.SKIPPED or step.spec.behaviour.tolerates(status):
            return None
        raise self.step_failed(step, status)

    def wait_for(self, step: Step) -> str:
        """Wait until a step has ended for good (its callbacks included); return its status."""
        found = {"status": ""}

        def done() -> bool:
            row = runs.standing(self.store, step.id)
            found["status"] = row["status"] if row else states.STOPPED
            return found["status"] in states.ENDED and not (row and row["gate"])

        self.wait_until(done)
        return found["status"]

    def have_ended(self, names: Sequence[str]) -> bool:
        """True if all these steps were submitted and have ended for good, their callbacks included."""
        rows = [runs.standing(self.store, self.steps[name].id) if name in self.steps else None for name in names]
        return all(row is not None and row["status"] in states.ENDED and not row["gate"] for row in rows)

    def lets_run(self, names: Sequence[str]) -> bool:
        """True if steps that need these ones run, now that they have ended."""
        rows = [(self.steps[name].spec.behaviour, runs.standing(self.store, self.steps[name].id)) for name in names]
        return all(row is not None and (row["status"] in states.GOOD or row["status"] in kept.passes) for kept, row in rows)

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Wait for something that the ends of steps bring about.

        Raises:
            BaseException: what has failed the run meanwhile.
        """
        with self._lender.lending():
            inline.wait(self.store, lambda: done() or self.failure is not None, tick=self.tick)
        if self.failure is not None:
            raise self.failure

    def step_failed(self, step: Step, status: str) -> errors.StepFailed:
        """The error for using a result of a step that ended badly."""
        row = runs.standing(self.store, step.id)
        facts = json.loads(row["error"]) if row and row["error"] else {}
        reason = row["reason"] if row else ""
        return errors.StepFailed(
            f"step {step.name!r} {status}: {reason}",
            facts.get("where", ""),
            f"minipipe logs {self.uid[:8]}/{step.name}",
            step=step.name,
            task_id=step.uid,
        )

    # -- living -------------------------------------------------------------------------------------------------------

    def begin(self, guard: bool = True) -> None:
        """Start what has to happen beside the user's code: callbacks and, with a `guard`, reaping and hearing of an abort."""
        self.callbacks = callbacks.Callbacks(self)
        if not guard:
            return
        self._guard = threading.Thread(target=self._watch, name="minipipe-run", daemon=True)
        self._guard.start()

    def _watch(self) -> None:
        next_reap, version = 0.0, -1
        while not self._quit.wait(0.1):
            try:
                if time.monotonic() >= next_reap:
                    next_reap = time.monotonic() + 1.0
                    self.tick()
                self._check_limit()
                fresh = self.store.database.data_version()
                if self.lease is not None and fresh != version and self.aborted():
                    if self._thread is not threading.main_thread():
                        self.fail(errors.RunFailed(f"run {self.uid[:8]} was stopped"), "the run was stopped")
                        return
                    # A real signal: the logic may be in a sleep or a read, which a mere note to the interpreter does not end.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return
                version = fresh
            except errors.MinipipeError:
                continue  # the main thread meets the same error where it can be shown

    def tick(self) -> None:
        """Once a second while waiting: give back what dead workers held, restart a private worker that died."""
        workers.reap(self.store, self.settings.max_crashes, engine.sweep)
        if self.private and self.serves and not inline.active():
            local.check_worker(self.store, self.session, self.settings.slots)

    def aborted(self) -> bool:
        """True if somebody asked this run to stop."""
        return runs.asked_to_stop(self.store, self.id)

    def limit(self, minutes: float | None) -> None:
        """Fail the run, stopping its steps, after so many minutes."""
        self._limit = None if minutes is None else time.monotonic() + minutes * 60.0

    def _check_limit(self) -> None:
        if self._limit is not None and time.monotonic() >= self._limit and self.failure is None:
            self.failure = errors.RunFailed(f"run {self.uid[:8]} ran over its time limit")
            with self._lock, self.store.database.write() as connection:
                promote.stop_steps(connection, self.id, "the pipeline's time limit", time.time())

    # -- ending -------------------------------------------------------------------------------------------------------

    def open_steps(self) -> int:
        """Steps that have not ended, or whose callbacks have not run."""
        return runs.open_steps(self.store, self.id)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for all steps; False if the time ran out. In a callback it does not wait: the callback's step is among them."""
        if self.callbacks is not None and self.callbacks.calling == threading.get_ident():
            return self.open_steps() == 0
        with self._lender.lending():
            return inline.wait(self.store, lambda: self.open_steps() == 0 or self.failure is not None, timeout_s, self.tick)

    def finish(self, error: BaseException | None = None) -> str:
        """End the run: wait for its steps (or stop them, after an error), settle its status, commit it.

        Returns:
            completed, failed or stopped.
        """
        stopped = isinstance(error, KeyboardInterrupt)
        try:
            if error is not None:
                self.stop_steps("the run was stopped" if stopped else "the run failed")
            self.wait(self.settings.grace_s + 5.0 if error is not None else None)
            if self.failure is not None:
                self._wait_for_stopped()
            if self.again and error is None:
                resume.supersede_unreached(self.store, self.id)
        except KeyboardInterrupt as interrupt:
            self.interrupt, self.asked = interrupt, self.aborted()
            error, stopped = error or interrupt, True
            self.stop_steps("the run was stopped")
            self.wait(self.settings.grace_s + 5.0)
        self._quit.set()
        if self.callbacks is not None:
            self.callbacks.close()
        error = error or self.failure
        status, outcome = self._verdict(error, stopped)
        self.ended = time.monotonic()
        if status == states.STOPPED and not self.aborted():
            steering.abort(self.store, [self.id], outcome.reason)
        if self.lease is not None:
            status = attempts.finish(self.store, self.lease, outcome, self.settings.max_crashes).status or status
        self.status = status
        return status

    def _wait_for_stopped(self) -> None:
        """A failed run ends after its steps, which have been asked to stop; their callbacks are not waited for."""
        inline.wait(self.store, lambda: not runs.live_steps(self.store, self.id), self.settings.grace_s + 5.0, self.tick)

    def _verdict(self, error: BaseException | None, stopped: bool) -> tuple[str, Outcome]:
        spent = time.monotonic() - self.started
        bad = self.bad_steps()
        if self.marked:
            bad = [one for one in bad if one[1] == states.FAILED] or ([("", "marked")] if self.marked != states.COMPLETED else [])
            stopped = stopped or self.marked == states.STOPPED
        if error is None and not bad:
            return states.COMPLETED, Outcome(attempts.DONE, duration_s=spent)
        if stopped:
            reason = "stopped by its own logic" if self.marked else "interrupted"
            return states.STOPPED, Outcome(attempts.FAILED, reason, None, (), spent, final=True)
        if error is None or isinstance(error, errors.StepFailed):
            reason = "; ".join(f"step {name} {status}" for name, status in bad[:3]) or str(error)
        else:
            said = error.message if isinstance(error, errors.MinipipeError) else error
            reason = f"{type(error).__name__}: {said}"
        place = "" if error is None or isinstance(error, errors.StepFailed) else frames.where(error)
        facts = {"type": "RunFailed", "message": reason, "where": place}
        return states.FAILED, Outcome(attempts.FAILED, reason[:500], facts, (), spent, final=True)

    def bad_steps(self) -> list[tuple[str, str]]:
        """(name, status) of steps whose ending fails the run."""
        return runs.bad_steps(self.store, self.id)

    def stop_steps(self, reason: str) -> None:
        """Stop everything that still runs or waits. Transaction effect: one durable commit."""
        steering.abort(self.store, runs.steps(self.store, self.id), reason)

    def stop(self, mark_failed: bool = False, mark_aborted: bool = False) -> None:
        """Stop running steps and skip waiting ones; the run completes unless a step failed or it is marked otherwise."""
        now = time.time()
        with self.store.database.write() as connection:
            promote.stop_steps(connection, self.id, "the pipeline was stopped", now)
        self.marked = states.FAILED if mark_failed else states.STOPPED if mark_aborted else states.COMPLETED

    def fail(self, error: BaseException, why: str = "") -> None:
        """Fail the run because of an error outside the main thread (a callback, the run's time limit)."""
        self.failure = self.failure or error  # first: who holds the lock may be waiting for the very step
        with self._lock:  # a step that is being submitted right now is stopped too
            self.stop_steps(why or f"{type(error).__name__} in a callback")
