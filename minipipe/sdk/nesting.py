"""Steps that call components: these are steps of the same run, below the calling one, which lends its slot while it waits.

The step's process acts as the run's logic for them. Their names begin with its own; an edge shows who called whom. A step that is
executed again (retry, lost worker) finds what it called before: what completed is taken as it is.
"""

from __future__ import annotations

import json
import os

from minipipe import context
from minipipe.mutex import Mutex
from minipipe.sdk import session
from minipipe.sdk.run import Run
from minipipe.sdk.specs import Caller, RunOptions
from minipipe.store import details, resume, runs
from minipipe.store.home import Store

_lock = Mutex()
_runs: dict[tuple[int, str], Run] = {}  # by process and token of the calling attempt


def run_of_step() -> Run | None:
    """The run that components called here belong to, if this process executes a step of one; None elsewhere."""
    running = context.running()
    if running is None or running.lease is None or running.run == running.uid:
        return None
    with _lock:
        key = (os.getpid(), running.lease.token)
        if key not in _runs:
            _runs[key] = _open(session.open_store(), running, running.lease)
        return _runs[key]


def _open(store: Store, running: context.Running, lease: context.Lease) -> Run:
    row = runs.row_of(store, lease.task)
    place = details.project_of(store, row)
    options = RunOptions(
        name=row["name"],
        project=place,
        own_project=place,
        default_queue=row["queue"],
        roots=tuple(json.loads(row["entry"]).get("roots", ())),
        add_pipeline_tags=f"pipe: {running.run}" in details.tags_of(store, lease.task),
    )
    resume.revive_called(store, row["parent_id"], lease.uid)
    run = Run(store, row["parent_id"], running.run, None, options, again=True, caller=Caller(lease, row["name"]))
    run.begin(guard=False)
    return run
