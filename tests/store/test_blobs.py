"""Bytes before rows; verified whenever they are read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from minipipe import errors
from minipipe.store import blobs, database
from minipipe.store.home import Store
from tests.faults.sane import sane

LARGE = bytes(range(256)) * 100


def put(store: Store, data: bytes, link: bool = False) -> str:
    """Store bytes as a blob, linked to nothing unless asked."""
    staged = blobs.stage_bytes(store, data)
    with store.database.write() as connection:
        blobs.publish(store, connection, staged)
        if link:
            connection.execute("INSERT INTO project (uid, name) VALUES ('p', 'p') ON CONFLICT DO NOTHING")
            connection.execute(
                "INSERT INTO task (uid, type, name, project_id, status, created_at, updated_at)"
                " VALUES ('t', 'training', 't', 1, 'created', 0, 0)"
            )
            connection.execute(
                "INSERT INTO artifact (task_id, role, name, digest, created_at) VALUES (1, 'output', 'a', ?, 0)", (staged.digest,)
            )
    return staged.digest


def row_of(store: Store, digest: str) -> dict[str, object]:
    row = store.database.row("SELECT * FROM blob WHERE digest = ?", (digest,))
    assert row is not None
    return dict(row)


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 1_000_000])
def test_small_bytes_lie_in_their_row_and_large_ones_in_a_file(store: Store, size: int) -> None:
    data = random.Random(size).randbytes(size)
    digest = put(store, data)
    row, path = row_of(store, digest), blobs.path_of(store, digest)
    assert digest == blake3(data).hexdigest()
    assert row["size"] == size
    if size <= 16_384:
        assert row["bytes"] == data
        assert row["mtime_ns"] is None
        assert not path.exists()
    else:
        assert row["bytes"] is None
        assert row["mtime_ns"] == path.stat().st_mtime_ns
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert bytes(blobs.load(store, digest)) == data
    assert list(store.folder("tmp").iterdir()) == []


@pytest.mark.parametrize("pieces", [[10], [16_384, 1], [1] * 40, [20_000, 5], [16_000, 16_000, 9_000_000], [0, 0, 0]])
def test_bytes_may_come_in_pieces(store: Store, pieces: list[int]) -> None:
    source = random.Random(0)
    parts = [source.randbytes(size) for size in pieces]
    writer = blobs.Writer(store)
    for part in parts:
        assert writer.write(part) == len(part)
    staged = writer.finish()
    writer.close()
    assert staged.digest == blake3(b"".join(parts)).hexdigest()
    assert staged.size == sum(pieces)
    with store.database.write() as connection:
        blobs.publish(store, connection, staged)
    assert bytes(blobs.load(store, staged.digest)) == b"".join(parts)


def test_equal_bytes_are_stored_once(store: Store) -> None:
    assert put(store, LARGE) == put(store, LARGE)
    assert store.database.rows("SELECT count(*) FROM blob")[0][0] == 1
    assert len(list(store.folder("blobs").glob("*/*"))) == 1


def test_what_is_read_is_a_private_copy(store: Store) -> None:
    digest = put(store, LARGE)
    data = blobs.load(store, digest)
    data[0:4] = b"mine"
    assert bytes(data[:4]) == b"mine"
    assert bytes(blobs.load(store, digest)) == LARGE
    assert blobs.path_of(store, digest).read_bytes() == LARGE


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.unlink()
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(LARGE[:-1]),
    "longer": lambda path: path.write_bytes(LARGE + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}
UNREADABLE: dict[str, Callable[[Path], object]] = {"a folder": lambda path: (path.unlink(), path.mkdir())}


@pytest.mark.parametrize("damage", (DAMAGE | UNREADABLE).values(), ids=(DAMAGE | UNREADABLE).keys())
def test_damaged_bytes_are_never_handed_out(store: Store, damage: Callable[[Path], object]) -> None:
    digest = put(store, LARGE, link=True)
    path = blobs.path_of(store, digest)
    path.chmod(0o600)
    damage(path)
    with pytest.raises(errors.ArtifactError, match="artifact 'a' are damaged") as caught:
        blobs.load(store, digest, "artifact 'a'")
    assert caught.value.digest == digest
    assert digest[:8] in caught.value.cause
    assert not blobs.looks_whole(store, [digest])
    assert sane(store.path, only=["I2"]) != []


def test_bytes_that_may_not_be_read_are_a_typed_error_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = put(store, LARGE, link=True)

    def refused(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(errors.ArtifactError, match="artifact 'a' are damaged") as caught:
        blobs.load(store, digest, "artifact 'a'")
    assert "cannot be read: Permission denied" in caught.value.cause


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_storing_the_same_bytes_again_heals_the_damage(store: Store, damage: Callable[[Path], object]) -> None:
    digest = put(store, LARGE, link=True)
    path = blobs.path_of(store, digest)
    path.chmod(0o600)
    damage(path)
    assert put(store, LARGE) == digest
    assert bytes(blobs.load(store, digest)) == LARGE
    assert blobs.looks_whole(store, [digest])
    assert sane(store.path) == []


def test_flipped_bytes_in_a_row_are_never_handed_out_and_heal(store: Store) -> None:
    digest = put(store, b"small", link=True)
    with store.database.write() as connection:
        connection.execute("UPDATE blob SET bytes = CAST(x'00' || substr(bytes, 2) AS BLOB)")
    with pytest.raises(errors.ArtifactError, match="damaged"):
        blobs.load(store, digest)
    put(store, b"small")
    assert bytes(blobs.load(store, digest)) == b"small"
    assert sane(store.path) == []


def test_an_open_reader_keeps_its_bytes_when_the_file_is_replaced(store: Store) -> None:
    digest = put(store, LARGE)
    reading = blobs.load(store, digest)
    before = blobs.path_of(store, digest).stat().st_ino
    put(store, LARGE)
    assert blobs.path_of(store, digest).stat().st_ino != before, "replaced, not trusted"
    assert bytes(reading) == LARGE


def test_looking_whole_asks_for_size_and_time(store: Store) -> None:
    large, small = put(store, LARGE), put(store, b"small")
    path = blobs.path_of(store, large)
    assert blobs.looks_whole(store, [large, small])
    assert blobs.looks_whole(store, [])
    assert not blobs.looks_whole(store, [small, "0" * 64])

    info = path.stat()
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns - 1))
    assert not blobs.looks_whole(store, [small, large]), "another time"
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert blobs.looks_whole(store, [large])

    path.chmod(0o600)
    os.truncate(path, len(LARGE) - 1)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert not blobs.looks_whole(store, [large]), "another size"
    path.unlink()
    path.symlink_to(store.database.path)
    assert not blobs.looks_whole(store, [large]), "a link to elsewhere"


def test_damage_that_does_not_show_is_caught_when_read(store: Store) -> None:
    digest = put(store, LARGE)
    path = blobs.path_of(store, digest)
    info = path.stat()
    flip(path)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert blobs.looks_whole(store, [digest])
    with pytest.raises(errors.ArtifactError):
        blobs.load(store, digest)


def test_an_unknown_blob_is_an_error(store: Store) -> None:
    with pytest.raises(errors.ArtifactError, match="damaged"):
        blobs.load(store, "0" * 64)


# -- while writing ------------------------------------------------------------------------------------------------------


def open_below(folder: Path) -> list[str]:
    """Files below a folder that this process has open (empty where the system does not tell)."""
    table, found = Path("/proc/self/fd"), []
    for link in table.iterdir() if table.exists() else ():
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return [target for target in found if target.startswith(str(folder))]


@pytest.mark.parametrize("failing", ["write", "fsync", "fchmod"])
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, errors.DiskFull), (errno.EROFS, errors.StoreUnwritable), (errno.EIO, OSError)]
)
def test_a_failed_write_leaves_nothing_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch, failing: str, number: int, kind: type[Exception]
) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    writer = blobs.Writer(store)
    monkeypatch.setattr(os, failing, fail)

    def write() -> None:
        writer.write(LARGE)
        writer.finish()

    with pytest.raises(kind):
        write()
    monkeypatch.undo()
    assert list(store.folder("tmp").iterdir()) == []
    assert open_below(store.folder("tmp")) == []


def test_a_disk_that_takes_only_some_bytes_at_a_time_gets_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:1000])))
    digest = put(store, LARGE)
    monkeypatch.undo()
    assert bytes(blobs.load(store, digest)) == LARGE


def test_the_file_is_locked_and_private_until_it_is_closed(store: Store) -> None:
    writer = blobs.Writer(store, "0" * 32 + ".0")
    writer.write(LARGE)
    path = store.folder("tmp") / ("0" * 32 + ".0")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def is_locked() -> bool:
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    staged = writer.finish()
    assert is_locked()
    assert sane(store.path) == [], "a staged file is no litter"
    assert sane(store.path, after_gc=True) != [], "after gc it is"
    writer.close()
    assert not is_locked()
    assert staged.path == path


def test_a_name_that_is_taken_by_a_link_is_refused_and_its_target_untouched(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    name = "0" * 32 + ".0"
    (store.folder("tmp") / name).symlink_to(outside)
    writer = blobs.Writer(store, name)
    with pytest.raises(FileExistsError):
        writer.write(LARGE)
    assert outside.read_text() == "mine"


def test_a_transaction_that_was_rolled_back_can_be_tried_again(store: Store) -> None:
    writer = blobs.Writer(store)
    writer.write(LARGE)
    staged = writer.finish()

    def publish_and_fail() -> None:
        with store.database.write() as connection:
            blobs.publish(store, connection, staged)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publish_and_fail()
    with pytest.raises(errors.ArtifactError):
        blobs.load(store, staged.digest)
    with store.database.write() as connection:
        blobs.publish(store, connection, staged)
    writer.close()
    assert bytes(blobs.load(store, staged.digest)) == LARGE


def test_a_staged_file_that_is_gone_is_an_error(store: Store) -> None:
    staged = blobs.stage_bytes(store, LARGE)
    assert staged.path is not None
    staged.path.unlink()
    with pytest.raises(errors.StoreMoved), store.database.write() as connection:
        blobs.publish(store, connection, staged)
    assert store.database.rows("SELECT * FROM blob") == []


def test_publishing_syncs_the_file_before_and_the_folder_after_the_rename(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def called(*arguments: object, **rest: object) -> object:
            kind = name
            if name == "fsync":
                kind += " folder" if stat.S_ISDIR(os.fstat(int(arguments[0])).st_mode) else " file"  # type: ignore[call-overload]
            done.append(kind)
            return real(*arguments, **rest)

        monkeypatch.setattr(os, name, called)

    for name in ("fsync", "replace"):
        watch(name)
    with contextlib.suppress(FileNotFoundError):
        put(store, LARGE)
    monkeypatch.undo()
    renames = [place for place, what in enumerate(done) if what == "replace"]
    assert "fsync file" in done[: renames[0]]
    assert done[renames[-1] + 1 :].count("fsync folder") == 2, "its folder is new, so that one's parent too"


def test_a_blob_counts_its_references(store: Store) -> None:
    digest = put(store, b"small", link=True)
    assert row_of(store, digest)["refs"] == 1
    with store.database.write() as connection:
        connection.execute("UPDATE artifact SET digest = NULL")
    assert row_of(store, digest)["refs"] == 0
    with store.database.write() as connection:
        connection.execute("UPDATE artifact SET digest = ?", (digest,))
        connection.execute("DELETE FROM artifact")
    assert row_of(store, digest)["refs"] == 0


def test_mapped_errors_keep_their_cause() -> None:
    with pytest.raises(errors.DiskFull) as caught, database.mapped(Path("/nowhere/minipipe.db")):
        raise OSError(errno.ENOSPC, "full", "/nowhere/x")
    assert isinstance(caught.value.__cause__, OSError)


def test_who_watches_hears_how_far_a_large_blob_is_and_nothing_of_a_small_one(store: Store) -> None:
    heard: list[int] = []
    with blobs.watched(heard.append):
        for size in (100, 20 << 20):
            writer = blobs.Writer(store)
            writer.write(bytes(size))
            writer.finish()
            writer.discard()
    assert heard == [8 << 20, 16 << 20, 20 << 20]
