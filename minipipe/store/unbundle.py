"""``import``: take in what `minipipe.store.bundle` wrote and `minipipe.store.bundle_reading` found whole, all or nothing.

What came without being trusted never serves the cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipipe import errors
from minipipe.chance import fresh_id
from minipipe.store import blobs, bundle_rows, names
from minipipe.store.bundle_reading import Content, pieces, refuse
from minipipe.store.database import mapped
from minipipe.store.home import Store
from minipipe.store.retention import BATCH
from minipipe.store.upkeep import alone


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a file.

    Attributes:
        uid, name: as they are in this store now.
        new: False if it was here already: nothing of it was changed.
    """

    uid: str
    name: str
    new: bool


def take_in(store: Store, content: Content, tell: Callable[[str, int], None] = lambda what, done: None) -> list[Run]:
    """Store the runs of a file that was found whole; those that are here already stay as they are.

    Args:
        store: where to.
        content: from `bundle_reading.read`.
        tell: called with what is being stored and how many so far.

    Raises:
        BundleError: the file was changed since it was read, or a task of it is here in another run. Nothing was stored.
        DiskFull: no room; blobs that were stored already are litter for the next gc.

    Transaction effect: one commit per batch of blobs, then one durable commit for all rows.
    """
    path = content.path
    runs = _runs(store, content)
    if any(run.new for run in runs):
        wanted = _new_tasks(store, content)
        _check_room(store, content)
        with alone(store), zipfile.ZipFile(path) as archive:  # blobs that no row names yet are litter to a collector
            _store_blobs(store, archive, content, wanted, tell)
            drafts = _stage_logs(store, archive, content, wanted)
            try:
                with store.database.write() as connection:
                    renamed = insert(connection, content, wanted)
                    runs = [Run(run.uid, renamed.get(run.uid, run.name), run.new) for run in runs]
                    for draft, target in drafts:
                        target.parent.mkdir(mode=0o700, exist_ok=True)
                        os.replace(draft, target)
            except (
                sqlite3.IntegrityError,
                sqlite3.ProgrammingError,
                errors.UsageError,
                errors.NotFound,
                OverflowError,
                KeyError,
            ) as error:
                raise refuse(path, f"it was altered ({type(error).__name__}: {error})") from None
            finally:
                for draft, _ in drafts:
                    draft.unlink(missing_ok=True)
    return runs


def _roots(content: Content) -> list[bundle_rows.Row]:
    tasks = content.tasks
    return [row for row in content.rows["task"] if row["parent_id"] is None or row["parent_id"] not in tasks]


def _runs(store: Store, content: Content) -> list[Run]:
    listed = {one["id"]: number for number, one in enumerate(content.manifest["runs"])}
    found = []
    for row in sorted(_roots(content), key=lambda row: listed.get(row["uid"], len(listed))):
        here = store.database.row("SELECT run_name, name FROM task WHERE uid = ?", (row["uid"],))
        name = (here["run_name"] or here["name"]) if here else (row["run_name"] or row["name"])
        found.append(Run(row["uid"], name, here is None))
    return found


def _new_tasks(store: Store, content: Content) -> set[str]:
    """Ids of the tasks to store: those of runs that are not here."""
    tasks = content.tasks
    root: dict[str, str] = {}
    for uid in tasks:
        above, seen = uid, set()
        while (parent := tasks[above]["parent_id"]) in tasks and above not in seen:
            seen.add(above)
            above = parent
        root[uid] = above
    here = {uid for uid in set(root.values()) if store.database.row("SELECT 1 FROM task WHERE uid = ?", (uid,))}
    wanted = {uid for uid in tasks if root[uid] not in here}
    for uid in sorted(wanted):
        if store.database.row("SELECT 1 FROM task WHERE uid = ?", (uid,)):
            raise refuse(content.path, f"task {uid[:8]} is here already, in another run", "remove it first, or use another store")
    return wanted


def _check_room(store: Store, content: Content) -> None:
    needed = sum(size for size, _ in content.manifest["members"].values())
    free = shutil.disk_usage(store.path).free
    if needed > free:
        raise errors.DiskFull(
            f"no space left for {content.path}",
            f"it holds {needed:,} bytes, {free:,} are free; nothing was stored",
            "make room on that device",
            path=str(store.path),
        )


