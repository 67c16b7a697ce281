"""The compatibility contract as data, what the real package says, and how minipipe differs from both."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from minipipe import clearml
from minipipe.clearml import names
from tests.conformance import read_real

HERE = Path(__file__).parent
SIGNATURES = HERE / "signatures.json"


@dataclass(frozen=True, slots=True)
class Group:
    """Some classes with the names that the contract gives them.

    Attributes:
        title: what people read.
        names: full names of the classes.
        constructor: people construct them.
        real, recorded: names.
        refused: name -> what to use instead.
        refused_others: what to use instead of every other name; "" where other names are outside the contract.
    """

    title: str
    names: tuple[str, ...]
    constructor: bool
    real: tuple[str, ...]
    recorded: tuple[str, ...]
    refused: dict[str, str]
    refused_others: str

    @property
    def offered(self) -> tuple[str, ...]:
        """Names that have ClearML's signature."""
        return ("__init__",) * self.constructor + self.real + self.recorded


@cache
def contract() -> dict[str, Any]:
    """``contract.toml``."""
    return tomllib.loads((HERE / "contract.toml").read_text(encoding="utf-8"))


def groups() -> list[Group]:
    """All groups of the contract."""
    return [
        Group(
            one["title"],
            tuple(one["names"]),
            one.get("constructor", False),
            tuple(one["real"].split()),
            tuple(one.get("recorded", "").split()),
            one.get("refused", {}),
            one.get("refused_others", ""),
        )
        for one in contract()["classes"]
    ]


def asked() -> dict[str, Any]:
    """What `read_real` is to read."""
    return {
        "classes": sorted({name for group in groups() for name in group.names}),
        "functions": contract()["functions"]["real"].split(),
        "modules": {path: names.split() for path, names in contract()["modules"].items()},
    }


@cache
def real() -> dict[str, Any]:
    """What the real package said when ``signatures.json`` was written."""
    found: dict[str, Any] = json.loads(SIGNATURES.read_text())
    return found


def differences() -> dict[str, str]:
    """``Class.name`` or ``Class.name(parameter)`` -> reason, reviewed."""
    return {one["name"]: one["reason"] for one in contract().get("difference", [])}


