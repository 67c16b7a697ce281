"""Is a store what it should be? Nine invariants, checked from outside.

Shares no code with minipipe: own SQL, own hashing, own look at the processes. Reads only, reports everything it finds, and takes
well under a second for 10,000 tasks. Every case that hurts a store ends with it.

    I1 database    I2 bytes     I3 nothing stuck    I4 one ending     I5 no leftovers
    I6 told        I7 counts    I8 modes, layout    I9 after gc
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import stat
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

APPLICATION_ID = 0x6D70_6970
SCHEMA = 2
INLINE_LIMIT_BYTES = 16 << 10
NO_TOKEN = "0" * 32
ENDED = {"completed", "failed", "stopped", "skipped", "published"}
GOOD = {"completed", "published"}

_HEX = "[0-9a-f]"
_LAYOUT = {
    "": r"minipipe\.db(-wal|-shm|-journal)?|\.gitignore|ballast|maint\.lock|blobs|tmp|logs|workers|downloads|files|envs|repos|trees"
    rf"|minipipe\.db\.{_HEX}{{16}}\.new(-wal|-shm|-journal)?|minipipe\.db\.schema\d+\.{_HEX}{{8}}",
    "blobs": rf"{_HEX}{{2}}",
    "tmp": rf"{_HEX}{{32}}\.(\d+|d)",
    "logs": rf"{_HEX}{{2}}",
    "repos": rf"{_HEX}{{32}}\.(git|lock)",
    "trees": rf"{_HEX}{{32}}(\.(ready|lock))?",
    "envs": rf"wheels|bridge|{_HEX}{{32}}(\.(lock|failed))?",
    "workers": rf"{_HEX}{{32}}\.lock",
}


def sane(
    path: str | os.PathLike[str],
    *,
    after_gc: bool = False,
    acknowledged: Mapping[str, str] | None = None,
    max_crashes: int = 3,
    only: Collection[str] = (),
) -> list[str]:
    """Everything that is wrong with a store, one line each; nothing wrong: an empty list.

    Reap once before: a task whose worker has just died is not wrong, it only was not given back yet.

    Args:
        path: the store's directory.
        after_gc: `minipipe gc` has just run and nothing since: there must be no litter (I9).
        acknowledged: task id -> status that somebody was told of (I6).
        max_crashes: the setting of the workers under test.
        only: names of the invariants to check; all if empty.
    """
    home = Path(path)
    uri = f"{(home / 'minipipe.db').absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")  # all invariants see one state
        store = _Store(home, connection, max_crashes, dict(acknowledged or {}))
        checks = [_CHECKS[name] for name in only] if only else [_CHECKS[name] for name in _CHECKS if name != "I9" or after_gc]
        return [violation for check in checks for violation in check(store)]


@dataclass
class _Store:
    path: Path
    connection: sqlite3.Connection
    max_crashes: int
    acknowledged: dict[str, str]
    _tasks: dict[int, sqlite3.Row] = field(default_factory=dict)
    _events: dict[int, list[sqlite3.Row]] = field(default_factory=dict)

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        return self.connection.execute(sql, values).fetchall()

    @property
    def tasks(self) -> dict[int, sqlite3.Row]:
        if not self._tasks:
            self._tasks = {row["id"]: row for row in self.rows("SELECT * FROM task")}
        return self._tasks

    @property
    def events(self) -> dict[int, list[sqlite3.Row]]:
        """Status changes of each task, oldest first."""
        if not self._events:
            self._events = defaultdict(list)
            for row in self.rows("SELECT id, task_id, old, new FROM event WHERE kind = 'status' ORDER BY id"):
                self._events[row["task_id"]].append(row)
        return self._events

    def era(self, task_id: int) -> list[sqlite3.Row]:
        """Changes since a person last sent the task off: since it was made, or left an ended status."""
        events = self.events.get(task_id, [])
        start = 0
        for place, event in enumerate(events):
            if event["old"] in ENDED and event["new"] not in ENDED:
                start = place
        return events[start:]

    def name(self, task_id: int) -> str:
        row = self.tasks[task_id]
        return f"task {row['id']} ({row['name']}, {row['status']})"


# -- the invariants -----------------------------------------------------------------------------------------------------


def _database(store: _Store) -> Iterator[str]:
    for row in store.rows("PRAGMA integrity_check"):
        if row[0] != "ok":
            yield f"I1 integrity: {row[0]}"
    for row in store.rows("PRAGMA foreign_key_check"):
        yield f"I1 foreign key: {tuple(row)}"
    for pragma, wanted in (("application_id", APPLICATION_ID), ("user_version", SCHEMA)):
        found = store.rows(f"PRAGMA {pragma}")[0][0]
        if found != wanted:
            yield f"I1 {pragma} is {found}, not {wanted}"


def _bytes(store: _Store) -> Iterator[str]:
    used: Counter[str] = Counter()
    for table in ("artifact", "plot", "model"):
        for row in store.rows(f"SELECT digest, count(*) FROM {table} WHERE digest IS NOT NULL GROUP BY digest"):
            used[row[0]] += row[1]
    blobs = {row["digest"]: row for row in store.rows("SELECT digest, size, refs, bytes FROM blob")}
    for digest in used.keys() - blobs.keys():
        yield f"I2 an artifact, plot or model names {digest[:8]}, which has no blob row"
    for digest, row in blobs.items():
        if row["refs"] != used[digest]:
            yield f"I2 blob {digest[:8]} counts {row['refs']} references, has {used[digest]}"
        if digest in used:
            yield from _wrong_bytes(store, digest, row)
    sql = (
        "SELECT t.id, s.id, s.status, s.cached_from FROM task t JOIN task s ON s.id = t.cached_from"
        " WHERE t.cached_from IS NOT NULL AND (s.cached_from IS NOT NULL OR s.status NOT IN ('completed', 'published'))"
    )
    for row in store.rows(sql):
        yield f"I2 task {row[0]} was served from task {row[1]}, which is {row[2]} (itself served from {row[3]})"


def _wrong_bytes(store: _Store, digest: str, row: sqlite3.Row) -> Iterator[str]:
    data = row["bytes"]
    if data is None:
        path = store.path / "blobs" / digest[:2] / digest
        try:
            data = path.read_bytes()
        except OSError as error:
            yield f"I2 blob {digest[:8]} is used and its file cannot be read: {error}"
            return
        if row["size"] <= INLINE_LIMIT_BYTES:
            yield f"I2 blob {digest[:8]} has {row['size']} bytes and should be inline"
    elif row["size"] > INLINE_LIMIT_BYTES:
        yield f"I2 blob {digest[:8]} has {row['size']} bytes and should be a file"
    if len(data) != row["size"]:
        yield f"I2 blob {digest[:8]} has {len(data)} bytes, its row says {row['size']}"
    if blake3(data).hexdigest() != digest:
        yield f"I2 blob {digest[:8]} does not have its digest"


def _nothing_stuck(store: _Store) -> Iterator[str]:
    tasks, workers = store.tasks, {row["id"]: row for row in store.rows("SELECT id, uid, ended_at FROM worker")}
    held: dict[int, bool] = {}
    parents: dict[int, list[int]] = defaultdict(list)
    for row in store.rows("SELECT child_id, parent_id FROM edge WHERE kind IN ('data', 'order')"):
        parents[row[0]].append(row[1])
    for task in tasks.values():
        name = store.name(task["id"])
        if task["status"] == "in_progress":
            worker = workers[task["worker_id"]]
            if worker["id"] not in held:
                held[worker["id"]] = _is_held(store.path / "workers" / f"{worker['uid']}.lock")
            if worker["ended_at"] is not None or not held[worker["id"]]:
                yield f"I3 {name} is held by worker {worker['id']}, which is dead"
        elif task["status"] == "queued" and task["queue"] is None:
            yield f"I3 {name} is in no queue"
        if task["status"] not in ("pending", "created"):
            continue
        open_ = [p for p in parents[task["id"]] if tasks[p]["status"] not in GOOD or tasks[p]["gate"]]
        if task["waiting_on"] != len(open_):
            yield f"I3 {name} waits for {task['waiting_on']} parents, {len(open_)} are open"
        if task["status"] == "pending" and not open_ and not task["hold"]:
            yield f"I3 {name} waits for nobody and is not queued"
        bad = [p for p in open_ if tasks[p]["status"] in ENDED and not tasks[p]["gate"]]
        if task["status"] == "pending" and bad:
            yield f"I3 {name} needs {store.name(bad[0])} and is not skipped"


def _one_ending(store: _Store) -> Iterator[str]:
    legal = {tuple(row) for row in store.rows("SELECT old, new FROM transition")}
    tally: Counter[tuple[int, str]] = Counter()
    for task in store.tasks.values():
        name, events = store.name(task["id"]), store.events.get(task["id"], [])
        if not task["superseded"]:
            tally[task["parent_id"] or 0, task["status"]] += 1
        last = None
        for event in events:
            if event["old"] != last:
                yield f"I4 {name}: event {event['id']} comes from {event['old']}, the one before led to {last}"
            elif last is not None and (last, event["new"]) not in legal:
                yield f"I4 {name}: {last} to {event['new']} is no legal move"
            if event["new"] == "published" and event["old"] not in ENDED:
                yield f"I4 {name} was published before it had ended"
            last = event["new"]
        if last != task["status"]:
            yield f"I4 {name}: its events end in {last}"
        endings = [event["new"] for event in store.era(task["id"]) if event["new"] in ENDED - {"published"}]
        if len(endings) != (task["status"] in ENDED):
            yield f"I4 {name} has the endings {endings}"
    kept = {(row["scope"], row["status"]): row["n"] for row in store.rows("SELECT * FROM tally WHERE n <> 0")}
    for key in kept.keys() | tally.keys():
        if kept.get(key, 0) != tally[key]:
            yield f"I4 tally of {key[1]} in scope {key[0]} is {kept.get(key, 0)}, counted {tally[key]}"


def _no_leftovers(store: _Store) -> Iterator[str]:
    live = {}
    for row in store.rows("SELECT uid, pid, ended_at FROM worker"):
        if row["ended_at"] is None and _is_held(store.path / "workers" / f"{row['uid']}.lock"):
            live[row["uid"]] = row["pid"]
    for path in sorted((store.path / "workers").glob("*.lock")):
        if path.stem not in live and _is_held(path):
            yield f"I5 the lock {path.name} is held and belongs to no living worker"
    store_id = store.rows("SELECT value FROM meta WHERE key = 'store_id'")[0][0]
    tokens = {row[0] for row in store.rows("SELECT token FROM task WHERE status = 'in_progress'")}
    for pid, parents, environment in _processes(f"MINIPIPE_STORE_ID={store_id}"):
        token = environment.get("MINIPIPE_ATTEMPT", NO_TOKEN)
        if token in tokens or (token == NO_TOKEN and parents & set(live.values())):
            continue
        yield f"I5 process {pid} of attempt {token[:8]} is left over: {environment.get('', '')}"


def _told(store: _Store) -> Iterator[str]:
    ids = {task["uid"]: task["id"] for task in store.tasks.values()}
    for uid, status in store.acknowledged.items():
        if uid not in ids:
            yield f"I6 task {uid[:8]} was acknowledged as {status} and is not there"
        elif status not in {event["new"] for event in store.events.get(ids[uid], [])}:
            yield f"I6 {store.name(ids[uid])} was acknowledged as {status} and never was"


def _counts(store: _Store) -> Iterator[str]:
    for task in store.tasks.values():
        name, era = store.name(task["id"]), store.era(task["id"])
        claims = sum(event["new"] == "in_progress" for event in store.events.get(task["id"], []))
        if task["attempt"] != claims:
            yield f"I7 {name} counts {task['attempt']} attempts, was claimed {claims} times"
        if not task["ask_retry"] and task["retries"] > task["max_retries"]:
            yield f"I7 {name} was retried {task['retries']} times of {task['max_retries']}"
        if task["crashes"] > store.max_crashes:
            yield f"I7 {name} crashed {task['crashes']} times of {store.max_crashes}"
        tries = sum(event["new"] == "in_progress" for event in era)
        endings = [event["old"] for event in era if event["new"] in ENDED - {"published"}]
        if task["status"] not in ENDED or not tries or not endings:
            continue
        # A last try that crashed is among the crashes, and one that was called back while it waited for its next is counted
        # already; every other ending has one try that is counted nowhere else.
        allowed = {"queued": {0}, "pending": {0, 1}}.get(endings[-1], {0, 1} if task["crashes"] else {1})
        if tries - task["retries"] - task["crashes"] - task["returns"] not in allowed:
            counted = ", ".join(f"{task[column]} {column}" for column in ("retries", "crashes", "returns"))
            yield f"I7 {name} was tried {tries} times: {counted}"


def _modes(store: _Store) -> Iterator[str]:
    if store.path.stat().st_mode & 0o022:
        yield f"I8 others may write into {store.path}"
    for path in _tree(store.path):
        relative = path.relative_to(store.path)
        info, where = path.lstat(), relative.parts[0] if len(relative.parts) > 1 else ""
        if len(relative.parts) > 2 and relative.parts[0] == "tmp":
            continue  # inside an attempt's scratch folder: copies of users' files
        if len(relative.parts) > 1 and relative.parts[0] in ("downloads", "files"):
            continue  # what URLs brought and what users uploaded, under names of their own
        if len(relative.parts) > 2 and relative.parts[0] in ("envs", "repos", "trees"):
            continue  # inside an environment, the wheels that are kept, or code of a repository
        wanted = _LAYOUT.get(where)
        if len(relative.parts) == 3:
            prefix = re.escape(relative.parts[1])
            wanted = {"blobs": rf"{prefix}{_HEX}{{62}}", "logs": rf"{prefix}{_HEX}{{30}}\.\d+\.log"}.get(where)
        if wanted is None or len(relative.parts) > 3 or not re.fullmatch(wanted, path.name):
            yield f"I8 {relative} is not known to the layout"
        elif stat.S_ISDIR(info.st_mode):
            if stat.S_IMODE(info.st_mode) != 0o700:
                yield f"I8 folder {relative} has mode {stat.S_IMODE(info.st_mode):o}"
        elif not stat.S_ISREG(info.st_mode):
            yield f"I8 {relative} is no regular file"
        else:
            allowed = {"blobs": {0o444}, "tmp": {0o600, 0o444}}.get(where, {0o600})
            if stat.S_IMODE(info.st_mode) not in allowed:
                yield f"I8 file {relative} has mode {stat.S_IMODE(info.st_mode):o}"


def _no_litter(store: _Store) -> Iterator[str]:
    for path in (store.path / "tmp").iterdir():
        yield f"I9 tmp/{path.name} is left"
    for path in store.path.glob("minipipe.db.*.new*"):
        yield f"I9 {path.name} is left"
    rows = {row["digest"]: row for row in store.rows("SELECT digest, refs, bytes IS NULL AS file FROM blob")}
    files = {path.name for path in (store.path / "blobs").glob("*/*")}
    for digest in files ^ {digest for digest, row in rows.items() if row["file"]}:
        yield f"I9 blob {digest[:8]} has a {'file and no row' if digest in files else 'row and no file'}"
    for digest, row in rows.items():
        if not row["refs"]:
            yield f"I9 blob {digest[:8]} is referred to by nothing"
    living = {row[0] for row in store.rows("SELECT uid FROM worker WHERE ended_at IS NULL")}
    for path in (store.path / "workers").iterdir():
        if path.stem not in living or not _is_held(path):
            yield f"I9 workers/{path.name} belongs to no living worker"
    known = {task["uid"] for task in store.tasks.values()}
    for path in (store.path / "logs").glob("*/*"):
        if path.name.partition(".")[0] not in known:
            yield f"I9 log {path.name} belongs to no task"


_CHECKS: dict[str, Callable[[_Store], Iterator[str]]] = {
    "I1": _database,
    "I2": _bytes,
    "I3": _nothing_stuck,
    "I4": _one_ending,
    "I5": _no_leftovers,
    "I6": _told,
    "I7": _counts,
    "I8": _modes,
    "I9": _no_litter,
}


# -- looking at the world -----------------------------------------------------------------------------------------------


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _tree(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        for name in sorted(folders + files):
            yield Path(root) / name


def _processes(mark: str) -> Iterator[tuple[int, set[int], dict[str, str]]]:
    """(process, its ancestors and itself, its environment) of all living processes that were started with `mark`."""
    proc = Path("/proc")
    parents: dict[int, int] = {}
    marked: dict[int, dict[str, str]] = {}
    for entry in proc.iterdir() if proc.is_dir() else ():
        with contextlib.suppress(OSError, ValueError):
            pid, facts = int(entry.name), (entry / "stat").read_bytes()
            fields = facts[facts.rindex(b")") + 2 :].split()
            parents[pid] = int(fields[1])
            variables = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            if mark in variables and fields[0] != b"Z":
                command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                marked[pid] = {"": command, **dict(item.split("=", 1) for item in variables if "=" in item)}
    for pid, environment in marked.items():
        above, current = {pid}, pid
        while current in parents and parents[current] not in above:
            current = parents[current]
            above.add(current)
        yield pid, above, environment


if __name__ == "__main__":
    found = sane(sys.argv[1], after_gc="--after-gc" in sys.argv)
    print("\n".join(found) or "sane")
    sys.exit(bool(found))
