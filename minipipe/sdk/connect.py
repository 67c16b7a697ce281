"""Hyper-parameters of a script: what code holds is recorded, what was changed from outside wins (ClearML's `Task.connect`).

Where a script starts its own task (local mode) the object is copied to the task, and later changes follow. Where a worker runs it
(worker mode) the stored values override the object in place, cast to the types that the code has.
"""

from __future__ import annotations

import copy
import enum
import inspect
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from minipipe import errors, told
from minipipe.sdk import notice, overrides, session, values
from minipipe.sdk.session import Current
from minipipe.shown import warn
from minipipe.store import edits, records
from minipipe.store.tasks import Parameter


@dataclass(frozen=True, slots=True)
class Binding:
    """Connects objects to one task.

    Attributes:
        current: the task.
        overrides: the stored values win (worker mode on the main task).
        told: what the script was told from outside wins over both (the main task).
    """

    current: Current
    overrides: bool
    told: bool = False

    def connect(self, mutable: Any, name: str | None, ignore_overrides: bool) -> Any:
        """See `Task.connect`."""
        section = str(name) if name else values.DEFAULT_SECTION
        binding = replace(self, overrides=False, told=False) if ignore_overrides else self
        if isinstance(mutable, Mapping):
            return binding._connect_dict(mutable, section)
        if hasattr(mutable, "to_dict") and hasattr(mutable, "update_from_dict"):
            mutable.update_from_dict(binding._merge(dict_of(mutable.to_dict()), section))
            return mutable
        if inspect.isclass(mutable) or hasattr(mutable, "__dict__"):
            given = _attributes(mutable)
            for attribute, value in binding._merge(dict_of(given), section).items():
                if binding.changes and value != given[attribute]:  # elsewhere the object is only read: it may be frozen
                    setattr(mutable, attribute, value)
            return mutable
        raise errors.UsageError(
            f"a {type(mutable).__name__} cannot be connected", "connect takes a dict, a class, an object or an ArgumentParser"
        )

    @property
    def changes(self) -> bool:
        """True if what is connected may get other values than the code gives it."""
        return self.overrides or (self.told and told.anything())

    def _connect_dict(self, original: Mapping[Any, Any], section: str) -> Any:
        merged = self._merge(dict_of(original), section)
        if not self.changes or not isinstance(original, dict):
            return Connected(merged, self, section, "")
        _fill(original, merged)
        return Connected(merged, self, section, "", original)

    def _merge(self, given: dict[str, Any], section: str, prefix: str = "") -> dict[str, Any]:
        """What holds: the stored values where there are any, cast to the types in code; what only code has is added to the task."""
        flat = flatten(given, prefix)
        stored = self.read(section) if self.overrides else {}
        news = {key: value for key, value in flat.items() if key not in stored}
        for key, value in flat.items():
            if key in stored:
                flat[key] = recast(stored[key], value, f"{section}/{key}")
            wanted = told.given(section, key) if self.told else None
            if wanted is not None:
                flat[key] = news[key] = read_told(wanted, section, key, value)
        self.write(section, news)
        return unflatten(flat, given, prefix)

    def assign(self, section: str, key: str, value: Any) -> Any:
        """A value that code assigns to a connected key: stored, unless the stored one wins. Returns the one that holds."""
        try:
            if isinstance(value, Mapping) and value:
                return self._merge(dict_of(value), section, f"{key}/")
            return self._merge({key: value}, section)[key]
        except errors.IllegalMove as error:  # the script goes on after its task has ended
            notice.say(f"parameter {section}/{key}", f"not stored: {error.message}")
            return value

    def read(self, section: str) -> dict[str, Any]:
        """Stored cells of a section: key -> row."""
        rows = records.parameters(self.current.store, self.current.row_id)
        return {row["name"]: row for row in rows if row["section"] == section}

    def write(self, section: str, flat: Mapping[str, Any]) -> None:
        """Store cells; a value of a type that cannot be stored is left out with a warning."""
        cells: list[Parameter] = []
        for key, value in flat.items():
            if storable(value):
                cells.append(values.cell(section, key, value))
            else:
                warn(f"parameter {section}/{key}: a {type(value).__name__} cannot be stored; left out", stacklevel=4)
        if cells:
            edits.set_parameters(self.current.store, self.current.row_id, cells)

    # -- configuration objects ----------------------------------------------------------------------------------------

    def connect_configuration(self, configuration: Any, name: str | None, description: str | None, ignore_overrides: bool) -> Any:
        """See `Task.connect_configuration`."""
        section = str(name) if name else values.DEFAULT_SECTION
        stored = edits.configurations(self.current.store, self.current.row_id).get(section)
        overriding = self.overrides and not ignore_overrides
        if overriding and stored is None:
            warn(f"no configuration {section!r} is stored with the task: the one in code is used", stacklevel=3)
        if isinstance(configuration, (str, Path)):
            return self._connect_file(configuration, section, description, stored if overriding else None)
        if not isinstance(configuration, (Mapping, list, tuple)):
            raise errors.UsageError(
                f"a {type(configuration).__name__} is no configuration",
                "",
                "connect_configuration takes a dict, a list or a path",
            )
        if overriding and stored is not None:
            return _refill(configuration, _parsed(stored, section))
        text = json.dumps(configuration, indent=2, default=str)
        kind = "dictionary" if isinstance(configuration, Mapping) else "list"
        edits.set_configuration(self.current.store, self.current.row_id, section, text, kind, description or "")
        return configuration

    def _connect_file(self, path: str | Path, section: str, description: str | None, stored: str | None) -> str | Path:
        if stored is None:
            try:
                text = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                why = (error.strerror or "") if isinstance(error, OSError) else "it is not a text in UTF-8"
                raise errors.UsageError(f"configuration file {path} cannot be read", why) from error
            kind = Path(path).suffix.lstrip(".")
            edits.set_configuration(self.current.store, self.current.row_id, section, text, kind, description or "")
            return path
        folder = session.scratch()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = Path(tempfile.mkdtemp(dir=folder)) / f"configuration{Path(path).suffix}"
        target.write_text(stored, encoding="utf-8")
        return target if isinstance(path, Path) else str(target)