def _store_blobs(
    store: Store, archive: zipfile.ZipFile, content: Content, wanted: set[str], tell: Callable[[str, int], None]
) -> None:
    """Bytes before rows, a few at a time; nothing refers to them yet."""
    members = content.manifest["members"]
    digests = {
        row["digest"]
        for table in ("artifact", "plot", "model")
        for row in content.rows[table]
        if row.get("digest") and (row.get("task_id") in wanted or table != "artifact")
    }
    todo = sorted(digest for digest in digests if not blobs.looks_whole(store, [digest]))
    for begin in range(0, len(todo), BATCH):
        writers = []
        try:
            staged = []
            for digest in todo[begin : begin + BATCH]:
                writer = blobs.Writer(store)
                writers.append(writer)
                for data in pieces(archive, f"blobs/{digest}", members[f"blobs/{digest}"][0]):
                    writer.write(data)
                staged.append(writer.finish())
                if staged[-1].digest != digest:
                    raise refuse(content.path, "it was changed while it was read")
            with store.database.write(durable=False) as connection:
                for one in staged:
                    blobs.publish(store, connection, one)
        except BaseException:
            for writer in writers:
                with contextlib.suppress(FileNotFoundError):
                    writer.discard()
            raise
        finally:
            for writer in writers:
                writer.close()
        tell("blobs", begin + len(writers))
        store.database.checkpoint()


def _stage_logs(store: Store, archive: zipfile.ZipFile, content: Content, wanted: set[str]) -> list[tuple[Path, Path]]:
    drafts: list[tuple[Path, Path]] = []
    try:
        for name, (size, _) in content.manifest["members"].items():
            if not name.startswith("logs/") or name[5:37] not in wanted:
                continue
            uid, attempt = name[5:-4].split(".")
            draft = store.folder("tmp") / f"{fresh_id()}.0"
            drafts.append((draft, store.log_path(uid, int(attempt))))
            with mapped(draft), open(draft, "xb", opener=_private) as file:
                for data in pieces(archive, name, size):
                    file.write(data)
    except BaseException:
        for draft, _ in drafts:
            draft.unlink(missing_ok=True)
        raise
    return drafts


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def insert(connection: sqlite3.Connection, content: Content, wanted: set[str]) -> dict[str, str]:
    """Enter the rows of tasks; their blobs are there. Returns the names of runs whose own was taken. Part of the caller's transaction."""
    inserter = _Inserter(connection, content)
    inserter.entities(wanted)
    renamed = inserter.tasks(wanted)
    inserter.owned(wanted, content.trusted)
    return renamed


