"""Starting and ending runs: where the logic runs, what the run is called, which arguments hold."""

from __future__ import annotations

import atexit
import difflib
import inspect
import json
import os
import re
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from minipipe import context, errors, settings, states
from minipipe.sdk import proxy, session, values
from minipipe.sdk.capture import import_root
from minipipe.sdk.run import Retry, Run, RunOptions, StepSpec
from minipipe.sdk.script import capture_script
from minipipe.store import attempts, records, tasks, workers
from minipipe.store.home import Store

# PEP 440: epoch, release, pre, post, dev, local.
_VERSION = re.compile(
    r"v?(\d+!)?\d+(\.\d+)*([-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?(-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?"
    r"([-_.]?dev[-_.]?\d*)?(\+[a-z0-9]+([-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)
SET_VARIABLE = "MINIPIPE_SET"  # JSON from `minipipe run --set`: {name: text}


@dataclass(frozen=True, slots=True)
class Definition:
    """A pipeline as its author wrote it. See `PipelineDecorator.pipeline`."""

    name: str
    project: str
    version: str | None = None
    return_value: str | None = None
    default_queue: str | None = None
    add_pipeline_tags: bool = False
    target_project: str | bool | None = None
    abort_on_failure: bool = False
    queue: str | None = "services"
    add_run_number: bool = True
    sections: dict[str, str] = field(default_factory=dict)
    here: bool = False
    retry: Retry = None
    recorded: dict[str, Any] = field(default_factory=dict)
    local_imports: bool = True

    @property
    def hidden_project(self) -> str:
        """Project of the pipeline's task."""
        return f"{self.project}/.pipelines/{self.name}"


def checked_version(version: str | None) -> str | None:
    """The version as given.

    Raises:
        BadPipeline: it is not a PEP 440 string.
    """
    if version is not None and not _VERSION.fullmatch(str(version)):
        raise errors.BadPipeline(f"version {version!r} is not a PEP 440 version", hint="for example 1.0.0")
    return None if version is None else str(version)


# -- beginning ----------------------------------------------------------------------------------------------------------


def create(definition: Definition, given: dict[str, Any], signature: inspect.Signature) -> tasks.Submitted:
    """Store a run as a draft: a worker that gets it runs this script again."""
    store = session.open_store()
    given = _with_settings(definition, given, signature)
    return _create(store, definition, given, capture_script(f"pipeline {definition.name!r}"), private=False)


def enqueue(definition: Definition, given: dict[str, Any], signature: inspect.Signature) -> str:
    """Leave the run on a queue: a worker will run this script again. Returns its id."""
    store = session.open_store()
    made = create(definition, given, signature)
    queue = definition.queue or "services"
    tasks.enqueue(store, made.id, queue)
    announce(store, made.id)
    note_unserved(store, queue)
    return made.uid


def begin(
    definition: Definition,
    given: dict[str, Any],
    signature: inspect.Signature,
    mode: str,
    default_queue: str | None,
    made: tasks.Submitted | None = None,
) -> tuple[Run, dict[str, Any]]:
    """Start a run in this process: a new one (or `made`, a draft), the one that a worker executes here, or one that is resumed.

    Returns:
        The run and the arguments that hold: those stored with the run win over those in code.
    """
    store = session.open_store()
    running = context.running()
    local = mode != "remote" and running is None
    options = RunOptions(
        name=definition.name,
        project=definition.project,
        default_queue=definition.default_queue or default_queue,
        target_project=definition.target_project,
        abort_on_failure=definition.abort_on_failure,
        add_pipeline_tags=definition.add_pipeline_tags,
        retry=definition.retry,
        local=local,
        debug=mode == "debug",
        local_imports=definition.local_imports,
    )
    if running is not None:
        run, given = _adopt(store, running, definition, given, options, signature)
    else:
        run, given = _begin_here(store, definition, given, options, signature, made)
    run.begin()
    return run, given


def _adopt(
    store: Store,
    running: context.Running,
    definition: Definition,
    given: dict[str, Any],
    options: RunOptions,
    signature: inspect.Signature,
) -> tuple[Run, dict[str, Any]]:
    """Worker mode: this process executes the run's task; its stored arguments override those in code, its end is the run's."""
    row = store.database.row("SELECT id, uid, attempt, type FROM task WHERE uid = ?", (running.uid,))
    if row is None or row["type"] != states.TaskTypes.controller:
        raise errors.NotSupported("a pipeline cannot be started inside a step yet", hint="start it from a script of its own")
    given = _stored_arguments(store, row["id"], definition, given, signature)
    return Run(store, row["id"], row["uid"], None, options, again=row["attempt"] > 1), given


def _begin_here(
    store: Store,
    definition: Definition,
    given: dict[str, Any],
    options: RunOptions,
    signature: inspect.Signature,
    made: tasks.Submitted | None,
) -> tuple[Run, dict[str, Any]]:
    row = _resumed(store, definition)
    if row is not None:
        made_id, uid = row["id"], row["uid"]
        given = _stored_arguments(store, made_id, definition, given, signature)
    else:
        if made is None:
            given = _with_settings(definition, given, signature)
            entry = here(definition, "debug" if options.debug else "local" if options.local else "mixed")
            made = _create(store, definition, given, entry, private=options.local)
        made_id, uid = made.id, made.uid
    lease = attempts.start_here(store, made_id, session.registration(store).id)
    context.set_running(
        context.Running(store.path, lease, uid, uid, False, os.environ.get(session.SESSION_VARIABLE, ""), options.local)
    )
    announce(store, made_id)
    return Run(store, made_id, uid, lease, options, again=row is not None), given


def here(definition: Definition, mode: str) -> dict[str, Any]:
    """The entry of a run whose logic runs in this process: enough for `minipipe resume` to run it again."""
    try:
        entry = capture_script(f"pipeline {definition.name!r}")
    except errors.CannotTravel:
        entry = {"kind": "here", "cwd": os.getcwd(), "roots": [str(import_root())]}
    return {**entry, "mode": mode}


def _resumed(store: Store, definition: Definition) -> sqlite3.Row | None:
    """The run that ``minipipe resume`` wants to go on with, if it is one of this pipeline; a script may start others before."""
    uid = os.environ.get(session.RESUME_VARIABLE, "")
    row = store.database.row(
        "SELECT t.id, t.uid FROM task t JOIN project p ON p.id = t.project_id WHERE t.uid = ? AND p.name = ?",
        (uid, definition.hidden_project),
    )
    if row is not None:
        del os.environ[session.RESUME_VARIABLE]
    return row


def _create(
    store: Store, definition: Definition, given: dict[str, Any], entry: dict[str, Any], private: bool
) -> tasks.Submitted:
    parameters = [values.cell(definition.sections.get(name, "Args"), name, proxy.resolve(value)) for name, value in given.items()]
    name = _numbered(store, definition)
    return tasks.submit(
        store,
        tasks.NewTask(
            type=str(states.TaskTypes.controller),
            name=name,
            project=definition.hidden_project,
            entry=entry,
            queue=definition.queue,
            controller=True,
            is_run=True,
            version=definition.version or _next_version(store, definition),
            session=os.environ.get(session.SESSION_VARIABLE, ""),
            private=False,
            abort_on_failure=definition.abort_on_failure,
            settings=definition.recorded,
            parameters=tuple(parameters),
            system_tags=("pipeline",),
        ),
    )


def _numbered(store: Store, definition: Definition) -> str:
    """``NAME``, then ``NAME #2`` … (ClearML's rule)."""
    if not definition.add_run_number:
        return definition.name
    row = store.database.row(
        "SELECT count(*) FROM task t JOIN project p ON p.id = t.project_id WHERE p.name = ? AND t.run_name IS NOT NULL",
        (definition.hidden_project,),
    )
    before = int(row[0]) if row else 0
    return definition.name if before == 0 else f"{definition.name} #{before + 1}"


def _next_version(store: Store, definition: Definition) -> str:
    """The last version of this pipeline with its last release number plus 1, or 1.0.0 (ClearML's rule)."""
    row = store.database.row(
        "SELECT t.version FROM task t JOIN project p ON p.id = t.project_id WHERE p.name = ? AND t.version IS NOT NULL"
        " ORDER BY t.id DESC LIMIT 1",
        (definition.hidden_project,),
    )
    match = re.match(r"(.*?)(\d+)(\D*)$", row["version"]) if row else None
    return f"{match[1]}{int(match[2]) + 1}" if match else "1.0.0"


# -- arguments ----------------------------------------------------------------------------------------------------------


def _with_settings(definition: Definition, given: dict[str, Any], signature: inspect.Signature) -> dict[str, Any]:
    """Arguments with what ``minipipe run --set`` says.

    Raises:
        BadParameter: an unknown name (the nearest one is named) or a value that cannot be read as the declared type.
    """
    text = os.environ.pop(SET_VARIABLE, "")
    return apply_settings(definition.name, given, signature, decode_settings(text)) if text else given


def decode_settings(text: str) -> dict[str, Any]:
    """``{name: text}`` or ``{name: {"json": value}}`` from `SET_VARIABLE`."""
    found: dict[str, Any] = json.loads(text)
    return found


def apply_settings(
    pipeline: str, given: dict[str, Any], signature: inspect.Signature, wanted: dict[str, Any]
) -> dict[str, Any]:
    """See `_with_settings`."""
    result = dict(given)
    for name, value in wanted.items():
        bare = name.partition("/")[2] if name.startswith("Args/") else name
        if bare not in given:
            near = difflib.get_close_matches(bare, given, 1)
            raise errors.BadParameter(
                f"{pipeline} has no parameter {bare!r}",
                f"it has {', '.join(given) or 'none'}",
                f"did you mean {near[0]}?" if near else "minipipe show --params",
                name=bare,
            )
        result[bare] = value["json"] if isinstance(value, dict) else values.cast(value, _type_of(signature, bare, given), bare)
    return result


def _type_of(signature: inspect.Signature, name: str, given: dict[str, Any]) -> Any:
    parameter = signature.parameters.get(name)
    if parameter is not None and parameter.annotation is not parameter.empty:
        annotation = parameter.annotation
        if isinstance(annotation, str):
            return {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}.get(annotation, object)
        return annotation
    current = given.get(name)
    return type(current) if isinstance(current, (bool, int, float, str, list, tuple, dict)) else object


def _stored_arguments(
    store: Store, task_id: int, definition: Definition, given: dict[str, Any], signature: inspect.Signature
) -> dict[str, Any]:
    result = dict(given)
    for row in records.parameters(store, task_id):
        if row["section"] != definition.sections.get(row["name"], "Args") or row["name"] not in given:
            continue
        value = json.loads(row["value"])
        current = given[row["name"]]
        if isinstance(value, str) and not isinstance(current, str) and current is not None:
            value = values.cast(row["text"], _type_of(signature, row["name"], given), row["name"])
        result[row["name"]] = tuple(value) if isinstance(current, tuple) and isinstance(value, list) else value
    return result


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
    status = run.finish(error)
    if run.lease is not None:
        context.set_running(None)
    if aborted:
        raise errors.RunFailed(f"run {run.uid[:8]} was stopped", hint=f"minipipe resume {run.uid[:8]}") from None
    if error is not None:
        raise error
    if status != states.COMPLETED:
        bad = run.bad_steps()
        if run.failure is not None:
            raise run.failure
        names = ", ".join(f"{name} {how}" for name, how in bad) or status
        raise errors.RunFailed(
            f"run {run.uid[:8]} {status}: {names}",
            _first_reason(run),
            f"minipipe logs {run.uid[:8]}/{bad[0][0]}" if bad else f"minipipe show {run.uid[:8]}",
            run=run.uid,
        )
    if leaving is not None:
        raise leaving


def _first_reason(run: Run) -> str:
    row = run.store.database.row(
        "SELECT reason FROM task WHERE parent_id = ? AND superseded = 0 AND tolerated = 0 AND status = 'failed' ORDER BY id LIMIT 1",
        (run.id,),
    )
    return str(row["reason"]) if row else ""


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


# -- saying so ----------------------------------------------------------------------------------------------------------


def announce(store: Store, task_id: int) -> None:
    """The run line on stderr, where ClearML prints id and links."""
    row = store.database.row(
        "SELECT t.uid, t.run_name, t.name, t.version, p.name AS project FROM task t JOIN project p ON p.id = t.project_id"
        " WHERE t.id = ?",
        (task_id,),
    )
    if row is None or settings.load_settings().progress == "off":
        return
    project = row["project"].partition("/.pipelines/")[0]
    shown = " ".join(f"{cell['name']}={cell['text'][:40]}" for cell in records.parameters(store, task_id)[:8])
    print(f"run {row['uid'][:8]}  {row['run_name']}  {row['name']} {row['version']} ({project})  {shown}".rstrip(), file=sys.stderr)


def note_unserved(store: Store, queue: str | None) -> None:
    """Say at once that nobody serves the queue of a run, and what to do."""
    if queue and not os.environ.get(session.SESSION_VARIABLE) and queue not in workers.served_queues(store):
        hint = "minipipe worker" if queue in ("default", "services") else f"minipipe worker --queue {queue}"
        print(f"note: no worker serves queue {queue!r}: the run waits; start one: {hint}", file=sys.stderr)


_exit_code = 0


def complain(error: errors.MinipipeError) -> None:
    """Print why a run failed and have the process exit with 1, although the script goes on (an explicit other code wins)."""
    global _exit_code
    print(f"error: {error}", file=sys.stderr)
    if not _exit_code:
        _exit_code = 1
        main = os.getpid()

        def leave() -> None:
            if os.getpid() == main:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)

        atexit.register(leave)
