"""Artifacts as files: read-only copies under their own names, in this process's folder for copies."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from minipipe import errors
from minipipe.sdk import archive, download, session
from minipipe.store import blobs, codec, formats, records
from minipipe.store.home import Store

_EXTENSIONS = {"json": ".json", "bytes": ".bin", "npy": ".npy", "pickle": ".pkl", "folder": ".tar", **formats.EXTENSIONS}
_copies: dict[tuple[Path, str, str, bool], Path] = {}  # by folder, digest, name and whether unpacked


def copy_of(store: Store, row: Any, extract: bool = True, name: str | None = None, force: bool = False) -> Path:
    """The copy of an artifact; the same one again unless `force`.

    Args:
        store: where the artifact is.
        row: its row.
        extract: give a folder, or what is in a zip or tar archive, rather than one file.
        name: of the copy; default that of the file or artifact.
        force: make a new one.

    Raises:
        ArtifactError: its bytes are damaged. Values that cannot be decoded here are copied all the same (D28).
    """
    name, scratch = download.file_name(name or _name(row)), session.scratch()
    extract = extract and (row["codec"] == "folder" or bool(archive.stem(name)))
    key = (scratch, row["digest"], name, extract)
    if force or key not in _copies or not _copies[key].exists():
        data = content(store, row)
        if row["codec"] == "folder" and extract:
            _copies[key] = codec.decode(memoryview(data), "folder", {"name": name}, scratch, row["name"])
        else:
            scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = Path(tempfile.mkdtemp(dir=scratch)) / name
            with open(path, "xb") as file:
                file.write(data)
            path.chmod(0o444)
            _copies[key] = archive.unpack_beside(path) if extract else path
    return _copies[key]


def content(store: Store, row: Any) -> bytes | memoryview:
    """The bytes of an artifact as a file: what was stored, but a text as plain text (ClearML's ``.txt``).

    Raises:
        ArtifactError: damaged. Cache entries that would serve it are dropped.
    """
    try:
        data = blobs.load(store, row["digest"], f"artifact {row['name']!r}")
    except errors.ArtifactError:
        records.forget_damaged(store, row["digest"])
        raise
    return str(json.loads(bytes(data))).encode(errors="surrogatepass") if _is_text(row) else data


def size(store: Store, row: Any) -> int:
    """Bytes of `content`; read only where that is not what was stored."""
    return len(content(store, row)) if _is_text(row) else int(row["size"])


def _is_text(row: Any) -> bool:
    return bool(row["codec"] == "json" and row["type"] == "string")


def _name(row: Any) -> str:
    if row["codec"] in ("file", "folder"):
        return str(json.loads(row["metadata"]).get("name") or row["name"])
    extension = ".txt" if _is_text(row) else _EXTENSIONS.get(row["codec"], "")
    if row["codec"] == "pickle" and row["type"] == "pandas":
        extension = ".pickle"  # as frames are called that were asked to be pickled
    name = str(row["name"]).replace("/", "_")
    return name if name.endswith(extension) else name + extension
