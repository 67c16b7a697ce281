"""The checker bites: each invariant, broken by hand, is reported; and a busy store is sane and checked fast."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minipipe.store import attempts, blobs, locks, records, workers
from minipipe.store.home import Store
from tests.faults.sane import sane
from tests.store.making import agent, claim, run, step, task, work


@pytest.fixture
def busy(store: Store) -> Iterator[tuple[Store, workers.Registration]]:
    """A store with a task in every status: 2 completed, 3 in progress, 4 pending on 3, 5 queued, 6 failed, 7 skipped."""
    worker = agent(store)
    parent = run(store).id
    completed = step(store, parent_id=parent, key_base="k")
    work(store, worker, value=b"x" * 20_000)
    running = step(store, parent_id=parent)
    failing, queued = step(store, parent_id=parent, queue="other"), 0
    claim(store, worker)
    pending = step(store, parent_id=parent, after=[running])
    queued = step(store, parent_id=parent)
    found = attempts.claim_next(store, attempts.Claimant(worker.id, ("other",)))
    assert found is not None
    skipped = step(store, parent_id=parent, after=[failing])
    attempts.finish(store, found.lease, attempts.Outcome(attempts.FAILED))
    served = step(store, parent_id=parent, key_base="k", use_cache=True)
    wanted = dict.fromkeys((completed, served), "completed") | {running: "in_progress", pending: "pending", queued: "queued"}
    wanted |= {failing: "failed", skipped: "skipped", parent: "created"}
    assert {number: task(store, number)["status"] for number in wanted} == wanted
    assert sane(store.path) == []
    yield store, worker
    worker.lock.release()


def by_hand(store: Store, *statements: str) -> None:
    """Change the store behind everybody's back, past all triggers and keys."""
    store.close()
    with contextlib.closing(sqlite3.connect(store.database.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA ignore_check_constraints=ON")
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, statement


RUNNING = "(SELECT id FROM task WHERE status = 'in_progress')"
COMPLETED = "(SELECT min(id) FROM task WHERE status = 'completed')"
BROKEN = {
    "I1 foreign key": "UPDATE task SET project_id = 999",
    "I1 user_version": "PRAGMA user_version = 99",
    "I1 application_id": "PRAGMA application_id = 99",
    "I2 an artifact, plot or model names": "DELETE FROM blob",
    "I2 blob": "UPDATE blob SET refs = refs + 1",
    "does not have its digest": "UPDATE blob SET bytes = CAST('x' AS BLOB)",
    "its row says": "UPDATE blob SET size = size + 1",
    "itself served from": "UPDATE task SET cached_from = id WHERE cached_from IS NOT NULL",
    "which is dead": "UPDATE worker SET ended_at = 1",
    "is in no queue": "UPDATE task SET queue = NULL WHERE status = 'queued'",
    "waits for 2 parents, 1 are open": "UPDATE task SET waiting_on = 2 WHERE status = 'pending'",
    "waits for nobody": "DELETE FROM edge",
    "and is not skipped": f"UPDATE task SET status = 'failed', worker_id = NULL WHERE id = {RUNNING}",
    "its events end in": "UPDATE task SET status = 'queued' WHERE status = 'failed'",
    "the one before led to": f"DELETE FROM event WHERE task_id = {RUNNING} AND new = 'queued'",
    "is no legal move": "DELETE FROM transition WHERE old = 'in_progress' AND new = 'failed'",
    "has the endings": "INSERT INTO event (task_id, at, kind, old, new) SELECT id, 1, 'status', status, 'failed' FROM task",
    "I4 tally": "UPDATE tally SET n = n + 1 WHERE status = 'queued'",
    "counts 3 attempts, was claimed 1 times": f"UPDATE task SET attempt = 3 WHERE id = {COMPLETED}",
    "was retried 1 times of 0": f"UPDATE task SET retries = 1 WHERE id = {COMPLETED}",
    "crashed 4 times of 3": f"UPDATE task SET crashes = 4 WHERE id = {COMPLETED}",
    "was tried 1 times: 0 retries, 0 crashes, 1 returns": f"UPDATE task SET returns = 1 WHERE id = {COMPLETED}",
}


@pytest.mark.parametrize(("words", "statement"), BROKEN.items(), ids=BROKEN.keys())
def test_a_broken_row_is_reported(busy: tuple[Store, workers.Registration], words: str, statement: str) -> None:
    store, _ = busy
    by_hand(store, statement)
    assert any(words in line for line in sane(store.path)), sane(store.path)


def test_a_broken_database_is_reported(busy: tuple[Store, workers.Registration]) -> None:
    store, _ = busy
    store.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    root = store.database.rows("SELECT rootpage FROM sqlite_master WHERE name = 'event_task'")[0][0]
    size = store.database.rows("PRAGMA page_size")[0][0]
    store.close()
    with open(store.database.path, "r+b") as file:
        file.seek((root - 1) * size + size - 8)
        file.write(b"\x07" * 8)
    assert any("I1 integrity" in line for line in sane(store.path, only=["I1"]))


def test_a_worker_without_lock_is_reported(busy: tuple[Store, workers.Registration]) -> None:
    store, worker = busy
    worker.lock.release()
    assert any("which is dead" in line for line in sane(store.path))


def blob_file(store: Store) -> Path:
    return next(path for path in store.folder("blobs").glob("*/*"))


FILES: dict[str, tuple[str, Callable[[Store], object]]] = {
    "missing blob": ("cannot be read", lambda store: blob_file(store).unlink()),
    "writable blob": ("has mode 644", lambda store: blob_file(store).chmod(0o644)),
    "open folder": ("folder logs has mode 755", lambda store: store.folder("logs").chmod(0o755)),
    "readable database": ("file minipipe.db has mode 644", lambda store: store.database.path.chmod(0o644)),
    "open store": ("others may write", lambda store: store.path.chmod(0o770)),
    "foreign file": ("notes.txt is not known", lambda store: (store.path / "notes.txt").touch(0o600)),
    "foreign blob": ("is not known", lambda store: blob_file(store).with_name("x").touch(0o444)),
    "blob in a wrong folder": ("is not known", lambda store: blob_file(store).with_name("zz" + "0" * 62).touch(0o444)),
    "link": ("is no regular file", lambda store: (store.path / "maint.lock").symlink_to("/etc/hostname")),
    "deep": ("is not known", lambda store: (blob_file(store).parent / ("0" * 64)).mkdir(0o700)),
}


@pytest.mark.parametrize(("words", "damage"), FILES.values(), ids=FILES.keys())
def test_a_wrong_file_is_reported(
    busy: tuple[Store, workers.Registration], words: str, damage: Callable[[Store], object]
) -> None:
    store, _ = busy
    damage(store)
    assert any(words in line for line in sane(store.path)), sane(store.path)


def unused(path: Path) -> Path:
    """A name beside a blob that is no blob's."""
    return path.with_name(path.name[:2] + "0" * 62)


LITTER: dict[str, tuple[str, Callable[[Store], object]]] = {
    "staged bytes": ("tmp/", lambda store: (store.folder("tmp") / ("0" * 32 + ".0")).touch(0o600)),
    "scratch": ("tmp/", lambda store: (store.folder("tmp") / ("0" * 32 + ".d")).mkdir(0o700)),
    "draft": (".new is left", lambda store: (store.path / ("minipipe.db." + "0" * 16 + ".new")).touch(0o600)),
    "blob file": ("a file and no row", lambda store: unused(blob_file(store)).touch(0o444)),
    "lock file": ("no living worker", lambda store: (store.folder("workers") / ("0" * 32 + ".lock")).touch(0o600)),
}


@pytest.mark.parametrize(("words", "make"), LITTER.values(), ids=LITTER.keys())
def test_litter_is_reported_after_gc_only(
    busy: tuple[Store, workers.Registration], words: str, make: Callable[[Store], object]
) -> None:
    store, _ = busy
    assert sane(store.path, after_gc=True) == []
    make(store)
    assert sane(store.path) == []
    assert any(words in line for line in sane(store.path, after_gc=True))


def test_unused_blobs_and_logs_are_litter(busy: tuple[Store, workers.Registration]) -> None:
    store, _ = busy
    with store.database.write() as connection:
        blobs.publish(store, connection, blobs.stage_bytes(store, b"nobody's"))
    folder = store.log_path("ab" + "0" * 30, 1).parent
    folder.mkdir(0o700)
    store.log_path("ab" + "0" * 30, 1).touch(0o600)
    assert sane(store.path) == []
    found = sane(store.path, after_gc=True)
    assert len(found) == 2
    assert "referred to by nothing" in found[0]
    assert "belongs to no task" in found[1]


def test_a_held_lock_without_a_worker_is_reported(busy: tuple[Store, workers.Registration]) -> None:
    store, _ = busy
    held = locks.hold(store.folder("workers") / ("0" * 32 + ".lock"))
    assert held is not None
    assert [line for line in sane(store.path) if "belongs to no living worker" in line]
    held.release()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_process_that_is_left_over_is_reported(busy: tuple[Store, workers.Registration]) -> None:
    store, worker = busy
    (running,) = store.database.rows("SELECT token FROM task WHERE status = 'in_progress'")

    def left_over(token: str | None) -> bool:
        environment = {**os.environ, "MINIPIPE_STORE_ID": store.store_id}
        environment |= {} if token is None else {"MINIPIPE_ATTEMPT": token}
        code = "import signal; print('up', flush=True); signal.pause()"
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            return any(f"process {process.pid} of attempt" in line for line in sane(store.path))
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()

    assert left_over("1" * 32), "of an attempt that is not running"
    assert not left_over(running["token"]), "of one that is"
    assert not left_over("0" * 32), "the host of a living worker (this process)"
    workers.leave(store, worker)
    assert left_over("0" * 32), "a host whose worker is gone"


def test_what_was_acknowledged_must_be_there(busy: tuple[Store, workers.Registration]) -> None:
    store, _ = busy
    uids = {row["status"]: row["uid"] for row in store.database.rows("SELECT uid, status FROM task")}
    told = {uids["completed"]: "completed", uids["failed"]: "failed", uids["in_progress"]: "queued"}
    assert sane(store.path, acknowledged=told) == []
    assert len(sane(store.path, acknowledged={uids["queued"]: "completed", "0" * 32: "queued"})) == 2


def test_thousands_of_tasks_are_checked_at_ten_thousand_a_second(store: Store) -> None:
    worker = agent(store)
    with store.database.write():
        for number in range(2_000):
            first = step(store, str(number))
            step(store, after=[first])
        for _ in range(1_600):
            found = claim(store, worker)
            records.report(store, found.lease, found.lease.task, "t", "s", 1.0, 0)
            attempts.finish(store, found.lease, attempts.Outcome(attempts.DONE))
    start = time.process_time()
    assert sane(store.path) == []
    assert time.process_time() - start < 0.4  # for 4,000 of them; 0.1 on a free machine
    workers.leave(store, worker)
