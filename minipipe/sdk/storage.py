"""A local path for whatever a URL names (ClearML's `StorageManager`), and back.

| URL                          | what is read                                                                              |
|------------------------------|-------------------------------------------------------------------------------------------|
| a prefix in MINIPIPE_URL_MAP | the file or folder that the map names: looked up first, for every read                    |
| a path, ``file://``          | the file or folder itself                                                                 |
| ``minipipe://DIGEST``        | content of an artifact: a read-only copy under its own name, gone with the process        |
| ``http://``, ``https://``    | a download, kept in the store under ``downloads/``; asked for again only if it changed    |

What cannot be reached is None and one line on stderr. Archives come extracted: see `_Unpacking` for what they may hold.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import importlib
import json
import os
import posixpath
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from minipipe import errors, hashing, settings
from minipipe.chance import fresh_id
from minipipe.sdk import notice, session
from minipipe.store import blobs, codec, locks, records
from minipipe.store.database import mapped, os_error
from minipipe.store.home import Store

MAP_VARIABLE = "MINIPIPE_URL_MAP"
EXTRACT_BYTES = 1 << 30  # an archive may always grow to this
EXTRACT_RATIO = 200  # or to so many times its own size, if that is more
EXTRACT_MEMBERS = 2_000_000
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
_EXTENSIONS = {"json": ".json", "bytes": ".bin", "npy": ".npy", "pickle": ".pkl", "folder": ".tar"}
_TRIES = 4  # of a download that breaks off; each has to get further than the one before
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 18
_METER_AFTER_S, _METER_AFTER_BYTES = 1.0, 16 << 20
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

Listing = list[str | dict[str, Any]]


class StorageManager:
    """Reads and copies files by URL. All methods belong to the class; there is nothing to set up."""

    @classmethod
    def get_local_copy(
        cls,
        remote_url: str,
        cache_context: str | None = None,
        extract_archive: bool = True,
        name: str | None = None,
        force_download: bool = False,
    ) -> str | None:
        """A local path with the content of a URL.

        Args:
            remote_url: a path, or a URL of ``file``, ``minipipe``, ``http`` or ``https``. A local one is returned as it is.
            cache_context: accepted; there is one cache.
            extract_archive: return the folder of a zip or tar archive that was fetched.
            name: file name of the copy; default its own.
            force_download: fetch it again.

        Returns:
            The path; None, after one line on stderr, if it cannot be reached or is an archive that must not be extracted.

        Raises:
            NotSupported: another scheme (``s3``, ``gs``, ``azure``…).
            ArtifactError: the bytes of a stored artifact are damaged.
        """
        try:
            return str(local_copy(str(remote_url), extract_archive, name, force_download))
        except errors.NotFound as error:
            return tell(error)

    @classmethod
    def download_file(
        cls,
        remote_url: str,
        local_folder: str | None = None,
        overwrite: bool = False,
        skip_zero_size_check: bool = False,
        silence_errors: bool = False,
    ) -> str | None:
        """Copy what a URL names into a folder, under the path that it has in the URL (ClearML's rule).

        Args:
            remote_url: as for `get_local_copy`; archives stay as they are.
            local_folder: default a folder of the store.
            overwrite: replace a file that exists there; else that one is returned.
            skip_zero_size_check: an empty download is no error.
            silence_errors: say nothing on stderr.

        Returns:
            The path of the file, None on an error.
        """
        url = str(remote_url)
        try:
            folder = Path(local_folder).expanduser() if local_folder else session.open_store().path / "downloads" / "files"
            source = local_copy(url, False, None, False)
            if source.is_dir():
                raise errors.NotFound(f"cannot read {shown(url)}", "it is a folder", "StorageManager.download_folder")
            if _remote(url) and source.stat().st_size == 0 and not skip_zero_size_check:
                raise errors.NotFound(f"cannot read {shown(url)}", "it is empty")
            # An absolute path has no "..": the URL cannot lead out of the folder.
            path = source.name if url.startswith("minipipe://") else unquote(urlsplit(url).path) if "://" in url else str(source)
            target = folder.absolute() / posixpath.normpath("/" + path).lstrip("/")
            if overwrite or not target.exists():
                _place(source, target)
            return str(target)
        except errors.NotFound as error:
            return None if silence_errors else tell(error)

    @classmethod
    def download_folder(
        cls,
        remote_url: str,
        local_folder: str | None = None,
        match_wildcard: str | None = None,
        overwrite: bool = False,
        skip_zero_size_check: bool = False,
        silence_errors: bool = False,
        max_workers: int | None = None,
    ) -> str | None:
        """Copy a folder and what is below it.

        Args:
            remote_url: a path or a URL that names a folder (a web server lists none).
            local_folder: where its content goes; default a folder of the store.
            match_wildcard: only files whose full name fits, such as ``*.json``.
            overwrite: replace files that exist there.
            skip_zero_size_check, max_workers: accepted, without effect.
            silence_errors: say nothing on stderr.

        Returns:
            `local_folder`, None on an error.
        """
        url = str(remote_url)
        target = str(local_folder or session.open_store().path / "downloads" / "files")
        try:
            files = {path: name for path, name in _files_below(url) if fnmatch.fnmatch(path, match_wildcard or "*")}
            if not files:
                raise errors.NotFound(f"nothing to download from {shown(url)}", f"no file fits {match_wildcard or '*'}")
        except errors.NotFound as error:
            return None if silence_errors else tell(error)
        for path, name in files.items():
            place = Path(target).expanduser().absolute() / name
            if overwrite or not place.exists():
                _place(Path(path), place)
        return target

    @classmethod
    def upload_file(cls, local_file: str, remote_url: str, wait_for_upload: bool = True, retries: int | None = None) -> str:
        """Copy a file to a path or a ``file://`` URL; a reader sees the old file or the new one, whole.

        Args:
            local_file: what to copy.
            remote_url: where to, with the file's name; folders are made. See `get_files_server`.
            wait_for_upload, retries: it is there when the call returns.

        Returns:
            `remote_url`.

        Raises:
            NotSupported: a URL of a server; `Task.upload_artifact` stores values.
            OSError: it cannot be read or written.
        """
        if _scheme(str(remote_url)) not in ("", "file"):
            raise _refused(str(remote_url), "written", "use a local path, or Task.upload_artifact")
        _place(Path(local_file).expanduser(), _local(str(remote_url)))
        return remote_url

    @classmethod
    def upload_folder(
        cls, local_folder: str, remote_url: str, match_wildcard: str | None = None, retries: int | None = None
    ) -> str | None:
        """Copy a folder and what is below it, as `upload_file` does each file.

        Args:
            local_folder: what to copy.
            remote_url: the folder that gets its content.
            match_wildcard: only files whose name fits, such as ``*.json``.
            retries: as there.

        Returns:
            `remote_url`; None, after one line on stderr, if there is no such folder.
        """
        folder = Path(local_folder).expanduser()
        if not folder.is_dir():
            return tell(errors.NotFound(f"cannot read {shown(str(local_folder))}", "there is no such folder"))
        for path in [path for path in sorted(folder.rglob(match_wildcard or "*")) if path.is_file()]:
            cls.upload_file(str(path), f"{str(remote_url).rstrip('/')}/{path.relative_to(folder).as_posix()}")
        return remote_url

    @classmethod
    def exists_file(cls, remote_url: str) -> bool:
        """True if the URL names a file that can be reached; False for folders.

        Raises:
            NotSupported: as `get_local_copy`.
        """
        try:
            return _size(str(remote_url)) is not None
        except errors.NotFound:
            return False

    @classmethod
    def get_file_size_bytes(cls, remote_url: str, silence_errors: bool = False) -> int | None:
        """Size of the file that a URL names, in bytes; None if it cannot be reached or does not say.

        Args:
            remote_url: as for `get_local_copy`; nothing is downloaded.
            silence_errors: say nothing on stderr.
        """
        try:
            size = _size(str(remote_url))
            return None if size is None or size < 0 else size
        except errors.NotFound as error:
            return None if silence_errors else tell(error)

    @classmethod
    def list(
        cls, remote_url: str, return_full_path: bool = False, with_metadata: bool = False, read_hash: bool = False
    ) -> Listing | None:
        """Names of the files below a folder, relative to it, sorted.

        Args:
            remote_url: a path or a URL that names a folder.
            return_full_path: put `remote_url` before each.
            with_metadata: dicts of ``name`` and ``size`` in bytes instead of names.
            read_hash: accepted; files have no stored hash.

        Returns:
            None, after one line on stderr, if there is no such folder or it cannot be listed (``http``; ClearML's rule).
        """
        try:
            files = list(_files_below(str(remote_url)))
        except errors.NotFound as error:
            return tell(error)
        before = f"{str(remote_url).rstrip('/')}/" if return_full_path else ""
        if with_metadata:
            return [{"name": before + name, "size": os.stat(path).st_size} for path, name in files]
        return [before + name for _, name in files]

    @classmethod
    def get_files_server(cls) -> str:
        """A ``file://`` URL of a folder in the store, for `upload_file`: it stands for ClearML's file server."""
        return (session.open_store().path / "files").as_uri()

    @classmethod
    def set_report_download_chunk_size(cls, chunk_size_mb: int) -> None:
        """Accepted, without effect."""
        notice.recorded("StorageManager.set_report_download_chunk_size", "progress follows the time")

    @classmethod
    def set_report_upload_chunk_size(cls, chunk_size_mb: int) -> None:
        """Accepted, without effect."""
        notice.recorded("StorageManager.set_report_upload_chunk_size", "an upload is a local copy")
