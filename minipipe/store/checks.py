"""Is the store sound? What `doctor` asks; everything here only reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minipipe import errors
from minipipe.store import blobs, details, locks
from minipipe.store.home import Store

_OWN_FOLDERS = ("blobs", "tmp", "logs", "workers")
_GUESTS = ("downloads", "files", "envs", "repos", "trees")  # what is in them has modes of its own
_SHOWN = 3
_PAGE = 256


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is not what was stored.

    Attributes:
        digest: which.
        what: what is wrong with it, in words.
        users: artifacts that it serves, as ``8b0e44d1/train/model``; at most three.
    """

    digest: str
    what: str
    users: tuple[str, ...]


def all_blobs(store: Store) -> Iterable[tuple[str, bytes | None]]:
    """(digest, inline bytes or None for a file) of every blob, a page at a time."""
    last = 0
    while rows := store.database.rows("SELECT id, digest, bytes FROM blob WHERE id > ? ORDER BY id LIMIT ?", (last, _PAGE)):
        for row in rows:
            yield row["digest"], row["bytes"]
        last = rows[-1]["id"]


def users_of_blob(store: Store, digest: str) -> list[str]:
    """Which artifacts a blob serves, as ``8b0e44d1/train/model``; at most three."""
    rows = store.database.rows("SELECT task_id, name FROM artifact WHERE digest = ? ORDER BY id LIMIT ?", (digest, _SHOWN))
    found = []
    for row in rows:
        task = details.task_by_id(store, row["task_id"])
        if task is not None:
            found.append(f"{details.label_of(store, task)}/{row['name']}")
    models = store.database.rows("SELECT uid, name FROM model WHERE digest = ? LIMIT ?", (digest, _SHOWN))
    found += [f"model {row['name']} ({row['uid'][:8]})" for row in models]
    return found[:_SHOWN]


def check_files(store: Store) -> Iterator[Damage]:
    """Blobs whose file is missing, has another size or can be written; none of them is read."""
    last = 0
    sql = "SELECT id, digest, size FROM blob WHERE bytes IS NULL AND refs > 0 AND id > ? ORDER BY id LIMIT ?"
    while rows := store.database.rows(sql, (last, _PAGE)):
        for row in rows:
            what = _file_trouble(blobs.path_of(store, row["digest"]), row["size"])
            if what:
                yield Damage(row["digest"], what, tuple(users_of_blob(store, row["digest"])))
        last = rows[-1]["id"]


def _file_trouble(path: Path, size: int) -> str:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is no regular file"
    if found.st_size != size:
        return f"{path} has {found.st_size} bytes, {size} were stored"
    return ""


def check_bytes(store: Store, seen: set[str]) -> Iterator[Damage | int]:
    """Read every blob: its size if it is right, else what is wrong. Those in `seen` are left out."""
    for digest, inline in all_blobs(store):
        if digest in seen:
            continue
        try:
            yield len(blobs.read(store, digest, inline))
        except errors.ArtifactError as error:
            yield Damage(digest, error.cause.partition(": ")[2], tuple(users_of_blob(store, digest)))


def check_database(store: Store, thorough: bool) -> list[str]:
    """What SQLite finds wrong with the database; empty if nothing. `thorough` also compares indexes and references."""
    pragma = "integrity_check" if thorough else "quick_check"
    found = [str(row[0]) for row in store.database.rows(f"PRAGMA {pragma}(10)") if row[0] != "ok"]
    if thorough:
        found += [f"foreign key of table {row[0]}, row {row[1]}" for row in store.database.rows("PRAGMA foreign_key_check")][:10]
    return found


REFERENCES = """
SELECT digest, count(*) AS n FROM (
    SELECT digest FROM artifact WHERE digest IS NOT NULL
    UNION ALL SELECT digest FROM plot WHERE digest IS NOT NULL
    UNION ALL SELECT digest FROM model WHERE digest IS NOT NULL)
 GROUP BY digest"""
