"""Which runs may go: those that a rule names, less everything that what stays still needs.

A run goes whole or not at all. What a step that stays was served from, or takes an input from, stays with its whole run; so do
published runs, runs that have not ended, and what a task that still waits was copied from. `plan` only looks; `remove` asks again
under the write lock, because others submit and are served meanwhile.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minipipe import states
from minipipe.store import models, removal
from minipipe.store.home import Store

BATCH = 100  # rows that one transaction removes: others get their turn in between
_OVER = tuple(sorted((states.ENDED - {states.PUBLISHED}) | {states.CREATED}))
_LIST = ", ".join(f"'{status}'" for status in _OVER)
_WAITING = ", ".join(f"'{status}'" for status in (states.PENDING, states.QUEUED, states.IN_PROGRESS))

_TREE = """
WITH RECURSIVE tree (id, depth) AS (
    SELECT :run, 0 UNION SELECT t.id, tree.depth + 1 FROM task t JOIN tree ON t.parent_id = tree.id)
"""

# Who still needs a task: served from it, takes an input from it, ordered behind it, or a copy of it that has not run yet.
_NEEDS = f"""
SELECT id, cached_from AS needed FROM task WHERE cached_from IS NOT NULL
UNION ALL SELECT id, template_id FROM task WHERE template_id IS NOT NULL AND status IN ({_WAITING})
UNION ALL SELECT task_id, source_id FROM artifact WHERE source_id IS NOT NULL
UNION ALL SELECT child_id, parent_id FROM edge
"""


# Every reference to a blob that goes with its task.
_NAMED = """
SELECT task_id, digest FROM artifact WHERE digest IS NOT NULL
UNION ALL SELECT task_id, digest FROM plot WHERE task_id IS NOT NULL AND digest IS NOT NULL
UNION ALL SELECT task_id, digest FROM model WHERE task_id IS NOT NULL AND digest IS NOT NULL AND published = 0
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which runs have served their time. With both, a run has to be beyond the newest and old.

    Attributes:
        keep_runs: the newest so many stay; None: their number does not matter.
        older_than_s: those that ended less than so many seconds ago stay; None: their age does not matter.
    """

    keep_runs: int | None = None
    older_than_s: float | None = None

    @property
    def given(self) -> bool:
        """True if there is a rule at all."""
        return self.keep_runs is not None or self.older_than_s is not None


@dataclass(frozen=True, slots=True)
class Doomed:
    """A run that goes, newest first.

    Attributes:
        id: row id.
        uid: its id.
        name: two words.
        ended_at: wall time.
        tasks: it and all below it.
    """

    id: int
    uid: str
    name: str
    ended_at: float
    tasks: int


@dataclass(frozen=True, slots=True)
class Going:
    """What a rule removes.

    Attributes:
        runs: newest first.
        kept: runs that stay, published ones included.
        published: how many of them are published.
        needed: how many the rule names and something that stays still needs.
        blobs: bytes and number of blobs that nobody else names.
        blob_bytes: their size.
    """

    runs: tuple[Doomed, ...] = ()
    kept: int = 0
    published: int = 0
    needed: int = 0
    blobs: int = 0
    blob_bytes: int = 0


def plan(store: Store, rule: Rule, now: float | None = None) -> Going:
    """What the rule removes, as things are now. Writes nothing but temporary tables of this connection (in memory)."""
    connection = store.database.connection()
    with store.database.snapshot():
        total = store.database.rows("SELECT count(*) AS n FROM task WHERE run_name IS NOT NULL AND parent_id IS NULL")[0]["n"]
        if not rule.given:
            return Going(kept=total, published=_published(store))
        try:
            named = _fill(connection, rule, time.time() if now is None else now)
            needed = _spare(connection)
            runs = tuple(
                Doomed(row["id"], row["uid"], row["run_name"], row["ended_at"] or row["created_at"], row["n"])
                for row in connection.execute(
                    "SELECT t.id, t.uid, t.run_name, t.ended_at, t.created_at, count(*) AS n FROM temp.going g"
                    " JOIN task t ON t.id = g.run GROUP BY g.run ORDER BY t.id DESC"
                ).fetchall()
            )
            blobs = connection.execute(
                "SELECT count(*) AS n, coalesce(sum(size), 0) AS size FROM (SELECT b.size AS size FROM temp.going g"
                f" JOIN ({_NAMED}) n ON n.task_id = g.id JOIN blob b ON b.digest = n.digest"
                " GROUP BY b.digest HAVING count(*) = max(b.refs))"
            ).fetchone()
        finally:
            connection.execute("DROP TABLE IF EXISTS temp.going")
        assert named >= needed
        return Going(runs, total - len(runs), _published(store), needed, blobs["n"], blobs["size"])


def _published(store: Store) -> int:
    sql = "SELECT count(*) AS n FROM task WHERE run_name IS NOT NULL AND parent_id IS NULL AND status = 'published'"
    return int(store.database.rows(sql)[0]["n"])


def _fill(connection: sqlite3.Connection, rule: Rule, now: float) -> int:
    """All tasks of the runs that the rule names, in a temporary table; the number of runs."""
    connection.execute("DROP TABLE IF EXISTS temp.going")
    connection.execute("CREATE TEMP TABLE going (id INTEGER PRIMARY KEY, run INTEGER NOT NULL)")
    before = now - rule.older_than_s if rule.older_than_s is not None else float("inf")
    # Only runs: a task that belongs to none may be a data set, a template or an experiment of its own.
    connection.execute(
        f"""
WITH RECURSIVE recent (id) AS (
    SELECT id FROM task WHERE run_name IS NOT NULL AND parent_id IS NULL ORDER BY id DESC LIMIT :keep),
