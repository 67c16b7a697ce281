"""A pipeline that failed although its script goes on: the process ends with exit code 1 then (ClearML's would end with 0).

Python offers no way to change the exit code of a script that comes to its end, so the last exit handler of all ends the process
itself. It was registered first: what others registered since has run by then.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from minipipe.sdk import parting

_owed = 0  # process id that owes an exit code of 1, 0 for none
_hooked = False
_can_tell = False
_said_nothing = False  # the last sys.exit was given no code


def owe() -> None:
    """Have this process exit with 1, unless it exits with a code of its own."""
    global _owed, _hooked, _can_tell
    _owed = os.getpid()
    if _hooked:
        return
    _hooked = True
    _can_tell = parting.can_tell()
    leave = sys.exit

    def leave_with(code: Any = None) -> None:
        global _said_nothing
        _said_nothing = code is None  # sys.exit(main()) of a main that returns nothing
        if code is not None:
            forgive()
        leave(code)

    sys.exit = leave_with  # type: ignore[assignment]


def forgive() -> None:
    """The process exits with a code of its own."""
    global _owed
    _owed = 0


def _settle() -> None:
    if _owed != os.getpid() or (_can_tell and parting.left_early() and not _said_nothing):
        return  # somebody raised SystemExit
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(1)


atexit.register(_settle)