def ours(path: str) -> Any:
    """minipipe's thing for a full name of ClearML, as scripts find it under the alias.

    Raises:
        LookupError: there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(clearml.module(module), name)
    except (ImportError, AttributeError):
        found = None
    if found is None or (clearml.is_refused(found) and name not in names.REFUSED):  # the alias stands in for what is to come
        raise LookupError(f"no {path}")
    return found


def wrong_members(group: Group) -> Iterator[tuple[str, str]]:
    """(name, what is wrong) of each name in a group that is not as the contract says."""
    for path in group.names:
        short = path.rpartition(".")[2]
        try:
            owner = ours(path)
        except LookupError as error:
            yield short, str(error)
            continue
        theirs = real()["classes"][path]
        for name in group.offered:
            if name in theirs and (wrong := _wrong_member(owner, name, theirs[name], short)):
                yield f"{short}.{name}", wrong
        outside = [name for name in theirs if name not in (*group.offered, *group.refused, *_all_names(path))]
        for name in outside:
            if hasattr(owner, name) and name != "__init__" and not group.refused_others:
                wrong = _wrong_member(owner, name, theirs[name], short)
                if wrong:
                    yield f"{short}.{name}", wrong


@cache
def _all_names(path: str) -> frozenset[str]:
    return frozenset(name for group in groups() if path in group.names for name in (*group.offered, *group.refused))


def _wrong_member(owner: type, name: str, theirs: dict[str, Any], short: str) -> str:
    try:
        mine = read_real.member(owner, name)
    except AttributeError:
        return "missing"
    if theirs["kind"] in ("property", "value"):
        return "" if mine["kind"] in ("property", "value") else f"a {mine['kind']}, ClearML's is a {theirs['kind']}"
    if mine["kind"] != theirs["kind"]:
        return f"a {mine['kind']}, ClearML's is a {theirs['kind']}"
    return wrong_parameters(mine.get("parameters", []), theirs.get("parameters", []), f"{short}.{name}")


def wrong_parameters(mine: list[Any], theirs: list[Any], name: str) -> str:
    """How parameters differ: the same names, order, kinds and defaults, then keyword-only ones of minipipe; "" if they do not."""
    known = {parameter[0] for parameter in theirs}
    own = [parameter for parameter in mine if parameter[0] not in known]
    excused = {reason for reason in differences() if reason.startswith(f"{name}(")}
    shared = [parameter for parameter in mine if parameter[0] in known]
    for ours_, theirs_ in zip(shared, theirs, strict=False):
        if ours_ != theirs_ and f"{name}({theirs_[0]})" not in excused:
            return f"{_shown(ours_)}, ClearML's is {_shown(theirs_)}"
    if len(shared) != len(theirs):
        return f"{len(shared)} of ClearML's {len(theirs)} parameters: no {', '.join(sorted(known - {one[0] for one in shared}))}"
    bad = [one[0] for one in own if one[1] != "KEYWORD_ONLY"]
    if bad:
        return f"minipipe's own {', '.join(bad)}: not keyword-only"
    last = [one[0] for one in mine if one[1] != "VAR_KEYWORD"]
    if own and last[-len(own) :] != [one[0] for one in own]:
        return f"minipipe's own {', '.join(one[0] for one in own)}: not last"
    return ""


def _shown(parameter: list[Any]) -> str:
    name, kind, default = parameter
    return f"{name}{'' if default is None else f'={default[0]!r}'} ({kind.lower().replace('_', ' ')})"


def is_excused(name: str) -> bool:
    """True if a name, or its class, stands among the reviewed differences."""
    owner = name.partition(".")[0]
    return bool({name, owner} & differences().keys())


def wrong_functions() -> Iterator[tuple[str, str]]:
    """(name, what is wrong) of each function outside classes."""
    for path, theirs in real()["functions"].items():
        name = path.rpartition(".")[2]
        try:
            wrong = wrong_parameters(read_real.parameters(ours(path)), theirs, name)
        except LookupError as error:
            wrong = str(error)
        if wrong:
            yield name, wrong


def missing_names(module: str) -> Iterator[tuple[str, str]]:
    """(name, what is wrong) of each name that a module should have and has not."""
    for name in contract()["modules"][module].split():
        try:
            ours(f"{module}.{name}")
        except LookupError as error:
            yield name, str(error)


def write(found: dict[str, Any]) -> str:
    """The text of ``signatures.json``: one line per name, so that a change can be read."""
    lines = []
    for part in ("classes", "functions", "modules"):
        entries = []
        for path, facts in found[part].items():
            if part == "classes":
                members = ",\n".join(f"   {json.dumps(name)}: {json.dumps(one)}" for name, one in facts.items())
                entries.append(f"  {json.dumps(path)}: {{\n{members}\n  }}")
            else:
                entries.append(f"  {json.dumps(path)}: {json.dumps(facts)}")
        lines.append(f" {json.dumps(part)}: {{\n" + ",\n".join(entries) + "\n }")
    return "{\n" + f' "version": {json.dumps(found["version"])},\n' + ",\n".join(lines) + "\n}\n"


def unknown_names() -> list[str]:
    """Public names on minipipe's classes that ClearML has not and ``contract.toml`` does not give a reason for."""
    found = set()
    for path, theirs in real()["classes"].items():
        try:
            owner = ours(path)
        except LookupError:
            continue
        short = path.rpartition(".")[2]
        found |= {f"{short}.{name}" for name in read_real.public(owner) if name not in theirs and name != "__init__"}
    return sorted(found - contract()["own"].keys())
