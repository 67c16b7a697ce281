"""Models that a task makes (ClearML's `OutputModel`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from minipipe import errors, meter
from minipipe.sdk import notice
from minipipe.sdk.frameworks import framework_of
from minipipe.sdk.model_base import ModelBase, check_labels, config_of, read_config, store_of, url_of
from minipipe.sdk.values import tags_of
from minipipe.store import blobs, edits, models, recorded, records


class OutputModel(ModelBase):
    """A model that a task makes. It is stored when it gets weights, metadata or a report; until then it is only planned.

    Args:
        task: the task; default the one that runs here.
        config_text, config_dict: its configuration, one of them; default the task's.
        label_enumeration: label -> number; default the task's.
        name: default the task's.
        tags: its tags.
        comment: added to "Created by task id: …".
        framework: default by the weights' file name.
        base_model_id: go on with this model instead of making a new one.

    Raises:
        ValueError: no task was given and none runs here, or there is no such model.
    """

    _default_uri: ClassVar[str | None] = None

    def __init__(
        self,
        task: Any = None,
        config_text: str | None = None,
        config_dict: dict[str, Any] | None = None,
        label_enumeration: Mapping[str, int] | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        comment: str | None = None,
        framework: Any = None,
        base_model_id: str | None = None,
    ) -> None:
        place = store_of(task)
        self._store, self._row_id, self._lease, self._task_uid = place.store, None, place.lease, place.uid
        self._task_row = place.row_id
        self._connect_name: str | None = None
        self._destination: str | None = None
        task_name, project = records.names_of(place.store, place.row_id)
        said = f"{'Overwritten' if base_model_id else 'Created'} by task id: {place.uid}"
        self._planned = models.NewModel(
            name or task_name,
            project,
            place.row_id,
            str(framework or ""),
            f"{said}\n{comment}" if comment else said,
            config_of(config_text, config_dict),
            check_labels(label_enumeration or self._task_labels()),
            tags_of(tags),
        )
        if base_model_id:
            self._take_over(base_model_id, name)

    def _take_over(self, uid: str, name: str | None) -> None:
        known, new = models.by_uid(self._store, str(uid)), self._planned
        comment = known.comment if new.comment in known.comment else f"{known.comment}\n{new.comment}".strip()
        facts: dict[str, Any] = {"comment": comment, "task_id": new.task_id, "project": new.project}
        for key, value in (("config", new.config), ("labels", new.labels), ("tags", new.tags), ("framework", new.framework)):
            if value:
                facts[key] = value
        models.change(self._store, self._lease, known.id, **facts, **({"name": name} if name else {}))
        self._row_id = known.id
        self._link(Path(known.file or known.url or "").stem or known.name)

    def _task_labels(self) -> dict[str, int]:
        return dict(records.settings_of(self._store, self._task_row).get("labels") or {})

    def _ensure(self) -> int:
        if self._row_id is None:
            config = self._planned.config or next(iter(edits.configurations(self._store, self._task_row).values()), "")
            self._planned = _with(self._planned, config=config)
            self._row_id = models.create(self._store, self._lease, self._planned).id
        return self._row_id

    def _link(self, name: str) -> None:
        models.link(self._store, self._lease, self._task_row, self._ensure(), models.OUTPUT, self._connect_name or name)

    def connect(self, task: Any, name: str | None = None, **kwargs: Any) -> None:
        """Say how the task calls it.

        Args:
            task: the task that it was made for.
            name: the task's word for it; default the name of its weights' file.

        Raises:
            ValueError: another task.
        """
        if task.id != self._task_uid:
            raise errors.UsageError(
                "an OutputModel belongs to the task that it was made for", hint=f"OutputModel(task={task.id!r})"
            )
        self._connect_name = name or self._connect_name
        if not task.get_model_config_text() and self.config_text:
            task.set_model_config(config_text=self.config_text)
        if not task.get_labels_enumeration() and self.labels:
            task.set_model_label_enumeration(self.labels)
        if self._row_id is not None and name:
            self._link(name)

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """32 hex digits; "" until it is stored."""
        return "" if self._row_id is None else super().id

    @property
    def name(self) -> str:
        """Its name. Can be set."""
        return self._planned.name if self._row_id is None else super().name

    @name.setter
    def name(self, value: str) -> None:
        self._plan_or_change(name=str(value))

    @property
    def comment(self) -> str:
        """Free text. Can be set."""
        return self._planned.comment if self._row_id is None else super().comment

    @comment.setter
    def comment(self, value: str) -> None:
        self._plan_or_change(comment=str(value))

    @property
    def tags(self) -> list[str]:
        """Its tags, sorted. Can be set."""
        return sorted(set(self._planned.tags)) if self._row_id is None else super().tags

    @tags.setter
    def tags(self, value: Sequence[str]) -> None:
        self._plan_or_change(tags=tags_of(value))

    @property
    def framework(self) -> str:
        """ "PyTorch", "ScikitLearn" …"""
        return self._planned.framework if self._row_id is None else super().framework

    @property
    def url(self) -> str | None:
        """See `Model.url`."""
        return None if self._row_id is None else super().url

    @property
    def published(self) -> bool:
        """True once it is published."""
        return self._row_id is not None and super().published

    @property
    def config_text(self) -> str:
        """Its configuration ("design") as text. Can be set, see `update_design`."""
        return self._planned.config if self._row_id is None else super().config_text

    @config_text.setter
    def config_text(self, value: str) -> None:
        self.update_design(config_text=value)

    @property
    def config_dict(self) -> dict[str, Any]:
        """Its configuration as a dict. Can be set, see `update_design`."""
        return read_config(self.config_text)

    @config_dict.setter
    def config_dict(self, value: dict[str, Any]) -> None:
        self.update_design(config_dict=value)

    @property
    def labels(self) -> dict[str, int]:
        """Label -> number. Can be set, see `update_labels`."""
        return dict(self._planned.labels) if self._row_id is None else super().labels

    @labels.setter
    def labels(self, value: Mapping[str, int]) -> None:
        self.update_labels(value)

    def _plan_or_change(self, **facts: Any) -> None:
        if self._row_id is None:
            self._planned = _with(self._planned, **facts)
        else:
            self._change(**facts)

    def update_design(self, config_text: str | None = None, config_dict: dict[str, Any] | None = None) -> bool:
        """Change its configuration, and the task's where that has none. Returns True.

        Raises:
            ValueError: it is published, or both were given.
        """
        text = config_of(config_text, config_dict)
        self._plan_or_change(config=text)
        if text and not edits.configurations(self._store, self._task_row):
            with contextlib.suppress(errors.IllegalMove):  # of a task that has ended it stays as it is
                edits.set_configuration(self._store, self._task_row, "General", text)
        return True

    def update_labels(self, labels: Mapping[str, int]) -> Any:
        """Change its labels, and the task's. Returns True.

        Raises:
            ValueError: it is published, or no dict of text -> integer.
        """
        found = check_labels(labels)
        self._plan_or_change(labels=found)
        recorded.set_setting(self._store, self._task_row, "labels", found)
        return True

    # -- weights ------------------------------------------------------------------------------------------------------

    def update_weights(
        self,
        weights_filename: str | None = None,
        upload_uri: str | None = None,
        target_filename: str | None = None,
        auto_delete_file: bool = True,
        register_uri: str | None = None,
        iteration: int | None = None,
        update_comment: bool = True,
        is_package: bool = False,
        async_enable: bool = True,
    ) -> str:
        """Give it weights in the place of those it had; they are durable when the call returns.

        Args:
            weights_filename: a file, or a folder (which is packed); stored. Or
            register_uri: a URL or path that is only recorded, not read.
            upload_uri: recorded: one store holds everything.
            target_filename: name of the stored file; default its own.
            auto_delete_file: remove the file then, if an upload destination was asked for (`upload_uri`, the task's ``output_uri`` …);
                without one the file stays (ClearML's rule).
            iteration: what the task is at; default the last one that it reported.
            update_comment: note the file's name in the comment.
            is_package: the file is a zip of several files.
            async_enable: without effect: nothing is left to wait for.

        Returns:
            Its `url`.

        Raises:
            ValueError: the model is published, no such file, or not exactly one of file and URI was given.
            AttemptLost: this attempt does not own its task any more.

        Transaction effect: up to four durable commits; a monitored model is seen on the pipeline after the last.
        """
        if bool(weights_filename) == bool(register_uri):
            raise errors.UsageError("give either weights_filename or register_uri")
        if self.published:
            raise errors.IllegalMove(f"model {self.name!r} is published and cannot be changed", hint="make a new OutputModel")
        if upload_uri:
            self.set_upload_destination(upload_uri)
        if register_uri:
            return self._give(str(register_uri), None, target_filename, iteration, update_comment, is_package)
        path = Path(str(weights_filename)).expanduser()
        if path.is_dir():
            name = target_filename or path.name
            return self.update_weights_package(None, str(path), None, name, auto_delete_file, iteration)
        if not path.is_file():
            raise errors.UsageError(f"no file {path} to store as weights")
        url = self._give(str(weights_filename), path, target_filename, iteration, update_comment, is_package)
        if auto_delete_file and self.upload_storage_uri:
            path.unlink(missing_ok=True)
        return url

    def _give(self, source: str, path: Path | None, target: str | None, iteration: int | None, note: bool, packed: bool) -> str:
        file = Path(target or source).name
        self._ensure()
        if iteration is None:
            iteration = records.last_iteration(self._store, self._task_row)
        if path is None:
            url = source if "://" in source else Path(source).expanduser().absolute().as_uri()
            models.set_weights(self._store, self._lease, self._ensure(), url=url, file=file, packed=packed, iteration=iteration)
        else:
            with meter.Meter(file, 0, path.stat().st_size) as progress, blobs.watched(progress.show):
                writer = _written(self, path)
            models.set_weights(
                self._store, self._lease, self._ensure(), writer=writer, file=file, packed=packed, iteration=iteration
            )
        facts: dict[str, Any] = {} if self.framework else {"framework": framework_of(file, packed)}
        line = f"snapshot {source} stored"
        if note and line not in self.comment.splitlines():
            facts["comment"] = f"{line}\n{self.comment}".strip()
        if facts:
            self._change(**facts)
        self._link(Path(file).stem or "Output Model")
        return str(url_of(self._known()))

    def update_weights_package(
        self,
        weights_filenames: Sequence[str] | None = None,
        weights_path: str | None = None,
        upload_uri: str | None = None,
        target_filename: str | None = None,
        auto_delete_file: bool = True,
        iteration: int | None = None,
        async_enable: bool = True,
    ) -> str:
        """Give it several files as weights, packed into a zip.

        Args:
            weights_filenames: the files; they keep their places below the folder that is common to them. Or
            weights_path: a folder with all that is below it.
            upload_uri, auto_delete_file, iteration, async_enable: see `update_weights`.
            target_filename: name of the zip; default ``model_package.zip``.

        Returns:
            Its `url`.

        Raises:
            ValueError: not exactly one of files and folder, one is missing, or the model is published.
        """
        if bool(weights_filenames) == bool(weights_path):
            raise errors.UsageError("give either weights_filenames or weights_path")
        names = [weights_filenames] if isinstance(weights_filenames, str) else list(weights_filenames or ())
        files = [Path(name).expanduser() for name in names] or sorted(Path(str(weights_path)).expanduser().rglob("*"))
        missing = [file for file in files if not file.exists()]
        if missing or not files:
            raise errors.UsageError(f"no file {missing[0]} to pack" if missing else f"nothing to pack in {weights_path}")
        name = target_filename or "model_package.zip"
        with _packed(files, weights_path) as path:
            url = self.update_weights(
                str(path), upload_uri, name if name.endswith(".zip") else f"{name}.zip", False, None, iteration, False, True
            )
        if auto_delete_file and self.upload_storage_uri:
            _remove(files, weights_path)
        return url

    # -- destinations -------------------------------------------------------------------------------------------------

    @property
    def upload_storage_uri(self) -> str | None:
        """What was asked for as an upload destination, None if nothing was; the weights are in the store anyway."""
        kept = records.settings_of(self._store, self._task_row).get("output_uri")
        return self._destination or (str(kept) if kept else None) or OutputModel._default_uri

    def set_upload_destination(self, uri: str) -> None:
        """Recorded: one store holds everything."""
        notice.recorded("OutputModel.set_upload_destination", "one store holds everything")
        self._destination = str(uri) if uri else self._destination

    @classmethod
    def set_default_upload_uri(cls, output_uri: str | None) -> None:
        """Recorded, for all models of this process: one store holds everything."""
        notice.recorded("OutputModel.set_default_upload_uri", "one store holds everything")
        OutputModel._default_uri = str(output_uri) if output_uri else None

    @classmethod
    def wait_for_uploads(cls, timeout: float | None = None, max_num_uploads: int | None = None) -> None:
        """Weights are stored when `update_weights` returns: there is nothing to wait for."""


def _with(planned: models.NewModel, **facts: Any) -> models.NewModel:
    return models.NewModel(**{**{name: getattr(planned, name) for name in models.NewModel.__slots__}, **facts})


def _written(model: OutputModel, path: Path) -> blobs.Writer:
    writer = blobs.Writer(model._store)
    try:
        with open(path, "rb") as file:
            while part := file.read(8 << 20):
                writer.write(part)
    except BaseException:
        writer.discard()
        raise
    return writer


@contextlib.contextmanager
def _packed(files: Sequence[Path], folder: str | None) -> Iterator[Path]:
    """A zip of files, gone after the block. Members have no times: equal files give equal bytes."""
    absolute = [file.absolute() for file in files]
    base = Path(folder).expanduser().absolute() if folder else Path(os.path.commonpath([file.parent for file in absolute]))
    scratch = Path(tempfile.mkdtemp(prefix="minipipe-"))
    try:
        target = scratch / "package.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for file in absolute:
                if file.is_file():
                    member = zipfile.ZipInfo(file.relative_to(base).as_posix(), (1980, 1, 1, 0, 0, 0))
                    with open(file, "rb") as source, archive.open(member, "w", force_zip64=True) as place:
                        shutil.copyfileobj(source, place, 8 << 20)
        yield target
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove(files: Sequence[Path], folder: str | None) -> None:
    for file in files:
        if file.is_file():
            file.unlink()
    if folder:
        with contextlib.suppress(OSError):
            shutil.rmtree(Path(folder).expanduser())
