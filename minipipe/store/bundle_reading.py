"""A file that ``export`` wrote is read through and found whole, before any store is touched.

Nothing in the file is believed: the list of members, every size and digest, every row. No member's name becomes a path: files are
named by digests and ids that were checked. Loading a foreign pickle runs foreign code, so a file with pickles is refused unless it is
trusted.
"""

from __future__ import annotations

import json
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from minipipe import errors, states
from minipipe.store import bundle, bundle_rows, schema
from minipipe.store.database import mapped

_MANIFEST_BYTES = 64 << 20
_ROW_BYTES = 64 << 20
_ROWS_BYTES = 1 << 30
_MOST_BYTES = 1 << 50
_CHUNK = 1 << 20
_UID = re.compile(r"[0-9a-f]{32}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_MEMBER = re.compile(r"rows\.jsonl|blobs/[0-9a-f]{64}|logs/[0-9a-f]{32}\.[1-9][0-9]{0,8}\.log")
_LONGEST_NAME = 1 << 16


@dataclass(slots=True)
class Content:
    """A file that has been read through and found whole.

    Attributes:
        path: the file.
        manifest: what it says of itself.
        trusted: its values may run code, and its runs serve the cache.
        rows: by table.
    """

    path: Path
    manifest: dict[str, Any]
    trusted: bool
    rows: dict[str, list[bundle_rows.Row]] = field(default_factory=dict)

    @property
    def tasks(self) -> dict[str, bundle_rows.Row]:
        return {row["uid"]: row for row in self.rows["task"]}


def refuse(path: Path, cause: str, hint: str = "export it again") -> errors.BundleError:
    """The error for a file that is not taken."""
    return errors.BundleError(f"cannot import {path}", f"{cause}; nothing was stored", hint, path=str(path))


def read(path: Path, trust_pickle: bool = False, tell: Callable[[str, int], None] = lambda what, done: None) -> Content:
    """Read a file through, every byte, and find it whole; touches no store.

    Args:
        path: the file.
        trust_pickle: accept values that run code when they are loaded, and let the runs serve the cache.
        tell: called with what is being read and how many so far.

    Raises:
        NotFound: no such file.
        BundleError: it is no such file, cut, altered, from a newer minipipe, or has pickles and is not trusted.
    """
    try:
        with mapped(path), zipfile.ZipFile(path) as archive:
            manifest = _manifest(path, archive)
            _check_members(path, archive, manifest)
            content = Content(path, manifest, trust_pickle, _rows(path, archive, manifest))
            _check_rows(path, content)
            if not trust_pickle:
                _refuse_pickles(path, content)
            for number, name in enumerate(manifest["members"]):
                _check_digest(path, archive, name, manifest["members"][name])
                tell("members", number + 1)
    except FileNotFoundError:
        raise errors.NotFound(f"no file {path}") from None
    except errors.StoreMoved:
        raise errors.NotFound(f"no file {path}") from None
    except IsADirectoryError:
        raise refuse(path, "it is a folder", "name the file that export wrote") from None
    except RecursionError:
        raise refuse(path, "it was altered (nested without end)") from None
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
        raise refuse(path, f"it is no bundle, or was cut or altered ({error})") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise refuse(path, f"it was altered ({type(error).__name__}: {error})") from None
    return content


def _manifest(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    if bundle.MANIFEST not in archive.namelist():
        raise refuse(path, "it is a zip file and no minipipe bundle", "minipipe export RUN writes one")
    manifest = json.loads(_bytes(path, archive, bundle.MANIFEST, _MANIFEST_BYTES))
    if manifest["format"] > bundle.FORMAT or manifest["schema"] > schema.VERSION:
        raise refuse(
            path,
            f"it has format {manifest['format']}, schema {manifest['schema']}; this minipipe reads up to {bundle.FORMAT},"
            f" {schema.VERSION}; it was written by {manifest.get('minipipe')}",
            "pip install -U minipipe-runner",
        )
    if manifest["seal"] != bundle.seal(manifest):
        raise refuse(path, "its list of contents was altered")
    return dict(manifest)


def _check_members(path: Path, archive: zipfile.ZipFile, manifest: dict[str, Any]) -> None:
    found = [info.filename for info in archive.infolist()]
    if sorted(found) != sorted([*manifest["members"], bundle.MANIFEST]):
        raise refuse(path, "its members are not those that it lists")
    total = 0
    for info in archive.infolist():
        if info.filename == bundle.MANIFEST:
            continue
        size, digest = manifest["members"][info.filename]
        if not _MEMBER.fullmatch(info.filename) or not _DIGEST.match(digest) or info.file_size != size or size < 0:
            raise refuse(path, f"its member {info.filename[:100]!r} is none that a bundle has")
        total += size
    if total > _MOST_BYTES:
        raise refuse(path, f"it claims to hold {total} bytes")


def _bytes(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    with archive.open(name) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise refuse(path, f"its member {name} is larger than any real one")
    return data


def pieces(archive: zipfile.ZipFile, name: str, size: int) -> Iterator[bytes]:
    """The bytes of a member, at most as many as it says it has (what is packed small may unpack without end)."""
    with archive.open(name) as file:
        while size >= 0 and (data := file.read(min(_CHUNK, size + 1))):
            size -= len(data)
            yield data


def _check_digest(path: Path, archive: zipfile.ZipFile, name: str, told: list[Any]) -> None:
    size, digest = told
    found, number = blake3(), 0
    for data in pieces(archive, name, size):
        found.update(data)
        number += len(data)
    if number != size or found.hexdigest() != digest or (name.startswith("blobs/") and name[6:] != digest):
        raise refuse(path, f"its member {name} does not have its digest")


def _rows(path: Path, archive: zipfile.ZipFile, manifest: dict[str, Any]) -> dict[str, list[bundle_rows.Row]]:
    found: dict[str, list[bundle_rows.Row]] = {table: [] for table in bundle_rows.TABLES}
    with archive.open(bundle.ROWS) as file:
        left = manifest["members"][bundle.ROWS][0]
        if left > _ROWS_BYTES:
            raise refuse(path, f"it claims to have {left} bytes of rows")
        while line := file.readline(_ROW_BYTES):
            left -= len(line)
            if left < 0 or not line.endswith(b"\n"):
                raise refuse(path, "a row of it has no end")
            table, row = json.loads(line)
            if any(isinstance(value, (dict, list)) for value in row.values()):
                raise ValueError(f"a {table} with a value of no type that a table has")
            found[table].append(row)
    return found


# -- checking -----------------------------------------------------------------------------------------------------------


def _check_rows(path: Path, content: Content) -> None:
    """What the schema does not enforce: legal ids, a life that leads to the status, references that lead somewhere."""
    tasks, members = content.tasks, content.manifest["members"]
    models = {row["uid"] for row in content.rows["model"]}
    if not tasks or len(tasks) != len(content.rows["task"]):
        raise ValueError("ids of its tasks")
    for row in tasks.values():
        if not _UID.match(row["uid"]) or (row["status"] not in states.ENDED and row["status"] != states.CREATED):
            raise ValueError(f"task {row['uid'][:32]!r} is {row['status']!r}")
        if len(row["name"]) > _LONGEST_NAME or not isinstance(json.loads(row["entry"]), dict):
            raise ValueError(f"task {row['uid']} has no entry")
        for column in ("settings", "error"):
            if row[column] is not None and not isinstance(json.loads(row[column]), dict):
                raise ValueError(f"{column} of task {row['uid']}")
        if row["cached_from"] is not None and row["cached_from"] not in tasks:
            raise ValueError(f"task {row['uid']} was served from one that is not there")
    lives: dict[str, str | None] = dict.fromkeys(tasks)
    for event in content.rows["event"]:
        if event["kind"] == "status":
            if lives[event["task_id"]] != event["old"]:
                raise ValueError(f"history of task {event['task_id']}")
            lives[event["task_id"]] = event["new"]
    if any(status != tasks[uid]["status"] for uid, status in lives.items()):
        raise ValueError("a task's history does not lead to its status")
    for table in bundle_rows.TABLES:
        for row in content.rows[table]:
            digest = row.get("digest")
            if table != "environment" and digest is not None and f"blobs/{digest}" not in members:
                raise ValueError(f"a {table} names bytes that are not there")
    if any(not _UID.match(uid) for uid in models):
        raise ValueError("ids of its models")
    if any(name.startswith("logs/") and name[5:37] not in tasks for name in members):
        raise ValueError("a log without a task")


def _refuse_pickles(path: Path, content: Content) -> None:
    bad = [row for row in content.rows["artifact"] if row["digest"] is not None and not bundle.is_harmless(row["codec"])]
    if bad:
        tasks = content.tasks
        some = ", ".join(sorted({f"{tasks[row['task_id']]['name']}/{row['name']}"[:60] for row in bad})[:3])
        raise errors.BundleError(
            f"{path} holds {len(bad)} pickled {'value' if len(bad) == 1 else 'values'}",
            f"loading one ({some}) runs code of whoever wrote it; nothing was stored",
            f"if you trust where it comes from: minipipe import {shlex.quote(str(path))} --trust-pickle",
            path=str(path),
        )
