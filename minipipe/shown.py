"""How facts are worded wherever they are shown (terminal, report page, notebook): text made safe, times, sizes, status signs."""

from __future__ import annotations

import contextlib
import datetime
import math
import sys
import time
import warnings

from minipipe import states
from minipipe.escaping import escape as escape
from minipipe.escaping import escape_lines as escape_lines


def tell(text: object) -> None:
    """One line on stderr; what in it comes from outside cannot steer the terminal."""
    _say(escape(text))


def tell_lines(text: object) -> None:
    """The same for text of several lines."""
    _say(escape_lines(text))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal was closed or the pipe is: no reason to end what goes on
        print(text, file=sys.stderr, flush=True)


def warn(text: str, stacklevel: int) -> None:
    """A UserWarning whose text cannot steer the terminal; `stacklevel` counts from the caller, as in `warnings.warn`."""
    warnings.warn(escape(text), UserWarning, stacklevel=stacklevel + 1)


# -- times and sizes ----------------------------------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """``0.2s``, ``41s``, ``6m``, ``1h 5m``, ``2d 3h``; empty for None. A clock that was set back counts as 0."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit}{name}" + (f" {rest}{part_name}" if rest else "")
    return f"{whole}s"


def ago(seconds: float | None) -> str:
    """``41s ago``, ``6m ago``, ``3d ago``; empty for None."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= unit:
            return f"{whole // unit}{name} ago"
    return f"{whole}s ago"


def size(number: int | None) -> str:
    """``412 B``, ``6.1 kB``, ``1.9 GB`` (powers of 1000); empty for None."""
    if number is None:
        return ""
    if number < 1000:
        return f"{number} B"
    value = float(number)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95 or unit == "TB":
            break
    return f"{value:.1f} {unit}"


def clock(at: float | None, utc: bool = False) -> str:
    """``2026-11-20 14:02:11``, local time unless `utc`; empty for None."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at) if utc else time.localtime(at))


def iso(at: float | None) -> str | None:
    """ISO 8601 in UTC with ``Z``, for JSON."""
    if at is None:
        return None
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


# -- statuses -----------------------------------------------------------------------------------------------------------

_SIGNS = {
    states.COMPLETED: "✔",
    states.PUBLISHED: "✔",
    states.IN_PROGRESS: "▶",
    states.FAILED: "✘",
    states.STOPPED: "✘",
    states.SKIPPED: "–",
}


def sign_of(status: str) -> str:
    """The sign that stands beside the word of a status."""
    return _SIGNS.get(status, "○")


# -- numbers ------------------------------------------------------------------------------------------------------------


def measured(value: float) -> str:
    """A measured value in at most six digits: ``0.9333``, ``1.91``, ``1e-05``, ``nan``."""
    whole = math.isfinite(value) and value == int(value)
    return f"{value:.6g}" if whole else f"{value:.4g}"
