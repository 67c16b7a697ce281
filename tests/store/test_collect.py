"""Litter goes, and nothing that somebody uses or is about to use."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from minipipe import errors
from minipipe.store import attempts, blobs, codec, collect, home, records, upkeep, workers
from minipipe.store.home import Store
from minipipe.store.retention import Rule
from tests.faults.sane import sane
from tests.store import making

BIG = b"y" * 20_000
TOKEN = "ab" * 16


@pytest.fixture
def worker(store: Store) -> workers.Registration:
    return making.agent(store)


def touch(path: Path, data: bytes = b"x", mode: int = 0o600) -> Path:
    for folder in reversed(path.parents):
        folder.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_every_kind_of_litter_goes_and_is_counted_beforehand(store: Store, worker: workers.Registration) -> None:
    task = making.step(store)
    making.work(store, worker, value=BIG)
    with store.database.write() as connection:
        connection.execute("INSERT INTO code VALUES ('old', 'f', '', '[]')")
        connection.execute("DELETE FROM artifact WHERE task_id = ?", (task,))
    touch(store.folder("blobs") / "cd" / ("cd" * 32), BIG, 0o444)  # renamed, and its transaction never committed
    touch(store.folder("logs") / "ab" / f"{TOKEN}.1.log")
    touch(store.folder("tmp") / f"{TOKEN}.0")
    touch(store.folder("tmp") / f"{TOKEN}.d" / "copy" / "file.csv")
    touch(store.folder("workers") / f"{TOKEN}.lock")
    touch(store.path / f"{home.DATABASE}.{TOKEN[:16]}.new")
    touch(store.path / "downloads" / TOKEN / "part")
    touch(store.path / "envs" / TOKEN / "pyvenv.cfg")
    wanted = {
        "blobs": 2,
        "logs": 1,
        "temporary files": 3,
        "lock files": 1,
        "environments": 1,
        "downloads": 1,
    }
    found = collect.litter(store)
    assert {kind: number for kind, number in found.number.items() if number} == wanted
    freed = collect.sweep(store)
    assert {kind: number for kind, number in freed.number.items() if number} == {**wanted, "rows": 1}
    assert freed.total == found.total > 40_000
    assert sane(store.path, after_gc=True) == []
    assert not any(collect.sweep(store).number.values())


def test_what_is_in_use_stays(store: Store, worker: workers.Registration) -> None:
    making.step(store)
    claim = making.claim(store, worker)
    mine = touch(store.folder("tmp") / f"{claim.lease.token}.0", BIG, 0o444)
    next_one = touch(store.folder("tmp") / f"{attempts.next_token(claim.lease.token)}.0")
    scratch = touch(store.folder("tmp") / f"{claim.lease.token}.d" / "file")
    log = touch(store.log_path(claim.lease.uid, 1))
    kept = touch(store.path / "downloads" / TOKEN / "kept.json")
    upload = touch(store.path / "files" / "project" / "model.bin")
    writer = blobs.Writer(store)
    writer.write(BIG)
    assert not any(collect.sweep(store).number.values())
    assert all(path.exists() for path in (mine, next_one, scratch, log, kept, upload, worker.lock.path))
    encoded = codec.Encoded(writer.finish(), "bytes", "bytes", "", "", {}, writer)
    assert not any(collect.sweep(store).number.values())  # final and read-only, and still its writer's
    records.store_artifact(store, claim.lease, claim.lease.task, "up", encoded)
    assert not any(collect.sweep(store).number.values())
    assert sane(store.path, only=["I2"]) == []


def test_names_that_are_not_ours_are_left_alone(store: Store) -> None:
    names = ["blobs/README", "tmp/notes.txt", "workers/notes", "downloads/files", "logs/ab/notes.log", "minipipe.db.old"]
    paths = [touch(store.path / name) for name in names]
    collect.sweep(store)
    assert all(path.exists() for path in paths)


def test_a_row_without_a_file_that_a_kill_left_goes(store: Store, worker: workers.Registration) -> None:
    task = making.step(store)
    making.work(store, worker, value=BIG)
    with store.database.write() as connection:
        connection.execute("DELETE FROM artifact WHERE task_id = ?", (task,))
    digest = store.database.rows("SELECT digest FROM blob")[0][0]
    blobs.path_of(store, digest).unlink()
    assert collect.sweep(store).number["blobs"] == 1
    assert sane(store.path, after_gc=True) == []


def test_the_lock_of_a_worker_that_nobody_has_reaped_waits_for_that(store: Store) -> None:
    dead = making.agent(store)
    dead.lock.release()
    assert collect.sweep(store).number["lock files"] == 0
    workers.reap(store, 3)
    assert collect.sweep(store).number["lock files"] == 0  # the reaper took it along
    assert not dead.lock.path.exists()


def test_a_writer_whose_file_is_collected_in_its_first_moment_makes_another(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    flock, once = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if not once and how == fcntl.LOCK_EX:
            once.append(collect.sweep(store).number["temporary files"])
        flock(descriptor, how)

    monkeypatch.setattr(blobs.fcntl, "flock", late)
    writer = blobs.Writer(store)
    writer.write(BIG)
    staged = writer.finish()
    assert once == [1]
    assert staged.path is not None and staged.path.read_bytes() == BIG
    writer.discard()


def test_a_lock_taken_for_litter_in_its_first_moment_is_taken_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from minipipe.store import locks

    made, once = locks.Held.__init__, []

    def late(self: locks.Held, path: Path, lock: object) -> None:
        if not once:
            once.append(path)
            path.unlink()
        made(self, path, lock)

    monkeypatch.setattr(locks.Held, "__init__", late)
    worker = making.agent(store)
    assert worker.lock.path.exists() and not worker.lock.lost() and locks.is_held(worker.lock.path)
    worker.lock.release()


def test_gc_gives_the_pages_of_removed_runs_back(store: Store, worker: workers.Registration) -> None:
    run = making.run(store)
    attempts.start_here(store, run.id, worker.id)
    for number in range(300):
        making.step(store, parent_id=run.id, name=f"s{number}")
        making.work(store, worker, value=bytes([number % 256]) * 10_000)
    with store.database.write() as connection:
        connection.execute("UPDATE task SET status = 'completed', worker_id = NULL, ended_at = 1 WHERE id = ?", (run.id,))
    store.database.checkpoint(now=True)
    before = store.database.path.stat().st_size
    done = upkeep.carry_out(store, upkeep.plan(store, Rule(keep_runs=0)), lambda what, number: None)
    assert (len(done.runs), done.tasks, done.freed.number["blobs"]) == (1, 301, 256)
    assert store.database.path.stat().st_size < before - 1_500_000  # room for the next tasks stays, since a worker lives
    assert store.database.rows("PRAGMA freelist_count")[0][0] <= 512
    small = store.database.path.stat().st_size
    assert collect.shrink(store, alone=True) > 900_000
    assert store.database.path.stat().st_size < small
    assert not store.database.path.with_name("minipipe.db-wal").stat().st_size
    assert sane(store.path, after_gc=True) == []


def test_an_older_store_is_rewritten_when_nobody_works(store: Store) -> None:
    with store.database.write() as connection:
        connection.execute("CREATE TABLE filler (x) STRICT".replace(" STRICT", ""))
        connection.execute("INSERT INTO filler VALUES (zeroblob(3000000))")
        connection.execute("DROP TABLE filler")
    connection = store.database.connection()
    connection.execute("PRAGMA auto_vacuum=NONE")
    connection.execute("VACUUM")
    with store.database.write() as connection:
        connection.execute("CREATE TABLE filler (x)")
        connection.execute("INSERT INTO filler VALUES (zeroblob(3000000))")
        connection.execute("DROP TABLE filler")
    assert collect.shrink(store, alone=False) == 0 or store.database.rows("PRAGMA auto_vacuum")[0][0] == 0
    assert collect.shrink(store, alone=True) > 2_000_000
    assert store.database.rows("PRAGMA auto_vacuum")[0][0] == 2
    assert sane(store.path) == []


def test_a_full_disk_on_the_first_try_is_tried_again_because_files_went(
    store: Store, worker: workers.Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = making.step(store)
    making.work(store, worker, value=BIG)
    with store.database.write() as connection:
        connection.execute("DELETE FROM artifact WHERE task_id = ?", (task,))
    write, tries = type(store.database).write, []

    def full_once(self: object, **facts: bool) -> object:
        tries.append(1)
        if len(tries) == 1:
            raise errors.DiskFull("no space left")
        return write(self, **facts)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store.database), "write", full_once)
    assert collect.sweep(store).number["blobs"] == 1


def test_the_ballast_gives_its_room_and_takes_it_again(store: Store) -> None:
    home.restore_ballast(store.path)
    ballast = store.path / "ballast"
    assert ballast.stat().st_blocks * 512 >= home.BALLAST_BYTES
    assert home.drop_ballast(store.path)
    assert ballast.stat().st_blocks == 0
    assert not home.drop_ballast(store.path)
    assert home.restore_ballast(store.path)
    assert os.stat(ballast).st_blocks * 512 >= home.BALLAST_BYTES


def test_collectors_and_writers_at_the_same_time_lose_nothing(store: Store, worker: workers.Registration) -> None:
    """P7: what is published while others collect is there afterwards, and none of its bytes is missing."""
    stop = threading.Event()
    problems: list[BaseException] = []

    def collecting() -> None:
        mine = Store.open(store.path, create=False, durability="fast")
        try:
            while not stop.is_set():
                with upkeep.alone(mine):
                    collect.sweep(mine)
        except BaseException as error:
            problems.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=collecting) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        values = {}
        for number in range(60):
            data = f"{number % 7}".encode() * (17_000 + number)
            task = making.step(store, name=f"s{number}")
            making.work(store, worker, value=data)
            values[task] = data
            if number % 5 == 0:  # replaced under the same name: the old bytes become litter
                records.upload(store, None, task, "out", data + b"new")
                values[task] = data + b"new"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert all(making.value(store, task) == data for task, data in values.items())
    with upkeep.alone(store):
        collect.sweep(store)
    assert sane(store.path, after_gc=True) == []
