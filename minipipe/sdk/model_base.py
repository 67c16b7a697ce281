"""What all kinds of models share: facts, weights, metadata, reports (ClearML's `BaseModel`)."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minipipe import context, errors
from minipipe.sdk import copies, display, reports, session, storage
from minipipe.sdk.values import tags_of
from minipipe.store import models, plots, records
from minipipe.store.home import Store

ARCHIVED, PACKAGE = "archived", "package"  # ClearML's system tags


class ModelBase(reports.Reports):
    """A model of the store. Facts are read when asked for, so an object never goes stale.

    Attributes:
        _store: where it is.
        _row_id: its row; None while there is none yet (an `OutputModel` without weights).
        _lease: of the task that works on it here.
    """

    _store: Store
    _row_id: int | None
    _lease: context.Lease | None = None
    _task_uid: str | None = None

    def _known(self) -> models.Model:
        """The model as it is stored now.

        Raises:
            NotFound: it was removed, or has not been stored yet.
        """
        if self._row_id is None:
            raise errors.NotFound("the model has not been stored yet", hint="update_weights() stores it")
        return models.by_id(self._store, self._row_id)

    def _ensure(self) -> int:
        """Its row; made if there is none yet."""
        return self._known().id

    def _change(self, **facts: Any) -> None:
        models.change(self._store, self._lease, self._ensure(), **facts)

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """32 hex digits."""
        return self._known().uid

    @property
    def name(self) -> str:
        """Its name. Can be set."""
        return self._known().name

    @name.setter
    def name(self, value: str) -> None:
        self._change(name=str(value))

    @property
    def project(self) -> str:
        """Id of its project. Can be set, by id or name; a project of a new name is made."""
        return self._known().project_uid

    @project.setter
    def project(self, value: str) -> None:
        row = records.project_of(self._store, uid=str(value))
        self._change(project=row["name"] if row is not None else str(value))

    @property
    def comment(self) -> str:
        """Free text. Can be set."""
        return self._known().comment

    @comment.setter
    def comment(self, value: str) -> None:
        self._change(comment=str(value))

    @property
    def tags(self) -> list[str]:
        """Its tags, sorted. Can be set."""
        return list(self._known().tags)

    @tags.setter
    def tags(self, value: Sequence[str]) -> None:
        self._change(tags=tags_of(value))

    @property
    def system_tags(self) -> list[str]:
        """Its system tags, sorted; ``archived`` and ``package`` among them say what they say. Can be set."""
        known = self._known()
        special = [ARCHIVED] * known.archived + [PACKAGE] * known.packed
        return sorted({*known.system_tags, *special})

    @system_tags.setter
    def system_tags(self, value: Sequence[str]) -> None:
        given = tags_of(value)
        self._change(archived=ARCHIVED in given, system_tags=[tag for tag in given if tag not in (ARCHIVED, PACKAGE)])

    @property
    def config_text(self) -> str:
        """Its configuration ("design") as text."""
        return self._known().config

    @property
    def config_dict(self) -> dict[str, Any]:
        """Its configuration as a dict.

        Raises:
            ValueError: the text is no JSON object.
        """
        return read_config(self.config_text)

    @property
    def labels(self) -> dict[str, int]:
        """Label -> number."""
        return self._known().labels

    @property
    def task(self) -> str | None:
        """Id of the task that it is connected to here, else of the one that made it."""
        return self._task_uid or self.original_task

    @property
    def original_task(self) -> str | None:
        """Id of the task that made it; None if it was imported, or that task was deleted."""
        return self._known().task

    @property
    def url(self) -> str | None:
        """Of its weights: ``minipipe://`` and their digest, or what was registered; None if there are none yet.

        `StorageManager.get_local_copy` opens it.
        """
        return url_of(self._known())

    @property
    def published(self) -> bool:
        """True once it is published: weights, configuration and labels are fixed."""
        return self._known().published

    @property
    def framework(self) -> str:
        """ "PyTorch", "ScikitLearn" …, by what was said or by the weights' file name."""
        return self._known().framework

    @property
    def archived_tag(self) -> str:
        """The system tag of archived models."""
        return ARCHIVED

    def publish(self) -> None:
        """Fix weights, configuration and labels; clean-ups keep it. Transaction effect: one durable commit."""
        self._change(published=True)

    def archive(self) -> None:
        """Hide it from `query_models`. Transaction effect: one durable commit."""
        self._change(archived=True)

    def unarchive(self) -> None:
        """Undo `archive`. Transaction effect: one durable commit."""
        self._change(archived=False)

    # -- weights ------------------------------------------------------------------------------------------------------

    def get_weights(
        self, raise_on_error: bool = False, force_download: bool = False, extract_archive: bool = False
    ) -> str | None:
        """Path of a read-only copy of the weights under their own name, gone with this process; of registered ones a download.

        Args:
            raise_on_error: raise instead of returning None.
            force_download: make a new copy.
            extract_archive: give the folder of what is in a zip or tar archive.

        Returns:
            The path; None, after one line on stderr, if there are no weights or they cannot be reached.

        Raises:
            ValueError: the same, with `raise_on_error`.
            ArtifactError: the stored bytes are damaged.
        """
        known = self._known()
        try:
            if known.digest is not None:
                row = {"name": known.name, "codec": "file", "type": "custom", "digest": known.digest, "size": known.size}
                row["metadata"] = json.dumps({"name": known.file or known.name})
                return str(copies.copy_of(self._store, row, extract_archive, force=force_download))
            if known.url is None:
                raise errors.NotFound(f"cannot copy the weights of model {known.name!r}", "none were stored yet")
            return str(storage.local_copy(known.url, extract_archive, force=force_download))
        except errors.NotFound as error:
            if raise_on_error:
                raise
            storage.tell(error)
            return None

    def get_weights_package(
        self,
        return_path: bool = False,
        raise_on_error: bool = False,
        force_download: bool = False,
        extract_archive: bool = True,
    ) -> str | list[Path] | None:
        """The files of weights that were stored as a package.

        Args:
            return_path: give their folder rather than a list of what is in it.
            raise_on_error, force_download: as for `get_weights`.
            extract_archive: False gives the zip file itself.

        Raises:
            ValueError: the weights are no package.
        """
        if not self._known().packed:
            raise errors.UsageError(f"model {self.name!r} is no package", hint="get_weights()")
        path = self.get_weights(raise_on_error, force_download, extract_archive)
        if path is None or return_path:
            return path
        return sorted(Path(path).glob("*")) if Path(path).is_dir() else [Path(path)]

    # -- metadata -----------------------------------------------------------------------------------------------------

    def set_metadata(self, key: str, value: str, v_type: str | None = None) -> bool:
        """Store one entry. Returns True. Transaction effect: one durable commit.

        Args:
            key: its name.
            value: stored as text.
            v_type: what `get_metadata_casted` makes of it: float, int, bool, str, list, tuple or dict; others are no type.
        """
        kind = str(v_type) if str(v_type) in _KINDS else str(None)
        models.set_metadata(self._store, self._ensure(), {str(key): {"value": str(value), "type": kind}})
        return True

    def get_metadata(self, key: str) -> str | None:
        """One entry as text, None if there is none."""
        return self._known().metadata.get(str(key), {}).get("value")

    def get_metadata_casted(self, key: str) -> Any:
        """One entry as its type says; its text if it cannot be read so, None if there is none."""
        entry = self._known().metadata.get(str(key))
        return None if entry is None else cast(entry["value"], entry["type"])

    def get_all_metadata(self) -> dict[str, dict[str, str]]:
        """All entries: key -> {"key", "value", "type"}, all text."""
        return {key: {"key": key, **entry} for key, entry in self._known().metadata.items()}

    def get_all_metadata_casted(self) -> dict[str, Any]:
        """All entries: key -> value, as its type says."""
        return {key: cast(entry["value"], entry["type"]) for key, entry in self._known().metadata.items()}

    def set_all_metadata(self, metadata: Mapping[str, Mapping[str, Any]], replace: bool = True) -> bool:
        """Store several entries, ``{key: {"value": …, "type": …}}``; with `replace` all others go. Returns True.

        Transaction effect: one durable commit.
        """
        given = {str(key): {"value": str(entry.get("value")), "type": str(entry.get("type"))} for key, entry in metadata.items()}
        models.set_metadata(self._store, self._ensure(), given, replace)
        return True

    # -- reports ------------------------------------------------------------------------------------------------------

    def report_scatter2d(
        self,
        title: str,
        series: str,
        scatter: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        labels: list[str] | None = None,
        mode: str = "line",
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """As `Logger.report_scatter2d`; "line" is the same as "lines"."""
        super().report_scatter2d(title, series, scatter, iteration, xaxis, yaxis, labels, mode, comment, extra_layout)

    def report_table(  # type: ignore[override]  # ClearML's has no extra_data
        self,
        title: str,
        series: str,
        iteration: int | None = None,
        table_plot: Any = None,
        csv: str | None = None,
        url: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """As `Logger.report_table`."""
        super().report_table(title, series, iteration, table_plot, csv, url, extra_layout)

    def _home(self) -> Store:
        return self._store

    def _point(self, title: str, series: str, value: float | None, iteration: int | None) -> None:
        models.report(self._store, self._lease, self._ensure(), title, series, value, iteration)

    def _keep(self, new: plots.NewPlot) -> None:
        plots.report(self._store, self._lease, new, model_id=self._ensure())

    # -- refused ------------------------------------------------------------------------------------------------------

    def get_offline_mode_folder(self) -> str:
        """Refused: there is one mode.

        Raises:
            NotSupported: always.
        """
        raise errors.NotSupported("a model has no folder of its own", "everything is in the store", "minipipe export")

    def __repr__(self) -> str:
        return display.model_line(type(self).__name__, self._stored())

    def _repr_html_(self) -> str | None:
        known = self._stored()
        return display.model_block(known) if known is not None else None

    def _stored(self) -> models.Model | None:
        """The model as it is stored now; None if it is not, or not any more."""
        return display.quietly(self._known)


def url_of(known: models.Model) -> str | None:
    """The URL of a model's weights, None if it has none."""
    return f"minipipe://{known.digest}" if known.digest is not None else known.url


def config_of(text: str | None, value: Mapping[str, Any] | None) -> str:
    """A configuration as text: given as that or as a dict, which becomes JSON (D36).

    Raises:
        ValueError: both were given, or the wrong type.
    """
    if text and value:
        raise errors.UsageError("give config_text or config_dict, not both")
    if value is not None and not isinstance(value, Mapping):
        raise errors.UsageError(f"config_dict is a dict, not {type(value).__name__}")
    if text is not None and not isinstance(text, str):
        raise errors.UsageError(f"config_text is text, not {type(text).__name__}")
    return json.dumps(dict(value), indent=2, default=str) if value else text or ""


def read_config(text: str) -> dict[str, Any]:
    """A configuration as a dict; nothing gives an empty one.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise errors.UsageError("the configuration is no JSON", str(error), "config_text gives it as it is") from None
    if not isinstance(found, dict):
        raise errors.UsageError("the configuration is no JSON object", hint="config_text gives it as it is")
    return found


def check_labels(labels: Any) -> dict[str, int]:
    """Labels as they are stored.

    Raises:
        ValueError: not a dict of text -> integer.
    """
    if not isinstance(labels, Mapping) or not all(isinstance(k, str) and isinstance(v, int) for k, v in labels.items()):
        raise errors.UsageError("a label enumeration is a dict of text -> integer", repr(labels)[:80])
    return dict(labels)


def _truth(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes", "on")


_KINDS: dict[str, Callable[[str], Any]] = {
    "float": float,
    "int": int,
    "bool": _truth,
    "str": str,
    "basestring": str,
    "list": lambda text: list(_literal(text)),
    "tuple": lambda text: tuple(_literal(text)),
    "dict": lambda text: dict(_literal(text)),
}


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def cast(text: str, kind: str) -> Any:
    """A text as a value of a type; the text itself if that fails (ClearML's rule)."""
    try:
        return _KINDS.get(kind, str)(text)
    except (ValueError, TypeError, SyntaxError):
        return text


def store_of(task: Any) -> session.Current:
    """Where a task is: a `Task`, or the one that runs here if None is given.

    Raises:
        ValueError: none is given and none runs here.
    """
    if task is not None:
        return session.Current(task.store, task.row_id, task.id, task.lease)
    found = session.current()
    if found is None:
        raise errors.UsageError("no task runs here, and none was given", hint="Task.init(), or OutputModel(task=…)")
    return found
