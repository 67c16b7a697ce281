"""One connection, one gate for writes, never across a fork."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minipipe import errors
from minipipe.store import attempts, blobs, codec, database, records, resume, steering, tasks, waiting, workers
from minipipe.store.database import Database
from minipipe.store.home import Store


def put(store: Store, key: str, value: str = "1", durable: bool = True) -> None:
    with store.database.write(durable=durable) as connection:
        connection.execute("INSERT INTO meta VALUES (?, ?)", (key, value))


def has(store: Store, key: str) -> bool:
    return store.database.row("SELECT 1 FROM meta WHERE key = ?", (key,)) is not None


@pytest.fixture
def foreign(store: Store) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else to the same file."""
    with contextlib.closing(sqlite3.connect(store.database.path, isolation_level=None, timeout=0)) as connection:
        yield connection


# -- transactions -------------------------------------------------------------------------------------------------------


def test_nested_writes_join_the_outer_transaction(store: Store, foreign: sqlite3.Connection) -> None:
    with store.database.write():
        put(store, "inner")
        assert foreign.execute("SELECT 1 FROM meta WHERE key = 'inner'").fetchall() == []
    assert foreign.execute("SELECT 1 FROM meta WHERE key = 'inner'").fetchall() == [(1,)]


def test_an_exception_rolls_back_all_of_it(store: Store) -> None:
    def fail() -> None:
        with store.database.write():
            put(store, "inner")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not has(store, "inner")
    put(store, "after")
    assert has(store, "after")


def test_an_exception_that_the_outer_caller_catches_keeps_the_rest(store: Store) -> None:
    with store.database.write():
        put(store, "first")
        with contextlib.suppress(ZeroDivisionError), store.database.write():
            raise ZeroDivisionError
    assert has(store, "first")


def test_a_write_inside_a_snapshot_is_refused(store: Store) -> None:
    with store.database.snapshot():
        store.database.rows("SELECT * FROM meta")
        with pytest.raises(RuntimeError, match="snapshot"), store.database.write():
            pass
    put(store, "after")
    assert has(store, "after")


def test_a_snapshot_inside_a_write_sees_what_was_written(store: Store) -> None:
    with store.database.write():
        put(store, "mine")
        with store.database.snapshot():
            assert has(store, "mine")
    assert has(store, "mine")


def test_a_snapshot_sees_one_state(store: Store, foreign: sqlite3.Connection) -> None:
    with store.database.snapshot():
        assert not has(store, "late")
        foreign.execute("INSERT INTO meta VALUES ('late', '1')")
        assert not has(store, "late")
    assert has(store, "late")


def test_every_write_of_every_verb_is_inside_begin_immediate(store: Store) -> None:
    statements: list[str] = []
    store.database.connection().set_trace_callback(statements.append)

    registration = workers.register(store, workers.AGENT, queues=("default",))
    who = attempts.Claimant(registration.id, ("default",))
    run = tasks.submit(store, tasks.NewTask("controller", "run", "p", {}, is_run=True))
    first = tasks.submit(store, tasks.NewTask("training", "a", "p", {}, parent_id=run.id, queue="default", max_retries=1))
    held = tasks.submit(
        store, tasks.NewTask("training", "b", "p", {}, parent_id=run.id, queue="default", hold="launch", gate=True)
    )
    claim = attempts.claim_next(store, who)
    assert claim is not None
    records.report(store, claim.lease, first.id, "t", "s", 1.0, 0)
    records.upload(store, claim.lease, first.id, "big", b"x" * 20_000)
    records.set_progress(store, claim.lease, first.id, 50)
    records.add_tags(store, first.id, ["tag"])
    records.forget_damaged(store, "0" * 64)
    attempts.finish(store, claim.lease, attempts.Outcome(attempts.FAILED), who=who)
    steering.release(store, held.id)
    steering.open_gate(store, held.id)
    steering.answer_retry(store, held.id, True)
    steering.abort(store, [run.id])
    resume.revive(store, run.id)
    steering.enqueue(store, held.id, "default")
    store.database.sync()
    registration.lock.release()
    workers.reap(store, 3)
    store.database.rows("SELECT * FROM task")
    with store.database.snapshot():
        store.database.rows("SELECT * FROM event")

    inside, kinds = "", set()
    for statement in statements:
        word = statement.lstrip("- ").split(None, 1)[0].upper()
        if word == "BEGIN":
            inside = statement
            kinds.add(statement)
        elif word in ("COMMIT", "ROLLBACK"):
            inside = ""
        elif word in ("INSERT", "UPDATE", "DELETE", "REPLACE") and not statement.startswith("--"):
            assert inside == "BEGIN IMMEDIATE", f"{statement!r} ran inside {inside!r}"
    assert kinds == {"BEGIN IMMEDIATE", "BEGIN"}, "the trace saw nothing"
    assert sum(statement == "BEGIN IMMEDIATE" for statement in statements) >= 18


