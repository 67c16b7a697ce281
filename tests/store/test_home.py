"""Making, opening and refusing a store."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from minipipe import errors, states
from minipipe.store import home, schema
from minipipe.store.home import Store
from tests.faults.sane import sane


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything in a folder, byte for byte."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def edit(path: Path, sql: str) -> None:
    """Change a closed store behind minipipe's back."""
    with contextlib.closing(sqlite3.connect(path / "minipipe.db", isolation_level=None)) as connection:
        connection.execute(sql).fetchall()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


# -- making -------------------------------------------------------------------------------------------------------------


def open_first(path: Path, barrier: int, result: int) -> None:
    """In a child of its own: wait for the barrier, open the store, tell its id and what was printed."""
    code = 1
    try:
        sys.stderr = io.StringIO()
        os.read(barrier, 1)
        opened = Store.open(path, durability="fast")
        os.write(result, json.dumps([opened.store_id, sys.stderr.getvalue()]).encode() + b"\n")
        opened.close()
        code = 0
    finally:
        os._exit(code)


def test_eight_first_processes_make_exactly_one_store(tmp_path: Path, empty_store: Path) -> None:
    path = tmp_path / "store"  # `empty_store` is asked for so that all imports are done before the race
    (barrier, go), (results, result) = os.pipe(), os.pipe()
    pids = []
    for _ in range(8):
        pid = os.fork()
        if not pid:
            os.close(go)
            open_first(path, barrier, result)
        pids.append(pid)
    for end in (barrier, result, go):  # the end of the file is the signal
        os.close(end)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 8
    with open(results, "rb") as file:
        told = [json.loads(line) for line in file]
    assert len(told) == 8
    assert len({store_id for store_id, _ in told}) == 1, "all use the same one"
    assert sum("new store" in printed for _, printed in told) == 1, "one of them made it"
    assert sane(path, after_gc=True) == [], "no draft is left"


def test_a_new_store_is_sane_and_private_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store.open(tmp_path / "store")
        with store.database.write() as connection:
            connection.execute("INSERT INTO meta VALUES ('a', 'b')")
        assert sane(store.path, after_gc=True) == []
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    store.close()


def test_making_a_store_is_said_and_opening_it_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(tmp_path / "store").close()
    assert "new store" in capsys.readouterr().err
    Store.open(tmp_path / "store").close()
    assert capsys.readouterr().err == ""


def test_a_reading_command_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(errors.StoreMissing, match="no store at") as caught:
        Store.open(tmp_path / "store", create=False)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(errors.StoreForeign, match="not a folder"):
        Store.open(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_store_that_cannot_be_made_leaves_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(schema, "migrate", fail)
    with pytest.raises(sqlite3.OperationalError):
        Store.open(tmp_path / "store")
    assert not (tmp_path / "store" / "minipipe.db").exists()
    monkeypatch.undo()
    store = Store.open(tmp_path / "store")
    assert store.store_id
    store.close()


# -- refusing -----------------------------------------------------------------------------------------------------------


def refused(store: Store, kind: type[errors.MinipipeError], words: str) -> errors.MinipipeError:
    """Opening is refused, and nothing of the store was touched."""
    before = contents(store.path)
    with pytest.raises(kind, match=words) as caught:
        Store.open(store.path)
    assert contents(store.path) == before
    assert caught.value.exit_code == 4
    assert str(store.path) in str(caught.value)
    return caught.value


def test_a_newer_store_is_refused_byte_for_byte(store: Store) -> None:
    store.close()
    edit(store.path, f"PRAGMA user_version = {schema.VERSION + 1}")
    before = contents(store.path)
    with pytest.raises(errors.StoreNewer, match=f"schema {schema.VERSION + 1}"):
        Store.open(store.path)
    assert contents(store.path) == before


def test_a_newer_version_that_only_the_log_knows_is_refused_too(store: Store) -> None:
    with contextlib.closing(sqlite3.connect(store.database.path, isolation_level=None)) as newer:
        newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}").fetchall()
        assert home._peek(store.database.path)[1] == schema.VERSION, "the look goes past the log"
        with pytest.raises(errors.StoreNewer):
            Store.open(store.path)


def test_somebody_elses_database_is_refused(store: Store) -> None:
    store.close()
    edit(store.path, "PRAGMA application_id = 1234")
    assert "0x4d2" in refused(store, errors.StoreForeign, "not a minipipe store").cause