TALLIES = """
SELECT coalesce(parent_id, 0) AS scope, status, count(*) AS n FROM task WHERE superseded = 0 GROUP BY 1, 2"""


def check_counts(store: Store) -> list[str]:
    """Counts that the triggers keep and that do not fit what they count."""
    with store.database.snapshot():
        refs = store.database.rows(
            f"SELECT count(*) AS n FROM blob b LEFT JOIN ({REFERENCES}) r ON r.digest = b.digest WHERE b.refs <> coalesce(r.n, 0)"
        )[0]["n"]
        tallies = store.database.rows(
            f"SELECT count(*) AS n FROM (SELECT scope, status, n FROM tally WHERE n <> 0 EXCEPT SELECT * FROM ({TALLIES}))"
        )[0]["n"]
        missing = store.database.rows(
            f"SELECT count(*) AS n FROM (SELECT * FROM ({TALLIES}) EXCEPT SELECT scope, status, n FROM tally)"
        )[0]["n"]
    found = [f"{refs} blobs count their references wrongly"] if refs else []
    return [*found, *([f"{max(tallies, missing)} counts of tasks by status are wrong"] if tallies or missing else [])]


# -- files --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Oddity:
    """A file or folder of the store that is not as it should be.

    Attributes:
        path: below the store's folder.
        what: in words.
        grave: others could write into it, or own it.
        mode: what it should have; 0 if a mode does not mend it.
    """

    path: Path
    what: str
    grave: bool
    mode: int


def missing_folders(store: Store) -> list[str]:
    """Names of the store's own folders that are not there."""
    return [name for name in _OWN_FOLDERS if not store.folder(name).is_dir()]


def check_modes(store: Store) -> Iterator[Oddity]:
    """Owners and modes: nobody else may write into the store, nor read what steps printed or stored."""
    allowed = {os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        allowed.add(int(os.environ["SUDO_UID"]))
    for path in (store.path, *_own_files(store)):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        relative = path.relative_to(store.path)
        mode = stat.S_IMODE(found.st_mode)
        wanted = 0o700 if stat.S_ISDIR(found.st_mode) else 0o444 if relative.parts[:1] == ("blobs",) else 0o600
        if found.st_uid not in allowed:
            yield Oddity(relative, f"belongs to uid {found.st_uid}", True, 0)
        elif stat.S_ISLNK(found.st_mode):
            yield Oddity(relative, f"is a link to {os.readlink(path)}", True, 0)
        elif mode & (stat.S_IWGRP | stat.S_IWOTH) or (wanted == 0o444 and mode & stat.S_IWUSR):
            yield Oddity(relative, f"can be written, mode {mode:04o}", bool(mode & (stat.S_IWGRP | stat.S_IWOTH)), wanted)
        elif wanted != 0o444 and relative.parts[:1] != ("tmp",) and mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Oddity(relative, f"can be read by others, mode {mode:04o}", False, wanted)
        elif not mode & stat.S_IRUSR:
            yield Oddity(relative, f"cannot be read, mode {mode:04o}", True, wanted)


def _own_files(store: Store) -> Iterator[Path]:
    for folder, folders, files in os.walk(store.path):
        if Path(folder) == store.path:
            folders[:] = [name for name in folders if name not in _GUESTS]
        elif Path(folder).parent == store.folder("tmp"):
            folders[:], files = [], []  # an attempt's copies of users' files
        for name in sorted([*folders, *files]):
            yield Path(folder) / name


def strange_locks(store: Store) -> list[str]:
    """Names of lock files that a process holds and no row of a living worker names."""
    living = {row["uid"] for row in store.database.rows("SELECT uid FROM worker WHERE ended_at IS NULL")}
    paths = sorted(store.folder("workers").glob("*.lock"))
    return [path.name for path in paths if path.stem not in living and locks.is_held(path)]
