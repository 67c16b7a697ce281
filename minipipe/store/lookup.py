"""What people type, turned into rows: ids and their prefixes, run names, ``@last``, ``RUN/STEP``, ``RUN/STEP/ARTIFACT``.

A task has a 32-hex id, accepted as any unique prefix from 4 characters. A run also has a name of two words; the hyphen keeps
names and ids apart. Where a prefix fits one run and some steps, the run is meant.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
import time

from minipipe import errors
from minipipe.store.home import Store

_HEX = re.compile(r"[0-9a-f]{1,32}\Z")
_RECENT = re.compile(r"@(?:last|-([1-9][0-9]{0,5}))\Z")
_SHORTEST = 4
_CANDIDATES = 1_000
_SHOWN = 5
_RUNS = "SELECT t.* FROM task t WHERE t.run_name IS NOT NULL AND t.archived = 0 AND t.nested = 0"
PIPELINES = "/.pipelines/"
DATASETS = "/.datasets/"
# Runs, and tasks that stand for themselves: a script that says `Task.init`, a clone of such a task (which is under its source), not a
# data set. The plus keeps the order of row ids, newest first: with two indexes at once all of history would be sorted.
HEADS = (
    "(t.run_name IS NOT NULL OR ((+t.parent_id IS NULL OR +t.parent_id = t.template_id) AND t.status <> 'created'"
    f" AND instr(p.name, '{DATASETS}') = 0))"
)
_ALL = f"SELECT t.* FROM task t JOIN project p ON p.id = t.project_id WHERE {HEADS} AND t.archived = 0 AND t.nested = 0"


def find_run(store: Store, text: str, pipeline: str | None = None) -> sqlite3.Row:
    """The run that `text` means: an id, a unique prefix of one, a name, ``@last``, ``@-2`` (the one before), ``@last-failed``.

    Args:
        store: where to look.
        text: as typed.
        pipeline: only runs of this pipeline count for the ``@`` forms.

    Returns:
        the full row of ``task``.

    Raises:
        NotFound: no such run; the cause names the closest.
        AmbiguousName: several; the cause lists them.
    """
    if text.startswith("@"):
        return _recent(store, text, pipeline, _RUNS)
    row = store.database.row("SELECT * FROM task WHERE run_name = ?", (text,))
    if row is None:
        row = _by_prefix(store, text, "run_name IS NOT NULL", "runs")
    if row is None:
        raise _no_run(store, text)
    return row


def find_task(store: Store, text: str, pipeline: str | None = None) -> sqlite3.Row:
    """The task that `text` means: all that `find_run` takes, ``RUN/STEP``, or the id of a step or of a script's own task.

    The ``@`` forms count what `minipipe.store.views` lists: runs, and tasks that stand for themselves.

    Args:
        store: where to look.
        text: as typed.
        pipeline: only runs of this pipeline count for the ``@`` forms.

    Raises:
        NotFound: no such run or step. A step that a resumed run replaced is found by its id only.
        AmbiguousName: a prefix fits several.
    """
    run_text, slash, step = text.partition("/")
    if slash:
        return find_step(store, find_run(store, run_text, pipeline), step)
    if text.startswith("@"):
        return _recent(store, text, pipeline, _ALL)
    try:
        return find_run(store, text, pipeline)
    except errors.NotFound:
        row = _by_prefix(store, text, "1", "tasks")
        if row is None:
            raise
        return row


def find_step(store: Store, run: sqlite3.Row, name: str) -> sqlite3.Row:
    """The step of a run by its name.

    Raises:
        NotFound: the run has no such step; the hint names the nearest.
    """
    row = _step(store, run["id"], name)
    if row is None:
        shown = run["uid"][:8]
        names = [
            found["name"]
            for found in store.database.rows(
                "SELECT name FROM task WHERE parent_id = ? AND superseded = 0 ORDER BY id LIMIT ?", (run["id"], _CANDIDATES)
            )
        ]
        near = difflib.get_close_matches(name, names, 1)
        some = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
        raise errors.NotFound(
            f"run {shown} has no step {name!r}",
            f"its steps: {some}" if names else "it has no steps",
            f"did you mean {shown}/{near[0]}?" if near else f"minipipe show {shown}",
            name=name,
        )
    return row


def _step(store: Store, run_id: int, name: str) -> sqlite3.Row | None:
    return store.database.row(
        "SELECT * FROM task WHERE parent_id = ? AND name = ? AND superseded = 0 ORDER BY id DESC LIMIT 1", (run_id, name)
    )


def split_artifact(store: Store, text: str) -> tuple[sqlite3.Row, str]:
    """The task and the artifact's name of ``RUN/STEP/NAME``; ``RUN/NAME`` and ``STEP-ID/NAME`` work too.

    Step and artifact names may contain slashes: the shortest step name that exists is meant.

    Raises:
        UsageError: no slash in it.
        NotFound, AmbiguousName: as for `find_task`. Whether the artifact exists is not asked.
    """
    first, slash, rest = text.partition("/")
    if not slash or not rest:
        raise errors.UsageError(f"{text!r} names no artifact", "an artifact is RUN/STEP/NAME", f"minipipe artifacts {text}")
    task = find_task(store, first)
    places = [match.start() for match in re.finditer("/", rest)]
    for place in places:
        step = _step(store, task["id"], rest[:place])
        if step is not None and rest[place + 1 :]:
            return step, rest[place + 1 :]
    if places and task["run_name"] is not None and not _has_output(store, task["id"], rest):
        return find_step(store, task, rest[: places[0]]), rest[places[0] + 1 :]
    return task, rest


def _has_output(store: Store, task_id: int, name: str) -> bool:
    sql = (
        "SELECT 1 FROM artifact WHERE task_id = ?1 AND role = 'output' AND name = ?2"
        " UNION ALL SELECT 1 FROM plot WHERE task_id = ?1 AND title || '/' || series = ?2"
    )
    return store.database.row(sql, (task_id, name)) is not None


def pipeline_projects(store: Store, pipeline: str) -> list[int]:
    """Row ids of the projects that hold the runs of a pipeline (ClearML's rule: ``PROJECT/.pipelines/NAME``)."""
    # No LIKE: it knows no difference between a and A.
    rows = store.database.rows("SELECT id FROM project WHERE substr(name, -length(:end)) = :end", {"end": PIPELINES + pipeline})
    return [row["id"] for row in rows]


def pipeline_of(name: str, project: str) -> tuple[str, str]:
    """(pipeline, project) as people know them, from a run's task name and its project."""
    outer, hidden, pipeline = project.partition(PIPELINES)
    return (pipeline, outer) if hidden else (name, project)


# -- inside -------------------------------------------------------------------------------------------------------------


def _recent(store: Store, text: str, pipeline: str | None, sql: str) -> sqlite3.Row:
    match, failed = _RECENT.match(text), text == "@last-failed"
    if match is None and not failed:
        known = "known are @last, @-2 (the one before) and @last-failed"
        raise errors.NotFound(f"no run matches {text!r}", known, "minipipe status")
    values: list[object] = []
    if pipeline is not None:
        projects = pipeline_projects(store, pipeline)
        sql += f" AND (t.project_id IN ({','.join('?' * len(projects))}) OR t.name = ?)"
        values += [*projects, pipeline]
    if failed:
        sql += " AND t.status = 'failed'"
    back = int(match[1] or 1) if match else 1
    row = store.database.row(f"{sql} ORDER BY t.id DESC LIMIT 1 OFFSET ?", (*values, back - 1))
    if row is None:
        which = f" of pipeline {pipeline!r}" if pipeline else ""
        what = "no run has failed" if failed else f"it {_has_none(store)}" if back == 1 else f"it has fewer than {back} runs"
        raise errors.NotFound(f"no run{which} matches {text!r}", f"the store {store.path}: {what}", "minipipe status")
    return row


def _has_none(store: Store) -> str:
    run = store.database.row("SELECT 1 FROM task WHERE run_name IS NOT NULL LIMIT 1")
    alone = run is None and store.database.row("SELECT 1 FROM task LIMIT 1") is not None
    return "has no runs of pipelines yet, only tasks of scripts" if alone else "has no runs yet"


def _by_prefix(store: Store, text: str, which: str, words: str) -> sqlite3.Row | None:
    prefix = text.lower()
    if len(prefix) < _SHORTEST or not _HEX.match(prefix):
        return None
    # "g" follows "f": a range on the unique index, whatever the number of tasks.
    rows = store.database.rows(
        f"SELECT * FROM task WHERE uid >= ? AND uid < ? AND {which} ORDER BY id DESC LIMIT ?", (prefix, prefix + "g", _CANDIDATES)
    )
    if len(rows) <= 1:
        return rows[0] if rows else None
    now = time.time()
    some = ", ".join(f"{_label(row)} ({_age(now - row['created_at'])})" for row in rows[:_SHOWN])
    more = " …" if len(rows) > _SHOWN else ""
    count = f"{_CANDIDATES} or more" if len(rows) == _CANDIDATES else len(rows)
    raise errors.AmbiguousName(f"{text!r} matches {count} {words}", some + more, "type one more character", text=text)


def _label(row: sqlite3.Row) -> str:
    return f"{row['uid'][:12]} {row['run_name'] or row['name']}"


def _age(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= unit:
            return f"{int(seconds // unit)}{name} ago"
    return f"{max(0, int(seconds))}s ago"


def _no_run(store: Store, text: str) -> errors.NotFound:
    rows = store.database.rows(f"{_RUNS} ORDER BY t.id DESC LIMIT ?", (_CANDIDATES,))
    same = next((row for row in rows if row["name"] == text), None)
    if same is not None:
        newest = f"{same['uid'][:8]} {same['run_name']}"
        cause = f"it is the name of a pipeline; its newest run is {newest}"
        return errors.NotFound(f"no run matches {text!r}", cause, f"minipipe show {same['run_name']}", text=text)
    task = _by_prefix(store, text, "run_name IS NULL", "tasks")
    if task is not None:
        of = store.database.row("SELECT uid, run_name FROM task WHERE id = ? AND run_name IS NOT NULL", (task["parent_id"],))
        label, what = task["uid"][:8], f"the task {task['name']!r}"
        if of is not None:
            label, what = f"{of['uid'][:8]}/{task['name']}", f"a step of run {of['uid'][:8]} {of['run_name']}"
        return errors.NotFound(f"{text!r} is no run", f"it is {what}", f"minipipe show {label}", text=text)
    if not rows:
        cause = f"the store {store.path} {_has_none(store)}"
    elif len(text) < _SHORTEST and _HEX.match(text.lower()):
        cause = f"an id needs at least {_SHORTEST} characters"
    else:
        known = {row["run_name"]: row for row in rows}
        known |= {row["uid"][: max(_SHORTEST, min(len(text), 32))]: row for row in reversed(rows)}
        near = list(dict.fromkeys(known[name] for name in difflib.get_close_matches(text.lower(), known, 4, 0.5)))[:2]
        shown = ", ".join(f"{row['uid'][:8]} {row['run_name']}" for row in near or rows[:1])
        cause = f"closest: {shown}" if near else f"the newest is {shown}"
    return errors.NotFound(f"no run matches {text!r}", cause, "minipipe status", text=text)
