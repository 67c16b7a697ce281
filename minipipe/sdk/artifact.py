"""A stored value of a task, as `Task.artifacts` gives it (ClearML's `Artifact`)."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minipipe import errors, shown
from minipipe.sdk import copies, display, session, storage
from minipipe.store import blobs, codec, records
from minipipe.store.home import Store

_MISSING = object()


class Artifact:
    """One artifact. Reading its facts never loads it; `get` does, once, after verifying the bytes."""

    def __init__(self, store: Store, row: Any) -> None:
        self._store = store
        self._row = row
        self._value: Any = _MISSING

    @property
    def name(self) -> str:
        """Its name within the task."""
        return str(self._row["name"])

    @property
    def type(self) -> str:
        """What people see: numpy, pandas, dict, string, pickle …"""
        return str(self._row["type"])

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self._row["size"])

    @property
    def mode(self) -> str:
        """Always "output" (ClearML's word for what a task made)."""
        return "output"

    @property
    def preview(self) -> str:
        """What the caller of the upload gave (at most 64 KiB), else at most 200 characters; stored when the value was."""
        return str(self._row["preview"])

    @property
    def metadata(self) -> dict[str, str]:
        """What was given with the upload."""
        found = {
            str(key): str(value) for key, value in json.loads(self._row["metadata"]).items() if not key.startswith(codec.OWN)
        }
        if self._row["codec"] in ("file", "folder"):
            found.pop("name", None)  # of the file
        return found

    @property
    def timestamp(self) -> datetime.datetime:
        """When it was stored, UTC."""
        return datetime.datetime.fromtimestamp(self._row["created_at"], datetime.UTC)

    @property
    def url(self) -> str:
        """Names the content, not the task: equal content, equal url. Of a URL that was registered, the URL."""
        if self._row["codec"] == "url":
            return bytes(blobs.load(self._store, self._row["digest"], self.name)).decode()
        return f"minipipe://{self._row['digest']}"

    @property
    def hash(self) -> str:
        """SHA-256 of its file as `get_local_copy` gives it, 64 hex digits (ClearML's hash; computed when asked for)."""
        return hashlib.sha256(copies.content(self._store, self._row)).hexdigest()

    def get(
        self,
        force_download: bool = False,
        deserialization_function: Callable[[bytes], Any] | None = None,
        block_unsafe_artifacts: bool = False,
    ) -> Any:
        """The value; the same object at each call.

        Args:
            force_download: read it again.
            deserialization_function: called with the bytes instead of minipipe's own reader.
            block_unsafe_artifacts: refuse what can only be unpickled, for unpickling can run code.

        Raises:
            ArtifactError: the stored bytes are missing, damaged, cannot be decoded here, or are refused.
        """
        if block_unsafe_artifacts and deserialization_function is None and self._row["codec"] in codec.UNSAFE_CODECS:
            raise errors.ArtifactError(f"artifact {self.name!r} is a pickle, and block_unsafe_artifacts is True")
        if self._value is _MISSING or force_download:
            if self._row["codec"] == "url":
                self._value = storage.local_copy(self.url)
            elif deserialization_function is not None:
                self._value = deserialization_function(bytes(blobs.load(self._store, self._row["digest"], self.name)))
            else:
                self._value = self._decoded()
        return self._value

    def _decoded(self) -> Any:
        if self._row["codec"] == "file" and self.type == "archive":
            return copies.copy_of(self._store, self._row)
        return records.value_of(self._store, self._row["task_id"], self.name, session.scratch())

    def get_local_copy(
        self, extract_archive: bool = True, raise_on_error: bool = False, force_download: bool = False
    ) -> str | None:
        """The path of a read-only copy under its own name, gone with this process; for values that cannot be decoded here, too.

        Args:
            extract_archive: give the folder if the artifact is one (type ``archive``), rather than a tar file of it. A file that
                happens to be an archive stays as it is (ClearML's rule).
            raise_on_error: raise instead of returning None.
            force_download: make a new copy.

        Returns:
            The path; None, after one line on stderr, if the artifact has no content.

        Raises:
            ValueError: the same, with `raise_on_error`.
            ArtifactError: the stored bytes are missing or damaged; they are not handed out.
        """
        try:
            if self._row["digest"] is None:
                raise errors.NotFound(f"cannot copy artifact {self.name!r}", "it has no content")
            if self._row["codec"] == "url":
                return str(storage.local_copy(self.url, extract_archive, force=force_download))
            extract = extract_archive and self.type == "archive"
            return str(copies.copy_of(self._store, self._row, extract, force=force_download))
        except errors.NotFound as error:
            if raise_on_error:
                raise
            storage.tell(error)
            return None

    def verify_pickle_file_integrity(self, local_file: str) -> None:
        """Check that a file has the content of this artifact.

        Raises:
            ValueError: it has not (ClearML's rule).
            ArtifactError: the stored bytes themselves are missing or damaged.
        """
        with open(local_file, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.hash:
            raise errors.UsageError(
                f"{local_file} is not artifact {self.name!r}",
                f"its SHA-256 is {found}, not {self.hash}",
                "get_local_copy() makes a copy",
            )

    def __repr__(self) -> str:
        return f"<Artifact {self.name!r} {self.type} {shown.size(self.size)}: {shown.escape(self.preview[:60])}>"

    def _repr_html_(self) -> str:
        return display.artifact_block(self._row)


class Artifacts(Mapping[str, Artifact]):
    """A task's artifacts by name, in upload order."""

    def __init__(self, store: Store, task_id: int) -> None:
        self._all = {row["name"]: Artifact(store, row) for row in records.artifacts_of(store, task_id)}

    def __getitem__(self, name: str) -> Artifact:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
