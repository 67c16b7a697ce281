"""The store: one directory with a database, blobs, logs and locks.

minipipe.db      every fact               blobs/ab/<digest>   bytes over 16 KiB, read-only
logs/ab/…        what attempts printed    tmp/                bytes that are being written
workers/*.lock   who is alive             maint.lock          who may checkpoint and collect
ballast          4 MiB to give back when the disk is full
downloads/       what URLs brought          files/              what was uploaded (both made on demand)
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

from minipipe import errors, settings
from minipipe.chance import fresh_id
from minipipe.shown import tell
from minipipe.store import schema
from minipipe.store.database import Database, mapped, wait_before_use

DATABASE = "minipipe.db"
MIRRORS = "repos"  # of git repositories, see `minipipe.engine.repository`
TREES = "trees"
BALLAST_BYTES = 4 << 20
_FOLDERS = ("blobs", "tmp", "logs", "workers")
_NETWORK = frozenset(
    "9p afs beegfs ceph cifs coda davfs fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs glusterfs gpfs lustre ncpfs nfs nfs4 "
    "ocfs2 orangefs panfs pvfs2 smb2 smb3 smbfs".split()
)
_LOCAL = frozenset(
    "apfs bcachefs btrfs exfat ext2 ext3 ext4 f2fs fuse.portal fuseblk hfs hfsplus jfs msdos ntfs ntfs3 overlay ramfs reiserfs "
    "rootfs tmpfs ufs vfat virtiofs xfs zfs".split()
)


class Store:
    """An open store. Make one with `Store.open`.

    Attributes:
        path: its directory, absolute.
        database: its database, as this process sees it.
    """

    def __init__(self, path: Path, durability: str) -> None:
        self.path = path
        self.database = Database(path / DATABASE, durability)
        self._store_id = ""
        self.project_ids: dict[str, int] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        create: bool = True,
        durability: str | None = None,
        quiet: bool = False,
    ) -> Store:
        """Open the store at `path`, making it if there is none.

        Args:
            path: its directory; default as in `minipipe.settings.store_home`.
            create: make a missing store (and say so on stderr); False for commands that only read.
            durability: "full" or "fast"; default from the settings.
            quiet: do not say that one was made.

        Raises:
            StoreMissing: there is none and `create` is False.
            StoreError: one of its kinds, if the store is not ours, newer, damaged or not to be trusted. Nothing was changed.
        """
        home = settings.store_home(path)
        with mapped(home / DATABASE):  # a folder above it may be closed to us
            missing = not (home / DATABASE).exists()
            astray = missing and home.exists() and not home.is_dir()
        if missing:
            if not create and not astray:
                raise errors.StoreMissing(f"no store at {home}", hint="the first `minipipe run` makes one", path=str(home))
            _check_disk(home)
            _create(home, quiet)
        else:
            _check_disk(home)
        _check_trust(home)
        store = cls(home, durability or settings.load_settings().durability)
        _check_version(store)
        return store

    def wait_for_claim(self, task_id: int, token: str) -> None:
        """In a step's process: nothing of the store is read here before the commit that claims the task can be seen.

        The step may have been started before it, while that commit synced (see `minipipe.engine.worker`), and the same commit has
        filled in what its parameters refer to.
        """

        def is_claimed(connection: sqlite3.Connection) -> bool:
            sql = "SELECT 1 FROM task WHERE id = ? AND token IS NOT ? AND status IN ('pending', 'queued')"
            return not connection.execute(sql, (task_id, token)).fetchall()

        wait_before_use(self.database.path, is_claimed)

    @property
    def db(self) -> Any:
        """The database as a `sqlite_utils.Database`, for queries of your own."""
        return importlib.import_module("sqlite_utils").Database(self.database.connection())

    @property
    def store_id(self) -> str:
        """The store's own id; processes that run its steps carry it in their environment."""
        if not self._store_id:
            row = self.database.row("SELECT value FROM meta WHERE key = 'store_id'")
            self._store_id = row[0] if row else ""
        return self._store_id

    def become_another(self) -> None:
        """Give a copied store an id of its own. Transaction effect: one commit."""
        self._store_id = fresh_id()
        with self.database.write() as connection:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'store_id'", (self._store_id,))

    def folder(self, name: str) -> Path:
        """One of the folders ``blobs``, ``tmp``, ``logs``, ``workers``."""
        return self.path / name

    def log_path(self, uid: str, attempt: int) -> Path:
        """Where attempt number `attempt` of task `uid` prints to."""
        return self.path / "logs" / uid[:2] / f"{uid}.{attempt}.log"

    def close(self) -> None:
        """Close the database connection; it opens again when next used."""
        self.database.close()

    def __repr__(self) -> str:
        return f"<Store {self.path}>"


