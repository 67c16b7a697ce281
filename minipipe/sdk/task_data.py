"""A task as data: read, written to a dict and back; projects and lists in ClearML's form (ClearML's `Task`)."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Mapping
from typing import Any, Self

from minipipe import errors, states
from minipipe.sdk import session
from minipipe.sdk.api_client import APIClient, Entry
from minipipe.sdk.model_base import url_of
from minipipe.sdk.task_base import TaskBase
from minipipe.sdk.task_facts import TaskFacts
from minipipe.store import edits, exchange, models, recorded, records, search, tasks

VERSION = 1  # of what `export_task` writes
_RESULTS = ("last_iteration", "status_changed", "status_reason", "status_message", "models", "active_duration", "last_worker")


class TaskData(TaskFacts):
    """The whole task at once."""

    @property
    def data(self) -> Any:
        """Its facts as ClearML's server names them, as they are now; read-only: ``task.data.script.repository``, ``data.hyperparams``…"""
        return _entry(self._facts())

    @property
    def log(self) -> logging.Logger:
        """A logger of Python for what a script says about this task; what it prints goes to the task's log."""
        return logging.getLogger(f"minipipe.task.{self.id[:8]}")

    @classmethod
    def normalize_id(cls, id: str) -> str:
        """An id without spaces around it; None if it is empty (ClearML's rule)."""
        return id.strip() if id else None  # type: ignore[return-value]

    @classmethod
    def resolve_id(cls, obj: Any) -> Any:
        """The id of a task; everything else as it is (ClearML's rule)."""
        return obj.id if isinstance(obj, TaskBase) else obj

    # -- destinations -------------------------------------------------------------------------------------------------

    @property
    def output_uri(self) -> str | None:
        """What `Task.init` or an assignment recorded as output destination; None if nothing. One store holds everything."""
        found = records.settings_of(self.store, self.row_id).get("output_uri")
        return None if found in (None, False) else str(found)

    @output_uri.setter
    def output_uri(self, value: str | bool | None) -> None:
        recorded.set_setting(self.store, self.row_id, "output_uri", value if value is None else str(value))

    @property
    def storage_uri(self) -> str | None:
        """As `output_uri`."""
        return self.output_uri

    @storage_uri.setter
    def storage_uri(self, value: str | bool | None) -> None:
        recorded.set_setting(self.store, self.row_id, "output_uri", value if value is None else str(value))

    def get_output_destination(self, extra_path: str | None = None, **kwargs: Any) -> str | None:
        """As `output_uri`; `extra_path` is put behind it."""
        found = self.output_uri
        return f"{found.rstrip('/')}/{extra_path}" if found and extra_path else found

    # -- projects and lists -------------------------------------------------------------------------------------------

    @classmethod
    def get_projects(cls, **kwargs: Any) -> list[Any]:
        """Projects with ``id``, ``name`` and ``basename``; `kwargs` as for ``APIClient().projects.get_all``."""
        return list(APIClient().projects.get_all(**kwargs))

    def get_project_object(self) -> Any:
        """Its project, with ``id``, ``name`` and ``basename``."""
        found = APIClient().projects.get_all(id=[str(self._facts()["project"])], search_hidden=True)
        return found[0] if found else None

    @classmethod
    def get_all(cls, session: Any = None, log: logging.Logger | None = None, **kwargs: Any) -> Any:
        """Tasks in the form of ClearML's server: ``result.response.tasks``; `kwargs` as for ``APIClient().tasks.get_all``.

        Args:
            session, log: accepted for ClearML: there is no server.
        """
        return Entry({"response": Entry({"tasks": list(APIClient().tasks.get_all(**kwargs))})})

    # -- export and import --------------------------------------------------------------------------------------------

    def export_task(self) -> dict[str, Any]:
        """The task as plain data that JSON holds: names, parameters, configuration, code; no results.

        ``minipipe`` in it holds what another store needs to run it; the rest is ClearML's form, for people and programs.

        Raises:
            ArtifactError: stored code is damaged.
        """
        facts = {key: _plain(value) for key, value in self._facts().items() if key not in _RESULTS}
        facts["execution"] = {key: value for key, value in facts["execution"].items() if key != "artifacts"}
        kept = {"version": VERSION, **exchange.code_of(self.store, self.row_id)}
        return {**facts, "minipipe": {**kept, "links": exchange.links_of(self.store, self.row_id)}}

    @classmethod
    def import_task(
        cls, task_data: dict[str, Any], target_task: TaskBase | str | None = None, update: bool = False
    ) -> Self | None:
        """Make a task from what `export_task` gave, or change one.

        Args:
            task_data: the dict; of one without ``minipipe`` (ClearML's own, or written by hand) names, parameters and
                configuration are taken.
            target_task: a draft, or its id; default a new one.
            update: keep parameters and configuration of the target that the data does not name.

        Raises:
            ValueError: it is no such dict, was written by a newer minipipe, or the target is no draft.

        Transaction effect: some durable commits; a new task only appears with all of them.
        """
        if not isinstance(task_data, dict) or not (isinstance(task_data.get("name"), str) or target_task is not None):
            raise errors.UsageError("task_data is what export_task gives: a dict with a name")
        own = task_data.get("minipipe") or {}
        if own.get("version", VERSION) > VERSION:
            raise errors.UsageError("task_data was written by a newer minipipe", f"its version is {own['version']}")
        cells = _cells(task_data)
        target = cls.of(target_task) if target_task is not None else _new(cls, task_data)
        if target.status != states.CREATED:
            raise errors.IllegalMove(f"task {target.id[:8]} is {target.status}, not a draft", hint="reset it, or clone it")
        _write(target, task_data, own, cells, update)
        return target

    def update_task(self, task_data: dict[str, Any]) -> bool:
        """Change a draft by what `export_task` gave, or a part of it; what the data does not name stays. Returns True."""
        return self.import_task(task_data, self, update=True) is not None

    # -- gathering ----------------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        store, row_id = self.store, self.row_id
        self._column("id")  # one that was deleted is said to be that
        (facts,) = search.facts(store, [row_id], _TOP)
        entry, settings = edits.facts(store, row_id), records.settings_of(store, row_id)
        linked = models.of_task(store, row_id)
        script = self._script()
        return {
            **facts,
            "project_name": records.names_of(store, row_id)[1],
            "hyperparams": _hyperparams(store, row_id),
            "configuration": {
                name: {"name": name, "value": text, "type": None} for name, text in edits.configurations(store, row_id).items()
            },
            "script": {
                **{key: script[key] or "" for key in ("repository", "branch", "entry_point", "working_dir", "binary")},
                "version_num": script["commit"] or "",
                "diff": script["diff"] or ("" if script["commit"] else entry.get("source", "")),
                "requirements": {"pip": "\n".join(entry["packages"])} if entry.get("packages") else {},
            },
            "execution": {
                "queue": facts.pop("execution.queue", None),
                "model_labels": settings.get("labels") or {},
                "artifacts": [dict(row) for row in records.outputs_of(store, row_id)],
            },
            "container": {key: value for key, value in (entry.get("container") or {}).items() if value},
            "output": {"destination": settings.get("output_uri")},
            "models": {
                role: [{"name": one.name, "model": one.model.uid, "uri": url_of(one.model)} for one in linked if one.role == role]
                for role in (models.INPUT, models.OUTPUT)
            },
        }


