"""What a run is told by people (``--set``, ``rerun``): names looked up, texts read as the declared types, before anything is stored."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minipipe import errors
from minipipe.nearest import nearest
from minipipe.sdk import declared, proxy, values
from minipipe.shown import warn
from minipipe.store import records
from minipipe.store.home import Store
from minipipe.store.tasks import Parameter

_BY_TAG: dict[str, type] = {"int": int, "float": float, "bool": bool, "list": list, "tuple": tuple, "dict": dict}
_HIDDEN = ("return", "properties", "pipeline")  # results, labels and settings: only asked for by their full name


@dataclass(frozen=True, slots=True)
class Known:
    """A parameter that may be set.

    Attributes:
        section, name: of its cell.
        wanted: what a text is read as; `inspect.Parameter.empty` guesses.
        where: file and line that declare it, "" if that is not known.
        example: its text, for messages.
    """

    section: str
    name: str
    wanted: Any = inspect.Parameter.empty
    where: str = ""
    example: str = ""


def known_of(store: Store, task_id: int) -> list[Known]:
    """The parameters that a stored task has."""
    return [_known(row) for row in records.parameters(store, task_id)]


def _known(row: Any) -> Known:
    wanted, where = declared.read(row["declared"])
    if wanted is inspect.Parameter.empty:
        kind = row["type"].partition("/")[0]
        text = str if kind in ("", "str") and json.loads(row["value"]) is not None else wanted
        wanted = _BY_TAG.get(kind, text)
    return Known(row["section"], row["name"], wanted, where, row["text"][:40])


def find(pipeline: str, known: Sequence[Known], name: str) -> Known:
    """The parameter of a name, or of ``Section/name``; an argument of the pipeline comes before a parameter of another section.

    Raises:
        BadParameter: there is none, or the name is in several sections; names the nearest.
    """
    for one in known:
        if f"{one.section}/{one.name}" == name:
            return one
    shown = [one for one in known if one.section not in _HIDDEN]
    alike = [one for one in shown if one.name == name]
    own = [one for one in alike if one.section == "Args"] or alike
    if len(own) == 1:
        return own[0]
    if own:
        places = ", ".join(f"{one.section}/{one.name}" for one in own)
        raise errors.BadParameter(
            f"{pipeline} has several parameters {name!r}", f"it has {places}", "name the section", name=name
        )
    names = [one.name if one.section == "Args" else f"{one.section}/{one.name}" for one in shown]
    near = nearest(name, names) or nearest(name.rpartition("/")[2], names)
    raise errors.BadParameter(
        f"{pipeline} has no parameter {name!r}",
        f"it has {', '.join(names) or 'none'}",
        f"did you mean {near}?" if near else "minipipe show --params",
        name=name,
    )


def value_of(one: Known, given: Any) -> Any:
    """What was given, as a value: ``{"json": value}`` as it is, a text as the parameter's type.

    Raises:
        BadParameter: the text cannot be read as that; the cause names the place that declares the type.
    """
    if isinstance(given, dict):
        return given["json"]
    try:
        return values.cast(given, one.wanted, one.name)
    except errors.BadParameter as error:
        raise errors.BadParameter(
            error.message,
            f"declared at {one.where}" if one.where else error.cause,
            f"--set {one.name}={one.example}",
            name=one.name,
        ) from None


def cells(pipeline: str, known: Sequence[Known], wanted: Mapping[str, Any]) -> list[Parameter]:
    """The cells that ``{name: text}`` changes.

    Raises:
        BadParameter: see `find` and `value_of`; nothing was stored.
    """
    found: list[Parameter] = []
    for given, one in _named(pipeline, known, wanted):
        found.append(values.cell(one.section, one.name, value_of(one, given)))
    return found


def _named(pipeline: str, known: Sequence[Known], wanted: Mapping[str, Any]) -> Iterator[tuple[Any, Known]]:
    """What is given with the parameter that it is for.

    Raises:
        BadParameter: see `find`; or one parameter is named twice, with its section and without.
    """
    names: dict[tuple[str, str], str] = {}
    for name, given in wanted.items():
        one = find(pipeline, known, name)
        before = names.setdefault((one.section, one.name), name)
        if before != name:
            raise errors.BadParameter(
                f"parameter {one.name!r} has two values", f"{before} and {name} are the same", "give one of them", name=name
            )
        yield given, one


def restored(row: Any, wanted: Any, current: Any, name: str) -> Any:
    """A stored parameter as code gets it: cast to what is declared, else to the type of the value in code (ClearML's rule).

    Args:
        row: with ``text`` and ``value``.
        wanted: annotation, `inspect.Parameter.empty` for none.
        current: the value in code.
        name: for the error.

    Raises:
        BadParameter: a text that cannot be read as that.
    """
    value = json.loads(row["value"])
    if isinstance(value, str) and (
        wanted is not inspect.Parameter.empty or (current is not None and not isinstance(current, str))
    ):
        value = values.cast(row["text"], type(current) if wanted is inspect.Parameter.empty else wanted, name)
    as_tuple = isinstance(current, tuple) if wanted is inspect.Parameter.empty else values.takes_tuple(wanted)
    return tuple(value) if as_tuple and isinstance(value, list) else value


# -- arguments of a pipeline that is in code ------------------------------------------------------------------------------


def known_in_code(
    given: Mapping[str, Any], sections: Mapping[str, str], types: Mapping[str, Any], places: Mapping[str, str]
) -> list[Known]:
    """The arguments of a pipeline as its code declares them.

    Args:
        given: name -> value.
        sections: name -> section, where that is not ``Args``.
        types: name -> annotation.
        places: name -> file and line.
    """
    return [
        Known(
            sections.get(name, "Args"),
            name,
            _wanted(types, name, value),
            places.get(name, ""),
            values.text_of(None if proxy.is_lazy(value) else value)[0][:40],
        )
        for name, value in given.items()
    ]


def _wanted(types: Mapping[str, Any], name: str, value: Any) -> Any:
    annotation = types.get(name, inspect.Parameter.empty)
    if isinstance(annotation, str):  # one that could not be looked up
        annotation = declared.read(declared.written(annotation))[0]
    if annotation is not inspect.Parameter.empty:
        return annotation
    return type(value) if isinstance(value, (bool, int, float, str, list, tuple, dict)) else inspect.Parameter.empty


def applied(pipeline: str, given: dict[str, Any], known: Sequence[Known], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with what ``{name: text}`` changes, as a worker would read them back.

    Raises:
        BadParameter: see `cells`.
    """
    result = dict(given)
    for text, one in _named(pipeline, known, wanted):
        cell = values.cell(one.section, one.name, value_of(one, text))
        result[one.name] = restored({"text": cell.text, "value": cell.value}, one.wanted, given[one.name], one.name)
    return result


def stored(store: Store, task_id: int, given: dict[str, Any], known: Sequence[Known]) -> dict[str, Any]:
    """Arguments as they are stored with a run, cast; a text that cannot be cast leaves the value in code, with a warning."""
    result, places = dict(given), {(one.section, one.name): one for one in known}
    for row in records.parameters(store, task_id):
        one = places.get((row["section"], row["name"]))
        if one is None:
            continue
        name = row["name"]
        in_code = values.cell(row["section"], name, proxy.resolve(given[name]))
        if (in_code.text, in_code.value) == (row["text"], row["value"]):
            continue  # nobody changed it; it may be of a type that is only shown as text
        try:
            result[name] = restored(row, one.wanted, given[name], name)
        except errors.BadParameter as error:
            warn(f"{error.message}: the value in code is used", stacklevel=6)
    return result
