"""Immutable bytes, named by their BLAKE3 digest: small ones inside their row, larger ones as read-only files.

Bytes come before rows. A file is written under ``tmp/``, hashed as it is written and synced; only inside the transaction that
links it is it renamed into place. So a row that points to a missing blob can only be damage, and a file without a row is
litter that `gc` removes under the same lock. (Renaming first and linking later lost two links of three beside a busy gc.)
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import blake3

from minipipe import errors
from minipipe.chance import fresh_id
from minipipe.store.database import mapped, os_error
from minipipe.store.home import Store

INLINE_LIMIT_BYTES = 16 << 10
_PARALLEL_BYTES = 8 << 20  # from this size on, hashing runs beside writing


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes that are safe on disk (or small enough for their row) but not linked yet.

    Attributes:
        digest: BLAKE3, 64 hex digits.
        size: bytes.
        inline: the bytes, if they go into the row.
        path: the file under ``tmp/``, if they do not.
    """

    digest: str
    size: int
    inline: bytes | None
    path: Path | None


class Writer:
    """Takes bytes and keeps them; use `finish` to get them staged or `discard` to drop them.

    Args:
        store: where to.
        name: stem of the file under ``tmp/``: an attempt's token and the number of the output. A process without an attempt
            leaves it out and gets a random one.
    """

    def __init__(self, store: Store, name: str | None = None) -> None:
        self._path = store.folder("tmp") / (name or f"{fresh_id()}.0")
        self._hash = blake3.blake3()
        self._pending: list[bytes] = []
        self._descriptor = -1
        self._written = 0
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes; a large buffer is neither copied nor hashed after the fact.

        Raises:
            DiskFull: no room; nothing of the blob stays behind.
        """
        view = memoryview(data).cast("B")
        self.size += view.nbytes
        if self._descriptor < 0:
            if self.size <= INLINE_LIMIT_BYTES:
                self._pending.append(bytes(view))
                return view.nbytes
            self._spill()
        self._append(view)
        return view.nbytes

    def _spill(self) -> None:
        while self._descriptor < 0:
            with mapped(self._path):
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # tells gc that somebody is still writing
            if not os.fstat(self._descriptor).st_nlink:  # gc came between the two calls
                self.close()
        for part in self._pending:
            self._append(memoryview(part))
        self._pending.clear()

    def _append(self, view: memoryview) -> None:
        if view.nbytes >= _PARALLEL_BYTES:
            hashing = threading.Thread(target=self._hash.update, args=(view,))
            hashing.start()  # both let go of the interpreter lock
            try:
                self._put(view)
            finally:
                hashing.join()
        else:
            self._hash.update(view)
            self._put(view)

    def _put(self, view: memoryview) -> None:
        try:
            done = 0
            while done < view.nbytes:
                written = os.write(self._descriptor, view[done : done + (8 << 20)])
                if written >= _PARALLEL_BYTES:
                    _write_back(self._descriptor)
                done += written
                self._written += written
                if _watchers:
                    _watchers[-1](self._written)
        except OSError as error:
            self.discard()
            raise os_error(error, self._path) or error from error

    def finish(self) -> Staged:
        """Make the bytes durable. A failed sync is never retried on the same file: the kernel may have dropped the pages."""
        if self._descriptor < 0:
            data = b"".join(self._pending)
            return Staged(blake3.blake3(data).hexdigest(), len(data), data, None)
        try:
            os.fsync(self._descriptor)
            os.fchmod(self._descriptor, 0o444)
        except OSError as error:
            self.discard()
            raise os_error(error, self._path) or error from error
        return Staged(self._hash.hexdigest(), self.size, None, self._path)

    def close(self) -> None:
        """Let go of the file (and of the lock that keeps gc away); call it after the bytes are linked."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Remove what was written."""
        if self._descriptor >= 0:
            os.unlink(self._path)
        self.close()


_watchers: list[Callable[[int], None]] = []


@contextlib.contextmanager
def watched(tell: Callable[[int], None]) -> Iterator[None]:
    """Inside the block `tell` hears how many bytes of a blob have been written so far; small blobs say nothing."""
    _watchers.append(tell)
    try:
        yield
    finally:
        _watchers.remove(tell)


@contextlib.contextmanager
def finished(writer: Writer | None) -> Iterator[Staged | None]:
    """The bytes of a writer, durable, for a transaction inside the block that links them; if it fails, nothing of them stays.

    Args:
        writer: all written; closed in the end. None gives None.
    """
    if writer is None:
        yield None
        return
    try:
        staged = writer.finish()
        try:
            yield staged
        except BaseException:
            if staged.path is not None and staged.path.exists():
                writer.discard()
            raise
    finally:
        writer.close()


