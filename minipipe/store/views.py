"""Lists of tasks, as the command line and the report show them, asked in as few statements as possible and changing nothing.

Listing runs costs the same with a hundred or a million tasks: counts come from ``tally``, runs from a partial index.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from minipipe import states
from minipipe.store import lookup
from minipipe.store.details import arguments_of, tags_of
from minipipe.store.home import Store
from minipipe.store.presence import LiveWorker
from minipipe.store.reasons import waiting_reason


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks `tasks_of` lists.

    Attributes:
        limit: at most so many, newest first.
        everything: also steps, templates and archived ones.
        since: created at or after this time.
        parameters: (name or "Section/name", text) pairs that must hold.
    """

    limit: int = 20
    everything: bool = False
    statuses: tuple[str, ...] = ()
    pipeline: str | None = None
    project: str | None = None
    tags: tuple[str, ...] = ()
    since: float | None = None
    parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A task of a list.

    Attributes:
        row: the full row of ``task``.
        pipeline, project: as people know them.
        steps: number of steps by status, of a run.
        failed: name of its first failed step, "" if there is none.
        parameters: (section, name, text) of its own arguments.
        tags: what people tagged it with.
        waiting: why it does not move, "" if it does.
    """

    row: sqlite3.Row
    pipeline: str
    project: str
    steps: dict[str, int] = field(default_factory=dict)
    failed: str = ""
    parameters: tuple[tuple[str, str, str], ...] = ()
    tags: tuple[str, ...] = ()
    waiting: str = ""


def tasks_of(store: Store, wanted: Filter, living: Sequence[LiveWorker]) -> list[Listed]:
    """Runs (or all tasks) that fit, newest first, with all that a status table shows."""
    sql, values = _list_query(store, wanted)
    rows = store.database.rows(sql, values)
    found = []
    for row in rows:
        pipeline, project = lookup.pipeline_of(row["name"], row["project_name"])
        is_run = row["run_name"] is not None
        steps = step_counts(store, row["id"]) if is_run else {}
        found.append(
            Listed(
                row,
                pipeline if is_run else row["name"],
                project,
                steps,
                _first_failed(store, row["id"]) if steps.get(states.FAILED) else "",
                arguments_of(store, row["id"]),
                tags_of(store, row["id"]),
                waiting_reason(store, row, living, steps),
            )
        )
    return found


def _list_query(store: Store, wanted: Filter) -> tuple[str, list[object]]:
    where = ["1"] if wanted.everything else [lookup.HEADS, "t.archived = 0", "t.nested = 0"]
    values: list[object] = []
    if wanted.statuses:
        where.append(f"t.status IN ({_marks(wanted.statuses)})")
        values += wanted.statuses
    if wanted.pipeline is not None:
        projects = lookup.pipeline_projects(store, wanted.pipeline)
        where.append(f"(t.project_id IN ({_marks(projects)}) OR t.name = ?)")
        values += [*projects, wanted.pipeline]
    if wanted.project is not None:
        where.append("(p.name = ? OR substr(p.name, 1, length(?)) = ?)")
        values += [wanted.project, wanted.project + "/", wanted.project + "/"]
    for tag in wanted.tags:
        where.append("EXISTS (SELECT 1 FROM tag g WHERE g.task_id = t.id AND g.name = ?)")
        values.append(tag)
    if wanted.since is not None:
        where.append("t.created_at >= ?")
        values.append(wanted.since)
    for name, text in wanted.parameters:
        where.append(
            "EXISTS (SELECT 1 FROM parameter a WHERE a.task_id = t.id"
            " AND ? IN (a.name, a.section || '/' || a.name) AND a.text = ?)"
        )
        values += [name, text]
    sql = (
        "SELECT t.*, p.name AS project_name, (SELECT r.run_name FROM task r WHERE r.id = t.parent_id) AS parent_run"
        " FROM task t CROSS JOIN project p ON p.id = t.project_id"
    )
    return f"{sql} WHERE {' AND '.join(where)} ORDER BY t.id DESC LIMIT ?", [*values, wanted.limit]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def known_names(store: Store) -> tuple[list[str], list[str]]:
    """(pipelines, projects) that a list can be narrowed to, as people know them."""
    names = [row["name"] for row in store.database.rows("SELECT name FROM project ORDER BY name")]
    pairs = [lookup.pipeline_of("", name) for name in names]
    return sorted({pipeline for pipeline, _ in pairs if pipeline}), sorted({project for _, project in pairs if project})


def step_counts(store: Store, run_id: int) -> dict[str, int]:
    """Number of a run's steps by status, from the tallies; replaced steps do not count."""
    rows = store.database.rows("SELECT status, n FROM tally WHERE scope = ? AND n > 0", (run_id,))
    return {row["status"]: row["n"] for row in rows}


def _first_failed(store: Store, run_id: int) -> str:
    row = store.database.row(
        "SELECT name FROM task WHERE parent_id = ? AND superseded = 0 AND status = 'failed' LIMIT 1", (run_id,)
    )
    return str(row["name"]) if row else ""


def steps_of(store: Store, run_id: int) -> list[sqlite3.Row]:
    """Steps of a run in the order they started (then were submitted), without those that a resumed run replaced.

    Each has ``source_run``: the id of the run that a cached one was taken from.
    """
    return store.database.rows(
        "SELECT t.*, r.uid AS source_run FROM task t LEFT JOIN task s ON s.id = t.cached_from"
        " LEFT JOIN task r ON r.id = coalesce(s.parent_id, s.id) WHERE t.parent_id = ? AND t.superseded = 0"
        " ORDER BY t.started_at IS NULL AND t.cached_from IS NULL, coalesce(t.started_at, t.ended_at), t.id",
        (run_id,),
    )


def step_row(store: Store, task_id: int) -> sqlite3.Row | None:
    """One row as `steps_of` gives it."""
    return store.database.row(
        "SELECT t.*, r.uid AS source_run FROM task t LEFT JOIN task s ON s.id = t.cached_from"
        " LEFT JOIN task r ON r.id = coalesce(s.parent_id, s.id) WHERE t.id = ?",
        (task_id,),
    )


def steps_of_pipeline(store: Store, pipeline: str) -> list[int]:
    """Row ids of all steps of all runs of a pipeline."""
    projects = lookup.pipeline_projects(store, pipeline)
    rows = store.database.rows(
        "SELECT s.id FROM task s JOIN task r ON r.id = s.parent_id"
        f" WHERE r.run_name IS NOT NULL AND (r.project_id IN ({_marks(projects)}) OR r.name = ?)",
        (*projects, pipeline),
    )
    return [row["id"] for row in rows]