class Connected(dict[Any, Any]):
    """A dict whose changes follow to the task; it pickles as a plain dict."""

    def __init__(self, given: Mapping[Any, Any], binding: Binding, section: str, prefix: str, twin: dict[Any, Any] | None = None):
        super().__init__()
        self._binding = binding
        self._section = section
        self._prefix = prefix
        self._twin = twin  # the user's own dict, kept equal
        for key, value in given.items():
            super().__setitem__(key, self._wrap(key, value))

    def _wrap(self, key: Any, value: Any) -> Any:
        if isinstance(value, dict):
            twin = self._twin.get(key) if self._twin is not None else None
            return Connected(
                value, self._binding, self._section, f"{self._prefix}{key}/", twin if isinstance(twin, dict) else None
            )
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        value = self._binding.assign(self._section, f"{self._prefix}{key}", value)
        if self._twin is not None:
            self._twin[key] = value
        super().__setitem__(key, self._wrap(key, value))

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]  # ``|`` gives a plain dict, ``|=`` changes this one
        self.update(other)
        return self

    def update(self, *others: Any, **more: Any) -> None:
        """As `dict.update`; each new value is stored."""
        for key, value in dict(*others, **more).items():
            self[key] = value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As `dict.setdefault`; a new value is stored."""
        if key not in self:
            self[key] = default
        return self[key]

    def __reduce__(self) -> Any:
        return dict, (plain(self),)

    def __copy__(self) -> dict[Any, Any]:
        return plain_dict(self)

    def __deepcopy__(self, memo: Any) -> dict[Any, Any]:
        result: dict[Any, Any] = copy.deepcopy(plain(self), memo)
        return result


def plain(value: Any) -> Any:
    """The value with connected dicts as plain ones."""
    return plain_dict(value) if isinstance(value, dict) else value


def plain_dict(value: dict[Any, Any]) -> dict[Any, Any]:
    """A connected dict as a plain one, nested ones included."""
    return {key: plain(part) for key, part in value.items()}


def dict_of(mutable: Mapping[Any, Any]) -> dict[str, Any]:
    """The mapping with str keys at all depths; others are converted with a warning."""
    result = {}
    for key, value in mutable.items():
        if not isinstance(key, str):
            warn(f"parameter name {key!r} is a {type(key).__name__}: stored as text", stacklevel=5)
        result[str(key)] = dict_of(value) if isinstance(value, Mapping) else value
    return result


def _fill(original: dict[Any, Any], merged: Mapping[str, Any]) -> None:
    """Put values into a dict of the user's and into the dicts inside it: whoever holds one of them sees what holds."""
    for key in list(original):
        if str(key) != key:
            original[str(key)] = original.pop(key)
    for key, value in merged.items():
        if isinstance(value, dict) and isinstance(original.get(key), dict):
            _fill(original[key], value)
        else:
            original[key] = value


