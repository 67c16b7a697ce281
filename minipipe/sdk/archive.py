"""Unpacking archives of unknown origin: nothing lands outside the folder, nothing grows without bound.

Refused, with nothing left behind: absolute names and ``..``, links that lead out, devices, and what grows beyond a cap. Files are
made new, one by one, before any link exists, so that no name can lead through a link. Python's own filter (PEP 706) asks
`os.path.realpath`, which long paths could deceive (CVE-2025-4517).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import stat
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from minipipe import errors
from minipipe.store.database import os_error

FREE_BYTES = 1 << 30  # an archive may always grow to this
MOST_RATIO = 200  # or to so many times its own size, if that is more
MOST_MEMBERS = 2_000_000
_LONGEST_LINK = 4096
_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")


def stem(name: str) -> str:
    """The name of an archive without its suffix, "" if the name is not that of a zip or tar archive."""
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return ""


def unpack(path: Path, where: Path) -> Path:
    """The folder of an archive's content, made unless it is there.

    Args:
        path: a zip or tar archive, known by its suffix.
        where: a folder for it, which appears with all its content or not at all. One process at a time.

    Raises:
        NotFound: it is no archive, is damaged, or holds what is refused; the cause names the member.
        DiskFull: no room.
    """
    name = stem(path.name)
    draft = where.with_name(f"{where.name}.part")
    if not (where / name).is_dir():
        shutil.rmtree(draft, ignore_errors=True)
        try:
            (draft / name).mkdir(mode=0o700, parents=True)
            _extract(path, draft / name)
            os.rename(draft, where)
        except errors.MinipipeError:
            raise
        except Exception as error:  # a hostile archive makes its reader raise just about anything
            ours = os_error(error, where) if isinstance(error, OSError) else None
            cause = str(error) or type(error).__name__
            raise ours or errors.NotFound(f"the archive {path.name} cannot be unpacked", cause) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return where / name


def unpack_beside(path: Path) -> Path:
    """The folder of an archive's content, next to the folder that holds the archive alone; anything else as it is."""
    return unpack(path, path.parent.with_name(f"{path.parent.name}.x")) if stem(path.name) and path.is_file() else path


@dataclass(frozen=True, slots=True)
class _Member:
    """One entry of an archive.

    Attributes:
        name: as it stands there.
        kind: of `stat`'s file types; 0 for those that are refused.
        open: its bytes; of a link, where it leads.
        executable: whether it is a program.
    """

    name: str
    kind: int
    open: Callable[[], IO[bytes]]
    executable: bool


def _extract(path: Path, target: Path) -> None:
    room = max(FREE_BYTES, MOST_RATIO * path.stat().st_size)
    links: dict[Path, str] = {}
    with contextlib.closing(_zip(path) if path.name.lower().endswith(".zip") else _tar(path)) as members:
        for number, member in enumerate(members):
            if number >= MOST_MEMBERS:
                raise ValueError(f"it has more than {MOST_MEMBERS:,} members")
            parts = _parts(member.name)
            place = target.joinpath(*parts)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # of links too: all folders are real before any link is
            if member.kind == stat.S_IFLNK:
                with member.open() as source:
                    links[place] = _inward(os.fsdecode(source.read(_LONGEST_LINK)), member.name, len(parts) - 1)
            elif member.kind == stat.S_IFDIR:
                place.mkdir(mode=0o700, exist_ok=True)
            elif member.kind == stat.S_IFREG and parts:
                room -= _write(member, place, room)
            else:
                raise ValueError(f"{member.name!r} is neither a file nor a folder nor a link")
    for place, leads_to in links.items():
        os.symlink(leads_to, place)


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} would lie outside its folder")
    return path.parts


def _inward(leads_to: str, name: str, depth: int) -> str:
    """Where a link leads, if that is inside: ``..`` only in front, and no more of them than there are folders above the link.

    Those folders are real ones, so the rule holds for links to links as well, without asking the file system.
    """
    path = PurePosixPath(leads_to)
    up = next((number for number, part in enumerate(path.parts) if part != ".."), len(path.parts))
    if path.is_absolute() or up > depth or ".." in path.parts[up:]:
        raise ValueError(f"the link {name!r} leads to {leads_to!r}, outside its folder")
    return leads_to


def _write(member: _Member, place: Path, room: int) -> int:
    """Write a file; its size in bytes. Of two members with one name the later one stays (tar's rule)."""
    if place.is_file():
        place.unlink()
    done = 0
    with member.open() as source, open(place, "xb") as file:
        while chunk := source.read(1 << 20):
            done += len(chunk)
            if done > room:
                raise ValueError(f"it grows too large: {FREE_BYTES:,} bytes, or {MOST_RATIO} times its own size, are the most")
            file.write(chunk)
        os.fchmod(file.fileno(), 0o555 if member.executable else 0o444)
    return done


def _zip(path: Path) -> Generator[_Member, None, None]:
    with importlib.import_module("zipfile").ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16  # 0 where it was not made on Unix
            kind = stat.S_IFDIR if info.is_dir() else stat.S_IFMT(mode) or stat.S_IFREG
            yield _Member(info.filename, kind, partial(archive.open, info), bool(mode & stat.S_IXUSR))


def _tar(path: Path) -> Generator[_Member, None, None]:
    with importlib.import_module("tarfile").open(path) as archive:
        for info in archive:
            if info.issym():
                yield _Member(info.name, stat.S_IFLNK, partial(io.BytesIO, os.fsencode(info.linkname)), False)
            else:  # a hard link becomes a file of its own, with what it stands for
                kind = stat.S_IFDIR if info.isdir() else stat.S_IFREG if info.isreg() or info.islnk() else 0
                yield _Member(info.name, kind, partial(_content, archive, info), bool(info.mode & stat.S_IXUSR))


def _content(archive: Any, info: Any) -> IO[bytes]:
    found: IO[bytes] | None = archive.extractfile(info)
    if found is None:
        raise ValueError(f"{info.name!r} is a link to what is no file")
    return found