def _create(home: Path, quiet: bool) -> None:
    # Built under another name and linked into place: at no moment is there an empty or half-made database at the final path,
    # and of several first processes exactly one wins.
    with mapped(home / DATABASE):
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise errors.StoreForeign(
                f"{home} is not a folder", "a file lies where the store would be", "set MINIPIPE_HOME to a folder", path=str(home)
            ) from None
        except FileNotFoundError as error:  # such as below /proc
            raise errors.StoreUnwritable(
                f"cannot make {home}", error.strerror or "", "set MINIPIPE_HOME to another folder", path=str(home)
            ) from None
        for name in _FOLDERS:
            (home / name).mkdir(mode=0o700, exist_ok=True)
        draft = home / f"{DATABASE}.{fresh_id()[: 2 * 8]}.new"
        try:
            connection = sqlite3.connect(draft, isolation_level=None)
            os.chmod(draft, 0o600)
            connection.execute("PRAGMA page_size=2048")  # an ending touches a dozen pages: half the bytes to sync per commit
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # gc gives pages back a few at a time, beside working workers
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            connection.execute("BEGIN IMMEDIATE")
            schema.migrate(connection)
            connection.execute("COMMIT")
            connection.close()
            os.link(draft, home / DATABASE)
        except (FileExistsError, FileNotFoundError):
            if not (home / DATABASE).exists():
                raise
            return  # somebody else was first (and collected this draft)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
        (home / ".gitignore").write_text("*\n")
        os.chmod(home / ".gitignore", 0o600)
        _make_ballast(home)
        _sync_folder(home)
    if quiet:
        return
    shown = os.path.relpath(home) if home.is_relative_to(Path.cwd()) else str(home)
    tell(f"minipipe: new store {shown} (MINIPIPE_HOME moves it)")