_TOP = (
    "id", "name", "type", "status", "status_message", "status_reason", "comment", "project", "parent", "tags", "system_tags",
    "created", "started", "completed", "last_update", "status_changed", "last_iteration", "last_worker", "active_duration",
    "execution.queue", "user",
)  # fmt: skip


def _hyperparams(store: Any, row_id: int) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in records.parameters(store, row_id):
        cell = {"section": row["section"], "name": row["name"], "value": row["text"], "type": row["type"]}
        found.setdefault(row["section"], {})[row["name"]] = {
            **cell, "description": row["description"], "typed": json.loads(row["value"]),
        }  # fmt: skip
    return found


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.datetime) else value


def _entry(value: Any) -> Any:
    """Dicts as objects with attributes, but those whose keys people choose."""
    if not isinstance(value, Mapping):
        return [_entry(item) for item in value] if isinstance(value, list) else value
    return Entry(
        {key: item if key in ("hyperparams", "configuration", "model_labels") else _entry(item) for key, item in value.items()}
    )


# -- writing --------------------------------------------------------------------------------------------------------------


def _new(kind: type[Any], data: Mapping[str, Any]) -> Any:
    store = session.open_store()
    new = tasks.NewTask(
        type=states.task_type(data.get("type") or None),
        name=str(data["name"]),
        project=str(data.get("project_name") or "imported"),
        entry={},
        draft=True,
        session=session.name(),
    )
    made = tasks.submit(store, new)
    return kind(store, made.id, made.uid)


def _cells(data: Mapping[str, Any]) -> list[tasks.Parameter]:
    found = []
    sections = data.get("hyperparams") or {}
    if not isinstance(sections, Mapping) or not all(isinstance(one, Mapping) for one in sections.values()):
        raise errors.UsageError("hyperparams is a dict of sections, each a dict of parameters")
    for section, cells in sections.items():
        for name, cell in cells.items():
            text = str(cell.get("value", "")) if isinstance(cell, Mapping) else str(cell)
            facts = cell if isinstance(cell, Mapping) else {}
            value = json.dumps(facts["typed"]) if "typed" in facts else json.dumps(text)
            found.append(
                tasks.Parameter(
                    str(section), str(name), text, str(facts.get("type") or ""), value, None, facts.get("description")
                )
            )
    return found


def _write(target: TaskBase, data: Mapping[str, Any], own: Mapping[str, Any], cells: list[tasks.Parameter], update: bool) -> None:
    store, row_id = target.store, target.row_id
    if "hyperparams" in data or not update:
        properties = [cell for cell in cells if cell.section == "properties"]
        edits.set_parameters(store, row_id, [cell for cell in cells if cell.section not in ("properties", "return")], not update)
        edits.set_properties(store, row_id, properties)
    for name, item in (data.get("configuration") or {}).items():
        edits.set_configuration(store, row_id, str(name), str(item["value"] if isinstance(item, Mapping) else item))
    if own.get("entry") is not None:
        exchange.put_code(store, row_id, dict(own))
        exchange.put_links(store, row_id, list(own.get("links") or ()))
    labels = {key: data[key] for key in ("name", "comment", "type") if isinstance(data.get(key), str)}
    edits.label(store, row_id, **labels)
    if isinstance(data.get("tags"), list):
        edits.set_tags(store, row_id, [str(tag) for tag in data["tags"]])
