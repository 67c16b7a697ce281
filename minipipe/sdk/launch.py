"""Starting and ending runs: where the logic runs, what the run is called, which arguments hold."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from dataclasses import dataclass, replace
from typing import Any

from minipipe import context, errors, states, told
from minipipe.sdk import (
    git_facts,
    inline,
    maintask,
    overrides,
    project_modules,
    proxy,
    saying,
    session,
)
from minipipe.sdk.definition import Definition, as_stored, cells, controller, here, numbered, setting_cells
from minipipe.sdk.run import Run
from minipipe.sdk.script import capture_script
from minipipe.sdk.specs import Caller, RunOptions, StepSpec
from minipipe.store import attempts, details, edits, records, resume, runs, steering, tasks
from minipipe.store.home import Store

# -- beginning ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """A run that is stored and not started.

    Attributes:
        id, uid: its task.
        definition: with the name and project that hold.
        main: it is the main task of this process, which is in progress already.
        mode: what its entry says of where the logic runs: "" for a worker, else inline, debug, local or mixed.
        early: it was made while the pipeline was still being written.
        nested: it is a step of the run that runs here.
    """

    id: int
    uid: str
    definition: Definition
    main: bool = False
    mode: str = ""
    early: bool = False
    nested: bool = False


_live: dict[str, Run] = {}  # runs whose logic is in this process, by id
_calls: dict[tuple[str, str], int] = {}  # how often a pipeline was called in a run: by id of the run, and name


def make(definition: Definition, given: dict[str, Any], mode: str = "", settings: bool = True) -> Made:
    """Store a run: the main task of this process if there is one (ClearML's rule), the one that ``minipipe resume`` goes on with,
    the one that a worker executes here, else a new draft. A worker that gets it runs this script again.

    With `settings` False, what ``minipipe run --set`` says is left to `complete`: not all parameters are known yet.
    """
    store, running = session.open_store(), context.running()
    outer = _outer(store, running, definition)
    if outer is not None:
        return _make_nested(store, outer, definition, given, mode)
    if running is not None and running.worker_mode:
        return _running(store, running, definition)
    main = maintask.main_task()
    if main is not None and main.names is not None:
        made = _take_over(store, main, definition, given, mode)
        if settings:
            complete(made, definition, given)
        return made
    row = _resumed(store, definition)
    if row is not None:
        return Made(row["id"], row["uid"], definition, mode=mode)
    entry = here(definition, mode)
    given = _with_settings(definition, given) if settings else given
    new = tasks.submit(store, controller(store, definition, given, entry, numbered(store, definition)))
    git_facts.ask(store, new.id, entry)
    return Made(new.id, new.uid, definition, mode=mode, early=not settings)


def complete(made: Made, definition: Definition, given: dict[str, Any]) -> None:
    """Store what has been said since a run was made: parameters that it lacks, and what ``minipipe run --set`` says.

    Transaction effect: one durable commit if there is anything.
    """
    store = session.open_store()
    wanted = _with_settings(definition, given)
    known = {(row["section"], row["name"]) for row in records.parameters(store, made.id)}
    fresh = [
        cell
        for cell in cells(definition, wanted)
        if (cell.section, cell.name) not in known or wanted[cell.name] is not given[cell.name]
    ]
    fresh += [cell for cell in setting_cells(definition) if (cell.section, cell.name) not in known]
    if fresh:
        edits.set_parameters(store, made.id, fresh)


def leave(made: Made) -> None:
    """Leave a run that was made here to whoever enqueues it: a main task becomes a draft again; what was reported so far goes,
    for the script runs again there (ClearML's rule)."""
    if made.main:
        maintask.leave()
    elif made.early:
        edits.reset(session.open_store(), made.id)


def may_leave() -> bool:
    """True if nothing runs here that a pipeline would be a step of: it may be left to a queue; with the main task, which becomes it."""
    running, main = context.running(), maintask.main_task()
    own = main is not None and main.names is not None and running is not None and running.uid == main.current.uid
    return running is None or (own and running.run not in _live)


def enqueue(definition: Definition, given: dict[str, Any]) -> str:
    """Leave the run on a queue: a worker will run this script again. Returns its id."""
    check_script(definition)
    made = make(definition, given)
    send(made, definition.queue or "services")
    return made.uid


def check_script(definition: Definition) -> None:
    """Make sure that a worker could run this again.

    Raises:
        CannotTravel: there is no script (a notebook, ``python -c``).
    """
    capture_script(f"pipeline {definition.name!r}")


def send(made: Made, queue: str | None) -> None:
    """Enqueue a run (None leaves a draft), and say so."""
    store = session.open_store()
    leave(made)
    if queue:
        entry = project_modules.watched(edits.facts(store, made.id))
        steering.enqueue(store, made.id, queue, session.name(), entry=entry)
    saying.announce(store, made.id)
    saying.note_unserved(store, queue)


def begin(
    definition: Definition,
    given: dict[str, Any],
    mode: str,
    default_queue: str | None,
    made: Made | None = None,
) -> tuple[Run, dict[str, Any]]:
    """Start a run in this process: a new one (or `made`, a draft), the one that a worker executes here, or one that is resumed.

    Returns:
        The run and the arguments that hold: those stored with the run win over those in code.

    A pipeline that is started while another one runs here, or inside a step, is a step of that run.

    Raises:
        NotSupported: a worker executes a task here that is no pipeline.
    """
    running = context.running()
    store = session.open_store()
    mode_here = "inline" if inline.active() else mode if mode != "remote" else "mixed"
    made = made or make(definition, given, mode_here)
    stored = overrides.stored(store, made.id, given, definition.known(given))
    if told.unused() and not made.nested:  # a worker runs a script that was told what its stored run does not have
        stored = _with_settings(definition, stored)
        edits.set_parameters(
            store, made.id, [cell for cell in cells(definition, stored) if stored[cell.name] is not given[cell.name]]
        )
    definition = as_stored(store, made.id, definition)
    options = RunOptions(
        name=made.definition.name,
        project=made.definition.project,
        default_queue=definition.default_queue or default_queue,
        target_project=definition.target_project,
        abort_on_failure=definition.abort_on_failure,
        add_pipeline_tags=definition.add_pipeline_tags,
        retry=definition.retry,
        local=mode != "remote"
        and (running is None or made.main or (made.nested and running.private and not running.worker_mode)),
        debug=mode == "debug",
        local_imports=definition.local_imports,
        serialize=definition.serialize,
        deserialize=definition.deserialize,
        called=definition.called,
        needs=definition.needs,
        roots=_roots_of_step(store, running),
        refresh=tuple(edits.facts(store, made.id).get("refresh", ())),
        own_project=details.project_of(store, runs.row_of(store, made.id)),
    )
    if running is not None and running.worker_mode and not made.nested:
        if runs.row_of(store, made.id)["retries"]:  # a step that is a run, once more: what failed in it too
            resume.revive(store, made.id)
        run = Run(store, made.id, made.uid, None, options, again=runs.row_of(store, made.id)["attempt"] > 1)
    else:
        run = _begin_here(store, made, options, mode_here)
    _live[run.uid] = run
    run.begin()
    return run, stored


def _roots_of_step(store: Store, running: context.Running | None) -> tuple[str, ...]:
    """The folders that the imports of a step start from, for a pipeline that it has started."""
    if running is None or running.lease is None or running.run == running.uid:
        return ()
    return tuple(edits.facts(store, running.lease.task).get("roots", ()))


def _outer(store: Store, running: context.Running | None, definition: Definition) -> sqlite3.Row | None:
    """The run that a pipeline started here is a step of: one whose logic is in this process, or whose step runs here."""
    if running is None:
        return None
    row = details.task_by_uid(store, running.run)
    if running.run in _live or running.run != running.uid:
        return row
    if running.worker_mode and row is not None and row["run_name"] is not None:
        told = json.loads(row["settings"]).get("pipeline")
        return None if told in (None, definition.key) else row  # the script starts another pipeline before its own
    return None


def is_called(definition: Definition) -> bool:
    """False if a worker executes another call of this pipeline here: that one is a task of its own."""
    running = context.running()
    if running is None or not running.worker_mode:
        return True
    told = records.settings_of(session.open_store(), runs.id_of(session.open_store(), running.run))
    return told.get("pipeline") != definition.key or told.get("call") in (None, definition.call)


def _make_nested(store: Store, outer: sqlite3.Row, definition: Definition, given: dict[str, Any], mode: str) -> Made:
    """The run as a step of another one; a run that goes on finds the one that it made before."""
    running = context.running()
    assert running is not None
    step = runs.row_of(store, running.lease.task)["name"] if running.run != running.uid and running.lease is not None else ""
    wanted = f"{step}_{definition.name}" if step else definition.name
    while True:
        number = _calls[outer["uid"], wanted] = _calls.get((outer["uid"], wanted), -1) + 1
        name = f"{wanted}_{number}" if number else wanted
        known = runs.step_of(store, outer["id"], name)
        if known is None or json.loads(known["settings"]).get("pipeline") == definition.key:
            break
    if known is not None:
        resume.revive(store, known["id"])
        resume.reopen(store, known["id"])
        return Made(known["id"], known["uid"], definition, mode=mode, nested=True)
    new = replace(
        controller(store, definition, given, here(definition, mode), name),
        parent_id=outer["id"],
        nested=True,
        draft=True,
        session=running.session,
        private=running.private,
        parents=((running.lease.task, "control"),) if step and running.lease is not None else (),
    )
    made = tasks.submit(store, new)
    return Made(made.id, made.uid, definition, mode=mode, nested=True)


def _running(store: Store, running: context.Running, definition: Definition) -> Made:
    """Worker mode: this process executes the run's task; its stored arguments override those in code, its end is the run's."""
    row = details.task_by_uid(store, running.uid)
    if row is None or row["type"] != states.TaskTypes.controller:
        raise errors.NotSupported(
            "a pipeline cannot be started in a task that is none",
            "a worker executes the task here",
            "enqueue the pipeline's own task",
        )
    return Made(row["id"], row["uid"], definition)


def _take_over(store: Store, main: maintask.MainTask, definition: Definition, given: dict[str, Any], mode: str) -> Made:
    """The main task becomes the controller; the pipeline takes its name and project (ClearML's rule)."""
    row = runs.row_of(store, main.current.row_id)
    key, project = definition.key, details.project_of(store, row)
    definition = replace(definition, name=row["name"], project=project, own_project=project)
    if row["run_name"] is None:
        new = controller(store, definition, given, here(definition, mode), definition.name)
        new = replace(new, settings={**new.settings, "pipeline": key})
        edits.become_run(store, main.current.row_id, new)
    return Made(main.current.row_id, main.current.uid, definition, True, mode)


def _begin_here(store: Store, made: Made, options: RunOptions, mode: str) -> Run:
    if made.mode != mode:
        edits.label(store, made.id, entry=json.dumps(here(made.definition, mode)))
    main = maintask.main_task()
    if made.main and main is not None:
        lease = main.current.lease
        assert lease is not None
    else:
        lease = attempts.start_here(store, made.id, session.registration(store).id)
    run = Run(store, made.id, made.uid, lease, options, again=lease.attempt > 1, caller=_caller(store) if made.nested else None)
    before = context.running()
    if made.nested and before is not None:
        now = replace(before, lease=lease, uid=made.uid, run=made.uid, private=run.private)
    else:
        name = os.environ.get(session.SESSION_VARIABLE, "")
        now = context.Running(store.path, lease, made.uid, made.uid, False, name, options.local)
    context.set_running(now)
    saying.announce(store, made.id)
    return run


def _caller(store: Store) -> Caller | None:
    """The step that runs here, whose slot is free while it waits for a pipeline that it has started."""
    running = context.running()
    if running is None or running.lease is None or running.run == running.uid:
        return None
    return Caller(running.lease, "")


def _resumed(store: Store, definition: Definition) -> sqlite3.Row | None:
    """The run that ``minipipe resume`` wants to go on with, if it is one of this pipeline; a script may start others before."""
    uid = os.environ.get(session.RESUME_VARIABLE, "")
    row = runs.resumable(store, uid, definition.key, definition.hidden_project)
    if row is not None:
        del os.environ[session.RESUME_VARIABLE]
    return row


# -- arguments ----------------------------------------------------------------------------------------------------------


def foreseen(definition: Definition, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that will hold, for a pipeline that is still being written: what a worker's run has stored, or ``--set`` says.

    Raises:
        BadParameter: a value that cannot be read as the declared type.
    """
    running = context.running()
    known = definition.known(given)
    if running is not None and running.worker_mode:
        store = session.open_store()
        if _outer(store, running, definition) is not None:
            return given
        return overrides.stored(store, runs.id_of(store, running.uid), given, known)
    names = {one.name for one in known} | {f"{one.section}/{one.name}" for one in known}
    return overrides.applied(
        definition.name, given, known, {name: value for name, value in told.unused().items() if name in names}
    )


def _with_settings(definition: Definition, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments with what ``minipipe run --set`` says.

    Raises:
        BadParameter: an unknown name (the nearest one is named) or a value that cannot be read as the declared type.
    """
    wanted = told.unused()
    found = overrides.applied(definition.name, given, definition.known(given), wanted) if wanted else given
    told.use(wanted)
    return found


# -- ending -------------------------------------------------------------------------------------------------------------


def end(run: Run, definition: Definition, result: Any, error: BaseException | None) -> None:
    """End a run: store its result, wait for its steps, settle its status; raise what has to be raised.

    Raises:
        RunFailed: a step failed and nothing else was raised, or somebody stopped the run.
    """
    if isinstance(error, SystemExit) and error.code in (None, 0):
        leaving, error = error, None
    else:
        leaving = None
    try:
        if error is None and definition.return_value and result is not None and proxy.resolve(result) is not None:
            records.upload(run.store, run.lease, run.id, definition.return_value, proxy.resolve(result))
    except errors.StepFailed as failed:
        error = failed
    aborted = isinstance(error, KeyboardInterrupt) and run.aborted()
    try:
        status = run.finish(error)
    finally:
        _live.pop(run.uid, None)
        if run.lease is not None:
            maintask.let_go(run.uid)
            context.set_running(run.before if run.nested else None)
    if error is None and run.interrupt is not None:  # Ctrl-C found the logic at its end, waiting for its steps
        error, aborted = run.interrupt, run.asked
    if aborted:
        raise errors.RunFailed(f"run {run.uid[:8]} was stopped", hint=f"minipipe resume {run.uid[:8]}") from None
    if isinstance(error, KeyboardInterrupt) and not run.nested:
        error.add_note(f"minipipe resume {run.uid[:8]}")
    if error is not None:
        raise error
    if status != states.COMPLETED:
        bad = run.bad_steps()
        if run.failure is not None:
            raise run.failure
        names = ", ".join(f"{name} {how}" for name, how in bad) or status
        raise errors.RunFailed(
            f"run {run.uid[:8]} {status}: {names}",
            runs.first_reason(run.store, run.id),
            f"minipipe logs {run.uid[:8]}/{bad[0][0]}" if bad else f"minipipe show {run.uid[:8]}",
            run=run.uid,
        )
    if leaving is not None:
        raise leaving


def elapsed_s(run: Run) -> float:
    """Seconds since the run began, until its end once it has ended."""
    return (run.ended or time.monotonic()) - run.started


def call_here(spec: StepSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Debug mode: a plain call, at once; several names give a list of results."""
    result = spec.function(*args, **kwargs)
    if len(spec.returns) <= 1:
        return result if spec.returns else None
    parts = list(result) if isinstance(result, (tuple, list)) else [result]
    return (parts + [None] * len(spec.returns))[: len(spec.returns)]
