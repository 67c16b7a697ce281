"""One SQLite connection per process: opened in one place, written through one gate, never carried across a fork.

Why each rule is there:

* `BEGIN IMMEDIATE` for every write. A deferred transaction that turns into a write gives "database is locked" whatever the
  timeout; eight processes claiming that way for ten seconds saw it over a million times, with IMMEDIATE not once.
* SQLite waits 50 ms at most, then Python waits with jitter, for reads as for writes. SQLite's own long wait starves processes and
  signal handlers. A reader waits for whoever has the whole file for himself: the last to close it takes its log away under an
  exclusive lock, the first to open it after a crash recovers the log (sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY").
* A connection is closed before a fork and reopened when needed. Two processes that share one after a fork both commit
  "successfully" and the file is malformed; a child forked in its parent's transaction could never write again.
* Checkpoints only by `checkpoint`, under one lock and holding the writer's: SQLite before 3.51.3 can lose commits when a checkpoint
  meets a commit that restarts the log (sqlite.org/wal.html, "the WAL-reset bug"). No long read is waited for: with the writer's
  lock in hand, an export or somebody's open shell would stop all work.
* No other code opens the database file: closing any descriptor of it drops the locks of the whole process (POSIX).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from minipipe import errors
from minipipe.chance import between
from minipipe.store import naming

BUSY_DEADLINE_S = 30.0
LOG_BYTES = 4 << 20
_COMMITS_PER_CHECKPOINT = 100
_MOVE_S = 0.25  # for which a checkpoint keeps others from writing, at most
ILLEGAL_MOVE = "illegal move"  # what the schema's trigger says
_PRAGMAS = (
    "foreign_keys=ON",
    "trusted_schema=OFF",
    "temp_store=MEMORY",  # gc must not need a temporary file on a full disk
    "wal_autocheckpoint=0",
    "mmap_size=0",
    "cell_size_check=ON",
    "synchronous=FULL",
)

_T = TypeVar("_T")
_OF_A_VALUE = (UnicodeEncodeError, OverflowError, sqlite3.IntegrityError, sqlite3.ProgrammingError)  # perhaps: `_refused`
_forbidden = ""


def forbid(reason: str) -> None:
    """Refuse to open any database in this process (the step host, which forks); "" allows it again (its children)."""
    global _forbidden
    _forbidden = reason


_awaited: tuple[Path, Callable[[sqlite3.Connection], bool]] | None = None


def wait_before_use(path: Path, is_there: Callable[[sqlite3.Connection], bool]) -> None:
    """Let this process use the database only once `is_there`: a step may run before the commit that lets it go can be seen."""
    global _awaited
    _awaited = (path, is_there)


class Database:
    """The database of one store, as this process sees it.

    Args:
        path: the database file; it must exist.
        durability: "full" syncs durable commits to the disk, "fast" syncs none.
    """

    def __init__(self, path: Path, durability: str = "full") -> None:
        self.path = path
        self.durable = durability == "full"
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._depth = 0
        self._reading = False
        self._synchronous = "FULL"
        self._alone = False  # this connection has the file for itself
        self._unsynced = False
        self._checkpointed = 0  # number of our commits at our last checkpoint
        self._commits = 0
        self._identity: tuple[tuple[int, int] | None, ...] = ()
        _instances.add(self)

    # -- opening and closing ------------------------------------------------------------------------------------------

    def connection(self) -> sqlite3.Connection:
        """The open connection; opens it if need be.

        Raises:
            ForkedConnection: this object was opened in another process and the fork went past Python's hooks.
            StoreBusy: somebody had the file for himself past the deadline.
        """
        if self._connection is None:
            with self._lock, mapped(self.path):
                if self._connection is None:
                    self._connection = _patiently(self._open, self.path)
                    self._pid = os.getpid()
        elif self._pid != os.getpid():
            raise errors.ForkedConnection(
                f"the connection to {self.path} was opened in process {self._pid}",
                f"this is process {os.getpid()}, started by a fork that Python did not see",
                "open the store again in the new process",
            )
        return self._connection

    def _open(self) -> sqlite3.Connection:
        if _forbidden:
            raise errors.ForkedConnection(
                f"the {_forbidden} must not open {self.path}", "it forks, and an open database does not survive a fork"
            )
        os.stat(self.path)
        before = self._files()
        self._alone = False
        try:
            connection = self._configure()
        except sqlite3.OperationalError as error:
            # With 0 bytes free SQLite cannot make its shared-memory file; an exclusive lock keeps that index in memory.
            if error.sqlite_errorcode != sqlite3.SQLITE_IOERR_SHMSIZE:
                raise
            connection = self._configure("locking_mode=EXCLUSIVE")
            self._alone = True
        self._identity = (before[0], *self._files()[1:])
        self._synchronous = "FULL"
        self._commits += 1  # SQLite counts anew: what others committed while this was closed (for a fork) must show
        self._wait_before_use(connection)
        return connection

    def _wait_before_use(self, connection: sqlite3.Connection) -> None:
        global _awaited
        if _awaited is None or _awaited[0] != self.path:
            return
        end = time.monotonic() + BUSY_DEADLINE_S
        while not _awaited[1](connection) and time.monotonic() < end:
            time.sleep(0.001 * between(0.5, 1.5))
        _awaited = None

    def _configure(self, *first: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0.05, check_same_thread=False
        )
        try:
            for pragma in (*first, *_PRAGMAS):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        except BaseException:
            connection.close()
            raise
        connection.row_factory = sqlite3.Row
        return connection

    def close(self) -> None:
        """Close the connection; it opens again when next needed."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None
            self._identity = self._identity[:1]  # who closes last takes the log away; the next to open makes another

    def moved(self) -> bool:
        """True if a path no longer leads to the file that is open: the database, or its log or the log's index, was renamed,
        deleted or replaced. SQLite writes on into a file that nobody else sees, and others begin another beside it."""
        return any(mine is not None and mine != now for mine, now in zip(self._identity, self._files(), strict=False))

    def _files(self) -> tuple[tuple[int, int] | None, ...]:
        """Which files stand at the paths of the database, its log and the log's index."""
        found: list[tuple[int, int] | None] = []
        for end in ("", "-wal", "-shm"):
            try:
                stat = os.stat(f"{self.path}{end}")
                found.append((stat.st_dev, stat.st_ino))
            except OSError:
                found.append(None)
        return tuple(found)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, look: Callable[[sqlite3.Connection], _T]) -> _T:
        """What `look` returns, which only reads and empties its cursors; it is called again while the file is somebody's alone.

        Raises:
            StoreBusy: it was so past the deadline.
        """
        with self._lock, mapped(self.path):
            return _patiently(lambda: look(self.connection()), self.path)

    def rows(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[sqlite3.Row]:
        """All rows of one SELECT. The cursor is emptied, so no read lock outlives the call."""
        try:
            return self.read(lambda connection: connection.execute(sql, parameters).fetchall())
        except _OF_A_VALUE as error:
            refused = _refused(error)
            if refused is None:
                raise
            raise refused from None

    def row(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Row | None:
        """The first row of one SELECT, None if there is none."""
        found = self.rows(sql, parameters)
        return found[0] if found else None

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside see one state of the database. Transaction effect: one read transaction."""
        with self._lock:
            if self._depth:
                yield
                return
            connection = self.connection()
            with mapped(self.path):
                connection.execute("BEGIN")
                try:
                    self._depth += 1
                    self._reading = True
                    self.rows("SELECT 1 FROM sqlite_master LIMIT 1")  # here the one state begins; nothing inside has to wait
                    yield
                finally:
                    self._depth -= 1
                    self._reading = False
                    connection.execute("COMMIT")

    def data_version(self) -> int:
        """A number that changes when anybody has committed, also another thread of this process; costs some microseconds."""
        # SQLite does not count the commits of the asking connection, and all threads of a process share one.
        return self.read(lambda connection: int(connection.execute("PRAGMA data_version").fetchall()[0][0]) << 32 | self._commits)

    # -- writing ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def write(self, durable: bool = True, deadline_s: float = BUSY_DEADLINE_S) -> Iterator[sqlite3.Connection]:
        """The one gate for writes. Transaction effect: one ``BEGIN IMMEDIATE`` … ``COMMIT``; nested calls join the outer one.

        Args:
            durable: the commit survives a power cut (``synchronous=FULL``), for what somebody is told. Claims and metrics
                pass False: they can be repeated, and the next durable commit makes them durable too.
            deadline_s: seconds to wait for other writers.

        Raises:
            StoreBusy: another process kept the lock past the deadline. An exception from COMMIT does not mean that nothing
                was stored: read the row by its token before deciding (`minipipe.store.tasks.finish` does).
        """
        with self._lock:
            connection = self.connection()
            if self._reading:
                raise RuntimeError("a write inside a snapshot would turn its read transaction into a writing one")
            if self._depth:
                yield connection
                return
            with mapped(self.path):
                # Inside a transaction SQLite refuses to change this, so it comes first; a switch costs 2.5 microseconds.
                wanted = "FULL" if durable and self.durable else "NORMAL"
                if wanted != self._synchronous:
                    connection.execute(f"PRAGMA synchronous={wanted}")
                    self._synchronous = wanted
                _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), self.path, deadline_s)
                self._depth += 1
                try:
                    yield connection
                    connection.execute("COMMIT")
                    self._commits += 1
                    self._unsynced = wanted == "NORMAL" and self.durable
                except _OF_A_VALUE as error:
                    self._rollback()
                    refused = _refused(error)
                    if refused is None:
                        raise
                    raise refused from None
                except BaseException:
                    self._rollback()
                    raise
                finally:
                    self._depth -= 1

    def sync(self) -> None:
        """Make this process's earlier commits durable, if the last one was not: called before somebody is told of them."""
        if self._unsynced:
            with self.write() as connection:  # a durable commit makes all before it durable too
                # The value has to differ: an update that changes no byte writes no page, and SQLite then syncs nothing.
                connection.execute(
                    "INSERT INTO meta VALUES ('synced_at', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    (repr(time.time()),),
                )

    def _rollback(self) -> None:
        connection = self._connection
        if connection is not None and connection.in_transaction:
            # After a failed write SQLite may have rolled back by itself, or be unable to; the connection is not kept.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def checkpoint(self, now: bool = False, empty: bool = False) -> bool:
        """Move the write-ahead log into the database once it is full; the caller holds ``maint.lock``.

        The log starts over at the front of its file, which keeps its size: a commit that overwrites syncs in a quarter of a
        millisecond, one that makes the file longer needs the file system's journal too and takes up to ten times that.

        Args:
            now: whether it is full or not.
            empty: give the log's room back to the file system as well; implies `now`. Waits two seconds for readers, and lets others
                wait.

        Returns:
            True if the log starts over; False if it is not full, or a reader needs what is still in it (try later).
        """
        few = self._log_size() < LOG_BYTES or self._commits - self._checkpointed < _COMMITS_PER_CHECKPOINT
        if few and not now and not empty:
            return False
        with self._lock, mapped(self.path):
            if not empty and not self._alone and self._is_held_back():
                return False
            connection = self.connection()
            # Wait for the writer's lock: without it SQLite falls back to a checkpoint that runs beside commits (see above).
            connection.execute("PRAGMA busy_timeout=2000")
            try:
                how = "TRUNCATE" if empty else "RESTART"
                busy = connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()[0]
            finally:
                connection.execute("PRAGMA busy_timeout=50")
            if not busy:
                self._checkpointed = self._commits
            return not busy

    def _is_held_back(self) -> bool:
        """True if a long read needs what is in the log: to start it over SQLite would wait for that with the writer's lock in hand.

        Moves what can be moved, beside no commit. Who has the writer's lock cannot checkpoint, so another connection does. Reads
        that began before the last commit are in the way; short ones end meanwhile. The longer the log, the longer they may take.
        """
        connection = self.connection()
        try:
            _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), self.path, 2.0)
        except errors.StoreBusy:
            return True
        try:
            end = time.monotonic() + min(_MOVE_S, 0.2 * _MOVE_S * self._log_size() / LOG_BYTES)
            with contextlib.closing(self._configure()) as other:
                while True:
                    _, pages, moved = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if pages == moved or time.monotonic() >= end:
                        return bool(pages != moved)
                    time.sleep(0.002)
        finally:
            self._rollback()

    def rewrite(self) -> None:
        """Write the whole database anew, without its free pages, and so that later ones can be given back in parts.

        The caller holds ``maint.lock`` and knows that nobody else is at work: others wait until it is done.

        Raises:
            DiskFull, StoreBusy: nothing was changed.
        """
        with self._lock, mapped(self.path):
            connection = self.connection()
            _patiently(lambda: connection.execute("PRAGMA auto_vacuum=INCREMENTAL"), self.path)
            _patiently(lambda: connection.execute("VACUUM"), self.path)
            self._commits += 1

    def copy_to(self, path: Path) -> None:
        """Write a copy of the database as it is now; others read and write meanwhile.

        Raises:
            DiskFull: no room there.
        """
        with self._lock, mapped(path):
            connection = self.connection()
            _patiently(lambda: connection.execute("VACUUM INTO ?", (str(path),)), self.path)
            os.chmod(path, 0o600)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
                copy.execute("PRAGMA journal_mode=WAL").fetchall()

    def reserve_log(self) -> None:
        """Give the log file its size before the first commits need it. Transaction effect: one that is rolled back.

        A transaction too large for the page cache spills into the log; the rollback leaves the file as long as it became. Where
        there is no room for it the log grows as it is needed, or does not.
        """
        if self._log_size() >= LOG_BYTES:
            return
        with self._lock, mapped(self.path):
            connection = self.connection()
            connection.execute("PRAGMA cache_size=16")
            _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), self.path)
            try:
                if self._log_size() < LOG_BYTES:  # of many workers that start at once, one writes it
                    connection.execute("INSERT INTO meta VALUES ('reserve', CAST(zeroblob(?) AS TEXT))", (LOG_BYTES,))
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                    raise
            finally:
                self._rollback()  # SQLite may have done it already
                connection.execute("PRAGMA cache_size=-2000")

    def _log_size(self) -> int:
        try:
            return os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return 0


