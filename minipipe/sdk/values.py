"""Parameter cells: how typed values become ClearML's texts and tags, and how texts become typed values again."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin

from minipipe import errors
from minipipe.sdk import flow
from minipipe.store.tasks import Parameter

_EXACT = (type(None), bool, int, float, str)


def tags_of(tags: Sequence[str] | str | None) -> list[str]:
    """Tags as they are given: several, or one as a text."""
    return [tags] if isinstance(tags, str) else [str(tag) for tag in tags or ()]


def is_scalar(value: object) -> bool:
    """True for what is stored as a parameter and comes back unchanged from JSON."""
    return type(value) in _EXACT


def text_of(value: Any) -> tuple[str, str]:
    """Text and type tag of a value (ClearML's rule: None is an empty text without tag, a str has no tag)."""
    if value is None:
        return "", ""
    if isinstance(value, enum.Enum):
        return value.name, ""
    if isinstance(value, str):
        return str(value), ""
    if isinstance(value, (list, tuple, dict)):
        items = list(value.values()) if isinstance(value, dict) else list(value)
        kinds = {type(item).__name__ for item in items}
        tag = type(value).__name__ + (f"/{kinds.pop()}" if len(kinds) == 1 else "")
        try:
            return json.dumps(value), tag
        except (TypeError, ValueError):
            return str(value), tag
    return str(value), type(value).__name__


def cell(section: str, name: str, value: Any, description: str | None = None) -> Parameter:
    """The parameter ``section/name`` for a value."""
    text, tag = text_of(value)
    stored = value.name if isinstance(value, enum.Enum) else value
    try:
        typed = json.dumps(stored)
    except (TypeError, ValueError):
        typed = json.dumps(text)
    return Parameter(section, name, text, tag, typed, None, description)


def cast(text: str, wanted: Any, name: str = "") -> Any:
    """Read a text as a type (ClearML's rules: a whole number for int gives an int, another number a float; an empty text is None
    unless a str is wanted; lists and dicts may be written as in YAML).

    Args:
        text: what somebody typed.
        wanted: a class or annotation (also Optional, Union, Literal, Enum, list, dict); `inspect.Parameter.empty` and Any guess:
            JSON if it parses, else text.
        name: the parameter, for the error.

    Raises:
        BadParameter: the text cannot be read as that type.
    """
    try:
        return _cast(text, wanted)
    except (ValueError, TypeError, KeyError):
        shown = getattr(wanted, "__name__", str(wanted))
        raise errors.BadParameter(f"parameter {name!r}: cannot read {text!r} as {shown}", hint=f"--set {name}=…") from None


def takes_tuple(wanted: Any) -> bool:
    """True if an annotation asks for a tuple, alone or as one of several."""
    if get_origin(wanted) in (Union, types.UnionType):
        return any(takes_tuple(option) for option in get_args(wanted)) and not any(
            (get_origin(option) or option) is list for option in get_args(wanted)
        )
    return (get_origin(wanted) or wanted) is tuple


def _cast(text: str, wanted: Any) -> Any:
    origin = get_origin(wanted)
    if origin is typing.Annotated:
        return _cast(text, get_args(wanted)[0])
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(wanted) if option is not type(None)]
        if len(options) < len(get_args(wanted)) and text in ("", "None", "null"):
            return None
        for option in options:
            try:
                return _cast(text, option)
            except (ValueError, TypeError, KeyError):
                continue
        raise ValueError(text)
    if origin is typing.Literal:
        for option in get_args(wanted):
            if str(option) == text:
                return option
        raise ValueError(text)
    kind = origin or wanted
    if not isinstance(kind, type) or kind is object or kind.__module__ == "inspect":
        return _guess(text)
    if issubclass(kind, enum.Enum):
        return None if text == "" else kind[text] if text in kind.__members__ else kind(text)
    if kind is str:
        return text
    if text == "" and kind in (bool, int, float, list, tuple, dict):
        return None
    if kind is bool:
        return _read_bool(text)
    if kind is int:
        return int(text) if text.strip().lstrip("+-").replace("_", "").isdigit() else float(text)
    if kind is float:
        return float(text)
    if kind in (list, tuple, dict):
        value = flow.read(text)
        if not isinstance(value, dict if kind is dict else (list, tuple)):
            raise ValueError(text)
        return kind(value)
    return _guess(text)


def _read_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("true", "yes", "on"):
        return True
    if lowered in ("false", "no", "off", ""):
        return False
    return bool(float(lowered))


def _guess(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


_BY_TAG: dict[str, type] = {"int": int, "float": float, "bool": bool, "list": list, "tuple": tuple, "dict": dict}


def typed_cell(section: str, name: str, text: str, tag: str, description: str | None = None) -> Parameter:
    """A cell for a text that keeps a type tag; a text that the type cannot hold stays a text under that tag."""
    kind = _BY_TAG.get(tag.partition("/")[0])
    try:
        value = cast(text, kind, name) if kind is not None and text else (text if text else None)
    except errors.BadParameter:
        value = text
    return Parameter(section, name, text, tag, json.dumps(value), None, description)


def typed(row: Any) -> Any:
    """The value of a stored parameter, with its type: JSON knows no tuples, the type tag does."""
    value = json.loads(row["value"])
    return tuple(value) if isinstance(value, list) and str(row["type"]).startswith("tuple") else value


def kept_cell(section: str, name: str, value: Any, tag: str, description: str | None = None) -> Parameter:
    """The cell for a value that replaces one of a type: a text keeps that type, other values set their own (ClearML's rule)."""
    if isinstance(value, str) and tag:
        return typed_cell(section, name, value, tag, description)
    return cell(section, name, value, description)


DEFAULT_SECTION = "General"


def split_name(name: str) -> tuple[str, str]:
    """Section and key of a full name; a key without section is in ``General`` (ClearML's rule)."""
    section, slash, key = str(name).partition("/")
    return (section, key) if slash else (DEFAULT_SECTION, section)
