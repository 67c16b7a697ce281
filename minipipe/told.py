"""What a script is told from outside (``minipipe run --set``) before anybody knows which parameters it has.

The values wait here until the code says what it has: a pipeline its arguments, a task what it connects. A name that is still unused
when the script has ended is an error, with the nearest of the names that it could have been.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from minipipe import errors
from minipipe.nearest import nearest


@dataclass(slots=True)
class _Told:
    """What one script is told.

    Attributes:
        wanted: name or ``Section/name`` -> text, or ``{"json": value}``.
        used: name as it was given -> section and name of the parameter that took it.
        seen: what the code has said that it has.
    """

    wanted: Mapping[str, Any] = field(default_factory=dict)
    used: dict[str, tuple[str, str]] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)


_told = _Told()


@contextlib.contextmanager
def telling(wanted: Mapping[str, Any]) -> Iterator[None]:
    """Meanwhile a script of this process is told this, and nothing else."""
    global _told
    before, _told = _told, _Told(wanted)
    try:
        yield
    finally:
        _told = before


def anything() -> bool:
    """True if something was told, used or not."""
    return bool(_told.wanted)


def unused() -> dict[str, Any]:
    """What nothing has taken yet."""
    return {name: given for name, given in _told.wanted.items() if name not in _told.used}


def use(names: Iterable[str]) -> None:
    """These have been taken."""
    _told.used.update({name: ("", name) for name in names})


def given(section: str, name: str) -> Any:
    """What is told to a parameter that the code connects: a text, or ``{"json": value}``; None for nothing. It counts as used then.

    Raises:
        BadParameter: it is told twice, with its section and without; or another section has taken the bare name.
    """
    full = f"{section}/{name}"
    _told.seen[full] = None
    spoken = [one for one in (full, name) if one in _told.wanted]
    if len(spoken) > 1:
        raise errors.BadParameter(
            f"parameter {name!r} has two values", f"{name} and {full} are the same", "give one of them", name=name
        )
    if not spoken:
        return None
    other = _told.used.setdefault(spoken[0], (section, name))
    if other != (section, name):
        places = f"{'/'.join(other)}, {full}"
        raise errors.BadParameter(f"there are several parameters {name!r}", f"they are {places}", "name the section", name=name)
    return _told.wanted[spoken[0]]


def complaint(script: str) -> errors.BadParameter | None:
    """The error for what a script, which has ended, has not taken; None if there is nothing left."""
    left = list(unused())
    if not left:
        return None
    if not _told.seen:
        names = ", ".join(left)
        cause = f"{script} started none, and no task of it connected a parameter"
        return errors.BadParameter(f"no pipeline took --set {names}", cause, "leave --set out", name=left[0])
    known = [one.removeprefix("General/").removeprefix("Args/") for one in _told.seen]
    near = nearest(left[0], known) or nearest(left[0].rpartition("/")[2], known)
    return errors.BadParameter(
        f"{script} has no parameter {left[0]!r}",
        f"it has connected {', '.join(known)}",
        f"did you mean {near}?" if near else "arguments of its command line stand after --",
        name=left[0],
    )
