"""Many at once: workers, submitters, readers, finished tasks. Nobody sees a lock, nobody starves, memory stays flat."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minipipe.store.home import Store
from tests.engine.real import ROOT, Shop

# 20000 is what minipipe is held to, and 50,000 tasks in one worker; on two cores that takes a quarter of an hour.
TASKS = int(os.environ.get("MINIPIPE_LOAD_TASKS", "4000"))
WORKERS = int(os.environ.get("MINIPIPE_LOAD_WORKERS", "64"))

SUBMIT = """
import json, sys, time
from minipipe.store import tasks
from minipipe.store.home import Store
from pathlib import Path
store, folder, number = Store.open(Path(sys.argv[1]), create=False), sys.argv[2], int(sys.argv[3])
entry = {"kind": "import", "module": "steplib", "qualname": "nothing", "cwd": folder, "roots": [sys.argv[4]], "returns": []}
store.database.rows("SELECT 1")
print("ready", flush=True)
sys.stdin.readline()
times = [time.monotonic()]
for n in range(number):
    tasks.submit(store, tasks.NewTask(type="custom", name=f"n{n}", project="load", entry=entry, queue="default"), durable=False)
    times.append(time.monotonic())
print(json.dumps(times))
"""
LOOK = """
import os, subprocess, sys
looks = 0
while not os.path.exists(sys.argv[1]):
    done = subprocess.run([sys.executable, "-m", "minipipe", "status", "--all", "--json"], capture_output=True, text=True)
    if done.returncode or "locked" in done.stderr:
        sys.exit(done.stderr)
    looks += 1
print(looks)
"""


def processes(number: int, *arguments: str, home: Path, out: int = subprocess.PIPE) -> list[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINIPIPE_HOME": str(home), "MINIPIPE_DURABILITY": "fast"}
    return [
        subprocess.Popen([sys.executable, *arguments], env=environment, stdin=-1, stdout=out, stderr=-1, text=True)
        for _ in range(number)
    ]


def release(started: list[subprocess.Popen[str]]) -> None:
    """All at the same moment, once each is ready."""
    for one in started:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()


def ended(started: list[subprocess.Popen[str]], timeout: float = 300) -> list[str]:
    """What they said; each must have ended well and have seen no lock."""
    said = []
    for process in started:
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == 0, err
        assert "locked" not in err
        said.append(out)
    return said


@pytest.mark.load
def test_sixteen_processes_submit_while_eight_look_and_many_work(shop: Shop) -> None:
    home, project = shop.store.path, str(ROOT / "tests" / "engine" / "project")
    each = TASKS // 16
    submitters = processes(16, "-c", SUBMIT, str(home), str(shop.folder), str(each), project, home=home)
    readers = processes(8, "-c", LOOK, str(shop.folder / "enough"), home=home)
    release(submitters)
    times = [json.loads(line) for line in ended(submitters)]
    submitted = time.monotonic()
    # Each of eight opens and closes the store all the time, while so many open it: the one moment in which it is somebody's alone.
    workers = [shop.worker(slots=1, until_idle=True) for _ in range(WORKERS)]
    shop.wait(lambda: shop.store.database.rows("SELECT count(*) FROM worker")[0][0] == WORKERS, 120)
    (shop.folder / "enough").touch()
    assert all(int(looks) > 0 for looks in ended(readers))
    watching = processes(8, "-m", "minipipe", "status", "--watch", home=home, out=subprocess.DEVNULL)
    for worker in workers:
        assert worker.process.wait(600) == 0, worker.said()
        assert "locked" not in worker.said()
    for one in watching:
        one.send_signal(signal.SIGINT)
    ended(watching)
    # Printed, not judged: here a writer waits for the processor, too. Fair shares are test_write_load.py's.
    longest = max(late - early for one in times for early, late in itertools.pairwise(one))
    print(
        f"{16 * each} tasks, {WORKERS} workers: the longest write {longest:.2f} s, drained in {time.monotonic() - submitted:.0f} s"
    )
    rows = shop.store.database.rows("SELECT status, attempt, count(*) AS n FROM task GROUP BY 1, 2")
    assert [tuple(row) for row in rows] == [("completed", 1, 16 * each)]


@pytest.mark.load
def test_a_worker_does_not_grow_with_the_tasks_it_has_done(shop: Shop) -> None:
    def run(number: int) -> tuple[int, int]:
        """KiB of the worker and of its host, when so many more are done."""
        for n in range(number):
            shop.step("nothing", n=n, returns=())
        shop.wait(lambda: not shop.store.database.rows("SELECT 1 FROM task WHERE status = 'queued' LIMIT 1"), 120 + number / 20)
        return resident(worker.pid), resident(shop.host_of(worker))

    worker, half = shop.worker(slots=2), TASKS * 5 // 4
    first = run(300)
    before, after = run(half), run(half)  # in the first half SQLite's cache fills: two megabytes
    print(f"KiB of worker and host after 300 tasks: {first}, after {half} more: {before}, after {half} more: {after}")
    assert max(late - early for early, late in zip(before, after, strict=True)) < 2_000
    assert worker.end() == 0


def resident(pid: int) -> int:
    """KiB in memory."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