def _patiently(action: Callable[[], _T], path: Path, deadline_s: float = BUSY_DEADLINE_S) -> _T:
    end, pause = time.monotonic() + deadline_s, 0.001
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if time.monotonic() >= end:
                raise errors.StoreBusy(
                    f"the store {path.parent} was locked for {deadline_s:.0f} s",
                    "another process holds its write lock",
                    "find it with: fuser " + str(path),
                ) from None
        # Jitter, so that waiting processes do not come back in step; short, so that signals are handled soon.
        time.sleep(pause * between(0.5, 1.5))
        pause = min(pause * 1.5, 0.05)


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Turn SQLite's and the operating system's errors into ours, with path and free bytes."""
    try:
        yield
    except sqlite3.Error as error:
        raise _store_error(error, path) or error from error
    except OSError as error:
        raise os_error(error, path) or error from error


def os_error(error: OSError, path: Path) -> errors.StoreError | None:
    """The store error for an `OSError`, None if it is none of ours."""
    name = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.DiskFull(f"no space left for {name}", _free(path), "make room on that device", path=str(path))
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return errors.StoreUnwritable(f"cannot write {name}", error.strerror or "", "check owner and mode", path=str(path))
    if error.errno == errno.ENOENT and str(name).startswith(str(path.parent)):
        return errors.StoreMoved(f"{name} is gone", "the store was moved or deleted while in use", path=str(path))
    return None


def _refused(error: Exception) -> errors.MinipipeError | None:
    """The words for an error of SQLite that whoever wrote can do something about, None for any other."""
    if isinstance(error, sqlite3.IntegrityError) and str(error).startswith("FOREIGN KEY"):
        return errors.NotFound("the task that this belongs to is gone", f"it was deleted meanwhile ({error})")
    return naming.refused(error)


def _store_error(error: sqlite3.Error, path: Path) -> errors.MinipipeError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    what = f"{error} ({getattr(error, 'sqlite_errorname', '')})"
    if code == sqlite3.SQLITE_FULL:
        return errors.DiskFull(f"no space left for {path}", _free(path), "make room on that device", path=str(path))
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return errors.StoreDamaged(f"the store {path} is damaged", what, "look at it with: minipipe doctor", path=str(path))
    if code == sqlite3.SQLITE_IOERR:
        return errors.StoreDamaged(
            f"reading or writing {path} failed", f"{what}; {_free(path)}", "check the disk", path=str(path)
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return errors.StoreUnwritable(f"cannot open {path} for writing", what, "check owner and mode", path=str(path))
    if code == sqlite3.SQLITE_BUSY:
        return errors.StoreBusy(f"the store {path.parent} is locked", what, "try again")
    if str(error) == ILLEGAL_MOVE:
        return errors.IllegalMove("a task cannot change to that status", "the life cycle does not know this move")
    return None


def _free(path: Path) -> str:
    try:
        found = os.statvfs(path.parent)
        return f"{found.f_bavail * found.f_frsize:,} bytes free on its device"
    except OSError:
        return "free space unknown"


# -- fork ---------------------------------------------------------------------------------------------------------------

_instances: weakref.WeakSet[Database] = weakref.WeakSet()
_held: list[Database] = []


def _before_fork() -> None:
    # Taking each lock makes sure that no other thread is inside a transaction; both sides reopen when they next need it.
    for database in list(_instances):
        database._lock.acquire()
        _held.append(database)
        database.close()


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()


def _after_fork_in_child() -> None:
    for database in _held:
        database._pid = os.getpid()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
