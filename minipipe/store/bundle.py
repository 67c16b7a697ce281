"""``export``: runs as one file that another store, on another machine, can take in.

A zip archive: ``minipipe.json`` (what it is, and the BLAKE3 digest of everything in it), ``rows.jsonl``, ``blobs/DIGEST``,
``logs/ID.N.log``. It appears under its name in one step, whole, and holds nothing of the store that it comes from but the runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from blake3 import blake3

from minipipe import errors
from minipipe.chance import fresh_id
from minipipe.store import blobs, bundle_rows, codec, schema
from minipipe.store.database import mapped
from minipipe.store.home import Store

FORMAT = 1
MANIFEST, ROWS = "minipipe.json", "rows.jsonl"
_CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
# Decoding what carries one of these names runs no code that the bytes bring along; every other codec counts as a pickle.
HARMLESS = frozenset(
    "json bytes npy file folder scalar none url npz loadtxt csv parquet feather yaml png jpg jpeg gif bmp tif tiff webp".split()
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        runs: ids of the runs that were asked for.
        along: ids of those that came along because the others need them.
        size: bytes of the file.
        pickles: values in it that only unpickling can read.
    """

    path: Path
    runs: tuple[str, ...]
    along: tuple[str, ...]
    size: int
    pickles: int


def seal(manifest: dict[str, Any]) -> str:
    """Digest of a manifest without its seal."""
    plain = {key: value for key, value in manifest.items() if key != "seal"}
    return blake3(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def export(
    store: Store,
    run_ids: Sequence[int],
    path: Path,
    force: bool,
    tell: Callable[[str, int], None] = lambda what, done: None,
    version: str = "",
) -> Exported:
    """Write runs with all that belongs to them.

    Args:
        store: where they are.
        run_ids: rows of the runs.
        path: the file to write.
        force: replace what is there.
        tell: called with what is being written and how many so far.
        version: of the minipipe that writes it, for whoever cannot read it.

    Raises:
        UsageError: a run has not ended, or the file exists.
        ArtifactError: stored bytes are damaged; nothing was written.
        DiskFull: no room.
    """
    chosen = bundle_rows.select(store, run_ids)
    if path.exists() and not force:
        raise errors.UsageError(f"{path} exists", "it was not overwritten", "add --force, or -o FILE")
    if not path.absolute().parent.is_dir():
        raise errors.NotFound(f"cannot write {path}", f"there is no folder {path.parent}", "make it first, or use another one")
    draft = path.with_name(f".{fresh_id()[:16]}.part")
    with mapped(path), _replaced(draft, path), zipfile.ZipFile(draft, "x", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        pickles = _write(store, chosen, archive, tell, version)
    asked = len(dict.fromkeys(run_ids))
    return Exported(path, tuple(chosen.uids[:asked]), tuple(chosen.uids[asked:]), path.stat().st_size, pickles)


@contextlib.contextmanager
def _replaced(draft: Path, path: Path) -> Iterator[None]:
    try:
        yield
        os.chmod(draft, 0o600)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _write(
    store: Store, chosen: bundle_rows.Selection, archive: zipfile.ZipFile, tell: Callable[[str, int], None], version: str
) -> int:
    members: dict[str, list[Any]] = {}
    digests: dict[str, None] = {}
    logs: list[tuple[str, int]] = []
    shown: dict[str, str] = {}
    pickles = tasks = 0
    with _member(archive, ROWS, members) as file, store.database.snapshot():
        for table, row in bundle_rows.rows_of(store, chosen):
            file.write(json.dumps([table, row], separators=(",", ":")).encode() + b"\n")
            if row.get("digest") and table != "environment":
                digests[row["digest"]] = None
            if table == "artifact" and row["digest"] and not is_harmless(row["codec"]):
                pickles += 1
            if table == "task":
                tasks += 1
                logs.append((row["uid"], row["attempt"]))
                shown[row["uid"]] = row["run_name"] or row["name"]
    for number, digest in enumerate(digests):
        with _member(archive, f"blobs/{digest}", members, stored=True) as file:
            file.write(blobs.load(store, digest))
        tell("blobs", number + 1)
    for uid, attempts in logs:
        for attempt in range(1, attempts + 1):
            _copy_log(store, archive, uid, attempt, members)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "schema": schema.VERSION,
        "minipipe": version,
        "runs": [{"id": uid, "name": shown[uid]} for uid in chosen.uids],
        "tasks": tasks,
        "pickles": pickles,
        "members": members,
    }
    manifest["seal"] = seal(manifest)
    archive.writestr(zipfile.ZipInfo(MANIFEST, _EPOCH), json.dumps(manifest, indent=1), zipfile.ZIP_DEFLATED)
    return pickles


def _copy_log(store: Store, archive: zipfile.ZipFile, uid: str, attempt: int, members: dict[str, list[Any]]) -> None:
    try:
        source = open(store.log_path(uid, attempt), "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with source, _member(archive, f"logs/{uid}.{attempt}.log", members) as file:
        while data := source.read(_CHUNK):
            file.write(data)


class _Counted:
    """A member that is being written, its size and its digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.hash = blake3()

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        for begin in range(0, view.nbytes, _CHUNK):
            part = view[begin : begin + _CHUNK]
            self.hash.update(part)
            self.size += part.nbytes
            self._file.write(part)


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str, members: dict[str, list[Any]], stored: bool = False) -> Iterator[_Counted]:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with archive.open(info, "w", force_zip64=True) as file:
        counted = _Counted(file)
        yield counted
    members[name] = [counted.size, counted.hash.hexdigest()]


def is_harmless(name: str) -> bool:
    """True if decoding a value under this codec runs no code that its bytes bring along."""
    return name in HARMLESS and name not in codec.UNSAFE_CODECS