def test_the_connection_is_configured_as_written(store: Store) -> None:
    def pragma(name: str) -> object:
        return store.database.rows(f"PRAGMA {name}")[0][0]

    wanted = {"journal_mode": "wal", "foreign_keys": 1, "trusted_schema": 0, "temp_store": 2, "wal_autocheckpoint": 0}
    wanted |= {"mmap_size": 0, "cell_size_check": 1}
    assert {name: pragma(name) for name in wanted} == wanted


@pytest.mark.parametrize(("durability", "durable", "level"), [("full", True, 2), ("full", False, 1), ("fast", True, 1)])
def test_durable_commits_sync_and_the_others_do_not(store: Store, durability: str, durable: bool, level: int) -> None:
    opened = Store.open(store.path, durability=durability)
    with opened.database.write(durable=durable) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == level
    opened.close()


def test_sync_reaches_the_disk_once(store: Store) -> None:
    opened = Store.open(store.path, durability="full")
    log = Path(f"{opened.database.path}-wal")
    put(opened, "told", durable=False)
    before = log.stat().st_size
    opened.database.sync()
    after = log.stat().st_size
    assert after > before, "a commit without a changed page syncs nothing"
    opened.database.sync()
    assert log.stat().st_size == after, "nothing was left to sync"
    opened.close()


# -- waiting ------------------------------------------------------------------------------------------------------------


def test_a_locked_store_is_reported_at_the_deadline(store: Store, foreign: sqlite3.Connection) -> None:
    foreign.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    with pytest.raises(errors.StoreBusy, match="locked") as caught, store.database.write(deadline_s=0.2):
        pytest.fail("got in")
    assert 0.2 <= time.monotonic() - start < 2
    assert caught.value.exit_code == 5
    foreign.execute("COMMIT")
    put(store, "after")
    assert has(store, "after")


def test_a_write_gets_in_as_soon_as_the_other_is_done(store: Store, foreign: sqlite3.Connection) -> None:
    foreign.execute("BEGIN IMMEDIATE")
    writing = threading.Thread(target=put, args=(store, "patient"))
    writing.start()
    foreign.execute("INSERT INTO meta VALUES ('first', '1')")
    foreign.execute("COMMIT")
    writing.join(10)
    assert has(store, "patient")
    assert has(store, "first")


