"""What takes how much room, by kind and by run. Only reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minipipe.store import retention
from minipipe.store.home import DATABASE, Store

# folder -> what it holds, in the order of `du`; what stands nowhere here is "other"
FOLDERS = {
    "blobs": "values over 16 KiB",
    "logs": "what steps printed",
    "downloads": "what URLs brought",
    "cache": "what tasks keep, copies of data sets",
    "files": "what was uploaded",
    "envs": "environments of steps",
    "repos": "mirrors of repositories",
    "trees": "code of repositories",
    "tmp": "what is being written",
    "workers": "locks",
}


@dataclass(frozen=True, slots=True)
class Use:
    """Room that a kind of thing takes.

    Attributes:
        kind: "database", a folder's name, "ballast", "backups" or "other".
        files: how many.
        size: bytes on the disk (holes do not count).
    """

    kind: str
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class RunUse:
    """Room that a run takes.

    Attributes:
        uid, name, status: of the run.
        tasks: it and all below it.
        blobs: bytes of all values that it names, inline ones included.
        own: those of them that nobody else names: what removing it alone would free.
        logs: bytes of its logs.
    """

    uid: str
    name: str
    status: str
    tasks: int
    blobs: int
    own: int
    logs: int


def by_kind(store: Store) -> list[Use]:
    """Disk use of the store by kind, largest first; nothing that takes no room."""
    found: dict[str, list[int]] = {}
    for entry in _scan(store.path):
        size, number = _weight(entry)
        kind = _kind(entry.name, entry.is_dir(follow_symlinks=False))
        pair = found.setdefault(kind, [0, 0])
        pair[0] += number
        pair[1] += size
    uses = [Use(kind, number, size) for kind, (number, size) in found.items() if number]
    return sorted(uses, key=lambda use: -use.size)


def _kind(name: str, folder: bool) -> str:
    if folder:
        return name if name in FOLDERS else "other"
    if name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
        return "database"
    if name.startswith(f"{DATABASE}.schema"):
        return "backups"
    return "ballast" if name == "ballast" else "other"


def _weight(entry: os.DirEntry[str]) -> tuple[int, int]:
    if not entry.is_dir(follow_symlinks=False):
        return _disk_bytes(Path(entry.path)), 1
    size = number = 0
    for below in _scan(entry.path):
        more, files = _weight(below)
        size, number = size + more, number + files
    return size, number


def _scan(path: str | Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _disk_bytes(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def by_run(store: Store, limit: int | None = None) -> Iterator[RunUse]:
    """Disk use of each run, newest first."""
    rows = store.database.rows(
        "SELECT id, uid, run_name, status FROM task WHERE run_name IS NOT NULL ORDER BY id DESC LIMIT ?",
        (-1 if limit is None else limit,),
    )
    for row in rows:
        tasks, blobs, own = retention.weight(store, row["id"])
        logs = sum(_disk_bytes(path) for path in retention.logs_of(store, row["id"]))
        yield RunUse(row["uid"], row["run_name"], row["status"], tasks, blobs, own, logs)