def _write_back(descriptor: int) -> None:
    """Have the kernel start writing what is in its cache, without waiting (Linux): the sync at the end then finds little left.
    For a 400 MB array this takes a third off the time until it is durable."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def stage_bytes(store: Store, data: bytes) -> Staged:
    """Stage bytes that are in memory. For more than `INLINE_LIMIT_BYTES` of them use a `Writer` and keep it open until linked."""
    writer = Writer(store)
    writer.write(data)
    staged = writer.finish()
    writer.close()
    return staged


def path_of(store: Store, digest: str) -> Path:
    """Where the file of a blob lies."""
    return store.path / "blobs" / digest[:2] / digest


def publish(store: Store, connection: sqlite3.Connection, staged: Staged) -> None:
    """Make staged bytes a blob. Transaction effect: part of the caller's transaction, which also links the blob.

    An existing file is replaced: ours was hashed a moment ago, the old one may be damaged; open readers keep theirs.
    """
    mtime_ns = None
    if staged.path is not None:
        target = path_of(store, staged.digest)
        with mapped(target):
            try:
                os.replace(staged.path, target)
            except FileNotFoundError:
                if not staged.path.exists():
                    _expect(target, staged)
                else:
                    os.mkdir(target.parent, 0o700)
                    os.replace(staged.path, target)
                    _sync_folder(target.parent.parent)
            _sync_folder(target.parent)
            mtime_ns = os.stat(target).st_mtime_ns
    connection.execute(
        "INSERT INTO blob (digest, size, bytes, mtime_ns) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (digest) DO UPDATE SET size = excluded.size, bytes = excluded.bytes, mtime_ns = excluded.mtime_ns"
        " WHERE mtime_ns IS NOT excluded.mtime_ns OR bytes IS NOT excluded.bytes",
        (staged.digest, staged.size, staged.inline, mtime_ns),
    )


def _expect(target: Path, staged: Staged) -> None:
    """An earlier try of the same transaction renamed the bytes and was rolled back: they have to be at their place."""
    if not target.exists() or target.stat().st_size != staged.size:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(staged.path))


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def looks_whole(store: Store, digests: Iterable[str]) -> bool:
    """True if each blob is there with the size and time of its publication: what a cache lookup asks before it links.

    Equality only, no clock is compared. Damage that keeps size and time is caught by the digest when the blob is read.
    """
    for digest in digests:
        row = store.database.row("SELECT size, bytes IS NULL AS file, mtime_ns FROM blob WHERE digest = ?", (digest,))
        if row is None:
            return False
        if not row["file"]:
            continue
        try:
            stat = os.lstat(path_of(store, digest))
        except OSError:
            return False
        if stat.st_size != row["size"] or stat.st_mtime_ns != row["mtime_ns"]:
            return False
    return True


def read(store: Store, digest: str, inline: bytes | None = None, what: str = "") -> memoryview:
    """The bytes of a blob, verified.

    Args:
        store: where from.
        digest: its name.
        inline: the bytes from its row, if they were read already.
        what: the artifact, for the error.

    Returns:
        Inline bytes, or a private writable mapping of the file: writing to it changes this process's copy only.

    Raises:
        ArtifactError: the bytes are missing or are not what was stored. They are not handed out.
    """
    data: memoryview
    if inline is not None:
        data = memoryview(inline)
    else:
        data = _map(path_of(store, digest), digest, what)
    found = blake3.blake3(data, max_threads=blake3.blake3.AUTO if data.nbytes > _PARALLEL_BYTES else 1).hexdigest()
    if found != digest:
        raise _damaged(digest, what, f"its bytes have digest {found[:8]}")
    return data


def _map(path: Path, digest: str, what: str) -> memoryview:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _damaged(digest, what, f"{path} is missing") from None
    except OSError as error:
        raise _damaged(digest, what, f"{path} cannot be read: {error.strerror}") from error
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            raise _damaged(digest, what, f"{path} is empty")
        return memoryview(mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
    except OSError as error:  # a folder, for one
        raise _damaged(digest, what, f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _damaged(digest: str, what: str, cause: str) -> errors.ArtifactError:
    return errors.ArtifactError(
        f"the stored bytes of {what or 'an artifact'} are damaged",
        f"blob {digest[:8]}: {cause}",
        "run the step again; `minipipe doctor --deep` lists all damage",
        digest=digest,
    )


def load(store: Store, digest: str, what: str = "") -> memoryview:
    """The bytes of a blob by name alone; see `read`.

    Raises:
        ArtifactError: no such blob, or damaged.
    """
    row = store.database.row("SELECT bytes FROM blob WHERE digest = ?", (digest,))
    if row is None:
        raise _damaged(digest, what, "no such blob")
    return read(store, digest, row["bytes"], what)