def test_a_signal_is_handled_while_waiting_for_the_lock(store: Store, foreign: sqlite3.Connection) -> None:
    class Rang(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise Rang

    foreign.execute("BEGIN IMMEDIATE")
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        start = time.monotonic()
        with pytest.raises(Rang), store.database.write(deadline_s=20):
            pytest.fail("got in")
        assert time.monotonic() - start < 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    foreign.execute("COMMIT")
    put(store, "after")
    assert has(store, "after")


def test_readers_do_not_wait_for_a_writer(store: Store, foreign: sqlite3.Connection) -> None:
    foreign.execute("BEGIN IMMEDIATE")
    assert store.store_id
    foreign.execute("COMMIT")


@pytest.fixture
def taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Somebody has the closed file for himself, as who takes its log away or recovers it, until the first pause of who waits; the
    pauses made."""
    store.close()
    owner = sqlite3.connect(store.database.path, isolation_level=None, timeout=0)
    owner.execute("PRAGMA locking_mode=EXCLUSIVE")
    owner.execute("UPDATE meta SET value = value")
    pauses: list[float] = []

    def pause(low: float, high: float) -> float:
        owner.close()
        pauses.append(low)
        return low

    monkeypatch.setattr(database, "between", pause)
    return pauses


def look_twice(store: Store) -> None:
    with store.database.snapshot():
        assert store.database.rows("SELECT * FROM meta")


LOOKS: dict[str, Callable[[Store], object]] = {
    "opening the store": lambda store: Store.open(store.path, create=False).close(),
    "a query": lambda store: store.database.rows("SELECT * FROM meta"),
    "a look for changes": lambda store: store.database.data_version(),
    "a snapshot": look_twice,
    "a write": lambda store: put(store, "key"),
    "the connection itself": lambda store: store.database.connection(),
    "room for the log": lambda store: store.database.reserve_log(),
    "a copy": lambda store: store.database.copy_to(store.path / "copy"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_everything_waits_while_the_file_is_somebodys_alone(
    store: Store, taken: list[float], look: Callable[[Store], object]
) -> None:
    look(store)
    assert taken


def test_a_read_gives_up_at_the_deadline_as_a_write_does(
    store: Store, foreign: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    foreign.execute("PRAGMA locking_mode=EXCLUSIVE")
    foreign.execute("UPDATE meta SET value = value")
    monkeypatch.setattr(database._patiently, "__defaults__", (0.2,))
    with pytest.raises(errors.StoreBusy, match="was locked for 0 s"):
        Store.open(store.path, create=False)


def test_a_snapshot_begins_with_its_first_line(store: Store, foreign: sqlite3.Connection) -> None:
    """Its one wait is over then: what is read inside, also past `rows`, meets no lock."""
    with store.database.snapshot():
        foreign.execute("INSERT INTO meta VALUES ('late', '1')")
        assert not has(store, "late")
    assert has(store, "late")


def test_of_workers_that_start_at_once_one_makes_room_in_the_log(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Store.open(store.path, create=False, durability="fast")
    statements: list[str] = []
    other.database.connection().set_trace_callback(statements.append)
    patiently = database._patiently

    def late(action: Callable[[], object], path: Path) -> object:
        """Between the other's look at the log and its turn to write."""
        monkeypatch.setattr(database, "_patiently", patiently)
        store.database.reserve_log()
        return patiently(action, path)

    monkeypatch.setattr(database, "_patiently", late)
    other.database.reserve_log()
    assert Path(f"{store.database.path}-wal").stat().st_size >= database.LOG_BYTES
    assert "BEGIN IMMEDIATE" in statements
    assert not any(statement.startswith("INSERT") for statement in statements)
    other.close()


def test_the_data_version_changes_with_every_commit_and_with_nothing_else(store: Store, foreign: sqlite3.Connection) -> None:
    seen = [store.database.data_version()]

    def changed() -> bool:
        seen.append(store.database.data_version())
        return seen[-1] != seen[-2]

    store.database.rows("SELECT * FROM meta")
    foreign.execute("SELECT * FROM meta").fetchall()
    with pytest.raises(sqlite3.IntegrityError):
        put(store, "store_id")
    assert not changed()
    put(store, "own")
    assert changed(), "another thread of this process may be waiting for it"
    foreign.execute("INSERT INTO meta VALUES ('theirs', '1')")
    assert changed()
    assert not changed()


def test_a_commit_made_while_the_connection_was_closed_for_a_fork_shows(store: Store, foreign: sqlite3.Connection) -> None:
    version = store.database.data_version()
    store.close()
    foreign.execute("INSERT INTO meta VALUES ('theirs', '1')")
    assert store.database.data_version() != version


def test_a_foreign_commit_wakes_who_waits(store: Store, foreign: sqlite3.Connection) -> None:
    looks: list[float] = []
    asked = threading.Event()

    def done() -> bool:
        looks.append(time.monotonic())
        asked.set()
        return has(store, "wake")

    result: list[bool] = []
    thread = threading.Thread(target=lambda: result.append(waiting.wait(store, done, timeout_s=20)))
    thread.start()
    assert asked.wait(10)
    foreign.execute("INSERT INTO meta VALUES ('wake', '1')")
    thread.join(10)
    assert result == [True]
    assert len(looks) <= 3, "it asks after a change, not all the time"


def test_a_wait_that_runs_out_says_so(store: Store) -> None:
    ticks: list[int] = []
    assert not waiting.wait(store, lambda: False, timeout_s=0.1, tick=lambda: ticks.append(1), tick_s=0.01)
    assert 2 <= len(ticks) <= 10
    assert waiting.wait(store, lambda: bool(ticks), timeout_s=0)


# -- forks --------------------------------------------------------------------------------------------------------------


def child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; its exit code, 1 for an exception."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_both_sides_of_a_fork_can_write(store: Store) -> None:
    put(store, "before")
    assert child(lambda: put(store, "child")) == 0
    put(store, "parent")
    assert has(store, "child")
    assert has(store, "parent")
    assert store.database.rows("PRAGMA integrity_check")[0][0] == "ok"


def test_a_child_forked_while_another_thread_writes_can_write(store: Store) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def write_slowly() -> None:
        with store.database.write() as connection:
            connection.execute("INSERT INTO meta VALUES ('slow', '1')")
            inside.set()
            go_on.wait(10)

    writing = threading.Thread(target=write_slowly)
    writing.start()
    assert inside.wait(10)
    threading.Timer(0.1, go_on.set).start()  # the fork below waits for the transaction, so it cannot be ended from here
    assert child(lambda: put(store, "child")) == 0
    writing.join(10)
    assert has(store, "slow")
    assert has(store, "child")


def test_a_fork_inside_a_transaction_loses_that_transaction_and_says_so(store: Store) -> None:
    def fork_inside() -> None:
        with store.database.write() as connection:
            connection.execute("INSERT INTO meta VALUES ('lost', '1')")
            assert child(lambda: None) == 0
            connection.execute("INSERT INTO meta VALUES ('lost too', '1')")

    with pytest.raises(sqlite3.ProgrammingError):
        fork_inside()
    assert not has(store, "lost")


def test_a_fork_past_pythons_hooks_is_refused(store: Store) -> None:
    put(store, "before")
    store.database._pid = os.getpid() + 1  # what such a child would see
    with pytest.raises(errors.ForkedConnection, match="was opened in process"):
        store.database.rows("SELECT 1")
    with pytest.raises(errors.ForkedConnection), store.database.write():
        pass


def test_who_must_fork_cannot_open_a_database(store: Store) -> None:
    store.close()
    database.forbid("step host")
    try:
        with pytest.raises(errors.ForkedConnection, match="step host"):
            store.database.connection()
    finally:
        database.forbid("")
    assert store.store_id


def test_threads_share_the_connection(store: Store) -> None:
    def write_some(name: str) -> None:
        for number in range(20):
            put(store, f"{name}{number}")

    writers = [threading.Thread(target=write_some, args=(name,)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert store.database.rows("SELECT count(*) FROM meta WHERE length(key) < 4")[0][0] == 80


# -- the file -----------------------------------------------------------------------------------------------------------


def test_a_log_that_others_made_anew_after_a_close_is_no_move(store: Store) -> None:
    database = store.database
    database.rows("SELECT 1")
    assert not database.moved()
    database.close()
    other = Store.open(store.path, create=False)
    other.database.rows("SELECT 1")
    assert not database.moved()
    database.rows("SELECT 1")
    assert not database.moved()
    os.unlink(f"{database.path}-wal")
    assert database.moved()
    other.close()


def test_a_moved_store_is_noticed(store: Store) -> None:
    put(store, "before")
    assert not store.database.moved()
    store.path.rename(store.path.with_name("elsewhere"))
    assert store.database.moved()
    store.path.with_name("elsewhere").rename(store.path)
    assert not store.database.moved()
    copy = store.database.path.read_bytes()
    store.database.path.rename(store.path / "old")
    store.database.path.write_bytes(copy)
    assert store.database.moved(), "another file of the same name"


def _seconds(action: Callable[[], object], result: object) -> float:
    """How long it takes, and that this is what it returns."""
    began = time.monotonic()
    assert action() is result
    return time.monotonic() - began


def test_the_log_is_moved_into_the_database_when_it_is_full_and_starts_over_in_its_file(
    store: Store, foreign: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_COMMITS_PER_CHECKPOINT", 2)
    log = Path(f"{store.database.path}-wal")
    put(store, "small")
    assert not store.database.checkpoint()
    put(store, "large", "x" * (database.LOG_BYTES + 1))
    foreign.execute("BEGIN")
    foreign.execute("SELECT * FROM meta").fetchone()
    put(store, "more")
    # SQLite itself waits two seconds for such a reader, and lets all writers wait; the shortest of three, for a busy machine.
    assert min(_seconds(lambda: store.database.checkpoint(), False) for _ in range(3)) < 1
    foreign.execute("COMMIT")
    size = log.stat().st_size
    assert store.database.checkpoint()
    assert not store.database.checkpoint(), "nothing new to move"
    for number in range(20):
        put(store, f"after {number}")
    assert log.stat().st_size == size, "the log is written from the front again"
    assert has(store, "large")
    assert has(store, "after 19")


def test_the_log_gets_its_size_before_commits_need_it_and_the_store_stays_as_it_was(store: Store) -> None:
    put(store, "small")
    before = store.database.path.stat().st_size
    store.database.reserve_log()
    log = Path(f"{store.database.path}-wal")
    size = log.stat().st_size
    assert size >= database.LOG_BYTES
    put(store, "next")
    assert log.stat().st_size == size
    assert has(store, "small")
    assert has(store, "next")
    assert not has(store, "reserve")
    store.close()
    assert store.database.path.stat().st_size < before + 100_000, "nothing of the reserve went into the database"


def test_damage_is_named(store: Store) -> None:
    put(store, "large", "x" * 100_000)
    store.close()
    with open(store.database.path, "r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 5000)
    with pytest.raises(errors.StoreDamaged, match="damaged"):
        store.database.rows("SELECT * FROM meta")


def test_a_missing_file_means_the_store_is_gone(store: Store) -> None:
    store.close()
    store.path.rename(store.path.with_name("elsewhere"))
    with pytest.raises(errors.StoreMoved):
        store.database.rows("SELECT 1")


def test_errors_of_the_system_name_path_and_room(store: Store) -> None:
    import errno

    path = store.database.path
    full = database.os_error(OSError(errno.ENOSPC, "full", str(path)), path)
    assert isinstance(full, errors.DiskFull)
    assert str(path) in full.message
    assert "bytes free" in full.cause
    assert isinstance(database.os_error(OSError(errno.EROFS, "read-only"), path), errors.StoreUnwritable)
    assert database.os_error(OSError(errno.EIO, "broken"), path) is None


def test_a_full_database_is_reported_and_works_again(store: Store) -> None:
    pages = store.database.rows("PRAGMA page_count")[0][0]
    store.database.rows(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(errors.DiskFull, match="no space left"):
        put(store, "large", "x" * 1_000_000)
    assert not has(store, "large")
    store.database.rows(f"PRAGMA max_page_count = {pages + 1000}")
    put(store, "large", "x" * 1_000_000)
    assert has(store, "large")


def test_nothing_but_sqlite_opens_the_database_file() -> None:
    # Closing any descriptor of the file drops this process's locks on it (POSIX).
    package = Path(database.__file__).parents[1]
    connecting = [
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if "sqlite3.connect(" in path.read_text()
    ]
    assert set(connecting) <= {"store/database.py", "store/home.py"}


def test_opening_a_database_does_not_need_sqlite_utils(store: Store) -> None:
    code = (
        "import sys; from minipipe.store.home import Store; s = Store.open(sys.argv[1], create=False); s.store_id;"
        "print('sqlite_utils' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_value_of_our_own_is_stored_as_text(store: Store) -> None:
    encoded = codec.encode(store, "lone \ud800 surrogate")
    with store.database.write() as connection:
        blobs.publish(store, connection, encoded.staged)
        connection.execute("INSERT INTO meta VALUES ('preview', ?)", (encoded.preview,))
    assert has(store, "preview")


def test_a_database_object_of_its_own_reopens_after_close(store: Store) -> None:
    own = Database(store.database.path, "fast")
    assert own.row("SELECT 1") is not None
    own.close()
    own.close()
    assert own.row("SELECT 1") is not None
    own.close()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1], "a list stands where a text or a number belongs"),
        (object(), "a object stands where a text or a number belongs"),
        (2**63, "a whole number is too large"),
        (b"bytes", "bytes stand where a text belongs"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_a_value_that_no_column_takes_is_a_mistake_of_the_caller_and_nothing_is_stored(
    store: Store, value: Any, said: str
) -> None:
    def put() -> None:
        with store.database.write() as connection:
            connection.execute("INSERT INTO meta VALUES ('kept', '1')")
            connection.execute("INSERT INTO meta VALUES ('bad', ?)", (value,))

    with pytest.raises(errors.UsageError, match=said):
        put()
    if not isinstance(value, bytes):
        with pytest.raises(errors.UsageError, match=said):
            store.database.rows("SELECT 1 FROM meta WHERE key = ?", (value,))
    assert not has(store, "kept")
