"""What somebody may have meant by a name that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelt most alike, or that `name` abbreviates, or that abbreviates it; None if there is none.

    >>> nearest("stage_dat", ["stage_data", "train"])
    'stage_data'
    >>> nearest("learning_rate", ["n", "lr"])
    'lr'
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return close[0]
    for one in names:
        if min(len(one), len(name)) > 1 and (_initials(name) == one.lower() or _initials(one) == name.lower()):
            return one
    return next((one for one in names if min(len(one), len(name)) > 2 and (one.startswith(name) or name.startswith(one))), None)


def _initials(name: str) -> str:
    return "".join(part[0] for part in re.findall(r"[A-Za-z][a-z0-9]*", name)).lower()
