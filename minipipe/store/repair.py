"""The safe part of repairing: what can be made right from facts that are there. Nothing of anybody's work is changed or removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from minipipe import errors
from minipipe.chance import fresh_id
from minipipe.store import blobs, checks, home, records
from minipipe.store.home import Store
from minipipe.store.upkeep import alone

_COPIED = ("files",)  # what users uploaded under names of their own
_CHUNK = 256


def mend(store: Store, damages: Iterable[checks.Damage]) -> list[str]:
    """Repair what can be repaired; returns what was done, in words.

    Args:
        store: the store.
        damages: blobs that are not what was stored: no cache entry may lead to them any more.

    Transaction effect: one commit for the counts, one for each damaged blob that served the cache.
    """
    done = []
    for name in checks.missing_folders(store):
        store.folder(name).mkdir(mode=0o700)
        done.append(f"made folder {name}")
    closed = 0
    for oddity in checks.check_modes(store):
        if oddity.mode:
            os.chmod(store.path / oddity.path, oddity.mode)
            closed += 1
    if closed:
        done.append(f"set {closed} {'mode' if closed == 1 else 'modes'}")
    if not home.has_ballast(store.path) and home.restore_ballast(store.path):
        done.append("took room for the reserve (4 MB)")
    if checks.check_counts(store):
        _recount(store)
        done.append("counted references and statuses anew")
    forgotten = sum(records.forget_damaged(store, damage.digest) for damage in damages)
    if forgotten:
        done.append(f"forgot {forgotten} cache {'entry' if forgotten == 1 else 'entries'} that led to damaged bytes")
    return done


def _recount(store: Store) -> None:
    with store.database.write() as connection:
        connection.execute(
            f"UPDATE blob SET refs = coalesce((SELECT r.n FROM ({checks.REFERENCES}) r WHERE r.digest = blob.digest), 0)"
        )
        connection.execute("DELETE FROM tally")
        connection.execute(f"INSERT INTO tally (scope, status, n) {checks.TALLIES}")


# -- backup -------------------------------------------------------------------------------------------------------------


def back_up(store: Store, target: Path, tell: Callable[[str, int], None]) -> int:
    """Copy the store into a new folder while others work on it; the copy is a store of its own.

    The database first, as one state; then every blob that it names, none of which a collector can take meanwhile. What is committed
    before this begins is in it. Logs are copied as far as they are written. Downloads and environments are made again on demand.

    Args:
        store: the store.
        target: a folder that does not exist.
        tell: called with what is being copied and how many so far.

    Returns:
        how many blobs are files in it.

    Raises:
        UsageError: the folder exists.
        ArtifactError: a blob is damaged; the copy is removed.
        DiskFull: no room there; the copy is removed.
    """
    target = target.absolute()
    if target.exists():
        raise errors.UsageError(f"{target} exists", "a backup is a new folder", f"minipipe doctor --backup {target}-2")
    with alone(store):
        try:
            target.mkdir(mode=0o700, parents=True)
            for name in ("blobs", "tmp", "logs", "workers"):
                (target / name).mkdir(mode=0o700)
            copy = Store(target, "full")
            store.database.copy_to(copy.database.path)
            number = _copy_blobs(store, copy, tell)
            _copy_tree(store.path / "logs", target / "logs")
            for name in _COPIED:
                if (store.path / name).is_dir():
                    _copy_tree(store.path / name, target / name)
            copy.close()
            home.restore_ballast(target)
            _sync(target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    return number


def _copy_blobs(store: Store, copy: Store, tell: Callable[[str, int], None]) -> int:
    number = 0
    rows = copy.database.rows("SELECT digest FROM blob WHERE bytes IS NULL AND refs > 0")
    for row in rows:
        data = blobs.read(store, row["digest"], what=", ".join(checks.users_of_blob(store, row["digest"])))
        target = blobs.path_of(copy, row["digest"])
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with open(target, "xb", opener=_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(target, 0o444)
        number += 1
        tell("blobs", number)
        if number % _CHUNK == 0:
            store.database.checkpoint()
    with copy.database.write() as connection:
        # It is another store from now on: whoever settles its unfinished attempts must not look for their processes here.
        connection.execute("UPDATE meta SET value = ? WHERE key = 'store_id'", (fresh_id(),))
        connection.execute("UPDATE task SET token = NULL WHERE status = 'in_progress'")
        for row in rows:  # copies have times of their own; a cache lookup compares them
            mtime = os.stat(blobs.path_of(copy, row["digest"])).st_mtime_ns
            connection.execute("UPDATE blob SET mtime_ns = ? WHERE digest = ?", (mtime, row["digest"]))
    return number


def _copy_tree(source: Path, target: Path) -> None:
    for folder, folders, files in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(mode=0o700, exist_ok=True)
        folders.sort()
        for name in files:
            try:
                with open(Path(folder) / name, "rb") as old, open(here / name, "xb", opener=_private) as new:
                    shutil.copyfileobj(old, new, 1 << 20)
            except FileNotFoundError:
                continue  # replaced meanwhile by a shorter one


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