class _Inserter:
    """Rows of a file on their way into the tables, references translated. Part of the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection, content: Content) -> None:
        self.connection = connection
        self.content = content
        self.shapes = {table: bundle_rows.Shape.of(connection, table) for table in bundle_rows.TABLES}
        self.known: dict[str, dict[str, int]] = {"task": {}, "model": {}, "project": {}}
        self.new_models: set[str] = set()

    def _columns(self, table: str, row: bundle_rows.Row) -> dict[str, Any]:
        """The row as this schema has it; what it does not know is dropped, what the row lacks gets its default."""
        shape = self.shapes[table]
        found = {column: row[column] for column in shape.columns if column in row}
        for column, target in shape.references.items():
            if found.get(column) is not None:
                found[column] = self._id(target, found[column])
        return found

    def _id(self, target: str, name: str) -> int | None:
        if target not in self.known:
            return None
        if name not in self.known[target]:
            key = "name" if target == "project" else "uid"
            row = self.connection.execute(f"SELECT id FROM {target} WHERE {key} = ?", (name,)).fetchone()
            if row is None:
                return None
            self.known[target][name] = row["id"]
        return self.known[target][name]

    def _put(self, table: str, values: dict[str, Any], ignore: bool = False) -> None:
        names_ = ", ".join(values)
        marks = ", ".join("?" * len(values))
        word = "OR IGNORE " if ignore else ""
        self.connection.execute(f"INSERT {word}INTO {table} ({names_}) VALUES ({marks})", tuple(values.values()))

    def entities(self, wanted: set[str]) -> None:
        """What tasks refer to by name."""
        tasks = [row for uid, row in self.content.tasks.items() if uid in wanted]
        for name in {row["project_id"] for row in (*tasks, *self.content.rows["model"])}:
            self.connection.execute("INSERT OR IGNORE INTO project (uid, name) VALUES (?, ?)", (fresh_id(), name))
        for name in {row["queue"] for row in tasks if row["queue"] is not None}:
            self.connection.execute("INSERT OR IGNORE INTO queue VALUES (?, ?, 0, 0)", (name, fresh_id()))
        for table, column, key in (("code", "code_key", "key"), ("environment", "environment", "digest")):
            used = {row.get(column) for row in tasks}
            for row in self.content.rows[table]:
                if row[key] in used:
                    self._put(table, self._columns(table, row), ignore=True)

    def tasks(self, wanted: set[str]) -> dict[str, str]:
        """Tasks, models; returns the names of runs whose own was taken."""
        renamed = {}
        later = {"parent_id", "template_id", "cached_from", "superseded"}
        rows = [row for uid, row in self.content.tasks.items() if uid in wanted]
        for row in rows:
            values = {column: value for column, value in self._columns("task", row).items() if column not in later}
            if values.get("run_name") is not None and self._taken(values["run_name"]):
                values["run_name"] = renamed[row["uid"]] = names.unused(self.connection)
            # The parent belongs in at once: the tallies count by it. It may come later in the file, so it is asked for by id.
            self._put("task", values)
            self._id("task", row["uid"])
        for row in rows:
            ids = {column: self._id("task", row[column]) for column in ("parent_id", "template_id", "cached_from") if row[column]}
            self._relate(row, ids)
        for row in self.content.rows["model"]:
            if self._id("model", row["uid"]) is None and (row["task_id"] in wanted or self._used(row["uid"], wanted)):
                self._put("model", self._columns("model", row))
                self.new_models.add(row["uid"])
        return renamed

    def _taken(self, name: str) -> bool:
        return bool(self.connection.execute("SELECT 1 FROM task WHERE run_name = ?", (name,)).fetchall())

    def _used(self, uid: str, wanted: set[str]) -> bool:
        return any(row["model_id"] == uid and row["task_id"] in wanted for row in self.content.rows["task_model"])

    def _relate(self, row: bundle_rows.Row, ids: dict[str, int | None]) -> None:
        """References to tasks, and what the triggers made of the row so far put right: counts and history are those of the file."""
        task_id = self.known["task"][row["uid"]]
        parent = ids.get("parent_id")
        if parent is not None:
            self.connection.execute("UPDATE tally SET n = n - 1 WHERE scope = 0 AND status = ?", (row["status"],))
            self.connection.execute(
                "INSERT INTO tally VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET n = n + 1", (parent, row["status"])
            )
        self.connection.execute(
            "UPDATE task SET parent_id = ?, template_id = ?, cached_from = ? WHERE id = ?",
            (parent, ids.get("template_id"), ids.get("cached_from"), task_id),
        )
        if row["template_id"] is not None and ids.get("template_id") is None:
            self.connection.execute("UPDATE task SET key_base = NULL WHERE id = ?", (task_id,))  # see `removal.erase`
        if row["superseded"]:
            self.connection.execute("UPDATE task SET superseded = 1 WHERE id = ?", (task_id,))
        self.connection.execute("DELETE FROM event WHERE task_id = ?", (task_id,))

    def owned(self, wanted: set[str], trusted: bool) -> None:
        """What belongs to the tasks and models that are new."""
        for table, owner in bundle_rows.OWNED.items():
            if table == "cache" and not trusted:
                continue
            for row in self.content.rows[table]:
                of_task = row[owner] in wanted
                of_model = row[owner] is None and row.get("model_id") in self.new_models
                if of_task or of_model:
                    self._put(table, self._columns(table, row), ignore=table == "cache")
        for row in self.content.rows["model_metric"]:
            if row["model_id"] in self.new_models:
                self._put("model_metric", self._columns("model_metric", row))
