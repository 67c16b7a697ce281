"""Is the store sound? What `doctor` asks; everything here only reads."""

from __future__ import annotations

from collections.abc import Iterable

from minipipe.store import details
from minipipe.store.home import Store


def blobs(store: Store) -> Iterable[tuple[str, bytes | None]]:
    """(digest, inline bytes or None for a file) of every blob, a page at a time."""
    last = 0
    while rows := store.database.rows("SELECT id, digest, bytes FROM blob WHERE id > ? ORDER BY id LIMIT 256", (last,)):
        for row in rows:
            yield row["digest"], row["bytes"]
        last = rows[-1]["id"]


def users_of_blob(store: Store, digest: str) -> list[str]:
    """Which artifacts a blob serves, as ``8b0e44d1/train/model``; at most three."""
    rows = store.database.rows("SELECT task_id, name FROM artifact WHERE digest = ? ORDER BY id LIMIT 3", (digest,))
    found = []
    for row in rows:
        task = details.task_by_id(store, row["task_id"])
        if task is not None:
            found.append(f"{details.label_of(store, task)}/{row['name']}")
    return found


def check_database(store: Store, thorough: bool) -> list[str]:
    """What SQLite finds wrong with the database; empty if nothing. `thorough` also compares indexes and references."""
    pragma = "integrity_check" if thorough else "quick_check"
    found = [str(row[0]) for row in store.database.rows(f"PRAGMA {pragma}(10)") if row[0] != "ok"]
    if thorough:
        found += [f"foreign key of table {row[0]}, row {row[1]}" for row in store.database.rows("PRAGMA foreign_key_check")][:10]
    return found
