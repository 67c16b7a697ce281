"""Death at chosen moments, of every kind of process: nothing is lost, nothing counts twice, nobody is left."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from minipipe.engine.worker import sweep
from minipipe.store import attempts, collect, resume, steering, workers
from minipipe.store.home import Store
from tests.engine.real import QUICK, ROOT, Shop, gone, processes_of
from tests.faults.killing import armed

CLAIM = "SET status = 'in_progress'"
STRIDE = int(os.environ.get("MINIPIPE_FAULTS_STRIDE", "10"))  # of a loop over points that costs seconds for each


def dies(shop: Shop, environment: dict[str, str], **options: object) -> None:
    """Run an armed worker until it is killed."""
    worker = shop.worker(environment, **options)
    assert worker.process.wait(20) == -signal.SIGKILL, worker.said()


# -- the worker ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_before_its_claim_commits_has_claimed_nothing(shop: Shop) -> None:
    task = shop.step("one")
    dies(shop, armed("worker", "sql", 1, match=f"{CLAIM}>>COMMIT"))
    assert (shop.status(task), shop.row(task)["attempt"]) == ("queued", 0)
    shop.drain()
    row = shop.row(task)
    assert (row["status"], row["attempt"], row["crashes"]) == ("completed", 1, 0)


def test_a_worker_that_dies_after_its_claim_brings_the_task_back_in_time(shop: Shop) -> None:
    task = shop.step("one")
    other = shop.worker(queues=["none"])  # it reaps, and cannot be what runs the task
    shop.wait(lambda: len(workers.alive(shop.store)) == 1)
    dies(shop, armed("worker", "sql", 1, match=f"{CLAIM}>>COMMIT>>"))
    begun = time.monotonic()
    assert (shop.status(task), shop.row(task)["attempt"]) == ("in_progress", 1)
    shop.wait(lambda: shop.status(task) == "queued", 5)
    assert time.monotonic() - begun < 2
    assert other.end() == 0
    shop.drain()
    row = shop.row(task)
    assert (row["status"], row["attempt"], row["crashes"]) == ("completed", 2, 1)


def test_a_worker_that_dies_in_mid_step_takes_host_and_child_along(shop: Shop) -> None:
    task = shop.step("stay", file="go")
    worker = shop.worker()
    child, host = shop.running(task), shop.host_of(worker)
    shop.wait(lambda: shop.lines("spans"))
    worker.kill()
    shop.wait(lambda: gone(child) and gone(host), 1)
    (shop.folder / "go").touch()
    shop.drain()
    row = shop.row(task)
    assert (row["status"], row["attempt"], row["crashes"]) == ("completed", 2, 1)
    assert [line.split()[0] for line in shop.lines("spans")] == ["start", "start", "end"]


def test_what_a_dead_workers_step_left_running_is_ended_before_the_task_goes_back(shop: Shop) -> None:
    task = shop.step("breed_and_stay", entry={"module": "wreckers"})
    worker = shop.worker()
    shop.running(task)
    shop.wait(lambda: len(shop.lines("brood")) == 1)
    worker.kill()
    assert not gone(int(shop.lines("brood")[0]))  # a daemon: nobody's death signal reaches it
    seen: list[bool] = []
    workers.reap(shop.store, 3, lambda uid, tokens: (sweep(uid, tokens), seen.append(gone(int(shop.lines("brood")[0])))))
    assert seen == [True]
    assert shop.status(task) == "queued"
    assert list(processes_of(shop.store.store_id)) == []
    steering.abort(shop.store, [task.id])


def test_a_step_started_before_its_claim_was_committed_leaves_nobody_either(shop: Shop) -> None:
    """A worker starts the next step while the commit that claims it syncs; no row names that attempt yet."""
    first = shop.step("stay", file="go")
    second = shop.step("breed_and_stay", entry={"module": "wreckers"})
    before = (
        "import os, signal, time\nfrom minipipe.engine.worker import Worker\nold = Worker._run_early\n"
        "def early(self, claim):\n"
        "    while not self.places.hosts[''].spares: self.places.hosts[''].events()\n"
        "    old(self, claim)\n"
        "    while self.early and not os.path.exists('brood'): time.sleep(0.002)\n"
        "    if self.early: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Worker._run_early = early\n"
    )
    worker = shop.worker(before=before)
    shop.running(first)
    (shop.folder / "go").touch()
    code = worker.process.wait(20)
    assert code == -signal.SIGKILL
    assert (shop.status(first), shop.status(second)) == ("in_progress", "queued")
    assert not gone(int(shop.lines("brood")[0]))
    workers.reap(shop.store, 3, sweep)
    assert gone(int(shop.lines("brood")[0]))
    assert list(processes_of(shop.store.store_id)) == []
    steering.abort(shop.store, [second.id])
    shop.drain()


def test_a_worker_that_dies_between_publishing_and_its_commit_runs_the_step_again(shop: Shop) -> None:
    last = shop.chain()[2]
    dies(shop, armed("worker", "os", 2, "after", match="replace "))  # the first finds no folder
    files = list((shop.store.path / "blobs").glob("*/*"))
    assert len(files) == 1
    assert shop.store.database.rows("SELECT * FROM blob WHERE bytes IS NULL") == []
    shop.drain()
    assert shop.value(last) == 30_000
    assert shop.lines("count") == ["begin", "grow", "grow", "close"]
    collect.sweep(shop.store)
    row = shop.store.database.row("SELECT digest FROM blob WHERE bytes IS NULL")
    assert [path.name for path in (shop.store.path / "blobs").glob("*/*")] == [row["digest"]]
    shop.check(after_gc=True)


def test_a_killed_worker_leaves_no_lock_and_no_row_that_looks_alive(shop: Shop) -> None:
    task = shop.step("stay", file="go")
    worker = shop.worker()
    shop.running(task)
    worker.kill()
    assert workers.alive(shop.store) == []
    workers.reap(shop.store, 3, sweep)
    assert list((shop.store.path / "workers").iterdir()) == []
    assert shop.store.database.row("SELECT end_reason FROM worker")["end_reason"] == "died"
    (shop.folder / "go").touch()
    shop.drain()


# -- the child ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["fork", "spawn"])
def test_half_an_outcome_is_a_crash_and_is_never_used(shop: Shop, isolation: str) -> None:
    task = shop.step("begin")
    kill = armed("child", "os", 1, "half", match="write 3", mark=shop.folder / "dead")
    shop.worker({**kill, "MINIPIPE_ISOLATION": isolation})
    row = shop.finished(task)
    assert (shop.folder / "dead").exists()
    assert (row["status"], row["attempt"], row["crashes"]) == ("completed", 2, 1)
    assert shop.lines("count") == ["begin", "begin"]


def test_a_child_that_dies_while_it_stages_leaves_a_file_that_nothing_refers_to(shop: Shop) -> None:
    last = shop.chain()[2]
    kill = armed("child", "os", 1, "before", match="fsync", mark=shop.folder / "dead")
    shop.worker(kill)
    shop.finished(last)
    assert shop.value(last) == 30_000
    assert len(list(shop.store.folder("tmp").iterdir())) == 1  # the dead attempt's, for gc
    assert shop.store.database.row("SELECT sum(crashes) FROM task")[0] == 1


@pytest.mark.parametrize("number", ["EIO", "ENOSPC"])
def test_a_disk_error_while_staging_fails_the_step_and_removes_its_file(shop: Shop, number: str) -> None:
    _, second, last = shop.chain()
    shop.worker(armed("child", "os", 1, number, match="fsync"))
    row = shop.finished(second, last)
    row = shop.row(second)
    assert row["status"] == "failed"
    assert ("no space left" if number == "ENOSPC" else "Input/output") in row["reason"]
    assert shop.status(last) == "skipped"
    assert list(shop.store.folder("tmp").iterdir()) == []


# -- endings that cannot be stored, or come too late --------------------------------------------------------------------


def test_an_ending_that_cannot_be_committed_is_kept_and_nothing_is_claimed_meanwhile(shop: Shop) -> None:
    task, other = shop.step("stay", file="go"), shop.step("one")
    before = "from minipipe.store.database import Database\nDatabase.write.__wrapped__.__defaults__ = (True, 0.2)\n"
    worker = shop.worker(before=before)
    shop.running(task)
    with shop.store.database.write():
        (shop.folder / "go").touch()
        shop.wait(lambda: "cannot store an ending yet" in worker.said(), 10)
    row = shop.finished(task, other)
    assert [(shop.status(one), shop.row(one)["attempt"], shop.row(one)["crashes"]) for one in (task, other)] == [
        ("completed", 1, 0)
    ] * 2
    assert len(shop.lines("spans")) == 2
    assert worker.end() == 0
    assert row["reason"] == ""


def test_a_locked_store_does_not_cost_the_steps_that_run(shop: Shop) -> None:
    """Claiming and reaping wait, too; a worker that gave up here would take its steps along."""
    task = shop.step("stay", file="go")
    before = "from minipipe.store.database import Database\nDatabase.write.__wrapped__.__defaults__ = (True, 0.2)\n"
    worker = shop.worker(before=before, slots=2)
    shop.running(task)
    # Queued and locked in one breath: the worker sees the task and cannot claim it.
    third = shop.step("one", queue="elsewhere")
    shop.store.close()
    writer = sqlite3.connect(shop.store.database.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE task SET queue = 'default' WHERE id = ?", (third.id,))
    writer.execute("COMMIT")
    writer.execute("BEGIN IMMEDIATE")
    shop.wait(lambda: "cannot look for work yet" in worker.said(), 10)
    writer.execute("ROLLBACK")
    writer.close()
    (shop.folder / "go").touch()
    shop.finished(task, third)
    assert (shop.row(task)["status"], shop.row(task)["crashes"]) == ("completed", 0)
    assert worker.end() == 0


def test_an_attempt_that_ends_after_it_was_reaped_changes_nothing(shop: Shop) -> None:
    task = shop.step("stay_large", file="go")
    worker = shop.worker()
    shop.running(task)
    token = shop.row(task)["token"]
    with shop.store.database.write() as connection:
        connection.execute("UPDATE worker SET ended_at = 1, end_reason = 'died'")
        connection.execute(
            "UPDATE task SET status = 'queued', worker_id = NULL, token = NULL, crashes = 1 WHERE id = ?", (task.id,)
        )
        connection.execute("UPDATE queue SET paused = 1")
    (shop.folder / "go").touch()
    shop.wait(lambda: "lost" in worker.out.read_text(), 10)
    row = shop.row(task)
    assert (row["status"], row["attempt"], row["crashes"]) == ("queued", 1, 1)
    assert shop.store.database.row("SELECT count(*) FROM artifact WHERE role = 'output'")[0] == 0
    assert [path.name for path in shop.store.folder("tmp").iterdir()] in ([], [f"{token}.0"])
    assert worker.end() == 0
    with shop.store.database.write() as connection:
        connection.execute("UPDATE queue SET paused = 0")
    shop.drain()
    assert shop.row(task)["attempt"] == 2
    collect.sweep(shop.store)
    assert not (shop.store.folder("tmp") / f"{token}.0").exists()
    shop.check(after_gc=True)


def test_of_two_endings_of_one_task_the_second_changes_nothing(shop: Shop) -> None:
    task = shop.step("one")
    mine = workers.register(shop.store, workers.AGENT, queues=("default",))
    claim = attempts.claim_next(shop.store, attempts.Claimant(mine.id, ("default",)))
    assert claim is not None
    other = Store.open(shop.store.path, create=False)
    barrier, ends = threading.Barrier(2), []

    def end(store: Store, outcome: attempts.Outcome) -> None:
        barrier.wait()
        ends.append(attempts.finish(store, claim.lease, outcome).status)

    threads = [
        threading.Thread(target=end, args=(shop.store, attempts.Outcome(attempts.DONE))),
        threading.Thread(target=end, args=(other, attempts.Outcome(attempts.FAILED, "late"))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(set(ends)) == 1
    assert shop.events(task).count("completed") + shop.events(task).count("failed") == 1
    workers.leave(shop.store, mine)
    other.close()


@pytest.mark.parametrize("several", [3])
def test_one_task_is_claimed_once_by_many(shop: Shop, several: int) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from minipipe.store import attempts, workers; from minipipe.store.home import Store\n"
        "s = Store.open(Path(sys.argv[1]), create=False); w = workers.register(s, 'agent', queues=('default',)); n = 0\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "while (c := attempts.claim_next(s, attempts.Claimant(w.id, ('default',)))) is not None:\n"
        "    attempts.finish(s, c.lease, attempts.Outcome('completed')); n += 1\n"
        "workers.leave(s, w); print(n)"
    )
    made = [shop.step("one") for _ in range(60)]
    environment = {**os.environ, **QUICK, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(shop.store.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        for _ in range(several)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    counts = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        out, _ = process.communicate(timeout=30)
        counts.append(int(out))
    assert sum(counts) == len(made)
    assert [shop.row(task)["attempt"] for task in made] == [1] * len(made)


def test_two_reapers_count_one_crash(shop: Shop) -> None:
    task = shop.step("stay", file="go")
    worker = shop.worker()
    shop.running(task)
    worker.kill()
    stores = [Store.open(shop.store.path, create=False) for _ in range(4)]
    barrier, found = threading.Barrier(len(stores)), []

    def reap(store: Store) -> None:
        barrier.wait()
        found.extend(workers.reap(store, 3, sweep))

    threads = [threading.Thread(target=reap, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for store in stores:
        store.close()
    assert found == [task.uid]
    assert (shop.status(task), shop.row(task)["crashes"]) == ("queued", 1)
    (shop.folder / "go").touch()
    shop.drain()


def test_a_claim_that_a_power_cut_took_back_comes_again_with_another_token(shop: Shop) -> None:
    """The row is as before the claim; log and staged file of the lost attempt are still there."""
    task = shop.step("stay_large", file="go")
    worker = shop.worker()
    shop.running(task)
    shop.wait(lambda: shop.lines("spans"))
    lost = shop.row(task)["token"]
    worker.kill()
    (shop.store.folder("tmp") / f"{lost}.0").write_bytes(b"half")
    os.chmod(shop.store.folder("tmp") / f"{lost}.0", 0o600)
    workers.reap(shop.store, 3, sweep)
    with shop.store.database.write() as connection:
        connection.execute("UPDATE task SET attempt = 0, crashes = 0 WHERE id = ?", (task.id,))
    (shop.folder / "go").touch()
    shop.drain()
    row = shop.row(task)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert row["token"] != lost
    heads = [line for line in shop.log(task).splitlines() if line.startswith(b"minipipe: ")]
    assert [head.split()[-1].decode() for head in heads] == [lost[:8], row["token"][:8]]
    with shop.store.database.write() as connection:  # what the test took back, for `sane`
        connection.execute("UPDATE task SET attempt = 2, crashes = 1 WHERE id = ?", (task.id,))
    assert (shop.store.folder("tmp") / f"{lost}.0").exists()
    collect.sweep(shop.store)
    shop.check(after_gc=True)


def test_an_abort_and_a_finish_at_the_same_time_have_one_winner(shop: Shop) -> None:
    mine = workers.register(shop.store, workers.AGENT, queues=("default",))
    other = Store.open(shop.store.path, create=False)
    seen = set()
    tried = 0
    while tried < 200 or (len(seen) < 2 and tried < 1_000):  # both must have been first at least once
        tried += 1
        task = shop.step("one")
        child = shop.step("add_one", needs={"value": task})
        claim = attempts.claim_next(shop.store, attempts.Claimant(mine.id, ("default",)))
        assert claim is not None
        barrier = threading.Barrier(2)

        def abort(task_id: int = task.id, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            steering.abort(other, [task_id])

        thread = threading.Thread(target=abort)
        thread.start()
        barrier.wait()
        ended = attempts.finish(shop.store, claim.lease, attempts.Outcome(attempts.DONE)).status
        thread.join(10)
        assert shop.status(task) == ended
        assert shop.status(child) == ("queued" if ended == "completed" else "skipped")
        steering.abort(shop.store, [child.id])
        seen.add(ended)
    assert seen == {"completed", "stopped"}
    workers.leave(shop.store, mine)
    other.close()


# -- the store under a worker -------------------------------------------------------------------------------------------


def test_a_worker_whose_lock_file_is_gone_ends_its_steps_and_leaves(shop: Shop) -> None:
    task = shop.step("stay", file="go")
    worker = shop.worker()
    child = shop.running(task)
    for path in (shop.store.path / "workers").iterdir():
        path.unlink()
    assert worker.process.wait(5) == 4
    assert gone(child)
    assert "moved or deleted" in worker.said()
    (shop.folder / "go").touch()
    shop.drain()
    row = shop.row(task)
    assert (row["status"], row["attempt"], row["crashes"]) == ("completed", 2, 1)


@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_worker_whose_store_is_gone_ends_its_steps_and_writes_nowhere_else(
    how: str, tmp_path: Path, copy_store: Callable[[Path], Store], wait_for: Callable[..., None]
) -> None:
    shop = Shop(copy_store(tmp_path / "store"), tmp_path, wait_for)
    task = shop.step("stay_large", file="go")
    worker = shop.worker()
    child = shop.running(task)
    shop.store.close()
    if how == "renamed":
        os.rename(tmp_path / "store", tmp_path / "elsewhere")
    else:
        subprocess.run(["rm", "-rf", str(tmp_path / "store")], check=True)
    begun = time.monotonic()
    try:
        assert worker.process.wait(5) == 4
        assert time.monotonic() - begun < 2.5
        assert gone(child)
        assert not (tmp_path / "store").exists()
    finally:
        worker.kill()
    if how == "renamed":
        moved = Shop(Store.open(tmp_path / "elsewhere", create=False), tmp_path, wait_for)
        (tmp_path / "go").touch()
        moved.drain()
        assert moved.row(task)["status"] == "completed"
        moved.check()
        moved.store.close()


def test_a_store_put_in_the_place_of_another_gets_nothing_of_its_steps(
    tmp_path: Path, copy_store: Callable[[Path], Store], wait_for: Callable[..., None]
) -> None:
    """Files are published by path, rows through the open file."""
    shop = Shop(copy_store(tmp_path / "store"), tmp_path, wait_for)
    task = shop.step("stay_large", file="go")
    # No tick in the meantime: the check before the ending has to see it.
    worker = shop.worker(before="import minipipe.engine.worker as w\nw.TICK_S = 100.0\n")
    shop.running(task)
    shop.store.close()
    os.rename(tmp_path / "store", tmp_path / "elsewhere")
    other = copy_store(tmp_path / "store")
    (tmp_path / "go").touch()
    assert worker.process.wait(10) == 4
    assert list((tmp_path / "store" / "blobs").glob("*/*")) == []
    other.close()
    moved = Store.open(tmp_path / "elsewhere", create=False)
    row = moved.database.row("SELECT status FROM task WHERE id = ?", (task.id,))
    assert row is not None
    assert row["status"] in ("queued", "in_progress")
    moved.close()


# -- the controller -----------------------------------------------------------------------------------------------------

FLOW = """
import os, sys, time
from minipipe import PipelineDecorator