def flatten(given: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as ``a/b`` (ClearML's rule); an empty dict stays a value."""
    flat: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any], shape: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Flat values in the nesting of `shape`."""
    result: dict[str, Any] = {}
    for key, value in shape.items():
        if isinstance(value, Mapping) and value:
            result[str(key)] = unflatten(flat, value, f"{prefix}{key}/")
        else:
            result[str(key)] = flat[f"{prefix}{key}"]
    return result


def storable(value: Any) -> bool:
    """True for what a parameter can hold."""
    if value is None or isinstance(value, (bool, int, float, str, enum.Enum)):
        return True
    if isinstance(value, (list, tuple)):
        return all(storable(part) for part in value)
    if isinstance(value, Mapping):
        return all(storable(part) for part in value.values())
    return False


def recast(row: Any, in_code: Any, name: str) -> Any:
    """A stored cell as the type that the code has: its typed value if that fits, else its text, cast."""
    typed = values.typed(row)
    if in_code is None or type(typed) is type(in_code):
        return typed
    if isinstance(in_code, tuple) and isinstance(typed, list):
        return tuple(typed)
    try:
        return values.cast(row["text"], type(in_code), name)
    except errors.BadParameter as error:
        warn(f"{error.message}: the value in code is used", stacklevel=4)
        return in_code


def read_told(wanted: Any, section: str, name: str, in_code: Any) -> Any:
    """What was told to a parameter, as the type that the code has.

    Raises:
        BadParameter: it cannot be read as that.
    """
    kind = inspect.Parameter.empty if in_code is None else type(in_code)
    return overrides.value_of(overrides.Known(section, name, kind, "", values.text_of(in_code)[0][:40]), wanted)


def _attributes(mutable: Any) -> dict[str, Any]:
    """Public, storable attributes: of a class along its bases, of an object its own."""
    if inspect.isclass(mutable):
        found: dict[str, Any] = {}
        for base in reversed(mutable.__mro__[:-1]):
            found.update(vars(base))
    else:
        found = dict(vars(mutable))
    return {key: value for key, value in found.items() if not key.startswith("_") and storable(value) and not _is_enum(value)}


def _is_enum(value: Any) -> bool:
    """True for a member that is no text or number too: of a dict it is recorded by name, of a class it is left out (ClearML's rule)."""
    return isinstance(value, enum.Enum) and not isinstance(value, (str, int, float))


def _parsed(text: str, section: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise errors.UsageError(f"the stored configuration {section!r} cannot be read", f"it is not JSON: {error}") from None


def _refill(target: Any, stored: Any) -> Any:
    if isinstance(target, dict) and isinstance(stored, dict):
        target.clear()
        target.update(stored)
        return target
    if isinstance(target, list) and isinstance(stored, list):
        target[:] = stored
        return target
    return stored
