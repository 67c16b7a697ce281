"""Code that somebody said is equal to what ran: it gets the same cache keys.

A function is known by its file and its name. What is accepted is the content of the files that the recorded code came from, as they are at
that moment; the first submission that finds them so binds its code to the old one, and only that code from then on. Nothing is
executed to find out.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from minipipe import errors, hashing, states
from minipipe.store import details
from minipipe.store.home import Store

_PREFIX = "accepted:"
Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One function's.

    Attributes:
        place: its file and its name.
        code: key of the code that it counts as.
        files: path -> digest of what was accepted.
        bound: key of the code that was found in them, "" before it was.
    """

    place: Place
    code: str
    files: dict[str, str]
    bound: str = ""

    def holds(self, key: str) -> bool:
        """True if code of this key counts as equal."""
        return key == self.bound if self.bound else self.files == _digests(self.files)


def accept(store: Store, task: sqlite3.Row) -> Acceptance:
    """Let the code of a step, as it stands in its files now, count as what the step ran. Transaction effect: one durable commit.

    Raises:
        UsageError: it is no completed step of a function.
        NotFound: a file of it is gone.
    """
    label = details.label_of(store, task)
    if task["code_key"] is None or task["status"] not in states.GOOD:
        raise errors.UsageError(
            f"{label} has no result to serve: it is {task['status']}"
            if task["code_key"]
            else f"{label} is no step of a function",
            "only code of a completed step can be counted as equal",
            f"minipipe show {label}",
        )
    row = store.database.row("SELECT name, parts FROM code WHERE key = ?", (task["code_key"],))
    assert row is not None
    parts = json.loads(row["parts"])
    paths = {part["file"] for part in parts if part.get("file")} | set(json.loads(task["entry"]).get("files", ()))
    missing = sorted(path for path in paths if not Path(path).is_file())
    if missing or not paths:
        cause = ", ".join(missing) or "it came from none"
        raise errors.NotFound(f"the code of {label} is in no file", cause, f"minipipe show {label} --code")
    place = (str(parts[0]["file"]), str(row["name"]))
    before = known(store).get(place)
    code = before.code if before is not None and task["code_key"] == before.bound else task["code_key"]
    found = Acceptance(place, code, _digests(dict.fromkeys(paths, "")))
    _keep(store, found)
    return found


def known(store: Store) -> dict[Place, Acceptance]:
    """All of a store."""
    rows = store.database.rows("SELECT value FROM meta WHERE key >= ? AND key < ?", (_PREFIX, _PREFIX[:-1] + ";"))
    found = (json.loads(row["value"]) for row in rows)
    return {tuple(one["place"]): Acceptance(tuple(one["place"]), one["code"], one["files"], one["bound"]) for one in found}


def bind(store: Store, one: Acceptance, key: str) -> Acceptance:
    """Only this code counts from now on. Transaction effect: one commit without sync (it can be found again)."""
    found = Acceptance(one.place, one.code, one.files, key)
    _keep(store, found, durable=False)
    return found


def _keep(store: Store, one: Acceptance, durable: bool = True) -> None:
    value = json.dumps({"place": one.place, "code": one.code, "files": one.files, "bound": one.bound})
    with store.database.write(durable=durable) as connection:
        connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (f"{_PREFIX}{one.place[0]}:{one.place[1]}", value),
        )


def _digests(files: dict[str, str]) -> dict[str, str]:
    found = {}
    for path in files:
        try:
            found[path] = hashing.digest_bytes(Path(path).read_bytes())
        except OSError:
            found[path] = "gone"
    return found