def stamp(name):
    d = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600); os.write(d, (name + "\\n").encode()); os.close(d)

@PipelineDecorator.component(return_values=["x"])
def first():
    stamp("first")
    return [1, 2]

@PipelineDecorator.component(return_values=["x"])
def second(value):
    stamp("second")
    return sum(value)

@PipelineDecorator.component(return_values=["x"])
def third(value):
    stamp("third")
    return value + 1

@PipelineDecorator.pipeline(name="flow", project="faults", version="1.0.0")
def flow():
    a = second(first())
    assert a == 3
    if not os.path.exists("go"):
        open("here", "w").close()
        while True: time.sleep(0.002)
    print("answer", int(third(a)))

if __name__ == "__main__":
    PipelineDecorator.run_locally()
    flow()
"""


def test_a_dead_controllers_run_can_be_resumed_and_no_step_runs_twice(shop: Shop) -> None:
    (shop.folder / "flow.py").write_text(FLOW)
    environment = {
        **os.environ,
        **QUICK,
        "PYTHONPATH": str(ROOT),
        "MINIPIPE_HOME": str(shop.store.path),
        "MINIPIPE_PROGRESS": "off",
    }
    command = [sys.executable, "flow.py"]
    with subprocess.Popen(command, cwd=shop.folder, env=environment, stderr=subprocess.PIPE) as controller:
        shop.wait(lambda: (shop.folder / "here").exists(), 30)
        controller.kill()
    workers.reap(shop.store, 3, sweep)
    run = shop.store.database.row("SELECT * FROM task WHERE controller = 1")
    assert run is not None
    assert run["status"] == "stopped"
    assert "minipipe resume" in run["reason"]
    shop.wait(lambda: not workers.alive(shop.store) and not list(processes_of(shop.store.store_id)), 10)
    (shop.folder / "go").touch()
    resume.revive(shop.store, run["id"])
    done = subprocess.run(
        command,
        cwd=shop.folder,
        env={**environment, "MINIPIPE_RESUME": run["uid"]},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [b"answer", b"4"]
    assert [shop.lines(name) for name in ("first", "second", "third")] == [["first"], ["second"], ["third"]]
    rows = shop.store.database.rows("SELECT name, status, attempt FROM task WHERE parent_id = ? AND superseded = 0", (run["id"],))
    assert sorted(map(tuple, rows)) == [
        ("first", "completed", 1),
        ("second", "completed", 1),
        ("third", "completed", 1),
    ]
    assert shop.store.database.row("SELECT status FROM task WHERE id = ?", (run["id"],))["status"] == "completed"


@pytest.mark.parametrize(
    "points", [(12, 40, 60), pytest.param(range(1, 1_000, STRIDE), marks=pytest.mark.faults)], ids=["some", "many"]
)
def test_a_controller_killed_at_any_statement_leaves_a_run_that_can_be_resumed(shop: Shop, points: Iterable[int]) -> None:
    (shop.folder / "flow.py").write_text(FLOW)
    (shop.folder / "go").touch()
    base = {**os.environ, **QUICK, "MINIPIPE_HOME": str(shop.store.path), "MINIPIPE_PROGRESS": "off"}
    command = [sys.executable, "flow.py"]
    killed = 0
    for n in points:
        kill = armed("controller", "sql", n)
        python_path = f"{kill.pop('PYTHONPATH')}{os.pathsep}{ROOT}"
        dead = subprocess.run(
            command,
            cwd=shop.folder,
            env={**base, **kill, "PYTHONPATH": python_path},
            capture_output=True,
            timeout=60,
            check=False,
        )
        if dead.returncode == 0:
            break  # it came to its end before
        assert dead.returncode == -signal.SIGKILL, (n, dead.stderr.decode())
        killed += 1
        shop.wait(lambda: not workers.alive(shop.store), 10)
        workers.reap(shop.store, 3, sweep)
        run = shop.store.database.row("SELECT * FROM task WHERE controller = 1 ORDER BY id DESC LIMIT 1")
        resuming = {}
        if run is not None and run["status"] in ("stopped", "created"):
            resume.revive(shop.store, run["id"])
            resuming = {"MINIPIPE_RESUME": run["uid"]}
        done = subprocess.run(
            command,
            cwd=shop.folder,
            env={**base, **resuming, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (n, done.stderr.decode())
        assert done.stdout.split() == [b"answer", b"4"]
        last = shop.store.database.row("SELECT * FROM task WHERE controller = 1 ORDER BY id DESC LIMIT 1")
        assert last is not None
        assert last["status"] == "completed"
        shop.check()
    print(f"killed at {killed} statements")
    assert killed >= 3
