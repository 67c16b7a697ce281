"""Every write of every process is inside BEGIN IMMEDIATE; for this process `tests/conftest.py` sees to it in all tests."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from minipipe.store import queues
from minipipe.store.home import Store
from tests.conftest import _stray
from tests.faults.killing import SHIM
from tests.faults.machine import command
from tests.faults.shim.writes import Watcher

FLOW = """
import os, sys
from minipipe import Logger, PipelineDecorator, Task

@PipelineDecorator.component(return_values=["n"], cache=True, retry_on_failure=2)
def one(n):
    task = Task.current_task()
    task.connect({"a": n})
    Logger.current_logger().report_scalar("a", "b", 1.0, n)
    Logger.current_logger().report_histogram("h", "s", [1, 2])
    task.upload_artifact("large", list(range(9_000)))
    task.add_tags(["tag"])
    if not os.path.exists("again"):
        open("again", "w").close()
        raise ValueError("once")
    if os.fork() == 0:
        Logger.current_logger().report_scalar("fork", "b", 2.0, n)
        os._exit(0)
    os.wait()
    return n + 1

@PipelineDecorator.pipeline(name="flow", project="faults", version="1")
def flow(n=1):
    print("got", int(one(int(one(n)))))
    PipelineDecorator.upload_artifact("sum", [n])

if __name__ == "__main__":
    PipelineDecorator.run_locally()
    flow()
"""


def test_all_that_processes_write_is_inside_begin_immediate(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    seen = tmp_path / "seen"
    seen.mkdir()
    store, other = tmp_path / "store", tmp_path / "other"
    for home, *verb in (
        (store, "run", "flow.py"),
        (store, "rerun", "@last", "--set", "n=5", "--detach"),
        (store, "worker", "--until-idle"),
        (store, "queue", "create", "gpu"),
        (store, "queue", "pause", "gpu"),
        (store, "run", "flow.py", "--detach"),
        (store, "abort", "@last"),
        (store, "export", "@last", "-o", "run.zip"),
        (other, "import", "run.zip", "--trust-pickle"),
        (store, "cache", "clear", "--all"),
        (store, "gc", "--keep-runs", "1", "--yes"),
        (store, "doctor", "--repair"),
    ):
        done = command(home, *verb, PYTHONPATH=SHIM, MINIPIPE_TEST_WRITES=str(seen))
        assert done.returncode == 0, (verb, done.stdout.decode(), done.stderr.decode())
    found = {path.name: path.read_text().splitlines() for path in seen.iterdir()}
    assert {line for lines in found.values() for line in lines} == {"wrote"}
    processes = [name.partition(".")[0] for name in found]
    assert processes.count("cli") >= 6 and processes.count("worker") >= 2
    assert processes.count("host") >= 2  # children of it: it opens no database itself


@pytest.mark.parametrize(
    ("statements", "stray"),
    [
        (["BEGIN IMMEDIATE", "INSERT INTO task VALUES (1)", "-- UPDATE tally", "COMMIT"], 0),
        (["INSERT INTO task VALUES (1)"], 1),
        (["BEGIN", "SELECT 1", "update task SET a = 1", "COMMIT"], 1),
        (["BEGIN IMMEDIATE", "ROLLBACK", "DELETE FROM task"], 1),
        (["WITH d AS (SELECT 1) UPDATE task SET a = 1"], 1),
        (["WITH d AS (SELECT 'UPDATE') SELECT * FROM d", "PRAGMA user_version", "VACUUM"], 0),
        (["BEGIN", "CREATE TEMP TABLE going (id)", "DELETE FROM temp.going", "COMMIT"], 0),
        (["BEGIN", "DELETE FROM task WHERE id IN (SELECT id FROM temp.going)"], 1),
        (["CREATE INDEX i ON task (a)", "DROP TABLE task"], 2),
    ],
)
def test_a_write_elsewhere_is_seen(statements: list[str], stray: int) -> None:
    found: list[str] = []
    watcher = Watcher(found.append, lambda: None)
    for statement in statements:
        exec("watcher(statement)", {"__name__": "minipipe.store.tasks", "watcher": watcher, "statement": statement})
    assert len(found) == stray


def test_this_process_is_watched_and_a_test_may_play_somebody_else(store: Store) -> None:
    connection = store.database.connection()
    connection.execute("UPDATE meta SET value = value")  # ours, not minipipe's
    assert _stray == []
    exec("c.execute('UPDATE meta SET value = value')", {"__name__": "minipipe.store.tasks", "c": connection})
    assert len(_stray) == 1 and "inside 'nothing'" in _stray[0]
    _stray.clear()
    queues.create(store, "gpu")
    assert isinstance(connection, sqlite3.Connection)
