"""Stores with a long past, made by a handful of SQL statements instead of by running anything."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import time
from pathlib import Path

from minipipe.store.home import DATABASE, Store

# Row n is task n + 1: a run, then its steps, then the next run. Every twentieth run failed in its last step.
_TASKS = """
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :runs * (:steps + 1)),
place (n, r, k) AS (SELECT n, n / (:steps + 1), n % (:steps + 1) FROM number)
INSERT INTO task (id, uid, type, name, project_id, parent_id, run_name, version, status, reason, error, queue, controller,
    private, attempt, token, entry, use_cache, code_key, key_base, cache_key, log,
    created_at, queued_at, started_at, ended_at, updated_at, duration_s)
SELECT n + 1, lower(hex(randomblob(16))), iif(k = 0, 'controller', 'training'), iif(k = 0, 'nightly #' || (r + 1), 'step_' || k),
    1, iif(k = 0, NULL, n - k + 1), iif(k = 0, 'calm-otter-' || r, NULL), iif(k = 0, '1.0.' || r, NULL),
    iif(r % 20 = 19 AND k IN (0, :steps), 'failed', 'completed'),
    iif(r % 20 = 19 AND k IN (0, :steps), 'ValueError: loss is nan', ''),
    iif(r % 20 = 19 AND k IN (0, :steps), '{"type": "ValueError", "message": "loss is nan", "where": "flow.py:31"}', NULL),
    iif(k = 0, 'services', 'default'), k = 0, 0, 1, lower(hex(randomblob(16))),
    '{"cwd": "/home/me/project", "argv": ["flow.py"], "imports": ["json"], "kind": "pickled", "roots": ["/home/me/project"]}',
    k > 0, iif(k = 0, NULL, :code), iif(k = 0, NULL, lower(hex(randomblob(32)))), iif(k = 0, NULL, lower(hex(randomblob(32)))),
    NULL, t, t, t + 0.01, t + 1, t + 1, 0.99
FROM (SELECT n, r, k, :now - 60.0 * (:runs - r) + k AS t FROM place)"""

_FOLLOWING = (
    "INSERT INTO edge SELECT id, id - 1, 'data' FROM task WHERE name LIKE 'step\\_%' ESCAPE '\\' AND name <> 'step_1'",
    """
INSERT INTO event (task_id, at, kind, old, new, attempt, worker_id, detail)
SELECT t.id, t.created_at, 'status', m.old, coalesce(m.new, t.status), 1, iif(m.n > 2, 1, NULL), ''
  FROM task t CROSS JOIN (SELECT 1 AS n, NULL AS old, 'pending' AS new UNION ALL SELECT 2, 'pending', 'queued'
       UNION ALL SELECT 3, 'queued', 'in_progress' UNION ALL SELECT 4, 'in_progress', NULL) m ORDER BY t.id, m.n""",
    """
INSERT INTO parameter (task_id, section, name, text, type, value, key)
SELECT id, iif(parent_id IS NULL, 'Args', 'return'), iif(parent_id IS NULL, 'lr', 'y'), '0.1', 'float', '0.1', '' FROM task""",
    "INSERT INTO cache SELECT cache_key, id FROM task WHERE cache_key IS NOT NULL AND status = 'completed'",
    "INSERT INTO tally SELECT coalesce(parent_id, 0), status, count(*) FROM task WHERE superseded = 0 GROUP BY 1, 2",
)


def fill(home: Path, runs: int, steps: int) -> None:
    """Make a store that remembers `runs` finished runs of `steps` steps each.

    Triggers and secondary indexes are away while the rows go in; tallies and history are written as triggers would have.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # it says that it is new
        Store.open(home).close()
    connection = sqlite3.connect(home / DATABASE, isolation_level=None)
    with contextlib.closing(connection):
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "temp_store=MEMORY", "cache_size=-65536"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        made = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql IS NOT NULL"
        ).fetchall()
        connection.execute("BEGIN")
        for kind, name, _ in made:
            connection.execute(f"DROP {kind} {name}")
        _insert(connection, runs, steps)
        for _, _, sql in made:
            connection.execute(sql)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL").fetchall()


def _insert(connection: sqlite3.Connection, runs: int, steps: int) -> None:
    now = time.time()
    connection.execute("INSERT INTO project VALUES (1, lower(hex(randomblob(16))), 'examples/.pipelines/nightly')")
    connection.execute("INSERT INTO code VALUES (?, 'step', 'def step(x): return x', '[]')", ("c" * 64,))
    connection.execute(
        "INSERT INTO worker VALUES"
        " (1, lower(hex(randomblob(16))), 'w1', 'agent', 1, 'here', 2, '[\"default\"]', '', ?, ?, 'left')",
        (now - 1e6, now - 1e3),
    )
    connection.execute(_TASKS, {"runs": runs, "steps": steps, "now": now, "code": "c" * 64})
    for statement in _FOLLOWING:
        connection.execute(statement)
