"""The files of one version of a data set: what is in it, how it changes, how it is read (part of ClearML's `Dataset`)."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from minipipe import errors, states
from minipipe.chance import fresh_id
from minipipe.sdk import notice, session
from minipipe.sdk.logger import Logger
from minipipe.sdk.task import Task
from minipipe.shown import warn
from minipipe.store import datasets, edits, lookup, recorded

SYSTEM_TAG = "dataset"
HIDDEN = lookup.DATASETS


class DatasetFiles:
    """Facts and files of one version."""

    def __init__(self, task: Task) -> None:
        self._task = task

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """32 hex digits."""
        return self._task.id

    @property
    def name(self) -> str:
        """Its name."""
        return self._task.name

    @property
    def project(self) -> str:
        """Its project, as it was given."""
        return self._task.get_project_name().partition(HIDDEN)[0]

    @property
    def version(self) -> str:
        """Its version."""
        return str(self._task._column("version") or "")

    @property
    def tags(self) -> list[str]:
        """Its tags."""
        return self._task.get_tags()

    def add_tags(self, tags: Sequence[str] | str) -> None:
        """Add tags. Transaction effect: one durable commit."""
        self._task.add_tags(tags)

    def is_final(self) -> bool:
        """True once it cannot change any more."""
        return self._task.status in states.GOOD

    def get_logger(self) -> Logger:
        """For reports on the data set."""
        return self._task.get_logger()

    def list_files(self, dataset_path: str | None = None, recursive: bool = True, dataset_id: str | None = None) -> list[str]:
        """Paths of the files, sorted.

        Args:
            dataset_path: a path, a folder, or a pattern with ``*``; default all.
            recursive: a pattern's ``*`` also crosses folders.
            dataset_id: only files whose content came with that version.
        """
        known = datasets.files(self._task.store, self._task.row_id)
        return [
            path
            for path, one in known.items()
            if (dataset_id is None or one.origin == dataset_id) and _fits(path, dataset_path, recursive)
        ]

    # -- changing -----------------------------------------------------------------------------------------------------

    def add_files(
        self,
        path: str | Path,
        wildcard: Sequence[str] | str | None = None,
        local_base_folder: str | None = None,
        dataset_path: str | None = None,
        recursive: bool = True,
        verbose: bool = False,
        max_workers: int | None = None,
    ) -> int:
        """Add a file or the files of a folder; they are stored when this returns.

        Args:
            path: the file or folder.
            wildcard: of a folder only files that fit one of these patterns.
            local_base_folder: paths within the set are relative to it; default `path`.
            dataset_path: folder within the set where they go.
            recursive: also files in folders below.
            verbose: say each file.
            max_workers: accepted for ClearML.

        Returns:
            how many files are new or changed.

        Raises:
            UsageError: no such file or folder; `local_base_folder` does not hold it.
            IllegalMove: the set is final.

        Transaction effect: one durable commit per 64 files that are new or changed.
        """
        if path is None:
            raise errors.UsageError("there is no file to add: path is None", "what was to be downloaded was not reached")
        added, changed = self._put(_collect(Path(path), wildcard, local_base_folder, dataset_path, recursive), verbose)
        return len(added) + len(changed)

    def _put(self, given: Sequence[tuple[str, Path]], verbose: bool) -> tuple[list[str], list[str]]:
        self._check_open()
        added, changed = datasets.put(self._task.store, self._task.row_id, self.id, given)
        for name in (*added, *changed) if verbose else ():
            print(f"added {name}")
        return added, changed

    def _check_open(self) -> None:
        if self.is_final():
            raise errors.IllegalMove(
                f"data set {self.id[:8]} {self.name!r} is final", hint="Dataset.get(…, writable_copy=True) makes the next version"
            )

    def remove_files(self, dataset_path: str | None = None, recursive: bool = True, verbose: bool = False) -> int:
        """Take files out.

        Args:
            dataset_path, recursive: which, as for `list_files`.
            verbose: say each file.

        Returns:
            how many.

        Transaction effect: one durable commit.
        """
        self._check_open()
        gone = self.list_files(dataset_path, recursive)
        datasets.remove(self._task.store, self._task.row_id, gone)
        for name in gone if verbose else ():
            print(f"removed {name}")
        return len(gone)

    def sync_folder(
        self, local_path: str | Path, dataset_path: str | Path | None = None, verbose: bool = False
    ) -> tuple[int, int, int]:
        """Make the set, or a folder of it, equal to a local folder.

        Returns:
            (removed, added, changed) files.

        Raises:
            UsageError: no such folder.

        Transaction effect: some durable commits.
        """
        folder = Path(local_path)
        if not folder.is_dir():
            raise errors.UsageError(f"there is no folder {folder}")
        self._check_open()
        given = _collect(folder, None, None, None if dataset_path is None else str(dataset_path), True)
        names, base = {name for name, _ in given}, _inside(dataset_path)
        gone = [name for name in self.list_files() if name not in names and PurePosixPath(name).is_relative_to(base)]
        datasets.remove(self._task.store, self._task.row_id, gone)
        for name in gone if verbose else ():
            print(f"removed {name}")
        added, changed = self._put(given, verbose)
        return len(gone), len(added), len(changed)

    def upload(
        self,
        show_progress: bool = True,
        verbose: bool = False,
        output_url: str | None = None,
        compression: str | None = None,
        chunk_size: int | None = None,
        max_workers: int | None = None,
        retries: int = 3,
        preview: bool = True,
        upload_as_external_links: bool = False,
    ) -> bool | None:
        """Returns True at once: files are stored when they are added.

        Args:
            output_url, compression, chunk_size, preview: recorded.
            show_progress, verbose, max_workers, retries: nothing is transferred, shown or tried again.
            upload_as_external_links: refused.

        Raises:
            NotSupported: `upload_as_external_links`.

        Transaction effect: one durable commit if something is recorded.
        """
        if upload_as_external_links:
            raise errors.NotSupported("Dataset.upload(upload_as_external_links=True)", hint="files are stored in the store")
        stored = "files are stored as they are when they are added"
        given = notice.kept(
            "Dataset.upload",
            {
                "output_url": (output_url, None, "one store holds everything"),
                "compression": (compression, None, stored),
                "chunk_size": (chunk_size, None, stored),
                "preview": (preview, True, "there are no previews of files"),
            },
        )
        if given:
            recorded.set_setting(self._task.store, self._task.row_id, "upload", given)
        return True

    def finalize(self, verbose: bool = False, raise_on_error: bool = True, auto_upload: bool = False) -> bool:
        """Close it: nothing can change any more, and others can build on it.

        Args:
            verbose, auto_upload: accepted for ClearML.
            raise_on_error: False returns False instead.

        Returns:
            True.

        Raises:
            IllegalMove: it was stopped or failed, or is final.

        Transaction effect: one durable commit.
        """
        try:
            self._check_open()
            if self._task.is_main_task() or self._task.status == states.IN_PROGRESS:
                self._task.mark_completed()
            else:
                edits.move(self._task.store, self._task.row_id, states.COMPLETED, "final", force=True)
        except errors.IllegalMove:
            if raise_on_error:
                raise
            return False
        return True

    def publish(self, raise_on_error: bool = True) -> bool:
        """Keep it for good. Returns True.

        Raises:
            IllegalMove: it is not final (`raise_on_error=False` returns False).

        Transaction effect: one durable commit.
        """
        if not self.is_final():
            if raise_on_error:
                raise errors.IllegalMove(f"data set {self.id[:8]} {self.name!r} is not final", hint="finalize() it first")
            return False
        if self._task.status != states.PUBLISHED:
            self._task.publish()
        return True

    # -- reading ------------------------------------------------------------------------------------------------------

    def get_local_copy(
        self,
        use_soft_links: bool | None = None,
        part: int | None = None,
        num_parts: int | None = None,
        raise_on_error: bool = True,
        max_workers: int | None = None,
        files: list[str] | None = None,
    ) -> str:
        """A folder with its files, read-only; it is made once and kept with the store.

        Args:
            use_soft_links, max_workers: accepted for ClearML.
            part, num_parts: only the files number `part`, `part` + `num_parts` … in the order of their paths.
            raise_on_error: False has no effect, and says so once: damage always raises.
            files: only these paths.

        Raises:
            UsageError: it is not final, or has no such part or file.
            ArtifactError: stored bytes are missing or damaged.
        """
        if not raise_on_error:
            notice.say("Dataset.get_local_copy(raise_on_error=…)", "without effect: damage always raises")
        if not self.is_final():
            raise errors.UsageError(f"data set {self.id[:8]} {self.name!r} is not final", hint="finalize() it first")
        wanted = self._wanted(part, num_parts, files)
        if files is not None:
            folder = session.scratch() / fresh_id()
            datasets.write_out(self._task.store, wanted, _made(folder), 0o444)
            return str(folder)
        folder = self._cache() / ("all" if num_parts is None else f"part{part or 0}of{num_parts}")
        if not folder.is_dir():
            building = _made(folder.with_name(fresh_id()))
            try:
                datasets.write_out(self._task.store, wanted, building, 0o444)
                building.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
            finally:
                shutil.rmtree(building, ignore_errors=True)
        return str(folder)

    def get_mutable_local_copy(
        self,
        target_folder: str | Path,
        overwrite: bool = False,
        part: int | None = None,
        num_parts: int | None = None,
        raise_on_error: bool = True,
        max_workers: int | None = None,
    ) -> str | None:
        """Write its files into a folder, where they may be changed. Returns the folder.

        Args:
            target_folder: made if need be.
            overwrite: remove what is in it first; else it has to be empty.
            part, num_parts: as for `get_local_copy`.
            raise_on_error: False returns None if the folder is not empty.
            max_workers: accepted for ClearML.

        Raises:
            UsageError: the folder is not empty; the set is not final.
            ArtifactError: stored bytes are missing or damaged.
        """
        if not self.is_final():
            raise errors.UsageError(f"data set {self.id[:8]} {self.name!r} is not final", hint="finalize() it first")
        folder, wanted = Path(target_folder).expanduser().absolute(), self._wanted(part, num_parts, None)
        if folder.is_dir() and any(folder.iterdir()):
            if not overwrite:
                if raise_on_error:
                    raise errors.UsageError(f"folder {folder} is not empty", hint="overwrite=True removes what is in it")
                return None
            shutil.rmtree(folder)
        datasets.write_out(self._task.store, wanted, _made(folder), 0o644)
        return str(folder)

    def _wanted(self, part: int | None, parts: int | None, names: Sequence[str] | None) -> list[datasets.File]:
        known = datasets.files(self._task.store, self._task.row_id)
        if parts is not None and not 0 <= (part or 0) < parts:
            raise errors.UsageError(f"there is no part {part} of {parts}", "parts count from 0")
        missing = [name for name in names or () if name not in known]
        if missing:
            raise errors.UsageError(f"data set {self.id[:8]} {self.name!r} has no file {missing[0]!r}", hint="list_files()")
        chosen = [known[name] for name in names] if names is not None else list(known.values())
        return chosen if parts is None else chosen[(part or 0) :: parts]

    def _cache(self) -> Path:
        return self._task.cache_dir / "files"

    def _parents(self) -> list[str]:
        return str(self._task.get_user_properties(value_only=True).get("parents", "")).split()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise errors.NotSupported(f"Dataset.{name} is not offered by minipipe", hint="plain files and artifacts")

    def __repr__(self) -> str:
        return f"<Dataset {self.id[:8]} {self.name!r} {self.version} {self._task.status}>"


def _fits(path: str, wanted: str | None, recursive: bool) -> bool:
    """True if a path is the wanted one, lies in the wanted folder, or fits the pattern."""
    if not wanted:
        return True
    wanted = wanted.strip("/")
    if path == wanted or (recursive and PurePosixPath(path).is_relative_to(wanted)):
        return True
    folder, _, pattern = wanted.rpartition("/")
    if recursive:
        return PurePosixPath(path).is_relative_to(folder or ".") and (
            fnmatch.fnmatchcase(path, wanted) or fnmatch.fnmatchcase(PurePosixPath(path).name, pattern)
        )
    return str(PurePosixPath(path).parent) == (folder or ".") and fnmatch.fnmatchcase(PurePosixPath(path).name, pattern)


def _inside(dataset_path: str | Path | None) -> PurePosixPath:
    """A folder within a set.

    Raises:
        UsageError: it leads out of it.
    """
    place = PurePosixPath(str(dataset_path or ".").lstrip("/"))
    if ".." in place.parts:
        raise errors.UsageError(f"dataset_path {dataset_path!s} leads out of the data set")
    return place


def _collect(
    path: Path, wildcard: Sequence[str] | str | None, base: str | None, dataset_path: str | None, recursive: bool
) -> list[tuple[str, Path]]:
    """(path within the set, file), sorted."""
    root = Path(base) if base else path
    if path.is_file():
        files: Iterable[Path] = [path]
        root = root if root.is_dir() else root.parent
    elif path.is_dir():
        patterns = [wildcard] if isinstance(wildcard, str) else list(wildcard or ("*",))
        found = (each for pattern in patterns for each in (path.rglob(pattern) if recursive else path.glob(pattern)))
        files = {each for each in found if each.is_file()}
    else:
        raise errors.UsageError(f"there is no file or folder {path}")
    place, given = _inside(dataset_path), []
    for file in sorted(files):
        try:
            name = place / PurePosixPath(file.relative_to(root))
        except ValueError:
            raise errors.UsageError(f"{file} does not lie in local_base_folder {root}") from None
        try:
            str(name).encode()
        except UnicodeEncodeError:
            raise errors.UsageError(f"the name of {str(file)!r} is no text", hint="rename the file") from None
        given.append((str(name), file))
    if not given:
        warn(f"nothing to add in {path}", stacklevel=4)
    return given


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