def _make_ballast(home: Path) -> None:
    descriptor = os.open(home / "ballast", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with contextlib.closing(os.fdopen(descriptor, "wb")):
        if hasattr(os, "posix_fallocate"):
            # A full disk is no reason to refuse a store that is otherwise fine.
            with contextlib.suppress(OSError):
                os.posix_fallocate(descriptor, 0, BALLAST_BYTES)


def is_scarce(home: Path) -> bool:
    """True if there is so little room that the ballast is needed."""
    found = os.statvfs(home)
    return found.f_bavail * found.f_frsize < 2 * BALLAST_BYTES


def has_ballast(home: Path) -> bool:
    """True if the ballast is there in full."""
    try:
        return os.stat(home / "ballast").st_size >= BALLAST_BYTES
    except FileNotFoundError:
        return False


def drop_ballast(home: Path) -> bool:
    """Give the ballast's room back: even a deletion needs some. True if there was any."""
    try:
        had = os.stat(home / "ballast").st_blocks > 0
        os.truncate(home / "ballast", 0)
    except FileNotFoundError:
        return False
    return had


def restore_ballast(home: Path) -> bool:
    """Take room for the ballast again; False if there is not enough (then none is taken)."""
    _make_ballast(home)
    whole = has_ballast(home)
    if not whole:
        os.truncate(home / "ballast", 0)
    return whole


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_system(path: Path) -> str:
    """Name of the file system that holds `path` ("" where the system does not tell: only Linux does)."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    real = os.path.realpath(path)
    for line in lines:
        fields = line.split(" ")
        point = fields[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[fields.index("-") + 1]
    return kind


def _check_disk(home: Path) -> None:
    kind = file_system(home)
    if kind in _NETWORK:
        raise errors.NetworkDisk(
            f"{home} lies on a network file system ({kind})",
            "SQLite's write-ahead log and file locks need a local disk",
            "set MINIPIPE_HOME to a folder on a local disk",
            path=str(home),
        )
    if kind and kind not in _LOCAL and not os.environ.get("MINIPIPE_DISK_WARNED"):
        os.environ["MINIPIPE_DISK_WARNED"] = "1"  # once per command, its workers included
        tell(f"warning: {home}: unknown file system {kind}; if it is remote, locks may not hold")


def _check_trust(home: Path) -> None:
    # A digest proves that bytes are the same, not that they are honest: whoever can write here can make us unpickle.
    if os.environ.get("MINIPIPE_TRUST_STORE") == "1":
        return
    allowed = {os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        allowed.add(int(os.environ["SUDO_UID"]))
    for path in (home, home / DATABASE):
        info = os.stat(path)
        if info.st_uid not in allowed:
            raise errors.StoreUntrusted(
                f"{path} belongs to another user (uid {info.st_uid})",
                "loading from it could run that user's code as you",
                "use a store of your own (MINIPIPE_HOME), or, if you trust it: MINIPIPE_TRUST_STORE=1",
                path=str(path),
            )
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise errors.StoreUntrusted(
                f"{path} can be written by others (mode {stat.S_IMODE(info.st_mode):o})",
                "loading from it could run their code as you",
                f"chmod go-w {path}",
                path=str(path),
            )


def _check_version(store: Store) -> None:
    path = store.path / DATABASE
    _refuse(path, *_peek(path))
    # The look went past the log, where the newest version may stand; the connection sees it.
    version = store.database.read(schema.version_of)
    _refuse(path, *version)
    if version[1] < schema.VERSION:
        _upgrade(store)


def _refuse(path: Path, application: int, version: int) -> None:
    if application != schema.APPLICATION_ID:
        raise errors.StoreForeign(
            f"{path} is not a minipipe store",
            f"its application id is {application:#x}",
            "set MINIPIPE_HOME to another folder",
            path=str(path),
        )
    if version > schema.VERSION:
        raise errors.StoreNewer(
            f"store has schema {version}, this minipipe reads up to {schema.VERSION}",
            "it was written by a newer minipipe; nothing was changed",
            "pip install -U minipipe-runner",
            path=str(path),
        )


def _peek(path: Path) -> tuple[int, int]:
    # immutable: the look creates and changes no file, so a store that we refuse stays byte for byte as it was.
    if not path.is_file() or path.stat().st_size == 0:
        raise errors.StoreDamaged(
            f"the store {path} is damaged",
            "it is a directory" if path.is_dir() else "the database file is empty",
            "look at it with: minipipe doctor",
            path=str(path),
        )
    with mapped(path), contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        try:
            return schema.version_of(connection)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CORRUPT:
                raise
    # Without a lock the look may fall into somebody's checkpoint, when the first page counts pages that are still to come.
    # A connection with locks decides; it changes nothing of a file that is damaged.
    return schema.APPLICATION_ID, schema.VERSION


def _upgrade(store: Store) -> None:
    database = store.database
    application, version = database.read(schema.version_of)
    _refuse(database.path, application, version)
    if version < schema.VERSION:
        database.copy_to(Path(f"{database.path}.schema{version}.{fresh_id()[: 2 * 4]}"))
    with database.write() as connection:
        if schema.version_of(connection)[1] < schema.VERSION:
            schema.migrate(connection)
