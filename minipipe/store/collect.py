"""Litter: what a kill, a removal or a lost attempt left, and how it goes while everybody else works on.

The database's write lock is the collector's lock. Folders are listed outside it; whether a name is still litter is asked again
inside it, for at most `BATCH` names at a time, and what publishes a file holds the same lock. No ages and no grace period: a file
in use is known by its row, its lock or its attempt. A kill between removing a file and the commit leaves a row that nobody refers
to and that has no file: litter again, for the next time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from minipipe import errors
from minipipe.chance import fresh_id
from minipipe.store import blobs, environments, locks, log_limit
from minipipe.store.attempts import next_token
from minipipe.store.home import DATABASE, MIRRORS, TREES, Store
from minipipe.store.retention import BATCH

_TOKEN = re.compile(r"([0-9a-f]{32})\.(\d+|d)\Z")
_LOG = re.compile(r"([0-9a-f]{32})\.\d+\.log\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_DRAFT = re.compile(rf"{re.escape(DATABASE)}\.[0-9a-f]{{16}}\.new(-wal|-shm|-journal)?\Z")
_CODE = re.compile(r"[0-9a-f]{32}(\.(git|ready|lock))?\Z")
_ROOMY_PAGES = 512  # so many free pages may stay for the next tasks

KINDS = ("blobs", "logs", "temporary files", "lock files", "environments", "work trees", "downloads", "folders of tasks", "rows")


@dataclass(slots=True)
class Freed:
    """What went, or would go: number of things and bytes, by kind (`KINDS`)."""

    number: dict[str, int]
    size: dict[str, int]

    @classmethod
    def nothing(cls) -> Freed:
        """All zero."""
        return cls(dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0))

    def add(self, kind: str, size: int, number: int = 1) -> None:
        """Count things of a kind."""
        self.number[kind] += number
        self.size[kind] += size

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.size.values())


T = TypeVar("T")
Tell = Callable[[str, int], None]


def litter(store: Store) -> Freed:
    """What `sweep` would remove now. Only reads."""
    found = Freed.nothing()
    row = store.database.rows("SELECT count(*) AS n, coalesce(sum(size), 0) AS size FROM blob WHERE refs = 0")[0]
    found.add("blobs", row["size"], row["n"])
    for kind, names, still in _folders(store):
        for batch in _batches(names):
            with store.database.snapshot():
                gone = still(batch)
            for path in gone:
                found.add(kind, _size(path))
    return found


def sweep(store: Store, tell: Tell = lambda what, done: None, limit_of_logs: int = 0) -> Freed:
    """Remove all litter.

    Args:
        store: the store; the caller holds ``maint.lock``.
        tell: called with what is being looked at and how many went so far.
        limit_of_logs: bytes of a log that nobody writes any more; longer ones lose their middle. 0 is no limit.

    Returns:
        what went.

    Transaction effect: one commit without sync per batch.
    """
    freed = Freed.nothing()
    _rows(store, freed)
    _unreferenced(store, freed, tell)
    for kind, names, still in _folders(store):
        for batch in _batches(names):
            with store.database.write(durable=False):
                for path in still(batch):
                    size = _size(path)
                    if _remove(path):
                        freed.add(kind, size)
            tell(kind, freed.number[kind])
            store.database.checkpoint()
    _long_logs(store, freed, limit_of_logs)
    return freed


def _long_logs(store: Store, freed: Freed, limit: int) -> None:
    """Trim what a worker that died could not."""
    rows = store.database.rows("SELECT uid FROM task WHERE status = 'in_progress'") if limit else []
    busy = {row["uid"] for row in rows}
    for path in _below(store.folder("logs")) if limit else ():
        before = _disk(path)
        match = _LOG.match(path.name)
        if match and match[1] not in busy and log_limit.trim(path, limit, store.folder("tmp") / f"{fresh_id()}.0"):
            freed.add("logs", max(0, before - _disk(path)), 0)


def _disk(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


# -- rows ---------------------------------------------------------------------------------------------------------------


def _rows(store: Store, freed: Freed) -> None:
    """Captured code and environments that no task names any more, and what is left of removed runs' counts."""
    unused = "SELECT 1 FROM task t WHERE t.{column} = {table}.{key}"
    for table, key, column in (("code", "key", "code_key"), ("environment", "digest", "environment")):
        condition = f"NOT EXISTS ({unused.format(column=column, table=table, key=key)})"
        names = [row[0] for row in store.database.rows(f"SELECT {key} FROM {table} WHERE {condition}")]
        for batch in _batches(names):
            with store.database.write(durable=False) as connection:
                for name in batch:
                    done = connection.execute(f"DELETE FROM {table} WHERE {key} = ? AND {condition}", (name,)).rowcount
                    freed.add("rows", 0, done)


