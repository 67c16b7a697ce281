"""Steps in this very process: what is queued is executed by whoever waits for it, one after the other, recorded as everywhere else.

For tests and for debuggers: breakpoints work, what a test has replaced is replaced in steps too, and nothing is started. The same
rows are written as by a worker: attempts, results, logs, the cache. Not as there: no time limits, no isolation, no kill.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from minipipe import context, seeds, settings, told
from minipipe.engine import endings, execution, hosting
from minipipe.mutex import Mutex
from minipipe.sdk import maintask, session
from minipipe.store import attempts, inputs, waiting
from minipipe.store.attempts import Claim, Claimant, Outcome
from minipipe.store.home import Store

_TICK_S = 0.05  # a step that failed waits a moment for its next attempt: nothing in the database changes then


@dataclass(slots=True)
class _Executor:
    """Executes what carries this session."""

    session: str
    functions: dict[int, Callable[..., Any]] = field(default_factory=dict)
    lock: Mutex = field(default_factory=Mutex)


_executor: _Executor | None = None


def active() -> bool:
    """True if this process executes its own steps."""
    return _executor is not None


@contextlib.contextmanager
def executing(name: str) -> Iterator[None]:
    """While this is open, tasks of a session are executed here; it must stand in the environment (`session.SESSION_VARIABLE`)."""
    global _executor
    before, _executor = _executor, _Executor(name)
    try:
        yield
    finally:
        _executor = before


def know(task_id: int, function: Callable[..., Any]) -> None:
    """Say which function a step is, so that it need not be loaded from what was stored."""
    if _executor is not None:
        _executor.functions[task_id] = function


def pump(store: Store) -> None:
    """Execute what waits in a queue, and what becomes free by it, until nothing does; nothing where a worker's job it is.

    Transaction effect: two commits per step.
    """
    executor = _executor
    if executor is None or not executor.lock.acquire(blocking=False):  # another thread is at it
        return
    try:
        who = Claimant(session.registration(store).id, (), executor.session)
        while (claim := attempts.claim_next(store, who)) is not None:
            _run(store, executor, claim)
    finally:
        executor.lock.release()


def wait(store: Store, done: Callable[[], bool], timeout_s: float | None = None, tick: Callable[[], None] | None = None) -> bool:
    """As `minipipe.store.waiting.wait`; where this process executes its own steps it does so meanwhile."""
    if _executor is None:
        return waiting.wait(store, done, timeout_s, tick)

    def look() -> bool:
        pump(store)
        return done()

    def both() -> None:
        pump(store)
        if tick is not None:
            tick()

    return waiting.wait(store, look, timeout_s, both, _TICK_S)


# -- one attempt --------------------------------------------------------------------------------------------------------


def _run(store: Store, executor: _Executor, claim: Claim) -> None:
    spec, payloads = inputs.spec_of(store, claim, settings.load_settings())
    head = f"minipipe: {claim.name} {claim.lease.uid[:8]} attempt {claim.lease.attempt} token {claim.lease.token[:8]}\n"
    started = time.monotonic()
    interrupt: KeyboardInterrupt | None = None
    try:
        with within(store, claim, spec), maintask.copied_streams(store.log_path(claim.lease.uid, claim.lease.attempt), head):
            result, interrupt = _attempt(store, spec, payloads, executor.functions.get(claim.lease.task))
        outcome = outcome_of(store, spec, result, time.monotonic() - started)
        attempts.finish(store, claim.lease, outcome, settings.load_settings().max_crashes)
    finally:
        shutil.rmtree(store.folder("tmp") / f"{claim.lease.token}.d", ignore_errors=True)
    if interrupt is not None:
        raise interrupt


def _attempt(
    store: Store, spec: dict[str, Any], payloads: list[bytes], function: Callable[..., Any] | None
) -> tuple[endings.Result, KeyboardInterrupt | None]:
    try:
        if spec["entry"]["kind"] == "script":
            return execution.run_script(spec["entry"]), None
        return execution.run_function(store, spec, payloads, function), None
    except BaseException as error:
        result = endings.failure_of(error, spec["entry"])
        with open(
            spec["log"], "a", encoding="utf-8", errors="backslashreplace"
        ) as log:  # whoever runs this says it in fewer words
            log.write(result.head["error"].get("traceback", ""))
        return result, error if isinstance(error, KeyboardInterrupt) else None


def outcome_of(store: Store, spec: dict[str, Any], result: endings.Result, spent_s: float) -> Outcome:
    head = json.loads(json.dumps({**result.head, "token": spec["token"], "duration_s": spent_s}))
    return hosting.outcome_of(store, spec["token"], (head, result.payloads))


@contextlib.contextmanager
def within(store: Store, claim: Claim, spec: dict[str, Any]) -> Iterator[None]:
    """This process is the attempt; afterwards it is what it was."""
    entry = spec["entry"]
    before, main = context.running(), sys.modules["__main__"]
    kept = (sys.argv, sys.path[:], os.getcwd(), dict(os.environ), random.getstate(), _numpy_state())
    running = context.Running(store.path, claim.lease, claim.lease.uid, claim.run, True, claim.session, claim.private)
    with maintask.set_aside(), told.telling({}):  # what the command tells is for its script
        context.set_running(running)
        try:
            os.environ.update(spec["environment"])
            if entry["kind"] == "script":
                execution.enter(store, entry)
            seeds.sow(spec["seed"])
            yield
        finally:
            sys.modules["__main__"] = main
            sys.argv, sys.path[:] = kept[0], kept[1]
            os.chdir(kept[2])
            for name in os.environ.keys() - kept[3].keys():
                del os.environ[name]
            os.environ.update(kept[3])
            random.setstate(kept[4])
            if kept[5] is not None:
                sys.modules["numpy.random"].set_state(kept[5])
            context.set_running(before)


def _numpy_state() -> Any:
    module = sys.modules.get("numpy.random")
    return module.get_state() if module is not None else None
