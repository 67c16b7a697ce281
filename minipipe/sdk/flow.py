"""Texts that people type for lists and dicts: JSON, and YAML's flow style, where ``[a, 1.5, {k: v}]`` needs no quotes."""

from __future__ import annotations

import json
import re
from typing import Any

_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "none": None, "true": True, "false": False}
_NUMBER = re.compile(r"[-+]?(\d[\d_]*)?(\.\d*)?([eE][-+]?\d+)?\Z")
_ENDS = {"[": "]", "{": "}", "(": ")"}


def read(text: str) -> Any:
    """The value of a text.

    Raises:
        ValueError: brackets or quotes do not match, or something stands behind the value.
    """
    try:
        return json.loads(text)
    except ValueError:
        value, place = _value(text, _skip(text, 0), "")
        if _skip(text, place) != len(text):
            raise ValueError(f"{text!r}: {text[place:]!r} is too much") from None
        return value


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _value(text: str, place: int, ends: str) -> tuple[Any, int]:
    first = text[place : place + 1]
    if first in ("[", "("):
        items, place = _items(text, place + 1, _ENDS[first])
        return ([item for item, _ in items] if first == "[" else tuple(item for item, _ in items)), place
    if first == "{":
        items, place = _items(text, place + 1, "}")
        return dict(items), place
    if first in ("'", '"'):
        return _quoted(text, place)
    return _plain(text, place, ends)


def _items(text: str, place: int, end: str) -> tuple[list[tuple[Any, Any]], int]:
    """What stands between brackets: (item, None), or (key, value) in braces."""
    found: list[tuple[Any, Any]] = []
    place = _skip(text, place)
    while text[place : place + 1] != end:
        item, place = _value(text, place, f",{end}:" if end == "}" else f",{end}")
        value, place = None, _skip(text, place)
        if end == "}" and text[place : place + 1] == ":":
            value, place = _value(text, _skip(text, place + 1), f",{end}")
            place = _skip(text, place)
        found.append((item, value))
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != end:
            raise ValueError(f"{text!r}: {end!r} is missing")
    return found, place + 1


def _quoted(text: str, place: int) -> tuple[str, int]:
    quote, end = text[place], place + 1
    while True:
        end = text.find(quote, end)
        if end < 0:
            raise ValueError(f"{text!r}: {quote} is missing")
        if quote == "'" and text[end : end + 2] == "''":
            end += 2
        elif quote == '"' and text[end - 1] == "\\":
            end += 1
        else:
            break
    inner = text[place + 1 : end]
    return (inner.replace("''", "'") if quote == "'" else str(json.loads(f'"{inner}"'))), end + 1


def _plain(text: str, place: int, ends: str) -> tuple[Any, int]:
    end = place
    while end < len(text) and text[end] not in ends:
        end += 1
    word = text[place:end].strip()
    if word.lower() in _WORDS:
        return _WORDS[word.lower()], end
    if _NUMBER.match(word) and any(each.isdigit() for each in word):
        return (int(word) if re.fullmatch(r"[-+]?\d[\d_]*", word) else float(word)), end
    return word, end