def _unreferenced(store: Store, freed: Freed, tell: Tell) -> None:
    """Blobs that nothing refers to: the file first, which needs no room, then the row."""
    tries = itertools.count()
    while True:
        try:
            with store.database.write(durable=False) as connection:
                rows = connection.execute(
                    "SELECT id, digest, size, bytes IS NULL AS file FROM blob WHERE refs = 0 ORDER BY id LIMIT ?", (BATCH,)
                ).fetchall()
                for row in rows:
                    if row["file"]:
                        _remove(blobs.path_of(store, row["digest"]))
                connection.executemany("DELETE FROM blob WHERE id = ? AND refs = 0", [(row["id"],) for row in rows])
        except errors.DiskFull:
            if next(tries):  # the files are gone: if that was not enough, more of the same is not either
                raise
            continue
        if not rows:
            return
        freed.add("blobs", sum(row["size"] for row in rows), len(rows))
        tell("blobs", freed.number["blobs"])
        store.database.checkpoint()


# -- folders ------------------------------------------------------------------------------------------------------------

Still = Callable[[Sequence[Path]], list[Path]]


def _folders(store: Store) -> Iterator[tuple[str, Iterable[Path], Still]]:
    """(kind, names listed now, which of some are litter: asked under the lock)."""
    yield "blobs", _below(store.folder("blobs")), lambda paths: _no_blob(store, paths)
    yield "logs", _below(store.folder("logs")), lambda paths: _no_task(store, paths)
    yield "temporary files", _entries(store.folder("tmp")), lambda paths: _no_attempt(store, paths)
    yield "temporary files", _drafts(store), lambda paths: list(paths)
    yield "lock files", _entries(store.folder("workers")), lambda paths: _nobody_alive(store, paths)
    yield "environments", _entries(store.path / environments.FOLDER), lambda paths: _no_environment(store, paths)
    yield (
        "work trees",
        itertools.chain(_entries(store.path / TREES), _entries(store.path / MIRRORS)),
        lambda paths: _no_code(store, paths),
    )
    yield "downloads", _entries(store.path / "downloads"), _no_download
    yield "folders of tasks", _entries(store.path / "cache"), lambda paths: _no_owner(store, paths)


def _no_blob(store: Store, paths: Sequence[Path]) -> list[Path]:
    known = _known(store, "SELECT digest FROM blob WHERE bytes IS NULL AND digest IN ({})", [path.name for path in paths])
    return [path for path in paths if _DIGEST.match(path.name) and path.name not in known]


def _no_task(store: Store, paths: Sequence[Path]) -> list[Path]:
    uids = {path: match[1] for path in paths if (match := _LOG.match(path.name))}
    known = _known(store, "SELECT uid FROM task WHERE uid IN ({})", list(uids.values()))
    return [path for path, uid in uids.items() if uid not in known]


def _no_owner(store: Store, paths: Sequence[Path]) -> list[Path]:
    """What tasks that are gone have kept in their folders (`Task.cache_dir`): copies of data sets, say."""
    named = [path for path in paths if re.fullmatch(r"[0-9a-f]{32}", path.name)]
    known = _known(store, "SELECT uid FROM task WHERE uid IN ({})", [path.name for path in named])
    return [path for path in named if path.name not in known]


def _no_attempt(store: Store, paths: Sequence[Path]) -> list[Path]:
    """Files that nobody writes: their lock is free and their attempt is not in progress, nor about to be."""
    rows = store.database.rows("SELECT token FROM task WHERE status = 'in_progress' AND token IS NOT NULL")
    running = {row["token"] for row in rows}
    running |= {next_token(token) for token in running}
    found = []
    for path in paths:
        match = _TOKEN.match(path.name)
        if match and match[1] not in running and (match[2] == "d" or _is_free(path)):
            found.append(path)
    return found


def _is_free(path: Path) -> bool:
    try:
        return not locks.is_held(path)
    except OSError:  # a mode that forbids writing: published files lie elsewhere, so this one is nobody's
        return True


