"""Files of data sets: each is an artifact of the set's task, named by its path. Equal content is stored once, whatever the version."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import blake3

from minipipe import errors
from minipipe.chance import fresh_id
from minipipe.store import blobs, tasks
from minipipe.store.codec import Encoded
from minipipe.store.home import Store

_BATCH = 64  # files per transaction: each keeps a descriptor open until it is linked
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class File:
    """A file of a data set.

    Attributes:
        path: within the set, with ``/``.
        digest: BLAKE3 of its content.
        size: bytes.
        origin: id of the set whose version brought this content.
    """

    path: str
    digest: str
    size: int
    origin: str


def files(store: Store, task_id: int) -> dict[str, File]:
    """The files of a set by path."""
    rows = store.database.rows(
        "SELECT name, digest, size, metadata FROM artifact WHERE task_id = ? AND role = 'output' AND codec = 'file'"
        " AND json_extract(metadata, '$.dataset') IS NOT NULL ORDER BY name",
        (task_id,),
    )
    return {row["name"]: File(row["name"], row["digest"], row["size"], json.loads(row["metadata"])["dataset"]) for row in rows}


def inherit(store: Store, task_id: int, parent_id: int) -> None:
    """Take over the files of another set; those of the same path are replaced. No byte is copied.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        connection.execute(
            "DELETE FROM artifact WHERE task_id = ? AND role = 'output' AND name IN"
            " (SELECT name FROM artifact WHERE task_id = ? AND role = 'output')",
            (task_id, parent_id),
        )
        connection.execute(
            "INSERT INTO artifact (task_id, role, name, digest, codec, type, key, preview, size, metadata, created_at)"
            " SELECT ?, role, name, digest, codec, type, key, preview, size, metadata, created_at FROM artifact"
            " WHERE task_id = ? AND role = 'output' AND codec = 'file' AND json_extract(metadata, '$.dataset') IS NOT NULL",
            (task_id, parent_id),
        )


def put(store: Store, task_id: int, uid: str, given: Iterable[tuple[str, Path]]) -> tuple[list[str], list[str]]:
    """Add files to a set; content that the store has already is not written again.

    Args:
        store: where to.
        task_id: the set, not final.
        uid: its id.
        given: (path within the set, file).

    Returns:
        (new paths, paths whose content changed); what is as it was is in neither.

    Raises:
        IllegalMove: the set is final.

    Transaction effect: one durable commit per 64 files.
    """
    known = files(store, task_id)
    added: list[str] = []
    changed: list[str] = []
    work = iter(given)
    while batch := list(islice(work, _BATCH)):
        fresh = []
        for name, path in batch:
            digest = _digest(path)
            if name not in known or known[name].digest != digest:
                fresh.append((name, path, digest))
                (changed if name in known else added).append(name)
        if fresh:
            _link(store, task_id, uid, fresh)
    return added, changed


def _digest(path: Path) -> str:
    hasher = blake3.blake3()
    with open(path, "rb") as file:
        while data := file.read(_CHUNK_BYTES):
            hasher.update(data)
    return hasher.hexdigest()


def _link(store: Store, task_id: int, uid: str, fresh: Sequence[tuple[str, Path, str]]) -> None:
    has = _stored(store, [digest for _, _, digest in fresh])
    writers: list[blobs.Writer] = []
    try:
        staged = {}
        for name, path, digest in fresh:
            if digest not in has and digest not in staged:
                writers.append(blobs.Writer(store))
                _copy(path, writers[-1], digest, name)
                staged[digest] = writers[-1].finish()
        with store.database.write() as connection:
            _check(connection, task_id)
            for name, path, digest in fresh:
                size = staged[digest].size if digest in staged else has[digest]
                _insert(
                    store, connection, task_id, uid, name, path.name, staged.get(digest, blobs.Staged(digest, size, None, None))
                )
    except BaseException:
        for writer in writers:
            writer.close()
        raise
    for writer in writers:
        writer.close()