@pytest.mark.load
def test_a_million_finished_tasks_slow_neither_claims_nor_looks(
    store: Store, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    shop = Shop(store, tmp_path, wait_for)  # not the fixture: its check of everything would take minutes here
    shop.drain()
    first = shop.step("one")
    shop.drain()
    began = time.monotonic()
    with shop.store.database.write(durable=False) as connection:
        columns = [row["name"] for row in connection.execute("PRAGMA table_info(task)") if row["name"] not in ("id", "uid")]
        names = ", ".join(columns)
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'task'"
        ).fetchall()
        for trigger in triggers:
            connection.execute(f"DROP TRIGGER {trigger['name']}")
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)"
            f" INSERT INTO task (uid, {names}) SELECT printf('%032x', i), {names} FROM n, task t WHERE t.id = ?",
            (first.id,),
        )
        connection.execute("UPDATE tally SET n = n + 1000000 WHERE scope = 0 AND status = 'completed'")
        connection.execute(
            "INSERT INTO event (task_id, at, kind, old, new, attempt, detail)"
            " SELECT t.id, 0, 'status', e.old, e.new, e.attempt, e.detail FROM task t JOIN event e ON e.task_id = ?"
            " WHERE t.id > ? AND e.kind = 'status' ORDER BY t.id, e.id",
            (first.id, first.id),
        )
        for trigger in triggers:
            connection.execute(trigger["sql"])
    made = time.monotonic() - began
    steps = [shop.step("one", name=f"late{n}") for n in range(20)]
    began = time.monotonic()
    shop.drain(slots=2)
    assert {shop.status(one) for one in steps} == {"completed"}
    assert time.monotonic() - began < 10, f"(a million rows were made in {made:.0f}s)"
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINIPIPE_HOME": str(shop.store.path)}
    subprocess.run([sys.executable, "-m", "minipipe", "status"], env=environment, check=True, capture_output=True)
    assert time.monotonic() - began < 3
    shop.close()
    shop.check(only=("I5", "I8"))


@pytest.mark.load
def test_a_run_of_thousands_of_steps_does_not_slow_down(shop: Shop) -> None:
    """A long chain: its last steps take no longer than its first."""
    number = max(600, TASKS // 4)
    previous = shop.step("nothing", n=0, returns=("x",))
    for _ in range(number):
        previous = shop.step("nothing", needs={"n": previous}, returns=("x",))
    shop.drain(timeout=300, slots=1)
    times = [row["ended_at"] for row in shop.store.database.rows("SELECT ended_at FROM task ORDER BY id")]
    tenth = len(times) // 10
    first, last = times[2 * tenth] - times[tenth], times[-1] - times[-1 - tenth]
    assert last < 3 * first
