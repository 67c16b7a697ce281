"""The models of a task, and what it says of models to come: labels, configuration (ClearML's `Task`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minipipe import errors
from minipipe.sdk import session
from minipipe.sdk.model import ModelsList
from minipipe.sdk.model_base import ModelBase, check_labels, config_of, read_config
from minipipe.sdk.output_model import OutputModel
from minipipe.sdk.task_base import TaskBase
from minipipe.store import edits, recorded, records
from minipipe.store import models as stored_models

_CONFIG = "General"  # ClearML's name of the model configuration among the configuration objects


class Models(dict[str, ModelsList]):
    """``{"input": …, "output": …}``; both are attributes, too."""

    @property
    def input(self) -> ModelsList:
        """What the task started from."""
        return self[stored_models.INPUT]

    @property
    def output(self) -> ModelsList:
        """What the task made; ``[-1]`` is the newest."""
        return self[stored_models.OUTPUT]


class TaskModels(TaskBase):
    """Models, labels, model configuration."""

    # -- models -------------------------------------------------------------------------------------------------------

    @property
    def models(self) -> Models:
        """Its models: ``task.models["output"][-1]``, ``task.models.input["name"]``."""
        return self.get_models()

    def get_models(self) -> Models:
        """See `models`."""
        return Models({role: ModelsList(self.store, self._linked(role)) for role in (stored_models.INPUT, stored_models.OUTPUT)})

    def _linked(self, role: str) -> list[stored_models.Linked]:
        return stored_models.of_task(self.store, self.row_id, role)

    @property
    def input_models_id(self) -> dict[str, str]:
        """Ids of its input models by the task's words for them."""
        return {one.name: one.model.uid for one in self._linked(stored_models.INPUT)}

    @property
    def output_models_id(self) -> dict[str, str]:
        """Ids of its output models by the task's words for them."""
        return {one.name: one.model.uid for one in self._linked(stored_models.OUTPUT)}

    def update_output_model(
        self,
        model_path: str,
        name: str | None = None,
        comment: str | None = None,
        tags: Sequence[str] | None = None,
        model_name: str | None = None,
        iteration: int | None = None,
        auto_delete_file: bool = True,
    ) -> str:
        """Store a file as an output model.

        Args:
            model_path: a file or folder; a URL is only recorded.
            name: the task's word for it; default the file's name.
            comment, tags: of the model.
            model_name: its name; default the task's, with `name`.
            iteration: what the task is at; default the last one that it reported.
            auto_delete_file: see `OutputModel.update_weights`.

        Returns:
            The URL of the weights.

        Raises:
            ValueError: no such file.
        """
        words = model_name or " - ".join(part for part in (records.names_of(self.store, self.row_id)[0], name) if part)
        made = OutputModel(self, name=words, comment=comment, tags=list(tags or ()))
        if name:
            made.connect(self, name)
        url = str(model_path) if "://" in str(model_path) and not str(model_path).startswith("file://") else None
        path = None if url else str(model_path).removeprefix("file://")
        return made.update_weights(path, None, None, auto_delete_file, url, iteration)

    def set_input_model(
        self,
        model_id: str | None = None,
        model_name: str | None = None,
        update_task_design: bool = True,
        update_task_labels: bool = True,
        name: str | None = None,
    ) -> None:
        """Say what model the task starts from.

        Args:
            model_id: its id, or
            model_name: its name; the newest of that name is taken.
            update_task_design: copy its configuration to the task.
            update_task_labels: copy its labels to the task.
            name: the task's word for it; default the name of the weights' file.

        Raises:
            ValueError: neither was given, or there is no such model.

        Transaction effect: one durable commit, and one for what is copied.
        """
        if not model_id and not model_name:
            raise errors.UsageError("give model_id or model_name")
        if model_id:
            known = stored_models.by_uid(self.store, str(model_id))
        else:
            found = stored_models.query(self.store, name=str(model_name))
            if not found:
                raise errors.NotFound(f"no model {model_name!r} in {self.store.path}", hint="Model.query_models() lists them")
            known = found[0]
        words = name or Path(known.file or known.url or "").stem or "Input Model"
        stored_models.link(self.store, self.lease, self.row_id, known.id, stored_models.INPUT, words)
        if update_task_design and known.config:
            self.set_model_config(config_text=known.config)
        if update_task_labels and known.labels:
            self.set_model_label_enumeration(known.labels)

    def remove_input_models(self, models_to_remove: Sequence[str | ModelBase]) -> None:
        """Say that the task does not start from these models, by object or id; the models stay."""
        uids = [one.id if isinstance(one, ModelBase) else str(one) for one in models_to_remove]
        known = [stored_models.by_uid(self.store, uid).id for uid in uids]
        stored_models.unlink(self.store, self.row_id, known, stored_models.INPUT)

    # -- labels -------------------------------------------------------------------------------------------------------

    def connect_label_enumeration(self, enumeration: dict[str, int], ignore_remote_overrides: bool = False) -> dict[str, int]:
        """Give the task a label enumeration, which its output models take over.

        Args:
            enumeration: label -> number. Where a worker executes the task, it is refilled with what the task has stored.
            ignore_remote_overrides: keep what stands in code in any case.

        Returns:
            The same dict.

        Raises:
            ValueError: no dict of text -> integer.
        """
        if not isinstance(enumeration, dict):
            raise errors.UsageError(f"a label enumeration is a dict, not {type(enumeration).__name__}")
        stored = self.get_labels_enumeration()
        within = session.within()
        if not session.local() and within is not None and within.uid == self.id and stored and not ignore_remote_overrides:
            enumeration.clear()
            enumeration.update(stored)
        else:
            self.set_model_label_enumeration(enumeration)
        return enumeration

    def set_model_label_enumeration(self, enumeration: Mapping[str, int] | None = None) -> None:
        """Store a label enumeration, which output models take over; nothing given forgets it.

        Raises:
            ValueError: no dict of text -> integer.

        Transaction effect: one durable commit.
        """
        recorded.set_setting(self.store, self.row_id, "labels", check_labels(enumeration or {}))

    def get_labels_enumeration(self) -> dict[str, int]:
        """Label -> number, empty if nothing was stored."""
        return dict(records.settings_of(self.store, self.row_id).get("labels") or {})

    def get_num_of_classes(self) -> int:
        """How many classes the labels stand for: one more than the highest number, which counts the background as 0 (ClearML's rule)."""
        return max(self.get_labels_enumeration().values(), default=-1) + 1

    def get_label_num_description(self) -> dict[int, str]:
        """Number -> its label.

        Raises:
            ValueError: several labels have one number (ClearML's rule).
        """
        labels = self.get_labels_enumeration()
        found = {number: label for label, number in labels.items()}
        if len(found) != len(labels):
            raise errors.UsageError("several labels have one number", str(labels)[:200])
        return dict(sorted(found.items()))

    @property
    def labels_stats(self) -> dict[str, Any]:
        """Statistics of labels: empty, nothing counts them (as in ClearML, where nothing does any more)."""
        return {}

    # -- configuration of models --------------------------------------------------------------------------------------

    def set_model_config(self, config_text: str | None = None, config_dict: Mapping[str, Any] | None = None) -> None:
        """Store the model configuration, as text or as a dict; output models take it over.

        Raises:
            ValueError: both were given, or the task has ended.

        Transaction effect: one durable commit.
        """
        edits.set_configuration(self.store, self.row_id, _CONFIG, config_of(config_text, config_dict))

    def get_model_config_text(self) -> str:
        """The model configuration as text, "" if there is none."""
        found = edits.configurations(self.store, self.row_id)
        return found.get(_CONFIG) or next(iter(found.values()), "")

    def get_model_config_dict(self) -> dict[str, Any]:
        """The model configuration as a dict.

        Raises:
            ValueError: it is no JSON object.
        """
        return read_config(self.get_model_config_text())

    def get_model_design(self) -> str:
        """As `get_model_config_text`."""
        return self.get_model_config_text()

    def update_model_desc(self, new_model_desc_file: str | None = None) -> None:
        """Store a file's text as the model configuration.

        Raises:
            OSError: it cannot be read (ClearML's rule).
        """
        path = Path(str(new_model_desc_file))
        if not path.is_file():
            raise OSError(f"no file {path} with a model description")
        self.set_model_config(config_text=path.read_text())