def test_a_database_without_application_id_is_refused(store: Store) -> None:
    store.close()
    store.database.path.unlink()
    with contextlib.closing(sqlite3.connect(store.database.path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    store.database.path.chmod(0o600)
    refused(store, errors.StoreForeign, "not a minipipe store")


@pytest.mark.parametrize(
    ("data", "cause"), [(b"", "empty"), (b"no database at all" * 100, "not a database")], ids=["0 bytes", "garbage"]
)
def test_what_is_no_database_is_damage(store: Store, data: bytes, cause: str) -> None:
    store.close()
    store.database.path.write_bytes(data)
    error = refused(store, errors.StoreDamaged, "damaged")
    assert cause in error.cause
    assert "doctor" in error.hint


def test_a_cut_database_is_damage(store: Store) -> None:
    store.close()
    os.truncate(store.database.path, 5000)
    before = store.database.path.read_bytes()
    with pytest.raises(errors.StoreDamaged, match="damaged"):
        Store.open(store.path)
    assert store.database.path.read_bytes() == before


def test_a_folder_in_the_place_of_the_database_is_damage(store: Store) -> None:
    store.close()
    store.database.path.unlink()
    store.database.path.mkdir(0o700)
    assert "directory" in refused(store, errors.StoreDamaged, "damaged").cause


def test_a_look_beside_a_checkpoint_is_no_damage(store: Store) -> None:
    # In a checkpoint the first page is written first and already counts the pages that follow. Seen without a lock, that is
    # a database that was cut. Here a copy is stopped at that moment, with its log.
    with store.database.write() as connection:
        connection.execute("INSERT INTO meta VALUES ('large', ?)", ("x" * 100_000,))
    copy = store.path.with_name("copy")
    pages = dict.fromkeys(("minipipe.db", "minipipe.db-wal"), b"")
    for name in pages:
        pages[name] = (store.path / name).read_bytes()
    store.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    first = store.database.path.read_bytes()[:4096]
    for folder in ("", "blobs", "tmp", "logs", "workers"):
        (copy / folder).mkdir(0o700)
    for name, data in pages.items():
        (copy / name).write_bytes(first + data[4096:] if name == "minipipe.db" else data)
        (copy / name).chmod(0o600)
    opened = Store.open(copy)
    assert opened.database.row("SELECT length(value) FROM meta WHERE key = 'large'")[0] == 100_000  # type: ignore[index]
    opened.close()


@pytest.mark.parametrize("mode", [0o720, 0o702])
@pytest.mark.parametrize("name", ["", "minipipe.db"])
def test_what_others_may_write_is_refused(store: Store, mode: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.close()
    (store.path / name).chmod(mode)
    error = refused(store, errors.StoreUntrusted, "written by others")
    assert f"chmod go-w {store.path / name}".rstrip("/") in error.hint
    monkeypatch.setenv("MINIPIPE_TRUST_STORE", "1")
    Store.open(store.path).close()


def test_a_store_of_another_user_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.delenv("SUDO_UID", raising=False)
    refused(store, errors.StoreUntrusted, "belongs to another user")


@pytest.mark.parametrize("create", [True, False])
def test_a_network_disk_is_refused(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, create: bool) -> None:
    monkeypatch.setattr(home, "file_system", lambda path: "nfs4")
    path = tmp_path / "new" if create else store.path
    with pytest.raises(errors.NetworkDisk, match="nfs4"):
        Store.open(path)
    assert not (tmp_path / "new").exists()


def test_an_unknown_disk_is_warned_of_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(home, "file_system", lambda path: "newfs")
    for _ in range(2):
        Store.open(store.path).close()
    assert capsys.readouterr().err.count("unknown file system newfs") == 1


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("needs Linux")
    assert home.file_system(Path("/proc/self")) == "proc"
    assert home.file_system(tmp_path / "not there yet") not in ("", "proc")


# -- migrating ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A minipipe that is one schema ahead; returns what its migration did so far."""
    done: list[str] = []

    def add(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE added (a INTEGER) STRICT")
        done.append("added")

    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("9999_added", add)))
    return lambda: done


def backups(store: Store) -> list[Path]:
    return sorted(store.path.glob("minipipe.db.schema*"))


def test_an_older_store_is_saved_and_migrated(store: Store, next_version: Callable[[], list[str]]) -> None:
    with store.database.write() as connection:
        connection.execute("INSERT INTO meta VALUES ('kept', '1')")
    store.close()
    migrated = Store.open(store.path)
    assert schema.version_of(migrated.database.connection()) == (schema.APPLICATION_ID, schema.VERSION)
    assert migrated.database.rows("SELECT * FROM added") == []
    assert migrated.database.row("SELECT value FROM meta WHERE key = 'kept'") is not None
    migrated.close()

    (backup,) = backups(store)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION - 1
        assert connection.execute("SELECT value FROM meta WHERE key = 'kept'").fetchall() == [("1",)]
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'added'").fetchall() == []

    Store.open(store.path).close()
    assert next_version() == ["added"], "once"
    assert len(backups(store)) == 1


def frozen(folder: Path) -> Path:
    """A store that the first release wrote: a finished pipeline with a failed step, a template, an array of 100 KB."""
    path = folder / "old"
    with zipfile.ZipFile(Path(__file__).parent / "frozen" / "schema1.zip") as archive:
        archive.extractall(path)
    for name in home._FOLDERS:
        (path / name).mkdir(exist_ok=True)
    for found in (path, *path.rglob("*")):
        found.chmod(0o700 if found.is_dir() else 0o444 if found.parent.parent.name == "blobs" else 0o600)
    return path


def test_a_store_of_schema_1_opens_is_saved_and_migrated(tmp_path: Path) -> None:
    path = frozen(tmp_path)
    with contextlib.closing(sqlite3.connect(path / "minipipe.db")) as connection:
        before = {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("task", "artifact", "metric", "monitor", "parameter", "event")
        }
    assert before["task"] and before["metric"]
    opened = Store.open(path)
    assert schema.version_of(opened.database.connection()) == (schema.APPLICATION_ID, 2)
    for table, rows in before.items():
        width = len(rows[0]) if rows else 0
        assert [tuple(row)[:width] for row in opened.database.rows(f"SELECT * FROM {table} ORDER BY 1, 2")] == rows, table
    assert len(backups(opened)) == 1
    with opened.database.write() as connection:
        task = connection.execute("SELECT id FROM task LIMIT 1").fetchone()["id"]
        connection.execute("INSERT INTO monitor VALUES (?, 'model', 'm', '', 'm', '')", (task,))
    opened.close()
    assert sane(path, only=[f"I{n}" for n in range(1, 9)]) == []


def test_four_processes_that_open_a_store_of_schema_1_migrate_it_once(tmp_path: Path) -> None:
    path = frozen(tmp_path)
    code = "from minipipe.store.home import Store; import sys; Store.open(sys.argv[1]).close()"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in running] == [0] * 4
    with contextlib.closing(sqlite3.connect(path / "minipipe.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
        assert connection.execute("SELECT count(*) FROM _sqlite_migrations").fetchone()[0] == len(schema.MIGRATIONS)
    assert sane(path, only=["I1", "I2", "I8"]) == []


def test_two_migrators_do_the_work_once(store: Store, next_version: Callable[[], list[str]]) -> None:
    # Both have seen the old version; the second comes to the transaction when the first is through.
    late = Store(store.path, "fast")
    Store.open(store.path).close()
    with late.database.write() as connection:
        if schema.version_of(connection)[1] < schema.VERSION:
            schema.migrate(connection)
    late.close()
    assert next_version() == ["added"]


def test_a_migration_that_fails_leaves_the_old_version(
    store: Store, next_version: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (a)")
        raise RuntimeError("power went")

    working = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS[:-1], ("9999_added", fail)))
    with pytest.raises(RuntimeError, match="power went"):
        Store.open(store.path)
    with contextlib.closing(sqlite3.connect(store.database.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION - 1
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []
    monkeypatch.setattr(schema, "MIGRATIONS", working)
    Store.open(store.path).close()
    assert next_version() == ["added"]


# -- life cycle in the schema -------------------------------------------------------------------------------------------


def insert_task(connection: sqlite3.Connection, status: str, worker: int | None = None) -> None:
    connection.execute("INSERT OR IGNORE INTO project (id, uid, name) VALUES (1, 'p', 'p')")
    connection.execute(
        "INSERT INTO task (uid, type, name, project_id, status, worker_id, created_at, updated_at)"
        " VALUES ('t', 'training', 't', 1, ?, ?, 0, 0)",
        (status, worker),
    )


def test_illegal_moves_by_direct_sql_are_refused(store: Store) -> None:
    connection = store.database.connection()
    connection.execute(
        "INSERT INTO worker (uid, name, kind, pid, host, slots, queues, session, started_at)"
        " VALUES ('w', 'w', 'agent', 1, 'h', 1, '[]', '', 0)"
    )
    legal = {(old, new) for old, pair in states.MOVES.items() for news in pair for new in news}
    for old in states.STATUSES:
        for new in states.STATUSES:
            if old == new:
                continue
            connection.execute("BEGIN IMMEDIATE")
            worker = {"in_progress": 1}
            insert_task(connection, old, worker.get(old))
            move = ("UPDATE task SET status = ?, worker_id = ? WHERE uid = 't'", (new, worker.get(new)))
            if (old, new) in legal:
                assert connection.execute(*move).rowcount == 1
            else:
                with pytest.raises(sqlite3.IntegrityError, match="illegal move"):
                    connection.execute(*move)
            connection.execute("ROLLBACK")


def test_an_illegal_move_through_the_gate_is_our_error(store: Store) -> None:
    with store.database.write() as connection:
        insert_task(connection, "published")
    with pytest.raises(errors.IllegalMove), store.database.write() as connection:
        connection.execute("UPDATE task SET status = 'queued' WHERE uid = 't'")
    assert store.database.rows("SELECT status FROM task")[0][0] == "published"


def test_history_cannot_be_changed(store: Store) -> None:
    with store.database.write() as connection:
        insert_task(connection, "created")
    with pytest.raises(sqlite3.IntegrityError, match="history"), store.database.write() as connection:
        connection.execute("UPDATE event SET detail = 'never happened'")


def test_a_task_in_progress_without_worker_cannot_be_stored(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"), store.database.write() as connection:
        insert_task(connection, "in_progress")