def _stored(store: Store, digests: Iterable[str]) -> dict[str, int]:
    """Those of the digests that the store has, whole, with their sizes."""
    rows = store.database.rows(
        "SELECT digest, size FROM blob WHERE refs > 0 AND digest IN (SELECT value FROM json_each(?))", (json.dumps([*digests]),)
    )
    return {row["digest"]: row["size"] for row in rows if blobs.looks_whole(store, [row["digest"]])}


def _copy(path: Path, writer: blobs.Writer, digest: str, name: str) -> None:
    hasher = blake3.blake3()
    with open(path, "rb") as file:
        while data := file.read(_CHUNK_BYTES):
            hasher.update(data)
            writer.write(data)
    if hasher.hexdigest() != digest:
        writer.discard()
        raise errors.UsageError(f"{path} changes while it is added", f"as {name!r}", "add it when nobody writes to it")


def _check(connection: sqlite3.Connection, task_id: int) -> None:
    row = connection.execute("SELECT uid, status FROM task WHERE id = ?", (task_id,)).fetchone()
    if row is None or row["status"] not in ("created", "in_progress"):
        status = "deleted" if row is None else row["status"]
        raise errors.IllegalMove(
            f"the data set is {status} and cannot change", hint="Dataset.create(parent_datasets=[…]) makes the next version"
        )


def _insert(
    store: Store, connection: sqlite3.Connection, task_id: int, uid: str, name: str, file: str, staged: blobs.Staged
) -> None:
    facts = {"name": file, "dataset": uid}
    encoded = Encoded(staged, "file", "custom", staged.digest, file, facts)
    if staged.path is not None or staged.inline is not None:
        tasks.put_artifact(store, connection, task_id, "output", name, encoded, time.time())
        return
    connection.execute("DELETE FROM artifact WHERE task_id = ? AND role = 'output' AND name = ?", (task_id, name))
    connection.execute(
        "INSERT INTO artifact (task_id, role, name, digest, codec, type, key, preview, size, metadata, created_at)"
        " VALUES (?, 'output', ?, ?, 'file', 'custom', ?, ?, ?, ?, ?)",
        (task_id, name, staged.digest, staged.digest, file, staged.size, json.dumps(facts), time.time()),
    )


def remove(store: Store, task_id: int, paths: Sequence[str]) -> None:
    """Take files out of a set.

    Raises:
        IllegalMove: the set is final.

    Transaction effect: one durable commit, none without paths.
    """
    if not paths:
        return
    with store.database.write() as connection:
        _check(connection, task_id)
        connection.execute(
            "DELETE FROM artifact WHERE task_id = ? AND role = 'output' AND name IN (SELECT value FROM json_each(?))",
            (task_id, json.dumps(list(paths))),
        )


def write_out(store: Store, wanted: Iterable[File], folder: Path, mode: int) -> int:
    """Write files of a set into a folder, verified. Returns their number.

    Args:
        store: where from.
        wanted: which.
        folder: made if need be; files that are there are replaced.
        mode: permissions of the files.

    Raises:
        ArtifactError: the stored bytes are missing or damaged; nothing of that file is left.
        UsageError: a path would lie outside the folder.
    """
    count = 0
    for one in wanted:
        target = folder / one.path
        if not target.resolve().is_relative_to(folder.resolve()):
            raise errors.UsageError(f"file {one.path!r} would lie outside {folder}")
        data = blobs.load(store, one.digest, f"file {one.path!r}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{fresh_id()[:8]}")
        with open(part, "xb") as file:
            file.write(data)
        part.chmod(mode)
        os.replace(part, target)
        count += 1
    return count


def sets(store: Store, tag: str) -> Iterator[sqlite3.Row]:
    """Rows of all tasks with a system tag, newest first, with the project's name as ``project``."""
    yield from store.database.rows(
        "SELECT t.*, p.name AS project FROM tag g JOIN task t ON t.id = g.task_id JOIN project p ON p.id = t.project_id"
        " WHERE g.name = ? AND g.system = 1 ORDER BY t.id DESC",
        (tag,),
    )
