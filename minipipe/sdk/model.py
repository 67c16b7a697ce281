"""Models that exist: looked up, read, used as an input of a task (ClearML's `Model` and `InputModel`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from minipipe import errors
from minipipe.sdk import notice, session
from minipipe.sdk.frameworks import framework_of
from minipipe.sdk.model_base import ModelBase, check_labels, config_of, read_config
from minipipe.sdk.output_model import OutputModel
from minipipe.sdk.values import tags_of
from minipipe.shown import tell
from minipipe.store import models, records, search
from minipipe.store.home import Store

__all__ = ["InputModel", "Model", "ModelsList", "OutputModel"]

_EMPTY = "empty"  # ClearML's id of a model that is not stored


class Model(ModelBase):
    """A model of the store, by its id.

    Args:
        model_id: 32 hex digits.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, model_id: str) -> None:
        self._store = session.open_store()
        self._row_id = models.by_uid(self._store, str(model_id)).id

    @classmethod
    def _at(cls, store: Store, row_id: int) -> Self:
        """The model of a row, also of another store than this process's own."""
        made = object.__new__(cls)
        made._store, made._row_id = store, row_id
        return made

    def get_local_copy(
        self, extract_archive: bool | None = None, raise_on_error: bool = False, force_download: bool = False
    ) -> str | None:
        """As `get_weights`; a package comes as its folder unless `extract_archive` says otherwise."""
        packed = self._known().packed
        return self.get_weights(raise_on_error, force_download, packed if extract_archive is None else extract_archive)

    @classmethod
    def query_models(
        cls,
        project_name: str | None = None,
        model_name: str | None = None,
        tags: Sequence[str] | None = None,
        only_published: bool = False,
        include_archived: bool = False,
        max_results: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[Model]:
        """Models that fit, newest first.

        Args:
            project_name, model_name: exact.
            tags: one of them; ``-x`` excludes; ``__$all``, ``__$or``, ``__$and``, ``__$not`` as for tasks.
            only_published: leave out all others.
            include_archived: take archived ones, too.
            max_results: at most so many.
            metadata: entries that must have these values, as text.

        Raises:
            ValueError: no such project.
        """
        store = session.open_store()
        if project_name and records.project_of(store, name=project_name) is None:
            raise errors.NotFound(f"no project {project_name!r} in {store.path}")
        found = models.query(store, project=project_name, name=model_name, published=only_published, archived=include_archived)
        wanted = {str(key): str(value) for key, value in (metadata or {}).items()}
        fitting = [
            one
            for one in found
            if search.tags_fit(tags or (), one.tags)
            and all(one.metadata.get(key, {}).get("value") == value for key, value in wanted.items())
        ]
        return [Model._at(store, one.id) for one in fitting[:max_results]]

    @classmethod
    def remove(
        cls,
        model: str | ModelBase,
        delete_weights_file: bool = True,
        force: bool = False,
        raise_on_errors: bool = False,
    ) -> bool:
        """Remove a model from the store.

        Args:
            model: a model or its id.
            delete_weights_file: stored weights go with the model (False is not possible, which is said once); a file or URL that was
                only registered is left alone.
            force: even if it is published or an input of a task.
            raise_on_errors: raise instead of returning False.

        Returns:
            True if it is gone.

        Raises:
            ValueError: with `raise_on_errors`, if it does not exist or is used.
        """
        if not delete_weights_file:
            notice.say("Model.remove(delete_weights_file=False)", "stored weights belong to their model and go with it")
        try:
            store = session.open_store()
            uid = model.id if isinstance(model, ModelBase) else str(model)
            models.remove(store, models.by_uid(store, uid).id, force)
        except (errors.NotFound, errors.IllegalMove) as error:
            if raise_on_errors:
                raise
            tell(f"error: {error.message}")
            return False
        return True


class InputModel(Model):
    """A model that a task starts from, by its id or as the newest that fits.

    Args:
        model_id: 32 hex digits; all other arguments are then ignored (ClearML's rule).
        name, project, tags, only_published: see `query_models`.

    Raises:
        ValueError: none fits.
    """

    _bare: tuple[str, dict[str, int]] | None = None  # configuration and labels of a model that is not stored

    def __init__(
        self,
        model_id: str | None = None,
        name: str | None = None,
        project: str | None = None,
        tags: Sequence[str] | None = None,
        only_published: bool = False,
    ) -> None:
        if not model_id:
            found = self.query_models(project, name, tags, only_published, max_results=1)
            if not found:
                asked = {"project": project, "name": name, "tags": tags, "published": only_published or None}
                words = ", ".join(f"{key}={value!r}" for key, value in asked.items() if value)
                raise errors.NotFound(f"no model fits {words or 'this'}", hint="Model.query_models() lists them")
            model_id = found[0].id
        super().__init__(model_id)

    @classmethod
    def import_model(
        cls,
        weights_url: str,
        config_text: str | None = None,
        config_dict: dict[str, Any] | None = None,
        label_enumeration: Mapping[str, int] | None = None,
        name: str | None = None,
        project: str | None = None,
        tags: list[str] | None = None,
        comment: str | None = None,
        is_package: bool = False,
        create_as_published: bool = False,
        framework: str | None = None,
    ) -> Self:
        """Register weights that lie somewhere, without reading them; a URL that is registered already gives that model.

        Args:
            weights_url: a URL, or a path (which becomes a ``file://`` URL).
            config_text, config_dict: its configuration, one of them.
            label_enumeration: label -> number.
            name: default "Imported by" the task that runs here, else the file's name.
            project: default that of the task that runs here, else "Models".
            tags, comment: as they say.
            is_package: the file is a zip of several files.
            create_as_published: publish it at once.
            framework: default by the file's name.

        Transaction effect: one durable commit, none if it is registered already.
        """
        url = conform(weights_url)
        store, current = session.open_store(), session.current()
        known = models.query(store, url=url)
        if known:
            return cls._at(store, known[0].id)
        home, text = "Models", comment or ""
        if current is not None:
            home = records.names_of(store, current.row_id)[1]
            text = f"Imported by task id: {current.uid}" + (f"\n{comment}" if comment else "")
            name = name or f"Imported by {records.names_of(store, current.row_id)[0]}"
        new = models.NewModel(
            name or Path(url).stem,
            project or home,
            framework=framework or framework_of(url, is_package),
            comment=text,
            config=config_of(config_text, config_dict),
            labels=check_labels(label_enumeration or {}),
            tags=tags_of(tags),
            url=url,
            packed=is_package,
        )
        made = cls._at(store, models.create(store, None, new).id)
        if create_as_published:
            made.publish()
        return made

    @classmethod
    def load_model(cls, weights_url: str, load_archived: bool = False) -> Self | None:
        """The newest model whose weights were registered at a URL or path; None if there is none."""
        store = session.open_store()
        found = models.query(store, url=conform(weights_url), archived=load_archived)
        return cls._at(store, found[0].id) if found else None

    @classmethod
    def empty(
        cls,
        config_text: str | None = None,
        config_dict: dict[str, Any] | None = None,
        label_enumeration: Mapping[str, int] | None = None,
    ) -> Self:
        """A model without weights that is not stored: `connect` gives its configuration and labels to a task."""
        made = object.__new__(cls)
        made._store, made._row_id = session.open_store(), None
        made._bare = (config_of(config_text, config_dict), check_labels(label_enumeration or {}))
        return made

    @property
    def id(self) -> str:
        """32 hex digits; "empty" for one that is not stored."""
        return _EMPTY if self._bare is not None else super().id

    @property
    def config_text(self) -> str:
        """Its configuration ("design") as text."""
        return self._bare[0] if self._bare is not None else super().config_text

    @property
    def config_dict(self) -> dict[str, Any]:
        """Its configuration as a dict."""
        return read_config(self.config_text)

    @property
    def labels(self) -> dict[str, int]:
        """Label -> number."""
        return dict(self._bare[1]) if self._bare is not None else super().labels

    def connect(self, task: Any, name: str | None = None, ignore_remote_overrides: bool = False) -> None:
        """Make it an input of a task. Where a worker executes the task, the input that the task has under this name takes its place.

        Args:
            task: the task.
            name: the task's word for it; default the name of the weights' file, else "Input Model".
            ignore_remote_overrides: keep this model in any case.

        The task's model configuration and labels are taken from it where the task has none.
        """
        self._task_uid = task.id
        name = name or (_stem(self.url) if self._bare is None else "") or "Input Model"
        if not session.local() and task.is_current_task() and not ignore_remote_overrides:
            stored = task.input_models_id
            chosen = stored.get(name) or next(iter(stored.values()), None)
            if chosen:
                self._row_id, self._bare = models.by_uid(self._store, chosen).id, None
                return
        if self._bare is None:
            task.set_input_model(model_id=self.id, name=name, update_task_design=False, update_task_labels=False)
        if not task.get_model_config_text() and self.config_text:
            task.set_model_config(config_text=self.config_text)
        if not task.get_labels_enumeration() and self.labels:
            task.set_model_label_enumeration(self.labels)


class ModelsList(list[Model]):
    """Models of a task in the order they were linked; ``found["name"]`` gives the newest of that name."""

    def __init__(self, store: Store, linked: Iterable[models.Linked]) -> None:
        self._names: dict[str, Model] = {}
        for one in linked:
            self.append(Model._at(store, one.model.id))
            self._names[one.name] = self[-1]

    def __getitem__(self, item: Any) -> Any:
        return self._names[item] if isinstance(item, str) else super().__getitem__(item)

    def get(self, key: str | int, default: Any = None) -> Any:
        """A model by name or place, `default` if there is none."""
        try:
            return self[key]
        except (KeyError, IndexError):
            return default

    def keys(self) -> list[str]:
        """The names, in the order of their first models."""
        return list(self._names)


def conform(url: Any) -> str:
    """A URL as it is registered: a path becomes a ``file://`` URL.

    Raises:
        ValueError: it is empty.
    """
    text = str(url or "").strip()
    if not text:
        raise errors.UsageError("weights_url is empty")
    return text if "://" in text else Path(text).expanduser().absolute().as_uri()


def _stem(url: str | None) -> str:
    return Path(url).stem if url and not url.startswith("minipipe://") else ""
