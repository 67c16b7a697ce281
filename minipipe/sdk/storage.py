"""A local path for whatever a URL names, and back (ClearML's `StorageManager`).

| URL                          | what is read                                                                           |
|------------------------------|----------------------------------------------------------------------------------------|
| a prefix in MINIPIPE_URL_MAP | the file or folder that the map names for it; asked first, at every read               |
| a path, ``file://``          | the file or folder itself                                                              |
| ``minipipe://DIGEST``        | the content of an artifact, model or plot: a read-only copy under its own name         |
| ``http://``, ``https://``    | a download, kept in the store (see `minipipe.sdk.download`)                            |

What cannot be reached is None and one line on stderr.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import posixpath
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from minipipe import errors, settings
from minipipe.chance import fresh_id
from minipipe.sdk import archive, copies, download, notice, session
from minipipe.sdk.download import shown
from minipipe.shown import tell as on_stderr
from minipipe.store import records
from minipipe.store.home import Store

MAP_VARIABLE = "MINIPIPE_URL_MAP"
STORED = "minipipe"
_WEB = ("http", "https")
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
            remote_url: a path, or a URL of ``file``, ``minipipe``, ``http`` or ``https``. A local file is no copy.
            cache_context: accepted; there is one cache.
            extract_archive: return a folder with the content of a zip or tar archive, also of a local one.
            name: file name of the copy; default its own.
            force_download: fetch it again.

        Returns:
            The path; None, after one line on stderr, if it cannot be reached, or is an archive that must not be unpacked (see
            `minipipe.sdk.archive`).

        Raises:
            NotSupported: another scheme (``s3``, ``gs``, ``azure``…).
            ArtifactError: the bytes of a stored artifact are damaged.
        """
        try:
            return str(local_copy(str(remote_url), extract_archive, name, force_download))
        except errors.NotFound as error:
            tell(error)
            return None

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
            folder = Path(os.path.expanduser(local_folder)) if local_folder else _default_folder()
            source = local_copy(url, False, None, False)
            if source.is_dir():
                raise errors.NotFound(f"cannot read {shown(url)}", "it is a folder", "StorageManager.download_folder")
            if _scheme(url) in _WEB and source.stat().st_size == 0 and not skip_zero_size_check:
                raise errors.NotFound(f"cannot read {shown(url)}", "it is empty")
            path = source.name if _scheme(url) == STORED else unquote(urlsplit(url).path) if _scheme(url) else str(source)
            target = _below(folder.absolute(), path.rstrip("/") or source.name)
            if overwrite or not target.exists():
                _place(source, target)
            return str(target)
        except errors.NotFound as error:
            tell(error, silence_errors)
            return None

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
        target = str(local_folder or _default_folder())
        try:
            files = {path: name for path, name in _files_below(url) if fnmatch.fnmatch(path, match_wildcard or "*")}
            if not files:
                raise errors.NotFound(f"nothing to download from {shown(url)}", f"no file fits {match_wildcard or '*'}")
        except errors.NotFound as error:
            tell(error, silence_errors)
            return None
        for path, name in files.items():
            place = _below(Path(os.path.expanduser(target)).absolute(), name)
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
            UsageError: there is no such path: it is empty, or no text.
            OSError: it cannot be read or written.
        """
        _check_target(remote_url)
        if _scheme(str(remote_url)) not in ("", "file"):
            raise _refused(str(remote_url), "written", "use a local path, or Task.upload_artifact")
        _place(Path(os.path.expanduser(local_file)), _local(str(remote_url)))
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

        Raises:
            NotSupported, UsageError, OSError: as `upload_file`.
        """
        _check_target(remote_url)
        folder = Path(os.path.expanduser(local_folder))
        if not folder.is_dir():
            tell(errors.NotFound(f"cannot read {shown(str(local_folder))}", "there is no such folder"))
            return None
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
            tell(error, silence_errors)
            return None

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
            tell(error)
            return None
        before = f"{str(remote_url).rstrip('/')}/" if return_full_path else ""
        if with_metadata:
            return [{"name": before + name, "size": os.stat(path).st_size} for path, name in files]
        return [before + name for _, name in files]

    @classmethod
    def get_files_server(cls) -> str:
        """A ``file://`` URL of a folder in the store, for `upload_file`: it stands for ClearML's file server."""
        return (session.open_store().path / "files").as_uri()

    @classmethod
    def get_stream(cls, remote_url: str, chunk_size: int | None = None) -> Iterator[bytes] | None:
        """The content of a URL in pieces.

        Args:
            remote_url: as for `get_local_copy`; archives stay as they are.
            chunk_size: bytes of a piece; default 1 MiB.

        Returns:
            None, after one line on stderr, if it cannot be reached or is a folder.

        Raises:
            NotSupported: as `get_local_copy`.
        """
        try:
            path = local_copy(str(remote_url), False)
            if path.is_dir():
                raise errors.NotFound(f"cannot read {shown(str(remote_url))}", "it is a folder")
        except errors.NotFound as error:
            tell(error)
            return None
        return _pieces(path, max(1, int(chunk_size or 1 << 20)))

    @classmethod
    def get_metadata(cls, remote_url: str, return_full_path: bool = False, read_hash: bool = False) -> dict[str, Any] | None:
        """``name`` and ``size`` (bytes, None if its server does not say) of what a URL names.

        Args:
            remote_url: as for `get_local_copy`; nothing is downloaded.
            return_full_path: the name is the whole URL.
            read_hash: also ``hash``, the SHA-256 of a file that is at hand (of the web no server says one).

        Returns:
            None, after one line on stderr, if it cannot be reached.
        """
        url = str(remote_url)
        try:
            size = _size(url)
            path = None if _mapped(url) is None and _scheme(url) in _WEB else local_copy(url, False)
        except errors.NotFound as error:
            tell(error)
            return None
        name = path.name if path is not None else download.file_name(urlsplit(url).path)
        found: dict[str, Any] = {"size": None if size is None or size < 0 else size, "name": url if return_full_path else name}
        if read_hash and path is not None and path.is_file():
            with open(path, "rb") as file:
                found["hash"] = hashlib.file_digest(file, "sha256").hexdigest()
        return found

    @classmethod
    def set_cache_file_limit(cls, cache_file_limit: int, cache_context: str | None = None) -> int:
        """Keep at most so many downloads, those used last; what goes is fetched again when it is asked for.

        Args:
            cache_file_limit: a number of downloads; 0 for any.
            cache_context: accepted; there is one cache.

        Returns:
            The limit.
        """
        download.limit = max(0, int(cache_file_limit))
        download.prune(session.open_store())
        return download.limit

    @classmethod
    def storage_helper(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: always.
        """
        raise errors.NotSupported(
            "StorageManager.storage_helper is not offered by minipipe",
            "there are no drivers to choose from",
            "the methods of StorageManager",
        )

    @classmethod
    def set_report_download_chunk_size(cls, chunk_size_mb: int) -> None:
        """Accepted, without effect."""
        notice.recorded("StorageManager.set_report_download_chunk_size", "progress follows the time")

    @classmethod
    def set_report_upload_chunk_size(cls, chunk_size_mb: int) -> None:
        """Accepted, without effect."""
        notice.recorded("StorageManager.set_report_upload_chunk_size", "an upload is a local copy")


# -- reading ------------------------------------------------------------------------------------------------------------


def local_copy(url: str, extract: bool = True, name: str | None = None, force: bool = False) -> Path:
    """What `StorageManager.get_local_copy` returns.

    Raises:
        NotFound: it cannot be reached, or is an archive that cannot be unpacked.
        NotSupported: no scheme of ours.
    """
    found, scheme = _mapped(url), _scheme(url)
    if found is not None or scheme in ("", "file"):
        path = _existing(found or _local(url), url)
        return _unpacked_from(path) if extract else path
    if scheme == STORED:
        store = session.open_store()
        return copies.copy_of(store, _row(store, url), extract, name, force)
    if scheme not in _WEB:
        raise _refused(url, "read", f"download it first and pass the path, or map its prefix with {MAP_VARIABLE}")
    with download.entry(session.open_store(), f"{url}\n{name or ''}") as folder:
        path = download.fetch(folder, url, name, force)
        found = archive.unpack_beside(path) if extract else path
    download.prune(session.open_store())
    return found


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(size):
            yield piece


def tell(error: errors.NotFound, silent: bool = False) -> None:
    """Say in one line on stderr what could not be reached."""
    if not silent:
        on_stderr(f"error: {shown(error.message)}: {shown(error.cause)}")


def _row(store: Store, url: str) -> Any:
    row = records.row_of_digest(store, url.partition("://")[2])
    if row is None:
        raise errors.NotFound(f"cannot read {shown(url)}", f"no artifact, model or plot in {store.path} has this content")
    return row


def _unpacked_from(path: Path) -> Path:
    """What is in an archive of this machine, kept as a download is; anything else as it is."""
    if not path.is_file() or not archive.stem(path.name):
        return path
    facts = path.stat()
    with download.entry(session.open_store(), f"{path}\n{facts.st_mtime_ns}\n{facts.st_size}") as folder:
        found = archive.unpack(path, folder / "x")
    download.prune(session.open_store())
    return found


def _check_target(url: object) -> None:
    if not isinstance(url, (str, os.PathLike)) or not str(url).strip():
        raise errors.UsageError(f"remote_url says where to: a path or a file:// URL, not {url!r}")


def _existing(path: Path, url: str) -> Path:
    if not url or not os.path.exists(path):  # Path.exists raises for what is too long
        raise errors.NotFound(f"cannot read {shown(url)}", f"there is no {path}" if url else "it is empty")
    return path


def _size(url: str) -> int | None:
    """Bytes of a file, -1 if its server does not say, None for a folder."""
    found, scheme = _mapped(url), _scheme(url)
    if found is not None or scheme in ("", "file"):
        path = _existing(found or _local(url), url)
        return path.stat().st_size if path.is_file() else None
    if scheme == STORED:
        store = session.open_store()
        return copies.size(store, _row(store, url))
    if scheme not in _WEB:
        raise _refused(url, "read", f"map its prefix with {MAP_VARIABLE}")
    return download.size_of(url)


def _files_below(url: str) -> Iterator[tuple[Path, str]]:
    """(path, name relative to the folder) of each file below the folder that a URL names, sorted."""
    if _mapped(url) is None and _scheme(url) in _WEB:
        raise errors.NotFound(f"cannot list {shown(url)}", "a web server lists no files")
    folder = local_copy(url, _scheme(url) == STORED)
    if not folder.is_dir():
        raise errors.NotFound(f"cannot list {shown(url)}", "it is no folder")
    return iter([(path, path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*")) if path.is_file()])


# -- names and places ---------------------------------------------------------------------------------------------------


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def _default_folder() -> Path:
    return session.open_store().path / download.FOLDER / "files"


def _refused(url: str, verb: str, hint: str) -> errors.NotSupported:
    scheme = _scheme(url)
    return errors.NotSupported(f"{scheme}:// URLs are not {verb} here", f"{shown(url)}: there is no client for {scheme}", hint)


def _local(url: str) -> Path:
    """The path that is meant by a path or a ``file://`` URL, whether its special characters are quoted or not."""
    text = url[len("file://") :].removeprefix("localhost") if _scheme(url) == "file" else url
    meant = text if text == url or os.path.exists(os.path.expanduser(text)) else unquote(text)
    return Path(os.path.expanduser(meant)).absolute()


def _mapped(url: str) -> Path | None:
    """What the map names for a URL: the longest prefix wins, the rest is appended to a folder.

    A prefix ends where a part of the URL ends: ``http://a/data`` says nothing of ``http://a/database``.

    Raises:
        BadSetting: the map cannot be read.
        UsageError: the map says that nothing is read from there (null): tests that must not touch the network do.
    """
    for prefix, path in sorted(settings.load_settings().url_map, key=lambda pair: -len(pair[0])):
        target, rest = Path(path), url.removeprefix(prefix)
        if not path:
            if rest != url:
                raise errors.UsageError(
                    f"{shown(url)} is not mapped", f"{MAP_VARIABLE} has null for {prefix}", "say in the map what is to be read"
                )
            continue
        if url.rstrip("/") == prefix.rstrip("/"):
            return target
        if prefix and rest != url and (prefix.endswith("/") or rest.startswith(("/", "?", "#"))) and not os.path.isfile(target):
            return _below(target, unquote(re.split("[?#]", rest)[0]))
    return None


def _below(folder: Path, path: str) -> Path:
    """A path from outside, inside a folder: no ``..`` is left once it is taken for an absolute one."""
    return folder / posixpath.normpath(f"/{path}").lstrip("/")


def _place(source: Path, target: Path) -> None:
    """Copy a file; a reader of the target sees the old one or the new one, whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{fresh_id()}.part")
    try:
        shutil.copyfile(source, draft)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
