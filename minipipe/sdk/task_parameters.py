"""Parameters, properties and configuration of a task (ClearML's `Task`)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from minipipe.sdk import command_line, connect, session, values
from minipipe.sdk.task_base import TaskBase
from minipipe.sdk.values import split_name
from minipipe.shown import warn
from minipipe.store import edits, records
from minipipe.store.tasks import Parameter


class TaskParameters(TaskBase):
    """Reading and writing what a task is told."""

    def _binding(self) -> connect.Binding:
        """Stored values win where a worker executes this very task; a process that executes it may have been told others."""
        running = session.within()
        mine = running is not None and running.uid == self._uid
        return connect.Binding(self._current, mine and running is not None and running.worker_mode, mine)

    def connect(self, mutable: Any, name: str | None = None, ignore_remote_overrides: bool = False) -> Any:
        """Record an object's values as parameters; where a worker runs the task, stored values override the object in place.

        Args:
            mutable: a dict, a class, an object, an `argparse.ArgumentParser`, or something with ``to_dict`` and
                ``update_from_dict``.
            name: section; default ``General``.
            ignore_remote_overrides: the code's values win everywhere.

        Returns:
            For a dict, one whose later changes are stored too; else the object.
        """
        binding = self._binding()
        if isinstance(mutable, argparse.ArgumentParser):
            return command_line.connect(
                mutable, replace(binding, overrides=False, told=False) if ignore_remote_overrides else binding
            )
        return binding.connect(mutable, name, ignore_remote_overrides)

    def connect_configuration(
        self,
        configuration: Any,
        name: str | None = None,
        description: str | None = None,
        ignore_remote_overrides: bool = False,
    ) -> Any:
        """Record a dict, a list or a file as configuration; where a worker runs the task, the stored one takes its place.

        Args:
            configuration: a dict or list, or the path of a file.
            name: default ``General``.
            description: shown with it.
            ignore_remote_overrides: the code's one wins everywhere.

        Returns:
            The same dict or list, refilled; or the path of a file with the stored text.

        Raises:
            ValueError: the file cannot be read.
        """
        return self._binding().connect_configuration(configuration, name, description, ignore_remote_overrides)

    # -- parameters ---------------------------------------------------------------------------------------------------

    def get_parameters(self, backwards_compatibility: bool = True, cast: bool = False) -> dict[str, Any]:
        """All parameters as ``{"Section/name": text}``.

        Args:
            backwards_compatibility: accepted for ClearML; there is only one form here.
            cast: typed values instead of texts.
        """
        rows = records.parameters(self.store, self.row_id)
        return {f"{row['section']}/{row['name']}": values.typed(row) if cast else row["text"] for row in rows}

    def get_parameter(self, name: str, default: Any = None, cast: bool = False) -> Any:
        """One parameter by ``Section/name`` (``name`` alone is in ``General``), or `default`."""
        section, key = split_name(name)
        return self.get_parameters(cast=cast).get(f"{section}/{key}", default)

    def get_parameters_as_dict(self, cast: bool = False) -> dict[str, Any]:
        """All parameters nested by section and by the slashes in their names."""
        nested: dict[str, Any] = {}
        for name, value in self.get_parameters(cast=cast).items():
            *folders, last = name.split("/")
            place = nested
            for folder in folders:
                if not isinstance(place.get(folder), dict):  # "a" and "a/b" may both be there: the later one is shown
                    place[folder] = {}
                place = place[folder]
            place[last] = value
        return nested

    def set_parameters(self, *args: Mapping[str, Any], **kwargs: Any) -> None:
        """Replace all parameters.

        Raises:
            ValueError: the task has ended.

        Transaction effect: one durable commit.
        """
        edits.set_parameters(self.store, self.row_id, self._cells(*args, kwargs), replace=True)

    def update_parameters(self, *args: Mapping[str, Any], **kwargs: Any) -> None:
        """Write some parameters; the others stay."""
        edits.set_parameters(self.store, self.row_id, self._cells(*args, kwargs))

    def set_parameter(self, name: str, value: Any, description: str | None = None, value_type: Any = None) -> None:
        """Write one parameter.

        Args:
            name: ``Section/name``.
            value: anything that a parameter can hold.
            description: shown with it.
            value_type: a type to cast a text to.
        """
        if value_type is not None and isinstance(value, str):
            value = values.cast(value, value_type, name)
        if _is_storable(name, value):
            edits.set_parameters(self.store, self.row_id, [self._cell(name, value, description)])

    def set_parameters_as_dict(self, dictionary: Mapping[str, Any]) -> None:
        """Replace all parameters by a nested dict."""
        self.set_parameters(connect.flatten(dictionary))

    def delete_parameter(self, name: str, force: bool = False) -> bool:
        """Remove one parameter; True if there was one.

        Args:
            name: ``Section/name``.
            force: nothing to force: parameters of tasks that run or have ended can be removed, too.
        """
        return edits.delete_parameter(self.store, self.row_id, *split_name(name))

    def _cells(self, *groups: Mapping[str, Any]) -> list[Parameter]:
        merged: dict[tuple[str, str], Parameter] = {}
        for group in groups:
            for name, value in connect.flatten(group).items():
                if _is_storable(name, value):
                    cell = self._cell(name, value)
                    merged[cell.section, cell.name] = cell  # "x" and "General/x" are one cell: the later wins
        return list(merged.values())

    def _cell(self, name: str, value: Any, description: str | None = None) -> Parameter:
        """A cell for a value; a text keeps the type tag that the cell has (ClearML's rule), other values set their own."""
        section, key = split_name(name)
        if isinstance(value, str):
            kind = records.type_of_parameter(self.store, self.row_id, section, key)
            if kind:
                return values.typed_cell(section, key, value, kind, description)
        return values.cell(section, key, value, description)

    # -- user properties ----------------------------------------------------------------------------------------------

    def set_user_properties(self, *iterables: Mapping[str, Any] | Iterable[Mapping[str, Any]], **properties: Any) -> bool:
        """Set properties, in any status: ``name=value``, or dicts with ``name``, ``value``, ``type``, ``description``."""
        cells = [_property(name, value) for name, value in properties.items()]
        for group in iterables:
            if isinstance(group, Mapping):
                cells += [_property(name, value) for name, value in group.items()]
            else:
                cells += [_property(str(item["name"]), item) for item in group]
        edits.set_properties(self.store, self.row_id, cells)
        return True

    def get_user_properties(self, value_only: bool = False) -> dict[str, Any]:
        """Properties by name: dicts of section, name, value, type, description; or only their values."""
        rows = [row for row in records.parameters(self.store, self.row_id) if row["section"] == "properties"]
        if value_only:
            return {row["name"]: row["text"] for row in rows}
        return {
            row["name"]: {
                "section": "properties",
                "name": row["name"],
                "value": row["text"],
                "type": row["type"],
                "description": row["description"],
            }
            for row in rows
        }

    def delete_user_properties(self, *iterables: Iterable[Any]) -> bool:
        """Remove properties given by name or as dicts with ``name``."""
        names = [str(item["name"]) if isinstance(item, Mapping) else str(item) for group in iterables for item in group]
        edits.delete_properties(self.store, self.row_id, names)
        return True

    # -- configuration objects ----------------------------------------------------------------------------------------

    def get_configuration_object(self, name: str) -> str | None:
        """Text of a configuration object, None if there is none."""
        return self.get_configuration_objects().get(name)

    def get_configuration_objects(self) -> dict[str, str]:
        """All configuration objects: name -> text."""
        return edits.configurations(self.store, self.row_id)

    def get_configuration_object_as_dict(self, name: str) -> dict[str, Any] | list[Any] | None:
        """A configuration object that is JSON, as a dict or list; None if there is none or it is something else."""
        text = self.get_configuration_object(name)
        try:
            value = json.loads(text) if text is not None else None
        except ValueError:
            return None
        return value if isinstance(value, (dict, list)) else None

    def set_configuration_object(
        self,
        name: str,
        config_text: str | None = None,
        description: str | None = None,
        config_type: str | None = None,
        config_dict: dict[str, Any] | list[Any] | None = None,
    ) -> None:
        """Store a configuration object as text, or a dict or list as JSON.

        Raises:
            ValueError: the task has ended, or neither text nor dict was given.
        """
        if config_text is None and config_dict is None:
            raise ValueError("give config_text or config_dict")
        text = config_text if config_text is not None else json.dumps(config_dict, indent=2)
        edits.set_configuration(self.store, self.row_id, name, text, config_type or "", description or "")


def _is_storable(name: str, value: Any) -> bool:
    if connect.storable(value):
        return True
    text = f"parameter {'/'.join(split_name(name))}: a {type(value).__name__} cannot be stored; left out"
    warn(text, stacklevel=4)
    return False


def _property(name: str, value: Any) -> Parameter:
    if isinstance(value, Mapping):
        cell = values.cell("properties", name, value.get("value"), value.get("description"))
        return Parameter("properties", name, cell.text, str(value.get("type") or cell.type), cell.value, None, cell.description)
    return values.cell("properties", name, value)
