"""The one rule for names that people give: of tasks, steps, projects, queues, artifacts and tags.

A name is any text that can be stored and typed again: it has a character that is no space, no NUL, and no half of a surrogate
pair. Slashes, spaces, emoji and whatever else are part of a name; no name ever becomes a path or a command, and all are shown
with control characters made visible.
"""

from __future__ import annotations

import re
import sqlite3

from minipipe import errors

_BAD = re.compile("[\x00\ud800-\udfff]")


def checked(what: str, name: str) -> str:
    """The name as it is.

    Args:
        what: of what it is the name, for the message: ``queue``, ``tag``.
        name: the name.

    Raises:
        UsageError: it is none; nothing was changed.
    """
    if not isinstance(name, str):
        raise errors.UsageError(f"the {what} name {_short(repr(name))} cannot be used", f"it is no text: {type(name).__name__}")
    if not name.strip():
        raise errors.UsageError(f"the {what} name {name!r} cannot be used", "it is empty", "give it letters or digits", name=name)
    bad = _BAD.search(name)
    if bad is not None:
        raise errors.UsageError(
            f"the {what} name {_short(name)} cannot be used", _why(bad[0]), "leave that character out", name=name
        )
    return name


def again(task: sqlite3.Row) -> str:
    """The verb that goes on with a task that ended badly: a run is resumed, a script's own task runs once more."""
    return "resume" if task["run_name"] else "rerun"


def storable(what: str, text: str) -> None:
    """Refuse a text with half of a surrogate pair.

    Args:
        what: what the text is of, for the message: ``parameter Args/word``.
        text: the text.

    Raises:
        UsageError: it cannot be stored; nothing was changed.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise unstorable(error, what) from None


def unstorable(error: UnicodeEncodeError, what: str = "") -> errors.UsageError:
    """What to say of a text that is not UTF-8; made of the error that SQLite's binding raises."""
    return errors.UsageError(
        f"{what or 'the text'}{':' * bool(what)} {_short(str(error.object))} cannot be stored",
        _why(str(error.object)[error.start]),
        'leave it out, or write it as text: value.encode("utf-8", "backslashreplace").decode()',
    )


def refused(error: Exception) -> errors.UsageError | None:
    """What to say of a value of a type that no column takes; None if the error is about something else."""
    if isinstance(error, UnicodeEncodeError):
        return unstorable(error)
    kind = re.match(r"Error binding parameter .*type '(.*)'", str(error))
    if kind is not None:
        return errors.UsageError(f"a {kind[1]} stands where a text or a number belongs")
    if isinstance(error, OverflowError) and str(error).endswith("SQLite INTEGER"):
        return errors.UsageError("a whole number is too large", f"the largest is {2**63 - 1}")
    if str(error).startswith("cannot store BLOB value in TEXT column"):
        return errors.UsageError("bytes stand where a text belongs", str(error).rpartition(" ")[2])
    return None


def _why(character: str) -> str:
    return (
        "it has a NUL character"
        if character == "\0"
        else f"it has half of a surrogate pair, {character!r}, which is no character"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