def _drafts(store: Store) -> Iterator[Path]:
    """Databases that a process which was killed had begun to make, before this one was there."""
    yield from (path for path in _entries(store.path) if _DRAFT.match(path.name))


def _nobody_alive(store: Store, paths: Sequence[Path]) -> list[Path]:
    """Lock files of workers that have ended. One that nobody has reaped yet stays: its tasks come first."""
    living = {row["uid"] for row in store.database.rows("SELECT uid FROM worker WHERE ended_at IS NULL")}
    return [path for path in paths if path.suffix == ".lock" and path.stem not in living and not locks.is_held(path)]


def _no_environment(store: Store, paths: Sequence[Path]) -> list[Path]:
    known = {row["digest"][:32] for row in store.database.rows("SELECT digest FROM environment")}
    return [
        path
        for path in paths
        if re.fullmatch(r"[0-9a-f]{32}", path.name) and path.name not in known and not locks.is_held(path.with_suffix(".lock"))
    ]


def _no_code(store: Store, paths: Sequence[Path]) -> list[Path]:
    """Work trees and mirrors of repositories that no task names; both come back when a task needs them."""
    found = store.database.rows(
        "SELECT DISTINCT json_extract(entry, '$.pinned.tree') AS tree, json_extract(entry, '$.pinned.mirror') AS mirror FROM task"
        " WHERE json_extract(entry, '$.pinned') IS NOT NULL"
    )
    known = {name for row in found for name in (row["tree"], row["mirror"])}
    return [
        path
        for path in paths
        if _CODE.match(path.name)
        and path.name.partition(".")[0] not in known
        and not locks.is_held(path.with_name(f"{path.name.partition('.')[0]}.lock"))
    ]


def _no_download(paths: Sequence[Path]) -> list[Path]:
    """Beginnings of downloads that nobody goes on with: without a finished file they serve nobody."""
    return [
        path
        for path in paths
        if re.fullmatch(r"[0-9a-f]{32}", path.name)
        and not (path / "kept.json").exists()
        and not locks.is_held(path.with_suffix(".lock"))
    ]


def _known(store: Store, sql: str, names: Sequence[str]) -> set[str]:
    marks = ",".join("?" * len(names))
    return {row[0] for row in store.database.rows(sql.format(marks), names)} if names else set()


def _entries(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            for entry in found:
                yield Path(entry.path)
    except FileNotFoundError:
        return


def _below(folder: Path) -> Iterator[Path]:
    for part in _entries(folder):
        if part.is_dir() and not part.is_symlink():
            yield from _entries(part)


def _batches(names: Iterable[T]) -> Iterator[list[T]]:
    source = iter(names)
    while batch := list(itertools.islice(source, BATCH)):
        yield batch


def _size(path: Path) -> int:
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(_size(one) for one in _entries(path))
        return path.lstat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> bool:
    if path.suffix == ".lock":
        held = locks.hold(path, wait=False)  # unlinking a lock that somebody holds would let a second one hold "the same"
        if held is not None:
            held.release(unlink=True)
        return held is not None
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return False
    return True


# -- room ---------------------------------------------------------------------------------------------------------------


def shrink(store: Store, alone: bool) -> int:
    """Give the database's free pages back to the file system.

    Args:
        store: the store; the caller holds ``maint.lock``.
        alone: no worker lives: the log may be emptied too, and a store of an older schema rewritten as a whole.

    Returns:
        bytes by which the files became smaller.

    Transaction effect: one commit without sync per batch of pages.
    """
    database = store.database
    before = _database_bytes(store)
    roomy = 0 if alone else _ROOMY_PAGES
    vacuum = int(database.rows("PRAGMA auto_vacuum")[0][0])
    free = int(database.rows("PRAGMA freelist_count")[0][0])
    if vacuum == 2:
        while free > roomy:
            with database.write(durable=False) as connection:
                connection.execute(f"PRAGMA incremental_vacuum({BATCH * 4})").fetchall()
            left = int(database.rows("PRAGMA freelist_count")[0][0])
            database.checkpoint()
            if left >= free:
                break
            free = left
    elif alone and free > _ROOMY_PAGES:
        with contextlib.suppress(errors.DiskFull, errors.StoreBusy):  # it stays as large as it was
            database.rewrite()
    database.checkpoint(empty=alone)
    return max(0, before - _database_bytes(store))


def _database_bytes(store: Store) -> int:
    return sum(_size(Path(f"{store.database.path}{end}")) for end in ("", "-wal"))