tree (id, run) AS (
    SELECT id, id FROM task WHERE parent_id IS NULL AND run_name IS NOT NULL AND status IN ({_LIST}) AND status <> 'created'
       AND coalesce(ended_at, created_at) < :before AND id NOT IN (SELECT id FROM recent)
    UNION SELECT t.id, tree.run FROM task t JOIN tree ON t.parent_id = tree.id)
INSERT INTO temp.going SELECT id, run FROM tree""",
        {"keep": rule.keep_runs or 0, "before": min(before, 1e300)},
    )
    return int(connection.execute("SELECT count(DISTINCT run) FROM temp.going").fetchone()[0])


def _spare(connection: sqlite3.Connection) -> int:
    """Take back the runs that hold something alive or published, and what others need, until nothing more is needed.

    Returns:
        how many runs are spared because something that stays needs them.
    """
    connection.execute(
        "DELETE FROM temp.going WHERE run IN (SELECT g.run FROM temp.going g JOIN task t ON t.id = g.id"
        f" WHERE t.status NOT IN ({_LIST}))"
    )
    needed = 0
    while True:
        rows = connection.execute(
            f"SELECT DISTINCT g.run FROM ({_NEEDS}) n JOIN temp.going g ON g.id = n.needed"
            " WHERE n.id NOT IN (SELECT id FROM temp.going)"
        ).fetchall()
        if not rows:
            return needed
        needed += len(rows)
        connection.executemany("DELETE FROM temp.going WHERE run = ?", [(row["run"],) for row in rows])


def logs_of(store: Store, run_id: int) -> Iterator[Path]:
    """Where the attempts of a run's tasks printed to; not all of them need to exist."""
    for row in store.database.rows(f"{_TREE} SELECT t.uid, t.attempt FROM tree JOIN task t ON t.id = tree.id", {"run": run_id}):
        for attempt in range(1, row["attempt"] + 1):
            yield store.log_path(row["uid"], attempt)


def weight(store: Store, run_id: int) -> tuple[int, int, int]:
    """(tasks, bytes of all blobs they name, bytes of those that nobody else names) of a run."""
    tasks = store.database.rows(f"{_TREE} SELECT count(*) AS n FROM tree", {"run": run_id})[0]["n"]
    row = store.database.rows(
        f"{_TREE} SELECT coalesce(sum(size), 0) AS size, coalesce(sum(own), 0) AS own FROM ("
        " SELECT b.size AS size, CASE WHEN count(*) = max(b.refs) THEN b.size ELSE 0 END AS own FROM tree"
        f" JOIN ({_NAMED}) n ON n.task_id = tree.id JOIN blob b ON b.digest = n.digest GROUP BY b.digest)",
        {"run": run_id},
    )[0]
    return tasks, row["size"], row["own"]


# -- removing -----------------------------------------------------------------------------------------------------------


def remove(store: Store, run_id: int) -> int:
    """Remove a run with all its tasks, if it still may go; its blobs become garbage.

    The first transaction takes it out of the cache, so that nothing can begin to need it; then its tasks go, the innermost first,
    `BATCH` at a time. Whoever resumes it meanwhile keeps what is left: it runs again.

    Returns:
        tasks that went.

    Transaction effect: one commit per batch, without sync: it can be repeated.
    """
    gone, first = 0, True
    while True:
        with store.database.write(durable=False) as connection:
            rows = connection.execute(
                f"{_TREE} SELECT t.id, t.status FROM tree JOIN task t ON t.id = tree.id ORDER BY tree.depth DESC, t.id DESC",
                {"run": run_id},
            ).fetchall()
            if not rows or not _may_go(connection, rows, run_id, rows if first else rows[:BATCH]):
                return gone
            if first:
                connection.executemany("DELETE FROM cache WHERE task_id = ?", [(row["id"],) for row in rows])
                _drop_models(connection, [row["id"] for row in rows])
                first = False
                if len(rows) > BATCH:
                    continue
            for row in rows[:BATCH]:
                removal.erase(connection, row["id"])
            gone += len(rows[:BATCH])
        if len(rows) <= BATCH:
            return gone


def _may_go(connection: sqlite3.Connection, tree: list[sqlite3.Row], run_id: int, batch: Iterable[sqlite3.Row]) -> bool:
    if any(row["status"] not in _OVER for row in tree):
        return False
    inside = {row["id"] for row in tree}
    for row in batch:
        users = connection.execute(
            "SELECT id FROM task WHERE cached_from = :id"
            f" UNION SELECT id FROM task WHERE template_id = :id AND status IN ({_WAITING})"
            " UNION SELECT task_id FROM artifact WHERE source_id = :id"
            " UNION SELECT child_id FROM edge WHERE parent_id = :id",
            {"id": row["id"]},
        ).fetchall()
        if any(user["id"] not in inside for user in users):
            return False
    return True


def _drop_models(connection: sqlite3.Connection, tree: list[int]) -> None:
    """Models that the tasks of a run made, less published ones and those that a task outside has too.

    Here and not task by task: the run mirrors its steps' models, so each of the two would keep them for the other.
    """
    inside = json.dumps(tree)
    rows = connection.execute(
        "SELECT id FROM model WHERE task_id IN (SELECT value FROM json_each(:inside)) AND published = 0"
        " AND NOT EXISTS (SELECT 1 FROM task_model l WHERE l.model_id = model.id"
        "                 AND l.task_id NOT IN (SELECT value FROM json_each(:inside)))",
        {"inside": inside},
    ).fetchall()
    for row in rows:
        models.drop(connection, row["id"])
