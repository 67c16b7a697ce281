"""The type that a parameter was declared with, as data: a later run is checked by it although the code that declares it is not loaded.

| annotation | as JSON |
|---|---|
| ``int``, ``float``, ``bool``, ``str``, ``list``, ``dict``, ``tuple`` | its name |
| ``Optional[X]``, ``X or Y`` | ``{"any": [...]}``, None is ``"None"`` |
| ``Literal["a", 2]`` | ``{"one": ["a", 2]}`` |
| an Enum | ``{"members": {"RED": 1}, "name": "Color"}`` |

What else there is stays undeclared. Beside the type stands where it was declared: ``{"type": ..., "where": "flow.py:40"}``.
"""

from __future__ import annotations

import enum
import inspect
import json
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

_PLAIN: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict, "tuple": tuple}


def written(annotation: Any, where: str = "") -> str | None:
    """An annotation, and the place that has it, as text; None if there is no type that a text can be checked by."""
    facts = _facts(annotation)
    return None if facts is None else json.dumps({"type": facts, "where": where})


def read(text: str | None) -> tuple[Any, str]:
    """The type and the place of `written`; `inspect.Parameter.empty` and "" for None."""
    if not text:
        return inspect.Parameter.empty, ""
    found = json.loads(text)
    return _type(found["type"]), str(found["where"])


def _facts(annotation: Any) -> Any:
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        return _facts(get_args(annotation)[0])
    if annotation in (None, type(None)):
        return "None"
    if origin in (Union, types.UnionType):
        options = [_facts(option) for option in get_args(annotation)]
        return None if None in options else {"any": options}
    if origin is Literal:
        return {"one": list(get_args(annotation))} if all(_plain(one) for one in get_args(annotation)) else None
    kind = origin or annotation
    if isinstance(kind, str):  # an annotation that could not be looked up
        return kind if kind in _PLAIN else None
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        members = {name: member.value for name, member in kind.__members__.items()}
        return {"name": kind.__name__, "members": members} if all(map(_plain, members.values())) else None
    return kind.__name__ if isinstance(kind, type) and _PLAIN.get(kind.__name__) is kind else None


def _plain(value: object) -> bool:
    return value is None or type(value) in (str, int, float, bool)


def _type(facts: Any) -> Any:
    if isinstance(facts, str):
        return type(None) if facts == "None" else _PLAIN[facts]
    if "any" in facts:
        return Union[tuple(_type(option) for option in facts["any"])]  # noqa: UP007
    if "one" in facts:
        return Literal[tuple(facts["one"])]
    return enum.Enum(facts["name"], facts["members"])
