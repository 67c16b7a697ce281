"""One step once more, in this process: its recorded inputs, its captured code, a terminal to answer a debugger.

It runs in a store of its own that is gone afterwards, unless it is to be kept: then it is a task of the store, a copy of the step.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from minipipe import errors, frames, settings
from minipipe.engine import endings, execution
from minipipe.sdk import inline, maintask, overrides
from minipipe.store import attempts, details, edits, inputs, scratch, workers
from minipipe.store.attempts import FAILED, Claim, Outcome
from minipipe.store.home import Store

Inspect = Callable[[BaseException, TracebackType | None], None]


@dataclass(frozen=True, slots=True)
class Output:
    """A result: its name, what it is and how it looks."""

    name: str
    type: str
    preview: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """How it went.

    Attributes:
        error: type, message, where, traceback as text; empty if it ended well.
        reason: one line.
        outputs: its results.
        duration_s: monotonic seconds.
        kept: id of the task that holds it, "" if nothing was stored.
    """

    error: Mapping[str, str]
    reason: str
    outputs: tuple[Output, ...]
    duration_s: float
    kept: str


def replay(store: Store, task_id: int, wanted: Mapping[str, Any], keep: bool, inspect: Inspect | None = None) -> Replayed:
    """Run a step again here.

    Args:
        store: where it is.
        task_id: its row.
        wanted: parameters to change, as ``--set`` gives them.
        keep: store it, as a copy of the step.
        inspect: called with what the step raised, while its folder, path and environment are still in force: a debugger.

    Raises:
        UsageError: it is a run, or has no inputs yet.
        BadParameter: a parameter is unknown or its value cannot be read.
        ArtifactError: an input is damaged.
    """
    row = details.task_by_id(store, task_id)
    assert row is not None
    scratch.check(store, row)
    cells = overrides.cells(details.label_of(store, row), overrides.known_of(store, task_id), wanted)
    with _place(store, task_id, row["name"], keep) as (place, draft):
        if cells:
            edits.set_parameters(place, draft, cells)
        found = workers.register(place, workers.PROCESS)
        try:
            lease = attempts.start_here(place, draft, found.id)
            claim = Claim(lease, row["name"], False, json.loads(row["entry"]), None, lease.uid, "", False)
            outcome = _perform(place, claim, inspect)
            if keep:
                attempts.finish(place, lease, outcome)
        finally:
            workers.leave(place, found)
        return Replayed(outcome.error or {}, outcome.reason, _outputs(outcome), outcome.duration_s, lease.uid if keep else "")


@contextlib.contextmanager
def _place(store: Store, task_id: int, name: str, keep: bool) -> Iterator[tuple[Store, int]]:
    if keep:
        yield store, edits.clone(store, task_id, name).id
    else:
        with scratch.copy_of(store, task_id) as found:
            yield found


def _perform(store: Store, claim: Claim, inspect: Inspect | None) -> Outcome:
    spec, payloads = inputs.spec_of(store, claim, settings.load_settings())
    lease = claim.lease
    head = f"minipipe: {claim.name} {lease.uid[:8]} attempt {lease.attempt} token {lease.token[:8]}\n"
    log = store.log_path(lease.uid, lease.attempt)
    started = time.monotonic()
    try:
        with inline.within(store, claim, spec), maintask.copied_streams(log, head):
            try:
                if spec["entry"]["kind"] == "script":
                    result = execution.run_script(spec["entry"])
                else:
                    execution.enter(store, spec["entry"])
                    result = execution.run_function(store, spec, payloads, None)
            except errors.ArtifactError:
                raise
            except (Exception, SystemExit) as error:
                result = endings.failure_of(error, spec["entry"])
                full = settings.load_settings().traceback == "full"
                sys.stderr.write(frames.traceback_text(error, full, "MINIPIPE_TRACEBACK=full"))
                if inspect is not None:
                    inspect(error, error.__traceback__)
        return inline.outcome_of(store, spec, result, time.monotonic() - started)
    except BaseException as error:  # Ctrl-C, or an input that is damaged: what was begun has to end
        attempts.finish(store, lease, Outcome(FAILED, f"{type(error).__name__} while it was run again by hand"))
        raise
    finally:
        shutil.rmtree(store.folder("tmp") / f"{lease.token}.d", ignore_errors=True)


def _outputs(outcome: Outcome) -> tuple[Output, ...]:
    found = []
    for one in outcome.outputs:
        if one.parameter is not None:
            found.append(Output(one.name, one.parameter.type or "str", one.parameter.text))
        elif one.encoded is not None:
            found.append(Output(one.name, one.encoded.type, one.encoded.preview))
    return tuple(found)
